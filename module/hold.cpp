// module/hold.cpp: see hold.hpp.

#include "hold.hpp"

#include <algorithm>
#include <new>

#include "socket/transport.hpp"

namespace zl {

void held_sockets::add(SocketTransport& socket) noexcept {
    if (socket.held) {
        return;
    }
    try {
        sockets_.push_back(&socket);
        socket.held = true;
    } catch (const std::bad_alloc&) {
        socket.push();
    }
}

void held_sockets::forget(SocketTransport& socket) noexcept {
    if (socket.held) {
        socket.held = false;
        sockets_.erase(std::find(sockets_.begin(), sockets_.end(), &socket));
    }
}

void held_sockets::push_all() noexcept {
    for (SocketTransport* const each : sockets_) {
        each->held = false;
        each->push();
    }
    sockets_.clear();
}

}  // namespace zl
