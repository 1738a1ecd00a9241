// zloop/python.hpp: C++ tasks that Python awaits, and Python awaitables that C++ awaits, on one loop.
//
// No binding library is in it: pybind11.hpp is a layer on top, and any other can be. A task runs inside of
// the step of the asyncio.Task that awaits it; what it waits for in C++ the loop resumes without Python. On
// zloop's loops these are the loop's own; on asyncio's and uvloop's a C++ loop is their guest.
//
// zloop.hpp leaves this header out: it and its parts are the only ones that need Python's headers. All of it
// belongs to the loop's thread, with the GIL, which a loop that has Python on it holds in its turns.
#pragma once

#include <zloop/python/object.hpp>

#include <type_traits>
#include <utility>

#include <zloop/python/asyncio_on.hpp>
#include <zloop/python/awaitable.hpp>
#include <zloop/python/buffer.hpp>
#include <zloop/python/iteration.hpp>

namespace zloop::python {

/// Imports zloop's package, where there is one, so that a mismatch is told when an extension is imported, not
/// when it is used first. To be called by a module's initialization.
///
/// Fails:   throws `raised`: an ImportError where the package was built from other headers than the
/// extension. Example: examples/extension/first/first.cpp
inline void import_zloop() { detail::interpreter::here().import_package(); }

/// Gives the C++ loop under the asyncio loop that runs in this thread: zloop's own, or a guest in another.
///
/// Fails:   throws `raised`: a RuntimeError where no loop runs, an ImportError as import_zloop() does.
/// Thread:  that of the loop.
/// Example: examples/extension/first/first.cpp
inline loop& running_loop() { return *detail::running_place().on; }

/// The same with the scope of what ends with the asyncio loop: `spawn(running_context(), serve(…))`. What is
/// spawned on the loop alone lives as long as that, and longer than asyncio on a C++ program's own
/// (asyncio_on): so nothing that calls Python.
/// Example: examples/extension/http/httpd.cpp
inline context running_context() {
    const detail::place found = detail::running_place();
    return {found.on, found.within};
}

/// Tells the running loop that a plain function has given the C++ loop something to do: it has sent into a
/// channel, cancelled a job, spawned a task. zloop's loops see that by themselves, and this does nothing;
/// asyncio's and uvloop's do not.
///
/// Thread:  that of the loop.
/// Example: examples/extension/first/first.cpp
inline void touch_loop() noexcept { detail::touch_running(); }

/// Makes a Python awaitable of `work`: to await, or for create_task(), gather(), a TaskGroup, as a coroutine.
/// It runs when it is awaited, once. `convert`, a callable without state, makes the result a new reference,
/// or returns null with the error set; a result<U> is converted as a U, or is its error.
///
/// Completes: with the result of `work`.
/// Fails:     raises what `work` threw: a Python exception as itself, std::system_error as OSError or the
///            subclass of its errno, operation_canceled as CancelledError, other classes of the standard as
///            pybind11 has them. Throws `raised` where Python has no memory.
/// Cancelled: by the awaiting Task: `work`'s scope is cancelled, and the Task waits until it has ended.
/// Owns:      `work`. Closed or dropped while it waits, it is cancelled, and ends alone.
/// Thread:    that of its loop.
/// Example:   examples/extension/first/first.cpp
template <class T, class Convert>
object awaitable(task<T> work, [[maybe_unused]] Convert convert, object name = object()) {
    static_assert(std::is_empty_v<Convert> && std::is_default_constructible_v<Convert>,
                  "a converter has no state: write a lambda that captures nothing");
    work.require();
    return detail::make_awaitable(detail::work_of<T, Convert>::kind, work.release(), std::move(name));
}

/// The same of a task whose result is an object already, or nothing.
inline object awaitable(task<object> work, object name = object()) {
    return awaitable(std::move(work), [](object given) { return given.release(); }, std::move(name));
}
inline object awaitable(task<void> work, object name = object()) {
    return awaitable(std::move(work), [] { return Py_NewRef(Py_None); }, std::move(name));
}

/// What await() gives.
class [[nodiscard]] awaiter : detail::waiter {
public:
    /// Will await `what`.
    explicit awaiter(object what) noexcept : waiter(std::move(what)) {}

    bool await_ready() const noexcept { return false; }
    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        zloop::detail::note(caller.promise(), "a Python awaitable", where);
        return begin(caller, caller.promise().surroundings());
    }
    object await_resume() { return take(detail::interpreter::here()); }
};

/// Awaits a Python object as `await` does: `object answer = co_await python::await(coroutine)`.
///
/// Completes: with what the awaitable gives.
/// Fails:     throws what it raises, as a `raised` which is also what C++ has for it: std::system_error for
///            OSError and CancelledError, std::bad_alloc for MemoryError, else `error`.
/// Cancelled: the awaitable is, as by Task.cancel(), and what it answers is passed on: CancelledError, as a
///            rule, which is a std::system_error with operation_canceled.
/// Overlap:   any number in a program. One at a time is awaited by the Task that awaits the C++ task; others,
///            and those of tasks that no Task awaits, get a Task of their own.
/// Thread:    that of its loop, which an asyncio loop runs.
/// Example:   examples/extension/first/first.cpp
inline awaiter await(object what) noexcept { return awaiter(std::move(what)); }

}  // namespace zloop::python
