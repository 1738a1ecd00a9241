// zloop/kernel/kqueue.hpp: the backend of macOS and the BSDs.
//
// A kqueue knows a registration by (descriptor number, direction) and forgets it when that number is
// closed, duplicates or not: no stray events, as epoll has them. The queue is not inherited by a fork. Its
// number in the child is free, or somebody else's: it is never used or closed there.
//
// A file is refused with EPERM, as epoll refuses it: a kqueue would say nothing at its end. So is what macOS
// cannot watch at all, such as some devices. The kernel tells each direction's readiness apart. Only the end
// of reading counts as a hang-up: that of writing comes also from our own shutdown().
//
// libkqueue, which is kqueue(2) over Linux's epoll, does not see that a number is closed, and answers a later
// registration of it with the old one, which is nowhere any more. There, each is ended before the number is.
#pragma once

#include <zloop/config.hpp>

#if ZLOOP_HAS_KQUEUE

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <span>

#include <fcntl.h>
#include <sys/event.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>

#include <zloop/core/fd.hpp>
#include <zloop/core/fork.hpp>
#include <zloop/core/platform.hpp>
#include <zloop/kernel/readiness.hpp>

namespace zloop {

namespace detail {

/// What an event carries for its registration: an integer on NetBSD, a pointer elsewhere.
using event_data = decltype(kevent::udata);

/// One change of a kqueue, which answers with its outcome and with nothing else.
inline struct kevent change_of(int ident, int filter, int flags, unsigned int filter_flags = 0,
                               std::uint32_t tag = 0) noexcept {
    struct kevent made {};
    made.ident = static_cast<std::uintptr_t>(ident);
    made.filter = static_cast<decltype(made.filter)>(filter);
    made.flags = static_cast<decltype(made.flags)>(flags | EV_RECEIPT);
    made.fflags = filter_flags;
    made.udata = std::bit_cast<event_data>(std::uintptr_t{tag});
    return made;
}

/// Makes `changes`, and leaves its outcome in each: outcome_of().
inline void make_changes(int queue, std::span<struct kevent> changes) noexcept {
    constexpr timespec at_once{};
    const int count = static_cast<int>(changes.size());
    if (::kevent(queue, changes.data(), count, changes.data(), count, &at_once) < 0) {
        for (struct kevent& each : changes) {
            each.flags = EV_ERROR;
            each.data = errno;
        }
    }
}

/// What a change failed with; 0 is success.
inline int outcome_of(const struct kevent& change) noexcept {
    return (change.flags & EV_ERROR) != 0 ? static_cast<int>(change.data) : 0;
}

inline int make_change(int queue, struct kevent what) noexcept {
    make_changes(queue, {&what, 1});
    return outcome_of(what);
}

/// kqueue(2), close-on-exec. No descriptor: errno tells.
inline fd make_kqueue() noexcept {
    fd made(::kqueue());
    if (made) {
        ::fcntl(made.get(), F_SETFD, FD_CLOEXEC);
    }
    return made;
}

/// A descriptor that is readable once process `child` has ended: what pidfd_open(2) gives on Linux, for
/// wait_readable (watch.hpp). Tells nothing of how it ended; waitpid(2) does. No descriptor: errno tells.
inline fd make_exit_notice(pid_t child) noexcept {
    fd made = make_kqueue();
    if (made) {
        int error = make_change(made.get(), change_of(child, EVFILT_PROC, EV_ADD | EV_ONESHOT, NOTE_EXIT));
#if defined(EVFILT_USER)
        if (error == ESRCH) {  // a zombie already, which macOS does not find
            make_change(made.get(), change_of(0, EVFILT_USER, EV_ADD));
            error = make_change(made.get(), change_of(0, EVFILT_USER, 0, NOTE_TRIGGER));
        }
#endif
        if (error != 0) {
            made.reset();
            errno = error;
        }
    }
    return made;
}

/// What ends a wait of a kqueue from another thread: an event of its own or, before NetBSD 10, a pipe.
class kqueue_bell {
public:
    /// Puts it into `queue`. Returns 0, or an errno.
    int hang_in(int queue) noexcept {
#if defined(EVFILT_USER)
        return make_change(queue, change_of(0, EVFILT_USER, EV_ADD | EV_CLEAR));
#else
        pipe_ = make_pipe();
        return pipe_ ? make_change(queue, change_of(pipe_.read_end.get(), EVFILT_READ, EV_ADD | EV_CLEAR))
                     : errno;
#endif
    }

    /// Thread: any.
    void ring([[maybe_unused]] int queue) const noexcept {
#if defined(EVFILT_USER)
        make_change(queue, change_of(0, EVFILT_USER, 0, NOTE_TRIGGER));
#else
        uninterrupted([&] { return ::write(pipe_.write_end.get(), "", 1); });  // full: it rings already
#endif
    }

    /// Whether `seen` tells that it has rung; it is silent then.
    bool has_rung(const struct kevent& seen) const noexcept {
#if defined(EVFILT_USER)
        return seen.filter == EVFILT_USER;  // EV_CLEAR has taken it back
#else
        if (seen.ident != static_cast<std::uintptr_t>(pipe_.read_end.get())) {
            return false;
        }
        char rings[64];
        while (uninterrupted([&] { return ::read(pipe_.read_end.get(), rings, sizeof rings); }) > 0) {
        }
        return true;
#endif
    }

private:
#if !defined(EVFILT_USER)
    pipe_ends pipe_;
#endif
};

}  // namespace detail

/// Serves a loop by kqueue: the backend of macOS and the BSDs.
///
/// Owns:    the kqueue, and what wakes it.
/// Thread:  that of its loop, but for wake().
/// Example: examples/cpp/backends.cpp
class kqueue_backend final : public readiness {
public:
    /// Makes a kqueue of its own.
    /// Fails: throws std::system_error when there is no descriptor left.
    kqueue_backend() : queue_(detail::make_kqueue()) {
        const int error = queue_ ? bell_.hang_in(queue_.get()) : errno;
        if (error != 0) {
            throw std::system_error(error, std::system_category(), "kqueue");
        }
    }

    /// Closes its kqueue, but not in a fork, which has none.
    ~kqueue_backend() override { abandon_if_inherited(); }

    std::string_view name() const noexcept override { return "kqueue"; }
    int native_handle() const noexcept override { return queue_.get(); }

    std::error_code wait(nanoseconds timeout) noexcept override {
        // Waiting for less than asked is allowed; the kernels refuse years.
        const nanoseconds bounded = std::min<nanoseconds>(timeout, std::chrono::hours(24));
        timespec limit{};
        limit.tv_sec = static_cast<decltype(limit.tv_sec)>(bounded / std::chrono::seconds(1));
        limit.tv_nsec = static_cast<decltype(limit.tv_nsec)>((bounded % std::chrono::seconds(1)).count());
        found_ = ::kevent(queue_.get(), nullptr, 0, events_.data(), static_cast<int>(events_.size()),
                          timeout < nanoseconds::zero() ? nullptr : &limit);
        if (found_ < 0) {
            found_ = 0;
            return errno == EINTR ? std::error_code{} : system_error_code(errno);
        }
        return {};
    }

    void collect() noexcept override {
        for (int index = 0; index < found_; ++index) {
            const struct kevent& each = events_[static_cast<std::size_t>(index)];
            if (bell_.has_rung(each)) {
                continue;
            }
            const int fd = static_cast<int>(each.ident);
            const bool reads = each.filter == EVFILT_READ;
            dispatch({
                fd,
                static_cast<std::uint32_t>(std::bit_cast<std::uintptr_t>(each.udata)),
                reads,
                !reads,
                reads && owns(fd) && (each.flags & hang_up) != 0,
            });
        }
        found_ = 0;
    }

    void wake() noexcept override { bell_.ring(queue_.get()); }

#if ZLOOP_LIBKQUEUE
    void close(int fd) noexcept override {
        unregister(fd);
        readiness::close(fd);
    }
#endif

    void abandon() noexcept override { static_cast<void>(queue_.release()); }

private:
#if defined(__APPLE__)
    static constexpr int hang_up = EV_EOF | EV_OOBAND;
#else
    static constexpr int hang_up = EV_EOF;
#endif

    void abandon_if_inherited() noexcept {
        if (process_.is_inherited()) {
            abandon();
        }
    }

    std::error_code register_owned(int fd, std::uint32_t generation) noexcept override {
        if (process_.is_inherited()) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        if (is_file(fd)) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        // A pipe has one direction, and the other's filter would tell of what nobody asks.
        const int flags = ::fcntl(fd, F_GETFL);
        if (flags < 0) {
            return system_error_code(errno);
        }
        detail::silence(fd);
        forget_stale(fd);
        std::array<struct kevent, 2> filters;
        std::size_t count = 0;
        if ((flags & O_ACCMODE) != O_WRONLY) {
            filters[count++] = detail::change_of(fd, EVFILT_READ, EV_ADD | EV_CLEAR, 0, generation);
        }
        if ((flags & O_ACCMODE) != O_RDONLY) {
            filters[count++] = detail::change_of(fd, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, generation);
        }
        detail::make_changes(queue_.get(), {filters.data(), count});
        for (std::size_t index = 0; index < count; ++index) {
            const int error = detail::outcome_of(filters[index]);
            // A pipe that nobody reads any more: EPIPE, NetBSD's EBADF. The first write will say so.
            const bool is_broken = error == EPIPE || error == EBADF;
            if (error != 0 && (!is_broken || filters[index].filter != EVFILT_WRITE)) {
                unregister(fd);
                return refusal(error);
            }
        }
        return {};
    }

    void unregister(int fd) noexcept override {
        if (!process_.is_inherited()) {
            std::array<struct kevent, 2> filters{detail::change_of(fd, EVFILT_READ, EV_DELETE),
                                                 detail::change_of(fd, EVFILT_WRITE, EV_DELETE)};
            detail::make_changes(queue_.get(), filters);  // one of them may not be there
        }
    }

    std::error_code change_foreign(int fd, std::uint32_t generation, interests before,
                                   interests after) noexcept override {
        if (process_.is_inherited() || (before == interests{} && is_file(fd))) {
            return std::make_error_code(std::errc::operation_not_permitted);
        }
        int error = 0;
        if (before == interests{}) {
            forget_stale(fd);
        }
        if (before.read != after.read) {
            error = set(fd, EVFILT_READ, after.read ? EV_ADD : EV_DELETE, generation);
        }
        if (before.write != after.write && error == 0) {
            error = set(fd, EVFILT_WRITE, after.write ? EV_ADD : EV_DELETE, generation);
        }
        return refusal(error);
    }

    /// What is left of a former life of the number, where the queue does not forget by itself.
    void forget_stale([[maybe_unused]] int fd) noexcept {
#if ZLOOP_LIBKQUEUE
        unregister(fd);
#endif
    }

    static bool is_file(int fd) noexcept {
        struct stat about {};
        return ::fstat(fd, &about) == 0 && (S_ISREG(about.st_mode) || S_ISDIR(about.st_mode));
    }

    static std::error_code refusal(int error) noexcept {
        const bool cannot = error == EINVAL || error == ENODEV || error == EOPNOTSUPP;
        return system_error_code(cannot ? EPERM : error);
    }

    int set(int fd, int filter, int flags, std::uint32_t generation = 0) noexcept {
        return detail::make_change(queue_.get(), detail::change_of(fd, filter, flags, 0, generation));
    }

    detail::fork_mark process_;
    zloop::fd queue_;
    detail::kqueue_bell bell_;
    int found_ = 0;  // events of the last wait()
    std::array<struct kevent, 512> events_;
};

}  // namespace zloop

#endif
