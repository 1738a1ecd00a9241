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

#include <memory>
#include <unordered_map>

#include "handle.hpp"
#include "literals.hpp"

namespace zl {

struct SockOperation;
struct acceptor;

/// The callback that add_reader() or add_writer() left for a descriptor.
struct descriptor_watch final : zloop::watcher {
    descriptor_watch(loop_state& owner, int descriptor, zloop::direction way, Handle* registered) noexcept;
    ~descriptor_watch() { Py_XDECREF(handle != nullptr ? handle->self() : nullptr); }

    static void run_in_turn(zloop::op& node) noexcept;

    loop_state& core;
    Handle* handle;        // owned
    py::ref object;        // what it was watched as, when that was no number: it may be closed by now
    py::ref former;        // as whom this number was watched before, and closed, and never removed
    bool removed = false;  // while queued; then the turn frees it
};

/// What the C++ loop asks of us: to let go of the GIL while it looks at the kernel, and the time if it is
/// overridden.
struct loop_hooks final : zloop::wait_hook, zloop::clock_source {
    explicit loop_hooks(loop_state& owner) noexcept : core(owner) {}
    void before_wait() noexcept override;
    void after_wait() noexcept override;
    zloop::time_point now() noexcept override;
    void look_at_signals() noexcept;

    loop_state& core;
    PyThreadState* thread = nullptr;
    zloop::wait_hook* outer = nullptr;  // its owner's, of a loop that is lent
};

/// What the owner of a lent loop asks of a run: turns of at most `limit`, until is_over(what) after one.
struct owners_run {
    bool (*is_over)(const void* what) = nullptr;  // null: nobody asks
    const void* what = nullptr;
    zloop::nanoseconds limit = zloop::loop::forever;
};

struct loop_core_fields {
    explicit loop_core_fields(loop_state& self) noexcept : hooks(self) {}

    loop_hooks hooks;
    py::ref task_factory;
    py::ref thread_id;  // an int, or None while the loop does not run

    bool stopping = false;
    bool turns_until_stop = false;  // the next _run_once() is all turns until stop(), as run_forever() wants
    bool own_time = false;          // time() is overridden
    owners_run asked;

    std::unordered_map<int, std::unique_ptr<descriptor_watch>> readers, writers;
    SockOperation* sock_operations = nullptr;   // that wait, the newest first; one reference each
    std::size_t sock_operations_in_line = 0;    // of them; the others are watching
    std::unique_ptr<std::byte[]> sock_scratch;  // what they receive into
    literal_answers literals;
    std::uint64_t sock_turn = 0;                   // the callback, by the loop's count, in which
    unsigned sock_calls = 0;                       // so many operations began
    std::unordered_map<int, acceptor*> acceptors;  // each deletes itself once stopped

    using owned = py::owned<&loop_core_fields::task_factory, &loop_core_fields::thread_id>;
};

struct LoopCore : loop_state, loop_core_fields {
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
    py::ref gather(PyObject* timeout);
    py::ref count_ready();
    py::ref list_ready();
    py::ref take_ready();
    py::ref run_ready();
    py::ref put_back(const py::arguments& args);
    py::ref stop();
    py::ref drop();
    py::ref check_idle();
    py::ref get_backend();
    py::ref get_writes();
    void set_writes(PyObject* value);
    py::ref get_stats();

    // Descriptors.
    py::ref add_reader(const py::arguments& args);
    py::ref add_writer(const py::arguments& args);
    py::ref remove_reader(PyObject* descriptor);
    py::ref remove_writer(PyObject* descriptor);
    py::ref watched_events(PyObject* descriptor);
    py::ref transport_on(PyObject* descriptor);

    // Transports.
    py::ref make_socket_transport(const py::arguments& args);
    py::ref make_datagram_transport(const py::arguments& args);
    py::ref make_read_pipe_transport(const py::arguments& args);
    py::ref make_write_pipe_transport(const py::arguments& args);
    py::ref make_tls_transport(const py::arguments& args);
    py::ref start_accepting(const py::arguments& args);
    py::ref stop_accepting(PyObject* sock);

    // Calls on sockets, in socket/calls.cpp.
    py::ref sock_recv(const py::arguments& args);
    py::ref sock_recv_into(const py::arguments& args);
    py::ref sock_recvfrom(const py::arguments& args);
    py::ref sock_recvfrom_into(const py::arguments& args);
    py::ref sock_sendall(const py::arguments& args);
    py::ref sock_sendto(const py::arguments& args);
    py::ref begin_sock_sendfile(const py::arguments& args);
    py::ref literal_info(const py::arguments& args);
    py::ref connect(const py::arguments& args);
    py::ref sock_connect(const py::arguments& args);
    py::ref sock_accept(const py::arguments& args);

    // What asyncio's Python code keeps in attributes, and we look at in every callback.
    py::ref get_debug();
    void set_debug(PyObject* value);
    py::ref get_closed();
    void set_closed(PyObject* value);
    py::ref get_stopping();
    void set_stopping(PyObject* value);
    py::ref get_turns_until_stop() { return py::boolean(turns_until_stop); }
    void set_turns_until_stop(PyObject* value);
    py::ref get_thread_id();
    void set_thread_id(PyObject* value);
    py::ref get_task_factory();
    void set_task_factory(PyObject* value);

    // For the rest of the module.

    /// Calls asyncio's own method: it knows how to refuse these arguments, or this version's keywords.
    py::ref call_inherited(const char* name, const py::arguments& args);

    /// Whether a call on a socket may be tried at once: a task whose peer is always faster starves nobody.
    bool take_sock_turn() noexcept;
};

/// Does something when its scope is left.
template <class F>
struct at_exit {
    F action;
    ~at_exit() { action(); }
};
template <class F>
at_exit(F) -> at_exit<F>;

inline LoopCore& loop_core(PyObject* object) noexcept { return *reinterpret_cast<LoopCore*>(object); }

/// A new zloop.Loop on a loop that is somebody else's. Throws.
py::ref make_on(zloop::loop& lent);

/// Calls run_forever() for the owner of a lent loop. Throws.
void run_for_owner(LoopCore& core, const owners_run& asked);

/// The loop that turns in this thread; null: none of this interpreter's.
LoopCore* turning_here(const module_state& state) noexcept;

void add_loop_core_type(PyObject* module, module_state& state);

}  // namespace zl
