// module/hold.hpp: segments that the kernel holds back for a moment, so that parts leave together.
//
// Each write is in the kernel, and in order, when write() returns. One that is probably not the last before
// the kernel should act says so (MSG_MORE): the kernel then keeps a segment that is not full, and sends it
// with what comes behind, when it is pushed, or after 200 ms. Two sends and a push cost 12.0 µs where one
// send of the joined parts costs 10.6 and two plain ones 18.7; and the peer is woken once.
//
// Whether it is the last, a connection's habit tells. A push is due at the end of the callback; for a peer
// on this machine at the end of the loop's turn, or 100 µs after the first, so that a client that waits for
// many of our connections is woken once for them. A callback that writes once just sends. Unix sockets know
// no such flag: each write is sent as it is.
//
// Nothing here is owned: a socket that closes, or leaves the loop, takes itself out.
#pragma once

#include <cstdint>
#include <vector>

#include <zloop/core/timer.hpp>

namespace zl {

struct SocketTransport;

/// How many parts the callbacks of a connection write. Eight bytes.
class writing_habit {
public:
    /// Notes a part that is written in that callback. Whether another one is likely to follow in it.
    bool note(std::uint32_t callback) noexcept {
        if (callback != callback_) {
            callback_ = callback;
            usual_ = parts_;
            parts_ = 0;
        }
        parts_ += parts_ < most;
        return parts_ < usual_;
    }

    /// Whether a message of this connection is written in parts.
    bool is_of_parts() const noexcept { return usual_ > 1 || parts_ > 1; }

private:
    static constexpr std::uint8_t most = 255;

    std::uint32_t callback_ = 0;
    std::uint8_t parts_ = 0;  // in that callback, so far
    std::uint8_t usual_ = 0;  // in the one before
};

/// The sockets of a loop that have something held back.
class held_sockets {
public:
    static constexpr std::size_t most_bytes = 16 * 1024;  // of one write: a longer one fills segments anyway

    bool empty() const noexcept { return sockets_.empty(); }

    /// The socket's last write is held.
    void add(SocketTransport& socket) noexcept;

    /// Its last write was sent plainly, and all before it; or it is to be pushed no more.
    void forget(SocketTransport& socket) noexcept;

    /// A callback has returned. `goes_on`: others are ready behind it.
    void callback_returned(bool goes_on) noexcept;

    /// Lets everything go.
    void push_all() noexcept;

private:
    static constexpr zloop::nanoseconds longest = std::chrono::microseconds(100);

    std::vector<SocketTransport*> sockets_;  // in the order of their first writes
    std::size_t seen_ = 0;                   // of these, when the last callback returned
    zloop::time_point since_{};              // the first of them
};

}  // namespace zl
