// module/names.hpp: socket addresses as Python's socket module writes them.
#pragma once

#include <vector>

#include <zloop/address.hpp>

#include "py.hpp"

namespace zl {

/// (host, port), (host, port, flowinfo, scope_id), or a Unix path: what socket.getpeername() gives.
/// None for no address. Throws.
py::ref name_of(const zloop::address& address);

/// The address that `name` is for a socket of `family`. False, without an error, for what the socket
/// module has to judge: names that are looked up, and what is no address at all.
bool read_name(PyObject* name, int family, zloop::address& into) noexcept;

/// An IPv4 or IPv6 address in 28 bytes.
union ip_address {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
};

/// The names of peers that were heard of last, each made once. A peer has one place that it can be in, and
/// who finds it taken doubles the table, up to a bound.
class peer_names {
public:
    /// As name_of.
    py::ref name_of(const zloop::address& peer);

private:
    static constexpr std::size_t least = 4, most = 256;

    struct entry {
        ip_address peer{};
        socklen_t size = 0;  // 0: nobody
        py::ref name;
    };

    entry& place_of(const void* peer, socklen_t size) noexcept;
    void grow();

    std::vector<entry> entries_;  // a power of two
};

}  // namespace zl
