// zloop/cancel.hpp: shield, deadlines, std::stop_token: scopes around a task.
//
// Each of these runs a task in a scope of its own, and ends when the task has ended: nothing goes on
// behind the caller's back. Cancelling is asking, so what a task does with its last breath takes the time
// that it takes.
#pragma once

#include <concepts>
#include <stop_token>

#include <zloop/error.hpp>
#include <zloop/job.hpp>
#include <zloop/task.hpp>

namespace zloop {

/// Runs `work` where the cancellation of the scopes above does not reach it; the caller waits for its end all
/// the same.
///
/// Completes: with what `work` gives.
/// Fails:     throws what `work` throws.
/// Cancelled: only when the loop ends.
/// Example:   examples/cpp/cancel.cpp
template <class T>
task<T> shield(task<T> work) {
    const context here = co_await current_context();
    scope inner(here.within, shielding::shielded);
    co_return co_await std::move(work).within(inner);
}

namespace detail {

/// An op that cancels a scope, and that may be on its way when nobody needs it any more: the loop takes
/// no op out of its queue, so its owner waits for it then.
template <class Op>
class canceller : protected Op {
public:
    canceller(loop& on, scope& target) noexcept : Op(&canceller::strike), on_(on), target_(target) {}
    canceller(const canceller&) = delete;
    canceller& operator=(const canceller&) = delete;

    /// Whether it has cancelled the scope.
    bool struck() const noexcept { return struck_; }

protected:
    ~canceller() = default;

    class arrival {
    public:
        explicit arrival(canceller& awaited) noexcept : awaited_(awaited) {}
        bool await_ready() const noexcept { return awaited_.struck_; }
        void await_suspend(std::coroutine_handle<> caller) noexcept { awaited_.waiter_ = caller; }
        void await_resume() const noexcept {}

    private:
        canceller& awaited_;
    };

    loop& on_;
    bool struck_ = false;

private:
    static void strike(op& node) noexcept {
        auto& self = static_cast<canceller&>(node);
        self.struck_ = true;
        self.target_.cancel();
        if (self.waiter_) {
            self.waiter_.resume();
        }
    }

    scope& target_;
    std::coroutine_handle<> waiter_;
};

class deadline final : public canceller<timer_node> {
public:
    deadline(loop& on, scope& target, time_point when) : canceller(on, target) {
        if (when != time_point::max()) {
            on.arm(*this, when);
        } else {
            struck_ = true;
            never_ = true;
        }
    }

    bool expired() const noexcept { return struck_ && !never_; }

    /// To be awaited before it is destroyed.
    arrival disarm() noexcept {
        if (armed()) {
            on_.disarm(*this);
            struck_ = never_ = true;
        }
        return arrival(*this);
    }

private:
    bool never_ = false;
};

class stop_relay final : public canceller<op> {
public:
    stop_relay(loop& on, scope& target) noexcept : canceller(on, target) {}

    void operator()() noexcept {  // by any thread, once
        posted_.store(true, std::memory_order_release);
        on_.post(*this);
    }

    /// To be awaited before it is destroyed, when nobody calls it any more.
    arrival retire() noexcept {
        if (!posted_.load(std::memory_order_acquire)) {
            struck_ = true;
        }
        return arrival(*this);
    }

private:
    std::atomic<bool> posted_ = false;
};

/// Tells an error beside what else it has.
template <class T>
concept has_error = std::default_initializable<T> && requires(T& outcome) {
    { (outcome.error) } -> std::same_as<std::error_code&>;
};

template <class T>
struct flattened {
    using type = result<T>;
};
template <class T>
struct flattened<T&> {
    using type = result<T*>;
};
template <class T>
struct flattened<result<T>> {
    using type = result<T>;
};
template <std::derived_from<result<void>> T>  // such as progress (stream.hpp)
struct flattened<T> {
    using type = T;
};
template <has_error T>  // such as transferred (copy.hpp)
struct flattened<T> {
    using type = T;
};

template <class T>
std::error_code error_of(const T& outcome) noexcept {
    if constexpr (has_error<T>) {
        return outcome.error;
    } else {
        return outcome.error();
    }
}

}  // namespace detail

/// What with_deadline makes of a task's T: result<T>, of a T& result<T*>, and of a result<T> itself, as of
/// what is one with something beside, or has a member `error`: what is beside it stays.
/// Example: examples/cpp/cancel.cpp
template <class T>
using timed = typename detail::flattened<T>::type;

/// Runs `work` and cancels it at `when`, by the loop's clock.
///
/// Completes: when `work` does, which the deadline only asks to.
/// Fails:     `timed_out` when something that `work` awaited was ended or refused by the deadline, whatever
///            `work` made of that: a value, nothing, or operation_canceled, as a result or thrown. Work that
///            has not met the deadline, because it was done in the same moment or shielded, gives its value
///            however late; and a failure of another kind is passed on. Throws std::bad_alloc where there is
///            no memory for the timer.
/// Cancelled: from above, `work` is, and what it says to that is passed on: operation_canceled, not
///            timed_out.
/// Example:   examples/cpp/cancel.cpp
template <class T>
task<timed<T>> with_deadline(time_point when, task<T> work) {
    work.require();
    const context here = co_await current_context();
    scope inner(here.within);
    detail::deadline limit(*here.on, inner, when);
    co_await work.settled(inner);
    const bool ours = limit.expired() && !here.within->cancelled();  // not: due, but too late to cancel it
    const bool met = ours && inner.met();
    co_await limit.disarm();
    try {
        if constexpr (std::is_void_v<T>) {
            work.take();
            co_return met ? timed<T>(std::errc::timed_out) : timed<T>();
        } else if constexpr (std::is_reference_v<T>) {
            T kept = work.take();
            co_return met ? timed<T>(std::errc::timed_out) : timed<T>(&kept);
        } else {
            timed<T> outcome = work.take();
            const std::error_code error = detail::error_of(outcome);
            if ((met && !error) || (ours && error == std::errc::operation_canceled)) {
                if constexpr (detail::has_error<T>) {
                    outcome.error = std::make_error_code(std::errc::timed_out);
                } else if constexpr (std::derived_from<T, result<void>>) {
                    static_cast<result<void>&>(outcome) = std::errc::timed_out;
                } else {
                    co_return std::errc::timed_out;
                }
            }
            co_return outcome;
        }
    } catch (const std::system_error& error) {
        if (!ours || error.code() != std::errc::operation_canceled) {
            throw;
        }
    }
    if constexpr (detail::has_error<T>) {
        T outcome;
        outcome.error = std::make_error_code(std::errc::timed_out);
        co_return outcome;
    } else {
        co_return std::errc::timed_out;
    }
}

/// Runs `work` and cancels it `duration` from now on; otherwise as with_deadline().
/// Example: examples/cpp/http_get.cpp
template <class T>
task<timed<T>> with_timeout(nanoseconds duration, task<T> work) {
    const context here = co_await current_context();
    co_return co_await with_deadline(deadline_after(here.on->now(), duration), std::move(work));
}

/// Runs `work`, and cancels it once somebody, in any thread, asks `token`'s source to stop.
///
/// Completes: when `work` does, with what it gives; a stop only asks.
/// Fails:     throws what `work` throws.
/// Thread:    that of its loop; the stop may come from any.
/// Example:   examples/cpp/cancel.cpp
template <class T>
task<T> with_stop(std::stop_token token, task<T> work) {
    work.require();
    const context here = co_await current_context();
    scope inner(here.within);
    if (token.stop_requested()) {
        inner.cancel();
        co_return co_await std::move(work).within(inner);
    }
    detail::stop_relay relay(*here.on, inner);
    {
        const std::stop_callback<detail::stop_relay&> listening(token, relay);
        co_await work.settled(inner);
    }
    co_await relay.retire();
    co_return work.take();
}

/// Starts a task that nobody joins (job.hpp), and that `token`'s source can stop.
///
/// Fails:  throws std::bad_alloc, and has started nothing. An exception of the task goes to the loop's
///         failure hook.
/// Thread: that of the loop; the stop may come from any.
inline void spawn(loop& on, task<void> work, std::stop_token token) {
    spawn(on, with_stop(std::move(token), std::move(work)));
}
template <task_function<void> F>
void spawn(loop& on, F function, std::stop_token token) {
    spawn(on, co_invoke(std::move(function)), std::move(token));
}

}  // namespace zloop
