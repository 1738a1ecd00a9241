// module/hold.hpp: a segment that the kernel holds back for a moment, so that parts leave together.
//
// Each write is in the kernel, and in order, when write() returns. One that is probably not the last says so
// (MSG_MORE): the kernel then keeps a segment that is not full, and sends it with what comes behind, when it
// is pushed, or after 200 ms. Two reasons to say so:
//
//   - more parts follow in this callback. A connection's habit tells, and the last part is a plain send,
//     which takes all along. Where a callback writes fewer parts than usual, they are pushed when it returns.
//     Two sends of which the first says so cost 11.5 µs where one of the joined parts costs 10.6, and two
//     plain ones 18.7.
//   - more callbacks follow in this turn, and the peer is on this machine. Each send wakes it, on another
//     core, for one message: so all are pushed when the turn has ended, and it is woken for many. That pays
//     where a message is more work than its send (turn_pace). They are pushed before whatever is sent
//     otherwise, so that nothing is overtaken; and after a millisecond, when the callback that runs then
//     returns: one that takes long makes them late, 200 ms at most, and then nothing is held so for a while.
//
// A connection that writes once, and has no company, just sends. Unix sockets know no such flag: each write
// is sent as it is.
//
// Nothing here is owned: a socket that closes, or leaves the loop, takes itself out.
#pragma once

#include <algorithm>
#include <chrono>
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

/// How much work lies between the messages that a loop's turns send to this machine, and what a send costs.
class turn_pace {
public:
    using clock = std::chrono::steady_clock;

    /// Something is written by the callback of that number.
    void note(std::uint32_t callback) noexcept {
        if (callback != callback_) {
            callback_ = callback;
            if (writers_++ == 0) {
                began_ = clock::now();
            }
        }
    }

    /// Whether the end of this turn is worth waiting for.
    bool pays() const noexcept { return work_ > send_ && rest_ == 0; }

    /// Whether a plain send is one of those whose time is taken.
    bool is_sample() noexcept { return (++sends_ & 31) == 0; }
    void took(clock::duration send) noexcept { approach(send_, std::min<clock::duration>(send, most_send)); }

    /// `held`: its messages were not sent before.
    void end_turn(bool held) noexcept {
        if (writers_ >= fewest) {
            const auto each = elapsed() / writers_;
            approach(work_, std::min<clock::duration>(held ? each : each - send_, most_work));
        }
        writers_ = 0;
        rest_ -= rest_ != 0;
    }

    /// A callback took so long that what was held came late: that may happen again.
    void was_late() noexcept {
        rest_ = next_rest_;
        next_rest_ = std::min(2 * next_rest_, longest_rest);
    }

private:
    static constexpr unsigned fewest = 4;  // messages of a turn that tells something
    static constexpr unsigned first_rest = 256, longest_rest = 65536;  // turns
    // What takes longer was disturbed, or makes no difference any more.
    static constexpr std::chrono::microseconds most_work{1000}, most_send{50};

    /// Since the turn's first write.
    clock::duration elapsed() const noexcept { return clock::now() - began_; }

    static void approach(clock::duration& average, clock::duration sample) noexcept {
        average += (sample - average) / 8;
    }

    clock::duration work_{};  // averages
    clock::duration send_ = std::chrono::microseconds(5);
    clock::time_point began_{};
    unsigned writers_ = 0;  // callbacks of this turn that have written
    unsigned rest_ = 0;     // turns for which nothing is held to their end
    unsigned next_rest_ = first_rest;
    std::uint32_t callback_ = 0;
    std::uint32_t sends_ = 0;
};

/// The sockets of a loop that have something held back.
class held_sockets {
public:
    static constexpr std::size_t most_bytes = 16 * 1024;  // of one write: a longer one fills segments anyway

    turn_pace pace;

    bool empty() const noexcept { return sockets_.empty(); }

    /// The socket's last write is held, for the callback that runs or for the whole turn.
    void add(SocketTransport& socket, bool to_turns_end) noexcept;

    /// Its last write was sent plainly, and all before it; or it is to be pushed no more.
    void forget(SocketTransport& socket) noexcept;

    /// The callback has returned: lets go what is not held to the turn's end, or was held for long.
    void end_callback() noexcept;

    /// Lets everything go.
    void end_turn() noexcept;

    /// Lets everything go, as something is sent or waited for that must not come before it.
    void push_all() noexcept {
        if (!empty()) {
            push_but(nullptr);
        }
    }

    /// The same, for what this socket is about to send, with what it has held itself.
    void push_others(const SocketTransport& socket, bool is_held) noexcept {
        if (sockets_.size() > static_cast<std::size_t>(is_held)) {
            push_but(&socket);
        }
    }

private:
    // What other connections of a turn may wait for one. A turn of 64 of uvicorn's messages takes as much.
    static constexpr std::chrono::milliseconds most_patience{1};

    void push_but(const SocketTransport* one) noexcept;
    template <class Wanted>
    void push_if(Wanted wanted) noexcept;

    std::vector<SocketTransport*> sockets_;
    turn_pace::clock::time_point since_{};  // the first of these is held
    std::size_t to_turns_end_ = 0;          // how many of them are held so long
    bool turn_has_held_ = false;
};

}  // namespace zl
