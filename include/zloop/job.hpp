// zloop/job.hpp: tasks that run beside their caller: start and join, spawn and forget, run to the end.
#pragma once

#include <cassert>
#include <optional>

#include <zloop/task.hpp>

namespace zloop {

/// A task that was started on a loop, and the scope to cancel it by.
///
/// Owns:    the task. Does not move. Destroying a job that has not ended is an error.
/// Example: tests/cpp/job.cpp
template <class T = void>
class [[nodiscard]] job : op {
public:
    /// Starts `work` in the loop's next turn, in a scope of its own below `parent`.
    job(loop& on, scope& parent, task<T> work) noexcept
        : op(&job::begin), on_(&on), scope_(&parent), task_(std::move(work)) {
        on.push(*this);
    }
    job(loop& on, task<T> work) noexcept : job(on, on.root_scope(), std::move(work)) {}

    ~job() { assert(done()); }

    bool done() const noexcept { return phase_ == phase::done; }

    /// Asks the task to end: what it waits for finishes with operation_canceled.
    void cancel() noexcept { scope_.cancel(); }

    /// The task's result, once it is done; throws what the task threw.
    T take() { return task_.frame().promise().take(); }

    /// Queues `waiter` when the task is done. One waiter, not done yet.
    void notify(op& waiter) noexcept { waiter_ = &waiter; }

private:
    enum class phase : std::uint8_t { queued, running, done };

    static void begin(op& node) noexcept {
        auto& self = static_cast<job&>(node);
        self.phase_ = phase::running;
        self.run = &job::end;
        auto& promise = self.task_.frame().promise();
        promise.surround({self.on_, &self.scope_});
        promise.when_done(self);
        self.task_.frame().resume();
    }

    static void end(op& node) noexcept {
        auto& self = static_cast<job&>(node);
        self.phase_ = phase::done;
        if (self.waiter_ != nullptr) {
            self.on_->push(*self.waiter_);
        }
    }

    loop* on_;
    scope scope_;
    task<T> task_;
    op* waiter_ = nullptr;
    phase phase_ = phase::queued;
};

namespace detail {

class spawned final : op {
public:
    spawned(loop& on, task<void> work) : op(&spawned::finish), on_(on), job_(on, std::move(work)) {
        job_.notify(*this);
    }

private:
    static void finish(op& node) noexcept {
        const std::unique_ptr<spawned> self(static_cast<spawned*>(&node));
        try {
            self->job_.take();
        } catch (...) {
            self->on_.report(std::current_exception());
        }
    }

    loop& on_;
    job<void> job_;
};

}  // namespace detail

/// Starts a task that nobody joins; it ends by itself or when the loop shuts down.
/// Fails: its exception goes to the loop's failure hook.
inline void spawn(loop& on, task<void> work) { static_cast<void>(new detail::spawned(on, std::move(work))); }

/// Turns the loop until `work` is done. Returns or throws what it did.
/// When the loop itself fails (the backend cannot wait), it is shut down first, `work` with it.
template <class T>
T run(loop& on, task<T> work) {
    on.begin_run();
    job<T> running(on, std::move(work));
    try {
        while (!running.done()) {
            on.run_once();
        }
    } catch (...) {
        on.shut_down();
        throw;
    }
    return running.take();
}

/// A main in one line: runs `work` on a loop of its own.
template <class T>
T run(task<T> work) {
    loop own;
    return run(own, std::move(work));
}

}  // namespace zloop
