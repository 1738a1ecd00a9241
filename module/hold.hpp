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
//     here and there (turn_trial). They are pushed before whatever is sent
//     otherwise, so that nothing is overtaken; and after a millisecond, when the callback that runs then
//     returns: one that takes long makes them late, 200 ms at most, and then nothing is held so for a while.
//
// A connection that writes once, and has no company, just sends. Unix sockets know no such flag: each write
// is sent as it is.
//
// With `writes="turn"` nothing is in the kernel yet: what a turn writes waits in the transport's backlog, and
// pushing is sending it. Who waits, until when, and what must not overtake it, is the same.
//
// Nothing here is owned: a socket that closes, or leaves the loop, takes itself out.
#pragma once

#include <algorithm>
#include <array>
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

/// Whether it pays to hold what a turn sends to this machine, which depends on it, on the program, and on how
/// busy the peer is: measured, by trying now and then the way that is not in use. The measure is what a
/// message takes of a turn, pushes included.
class turn_trial {
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

    /// Whether the end of this turn is to be waited for.
    bool holds() const noexcept { return holds_ && rest_ == 0; }

    /// All is pushed.
    void end_turn() noexcept {
        if (writers_ >= fewest && rest_ == 0) {
            measure((clock::now() - began_) / writers_);
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
    static constexpr unsigned trial = 32, between_trials = 16384;      // turns that tell something
    static constexpr unsigned settling = 4;  // turns after a change, which tell less

    void measure(clock::duration message) noexcept {
        clock::duration& average = cost_[holds_];
        if (average == clock::duration::zero()) {
            average = message;
        } else if (++since_change_ > settling) {
            average +=
                (std::min(message, average + average / 4) - average) / 8;  // not what disturbs one turn
        }
        if (--left_ == 0) {
            const bool before = holds_;
            tries_ = !tries_;
            // What is no clear gain is left: to hold is the more visible way.
            holds_ = tries_ ? !holds_ : cost_[true] < cost_[false] - cost_[false] / 32;
            left_ = tries_ ? trial : between_trials;
            since_change_ = holds_ == before ? since_change_ : 0;
        }
    }

    std::array<clock::duration, 2> cost_{};  // of a message, sent at once and held; averages
    clock::time_point began_{};              // the turn's first write
    unsigned writers_ = 0;                   // callbacks of this turn that have written
    unsigned left_ = trial;                  // turns until a trial begins or ends
    unsigned since_change_ = 0;
    unsigned rest_ = 0;  // turns for which nothing is held to their end
    unsigned next_rest_ = first_rest;
    std::uint32_t callback_ = 0;
    bool holds_ = false;
    bool tries_ = false;
};

/// The sockets of a loop that have something held back.
class held_sockets {
public:
    static constexpr std::size_t most_bytes = 16 * 1024;  // of one write: a longer one fills segments anyway

    turn_trial trial;

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

    void unmark(SocketTransport& socket) noexcept;
    void push_but(const SocketTransport* one) noexcept;
    template <class Wanted>
    void push_if(Wanted wanted) noexcept;

    std::vector<SocketTransport*> sockets_;
    turn_trial::clock::time_point since_{};  // the first of these is held
    std::size_t to_turns_end_ = 0;           // how many of them are held so long
    bool pushing_ = false;                   // now: one that is forgotten leaves a null
};

}  // namespace zl
