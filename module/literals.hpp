// module/literals.hpp: what getaddrinfo() answers to a numeric host, known without asking.
//
// Which families, types and protocols there are in an answer, and in which order, depends on the C library
// and on what was asked, but on nothing else where the host is numeric: it is learned from Python's answer to
// the first who asks so. Later only the address is put in. Whatever else could be asked (a name, a service by
// name, AI_ADDRCONFIG, AI_CANONNAME, a family that the address is not of) is not known here.
#pragma once

#include <array>
#include <vector>

#include <zloop/address.hpp>

#include "py.hpp"

namespace zl {

/// The address that a numeric host and a number for a port are; false, without an error, for anything else.
bool read_literal(PyObject* host, PyObject* port, zloop::address& into) noexcept;

class literal_answers {
public:
    /// `socket.getaddrinfo(host, port, family, type, proto, flags)`, a new list; or null, without an error,
    /// where that could have to wait. `function` is it, and asked for what is not known. Throws, also what it
    /// does. Who audits is told, as by it.
    py::ref find(PyObject* function, PyObject* host, PyObject* port, const std::array<int, 4>& hints);

private:
    struct form {
        bool is_v6;
        std::array<int, 4> hints;  // family, type, proto, flags
        py::ref entries;           // (family, type, proto, canonical name, another address)
    };

    static constexpr std::size_t most = 64;

    py::ref entries_of(bool is_v6, const std::array<int, 4>& hints) const noexcept;
    py::ref ask(PyObject* function, PyObject* host, PyObject* port, bool is_v6,
                const std::array<int, 4>& hints);

    std::vector<form> forms_;
};

}  // namespace zl
