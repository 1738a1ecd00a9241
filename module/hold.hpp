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
//     returns: one that takes long makes them late, 200 ms at most, and then nothing is held so for a while,
//     the longer the more often.
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
/// busy the peer is: measured now and then, in a trial of both ways by turns. The measure is what a message
/// takes of a turn, pushes included; medians tell, as a turn now and then is disturbed.
class turn_trial {
public:
    using clock = std::chrono::steady_clock;

    /// Something is written by the callback of that number.
    void note(std::uint32_t callback) noexcept {
        if (callback != callback_) {
            callback_ = callback;
            if (writers_++ == 0 && tries_) {
                began_ = clock::now();
            }
        }
    }

    /// Whether the end of this turn is to be waited for.
    bool holds() const noexcept { return holds_ && rest_ == 0; }

    /// All is pushed.
    void end_turn() noexcept {
        if (rest_ != 0) {
            --rest_;
        } else {
            if (next_rest_ != first_rest && ++calm_ == forgiveness * next_rest_) {
                next_rest_ = first_rest;
            }
            if (writers_ >= fewest) {
                go_on();
            }
        }
        writers_ = 0;
    }

    /// A callback took so long that what was held came late, and that may happen again. Once in a thousand
    /// turns it may be the machine's doing, as when another process had the processor.
    void was_late() noexcept {
        rest_ = next_rest_;
        next_rest_ = std::min(2 * next_rest_, longest_rest);
        calm_ = 0;
    }

private:
    static constexpr unsigned fewest = 4;  // messages of a turn that tells something
    static constexpr unsigned first_rest = 64, longest_rest = 65536;     // turns
    static constexpr unsigned forgiveness = 8;                           // times the rest, without being late
    static constexpr unsigned first_trial = 32, between_trials = 16384;  // turns that tell something
    static constexpr unsigned block = 8, settling = 2;  // turns of one way, of which the first tell less
    static constexpr unsigned blocks = 32;              // of a trial, of either way by turns
    static constexpr std::size_t most = blocks / 2 * (block - settling);

    void go_on() noexcept {
        if (!tries_) {
            if (--left_ == 0) {
                tries_ = true;
                turns_ = 0;
                counts_ = {};
            }
            return;
        }
        if (turns_ % block >= settling) {
            costs_[holds_][counts_[holds_]++] = (clock::now() - began_) / writers_;
        }
        if (++turns_ == blocks * block) {
            // What is no clear gain is left: to hold is the more visible way.
            const clock::duration at_once = median(costs_[false]);
            holds_ = median(costs_[true]) < at_once - at_once / 32;
            tries_ = false;
            left_ = between_trials;
        } else if (turns_ % block == 0) {
            holds_ = !holds_;
        }
    }

    static clock::duration median(std::array<clock::duration, most>& costs) noexcept {
        std::nth_element(costs.begin(), costs.begin() + most / 2, costs.end());
        return costs[most / 2];
    }

    std::array<std::array<clock::duration, most>, 2> costs_{};  // of a message, sent at once and held
    std::array<std::size_t, 2> counts_{};
    clock::time_point began_{};    // the turn's first write, in a trial
    unsigned writers_ = 0;         // callbacks of this turn that have written
    unsigned left_ = first_trial;  // turns until a trial begins
    unsigned turns_ = 0;           // of the trial
    unsigned rest_ = 0;            // turns for which nothing is held to their end
    unsigned next_rest_ = first_rest;
    unsigned calm_ = 0;  // turns since something was late
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
