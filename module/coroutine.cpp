// module/coroutine.cpp: see coroutine.hpp.

#include "coroutine.hpp"

namespace zl {

py::ref detail::make_coroutine_type(PyObject* module, PyType_Spec& spec) {
    py::ref type = py::ref::steal(PyType_FromModuleAndSpec(module, &spec, nullptr));
    const py::ref coroutine = py::attribute(py::import("collections.abc").get(), "Coroutine");
    py::ref::steal(PyObject_CallMethod(coroutine.get(), "register", "O", type.get()));
    return type;
}

py::ref exception_of(const py::arguments& args) {
    if (args.count < 1 || args.count > 3 || args.keyword_count() != 0) {
        py::raise_format(PyExc_TypeError, "throw expected 1 to 3 arguments, got %zd", args.count);
    }
    PyObject* const type = args.values[0];
    PyObject* const value = args.count > 1 ? args.values[1] : Py_None;
    PyObject* const traceback = args.count > 2 ? args.values[2] : Py_None;
    if (traceback != Py_None && !PyTraceBack_Check(traceback)) {
        py::raise(PyExc_TypeError, "throw() third argument must be a traceback object");
    }
    py::ref error;
    if (PyExceptionClass_Check(type)) {
        if (PyObject_TypeCheck(value, reinterpret_cast<PyTypeObject*>(type))) {
            error = py::ref::borrow(value);
        } else if (value == Py_None) {
            error = py::call(type);
        } else if (PyTuple_Check(value)) {
            error = py::ref::steal(PyObject_Call(type, value, nullptr));
        } else {
            error = py::call(type, value);
        }
    } else if (PyExceptionInstance_Check(type)) {
        if (value != Py_None) {
            py::raise(PyExc_TypeError, "instance exception may not have a separate value");
        }
        error = py::ref::borrow(type);
    }
    if (!error || !PyExceptionInstance_Check(error.get())) {
        py::raise_format(PyExc_TypeError,
                         "exceptions must be classes or instances deriving from BaseException, not %s",
                         Py_TYPE(type)->tp_name);
    }
    if (traceback != Py_None) {
        PyException_SetTraceback(error.get(), traceback);
    }
    return error;
}

namespace {

/// Throws.
void set_stop_iteration(PyObject* value) {
    const py::ref stop = py::call(PyExc_StopIteration, value);
    PyErr_SetObject(PyExc_StopIteration, stop.get());
}

}  // namespace

py::ref as_sent(PySendResult came, PyObject* result) {
    py::ref given = py::ref::adopt(result);
    if (came == PYGEN_NEXT) {
        return given;
    }
    if (came == PYGEN_RETURN) {
        set_stop_iteration(given.get());
    }
    throw py::error_set{};
}

bool can_be_sent_to(coroutine_phase at, PyObject* value) noexcept {
    if (at == coroutine_phase::running) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return false;
    }
    if (at == coroutine_phase::finished) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return false;
    }
    if (at == coroutine_phase::created && value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine");
        return false;
    }
    return true;
}

void check_idle(coroutine_phase at) {
    if (at == coroutine_phase::running) {
        py::raise(PyExc_ValueError, "coroutine already executing");
    }
}

void warn_of_never_awaited(const char* owner, const char* name) noexcept {
    const py::error_kept kept;
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%s.%s' was never awaited", owner, name) != 0) {
        PyErr_WriteUnraisable(nullptr);
    }
}

PyObject* next_of(PySendResult came, PyObject* result) noexcept {
    const py::ref given = py::ref::adopt(result);
    if (came == PYGEN_NEXT) {
        return Py_NewRef(result);
    }
    if (came == PYGEN_RETURN && result != Py_None) {                       // no exception at all says None
        if (PyTuple_Check(result) || PyExceptionInstance_Check(result)) {  // it would be taken apart
            static_cast<void>(py::attempt([&] { set_stop_iteration(result); }));
        } else {
            PyErr_SetObject(PyExc_StopIteration, result);
        }
    }
    return nullptr;
}

}  // namespace zl
