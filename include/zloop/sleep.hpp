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
/// Fails:     `operation_canceled` when the task's scope is cancelled first.
/// Example:   examples/cpp/sleep.cpp
class [[nodiscard]] sleep_until : timer_node, cancellable {
public:
    explicit sleep_until(time_point deadline) noexcept
        : timer_node(&sleep_until::fire), cancellable(&sleep_until::stop), deadline_(deadline) {}

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        detail::note(caller.promise(), "sleep", where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->cancelled()) {
            canceled_ = true;
            return false;
        }
        caller_ = caller;
        surroundings_.on->arm(*this, deadline_from(surroundings_.on->now()));
        surroundings_.within->enter(*this);
        return true;
    }

    result<void> await_resume() const noexcept {
        return canceled_ ? result<void>(std::errc::operation_canceled) : result<void>();
    }

protected:
    struct relative {};
    sleep_until(relative, nanoseconds duration) noexcept : sleep_until(time_point(duration)) {
        relative_ = true;
    }

private:
    time_point deadline_from(time_point now) const noexcept {
        if (!relative_) {
            return deadline_;
        }
        const nanoseconds left = time_point::max() - now;
        return deadline_.time_since_epoch() < left ? now + deadline_.time_since_epoch() : time_point::max();
    }

    static void fire(op& node) noexcept {
        auto& self = static_cast<sleep_until&>(node);
        self.surroundings_.within->leave();
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<sleep_until&>(leaf);
        if (self.armed()) {  // else it is due already, and that wins
            self.surroundings_.on->disarm(self);
            self.canceled_ = true;
            self.surroundings_.on->push(self);
        }
    }

    time_point deadline_;
    context surroundings_;
    std::coroutine_handle<> caller_;
    bool relative_ = false;
    bool canceled_ = false;
};

/// Suspends the calling task for `duration`; otherwise as sleep_until.
class [[nodiscard]] sleep_for : public sleep_until {
public:
    explicit sleep_for(nanoseconds duration) noexcept : sleep_until(relative{}, duration) {}
};

}  // namespace zloop
