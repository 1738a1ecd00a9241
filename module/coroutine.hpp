// module/coroutine.hpp: what our objects that pass for coroutines share: their interface, and how they end.
//
// Such a T is a coroutine<T>, with a `coroutine_phase at`. What its step() does, how it is closed and what is
// thrown into it, are its own.
#pragma once

#include <cstdint>

#include "py.hpp"

namespace zl {

enum class coroutine_phase : std::uint8_t { created, running, waiting, delegated, finished };

/// What throw() is called with, as one exception. Throws.
py::ref exception_of(const py::arguments& args);

/// What send() and throw() give of what am_send has given: the same, or StopIteration at the end. Throws.
py::ref as_sent(PySendResult came, PyObject* result);

/// Whether one that has come so far can be sent `value`. False: the error is set.
bool can_be_sent_to(coroutine_phase at, PyObject* value) noexcept;

/// Throws where it runs.
void check_idle(coroutine_phase at);

/// That `owner.name` was dropped as it was made. Keeps the error indicator.
void warn_of_never_awaited(const char* owner, const char* name) noexcept;

/// What tp_iternext gives of what am_send has given. CPython from 3.12 on awaits by that, so this throws
/// nothing: an exception of C++ costs as much as an echo.
PyObject* next_of(PySendResult came, PyObject* result) noexcept;

/// Has T::step(), as PyIter_Send(), and T::owner() and T::name(): of which function it is the call.
template <class T>
struct coroutine : py::object {
    py::ref send(PyObject* value) {
        PyObject* result;
        const PySendResult came = itself().step(value, &result);
        return as_sent(came, result);
    }
    py::ref get_name() { return py::text(itself().name()); }
    py::ref get_qualified_name() {
        return py::ref::steal(PyUnicode_FromFormat("%s.%s", itself().owner(), itself().name()));
    }
    py::ref get_running() { return py::boolean(itself().at == coroutine_phase::running); }
    py::ref get_suspended() {
        return py::boolean(itself().at == coroutine_phase::waiting ||
                           itself().at == coroutine_phase::delegated);
    }
    py::ref repr() {
        return py::ref::steal(PyUnicode_FromFormat("<coroutine object %s.%s at %p>", itself().owner(),
                                                   itself().name(), self()));
    }

    // The slots of the type.

    static PyObject* repr_slot(PyObject* object) noexcept {
        return py::detail::guarded([&] { return of(object).repr(); });
    }
    static PySendResult send_slot(PyObject* object, PyObject* value, PyObject** result) noexcept {
        return of(object).step(value, result);
    }
    static PyObject* next_slot(PyObject* object) noexcept {
        PyObject* result;
        const PySendResult came = of(object).step(Py_None, &result);
        return next_of(came, result);
    }

private:
    static T& of(PyObject* object) noexcept { return *reinterpret_cast<T*>(object); }
    T& itself() noexcept { return static_cast<T&>(*this); }
};

namespace detail {

py::ref make_coroutine_type(PyObject* module, PyType_Spec& spec);

}  // namespace detail

/// T's type, which Python cannot make instances of, and whose objects create_task() takes for coroutines
/// though they are no types.CoroutineType. `rows` are properties of its own. Throws.
template <class T, traverseproc Traverse, inquiry Clear, void (*Destroy)(PyObject*), class... Rows>
py::ref make_coroutine_type(PyObject* module, const char* name, const char* doc, const char* throw_doc,
                            Rows... rows) {
    using base = coroutine<T>;
    static PyMethodDef methods[] = {
        py::method<&base::send>("send", "send($self, value)\n--\n\nAs a coroutine's."),
        py::method<&T::throw_into>("throw", throw_doc),
        py::method<&T::close>("close", "close($self)\n--\n\nAs a coroutine's."),
        {},
    };
    static PyGetSetDef properties[] = {
        py::property<&base::get_name>("__name__", "As a coroutine's."),
        py::property<&base::get_qualified_name>("__qualname__", "As a coroutine's."),
        py::property<&base::get_running>("cr_running", "As a coroutine's."),
        py::property<&base::get_suspended>("cr_suspended", "As a coroutine's."),
        rows...,
        {},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>(doc)},
        {Py_tp_traverse, reinterpret_cast<void*>(Traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(Clear)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&py::deallocated<Destroy>)},
        {Py_tp_repr, reinterpret_cast<void*>(&base::repr_slot)},
        {Py_am_await, reinterpret_cast<void*>(&PyObject_SelfIter)},
        {Py_am_send, reinterpret_cast<void*>(&base::send_slot)},
        {Py_tp_iter, reinterpret_cast<void*>(&PyObject_SelfIter)},
        {Py_tp_iternext, reinterpret_cast<void*>(&base::next_slot)},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, nullptr},
    };
    PyType_Spec spec = {name, sizeof(T), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    return detail::make_coroutine_type(module, spec);
}

}  // namespace zl
