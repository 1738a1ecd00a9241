// module/as_made.cpp: see as_made.hpp.

#include "as_made.hpp"

namespace zl {

namespace {

/// `type.name`, without calling what it may be; None where there is nothing. Throws.
py::ref part_of(PyObject* type, PyObject* name) {
    py::ref found = py::ref::adopt(PyObject_GetAttr(type, name));
    if (!found) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
        return py::none();
    }
    return found;
}

bool is_of(PyObject* part, PyObject* module) {
    if (PyFunction_Check(part)) {
        return PyFunction_GET_GLOBALS(part) == PyModule_GetDict(module);
    }
    if (Py_IS_TYPE(part, &PyProperty_Type)) {
        return is_of(py::attribute(part, "fget").get(), module);
    }
    return part == Py_None || Py_IS_TYPE(part, &PyMethodDescr_Type) || Py_IS_TYPE(part, &PyWrapperDescr_Type);
}

}  // namespace

void class_as_made::watch(PyObject* type) {
    parts_ = py::ref::steal(PyList_New(0));
    type_ = py::ref::borrow(type);
    known_ = true;
}

void class_as_made::remember(PyObject* owner, PyObject* module, const char* const* names) {
    for (; *names != nullptr; ++names) {
        const py::ref name = py::ref::steal(PyUnicode_InternFromString(*names));
        known_ = is_of(keep(owner, name.get()).get(), module) && known_;
    }
}

py::ref class_as_made::keep(PyObject* owner, PyObject* name) {
    py::ref was = part_of(owner, name);
    const py::ref part = py::ref::steal(PyTuple_Pack(3, owner, name, was.get()));
    if (PyList_Append(parts_.get(), part.get()) != 0) {
        throw py::error_set{};
    }
    return was;
}

bool class_as_made::look() noexcept {
    holds_ = known_;
    unsigned first = 0;  // a look may call what changes the class
    for (Py_ssize_t index = 0; holds_ && index < PyList_GET_SIZE(parts_.get()); ++index) {
        PyObject* const part = PyList_GET_ITEM(parts_.get(), index);
        try {
            const py::ref now = part_of(PyTuple_GET_ITEM(part, 0), PyTuple_GET_ITEM(part, 1));
            holds_ = now.get() == PyTuple_GET_ITEM(part, 2);
        } catch (const py::error_set&) {
            PyErr_Clear();
            holds_ = false;
        }
        first = first != 0 ? first : version();
    }
    looked_at_ = known_ && first == version() ? first : 0;
    return holds_;
}

void class_as_made::reset() noexcept {
    known_ = holds_ = false;
    looked_at_ = 0;
    parts_.reset();
    type_.reset();
}

}  // namespace zl
