// zloop/on.hpp: work of a task on another loop, and so on that one's thread, awaited from here.
//
// The task stays where it is: it waits, and what it has started lives on the other loop from its first step
// to its last. A coroutine does not change loops in the midst of itself: its scope, and the operations that
// it has begun, are one thread's. Each side keeps what is its own, and ops that are posted are all that
// passes between them.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <optional>
#include <utility>

#include <zloop/job.hpp>
#include <zloop/wait/operation.hpp>

namespace zloop {

namespace detail {

/// Waits for a task that runs on another loop.
template <class T>
class [[nodiscard]] elsewhere : cancellable {
    static_assert(!is_lent<T>, "what receive() lends is that loop's: give it a buffer, recv(buffer)");

public:
    elsewhere(loop& other, task<T>&& work) noexcept
        : cancellable(&elsewhere::stop), there_(&other), work_(std::move(work)) {}
    elsewhere(elsewhere&& other) noexcept : elsewhere(*other.there_, std::move(other.work_)) {}

    bool await_ready() const {
        work_.require();
        return false;
    }
    template <task_promise P>
    void await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        note(caller.promise(), "another loop", where);
        here_ = caller.promise().surroundings();
        caller_ = caller;
        attending_ = attend(*this);
        here_.on->expect();
        here_.within->enter(*this);  // one that is cancelled already asks at once
        there_->post(begin_);
    }
    T await_resume() { return work_.take(); }

private:
    struct step : op {
        step(function run_function, elsewhere& from) noexcept : op(run_function), of(from) {}
        elsewhere& of;
    };
    static elsewhere& of(op& node) noexcept { return static_cast<step&>(node).of; }

    // Here.

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<elsewhere&>(leaf);
        phase was = phase::runs;
        if (self.phase_.compare_exchange_strong(was, phase::asked)) {
            self.there_->post(self.ask_);
        }
    }

    /// The task has ended, and nothing of ours is on its way there, which may be gone.
    static void come_back(op& node) noexcept {
        elsewhere& self = of(node);
        self.here_.on->received();
        self.here_.within->leave(self.met_);
        self.caller_.resume();
    }

    // There.

    static task<void> attend(elsewhere& self) {
        const context there = co_await current_context();
        scope inner(there.within);
        self.inner_ = &inner;
        if (self.heard_) {
            inner.cancel();
        }
        co_await self.work_.settled(inner);
        self.inner_ = nullptr;
        self.met_ = inner.met();
    }

    static void begin(op& node) noexcept {
        elsewhere& self = of(node);
        auto& started = self.job_.emplace(*self.there_, std::move(self.attending_));
        started.notify(self.leave_);
    }

    static void hear(op& node) noexcept {
        elsewhere& self = of(node);
        if (self.is_late_) {
            self.there_->received();
            self.here_.on->post(self.end_);  // and this may be gone
            return;
        }
        self.heard_ = true;
        if (self.inner_ != nullptr) {
            self.inner_->cancel();
        }
    }

    static void leave(op& node) noexcept {
        elsewhere& self = of(node);
        self.job_.reset();
        if (self.phase_.exchange(phase::left) == phase::asked && !self.heard_) {
            self.is_late_ = true;  // what was asked is on its way: this loop does not end before
            self.there_->expect();
            return;
        }
        self.here_.on->post(self.end_);  // and this may be gone
    }

    /// Who was first: the cancellation here, or the end there.
    enum class phase : std::uint8_t { runs, asked, left };

    loop* there_;
    task<T> work_;
    context here_;
    std::coroutine_handle<> caller_;
    step end_{&elsewhere::come_back, *this};
    std::atomic<phase> phase_ = phase::runs;

    // The other thread's, until it has posted the end.
    step begin_{&elsewhere::begin, *this};
    step ask_{&elsewhere::hear, *this};
    step leave_{&elsewhere::leave, *this};
    task<void> attending_;
    std::optional<job<void>> job_;
    scope* inner_ = nullptr;
    bool heard_ = false;
    bool is_late_ = false;
    bool met_ = false;
};

}  // namespace detail

/// Runs `work`, a task that has not begun, on `other`, which another thread turns or this one: `co_await
/// on(other, ask(name))`.
///
/// Completes: when `work` has ended there, in a turn of the caller's loop.
/// Fails:     throws what `work` throws; std::logic_error for an empty task.
/// Cancelled: `work` is, as soon as its loop hears of it, and is waited for. As everywhere, what it then
///            gives is given.
/// Owns:      `work`, whose frame is freed on the caller's thread, once it has ended on the other.
/// Thread:    that of the caller's loop. `work`, from its first step to its last, is on that of `other`,
/// which
///            turns, or is being destroyed, as long as somebody waits: a loop that nobody turns is waited
///            for in vain. `other` is destroyed by the thread that has turned it.
/// Example:   examples/cpp/threads.cpp
template <class T>
auto on(loop& other, task<T> work) {
    return detail::elsewhere<T>(other, std::move(work));
}

/// The same for what `function(arguments...)` gives there; it is called there too, and all of these are kept
/// until the end: `co_await on(other, [&] { return table.find(name); })`. What is no task or other operation
/// is the result itself.
template <class F, class... Arguments>
    requires std::invocable<F&, Arguments...>
auto on(loop& other, F function, Arguments... arguments) {
    if constexpr (operation_function<F, Arguments...>) {
        return on(other, co_invoke(std::move(function), std::move(arguments)...));
    } else {
        return on(other, [](F called, Arguments... with) -> task<std::invoke_result_t<F&, Arguments...>> {
            co_return detail::call(called, std::move(with)...);
        }(std::move(function), std::move(arguments)...));
    }
}

}  // namespace zloop
