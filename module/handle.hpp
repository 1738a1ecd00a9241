// module/handle.hpp: a callback that waits for its turn, or for its time.
//
//     class Handle(asyncio.Handle): ...
//     class TimerHandle(asyncio.TimerHandle): ...
//     class ThreadSafeHandle(asyncio.events._ThreadSafeHandle): ...      from Python 3.14 on
//
// A handle *is* its op: scheduling allocates this object and nothing else, from a free list. It uses
// the slots that asyncio's classes lay out as its storage. Up to four arguments are stored inline, with
// a spare slot in front that lets a bound method be called without copying them; `_args` is made when
// somebody looks. The queue, or the heap, owns one reference until the handle's turn, cancelled or not.
//
// What is queued on a running loop can't be garbage, so the collector need not see it: handles, and the
// contexts that only they hold, are tracked once they outlive their turn, or once the loop stops. (A
// thousand queued callbacks made the collector a third of call_soon's cost.) The loop keeps a list of the
// timers that are hidden in this way: what it shows when it stops is what was armed since it began, not all
// that is armed, so that a run costs the same whatever is armed already.
#pragma once

#include <array>
#include <initializer_list>

#include <zloop/core/timer.hpp>

#include "loop_state.hpp"

namespace zl {

/// The slots of asyncio.Handle, in the order in which type creation lays them out: by name, the weak
/// references last. Checked when the module is imported. asyncio.Handle's descriptors can put anything there,
/// also nothing, at any time: what C++ relies on is not in them.
struct handle_slots {
    PyObject_HEAD
    PyObject* args;  // where they are not inline; a tuple, unless a program knows better
    PyObject* callback;
    PyObject* cancelled;  // unused: `is_cancelled`
    PyObject* context;    // unused: `own_context`
    PyObject* loop;       // what a program has set; else `core`
    PyObject* repr;
    PyObject* source_traceback;
#if PY_VERSION_HEX < 0x030C0000
    PyObject* weak_references;  // from 3.12 on they stand in front of the object
#endif
};

/// Those of asyncio.TimerHandle.
struct timer_handle_slots : handle_slots {
    PyObject* scheduled;  // unused: `armed()`
    PyObject* when;       // only what was given and is no float; else `when_seconds`
};

/// Those of asyncio.events._ThreadSafeHandle, which 3.14 brought.
struct threadsafe_handle_slots : handle_slots {
    PyObject* lock;  // made when asyncio's Python code asks for it, in debug mode
};

/// What all kinds of handle share. `Slots` lead, as in asyncio's class; `Node` is the op.
template <class Slots, class Node>
struct basic_handle : Slots, Node {
    static constexpr std::size_t most_inline = 4;

    loop_state* core;       // a reference
    PyObject* own_context;  // owned; where it is no Context, its run() is called
    PyObject* spare;        // PY_VECTORCALL_ARGUMENTS_OFFSET: must stand right before the arguments
    PyObject* inline_args[most_inline];
    std::uint8_t inline_count;
    bool is_cancelled;
    bool running;
    bool awaited;  // cancel() in another thread waits for the callback to return
    bool taken;    // out of the queue by hand, before its turn

    PyObject* self() noexcept { return reinterpret_cast<PyObject*>(this); }

    /// Calls the callback in its context; null with the error set when it raises.
    py::ref invoke() noexcept;

    /// Its turn: calls the callback and sees to what it raises.
    void run_callback() noexcept;

    py::ref cancel();
    py::ref get_cancelled() { return py::boolean(is_cancelled); }
    void set_cancelled(PyObject* value) { is_cancelled = py::truth(value); }
    py::ref get_args();
    void set_args(PyObject* value);
    py::ref get_callback() {
        return this->callback != nullptr ? py::ref::borrow(this->callback) : py::none();
    }
    void set_callback(PyObject* value) { Py_XSETREF(this->callback, Py_NewRef(value)); }
    py::ref get_context();
    void set_context(PyObject* value);
    py::ref get_loop() { return py::ref::borrow(this->loop != nullptr ? this->loop : core->self()); }
    void set_loop(PyObject* value) { Py_XSETREF(this->loop, Py_NewRef(value)); }
    py::ref get_repr() { return this->repr != nullptr ? py::ref::borrow(this->repr) : py::none(); }
    void set_repr(PyObject* value) { Py_XSETREF(this->repr, Py_NewRef(value)); }
    py::ref get_source_traceback() {
        return this->source_traceback != nullptr ? py::ref::borrow(this->source_traceback) : py::none();
    }
    void set_source_traceback(PyObject* value) { Py_XSETREF(this->source_traceback, Py_NewRef(value)); }

    /// cancel(), without a word of it: its repr may be anybody's code.
    void forget() noexcept;

    /// Shows it to the garbage collector: its loop does not run any more, or somebody else has it.
    void show() noexcept;

    void drop_callback() noexcept;
    void drop_inline_args() noexcept;
    void wait_for_callback();
    int visit_all(visitproc visit, void* arg);
};

struct Handle : basic_handle<handle_slots, zloop::op> {
    static void run_in_turn(zloop::op& node) noexcept;
};

#if PY_VERSION_HEX >= 0x030E0000
#define ZL_HAS_THREADSAFE_HANDLE 1

/// What call_soon_threadsafe() returns: cancel() elsewhere waits for a callback that runs.
struct ThreadSafeHandle : basic_handle<threadsafe_handle_slots, zloop::op> {
    py::ref cancelled();
    py::ref get_lock();
    static void run_in_turn(zloop::op& node) noexcept;
};
#else
#define ZL_HAS_THREADSAFE_HANDLE 0
using ThreadSafeHandle = Handle;
#endif

struct TimerHandle : basic_handle<timer_handle_slots, zloop::timer_node> {
    double when_seconds;
    std::size_t hidden;  // its place among the loop's hidden timers, or `shown`

    static constexpr std::size_t shown = static_cast<std::size_t>(-1);

    py::ref cancel();
    py::ref get_when();
    void set_when(PyObject* value) { Py_XSETREF(when, Py_NewRef(value)); }  // and it is due as before
    py::ref get_scheduled() { return py::boolean(armed()); }
    void set_scheduled(PyObject*) {}  // the heap knows
    static void run_in_turn(zloop::op& node) noexcept;
};

/// A new handle for `callback(*args)` on `core`, in `context` or a copy of the current one. Throws.
Handle* new_handle(loop_state& core, PyObject* callback, PyObject* const* args, std::size_t count,
                   PyObject* context);
ThreadSafeHandle* new_threadsafe_handle(loop_state& core, PyObject* callback, PyObject* const* args,
                                        std::size_t count, PyObject* context);
TimerHandle* new_timer_handle(loop_state& core, PyObject* callback, PyObject* const* args, std::size_t count,
                              PyObject* context);

/// Queues a new handle, and owns a reference to it until its turn; gives the caller's back. What may come
/// from another thread than the loop's, wakes the loop then.
template <class H>
py::ref queue(loop_state& core, H& handle, bool may_be_elsewhere);

/// Arms a new handle for its `when_seconds`, and owns a reference to it likewise.
py::ref arm(loop_state& core, TimerHandle& handle, zloop::time_point deadline);

/// Several handles that are queued together, or not at all.
class new_handles {
public:
    /// In `context`, or in copies of the current one where that is null. Borrows it.
    new_handles(loop_state& core, PyObject* context) noexcept : core_(core), context_(context) {}

    /// Throws.
    void add(PyObject* callback, std::initializer_list<PyObject*> args);

    /// Throws when the loop is closed.
    void queue();

private:
    loop_state& core_;
    PyObject* context_;
    std::array<py::ref, 3> made_;
    std::size_t count_ = 0;
};

/// Schedules `callback(*args)` in `context` (null: a copy of the current one). Throws.
void schedule(loop_state& core, PyObject* callback, std::initializer_list<PyObject*> args, PyObject* context);

/// The handle that `node` is, or null when it is another kind of op.
PyObject* handle_of(zloop::op& node) noexcept;

/// For who turns the loop by hand: the handle of an op that has left the queue, whose reference it owned; and
/// the op of a handle of `core` that was taken so, for the queue to own again, or null of any other object.
py::ref take_handle(zloop::op& node) noexcept;
zloop::op* return_handle(const loop_state& core, PyObject* object) noexcept;

/// Shows the handle that `node` is, if it is one.
void show_handle(zloop::op& node) noexcept;

/// Shows it all that is queued: the loop does not run any more.
void track_queued(loop_state& core) noexcept;

/// Makes the types. Throws ImportError when this Python lays asyncio's classes out in another way.
void add_handle_types(PyObject* module, module_state& state);
void drop_free_handles(module_state& state) noexcept;

}  // namespace zl
