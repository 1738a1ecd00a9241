// zloop/signal.hpp: wait for signals.
//
// A signal_set subscribes to signals for as long as it lives. Each set, on whichever loop and thread, is
// told of each of them, and remembers it until somebody asks. The handler only marks the sets and writes
// a byte to each one's pipe; the first set of a signal installs it, and the last one puts back what was
// there before.
//
// A fork takes no part: its copies of the sets hear of nothing, its handlers are the previous ones again,
// and nothing that happens to it reaches its parent's pipes.
#pragma once

#include <atomic>
#include <csignal>
#include <cstdint>
#include <initializer_list>
#include <mutex>

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <zloop/core/platform.hpp>
#include <zloop/socket.hpp>

namespace zloop {

namespace detail {

/// Which signals; may be marked and looked at by a handler and a thread at the same time.
class signal_marks {
public:
    static constexpr int most = NSIG < 129 ? NSIG : 129;  // numbers are below this
    static constexpr bool knows(int number) noexcept { return number > 0 && number < most; }

    void mark(int number) noexcept { word_of(number).fetch_or(bit_of(number), std::memory_order_acq_rel); }
    bool has(int number) const noexcept {
        return (words_[index_of(number)].load(std::memory_order_acquire) & bit_of(number)) != 0;
    }
    bool clear(int number) noexcept {
        return (word_of(number).fetch_and(~bit_of(number), std::memory_order_acq_rel) & bit_of(number)) != 0;
    }

private:
    using word = std::uint32_t;
    static_assert(std::atomic<word>::is_always_lock_free);

    static std::size_t index_of(int number) noexcept { return static_cast<std::size_t>(number) / 32; }
    static word bit_of(int number) noexcept { return word{1} << (static_cast<unsigned>(number) % 32); }
    std::atomic<word>& word_of(int number) noexcept { return words_[index_of(number)]; }

    std::atomic<word> words_[most / 32 + 1] = {};
};

/// What the handler knows of a set.
struct subscription {
    signal_marks wanted;  // before it is linked
    signal_marks pending;
    int bell = -1;
    pid_t owner = -1;
    std::atomic<subscription*> next = nullptr;
};

/// The process' sets, and the handlers that it had without them.
class signal_registry {
public:
    /// Fails as sigaction does; then nothing has changed.
    std::error_code add(subscription& set) noexcept {
        static const int registered =
            ::pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
        if (registered != 0) {
            return system_error_code(registered);
        }
        const std::lock_guard guard(mutex_);
        set.owner = ::getpid();
        set.next.store(first_.load(), std::memory_order_relaxed);
        first_.store(&set);
        for (int number = 1; number < signal_marks::most; ++number) {
            if (set.wanted.has(number) && users_[number]++ == 0 && !install(number)) {
                const int error = errno;
                --users_[number];
                drop(set, number);
                return system_error_code(error);
            }
        }
        return {};
    }

    void remove(subscription& set) noexcept {
        const std::lock_guard guard(mutex_);
        if (set.owner == ::getpid()) {
            drop(set, signal_marks::most);
        }
    }

private:
    // Reading and writing the list are sequentially consistent: either the handler sees that a set has
    // gone, or whoever takes it out sees the handler.
    static void handle(int number) noexcept;

    bool install(int number) noexcept {
        struct sigaction ours {};
        ours.sa_handler = &signal_registry::handle;
        ours.sa_flags = SA_RESTART | SA_ONSTACK;
        sigfillset(&ours.sa_mask);  // one at a time on a thread: its stack may be a small one
        return ::sigaction(number, &ours, &previous_[number]) == 0;
    }

    void restore(int number) noexcept {
        struct sigaction now;
        if (::sigaction(number, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) == 0 &&
            now.sa_handler == &signal_registry::handle) {  // else it is somebody else's by now
            ::sigaction(number, &previous_[number], nullptr);
        }
    }

    /// Takes the set out, with its signals below `end`, and waits for handlers that may have seen it.
    void drop(subscription& set, int end) noexcept {
        for (int number = 1; number < end; ++number) {
            if (set.wanted.has(number) && --users_[number] == 0) {
                restore(number);
            }
        }
        std::atomic<subscription*>* link = &first_;
        while (link->load() != &set) {
            link = &link->load()->next;
        }
        link->store(set.next.load());
        while (handling_.load() != 0) {
            ::sched_yield();
        }
    }

    static void before_fork() noexcept;
    static void after_fork_in_parent() noexcept;
    static void after_fork_in_child() noexcept;

    std::mutex mutex_;
    std::atomic<subscription*> first_ = nullptr;
    std::atomic<int> handling_ = 0;
    unsigned users_[signal_marks::most] = {};
    struct sigaction previous_[signal_marks::most] = {};
    sigset_t mask_before_fork_{};
};

/// Never destroyed, and there before any constructor ran: a handler may come at any time.
inline constinit signal_registry signals;

inline void signal_registry::handle(int number) noexcept {
    const int error = errno;
    signals.handling_.fetch_add(1);
    const pid_t here = ::getpid();  // the child of a vfork, or of a bare clone, is not told of otherwise
    for (subscription* each = signals.first_.load(); each != nullptr; each = each->next.load()) {
        if (each->owner == here && each->wanted.has(number)) {
            each->pending.mark(number);
            while (::write(each->bell, "", 1) < 0 && errno == EINTR) {
            }  // a full pipe rings as well
        }
    }
    signals.handling_.fetch_sub(1);
    errno = error;
}

// No signal is handled between the fork and the end of what is the parent's.
inline void signal_registry::before_fork() noexcept {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    signals.mutex_.lock();
    signals.mask_before_fork_ = before;
}
inline void signal_registry::after_fork_in_parent() noexcept {
    const sigset_t before = signals.mask_before_fork_;
    signals.mutex_.unlock();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}
inline void signal_registry::after_fork_in_child() noexcept {
    signals.first_.store(nullptr);
    signals.handling_.store(0);
    for (int number = 1; number < signal_marks::most; ++number) {
        if (std::exchange(signals.users_[number], 0) != 0) {
            signals.restore(number);
        }
    }
    after_fork_in_parent();
}

}  // namespace detail

/// A subscription to signals, for a loop's tasks.
///
/// Owns:    two descriptors. Does not move, and does not outlive the loop. Handlers that were there before
///          are not called meanwhile; they come back with the end of the last set.
/// Thread:  that of its loop. The signals may come to any, and other loops may have sets of the same ones.
/// Example: examples/cpp/graceful_shutdown.cpp
class signal_set {
public:
    /// Subscribes to `numbers`; from here on the signals that come are remembered.
    /// Fails: throws std::system_error: a number that is none, or SIGKILL; no descriptors.
    signal_set(loop& on, std::initializer_list<int> numbers) {
        for (const int number : numbers) {
            if (!detail::signal_marks::knows(number)) {
                throw std::system_error(std::make_error_code(std::errc::invalid_argument), "signal_set");
            }
            subscription_.wanted.mark(number);
        }
        detail::pipe_ends ends = detail::make_pipe();
        if (!ends) {
            throw std::system_error(system_error_code(errno), "signal_set");
        }
        pipe_ = stream::adopt(on, std::move(ends.read_end)).value();
        bell_ = std::move(ends.write_end);
        subscription_.bell = bell_.get();
        if (const auto error = detail::signals.add(subscription_)) {
            throw std::system_error(error, "signal_set");
        }
    }
    signal_set(const signal_set&) = delete;
    signal_set& operator=(const signal_set&) = delete;
    /// Ends the subscription. Nobody waits any more.
    ~signal_set() { detail::signals.remove(subscription_); }

    /// A signal that has come since the set was made and that no wait() has given yet, the lowest number
    /// first; otherwise the next one. The same signal again before it was asked for counts once, as it
    /// does for the kernel.
    ///
    /// Completes: with its number.
    /// Fails:     `operation_canceled`.
    /// Cancelled: takes no signal: what comes afterwards is for the next wait().
    /// Overlap:   one wait() at a time. Who else wants to know has a set of its own.
    /// Example:   examples/cpp/graceful_shutdown.cpp
    task<result<int>> wait() {
        for (;;) {
            for (int number = 1; number < detail::signal_marks::most; ++number) {
                if (subscription_.pending.clear(number)) {
                    co_return number;
                }
            }
            std::byte rung[64];
            const auto heard = co_await pipe_.recv(rung);
            if (!heard) {
                co_return heard.error();
            }
        }
    }

private:
    stream pipe_;
    fd bell_;
    detail::subscription subscription_;
};

}  // namespace zloop
