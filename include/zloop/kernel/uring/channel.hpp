// zloop/kernel/uring/channel.hpp: what the io_uring backend knows of one descriptor.
//
// Requests name their channel, never an operation or a descriptor's number: so a channel outlives its
// descriptor until the kernel has let go of its last request, and what comes late finds it closed.
// It has three lanes, with one request in each at most: for the stream of what arrives by itself (bytes,
// connections), and for what its reader and its writer ask for.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/attempt.hpp>
#include <zloop/kernel/uring/buffers.hpp>

#if ZLOOP_HAS_URING

#include <poll.h>

namespace zloop::detail::uring {

enum class lane : unsigned { reading, writing, arriving };

/// A request of a lane: in the kernel, or on its way there; owing: to end, which the kernel was not told yet;
/// stopping: it was told, and has not ended it yet.
enum class request_state : std::uint8_t { none, running, owing, stopping };

inline constexpr lane lanes[] = {lane::reading, lane::writing, lane::arriving};

/// Descriptors in the order in which they came.
class connection_queue {
public:
    bool empty() const noexcept { return first_ == all_.size(); }
    std::size_t size() const noexcept { return all_.size() - first_; }

    /// False: no memory.
    bool push(int descriptor) noexcept {
        try {
            all_.push_back(descriptor);
            return true;
        } catch (const std::bad_alloc&) {
            return false;
        }
    }

    int pop() noexcept {
        const int oldest = all_[first_++];
        if (empty()) {
            all_.clear();
            first_ = 0;
        }
        return oldest;
    }

private:
    std::vector<int> all_;
    std::size_t first_ = 0;
};

struct channel {
    channel(int descriptor, bool ours) noexcept : fd(descriptor), owned(ours) {}
    channel(const channel&) = delete;
    channel& operator=(const channel&) = delete;

    int fd;
    bool owned;                ///< else watched
    bool closed = false;       ///< out of the table; lives on for the kernel's sake
    bool listed = false;       ///< in the table's list of those that want a request, or an end of one
    bool byte_stream = false;  ///< its operations are requests; others poll, and then attempt
    bool listens = false;      ///< what arrives by itself are connections, not bytes
    bool has_outcome = false;  ///< behind what was received: the end of the stream, or an error
    bool unread = true;        ///< as far as we know there may be something to receive
    bool peer_ended = false;   ///< see hears_end_alone()
    descriptor_kind kind = descriptor_kind::other;
    std::uint8_t burst = 0;        ///< accepts that succeeded in one turn
    std::uint8_t write_burst = 0;  ///< and attempts to write
    std::uint32_t place = 0;       ///< among those that are closed, in the table
    request_state requests[3] = {};
    int outcome = 0;

    op* waiting[2] = {};  ///< reader and writer: io_ops where we own the descriptor, watchers where not
    buffer_queue received;
    connection_queue connections;  ///< of a listener: accepted, and not asked for yet

    request_state& of(lane which) noexcept { return requests[static_cast<unsigned>(which)]; }
    bool is_idle(lane which) noexcept { return of(which) == request_state::none; }
    bool in_kernel() const noexcept {
        return requests[0] != request_state::none || requests[1] != request_state::none ||
               requests[2] != request_state::none;
    }

    op*& waiter(lane which) noexcept { return waiting[which == lane::writing ? 1 : 0]; }
    io_op* operation(lane which) noexcept { return static_cast<io_op*>(waiter(which)); }

    /// Whether a reader need not wait.
    bool has_something() const noexcept { return !received.empty() || !connections.empty() || has_outcome; }

    /// Whether a poll for writing has found nothing but that the peer has sent its end. io_uring tells who
    /// waits to write of that as well, where epoll and poll(2) tell who asks. From then on a poll goes on
    /// until there is room, as the next one would find the same; and nothing waits in a send, which tries 128
    /// times, and then fails with EAGAIN or keeps a thread of the kernel.
    bool hears_end_alone(lane which, int result) noexcept {
        constexpr int room = POLLOUT | POLLERR | POLLHUP | POLLNVAL;
        const bool alone = which == lane::writing && result >= 0 && (result & room) == 0;
        peer_ended = peer_ended || alone;
        return alone;
    }

    // How the kernel names it: the address, and the lane in the bits that an address leaves free.

    std::uint64_t tag(lane which) const noexcept {
        return reinterpret_cast<std::uintptr_t>(this) | static_cast<std::uintptr_t>(which);
    }
    static channel& of(std::uint64_t tag) noexcept {
        return *reinterpret_cast<channel*>(static_cast<std::uintptr_t>(tag & ~std::uint64_t{lanes_mask}));
    }
    static lane lane_of(std::uint64_t tag) noexcept { return static_cast<lane>(tag & lanes_mask); }

    static constexpr unsigned lanes_mask = 3;
};

static_assert(alignof(channel) > channel::lanes_mask);

constexpr lane lane_of(opcode code) noexcept { return is_read(code) ? lane::reading : lane::writing; }

}  // namespace zloop::detail::uring

#endif
