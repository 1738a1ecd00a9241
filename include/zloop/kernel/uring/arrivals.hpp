// zloop/kernel/uring/arrivals.hpp: bytes and connections that arrive before somebody asks for them.
//
// One request brings all that a stream receives, or all connections of a listener, until it is stopped. What
// nobody has asked for yet is kept in order, in front of the end of the stream or the error behind it. From
// `most_unread_bytes`, or connections, on the request is stopped, so a peer that is not listened to feels it.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/requests.hpp>

#if ZLOOP_HAS_URING

#include <cstring>

namespace zloop::detail::uring {

class arrivals {
public:
    /// Throws std::system_error, as buffer_ring does.
    explicit arrivals(requests& asked) : requests_(asked), buffers_(asked.ring()) {}

    buffer_ring& buffers() noexcept { return buffers_; }

    /// Asks for what comes. False: no room for that now.
    bool begin(channel& at) noexcept {
        if (at.listens) {
            return requests_.accept_all(at);
        }
        if (!requests_.receive_all(at, buffer_ring::group)) {
            return false;
        }
        if (!std::exchange(receives_, true)) {
            buffers_.replenish();
        }
        return true;
    }

    /// Gives the kernel new buffers for those that it has filled. Once a turn.
    void supply() noexcept {
        was_short_ = false;
        if (receives_) {
            buffers_.replenish();
        }
    }

    /// Notes what a completion brings.
    void come(channel& at, const completion& seen) noexcept {
        at.listens ? come_connection(at, seen.result) : come_bytes(at, seen);
    }

    /// Whether so much is unread that no more shall come.
    static bool is_flooded(const channel& at) noexcept {
        return at.received.size_bytes() >= most_unread_bytes ||
               at.connections.size() >= most_unread_connections;
    }

    /// Gives a reader what is there. False: nothing is.
    bool take(io_op& operation, channel& at) noexcept {
        if (operation.code == opcode::accept) {
            return take_connection(operation, at) || take_outcome(operation, at);
        }
        if (at.received.empty()) {
            return take_outcome(operation, at);
        }
        if (operation.code == opcode::receive) {
            buffer& filled = at.received.pop();
            operation.data = filled.bytes() + filled.begin;
            operation.size = filled.size();
            operation.lease = &filled;
        } else {
            operation.size = copy(at, operation.data, operation.size);
        }
        if (operation.name != nullptr) {
            operation.name_size = 0;  // a stream's bytes have no sender
        }
        return true;
    }

    /// Moves bytes that are there into the caller's memory; how many.
    std::size_t copy(channel& at, std::byte* into, std::size_t room) noexcept {
        std::size_t done = 0;
        while (done < room && !at.received.empty()) {
            buffer& first = at.received.front();
            const std::size_t count = std::min(room - done, first.size());
            std::memcpy(into + done, first.bytes() + first.begin, count);
            done += count;
            if (count == first.size()) {
                buffers_.drop(at.received.pop());
            } else {
                first.begin += static_cast<std::uint32_t>(count);
                at.received.shrank(count);
            }
        }
        return done;
    }

    /// Puts bytes in front of what is there: who asked for them is cancelled. False: no memory.
    static bool put_back(channel& at, const std::byte* from, std::size_t count) noexcept {
        const auto room = static_cast<std::uint32_t>(count);
        buffer* const kept = room == count ? buffer::make(room) : nullptr;
        if (kept == nullptr) {
            return false;
        }
        std::memcpy(kept->bytes(), from, count);
        kept->end = room;
        kept->users = 1;
        at.received.push_front(*kept);
        return true;
    }

    /// Nobody will ask for what is there.
    void discard(channel& at) noexcept {
        while (!at.received.empty()) {
            buffers_.drop(at.received.pop());
        }
        while (!at.connections.empty()) {
            ::close(at.connections.pop());
        }
    }

private:
    static constexpr std::size_t most_unread_bytes = 64 * 1024;
    static constexpr std::size_t most_unread_connections = 64;

    /// What is copied rather than kept in a buffer of its own, where the one before has room.
    static constexpr std::size_t few_bytes = 4096;

    static void end_with(channel& at, int error) noexcept {
        at.outcome = error;
        at.has_outcome = true;
    }

    void come_bytes(channel& at, const completion& seen) noexcept {
        if ((seen.flags & has_buffer) != 0) {
            const auto count = static_cast<std::uint32_t>(seen.result > 0 ? seen.result : 0);
            buffer& filled = buffers_.take(seen.flags >> buffer_shift, count);
            if (count != 0 && !at.closed) {
                keep(at, filled);
            } else {
                buffers_.drop(filled);
            }
        }
        if (seen.result == -ENOBUFS) {
            run_short(at);
        } else if (seen.result <= 0 && !is_stopped(seen.result)) {
            end_with(at, -seen.result);
            at.peer_ended = true;
        }
    }

    /// The kernel had no buffer left, and has ended the request; the next one finds more, or none at all.
    void run_short(channel& at) noexcept {
        if (!std::exchange(was_short_, true)) {  // the first of a turn's
            buffers_.grow();
        }
        if (!buffers_.replenish() && at.waiter(lane::reading) != nullptr) {
            end_with(at, ENOMEM);
        }
    }

    void keep(channel& at, buffer& filled) noexcept {
        buffer* const before = at.received.back();
        if (before != nullptr && filled.size() <= few_bytes && before->room - before->end >= filled.size()) {
            std::memcpy(before->bytes() + before->end, filled.bytes(), filled.size());
            before->end += filled.end;
            at.received.grew(filled.size());
            buffers_.drop(filled);
        } else {
            at.received.push(filled);
        }
    }

    void come_connection(channel& at, int result) noexcept {
        if (result >= 0) {
            if (at.closed || !at.connections.push(result)) {
                ::close(result);
            }
        } else if (!is_stopped(result) && result != -ECONNABORTED && result != -EPROTO &&
                   at.waiter(lane::reading) != nullptr) {
            end_with(at, -result);  // who accepts later finds out whether it is so still
        }
    }

    static bool take_connection(io_op& operation, channel& at) noexcept {
        while (!at.connections.empty()) {
            const int fd = at.connections.pop();
            socklen_t room = operation.name_size;
            if (operation.name != nullptr && ::getpeername(fd, operation.name, &room) != 0) {
                if (at.kind == descriptor_kind::tcp) {
                    ::close(fd);  // it died in the queue, and is nobody's failure
                    continue;
                }
                room = 0;
            }
            operation.name_size = room;
            operation.accepted = fd;
            return true;
        }
        return false;
    }

    static bool take_outcome(io_op& operation, channel& at) noexcept {
        if (!std::exchange(at.has_outcome, false)) {
            return false;
        }
        operation.error = at.outcome;
        operation.size = 0;
        return true;
    }

    requests& requests_;
    buffer_ring buffers_;
    bool receives_ = false;
    bool was_short_ = false;
};

}  // namespace zloop::detail::uring

#endif
