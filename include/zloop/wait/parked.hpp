// zloop/wait/parked.hpp: a coroutine that waits for something on its loop, and can be cancelled meanwhile.
//
// The base of awaiters that are neither I/O nor timers. It lives in the waiting coroutine's frame; who
// will wake it holds a reference, and gives that up when told to withdraw. Woken or withdrawn, it is
// queued, and the coroutine goes on in its turn: never inside of wake() or cancel(). Between the two it can
// still be cancelled where what it was given can be taken back: then nothing was taken, and nothing is lost.
//
// All of it belongs to the loop's thread. Another thread posts an op that calls wake().
#pragma once

#include <zloop/error.hpp>
#include <zloop/task.hpp>

namespace zloop {

/// A base for awaiters of your own: a coroutine that waits for something on its loop, and can be cancelled
/// meanwhile.
///
/// Completes: with the coroutine's turn after wake().
/// Cancelled: is withdrawn at once, and the coroutine goes on in its turn; woken already, it keeps what it
///            got.
/// Owns:      nothing: it lives in the waiting coroutine's frame, and who will wake it holds a reference.
/// Thread:    that of its loop. Another thread posts an op that calls wake().
/// Example:   examples/cpp/awaitable.cpp
class parked : op, cancellable {
public:
    /// What becomes of what a waiter was given that has been woken.
    enum class gift : bool { kept, returned };

    /// Takes `withdraw`, which takes the waiter out of where it waits, so that nobody wakes it any more.
    /// `settle` is called once after wake(): when it goes on, and keeps what it was given; or when it is
    /// cancelled before, and gives that back, if it can: true. Without it a waiter that was woken is not
    /// cancelled any more.
    explicit parked(void (*withdraw)(parked&) noexcept,
                    bool (*settle)(parked&, gift) noexcept = nullptr) noexcept
        : op(&parked::resume), cancellable(&parked::stop), withdraw_(withdraw), settle_(settle) {}
    parked& operator=(const parked&) = delete;

    /// Queues the coroutine. Once, and from then on it cannot be withdrawn.
    void wake() noexcept { go_on(state::woken); }

    /// Queues the coroutine, as cancelled: what it waits for is gone.
    void desert() noexcept { go_on(state::deserted); }

protected:
    /// The same, for what awaits it instead; `other` has not been parked.
    parked(parked&& other) noexcept : parked(other.withdraw_, other.settle_) {}
    /// Not by its base: awaiters are destroyed by the frame that they are in.
    ~parked() = default;

    /// Notes who waits, for what and where, and makes it the leaf of its scope. To be called from
    /// await_suspend before the waiter is put where it waits. False: the caller's scope is cancelled; it does
    /// not wait at all.
    template <task_promise P>
    bool park(std::coroutine_handle<P> caller, const char* what, site where) noexcept {
        detail::note(caller.promise(), what, where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->refuses()) {
            state_ = state::canceled;
            return false;
        }
        caller_ = caller;
        state_ = state::waiting;
        surroundings_.within->enter(*this);
        return true;
    }

    /// Whether it ended by a cancellation.
    bool canceled() const noexcept { return state_ >= state::canceled; }
    /// Whether what it waited for was destroyed.
    bool deserted() const noexcept { return state_ == state::deserted; }
    /// What await_resume can give: success, or operation_canceled.
    result<void> outcome() const noexcept {
        return canceled() ? result<void>(std::errc::operation_canceled) : result<void>();
    }
    /// The loop of the coroutine that waits.
    loop& home() const noexcept { return *surroundings_.on; }

private:
    enum class state : std::uint8_t { waiting, woken, canceled, deserted };

    void go_on(state how) noexcept {
        state_ = how;
        surroundings_.on->push(*this);
    }

    static void resume(op& node) noexcept {
        auto& self = static_cast<parked&>(node);
        self.surroundings_.within->leave(self.state_ == state::canceled);
        if (self.settle_ != nullptr && self.state_ == state::woken) {
            self.settle_(self, gift::kept);
        }
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<parked&>(leaf);
        if (self.state_ == state::waiting) {
            self.withdraw_(self);
            self.go_on(state::canceled);
        } else if (self.state_ == state::woken && self.settle_ != nullptr &&
                   self.settle_(self, gift::returned)) {
            self.state_ = state::canceled;  // it is queued
        }
    }

    void (*withdraw_)(parked&) noexcept;
    bool (*settle_)(parked&, gift) noexcept;
    context surroundings_;
    std::coroutine_handle<> caller_;
    state state_ = state::waiting;
};

/// Waiters in the order of their arrival. Who still waits at its end goes on as cancelled.
///
/// Owns:    none of them.
/// Thread:  that of its loop.
/// Example: examples/cpp/awaitable.cpp
class wait_queue {
public:
    /// A waiter of a queue: what its cancellation takes out again.
    class waiter : public parked {
    public:
        /// Will wait in `queue`; who suspends pushes it there.
        explicit waiter(wait_queue& queue) noexcept : parked(&waiter::withdraw), queue_(&queue) {}

    protected:
        /// One that is served: `give_back` returns to the queue's owner what it was given. False: it cannot,
        /// and the waiter keeps it.
        waiter(wait_queue& queue, bool (*give_back)(waiter&) noexcept) noexcept
            : parked(&waiter::withdraw, &waiter::settle), queue_(&queue), give_back_(give_back) {}

    private:
        friend wait_queue;

        static void withdraw(parked& self) noexcept {
            auto& leaving = static_cast<waiter&>(self);
            leaving.queue_->waiting_.remove(leaving);
        }

        static bool settle(parked& self, gift outcome) noexcept {
            auto& served = static_cast<waiter&>(self);
            if (served.give_back_ == nullptr) {
                return false;  // nothing was given, or nobody is left to give it back to
            }
            served.queue_->served_.remove(served);
            if (outcome == gift::returned && served.give_back_(served)) {
                return true;
            }
            served.give_back_ = nullptr;
            return false;
        }

        wait_queue* queue_;
        bool (*give_back_)(waiter&) noexcept = nullptr;
        waiter* next_ = nullptr;
        waiter* previous_ = nullptr;
    };

    /// A queue without waiters.
    wait_queue() = default;
    wait_queue(const wait_queue&) = delete;
    wait_queue& operator=(const wait_queue&) = delete;
    /// Resumes who still waits, as cancelled.
    ~wait_queue() {
        while (!served_.empty()) {
            pop(served_).give_back_ = nullptr;
        }
        while (!empty()) {
            pop(waiting_).desert();
        }
    }

    /// Whether nobody waits.
    bool empty() const noexcept { return waiting_.empty(); }

    /// Puts a waiter that is parked behind all others.
    void push(waiter& last) noexcept { waiting_.push(last); }

    /// Takes the oldest out, to be woken: with what it can give back until it goes on, if it has been made
    /// for that. The queue must not be empty.
    waiter& pop() noexcept {
        waiter& oldest = pop(waiting_);
        if (oldest.give_back_ != nullptr) {
            served_.push(oldest);
        }
        return oldest;
    }

    /// Takes all out, and wakes them in order, with nothing to give back.
    void wake_all() noexcept {
        while (!empty()) {
            waiter& oldest = pop(waiting_);
            oldest.give_back_ = nullptr;
            oldest.wake();
        }
    }

private:
    struct list {
        waiter* first = nullptr;
        waiter* last = nullptr;

        bool empty() const noexcept { return first == nullptr; }
        void push(waiter& added) noexcept {
            added.previous_ = last;
            (last != nullptr ? last->next_ : first) = &added;
            last = &added;
        }
        void remove(waiter& leaving) noexcept {
            (leaving.previous_ != nullptr ? leaving.previous_->next_ : first) = leaving.next_;
            (leaving.next_ != nullptr ? leaving.next_->previous_ : last) = leaving.previous_;
            leaving.next_ = leaving.previous_ = nullptr;
        }
    };

    static waiter& pop(list& from) noexcept {
        waiter& oldest = *from.first;
        from.remove(oldest);
        return oldest;
    }

    list waiting_;
    list served_;  // woken, and have not gone on yet
};

}  // namespace zloop
