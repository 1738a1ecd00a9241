// zloop/wait/parked.hpp: a coroutine that waits for something on its loop, and can be cancelled meanwhile.
//
// The base of awaiters that are neither I/O nor timers. It lives in the waiting coroutine's frame; who
// will wake it holds a reference, and gives that up when told to withdraw. Woken or withdrawn, it is
// queued, and the coroutine goes on in its turn: never inside of wake() or cancel().
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
    /// Takes `withdraw`, which takes the waiter out of where it waits, so that nobody wakes it any more.
    explicit parked(void (*withdraw)(parked&) noexcept) noexcept
        : op(&parked::resume), cancellable(&parked::stop), withdraw_(withdraw) {}
    parked(const parked&) = delete;
    parked& operator=(const parked&) = delete;

    /// Queues the coroutine. Once, and from then on it cannot be withdrawn: what it was given stays given.
    void wake() noexcept {
        state_ = state::woken;
        surroundings_.on->push(*this);
    }

protected:
    /// Not by its base: awaiters are destroyed by the frame that they are in.
    ~parked() = default;

    /// Notes who waits, for what and where, and makes it the leaf of its scope. To be called from
    /// await_suspend before the waiter is put where it waits. False: the caller's scope is cancelled; it does
    /// not wait at all.
    template <task_promise P>
    bool park(std::coroutine_handle<P> caller, const char* what, site where) noexcept {
        detail::note(caller.promise(), what, where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->cancelled()) {
            state_ = state::canceled;
            return false;
        }
        caller_ = caller;
        surroundings_.within->enter(*this);
        return true;
    }

    /// Whether it ended by a cancellation.
    bool canceled() const noexcept { return state_ == state::canceled; }
    /// What await_resume can give: success, or operation_canceled.
    result<void> outcome() const noexcept {
        return canceled() ? result<void>(std::errc::operation_canceled) : result<void>();
    }
    /// The loop of the coroutine that waits.
    loop& home() const noexcept { return *surroundings_.on; }

private:
    enum class state : std::uint8_t { waiting, woken, canceled };

    static void resume(op& node) noexcept {
        auto& self = static_cast<parked&>(node);
        self.surroundings_.within->leave();
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<parked&>(leaf);
        if (self.state_ == state::waiting) {  // else it is woken already, and that wins
            self.withdraw_(self);
            self.state_ = state::canceled;
            self.surroundings_.on->push(self);
        }
    }

    void (*withdraw_)(parked&) noexcept;
    context surroundings_;
    std::coroutine_handle<> caller_;
    state state_ = state::waiting;
};

/// Waiters in the order of their arrival.
///
/// Owns:    none of them; must be empty at its end.
/// Thread:  that of its loop.
/// Example: examples/cpp/awaitable.cpp
class wait_queue {
public:
    /// A waiter of a queue: what its cancellation takes out again.
    class waiter : public parked {
    public:
        /// Will wait in `queue`; who suspends pushes it there.
        explicit waiter(wait_queue& queue) noexcept : parked(&waiter::withdraw), queue_(&queue) {}

    private:
        friend wait_queue;

        static void withdraw(parked& self) noexcept {
            auto& leaving = static_cast<waiter&>(self);
            leaving.queue_->remove(leaving);
        }

        wait_queue* queue_;
        waiter* next_ = nullptr;
        waiter* previous_ = nullptr;
    };

    /// A queue without waiters.
    wait_queue() = default;
    wait_queue(const wait_queue&) = delete;
    wait_queue& operator=(const wait_queue&) = delete;
    /// Nobody waits any more.
    ~wait_queue() { assert(empty()); }

    /// Whether nobody waits.
    bool empty() const noexcept { return first_ == nullptr; }

    /// Puts a waiter that is parked behind all others.
    void push(waiter& last) noexcept {
        last.previous_ = last_;
        (last_ != nullptr ? last_->next_ : first_) = &last;
        last_ = &last;
    }

    /// Takes the oldest out, to be woken. The queue must not be empty.
    waiter& pop() noexcept {
        waiter& oldest = *first_;
        remove(oldest);
        return oldest;
    }

    /// Takes all out, and wakes them in order.
    void wake_all() noexcept {
        while (!empty()) {
            pop().wake();
        }
    }

private:
    void remove(waiter& leaving) noexcept {
        (leaving.previous_ != nullptr ? leaving.previous_->next_ : first_) = leaving.next_;
        (leaving.next_ != nullptr ? leaving.next_->previous_ : last_) = leaving.previous_;
        leaving.next_ = leaving.previous_ = nullptr;
    }

    waiter* first_ = nullptr;
    waiter* last_ = nullptr;
};

}  // namespace zloop
