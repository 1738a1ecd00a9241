// module/loop_core.hpp: the native half of zloop.Loop: scheduling, the turn, descriptors, serving.
//
//     class LoopCore:
//         def call_soon(self, callback, *args, context=None): ...
//         def call_later(self, delay, callback, *args, context=None): ...
//         def create_future(self): ...
//         def _run_once(self): ...
//
// It stands first among the bases of zloop.Loop; what it does not have is asyncio's. It owns the C++
// loop, and with it one reference to each queued handle, watched callback and open transport.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include <zloop/loop.hpp>

#include "handle.hpp"

namespace zl {

struct SocketTransport;
struct acceptor;

/// The callback that add_reader() or add_writer() left for a descriptor.
struct descriptor_watch final : zloop::watcher {
    descriptor_watch(LoopCore& owner, int descriptor, zloop::direction way, Handle* registered) noexcept;
    ~descriptor_watch() { Py_XDECREF(handle != nullptr ? handle->self() : nullptr); }

    static void run_in_turn(zloop::op& node) noexcept;

    LoopCore& core;
    Handle* handle;        // owned
    bool removed = false;  // while queued; then the turn frees it
};

/// Written parts that leave together when the running callback returns. One per loop: a second
/// transport that writes sends the first one's.
struct cork {
    static constexpr unsigned most_parts = 16;
    static constexpr std::size_t most_bytes = 16 * 1024;

    SocketTransport* owner = nullptr;
    unsigned count = 0;
    std::size_t bytes = 0;
    PyObject* parts[most_parts];  // bytes objects, owned
};

/// What the C++ loop asks of us: to let go of the GIL while it looks at the kernel, and the time if it is overridden.
struct loop_hooks final : zloop::wait_hook, zloop::clock_source {
    explicit loop_hooks(LoopCore& owner) noexcept : core(owner) {}
    void before_wait() noexcept override;
    void after_wait() noexcept override;
    zloop::time_point now() noexcept override;

    LoopCore& core;
    PyThreadState* thread = nullptr;
};

struct loop_core_fields {
    explicit loop_core_fields(LoopCore& self) noexcept : hooks(self) {}

    loop_hooks hooks;
    module_state* state = nullptr;
    std::unique_ptr<zloop::loop> loop;  // null once closed
    py::ref module;                     // keeps `state` alive
    py::ref task_factory;
    py::ref thread_id;  // an int, or None while the loop does not run
    py::ref failure;    // an exception that leaves run_forever: _run_once raises it

    bool debug = false;
    bool closed = false;
    bool stopping = false;
    bool dropping = false;     // what is queued ends without calling Python
    bool in_callback = false;  // Python runs, called by the loop
    bool own_time = false;     // time() is overridden

    unsigned long thread = 0;  // that runs the loop, or 0
    std::mutex callback_mutex;  // for callback_returned; what it is about belongs to the GIL
    std::condition_variable callback_returned;  // of a handle that a canceller in another thread awaits
    zl::cork cork;
    SocketTransport* transports = nullptr;  // open ones; one reference each
    std::vector<SocketTransport*> transport_of;  // by descriptor; borrowed
    std::unordered_map<int, std::unique_ptr<descriptor_watch>> readers, writers;
    std::unordered_map<int, acceptor*> acceptors;  // each deletes itself once stopped

    using owned =
        py::owned<&loop_core_fields::module, &loop_core_fields::task_factory, &loop_core_fields::thread_id,
                  &loop_core_fields::failure>;
};

struct LoopCore : py::object, loop_core_fields {
    // Scheduling.
    py::ref call_soon(const py::arguments& args);
    py::ref call_soon_threadsafe(const py::arguments& args);
    py::ref call_later(const py::arguments& args);
    py::ref call_at(const py::arguments& args);
    py::ref create_future();
    py::ref create_task(const py::arguments& args);
    py::ref time();

    // Running.
    py::ref run_once();
    py::ref stop();
    py::ref drop();
    py::ref get_backend();
    py::ref get_stats();

    // Descriptors.
    py::ref add_reader(const py::arguments& args);
    py::ref add_writer(const py::arguments& args);
    py::ref remove_reader(PyObject* descriptor);
    py::ref remove_writer(PyObject* descriptor);
    py::ref watched_events(PyObject* descriptor);
    py::ref transport_on(PyObject* descriptor);

    // Serving.
    py::ref make_socket_transport(const py::arguments& args);
    py::ref start_accepting(const py::arguments& args);
    py::ref stop_accepting(PyObject* sock);

    // What asyncio's Python code keeps in attributes, and we look at in every callback.
    py::ref get_debug();
    void set_debug(PyObject* value);
    py::ref get_closed();
    void set_closed(PyObject* value);
    py::ref get_stopping();
    void set_stopping(PyObject* value);
    py::ref get_thread_id();
    void set_thread_id(PyObject* value);
    py::ref get_task_factory();
    void set_task_factory(PyObject* value);

    // For the rest of the module.

    /// Calls a handle's callback and sees to what it raises.
    template <class H>
    void run_handle(H& handle) noexcept;

    /// Queues a new handle, and owns a reference to it until its turn; gives the caller's back.
    template <class H>
    py::ref queue(H& handle, bool from_another_thread);

    /// Takes the exception out of Python's error indicator and ends the turn; _run_once raises it. What
    /// still runs until then may call Python: it finds the indicator clear.
    void fail() noexcept;

    /// Raises what fail() has taken, if there is something.
    void raise_failure();

    /// Sees to an error that has nobody to go to. The indicator is set.
    void report_unraisable(PyObject* where) noexcept;

    /// Sees to an exception from `callback`, as asyncio.Handle._run does. The indicator is set.
    void report_callback(PyObject* handle) noexcept;

    /// Schedules `callback(*args)` in `context` (null: a copy of the current one). Throws.
    void schedule(PyObject* callback, std::initializer_list<PyObject*> args, PyObject* context);

    /// Raises asyncio's "Event loop is closed" when it is.
    void check_closed() const;
};

inline LoopCore& loop_core(PyObject* object) noexcept { return *reinterpret_cast<LoopCore*>(object); }

/// Python runs, called by the loop: what it writes is corked until the end of the scope.
class callback_scope {
public:
    explicit callback_scope(LoopCore& core) noexcept
        : core_(core), outer_(std::exchange(core.in_callback, true)) {}
    callback_scope(const callback_scope&) = delete;
    callback_scope& operator=(const callback_scope&) = delete;
    ~callback_scope();

private:
    LoopCore& core_;
    bool outer_;
};

void add_loop_core_type(PyObject* module, module_state& state);

}  // namespace zl
