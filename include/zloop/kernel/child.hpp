// zloop/kernel/child.hpp: a child process, with one owner: its end, signals to it, and that it leaves no
// zombie.
//
// No loop here. A child that has ended keeps its number until its status is taken, and only we take it: so
// what is sent to that number until then reaches the child, or nobody. The end is told by a descriptor that
// becomes readable: a pidfd (Linux), a kqueue, or, where a filter of system calls forbids pidfds, a pipe
// whose other end is closed by a thread that waits for the child.
#pragma once

#include <zloop/config.hpp>

#include <cerrno>
#include <csignal>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include <zloop/core/fd.hpp>
#include <zloop/core/platform.hpp>
#include <zloop/error.hpp>
#include <zloop/kernel/attempt.hpp>  // uninterrupted
#include <zloop/kernel/kqueue.hpp>   // make_exit_notice

namespace zloop {

/// How a process has ended.
/// Example: examples/cpp/process.cpp
struct exit_status {
    int code = -1;             ///< what it has returned; -1: a signal has ended it
    int signal = 0;            ///< which signal; 0: none
    bool core_dumped = false;  ///< whether the signal has left a core file

    /// Whether it has returned 0.
    bool success() const noexcept { return code == 0; }
    /// Whether two have ended the same way.
    friend bool operator==(const exit_status&, const exit_status&) = default;
};

namespace detail {

/// Takes the status of an ended child. None: it still runs, which `options` may have said not to wait for.
/// Fails: ECHILD, where somebody else has taken it, or nobody keeps it: SIGCHLD is ignored.
inline result<std::optional<exit_status>> take_status(pid_t child, [[maybe_unused]] int pidfd,
                                                      int options) noexcept {
    std::optional<exit_status> status;
#if defined(__linux__)
    siginfo_t about{};
    ssize_t failed = -1;
    if (pidfd >=
        0) {  // not by its number, which may be another child's once somebody else has taken this one
        constexpr auto by_pidfd = static_cast<idtype_t>(3);  // P_PIDFD, of glibc 2.36
        failed = uninterrupted(
            [&] { return ::waitid(by_pidfd, static_cast<id_t>(pidfd), &about, WEXITED | options); });
    }
    if (pidfd < 0 || (failed != 0 && errno == EINVAL)) {  // Linux 5.3 has pidfds, and 5.4 waits for them
        failed = uninterrupted(
            [&] { return ::waitid(P_PID, static_cast<id_t>(child), &about, WEXITED | options); });
    }
    if (failed != 0) {
        return system_error_code(errno);
    }
    if (about.si_pid != 0) {
        const bool returned = about.si_code == CLD_EXITED;
        status = exit_status{returned ? about.si_status : -1, returned ? 0 : about.si_status,
                             about.si_code == CLD_DUMPED};
    }
#else
    int word = 0;
    const ssize_t found = uninterrupted([&] { return ::waitpid(child, &word, options); });
    if (found < 0) {
        return system_error_code(errno);
    }
    if (found > 0) {
        status = exit_status{WIFEXITED(word) ? WEXITSTATUS(word) : -1, WIFSIGNALED(word) ? WTERMSIG(word) : 0,
                             WIFSIGNALED(word) && WCOREDUMP(word)};
    }
#endif
    return status;
}

/// A thread that waits for one child, and ends with it.
class sentry {
public:
    /// Waits for `child`, takes its status if `options` lets it, and closes `bell`.
    /// Fails: as pthread_create(3) does.
    static std::error_code post(pid_t child, fd&& bell, int options) noexcept {
        std::unique_ptr<sentry> made(new (std::nothrow) sentry(child, options));
        if (made == nullptr) {
            return std::make_error_code(std::errc::not_enough_memory);
        }
        made->bell_ = std::move(bell);
        pthread_t thread;
        const int error = start_thread(
            thread,
            [](void* self) -> void* {
                std::unique_ptr<sentry>(static_cast<sentry*>(self))->watch();
                return nullptr;
            },
            made.get());
        if (error != 0) {
            return system_error_code(error);
        }
        static_cast<void>(made.release());
        ::pthread_detach(thread);
        return {};
    }

private:
    sentry(pid_t child, int options) noexcept : child_(child), options_(options) {}

    void watch() const noexcept {
        siginfo_t about;
        uninterrupted([&] { return ::waitid(P_PID, static_cast<id_t>(child_), &about, options_); });
    }

    pid_t child_;
    int options_;
    fd bell_;
};

/// What the kernel itself tells of a child's end with; none: it does not, or forbids us.
inline fd open_exit_notice([[maybe_unused]] pid_t child) noexcept {
#if defined(SYS_pidfd_open)
    return fd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));  // close-on-exec from birth
#elif ZLOOP_HAS_KQUEUE
    return make_exit_notice(child);
#else
    return {};
#endif
}

/// Owns a child process. Destroying it while the child runs kills the child, and waits for its end.
class child {
public:
    child() noexcept = default;

    /// `leads`: it is the first of a process group, which ends with it.
    child(pid_t number, bool leads) noexcept
        : number_(number), parent_(::getpid()), leads_(leads), notice_(open_exit_notice(number)) {
#if defined(SYS_pidfd_open)
        pidfd_ = notice_.get();
#endif
    }
    child(child&& other) noexcept { swap(other); }
    child& operator=(child&& other) noexcept {
        swap(other);
        return *this;
    }
    ~child() {
        if (number_ > 0 && parent_ == ::getpid() && (is_over() || end())) {
            join_sentry();
        }
    }

    pid_t number() const noexcept { return number_; }
    int pidfd() const noexcept { return pidfd_; }

    /// Whether its status has been taken, or found to be gone.
    bool is_over() const noexcept { return number_ <= 0 || outcome_.has_value(); }

    /// Takes the status if it has ended. False: it runs.
    bool try_reap() noexcept { return is_over() || reap(WNOHANG); }

    /// What try_reap() has found.
    result<exit_status> outcome() const noexcept {
        return outcome_ ? *outcome_ : result<exit_status>(std::errc::no_child_process);
    }

    /// A descriptor that is readable once it has ended.
    /// Fails: where there is neither a descriptor nor a thread left. Later there may be.
    result<int> exit_notice() noexcept {
        if (!notice_) {
            pipe_ends made = make_pipe();
            if (!made) {
                return system_error_code(errno);
            }
            if (const auto error = sentry::post(number_, std::move(made.write_end), WEXITED | WNOWAIT)) {
                return error;
            }
            notice_ = std::move(made.read_end);
            is_guarded_ = true;
        }
        return notice_.get();
    }

    result<void> kill(int signal) noexcept {
        if (is_over()) {
            return std::errc::no_such_process;
        }
        if (parent_ != ::getpid()) {
            return std::errc::operation_not_permitted;  // we are its sibling
        }
#if defined(SYS_pidfd_send_signal)
        if (pidfd_ >= 0) {
            if (::syscall(SYS_pidfd_send_signal, pidfd_, signal, nullptr, 0) == 0) {
                return {};
            }
            if (errno != ENOSYS && errno != EPERM) {
                return system_error_code(errno);
            }
            // A filter of system calls may forbid this one alone.
        }
#endif
        return ::kill(number_, signal) == 0 ? std::error_code{} : system_error_code(errno);
    }

    /// The same for its process group, if that is its own.
    result<void> kill_group(int signal) noexcept {
        if (is_over()) {
            return std::errc::no_such_process;
        }
        if (!leads_ || parent_ != ::getpid()) {
            return std::errc::operation_not_permitted;
        }
        return ::kill(-number_, signal) == 0 ? std::error_code{} : system_error_code(errno);
    }

    /// All that is to end with it. A leader may have left its group, and others may still be in that.
    result<void> kill_all(int signal) noexcept {
        const bool told = leads_ && kill_group(signal) && ::getpgid(number_) == number_;
        return told ? result<void>() : kill(signal);
    }

    /// Gives the child away, and the duty to take its status.
    [[nodiscard]] pid_t release() noexcept {
        child given;
        swap(given);
        return std::exchange(given.number_, -1);
    }

private:
    bool reap(int options) noexcept {
        const auto taken = take_status(number_, pidfd_, options);
        if (!taken) {
            outcome_ = taken.error();
        } else if (*taken) {
            outcome_ = **taken;
        }
        return outcome_.has_value();
    }

    /// False: it is another user's by now, such as sudo(8); it ends when it likes, and leaves no zombie.
    bool end() noexcept {
        if (try_reap() || (kill_all(SIGKILL) && reap(0))) {
            return true;
        }
        static_cast<void>(sentry::post(number_, {}, WEXITED));
        return false;
    }

    /// It ends with the child: no descriptor of its is left when we are gone.
    void join_sentry() const noexcept {
        pollfd ended{notice_.get(), POLLIN, 0};
        while (is_guarded_ && ::poll(&ended, 1, -1) < 0) {
        }
    }

    void swap(child& other) noexcept {
        std::swap(number_, other.number_);
        std::swap(parent_, other.parent_);
        std::swap(leads_, other.leads_);
        std::swap(notice_, other.notice_);
        std::swap(pidfd_, other.pidfd_);
        std::swap(is_guarded_, other.is_guarded_);
        std::swap(outcome_, other.outcome_);
    }

    pid_t number_ = -1;
    pid_t parent_ = -1;
    bool leads_ = false;
    fd notice_;
    int pidfd_ = -1;           // the same descriptor, where it is a pidfd
    bool is_guarded_ = false;  // a sentry closes the other end of `notice_`
    std::optional<result<exit_status>> outcome_;
};

}  // namespace detail

}  // namespace zloop
