// module/names.hpp: a socket address as Python's socket module writes it.
#pragma once

#include <zloop/address.hpp>

#include "py.hpp"

namespace zl {

/// (host, port), (host, port, flowinfo, scope_id), or a Unix path: what socket.getpeername() gives.
/// None for no address. Throws.
py::ref name_of(const zloop::address& address);

}  // namespace zl
