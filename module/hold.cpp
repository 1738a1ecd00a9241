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
    } catch (const std::bad_alloc&) {
        socket.push();
        return;
    }
    socket.held = true;
    if (sockets_.size() == 1) {
        since_ = zloop::time_point::clock::now();
    }
}

void held_sockets::forget(SocketTransport& socket) noexcept {
    if (!socket.held) {
        return;
    }
    socket.held = false;
    // It is the one that wrote last, nearly always.
    const auto place = std::find(sockets_.rbegin(), sockets_.rend(), &socket);
    const auto index = static_cast<std::size_t>(sockets_.rend() - place) - 1;
    sockets_.erase(sockets_.begin() + static_cast<std::ptrdiff_t>(index));
    seen_ -= index < seen_;
}

void held_sockets::callback_returned(bool goes_on) noexcept {
    if (!goes_on || zloop::time_point::clock::now() - since_ > longest) {
        push_all();
        return;
    }
    // What has come from others on this machine can wait for the end of the turn.
    const auto fresh = sockets_.begin() + static_cast<std::ptrdiff_t>(seen_);
    const auto far = std::stable_partition(fresh, sockets_.end(),
                                           [](const SocketTransport* each) { return each->peer_is_local; });
    for (auto each = far; each != sockets_.end(); ++each) {
        (*each)->held = false;
        (*each)->push();
    }
    sockets_.erase(far, sockets_.end());
    seen_ = sockets_.size();
}

void held_sockets::push_all() noexcept {
    for (SocketTransport* const each : sockets_) {
        each->held = false;
        each->push();
    }
    sockets_.clear();
    seen_ = 0;
}

}  // namespace zl
