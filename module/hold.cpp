// module/hold.cpp: see hold.hpp.

#include "hold.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "socket/transport.hpp"

namespace zl {

template <class Wanted>
void held_sockets::push_if(Wanted wanted) noexcept {
    // One that finds no memory tells its protocol, which may write, or close another: places stay places.
    const bool outer = std::exchange(pushing_, true);
    for (std::size_t index = 0; index < sockets_.size(); ++index) {
        SocketTransport* const each = sockets_[index];
        if (each != nullptr && wanted(*each)) {
            sockets_[index] = nullptr;
            unmark(*each);
            each->push();
        }
    }
    pushing_ = outer;
    if (!outer) {
        std::erase(sockets_, nullptr);
    }
}

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
    if (to_turns_end && !socket.held_to_turns_end) {
        socket.held_to_turns_end = true;
        if (to_turns_end_++ == 0) {
            since_ = turn_trial::clock::now();
        }
    }
}

void held_sockets::forget(SocketTransport& socket) noexcept {
    if (socket.held) {
        unmark(socket);
        const auto place = std::find(sockets_.begin(), sockets_.end(), &socket);
        if (pushing_) {
            *place = nullptr;
        } else {
            sockets_.erase(place);
        }
    }
}

void held_sockets::unmark(SocketTransport& socket) noexcept {
    socket.held = false;
    to_turns_end_ -= socket.held_to_turns_end;
    socket.held_to_turns_end = false;
}

void held_sockets::end_callback() noexcept {
    if (to_turns_end_ == 0) {
        push_all();
        return;
    }
    const auto held = turn_trial::clock::now() - since_;
    if (held >= most_patience) {
        if (held >= 2 * most_patience) {
            trial.was_late();
        }
        push_all();
    } else if (to_turns_end_ != sockets_.size()) {
        push_if([](const SocketTransport& each) { return !each.held_to_turns_end; });
    }
}

void held_sockets::end_turn() noexcept {
    push_all();
    trial.end_turn();
}

void held_sockets::push_but(const SocketTransport* one) noexcept {
    push_if([one](const SocketTransport& each) { return &each != one; });
}

}  // namespace zl
