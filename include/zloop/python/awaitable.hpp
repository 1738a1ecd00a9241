// zloop/python/awaitable.hpp: the Python type of a C++ task: a coroutine, to whoever awaits it.
//
//     class task(collections.abc.Coroutine):
//         def send(self, value): ...
//         def throw(self, exc): ...
//         def close(self): ...
//
// Made on demand, once an interpreter and extension. The work is in driver.hpp; this is its face.
//
// Nothing in it is for users.
#pragma once

#include <zloop/python/driver.hpp>

#include <new>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

namespace type_of_awaitables {

/// As a generator ends: by StopIteration(value), whatever the value is.
inline PyObject* ended(PySendResult outcome, PyObject* value) noexcept {
    if (outcome != PYGEN_RETURN) {
        return value;
    }
    const object given = object::steal(value);
    const object stop = object::steal(call(PyExc_StopIteration, given.get()));
    if (stop) {
        PyErr_SetObject(PyExc_StopIteration, stop.get());
    }
    return nullptr;
}

inline PySendResult send(PyObject* self, PyObject* value, PyObject** result) noexcept {
    return driver_of(self).send(value, result);
}

inline PyObject* send_value(PyObject* self, PyObject* value) noexcept {
    PyObject* result = nullptr;
    const PySendResult outcome = driver_of(self).send(value, &result);
    return ended(outcome, result);
}

inline PyObject* next(PyObject* self) noexcept { return send_value(self, Py_None); }

inline PyObject* await(PyObject* self) noexcept {
    if (driver_of(self).is_suspended() || driver_of(self).is_running()) {
        PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        return nullptr;
    }
    return Py_NewRef(self);
}

/// What throw() is called with, as one exception; none: the error is set.
inline object exception_of(PyObject* const* values, Py_ssize_t count) noexcept {
    if (count < 1 || count > 3) {
        PyErr_Format(PyExc_TypeError, "throw expected 1 to 3 arguments, got %zd", count);
        return object();
    }
    PyObject* const type = values[0];
    PyObject* const value = count > 1 ? values[1] : Py_None;
    PyObject* const traceback = count > 2 ? values[2] : Py_None;
    if (traceback != Py_None && !PyTraceBack_Check(traceback)) {
        PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback object");
        return object();
    }
    object exception;
    if (PyExceptionClass_Check(type)) {
        if (PyObject_TypeCheck(value, reinterpret_cast<PyTypeObject*>(type))) {
            exception = object::borrow(value);
        } else if (value == Py_None) {
            exception = object::steal(call(type));
        } else {
            exception =
                object::steal(PyTuple_Check(value) ? PyObject_Call(type, value, nullptr) : call(type, value));
        }
        if (!exception) {
            return object();
        }
    } else if (PyExceptionInstance_Check(type)) {
        if (value != Py_None) {
            PyErr_SetString(PyExc_TypeError, "instance exception may not have a separate value");
            return object();
        }
        exception = object::borrow(type);
    }
    if (!exception || !PyExceptionInstance_Check(exception.get())) {
        PyErr_Format(PyExc_TypeError,
                     "exceptions must be classes or instances deriving from BaseException, not %s",
                     Py_TYPE(type)->tp_name);
        return object();
    }
    if (traceback != Py_None) {
        PyException_SetTraceback(exception.get(), traceback);
    }
    return exception;
}

inline PyObject* throw_in(PyObject* self, PyObject* const* values, Py_ssize_t count) noexcept {
    object exception = exception_of(values, count);
    if (!exception) {
        return nullptr;
    }
    PyObject* result = nullptr;
    const PySendResult outcome = driver_of(self).throw_in(std::move(exception), &result);
    return ended(outcome, result);
}

inline PyObject* close(PyObject* self, PyObject*) noexcept {
    if (!driver_of(self).close()) {
        return nullptr;
    }
    Py_RETURN_NONE;
}

inline PyObject* get_name(PyObject* self, void*) noexcept { return Py_NewRef(driver_of(self).name().get()); }
inline PyObject* get_running(PyObject* self, void*) noexcept {
    return PyBool_FromLong(driver_of(self).is_running());
}
inline PyObject* get_suspended(PyObject* self, void*) noexcept {
    return PyBool_FromLong(driver_of(self).is_suspended());
}
inline PyObject* get_await(PyObject* self, void*) noexcept {
    PyObject* const found = driver_of(self).awaits();
    return Py_NewRef(found != nullptr ? found : Py_None);
}
inline PyObject* get_none(PyObject*, void*) noexcept { Py_RETURN_NONE; }
/// A frame that runs nothing, and says where the task waits: for asyncio's and other people's listings.
inline PyObject* get_frame(PyObject* self, void*) noexcept {
    const driver& of = driver_of(self);
    if (of.is_finished()) {
        Py_RETURN_NONE;
    }
    return reinterpret_cast<PyObject*>(made_frame(of.where(), of.name().get()));
}

inline PyObject* repr(PyObject* self) noexcept {
    return PyUnicode_FromFormat("<C++ coroutine object %U at %p>", driver_of(self).name().get(), self);
}

inline int traverse(PyObject* self, visitproc visit, void* arg) noexcept {
    Py_VISIT(Py_TYPE(self));
    return driver_of(self).traverse(visit, arg);
}
inline int clear(PyObject* self) noexcept {
    driver_of(self).clear();
    return 0;
}
inline void finalize(PyObject* self) noexcept { driver_of(self).finalize(); }

inline void destroy(PyObject* self) noexcept {
    if (!driver_of(self).is_finished()) {
        if (PyObject_GC_IsTracked(self) == 0) {
            PyObject_GC_Track(self);  // the finalizer may let the collector run
        }
        if (PyObject_CallFinalizerFromDealloc(self) != 0) {
            return;  // it goes on alone, or somebody has it again
        }
        PyObject_GC_UnTrack(self);
    }
    PyTypeObject* const type = Py_TYPE(self);
    driver_of(self).~driver();
    PyObject_GC_Del(self);
    Py_DECREF(type);
}
inline void deallocate(PyObject* self) noexcept {
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, &deallocate) destroy(self);
    Py_TRASHCAN_END
}

inline object make() {
    static PyMethodDef methods[] = {
        {"send", &send_value, METH_O, "send($self, value, /)\n--\n\nAs a coroutine's."},
        {"throw", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&throw_in)), METH_FASTCALL,
         "As a coroutine's. CancelledError cancels the C++ task and waits for its end; any other exception "
         "cancels it, too, and leaves "
         "it to end alone."},
        {"close", &close, METH_NOARGS,
         "close($self, /)\n--\n\nCancel the C++ task. Where it needs a while to end, it does so alone."},
        {},
    };
    static PyGetSetDef properties[] = {
        {"__name__", &get_name, nullptr, "As a coroutine's.", nullptr},
        {"__qualname__", &get_name, nullptr, "As a coroutine's.", nullptr},
        {"cr_await", &get_await, nullptr, "What it waits for: an awaitable, or the future of a wait in C++.",
         nullptr},
        {"cr_code", &get_none, nullptr, "None: it has no bytecode.", nullptr},
        {"cr_frame", &get_frame, nullptr, "A frame that says where the task waits.", nullptr},
        {"cr_origin", &get_none, nullptr, "As a coroutine's.", nullptr},
        {"cr_running", &get_running, nullptr, "As a coroutine's.", nullptr},
        {"cr_suspended", &get_suspended, nullptr, "As a coroutine's.", nullptr},
        {},
    };
    static PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("A C++ task: a coroutine.")},
        {Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(&clear)},
        {Py_tp_finalize, reinterpret_cast<void*>(&finalize)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&deallocate)},
        {Py_tp_repr, reinterpret_cast<void*>(&repr)},
        {Py_am_await, reinterpret_cast<void*>(&await)},
        {Py_am_send, reinterpret_cast<void*>(&send)},
        {Py_tp_iter, reinterpret_cast<void*>(&PyObject_SelfIter)},
        {Py_tp_iternext, reinterpret_cast<void*>(&next)},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, nullptr},
    };
    static PyType_Spec spec = {"zloop.task", sizeof(awaitable_object), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
                                   Py_TPFLAGS_IMMUTABLETYPE,
                               slots};
    object type = checked(PyType_FromSpec(&spec));
    // So that create_task() takes it: it is no types.CoroutineType.
    const object abc = checked(PyImport_ImportModule("collections.abc"));
    const object coroutine = checked(PyObject_GetAttrString(abc.get(), "Coroutine"));
    checked(PyObject_CallMethod(coroutine.get(), "register", "O", type.get()));
    return type;
}

}  // namespace type_of_awaitables

/// A task of this type, and how its result becomes an object.
template <class T, class Convert>
struct work_of {
    using promise_type = zloop::detail::task_promise_of<T>;

    static promise_type& promise_in(void* frame) noexcept {
        return std::coroutine_handle<promise_type>::from_address(frame).promise();
    }

    static void begin(void* frame, const context& around, zloop::detail::completion& notified) noexcept {
        promise_in(frame).surround(around);
        promise_in(frame).when_done(notified);
    }

    static PyObject* take(void* frame, PyObject* cancelled_error,
                          zloop::detail::failure_trail& passed) noexcept {
        try {
            if constexpr (std::is_void_v<T>) {
                promise_in(frame).take();
                return Py_NewRef(Py_None);
            } else {
                return given(promise_in(frame).take(), cancelled_error);
            }
        } catch (...) {
            passed = zloop::detail::failure_trail::take(std::current_exception());
            if constexpr (requires { Convert::set_error(std::current_exception(), cancelled_error); }) {
                Convert::set_error(std::current_exception(), cancelled_error);
            } else {
                set_error(std::current_exception(), cancelled_error);
            }
            return nullptr;
        }
    }

    static const zloop::detail::task_promise_base& promise(void* frame) noexcept { return promise_in(frame); }

    static constexpr kind_of_work kind{&begin, &take, &promise};

private:
    template <class U>
    static PyObject* given(result<U> outcome, PyObject* cancelled_error) {
        if (!outcome) {
            set_error_code(outcome.error(), outcome.error().message().c_str(), cancelled_error);
            return nullptr;
        }
        if constexpr (std::is_void_v<U>) {
            return Py_NewRef(Py_None);
        } else {
            return Convert{}(std::move(outcome).value());
        }
    }
    template <class U>
        requires(!requires(U outcome) { outcome.error(); })
    static PyObject* given(U&& value, PyObject*) {
        return Convert{}(std::forward<U>(value));
    }
};

/// An awaitable of `frame`, which it owns from here on, also where this throws.
/// `keeps` lives as long as the task.
inline object make_awaitable(const kind_of_work& kind, std::coroutine_handle<> frame, object name,
                             object keeps = object()) {
    struct owner {
        std::coroutine_handle<> frame;
        ~owner() {
            if (frame) {
                frame.destroy();
            }
        }
    } owned{frame};
    interpreter& home = interpreter::here();
    if (!home.awaitable_type) [[unlikely]] {
        home.awaitable_type = type_of_awaitables::make();
    }
    if (!name) {
        name = home.str_task;
    }
    auto* const type = reinterpret_cast<PyTypeObject*>(home.awaitable_type.get());
    auto* const made =
        PyObject_GC_New(object_head, type);  // tracked once it waits: until then it shows nothing
    if (made == nullptr) {
        throw_error_set(home.cancelled_error.get());
    }
    ::new (static_cast<driver*>(static_cast<awaitable_object*>(made)))
        driver(home, kind, std::exchange(owned.frame, {}), std::move(name), std::move(keeps));
    return object::steal(reinterpret_cast<PyObject*>(made));
}

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python
