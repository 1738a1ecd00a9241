// module/names.cpp: see names.hpp. The forms are those of makesockaddr() in CPython's socketmodule.c.

#include "names.hpp"

#include <cstddef>

namespace zl {

py::ref name_of(const zloop::address& address) {
    switch (address.family()) {
        case AF_INET: return py::ref::steal(Py_BuildValue("si", address.host().c_str(), int{address.port()}));
        case AF_INET6: {
            const auto& v6 = *reinterpret_cast<const sockaddr_in6*>(address.data());
            return py::ref::steal(Py_BuildValue("siII", address.host().c_str(), int{address.port()},
                                                ntohl(v6.sin6_flowinfo), v6.sin6_scope_id));
        }
        case AF_UNIX: {
            const std::string path = address.host();
            const auto size = static_cast<Py_ssize_t>(path.size());
            if (!path.empty() && path.front() == '\0') {
                return py::ref::steal(PyBytes_FromStringAndSize(path.data(), size));
            }
            return py::ref::steal(PyUnicode_DecodeFSDefaultAndSize(path.data(), size));
        }
        default: return py::none();
    }
}

}  // namespace zl
