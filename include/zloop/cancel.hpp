// zloop/cancel.hpp: shield, deadlines, std::stop_token: scopes around a task or an operation.
//
// Each of these runs something in a scope of its own, and ends when that has ended: nothing goes on
// behind the caller's back. Cancelling is asking, so what a task does with its last breath takes the time
// that it takes.
#pragma once

#include <concepts>
#include <exception>
#include <new>
#include <optional>
#include <stop_token>

#include <zloop/error.hpp>
#include <zloop/job.hpp>
#include <zloop/task.hpp>
#include <zloop/wait/operation.hpp>

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

/// The same for any other operation.
template <detail::other_operation A>
task<detail::kept_type<awaited_type<A>>> shield(A work) {
    return shield(as_task(std::move(work)));
}

namespace detail {

/// A timer that cancels a scope.
class deadline : timer_node {
public:
    deadline() noexcept : timer_node(&deadline::strike) {}
    deadline(const deadline&) = delete;
    deadline& operator=(const deadline&) = delete;

    /// Throws std::bad_alloc.
    void arm(loop& on, scope& target, time_point when) {
        if (when != time_point::max()) {
            on.arm(*this, when);
            on_ = &on;
            target_ = &target;
        }
    }

    /// Whether it has cancelled the scope.
    bool expired() const noexcept { return struck_; }

    /// Takes it back, due or not; right away, so that what was lent to who waited is still there.
    void disarm() noexcept {
        if (armed()) {
            on_->disarm(*this);
        } else if (on_ != nullptr && !struck_) {
            on_->withdraw(*this);
        }
    }

private:
    static void strike(op& node) noexcept {
        auto& self = static_cast<deadline&>(node);
        self.struck_ = true;
        self.target_->cancel();
    }

    loop* on_ = nullptr;
    scope* target_ = nullptr;
    bool struck_ = false;
};

/// Cancels a scope once another thread has asked. It may be on its way when nobody needs it any more: its
/// owner waits for it then.
class stop_relay final : op {
public:
    stop_relay(loop& on, scope& target) noexcept : op(&stop_relay::strike), on_(on), target_(target) {}
    stop_relay(const stop_relay&) = delete;
    stop_relay& operator=(const stop_relay&) = delete;

    void operator()() noexcept {  // by any thread, once
        posted_.store(true, std::memory_order_release);
        on_.post(*this);
    }

    class arrival {
    public:
        explicit arrival(stop_relay& awaited) noexcept : awaited_(awaited) {}
        bool await_ready() const noexcept {
            return awaited_.struck_ || !awaited_.posted_.load(std::memory_order_acquire);
        }
        void await_suspend(std::coroutine_handle<> caller) noexcept { awaited_.waiter_ = caller; }
        void await_resume() const noexcept {}

    private:
        stop_relay& awaited_;
    };

    /// To be awaited before it is destroyed, when nobody calls it any more.
    arrival retire() noexcept { return arrival(*this); }

private:
    static void strike(op& node) noexcept {
        auto& self = static_cast<stop_relay&>(node);
        self.struck_ = true;
        self.target_.cancel();
        if (self.waiter_) {
            self.waiter_.resume();
        }
    }

    loop& on_;
    scope& target_;
    std::coroutine_handle<> waiter_;
    bool struck_ = false;
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

/// An operation that is cancelled when its time is up: what with_timeout() and with_deadline() give, to be
/// awaited, or to be moved to who awaits it. As it is an awaiter itself, in the caller's frame, it costs no
/// frame, and no clock and no timer where the operation is ready.
///
/// Owns: the operation.
template <operation A>
class [[nodiscard]] timed_operation {
    using given = detail::kept_type<awaited_type<A>>;

public:
    /// Will run `work` until `when`.
    timed_operation(time_point when, A&& work) : work_(std::move(work)), when_(when) {}
    /// Will run `work` for `duration`.
    timed_operation(nanoseconds duration, A&& work)
        : work_(std::move(work)), when_(duration), is_relative_(true) {}
    /// Takes what `other` would run, which has not begun.
    timed_operation(timed_operation&& other) noexcept(std::is_nothrow_move_constructible_v<A>)
        : work_(std::move(other.work_)), when_(other.when_), is_relative_(other.is_relative_) {}
    timed_operation& operator=(timed_operation&&) = delete;

    /// The same as a task.
    operator task<timed<given>>() && { return as_task(std::move(*this)); }

    bool await_ready() { return begun_.make(work_).await_ready(); }

    template <task_promise P>
    auto await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        auto& promise = caller.promise();
        static_assert(
            requires { promise.surround(around_); },
            "a promise of your own has no surround(context): await this in a task<>");
        around_ = promise.surroundings();
        scope& inner = inner_.emplace(around_.within);
        // A task may compute before it waits, and its deadline comes in front of the timers that it arms. An
        // operation's time begins when it waits.
        if constexpr (detail::is_task<A>) {
            limit_it();
        }
        // For an operation its caller's scope is the inner one, as long as it asks for that.
        promise.surround({around_.on, &inner});
        struct restored {
            P& promise;
            const context& before;
            ~restored() { promise.surround(before); }
        };
        using how = decltype(detail::suspend_on(begun_.get(), caller, where));
        if constexpr (std::is_void_v<how>) {
            {
                const restored after{promise, around_};
                detail::suspend_on(begun_.get(), caller, where);
            }
            begin_to_wait();
        } else {
            const auto suspended = [&] {
                const restored after{promise, around_};
                return detail::suspend_on(begun_.get(), caller, where);
            }();
            if constexpr (std::is_same_v<how, bool>) {
                if (suspended) {
                    begin_to_wait();
                }
            } else {
                begin_to_wait();
            }
            return suspended;
        }
    }

    timed<given> await_resume() {
        limit_.disarm();
        if (no_memory_) [[unlikely]] {
            try {
                static_cast<void>(begun_.get().await_resume());  // it leaves its scope there
            } catch (...) {
            }
            std::rethrow_exception(no_memory_);
        }
        // Not: due, but too late to cancel it.
        const bool ours = limit_.expired() && !around_.within->cancelled();
        const bool met = ours && inner_->met();
        try {
            if constexpr (std::is_void_v<given>) {
                begun_.get().await_resume();
                return met ? timed<given>(std::errc::timed_out) : timed<given>();
            } else if constexpr (std::is_reference_v<given>) {
                given kept = begun_.get().await_resume();
                return met ? timed<given>(std::errc::timed_out) : timed<given>(&kept);
            } else {
                timed<given> outcome = begun_.get().await_resume();
                const std::error_code error = detail::error_of(outcome);
                if ((met && !error) || (ours && error == std::errc::operation_canceled)) {
                    if constexpr (detail::has_error<given>) {
                        outcome.error = std::make_error_code(std::errc::timed_out);
                    } else if constexpr (std::derived_from<given, result<void>>) {
                        static_cast<result<void>&>(outcome) = std::errc::timed_out;
                    } else {
                        return std::errc::timed_out;
                    }
                }
                return outcome;
            }
        } catch (const std::system_error& error) {
            if (!ours || error.code() != std::errc::operation_canceled) {
                throw;
            }
        }
        if constexpr (detail::has_error<given>) {
            given outcome;
            outcome.error = std::make_error_code(std::errc::timed_out);
            return outcome;
        } else {
            return std::errc::timed_out;
        }
    }

private:
    void begin_to_wait() noexcept {
        if constexpr (!detail::is_task<A>) {
            limit_it();
        }
    }

    /// Arms the timer. Where there is no memory for it nothing is waited for any longer.
    void limit_it() noexcept {
        if (is_relative_) {
            when_ = deadline_after(around_.on->now(), when_.time_since_epoch());
        }
        try {
            limit_.arm(*around_.on, *inner_, when_);
        } catch (const std::bad_alloc&) {
            no_memory_ = std::current_exception();
            inner_->cancel();
        }
    }

    context around_;
    std::optional<scope> inner_;  // in front of the work, whose scopes may be below it
    A work_;
    detail::begun<A> begun_;
    time_point when_;  // or, until it is counted, for how long
    bool is_relative_ = false;
    std::exception_ptr no_memory_;
    detail::deadline limit_;
};

/// Runs `work`, a task or any other operation, and cancels it at `when`, by the loop's clock.
///
/// Completes: when `work` does, which the deadline only asks to.
/// Fails:     `timed_out` (of std::generic_category; a kernel's own, of a peer that is gone, is of
///            std::system_category) when something that `work` awaited was ended or refused by the deadline,
///            whatever `work` made of that: a value, nothing, or operation_canceled, as a result or thrown.
///            Work that has not met the deadline, because it was done in the same moment or shielded, gives
///            its value however late; and a failure of another kind is passed on. Throws std::bad_alloc where
///            there is no memory for the timer.
/// Cancelled: from above, `work` is, and what it says to that is passed on: operation_canceled, not
///            timed_out.
/// Owns:      `work`.
/// Example:   examples/cpp/cancel.cpp
template <operation A>
timed_operation<A> with_deadline(time_point when, A work) {
    return timed_operation<A>(when, std::move(work));
}

/// Runs `work` and cancels it `duration` after its start, of an operation when it begins to wait; otherwise
/// as with_deadline(): `co_await with_timeout(1s, socket.recv(buffer))`. What was cancelled has taken
/// nothing. Example: examples/cpp/operations.cpp
template <operation A>
timed_operation<A> with_timeout(nanoseconds duration, A work) {
    return timed_operation<A>(duration, std::move(work));
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

/// The same for any other operation.
template <detail::other_operation A>
task<detail::kept_type<awaited_type<A>>> with_stop(std::stop_token token, A work) {
    return with_stop(std::move(token), as_task(std::move(work)));
}

/// Starts a task that nobody joins (job.hpp), and that `token`'s source can stop.
///
/// Fails:  throws std::bad_alloc, and has started nothing. An exception of the task goes to the loop's
///         failure hook.
/// Thread: that of the loop; the stop may come from any.
inline void spawn(loop& on, task<void> work, std::stop_token token) {
    spawn(on, with_stop(std::move(token), std::move(work)));
}
template <class F>
    requires detail::child_function<F> && (!std::invocable<F&, std::stop_token>)
void spawn(loop& on, F function, std::stop_token token) {
    spawn(on, co_invoke(std::move(function)), std::move(token));
}

}  // namespace zloop
