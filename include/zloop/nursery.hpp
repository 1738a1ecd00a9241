// zloop/nursery.hpp: tasks that run beside each other and end before their nursery does.
//
// The nursery owns the tasks that it has started; each is freed at its end. When one fails the others are
// cancelled, and who joins gets that failure. Nothing outlives the join.
#pragma once

#include <stdexcept>

#include <zloop/backtrace.hpp>
#include <zloop/core/frame_pool.hpp>
#include <zloop/error.hpp>
#include <zloop/task.hpp>
#include <zloop/wait/operation.hpp>

namespace zloop {

/// Starts tasks, and waits for all of them.
///
/// Fails:     with the first failure of a task, told to who joins; the other tasks are cancelled.
/// Cancelled: by cancel(), and with its owner: then its tasks are.
/// Owns:      the tasks. Made by with_nursery(), which joins it however it is left. One of your own has to be
///            joined before it is destroyed: with tasks in it, that ends the process, with a backtrace and
///            the exception that was the reason.
/// Thread:    that of its loop.
/// Example:   examples/cpp/chat_room.cpp
class nursery {
public:
    /// Its tasks are cancelled when the caller is: `nursery children(co_await current_context());`
    explicit nursery(const context& here) noexcept : on_(here.on), above_(here.within), scope_(above_) {}
    nursery(const nursery&) = delete;
    nursery& operator=(const nursery&) = delete;
    /// Ends the process if a task has not ended.
    ~nursery() {
        if (size_ != 0) {  // their frames are in use
            detail::left_early(*on_, "a nursery was destroyed with tasks in it");
            scope_.forsake();
        }
    }

    /// Starts `work` in the loop's next turn. In a cancelled nursery it runs as well, and its first operation
    /// fails with operation_canceled.
    ///
    /// Fails: throws std::bad_alloc, and has started nothing. An exception that leaves `work` is the
    ///        nursery's.
    /// Owns:  `work`, which is freed at its end.
    void spawn(task<void> work) {
        work.require();
        auto* const fresh = new child(*this, std::move(work));
        ++size_;
        on_->enlist(*fresh);
        on_->push(*fresh);
    }

    /// The same for a task or another operation that gives a result<void>; an error is a failure, thrown as
    /// std::system_error.
    template <detail::child_operation A>
        requires(!std::same_as<A, task<void>>)
    void spawn(A work) {
        if constexpr (detail::is_task<A>) {
            work.require();
        }
        spawn(detail::as_child(std::move(work)));
    }

    /// The same for what `function(arguments...)` gives; all of these are kept until its end, as by
    /// co_invoke(): `children.spawn(serve, std::move(socket))`, `children.spawn([text]() -> task<> {…})`.
    template <class F, class... Arguments>
        requires detail::child_function<F, Arguments...>
    void spawn(F function, Arguments... arguments) {
        spawn(co_invoke(std::move(function), std::move(arguments)...));
    }

    /// How many tasks have not ended.
    std::size_t size() const noexcept { return size_; }

    /// Asks all of them to end. Who then says, by an exception or as its error, that it was cancelled has
    /// not failed.
    void cancel() noexcept { scope_.cancel(); }

    /// What join() gives.
    class joiner : op {
    public:
        /// Will wait for the tasks of `joined`.
        explicit joiner(nursery& joined) noexcept : op(&joiner::go_on), joined_(joined) {}
        /// The same, for what awaits it instead; `other` has not begun.
        joiner(joiner&& other) noexcept : joiner(other.joined_) {}

        bool await_ready() const noexcept { return joined_.size_ == 0 && !joined_.is_joined_; }
        template <task_promise P>
        void await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            if (std::exchange(joined_.is_joined_, true)) [[unlikely]] {
                throw std::logic_error("a nursery is joined by one task at a time");
            }
            detail::note(caller.promise(), "nursery", where);
            caller_ = caller;
            joined_.joiner_ = this;
        }
        void await_resume() {
            if (joined_.failure_) {
                std::rethrow_exception(std::exchange(joined_.failure_, nullptr));
            }
        }

    private:
        friend nursery;
        static void go_on(op& node) noexcept {
            auto& self = static_cast<joiner&>(node);
            if (self.joined_.size_ != 0) {  // by another one's spawn, in this very turn
                self.joined_.joiner_ = &self;
                return;
            }
            self.joined_.is_joined_ = false;
            self.caller_.resume();
        }

        nursery& joined_;
        std::coroutine_handle<> caller_;
    };

    /// Waits until no task is left: `co_await children.join()`.
    ///
    /// Fails:     throws the first failure of a task; later ones go to the loop's failure hook. Throws
    ///            std::logic_error where another task joins it just now.
    /// Cancelled: not itself: its tasks are when the caller is, and so it ends.
    /// Overlap:   one waiter.
    joiner join() noexcept { return joiner(*this); }

private:
    template <class F>
    friend task<void> with_nursery(F body);

    struct child final : op, detail::completion, detail::live_task {
        child(nursery& nursery_of, task<void> task_of) noexcept
            : op(&child::begin),
              completion(&child::end),
              home(nursery_of),
              own(&home.scope_),
              work(std::move(task_of)) {}

        static void* operator new(std::size_t size) { return detail::frame_pool::allocate(size); }
        static void operator delete(void* memory, std::size_t size) noexcept {
            detail::frame_pool::release(memory, size);
        }

        static void begin(op& node) noexcept {
            auto& self = static_cast<child&>(node);
            auto& promise = self.work.frame().promise();
            self.bottom = &promise;
            promise.surround({self.home.on_, &self.own});
            promise.when_done(self);
            self.work.frame().resume();
        }

        static void end(completion& ended) noexcept {
            auto& self = static_cast<child&>(ended);
            nursery& home = self.home;
            home.settle(self.work);
            home.on_->strike(self);
            delete &self;
            if (--home.size_ == 0 && home.joiner_ != nullptr) {
                home.on_->push(*std::exchange(home.joiner_, nullptr));
            }
        }

        nursery& home;
        scope own;
        task<void> work;
    };

    /// Takes the failure of a task that has ended, if it failed.
    void settle(task<void>& ended) noexcept {
        if (ended.failed()) {
            try {
                ended.take();
            } catch (...) {
                fail(std::current_exception());
            }
        }
    }

    void fail(std::exception_ptr failure) noexcept {
        const bool by_us = scope_.cancelled() && !above_->cancelled();
        if (failure_) {
            detail::report_beside(*on_, std::move(failure));
        } else if (!by_us || !detail::is_canceled(failure)) {
            failure_ = std::move(failure);
        }
        scope_.cancel();
    }

    loop* on_;
    scope* above_;
    scope scope_;
    std::size_t size_ = 0;
    joiner* joiner_ = nullptr;
    bool is_joined_ = false;
    std::exception_ptr failure_;  // the first
};

/// Runs `body`, a callable that takes a nursery& and gives a task<void>, and joins what it has spawned.
///
/// Completes: when the body and all tasks have ended.
/// Fails:     throws the first failure of the body or of a task; the others are cancelled, the body too.
/// Cancelled: the body is, and the tasks; it ends when they have.
/// Owns:      `body`, until the end.
/// Example:   examples/cpp/port_forwarder.cpp
template <class F>
task<void> with_nursery(F body) {
    nursery children(co_await current_context());
    {
        scope own(&children.scope_);
        task<void> running;
        try {
            running = body(children);
        } catch (...) {  // no coroutine, or no memory for one
            children.fail(std::current_exception());
        }
        if (running.frame()) {
            co_await running.settled(own);
            children.settle(running);
        }
    }
    co_await children.join();
}

}  // namespace zloop
