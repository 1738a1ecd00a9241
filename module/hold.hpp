// module/hold.hpp: a segment that the kernel holds back for a moment, so that parts leave together.
//
// Each write is in the kernel, and in order, when write() returns. One that is probably not the last of its
// callback says so (MSG_MORE): the kernel then keeps a segment that is not full, and sends it with what comes
// behind, when it is pushed, or after 200 ms. Two sends of which the first says so cost 11.5 µs where one of
// the joined parts costs 10.6, and two plain ones 18.7; and the peer is woken once.
//
// Whether it is the last, a connection's habit tells: the last is a plain send, which takes all along. Where
// a callback writes fewer parts than usual, they are pushed when it returns. One that writes once just sends.
// Unix sockets know no such flag: each write is sent as it is.
//
// Nothing here is owned: a socket that closes, or leaves the loop, takes itself out.
#pragma once

#include <cstdint>
#include <vector>

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
        if (parts_ < most) {
            ++parts_;
        }
        return parts_ < usual_;
    }

private:
    static constexpr std::uint8_t most = 255;

    std::uint32_t callback_ = 0;
    std::uint8_t parts_ = 0;  // in that callback, so far
    std::uint8_t usual_ = 0;  // in the one before
};

/// The sockets of a loop that have something held back by the callback that runs.
class held_sockets {
public:
    static constexpr std::size_t most_bytes = 16 * 1024;  // of one write: a longer one fills segments anyway

    bool empty() const noexcept { return sockets_.empty(); }

    /// The socket's last write is held.
    void add(SocketTransport& socket) noexcept;

    /// Its last write was sent plainly, and all before it; or it is to be pushed no more.
    void forget(SocketTransport& socket) noexcept;

    /// Lets everything go: the callback has returned, or waits for what that brings.
    void push_all() noexcept;

private:
    std::vector<SocketTransport*> sockets_;
};

}  // namespace zl
