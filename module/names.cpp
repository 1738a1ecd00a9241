// module/names.cpp: see names.hpp. The forms are those of makesockaddr() and getsockaddrarg() in CPython's
// socketmodule.c.

#include "names.hpp"

#include <cstddef>
#include <cstring>

namespace zl {

namespace {

bool read_port(PyObject* number, in_port_t& into) noexcept {
    if (!PyLong_CheckExact(number)) {
        return false;
    }
    int overflow = 0;
    const long port = PyLong_AsLongAndOverflow(number, &overflow);
    into = htons(static_cast<std::uint16_t>(port));
    return overflow == 0 && port >= 0 && port <= 0xffff;
}

bool read_number(PyObject* number, unsigned long most, std::uint32_t& into) noexcept {
    if (!PyLong_CheckExact(number)) {
        return false;
    }
    int overflow = 0;
    const long value = PyLong_AsLongAndOverflow(number, &overflow);
    into = static_cast<std::uint32_t>(value);
    return overflow == 0 && value >= 0 && static_cast<unsigned long>(value) <= most;
}

/// (host, port) and what may follow for IPv6, the host numeric and without a zone.
bool read_ip_name(PyObject* name, int family, zloop::address& into) noexcept {
    if (!PyTuple_CheckExact(name) || PyTuple_GET_SIZE(name) < 2 ||
        !PyUnicode_CheckExact(PyTuple_GET_ITEM(name, 0))) {
        return false;
    }
    Py_ssize_t length = 0;
    const char* const host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(name, 0), &length);
    if (host == nullptr || std::strlen(host) != static_cast<std::size_t>(length)) {  // refused, not cut
        PyErr_Clear();
        return false;
    }
    const Py_ssize_t size = PyTuple_GET_SIZE(name);
    if (family == AF_INET) {
        sockaddr_in v4{};
        v4.sin_family = AF_INET;
        if (size != 2 || !read_port(PyTuple_GET_ITEM(name, 1), v4.sin_port) ||
            ::inet_pton(AF_INET, host, &v4.sin_addr) != 1) {
            return false;
        }
        into = zloop::address(reinterpret_cast<const sockaddr*>(&v4), sizeof v4);
        return true;
    }
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    std::uint32_t flow = 0;
    if (size > 4 || !read_port(PyTuple_GET_ITEM(name, 1), v6.sin6_port) ||
        (size > 2 && !read_number(PyTuple_GET_ITEM(name, 2), 0xfffff, flow)) ||
        (size > 3 && !read_number(PyTuple_GET_ITEM(name, 3), 0xffffffff, v6.sin6_scope_id)) ||
        ::inet_pton(AF_INET6, host, &v6.sin6_addr) != 1) {
        return false;
    }
    v6.sin6_flowinfo = htonl(flow);
    into = zloop::address(reinterpret_cast<const sockaddr*>(&v6), sizeof v6);
    return true;
}

bool read_path(PyObject* name, zloop::address& into) noexcept {
    py::ref bytes = PyBytes_CheckExact(name)     ? py::ref::borrow(name)
                    : PyUnicode_CheckExact(name) ? py::ref::adopt(PyUnicode_EncodeFSDefault(name))
                                                 : nullptr;
    if (!bytes) {
        PyErr_Clear();
        return false;
    }
    const auto path = zloop::address::local(
        {PyBytes_AS_STRING(bytes.get()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()))});
    if (path) {
        into = *path;
    }
    return static_cast<bool>(path);
}

template <class In>
py::ref host_of(int family, const In& in) {
    char text[INET6_ADDRSTRLEN];
    return py::text(::inet_ntop(family, &in, text, sizeof text));
}

}  // namespace

py::ref name_of(const zloop::address& address) {
    switch (address.family()) {
        case AF_INET: {
            const auto& v4 = *reinterpret_cast<const sockaddr_in*>(address.data());
            return py::ref::steal(
                Py_BuildValue("NH", host_of(AF_INET, v4.sin_addr).release(), ntohs(v4.sin_port)));
        }
        case AF_INET6: {  // the zone is a number behind, never a part of the host
            const auto& v6 = *reinterpret_cast<const sockaddr_in6*>(address.data());
            return py::ref::steal(Py_BuildValue("NHII", host_of(AF_INET6, v6.sin6_addr).release(),
                                                ntohs(v6.sin6_port), ntohl(v6.sin6_flowinfo),
                                                v6.sin6_scope_id));
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

bool read_name(PyObject* name, int family, zloop::address& into) noexcept {
    return family == AF_UNIX ? read_path(name, into) : read_ip_name(name, family, into);
}

// peer_names.

py::ref peer_names::name_of(const zloop::address& peer) {
    if (peer.size() == 0 || peer.size() > sizeof(ip_address)) {
        return zl::name_of(peer);
    }
    if (entries_.empty()) {
        entries_.resize(least);
    }
    entry* place = &place_of(peer.data(), peer.size());
    if (place->size == peer.size() && std::memcmp(&place->peer, peer.data(), peer.size()) == 0) {
        return place->name;
    }
    while (place->size != 0 && entries_.size() < most) {
        grow();
        place = &place_of(peer.data(), peer.size());
    }
    py::ref made = zl::name_of(peer);
    std::memcpy(&place->peer, peer.data(), peer.size());
    place->size = peer.size();
    place->name = made;
    return made;
}

/// By the port and the last bytes of the host: where peers differ.
peer_names::entry& peer_names::place_of(const void* peer, socklen_t size) noexcept {
    const auto& ip = *static_cast<const ip_address*>(peer);
    std::uint32_t host = 0;
    std::memcpy(&host,
                size == sizeof ip.v4 ? reinterpret_cast<const std::byte*>(&ip.v4.sin_addr)
                                     : reinterpret_cast<const std::byte*>(&ip.v6.sin6_addr) + 12,
                sizeof host);
    const std::uint64_t mixed = ((std::uint64_t{host} << 16) | ip.v4.sin_port) * 0x9e3779b97f4a7c15;
    return entries_[(mixed >> 32) & (entries_.size() - 1)];
}

void peer_names::grow() {
    std::vector<entry> before(entries_.size() * 2);
    before.swap(entries_);
    for (entry& each : before) {
        if (each.size != 0) {
            entry& place = place_of(&each.peer, each.size);
            place = std::move(each);
        }
    }
}

}  // namespace zl
