// zloop/watch.hpp: wait until a descriptor that is somebody else's can be read or written.
//
// For what has no operation of ours: a pidfd, an inotify, a library's own socket, the terminal that
// we were started on. The descriptor's flags stay as they are, and it is watched only while a task
// waits. The awaiter is the watcher: it lives in the coroutine frame.
#pragma once

#include <poll.h>

#include <zloop/error.hpp>
#include <zloop/task.hpp>

namespace zloop {

namespace detail {

/// Whether a read or a write would not block now. A regular file's never does.
inline bool is_ready(int fd, direction toward) noexcept {
    pollfd asked{fd, static_cast<short>(toward == direction::read ? POLLIN : POLLOUT), 0};
    return ::poll(&asked, 1, 0) == 1 && (asked.revents & POLLNVAL) == 0;
}

// Not `parked`: the backend queues the watcher itself, and that is the coroutine's turn already.
class watch_awaiter : watcher, cancellable {
public:
    watch_awaiter(int descriptor, direction way) noexcept
        : watcher(&watch_awaiter::finish, descriptor, way), cancellable(&watch_awaiter::stop) {
        once = true;
    }
    watch_awaiter(watch_awaiter&& other) noexcept : watch_awaiter(other.fd, other.toward) {}

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        note(caller.promise(), toward == direction::read ? "a readable descriptor" : "a writable descriptor",
             where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->refuses()) {
            outcome_ = std::make_error_code(std::errc::operation_canceled);
            return false;
        }
        // Asked first: this saves the two changes of what the backend watches, and knows of files that
        // no backend can watch.
        if (is_ready(fd, toward)) {
            surroundings_.on->push(*this);
        } else if ((outcome_ = surroundings_.on->kernel().watch(*this))) {
            return false;
        } else {
            watching_ = true;
        }
        caller_ = caller;
        surroundings_.within->enter(*this);
        return true;
    }

    result<void> await_resume() const noexcept { return outcome_; }

private:
    static void finish(op& node) noexcept {
        auto& self = static_cast<watch_awaiter&>(node);
        self.unwatch();
        self.surroundings_.within->leave(static_cast<bool>(self.outcome_));
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<watch_awaiter&>(leaf);
        if (self.watching_ && !self.queued) {  // else it is ready already, and that wins
            self.unwatch();
            self.outcome_ = std::make_error_code(std::errc::operation_canceled);
            self.surroundings_.on->push(self);
        }
    }

    void unwatch() noexcept {
        if (watching_) {
            watching_ = false;
            surroundings_.on->kernel().unwatch(*this);
        }
    }

    context surroundings_;
    std::coroutine_handle<> caller_;
    std::error_code outcome_;
    bool watching_ = false;
};

}  // namespace detail

/// Suspends the calling task until `fd`, which is not in service of a loop, has something to read: data,
/// the end, an error.
///
/// Completes: on a later turn, also where it is ready at once (as a regular file always is). What is there
///            may be gone again when the task reads: who shares the descriptor reads so that it does not
///            block.
/// Fails:     `bad_file_descriptor`; `device_or_resource_busy` where another task waits for the same, or the
///            descriptor is a stream's; `operation_canceled`.
/// Cancelled: leaves at once; one that is ready already wins. Nothing was read in either case.
/// Owns:      nothing: the descriptor stays open until the wait has ended. Nothing is watched after that.
/// Overlap:   one wait a direction of a descriptor.
/// Thread:    that of its loop.
/// Example:   examples/cpp/watch.cpp
[[nodiscard]] inline auto wait_readable(int fd) noexcept {
    return detail::watch_awaiter(fd, direction::read);
}

/// Suspends the calling task until `fd` takes something, or has failed; otherwise as wait_readable.
/// Example: examples/cpp/watch.cpp
[[nodiscard]] inline auto wait_writable(int fd) noexcept {
    return detail::watch_awaiter(fd, direction::write);
}

}  // namespace zloop
