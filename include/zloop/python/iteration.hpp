// zloop/python/iteration.hpp: `async for` over what C++ has: a channel, a stream, whatever gives one after
// another.
//
// The iterator owns the callable that makes the tasks, and each awaitable of __anext__() the iterator.
#pragma once

#include <zloop/python/awaitable.hpp>

#include <memory>
#include <optional>

#include <zloop/channel.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

/// Makes the awaitables of an iterator.
class iteration {
public:
    iteration() = default;
    iteration(const iteration&) = delete;
    iteration& operator=(const iteration&) = delete;
    virtual ~iteration() = default;
    virtual object next(object iterator) = 0;
};

template <class T>
struct optional_of;
template <class T>
struct optional_of<task<std::optional<T>>> {
    using type = T;
};

/// As `Convert`, and none is the end.
template <class Convert>
struct or_end {
    template <class T>
    PyObject* operator()(std::optional<T>&& value) const {
        if (!value) {
            PyErr_SetNone(PyExc_StopAsyncIteration);
            return nullptr;
        }
        return Convert{}(std::move(*value));
    }
    template <class C = Convert>
    static auto set_error(const std::exception_ptr& failure, PyObject* cancelled_error) noexcept
        -> decltype(C::set_error(failure, cancelled_error)) {
        C::set_error(failure, cancelled_error);
    }
};

template <class Next, class Convert>
class iteration_of final : public iteration {
public:
    iteration_of(Next next, object name) : next_(std::move(next)), name_(std::move(name)) {}

    object next(object iterator) override {
        using made = std::invoke_result_t<Next&>;
        using value = std::optional<typename optional_of<made>::type>;
        made work = next_();
        work.require();
        return make_awaitable(work_of<value, or_end<Convert>>::kind, work.release(), name_,
                              std::move(iterator));
    }

private:
    Next next_;
    object name_;
};

struct iteration_object : object_head {
    iteration* source;
};

inline object make_type_of_iterations() {
    static PyMethodDef methods[] = {{}};
    static PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("An asynchronous iterator over what C++ gives.")},
        {Py_tp_dealloc, reinterpret_cast<void*>(+[](PyObject* self) noexcept {
             PyTypeObject* const type = Py_TYPE(self);
             delete static_cast<iteration_object*>(reinterpret_cast<object_head*>(self))->source;
             type->tp_free(self);
             Py_DECREF(type);
         })},
        {Py_am_aiter, reinterpret_cast<void*>(&PyObject_SelfIter)},
        {Py_am_anext, reinterpret_cast<void*>(+[](PyObject* self) noexcept -> PyObject* {
             try {
                 return static_cast<iteration_object*>(reinterpret_cast<object_head*>(self))
                     ->source->next(object::borrow(self))
                     .release();
             } catch (...) {
                 set_error(std::current_exception(), PyExc_GeneratorExit);
                 return nullptr;
             }
         })},
        {Py_tp_methods, methods},
        {0, nullptr},
    };
    static PyType_Spec spec = {
        "zloop.iterator", sizeof(iteration_object), 0,
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};
    return checked(PyType_FromSpec(&spec));
}

}  // namespace detail
#pragma GCC visibility pop

/// Makes an asynchronous iterator: `next()` gives a task<std::optional<T>>, whose none is the end. `convert`
/// makes a T an object, as in awaitable().
///
/// Fails:   throws `raised` where Python has no memory. What a task throws, `async for` raises.
/// Owns:    `next`, which lives as long as the iterator and its awaitables: it may be a closure that is a
///          coroutine.
/// Overlap: as `next` allows it.
/// Thread:  that of its loop.
/// Example: examples/extension/first/first.cpp
template <class Next, class Convert>
object async_iterator(Next next, [[maybe_unused]] Convert convert, object name = object()) {
    detail::interpreter& home = detail::interpreter::here();
    if (!home.iteration_type) {
        home.iteration_type = detail::make_type_of_iterations();
    }
    if (!name) {
        name = detail::checked(PyUnicode_InternFromString("__anext__"));
    }
    auto source = std::make_unique<detail::iteration_of<Next, Convert>>(std::move(next), std::move(name));
    auto* const type = reinterpret_cast<PyTypeObject*>(home.iteration_type.get());
    object made = detail::checked(type->tp_alloc(type, 0));
    static_cast<detail::iteration_object*>(reinterpret_cast<detail::object_head*>(made.get()))->source =
        source.release();
    return made;
}

/// The same over a channel: to its end, which is close().
/// Owns: a share of the channel.
template <class T, class Convert>
object async_iterator(std::shared_ptr<channel<T>> from, Convert convert) {
    return async_iterator(
        [from = std::move(from)]() -> task<std::optional<T>> {
            auto received = co_await from->receive();
            if (received.error() == errc::closed) {
                co_return std::nullopt;
            }
            co_return std::move(received).value();
        },
        convert);
}

}  // namespace zloop::python
