// The C++ side: what Cython calls gives objects, so it needs to know of no task.
#pragma once

#include <string>

#include <zloop/python.hpp>
#include <zloop/zloop.hpp>

namespace awaited {

inline zloop::task<std::string> greeting(std::string name) {
    co_await zloop::next_turn();
    co_return "hello " + name;
}
inline zloop::task<Py_ssize_t> length_of(zloop::python::object awaitable) {
    const auto given = co_await zloop::python::await(std::move(awaitable));
    co_return PyObject_Length(given.get());
}

/// A new reference; null, and the error is set.
template <class T, class Convert>
PyObject* given(zloop::task<T> work, Convert convert) noexcept {
    try {
        return zloop::python::awaitable(std::move(work), convert).release();
    } catch (const zloop::python::raised&) {
        return PyErr_NoMemory();
    }
}

inline PyObject* greet(std::string name) noexcept {
    return given(greeting(std::move(name)), [](const std::string& words) {
        return PyUnicode_FromStringAndSize(words.data(), static_cast<Py_ssize_t>(words.size()));
    });
}
inline PyObject* length(PyObject* awaitable) noexcept {
    return given(length_of(zloop::python::object::borrow(awaitable)),
                 [](Py_ssize_t length) { return PyLong_FromSsize_t(length); });
}

}  // namespace awaited
