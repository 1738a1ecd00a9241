// zloop/python/asyncio_on.hpp: asyncio on a C++ program's own loop, where Python is embedded.
//
// The loop is its owner's. On it stands a zloop.Loop, with all that it has; whoever runs the loop, C++ by
// run(), run_once() or zloop::run(), Python by run_until_complete(), runs both halves. Each run that C++ asks
// for is a run_forever() of asyncio's: so the GIL is held in the turns and let go of in the waits, a running
// loop is set, and what a callback raises to end the program leaves the run.
//
// Signals are the owner's. What a Python program asks for itself, add_signal_handler() say, it gets.
#pragma once

#include <zloop/python/interpreter.hpp>

#include <zloop/loop.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

/// Has the GIL, as a thread that may have it already, or none of Python's state.
class gil {
public:
    gil() noexcept : state_(PyGILState_Ensure()) {}
    gil(const gil&) = delete;
    gil& operator=(const gil&) = delete;
    ~gil() { PyGILState_Release(state_); }

private:
    PyGILState_STATE state_;
};

}  // namespace detail
#pragma GCC visibility pop

/// Puts asyncio on a C++ loop, as long as it lives: `zloop::python::asyncio_on asyncio(loop)`.
///
/// C++ tasks that await Python end before it does: on their own loop, what they touch needs the GIL.
///
/// Owns:    the zloop.Loop, not the C++ loop, which lives longer: else its end, or its shut_down(), closes
/// this
///          first. Neither moves nor is copied.
/// Thread:  that of the loop, in the main interpreter.
/// Example: examples/extension/embedding/embedding.cpp
class asyncio_on final : turner {
public:
    /// Makes the zloop.Loop. With the GIL, outside of the loop's turns.
    ///
    /// Fails: throws `raised`: an ImportError where zloop's package is missing or was built from other
    /// headers,
    ///        a RuntimeError in another interpreter, and for a loop that has asyncio on it, or another
    ///        turner.
    explicit asyncio_on(zloop::loop& on) : on_(on), home_(detail::interpreter::here()) {
        detail::checked(PyImport_ImportModule("zloop"), home_.cancelled_error.get());
        const detail::core& package = *home_.import_package();
        if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
            refuse("a C++ loop has asyncio on it in the main interpreter only");
        }
        if (on.turned_by() != nullptr) {
            refuse("this C++ loop has asyncio on it already");
        }
        asyncio_ = detail::checked(package.make_on(package, on), home_.cancelled_error.get());
        on.use_turner(this);
    }

    asyncio_on(const asyncio_on&) = delete;
    asyncio_on& operator=(const asyncio_on&) = delete;

    /// As close(); what fails in it is told by sys.unraisablehook. Also without the GIL.
    ~asyncio_on() {
        leave();
        const detail::gil held;
        asyncio_.reset();
    }

    /// The zloop.Loop.
    const object& loop() const noexcept { return asyncio_; }

    /// Runs the loop until `awaitable` is done, as run_until_complete() does, and gives its result. With the
    /// GIL.
    /// Fails: throws what it raises, and a RuntimeError inside of a run.
    object run(const object& awaitable) { return call("run_until_complete", awaitable.get()); }

    /// Makes a Task of `coroutine`, as create_task() does: asyncio has no reference to it, so keep it. With
    /// the GIL.
    /// Fails: throws what that raises.
    object start(const object& coroutine) { return call("create_task", coroutine.get()); }

    /// Ends Python's half as asyncio.run() does: cancels all tasks and waits for their ends, ends
    /// asynchronous generators and the threads of the executor, and closes the zloop.Loop. C++'s half goes
    /// on. Python may have done so itself, by close(), which does not wait for anything. With the GIL,
    /// outside of a run. Fails: throws what one of these raises.
    void close() {
        if (on_.turned_by() == this) {
            call("_end");
        }
    }

private:
    [[noreturn]] void refuse(const char* words) const {
        PyErr_SetString(PyExc_RuntimeError, words);
        detail::throw_error_set(home_.cancelled_error.get());
    }

    template <class... Values>
    object call(const char* name, Values... values) const {
        const object named = detail::checked(PyUnicode_FromString(name), home_.cancelled_error.get());
        return detail::checked(detail::call_method(asyncio_.get(), named.get(), values...),
                               home_.cancelled_error.get());
    }

    void turn_until(bool (*is_over)(const void*), const void* what, nanoseconds limit) override {
        const detail::gil held;
        const detail::core& package = *home_.package();
        do {
            if (!package.run(package, asyncio_.get(), is_over, what, limit)) {
                detail::throw_error_set(home_.cancelled_error.get());
            }
        } while (!is_over(what));  // it was Python's stop(), of a run that has another end
    }

    void leave() noexcept override {
        if (on_.turned_by() != this) {
            return;
        }
        const detail::gil held;
        const detail::error_kept kept;
        for (const char* way : {"_end", "close"}) {
            const object done = object::steal(PyObject_CallMethod(asyncio_.get(), way, nullptr));
            if (!done) {
                PyErr_WriteUnraisable(asyncio_.get());
            }
        }
        if (on_.turned_by() == this) {
            Py_FatalError("asyncio on a C++ loop has ended in a turn of that loop");
        }
    }

    zloop::loop& on_;
    detail::interpreter& home_;
    object asyncio_;
};

}  // namespace zloop::python
