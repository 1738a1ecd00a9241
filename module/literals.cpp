// module/literals.cpp: see literals.hpp.

#include "literals.hpp"

#include <netdb.h>

#include "names.hpp"

namespace zl {

namespace {

constexpr int harmless = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV;  // with an address and a number

/// Whether each entry is an address of that family, without a name.
bool is_understood(PyObject* answer, bool is_v6) noexcept {
    if (!PyList_CheckExact(answer)) {
        return false;
    }
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(answer); ++index) {
        PyObject* const entry = PyList_GET_ITEM(answer, index);
        if (!PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 5) {
            return false;
        }
        PyObject* const name = PyTuple_GET_ITEM(entry, 3);
        PyObject* const address = PyTuple_GET_ITEM(entry, 4);
        if (!PyUnicode_Check(name) || PyUnicode_GET_LENGTH(name) != 0 || !PyTuple_CheckExact(address) ||
            PyTuple_GET_SIZE(address) != (is_v6 ? 4 : 2)) {
            return false;
        }
    }
    return true;
}

}  // namespace

bool read_literal(PyObject* host, PyObject* port, zloop::address& into) noexcept {
    if (!PyUnicode_CheckExact(host) || !PyUnicode_IS_ASCII(host) || !PyLong_CheckExact(port)) {
        return false;
    }
    int overflow = 0;
    const long number = PyLong_AsLongAndOverflow(port, &overflow);
    if (overflow != 0 || number < 0 || number > 0xffff) {
        return false;
    }
    const std::string_view text(static_cast<const char*>(PyUnicode_DATA(host)),
                                static_cast<std::size_t>(PyUnicode_GET_LENGTH(host)));
    const char first = text.empty() ? '\0' : text.front();
    const bool may_be = (first >= '0' && first <= '9') || text.find(':') != text.npos;
    if (!may_be || text.find('%') != text.npos) {  // a zone is looked up
        return false;
    }
    const auto address = zloop::address::ip(text, static_cast<std::uint16_t>(number));
    if (address) {
        into = *address;
    }
    return static_cast<bool>(address);
}

py::ref literal_answers::entries_of(bool is_v6, const std::array<int, 4>& hints) const noexcept {
    for (const form& each : forms_) {
        if (each.is_v6 == is_v6 && each.hints == hints) {
            return each.entries;
        }
    }
    return nullptr;
}

py::ref literal_answers::ask(PyObject* function, PyObject* host, PyObject* port, bool is_v6,
                             const std::array<int, 4>& hints) {
    const auto& [family, type, proto, flags] = hints;
    py::ref answer =
        py::ref::steal(PyObject_CallFunction(function, "OOiiii", host, port, family, type, proto, flags));
    if (is_understood(answer.get(), is_v6) && !entries_of(is_v6, hints)) {
        if (forms_.size() == most) {
            forms_.clear();
        }
        forms_.push_back({is_v6, hints, py::ref::steal(PyList_AsTuple(answer.get()))});
    }
    return answer;
}

py::ref literal_answers::find(PyObject* function, PyObject* host, PyObject* port,
                              const std::array<int, 4>& hints) {
    zloop::address address;
    if ((hints[3] & ~harmless) != 0 || !read_literal(host, port, address)) {
        return nullptr;
    }
    const bool is_v6 = address.family() == AF_INET6;
    const py::ref entries = entries_of(is_v6, hints);
    if (!entries) {
        return ask(function, host, port, is_v6, hints);
    }
    if (PySys_Audit("socket.getaddrinfo", "OOiii", host, port, hints[0], hints[1], hints[2]) != 0) {
        throw py::error_set{};
    }
    // What inet_pton(3) takes for IPv4 has one form only, that of the answer.
    const py::ref name = is_v6 ? name_of(address) : py::ref::steal(PyTuple_Pack(2, host, port));
    const Py_ssize_t count = PyTuple_GET_SIZE(entries.get());
    py::ref list = py::ref::steal(PyList_New(count));
    for (Py_ssize_t index = 0; index < count; ++index) {
        PyObject* const known_entry = PyTuple_GET_ITEM(entries.get(), index);
        PyObject* const entry = py::ref::steal(PyTuple_New(5)).release();
        for (Py_ssize_t item = 0; item < 4; ++item) {
            PyTuple_SET_ITEM(entry, item, Py_NewRef(PyTuple_GET_ITEM(known_entry, item)));
        }
        PyTuple_SET_ITEM(entry, 4, Py_NewRef(name.get()));
        PyList_SET_ITEM(list.get(), index, entry);
    }
    return list;
}

}  // namespace zl
