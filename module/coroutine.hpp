// module/coroutine.hpp: what our objects that pass for coroutines share: how they are ended and how they end.
#pragma once

#include "py.hpp"

namespace zl {

/// A type whose objects create_task() takes for coroutines, which are no types.CoroutineType. Throws.
py::ref make_coroutine_type(PyObject* module, PyType_Spec& spec);

/// What throw() is called with, as one exception. Throws.
py::ref exception_of(const py::arguments& args);

/// send() ends: with StopIteration(value). Throws.
void set_stop_iteration(PyObject* value);

/// What tp_iternext gives of what am_send has given. CPython from 3.12 on awaits by that, so this throws
/// nothing: an exception of C++ costs as much as an echo.
PyObject* next_of(PySendResult came, PyObject* result) noexcept;

}  // namespace zl
