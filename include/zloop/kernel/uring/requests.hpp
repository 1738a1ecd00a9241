// zloop/kernel/uring/requests.hpp: what the backend asks the kernel for: requests, and that they end.
//
// A lane of a channel has one request at most, from the moment that it is made to the kernel's last word of
// it. Requests are only written down here; they leave together, with the next wait. To end one is a request
// as well, and there may be no room for it: the lane then owes it, until it is asked to stop again.
//
// In a fork of the process the ring is the parent's: nothing is asked for there, and what is to end has
// ended.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/channel.hpp>

#if ZLOOP_HAS_URING

#include <algorithm>
#include <vector>

#include <zloop/core/fork.hpp>

namespace zloop::detail::uring {

/// Whether a request ended for a reason of ours, or for none: then it begins again when it is wanted.
constexpr bool is_stopped(int result) noexcept { return result == -ECANCELED || result == -EINTR; }

class requests {
public:
    // Whom a completion is for, where it is for no channel.
    static constexpr std::uint64_t nobody = 0;  ///< a cancel that has found nothing
    static constexpr std::uint64_t waker = 3;   ///< no lane of no channel

    /// Throws std::system_error, as ring does; std::bad_alloc.
    requests() : ring_(submissions, completions), messages_(ring_.capacity()) {}

    uring::ring& ring() noexcept { return ring_; }
    const uring::ring& ring() const noexcept { return ring_; }

    /// Whether the ring is this process's.
    bool is_reachable() const noexcept { return !process_.is_inherited(); }

    /// How many the kernel has not said its last word of.
    std::size_t under_way() const noexcept { return under_way_; }

    /// How many lanes owe the kernel the word that their request shall end.
    std::size_t owing() const noexcept { return owing_; }

    // Each makes a request for a lane that has none. False: there is no room, and no making any.

    /// Every connection of a listener, from now on.
    bool accept_all(channel& at) noexcept {
        submission* const made = make(at, lane::arriving, op_accept);
        if (made != nullptr) {
            made->modifiers = accept_multishot;
            made->operation_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
        }
        return made != nullptr;
    }

    /// All that comes, from now on, into buffers of a group.
    bool receive_all(channel& at, std::uint16_t buffer_group) noexcept {
        submission* const made = make(at, lane::arriving, op_recv);
        if (made != nullptr) {
            made->modifiers = receive_multishot;
            made->flags = select_buffer;
            made->buffer_group = buffer_group;
        }
        return made != nullptr;
    }

    bool recv(channel& at, const io_op& operation) noexcept {
        submission* const made = make(at, lane::reading, op_recv);
        if (made != nullptr) {
            made->address = reinterpret_cast<std::uintptr_t>(operation.data);
            made->length = static_cast<std::uint32_t>(std::min(operation.size, most_bytes));
            made->modifiers = at.unread ? std::uint16_t{0} : poll_first;
        }
        return made != nullptr;
    }

    bool send(channel& at, const io_op& operation) noexcept {
        const bool one = operation.part_count == 1;
        submission* const made = make(at, lane::writing, one ? op_send : op_sendmsg);
        if (made == nullptr) {
            return false;
        }
        if (one) {
            made->address = reinterpret_cast<std::uintptr_t>(operation.parts->iov_base);
            made->length = static_cast<std::uint32_t>(std::min(operation.parts->iov_len, most_bytes));
        } else {
            // The kernel copies the message when it takes the request, so it lives as long as the place.
            msghdr& message = messages_[ring_.index_of(made)];
            message = {};
            message.msg_iov = const_cast<iovec*>(operation.parts);
            message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(operation.part_count);
            made->address = reinterpret_cast<std::uintptr_t>(&message);
            made->length = 1;
        }
        made->operation_flags = quietly;
        return true;
    }

    bool connect(channel& at, const io_op& operation) noexcept {
        submission* const made = make(at, lane::writing, op_connect);
        if (made != nullptr) {
            made->address = reinterpret_cast<std::uintptr_t>(operation.name);
            made->offset = operation.name_size;
        }
        return made != nullptr;
    }

    /// One word when the descriptor is ready, in the lane's direction; of one whose peer has ended, several.
    bool poll(channel& at, lane way) noexcept {
        submission* const made = make(at, way, op_poll_add);
        if (made != nullptr) {
            made->operation_flags = poll_events(way == lane::reading ? POLLIN : POLLOUT);
            made->length = way == lane::writing && at.peer_ended ? poll_multishot : 0;
        }
        return made != nullptr;
    }

    /// A word for `waker` each time that an eventfd is written to.
    bool poll_waker(int eventfd) noexcept {
        submission* const made = make();
        if (made != nullptr) {
            made->opcode = op_poll_add;
            made->fd = eventfd;
            made->length = poll_multishot;
            made->operation_flags = poll_events(POLLIN);
            made->user_data = waker;
        }
        return made != nullptr;
    }

    /// Asks a lane's request to end; its last completion tells. False: it owes that, so ask again.
    bool stop(channel& at, lane which) noexcept {
        request_state& now = at.of(which);
        if (now == request_state::none || now == request_state::stopping) {
            return true;
        }
        submission* const made = make();
        if (made == nullptr) {
            owing_ += now == request_state::running;
            now = request_state::owing;
            return false;
        }
        owing_ -= now == request_state::owing;
        now = request_state::stopping;
        made->opcode = op_async_cancel;
        made->flags = silent_success;
        made->fd = -1;
        made->address = at.tag(which);
        made->user_data = nobody;
        return true;
    }

    /// The kernel has said its last word of a lane's request; or never will, to this process.
    void ended(channel& at, lane which) noexcept {
        owing_ -= at.of(which) == request_state::owing;
        under_way_ -= at.of(which) != request_state::none;
        at.of(which) = request_state::none;
    }

private:
    static constexpr unsigned submissions = 512;
    static constexpr unsigned completions = 4096;

    /// The most that one request moves: its result is an int.
    static constexpr std::size_t most_bytes = 1 << 30;

    submission* make(channel& at, lane which, std::uint8_t opcode) noexcept {
        submission* const made = make();
        if (made != nullptr) {
            made->opcode = opcode;
            made->fd = at.fd;
            made->user_data = at.tag(which);
            at.of(which) = request_state::running;
            ++under_way_;
        }
        return made;
    }

    submission* make() noexcept {
        if (!is_reachable()) {
            return nullptr;
        }
        submission* made = ring_.prepare();
        if (made == nullptr && ring_.submit() == 0) {
            made = ring_.prepare();
        }
        return made;
    }

    fork_mark process_;
    uring::ring ring_;
    std::vector<msghdr> messages_;  // by place in the submission queue
    std::size_t under_way_ = 0;
    std::size_t owing_ = 0;
};

}  // namespace zloop::detail::uring

#endif
