// zloop/job.hpp: tasks that run beside their caller: start and join, spawn and forget, run to the end.
#pragma once

#include <stdexcept>

#include <zloop/backtrace.hpp>
#include <zloop/task.hpp>
#include <zloop/wait/operation.hpp>

namespace zloop {

/// A task that was started on a loop, and the scope to cancel it by.
///
/// Fails:     throws std::logic_error, for an empty task.
/// Cancelled: by cancel(), and with the scope above. One that has not begun runs to its first wait.
/// Owns:      the task. Does not move. To destroy a job that has not ended is an error as it is with a
///            std::thread, and ends the process, with a backtrace and the exception that was the reason:
///            with_nursery() (nursery.hpp) cannot be left before what it has started has ended.
/// Thread:    that of its loop.
/// Example:   examples/cpp/cancel.cpp
template <class T = void>
class [[nodiscard]] job : op, detail::completion, detail::live_task {
public:
    /// Starts `work` in the loop's next turn, in a scope of its own below `parent`.
    job(loop& on, scope& parent, task<T> work)
        : op(&job::begin), completion(&job::end), on_(&on), scope_(&parent), task_(std::move(work)) {
        task_.require();
        on.push(*this);
        on.enlist(*this);
    }
    /// The same, below the loop's root scope: cancelled by cancel(), and when the loop ends.
    job(loop& on, task<T> work) : job(on, on.root_scope(), std::move(work)) {}

    /// The same from within a task; cancelled when that is: `job<> child(co_await current_context(), f());`
    job(const context& here, task<T> work) : job(*here.on, *here.within, std::move(work)) {}

    /// The same for any other operation, where its result is the job's.
    template <detail::other_operation A>
        requires std::same_as<detail::kept_type<awaited_type<A>>, T>
    job(loop& on, scope& parent, A work) : job(on, parent, as_task(std::move(work))) {}
    template <detail::other_operation A>
        requires std::same_as<detail::kept_type<awaited_type<A>>, T>
    job(loop& on, A work) : job(on, as_task(std::move(work))) {}
    template <detail::other_operation A>
        requires std::same_as<detail::kept_type<awaited_type<A>>, T>
    job(const context& here, A work) : job(here, as_task(std::move(work))) {}

    /// Ends the process if the task has not ended.
    ~job() {
        if (!done()) {  // its frame is in use
            detail::left_early(*on_, "a job was destroyed that has not ended", this);
            on_->strike(*this);
            scope_.forsake();
            static_cast<void>(task_.release());
        }
    }

    /// Whether the task has ended.
    bool done() const noexcept { return phase_ >= phase::done; }

    /// Asks the task to end: what it waits for finishes with operation_canceled.
    void cancel() noexcept { scope_.cancel(); }

    /// Gives the task's result, once it is done. Once.
    /// Fails: throws what the task threw; std::logic_error where it is not done, and the second time.
    T take() {
        if (phase_ != phase::done) [[unlikely]] {
            throw std::logic_error(done() ? "the result of a job was taken already"
                                          : "the result of a job that has not ended");
        }
        phase_ = phase::taken;
        return task_.take();
    }

    /// Queues `waiter` when the task is done. Throws std::logic_error where there is one already.
    void notify(op& waiter) {
        if (waiter_ != nullptr) [[unlikely]] {
            throw std::logic_error("a job is joined once");
        }
        waiter_ = &waiter;
        if (done()) {
            on_->push(waiter);
        }
    }

    /// What join() gives.
    class joiner : op {
    public:
        /// Will wait for `joined`.
        explicit joiner(job& joined) noexcept : op(&joiner::go_on), joined_(joined) {}
        /// The same, for what awaits it instead; `other` has not begun.
        joiner(joiner&& other) noexcept : joiner(other.joined_) {}

        bool await_ready() const noexcept { return joined_.done() && joined_.waiter_ == nullptr; }
        template <task_promise P>
        void await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            detail::note(caller.promise(), "job", where);
            caller_ = caller;
            joined_.notify(*this);
        }
        T await_resume() { return joined_.take(); }

    private:
        static void go_on(op& node) noexcept { static_cast<joiner&>(node).caller_.resume(); }

        job& joined_;
        std::coroutine_handle<> caller_;
    };

    /// Waits for the end, and takes the result: `co_await job.join()`.
    ///
    /// Fails:     throws what the task threw; std::logic_error for all but the first who joins.
    /// Cancelled: not itself: cancel the job, and it ends.
    /// Overlap:   one waiter.
    joiner join() noexcept { return joiner(*this); }

private:
    enum class phase : std::uint8_t { queued, running, done, taken };

    static void begin(op& node) noexcept {
        auto& self = static_cast<job&>(node);
        self.phase_ = phase::running;
        auto& promise = self.task_.frame().promise();
        self.bottom = &promise;
        promise.surround({self.on_, &self.scope_});
        promise.when_done(self);
        self.task_.frame().resume();
    }

    static void end(completion& ended) noexcept {
        auto& self = static_cast<job&>(ended);
        self.phase_ = phase::done;
        self.on_->strike(self);
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

template <class Place, detail::other_operation A>
job(Place&&, A) -> job<detail::kept_type<awaited_type<A>>>;
template <detail::other_operation A>
job(loop&, scope&, A) -> job<detail::kept_type<awaited_type<A>>>;

namespace detail {

class spawned final : op {
public:
    spawned(const context& here, task<void> work)
        : op(&spawned::finish), on_(*here.on), job_(here, std::move(work)) {
        job_.notify(*this);
    }

private:
    static void finish(op& node) noexcept {
        const std::unique_ptr<spawned> self(static_cast<spawned*>(&node));
        try {
            self->job_.take();
        } catch (...) {
            report_beside(self->on_, std::current_exception());
        }
    }

    loop& on_;
    job<void> job_;
};

}  // namespace detail

/// Starts a task that nobody joins, in the loop's next turn; it ends by itself or when the loop shuts down.
///
/// Fails:   throws std::bad_alloc, std::logic_error for an empty task, and has started nothing. An exception
///          of the task goes to the loop's failure hook, unless it says that the task was cancelled.
/// Owns:    the task, until it has ended.
/// Thread:  that of the loop.
/// Example: examples/cpp/udp_query.cpp
inline void spawn(loop& on, task<void> work) {
    static_cast<void>(new detail::spawned({&on, &on.root_scope()}, std::move(work)));
}

/// The same below a scope: it is cancelled with that, which lives longer.
/// Example: examples/extension/http/server.hpp
inline void spawn(const context& here, task<void> work) {
    static_cast<void>(new detail::spawned(here, std::move(work)));
}

/// The same for a task or another operation that gives a result<void>: its error is a failure, thrown as
/// std::system_error.
template <detail::child_operation A>
    requires(!std::same_as<A, task<void>>)
void spawn(loop& on, A work) {
    if constexpr (detail::is_task<A>) {
        work.require();
    }
    spawn(on, detail::as_child(std::move(work)));
}

/// The same for what `function(arguments...)` gives; all of these are kept until its end, as by co_invoke():
/// `spawn(on, serve, std::move(socket), std::move(name))`, `spawn(on, [text]() -> task<> {…})`.
/// Example: examples/cpp/operations.cpp
template <class F, class... Arguments>
    requires detail::child_function<F, Arguments...>
void spawn(loop& on, F function, Arguments... arguments) {
    spawn(on, co_invoke(std::move(function), std::move(arguments)...));
}

/// Turns the loop until `work` is done, and gives its result. What else is on the loop stays there.
///
/// Fails:   throws what `work` threw. When the loop itself fails (the backend cannot wait), it is shut down
///          first, `work` with it.
/// Thread:  that of the loop.
/// Example: examples/cpp/sync.cpp
template <class T>
T run(loop& on, task<T> work) {
    on.begin_run();
    job<T> running(on, std::move(work));
    try {
        on.turn_until([&] { return running.done(); });
    } catch (...) {
        on.shut_down();
        throw;
    }
    return running.take();
}

/// Runs `work` on a loop of its own: a main in one line. What was spawned besides is cancelled at the end,
/// and waited for.
///
/// Fails:   throws what `work` threw, or what loop's constructor does.
/// Example: examples/cpp/sleep.cpp
template <class T>
T run(task<T> work) {
    loop own;
    return run(own, std::move(work));
}

/// The same for any other operation, on a loop that is there or on one of its own.
template <detail::other_operation A>
auto run(loop& on, A work) {
    return run(on, as_task(std::move(work)));
}
template <detail::other_operation A>
auto run(A work) {
    return run(as_task(std::move(work)));
}

}  // namespace zloop
