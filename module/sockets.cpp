// module/sockets.cpp: see sockets.hpp.

#include "sockets.hpp"

namespace zl {

int known_socket_number(const module_state& state, PyObject* sock) {
    const py::ref number = py::ref::steal(state.socket_fileno(sock, nullptr));
    const long found = PyLong_AsLong(number.get());
    if (found == -1 && PyErr_Occurred()) {
        throw py::error_set{};
    }
    return static_cast<int>(found);
}

int socket_number(const module_state& state, PyObject* sock) {
    if (!PyObject_TypeCheck(sock, reinterpret_cast<PyTypeObject*>(state.socket_base.get()))) {
        py::raise_format(PyExc_TypeError, "a socket.socket is required, not %R", Py_TYPE(sock));
    }
    return known_socket_number(state, sock);
}

void take_number_from(const module_state& state, PyObject* sock) noexcept {
    Py_XDECREF(state.socket_detach(sock, nullptr));
    PyErr_Clear();
}

py::ref socket_object(const module_state& state, int descriptor) {
    auto* const type = reinterpret_cast<PyTypeObject*>(state.socket_type.get());
    const py::ref no_arguments = py::ref::steal(PyTuple_New(0));
    const py::ref keywords = py::ref::steal(Py_BuildValue("{s:i}", "fileno", descriptor));
    py::ref made = py::ref::steal(type->tp_new(type, no_arguments.get(), nullptr));
    if (!PyObject_TypeCheck(made.get(), type)) {
        py::raise_format(PyExc_TypeError, "a socket.socket is required, not %R", Py_TYPE(made.get()));
    }
    // socket.socket.__init__() is Python: Ctrl-C or a lack of memory may end it when it is done.
    const bool begun = type->tp_init(made.get(), no_arguments.get(), keywords.get()) == 0;
    if (begun && py::attempt([&] {
            py::call_method(made.get(), state.str_setblocking.get(), Py_False);
            if (known_socket_number(state, made.get()) != descriptor) {
                py::raise(PyExc_RuntimeError, "socket.socket() did not take its descriptor");
            }
        })) {
        return made;
    }
    py::ref failure = py::take_error();
    take_number_from(state, made.get());
    py::restore_error(std::move(failure));
    throw py::error_set{};
}

}  // namespace zl
