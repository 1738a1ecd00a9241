// module/hold.cpp: see hold.hpp.

#include "hold.hpp"

#include <algorithm>
#include <new>

#include "socket/transport.hpp"

namespace zl {

void held_sockets::add(SocketTransport& socket, bool to_turns_end) noexcept {
    if (!socket.held) {
        try {
            sockets_.push_back(&socket);
        } catch (const std::bad_alloc&) {
            socket.push();
            return;
        }
        socket.held = true;
    }
    to_turns_end_ |= to_turns_end;
}

void held_sockets::forget(SocketTransport& socket) noexcept {
    if (socket.held) {
        socket.held = false;
        sockets_.erase(std::find(sockets_.begin(), sockets_.end(), &socket));
    }
}

void held_sockets::end_callback() noexcept {
    if (to_turns_end_) {
        const auto elapsed = pace.elapsed();
        if (elapsed < most_patience) {
            return;
        }
        if (elapsed > 4 * most_patience) {
            pace.was_late();
        }
    }
    push_all();
}

void held_sockets::end_turn() noexcept {
    pace.end_turn(to_turns_end_);
    if (!empty()) {
        push_all();
    }
}

void held_sockets::push_all() noexcept {
    for (SocketTransport* const each : sockets_) {
        each->held = false;
        each->push();
    }
    sockets_.clear();
    to_turns_end_ = false;
}

}  // namespace zl
