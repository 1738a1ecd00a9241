// zloop/sleep.hpp: suspend a task until a deadline.
//
// The awaiter is the timer node: it lives in the coroutine frame, the heap points at it. Firing and
// cancelling both take it out, so nothing points at a frame that is gone.
#pragma once

#include <zloop/task.hpp>

namespace zloop {

/// Suspends the calling task until `deadline` on its loop's clock.
///
/// Completes: on the first turn at or after `deadline`; a past one still takes a turn.
/// Fails:     `operation_canceled`; throws std::bad_alloc where there is no memory for the timer.
/// Cancelled: leaves at once, and no timer stays behind. One that is due already has slept well.
/// Thread:    that of its loop.
/// Example:   examples/cpp/sleep.cpp
class [[nodiscard]] sleep_until : timer_node, cancellable {
public:
    /// Will suspend until `deadline`.
    explicit sleep_until(time_point deadline) noexcept
        : timer_node(&sleep_until::fire), cancellable(&sleep_until::stop), deadline_(deadline) {}

    /// The same, for what awaits it instead; `other` has not begun.
    sleep_until(sleep_until&& other) noexcept : sleep_until(other.deadline_) {
        yields_ = other.yields_;
        relative_ = other.relative_;
    }

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        detail::note(caller.promise(), "sleep", where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->refuses()) {
            canceled_ = true;
            return false;
        }
        caller_ = caller;
        surroundings_.on->arm(
            *this,
            relative_ ? deadline_after(surroundings_.on->now(), deadline_.time_since_epoch()) : deadline_);
        surroundings_.within->enter(*this);
        return true;
    }

    result<void> await_resume() const noexcept {
        return canceled_ ? result<void>(std::errc::operation_canceled) : result<void>();
    }

protected:
    /// Says that a deadline is a duration yet.
    struct relative {};
    /// For sleep_for: a deadline that begins with the co_await.
    sleep_until(relative, nanoseconds duration) noexcept : sleep_until(time_point(duration)) {
        relative_ = true;
    }

    /// When; or, until it is awaited, for how long
    time_point deadline_;
    /// Whether one that is due already, and is cancelled before its turn, is cancelled: its end is worth
    /// something.
    bool yields_ = false;

private:
    static void fire(op& node) noexcept {
        auto& self = static_cast<sleep_until&>(node);
        self.surroundings_.within->leave(self.canceled_);
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<sleep_until&>(leaf);
        if (self.armed()) {
            self.surroundings_.on->disarm(self);
            self.canceled_ = true;
            self.surroundings_.on->push(self);
        } else if (self.yields_) {  // else it is due already, and that wins
            self.canceled_ = true;
        }
    }

    context surroundings_;
    std::coroutine_handle<> caller_;
    bool relative_ = false;
    bool canceled_ = false;
};

/// Suspends the calling task for `duration`, from the co_await on; otherwise as sleep_until.
/// Example: examples/cpp/sleep.cpp
class [[nodiscard]] sleep_for : public sleep_until {
public:
    /// Will suspend for `duration`; zero and less are a turn.
    explicit sleep_for(nanoseconds duration) noexcept : sleep_until(relative{}, duration) {}
};

/// Ticks at equal distances, without drift: each is due a period after the last was due, not after it was
/// waited for.
///
/// Overlap: one wait at a time.
/// Thread:  that of its loop.
/// Example: examples/cpp/interval.cpp
class interval {
public:
    /// Makes one whose first tick is due a `period`, more than zero, after the first wait.
    explicit interval(nanoseconds period) noexcept : period_(period) { assert(period > nanoseconds::zero()); }

    /// What next() gives.
    class ticker : public sleep_until {
    public:
        /// Will wait for the next tick of `of`.
        explicit ticker(interval& of) noexcept : sleep_until(of.next_), interval_(of) { yields_ = true; }

        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            home_ = caller.promise().surroundings().on;
            if (!interval_.begun_) {
                interval_.begun_ = true;
                interval_.next_ = deadline_after(home_->now(), interval_.period_);
            }
            deadline_ = interval_.next_;
            return sleep_until::await_suspend(caller, where);
        }

        result<std::uint64_t> await_resume() noexcept {
            if (const auto outcome = sleep_until::await_resume(); !outcome) {
                return outcome.error();
            }
            const nanoseconds late = home_->now() - interval_.next_;
            const auto ticks = late / interval_.period_ + 1;
            interval_.next_ += ticks * interval_.period_;
            return static_cast<std::uint64_t>(ticks);
        }

    private:
        interval& interval_;
        loop* home_ = nullptr;
    };

    /// Waits for the next tick; one that is due already is there in a turn.
    ///
    /// Completes: with the number of ticks since the last wait: more than 1 when some were missed.
    /// Fails:     `operation_canceled`; the tick is then still to come.
    /// Cancelled: leaves at once, and takes no tick: one that was due already is there for the next wait.
    [[nodiscard]] ticker next() noexcept { return ticker(*this); }

private:
    nanoseconds period_;
    time_point next_{};
    bool begun_ = false;
};

}  // namespace zloop
