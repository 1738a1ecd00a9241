// module/loop_state.hpp: what handles and transports know of their loop.
//
// The lower half of LoopCore: what is looked at in every callback, and whom an error in one is told.
// Handles stand on it, transports on handles, and LoopCore (loop_core.hpp) on all of them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <zloop/loop.hpp>

#include "hold.hpp"
#include "state.hpp"

namespace zl {

struct transport;
struct TimerHandle;

/// Ends the C++ loop, unless it is somebody else's.
struct loop_end {
    bool is_lent = false;
    void operator()(zloop::loop* ended) const noexcept {
        if (!is_lent) {
            delete ended;
        }
    }
};

struct loop_state_fields {
    module_state* state = nullptr;
    std::unique_ptr<zloop::loop, loop_end> loop;  // null once closed
    std::optional<zloop::scope> within;           // of all that the module has on it
    py::ref module;                               // keeps `state` alive
    py::ref failure;                              // an exception that leaves run_forever: _run_once raises it

    bool debug = false;
    bool calls_run = false;  // handles run by their _run(): in debug mode, and where that was replaced
    bool closed = false;
    bool dropping = false;     // what is queued ends without calling Python
    bool in_callback = false;  // Python runs, called by the loop
    bool turning = false;      // inside of _run_once(): what is queued is hidden from the collector
    bool posted = false;       // by another thread, since we looked last
    bool writes_wait = false;  // to the end of the turn, instead of being sent at once

    unsigned long thread = 0;                   // that runs the loop, or 0
    std::mutex callback_mutex;                  // for callback_returned; what it is about belongs to the GIL
    std::condition_variable callback_returned;  // of a handle that a canceller in another thread awaits
    std::uint32_t callback = 0;                 // the number of the one that runs, or ran last
    held_sockets held;
    transport* transports = nullptr;             // open ones; one reference each
    std::vector<transport*> transport_of;        // the sockets' by descriptor; borrowed
    std::vector<TimerHandle*> hidden_timers;     // that the collector does not see; borrowed
    std::unique_ptr<char[]> pipe_buffer;         // what is read from a pipe, until it is bytes
    std::unique_ptr<std::byte[]> datagram_room;  // to receive into, once there is a datagram transport

    using owned = py::owned<&loop_state_fields::module, &loop_state_fields::failure>;
};

struct loop_state : py::object, loop_state_fields {
    /// Takes the exception out of Python's error indicator and ends the turn; _run_once raises it. What
    /// still runs until then may call Python: it finds the indicator clear.
    void fail() noexcept;

    /// Raises what fail() has taken, if there is something.
    void raise_failure();

    /// Sees to an error that has nobody to go to. The indicator is set.
    void report_unraisable(PyObject* where) noexcept;

    /// Sees to an exception from a callback, as asyncio.Handle._run does. The indicator is set.
    void report_callback(PyObject* handle) noexcept;

    /// Something was sent, or closed: the next turn asks the kernel, as each does in asyncio. A program, and
    /// a test above all, that has both ends in one loop counts turns until it has come.
    void has_sent() noexcept {
        if (loop) {
            loop->ask_next_turn();
        }
    }

    /// Decides whether handles run by their _run(): once a run and a wait, which costs callbacks nothing.
    void look_at_run() noexcept;

    /// Whether the C++ loop is somebody else's, who turns it as well and has more on it than we.
    bool is_lent() const noexcept { return loop.get_deleter().is_lent; }

    /// Raises asyncio's "Event loop is closed" when it is.
    void check_closed() const;
};

inline loop_state& state_of_loop(PyObject* object) noexcept { return *reinterpret_cast<loop_state*>(object); }

/// Python runs, called by the loop: a callback, to those who ask which parts are written in one.
class callback_scope {
public:
    explicit callback_scope(loop_state& core) noexcept
        : core_(core), outer_(std::exchange(core.in_callback, true)) {
        core_.callback += !outer_;
    }
    callback_scope(const callback_scope&) = delete;
    callback_scope& operator=(const callback_scope&) = delete;
    ~callback_scope() {
        core_.in_callback = outer_;
        if (!outer_ && !core_.held.empty()) {
            core_.held.end_callback();
        }
    }

private:
    loop_state& core_;
    bool outer_;
};

}  // namespace zl
