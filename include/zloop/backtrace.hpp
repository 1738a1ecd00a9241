// zloop/backtrace.hpp: who awaits what, at which source line: the stacks of coroutines.
//
// A loop knows the tasks that were started on it and have not ended; each coroutine's promise knows what it
// awaits and where. For a debugger's prompt, a signal handler's task, a log: it costs nothing until asked.
// Asked from the loop's thread, inside of a task or between turns. What it gives points into no frame.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <zloop/loop.hpp>
#include <zloop/task.hpp>

namespace zloop {

/// One coroutine of a stack, and what it awaits, or last awaited, if it runs just now.
/// Example: examples/cpp/backtrace.cpp
struct frame_trace {
    const char* what;  ///< what is awaited: "task", "sleep", "recv"...
    site where;        ///< the co_await

    /// The function that the co_await is in, as the compiler spells it.
    std::string function() const {
        std::string_view name = where.function_name();
        constexpr std::string_view ramp = ".Frame*)";  // g++ means `f` by "void f(f(int)::_Z1fi.Frame*)"
        constexpr std::string_view returned = "void ";
        if (name.ends_with(ramp) && name.starts_with(returned)) {
            name = name.substr(returned.size(), name.find('(') - returned.size());
        }
        return std::string(name);
    }
};

/// A task, from the coroutine that was started down to the one that waits. Empty before its first await.
/// Owns: copies: it points into no frame.
using task_trace = std::vector<frame_trace>;

/// Gives every task of `on` that has been started and has not ended, the oldest first.
///
/// Fails:   throws std::bad_alloc.
/// Thread:  that of the loop.
/// Example: examples/cpp/backtrace.cpp
inline std::vector<task_trace> backtrace(const loop& on) {
    std::vector<task_trace> tasks;
    const detail::live_task* oldest = on.live_tasks();
    while (oldest != nullptr && oldest->next != nullptr) {
        oldest = oldest->next;
    }
    for (; oldest != nullptr; oldest = oldest->previous) {
        task_trace& stack = tasks.emplace_back();
        for (const detail::task_promise_base* frame = oldest->bottom; frame != nullptr;) {
            const detail::awaited& awaited = frame->waiting_for();
            if (awaited.child == nullptr && awaited.what == nullptr) {
                break;  // it runs, and has awaited nothing yet
            }
            stack.push_back({awaited.child != nullptr ? "task" : awaited.what, awaited.where});
            frame = awaited.child != frame ? awaited.child : nullptr;
        }
    }
    return tasks;
}

/// Prints the stacks of all tasks of `on`, a coroutine a line.
///
/// Thread:  that of the loop.
/// Example: examples/cpp/backtrace.cpp
inline void print_backtrace(const loop& on, std::FILE* to = stderr) {
    std::size_t number = 0;
    for (const task_trace& stack : backtrace(on)) {
        std::fprintf(to, "task %zu%s\n", ++number, stack.empty() ? ", which has awaited nothing yet" : "");
        for (const frame_trace& frame : stack) {
            std::fprintf(to, "  %s\n    at %s:%u, awaits %s\n", frame.function().c_str(),
                         frame.where.file_name(), static_cast<unsigned>(frame.where.line()), frame.what);
        }
    }
}

namespace detail {

/// Says that an owner of running tasks was destroyed, and ends the process; while an exception passes, when
/// that has arrived (loop::condemn). `gone`: of the loop's queue, in the owner's memory.
inline void left_early(loop& on, const char* what, const op* gone = nullptr) noexcept {
    const bool passing = std::uncaught_exceptions() != 0;
    std::fprintf(stderr, "zloop: %s%s\n", what, passing ? ", as an exception passed" : "");
    try {
        print_backtrace(on);
    } catch (...) {  // no memory: without it
    }
    if (!passing) {
        std::abort();
    }
    on.condemn(gone);
}

}  // namespace detail

}  // namespace zloop
