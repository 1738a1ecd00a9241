// zloop/sync.hpp: event, latch, mutex, semaphore, condition: tasks of one loop that wait for each other.
//
// All are fair: who waits longest is served first, and what is handed to a waiter is its own before it
// runs, so nobody overtakes it. A waiter that is cancelled leaves the queue at once; one that has been
// served and has not run yet gives back what it got, to the next: who is cancelled has nothing. Who need not
// wait does not, even where its scope is cancelled. They allocate nothing, own no task, and are for one
// loop's thread. Who still waits when one is destroyed goes on with `operation_canceled`.
#pragma once

#include <cassert>
#include <cstddef>
#include <utility>

#include <zloop/cancel.hpp>
#include <zloop/wait/parked.hpp>

namespace zloop {

/// Something that has happened, or not yet. Any number of tasks wait for it.
///
/// Owns:    no waiter: must be without any at its end.
/// Thread:  that of its loop.
/// Example: examples/cpp/sync.cpp
class event {
public:
    /// Whether it has happened.
    bool is_set() const noexcept { return set_; }

    /// Lets all that wait go on, and all that will, until reset().
    void set() noexcept {
        set_ = true;
        waiting_.wake_all();
    }
    /// Has it not happened yet, for all who come later.
    void reset() noexcept { set_ = false; }

    /// What wait() gives.
    class waiter : wait_queue::waiter {
    public:
        /// Will wait for `awaited`.
        explicit waiter(event& awaited) noexcept : wait_queue::waiter(awaited.waiting_), awaited_(awaited) {}

        bool await_ready() const noexcept { return awaited_.set_; }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
            if (!park(caller, "event", where)) {
                return false;
            }
            awaited_.waiting_.push(*this);
            return true;
        }
        result<void> await_resume() const noexcept { return outcome(); }

    private:
        event& awaited_;
    };

    /// Waits until it has happened.
    ///
    /// Completes: at once when it is set, or once it was: a reset() right after is not noticed.
    /// Fails:     `operation_canceled`.
    /// Cancelled: leaves at once; where it was set already, that wins.
    [[nodiscard]] waiter wait() noexcept { return waiter(*this); }

private:
    bool set_ = false;
    wait_queue waiting_;
};

/// An event that happens when a number of others have. Once.
///
/// Thread:  that of its loop.
/// Example: examples/cpp/sync.cpp
class latch {
public:
    /// Expects so many; none: it is open.
    explicit latch(std::size_t expected) noexcept : left_(expected) {
        if (left_ == 0) {
            done_.set();
        }
    }

    /// Counts `count` of them, which are no more than are still expected.
    void count_down(std::size_t count = 1) noexcept {
        assert(count <= left_);
        left_ -= count;
        if (left_ == 0) {
            done_.set();
        }
    }

    /// Whether all have counted down.
    bool is_open() const noexcept { return done_.is_set(); }

    /// Waits until it is open.
    ///
    /// Completes: when the last one has counted down.
    /// Fails:     `operation_canceled`.
    [[nodiscard]] event::waiter wait() noexcept { return done_.wait(); }

private:
    std::size_t left_;
    event done_;
};

/// A number of permits.
///
/// Owns:    no waiter: must be without any at its end.
/// Thread:  that of its loop.
/// Example: examples/cpp/sync.cpp
class semaphore {
public:
    /// Has so many permits at first.
    explicit semaphore(std::size_t permits) noexcept : free_(permits) {}

    /// How many permits nobody has.
    std::size_t available() const noexcept { return free_; }

    /// Takes a permit if there is one, without waiting.
    bool try_acquire() noexcept {
        if (free_ == 0) {
            return false;
        }
        --free_;
        return true;
    }

    /// Gives a permit to who waits longest, or keeps it for the next. Not only for who has acquired one.
    void release() noexcept {
        if (waiting_.empty()) {
            ++free_;
        } else {
            waiting_.pop().wake();  // straight to it: nobody comes in between
        }
    }

    /// What acquire() gives.
    class waiter : wait_queue::waiter {
    public:
        /// Will wait for a permit of `awaited`.
        explicit waiter(semaphore& awaited) noexcept
            : wait_queue::waiter(awaited.waiting_, &waiter::give_back), awaited_(awaited) {}

        bool await_ready() const noexcept { return awaited_.try_acquire(); }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
            if (!park(caller, "semaphore", where)) {
                return false;
            }
            awaited_.waiting_.push(*this);
            return true;
        }
        result<void> await_resume() const noexcept { return outcome(); }

    private:
        static bool give_back(wait_queue::waiter& served) noexcept {
            static_cast<waiter&>(served).awaited_.release();
            return true;
        }

        semaphore& awaited_;
    };

    /// Waits for a permit.
    ///
    /// Completes: with one, to be given back by release().
    /// Fails:     `operation_canceled`, without one.
    /// Cancelled: leaves at once; a permit that was handed to it already is its own.
    [[nodiscard]] waiter acquire() noexcept { return waiter(*this); }

private:
    std::size_t free_;
    wait_queue waiting_;
};

/// What one task at a time may hold, over its awaits.
///
/// Owns:    no waiter: must be without any at its end.
/// Thread:  that of its loop.
/// Example: examples/cpp/sync.cpp
class mutex {
public:
    /// Holds the mutex, and lets go of it at its end.
    class [[nodiscard]] guard {
    public:
        /// Holds nothing.
        guard() noexcept = default;
        /// Takes the mutex from `other`, which holds nothing then.
        guard(guard&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
        /// Lets go of its own mutex, and takes that of `other`.
        guard& operator=(guard&& other) noexcept {
            if (this != &other) {
                unlock();  // now, not when `other` ends
                held_ = std::exchange(other.held_, nullptr);
            }
            return *this;
        }
        /// Lets go of the mutex.
        ~guard() { unlock(); }

        /// Whether it holds a mutex.
        explicit operator bool() const noexcept { return held_ != nullptr; }
        /// Lets go of the mutex, now: it goes to who waits longest.
        void unlock() noexcept {
            if (mutex* const freed = std::exchange(held_, nullptr)) {
                freed->permit_.release();
            }
        }

    private:
        friend mutex;
        friend class condition;
        explicit guard(mutex& held) noexcept : held_(&held) {}

        mutex* held_ = nullptr;
    };

    /// Takes the mutex if nobody has it, without waiting; else the guard is empty.
    guard try_lock() noexcept { return permit_.try_acquire() ? guard(*this) : guard(); }

    /// What lock() gives.
    class waiter : public semaphore::waiter {
    public:
        /// Will wait for `awaited`.
        explicit waiter(mutex& awaited) noexcept : semaphore::waiter(awaited.permit_), awaited_(awaited) {}

        result<guard> await_resume() const noexcept {
            const auto got = semaphore::waiter::await_resume();
            if (!got) {
                return got.error();
            }
            return guard(awaited_);
        }

    private:
        mutex& awaited_;
    };

    /// Waits for the mutex: `auto held = (co_await mutex.lock()).value();`
    ///
    /// Completes: with a guard that holds it.
    /// Fails:     `operation_canceled`, without it.
    /// Cancelled: leaves at once; where the mutex was handed to it already, it has it.
    [[nodiscard]] waiter lock() noexcept { return waiter(*this); }

private:
    semaphore permit_{1};
};

/// Something that changes under a mutex, and whoever waits for a change.
///
/// Owns:    no waiter: must be without any at its end.
/// Thread:  that of its loop.
/// Example: examples/cpp/sync.cpp
class condition {
public:
    /// Wakes who waits longest, if anybody does.
    void notify_one() noexcept {
        if (!waiting_.empty()) {
            waiting_.pop().wake();
        }
    }
    /// Wakes all who wait.
    void notify_all() noexcept { waiting_.wake_all(); }

    /// Lets go of the mutex that `held` holds until it is notified; `held` has it again at the end, however
    /// that comes, unless the condition is destroyed meanwhile.
    ///
    /// Completes: after a notification; nothing but one wakes it, but look again at what you wait for.
    /// Fails:     `operation_canceled`.
    /// Cancelled: stops waiting at once, and waits for the mutex; a notification that came before wins.
    task<result<void>> wait(mutex::guard& held) {
        mutex& released = *held.held_;
        waiter waiting(*this, held);
        const auto outcome = co_await waiting;
        if (waiting.deserted()) {
            co_return outcome;  // and with the condition, perhaps, the mutex
        }
        held = co_await shield(relock(released));
        co_return outcome;
    }

    /// Waits until `satisfied()` is true, which is asked with the mutex held; at once when it is already.
    /// Fails: as wait() does.
    template <class F>
    task<result<void>> wait_until(mutex::guard& held, F satisfied) {
        while (!satisfied()) {
            const auto outcome = co_await wait(held);
            if (!outcome) {
                co_return outcome;
            }
        }
        co_return {};
    }

private:
    class waiter : wait_queue::waiter {
    public:
        waiter(condition& awaited, mutex::guard& held) noexcept
            : wait_queue::waiter(awaited.waiting_, &waiter::give_back), awaited_(awaited), held_(held) {}
        using wait_queue::waiter::deserted;

        bool await_ready() const noexcept { return false; }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
            const bool waits = park(caller, "condition", where);
            if (waits) {
                awaited_.waiting_.push(*this);
            }
            held_.unlock();
            return waits;
        }
        result<void> await_resume() const noexcept { return outcome(); }

    private:
        static bool give_back(wait_queue::waiter& notified) noexcept {
            static_cast<waiter&>(notified).awaited_.notify_one();
            return true;
        }

        condition& awaited_;
        mutex::guard& held_;
    };

    static task<mutex::guard> relock(mutex& released) {
        // Shielded, so it is refused only when the loop ends, and then nobody looks any more.
        auto [error, locked] = co_await released.lock();
        co_return std::move(locked);
    }

    wait_queue waiting_;
};

}  // namespace zloop
