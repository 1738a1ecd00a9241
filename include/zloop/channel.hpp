// zloop/channel.hpp: values from tasks to tasks of one loop, through a bounded buffer.
//
// With capacity 0 a value goes from hand to hand: the sender waits for the receiver. Both sides are fair.
// Who is cancelled has taken nothing: a value that was handed to a receiver which is cancelled before it goes
// on is in the channel again, in its place. A sender that is cancelled while it waits has sent nothing. What
// need not wait is done even where the task's scope is cancelled: so who drains a channel gets all of it. The
// buffer is allocated once. For one loop's thread.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include <zloop/wait/parked.hpp>

namespace zloop {

/// A bounded first-in first-out channel. Who still waits when it is destroyed goes on with
/// `operation_canceled`.
///
/// Owns:    the values in its buffer. Must be without waiters at its end: close() lets them go.
/// Overlap: any number of senders and receivers.
/// Thread:  that of its loop.
/// Example: examples/cpp/channel.cpp
template <class T>
class channel {
public:
    /// Makes one with room for `capacity` values; with none they go from hand to hand. T moves without
    /// throwing.
    /// Fails: throws std::bad_alloc.
    explicit channel(std::size_t capacity = 0)
        : capacity_(capacity), buffer_(capacity != 0 ? new std::optional<T>[capacity] : nullptr) {
        // Else a value could be lost between two tasks, and nobody would know.
        static_assert(std::is_nothrow_move_constructible_v<T>,
                      "a channel moves values, and that must not fail");
    }
    channel(const channel&) = delete;
    channel& operator=(const channel&) = delete;

    /// The room in the buffer.
    std::size_t capacity() const noexcept { return capacity_; }
    /// How many values wait to be received.
    std::size_t size() const noexcept { return size_ + returned_.size(); }
    /// Whether close() was called.
    bool is_closed() const noexcept { return closed_; }

    /// Ends the channel: no more values. Who waits to send fails, and receivers fail once the buffer is
    /// empty, with errc::closed.
    void close() noexcept {
        closed_ = true;
        senders_.wake_all();
        receivers_.wake_all();
    }

    /// Moves `value` on if nobody has to wait for that; else, or when it is closed, leaves it as it is.
    [[nodiscard]] bool try_send(T&& value) noexcept {
        if (closed_) {
            return false;
        }
        if (!receivers_.empty()) {
            hand_over(std::move(value), handed_++);
            return true;
        }
        if (size_ == capacity_) {
            return false;
        }
        push(std::move(value));
        return true;
    }

    /// Sends a copy of `value`, if nobody has to wait for that.
    /// Fails: throws what copying throws.
    [[nodiscard]] bool try_send(const T& value) { return try_send(T(value)); }

    /// Takes the oldest value, if there is one now; also out of a closed channel.
    [[nodiscard]] std::optional<T> try_receive() noexcept {
        std::optional<T> taken;
        if (!returned_.empty()) {
            taken.emplace(std::move(returned_.front().value));
            returned_.pop_front();
        } else if (size_ != 0) {
            taken = pop();
            if (!senders_.empty()) {  // its place in the buffer is the longest waiting sender's
                push(std::move(*next_sender().value_));
            }
        } else if (!senders_.empty()) {
            taken = std::move(next_sender().value_);
        }
        return taken;
    }

    /// What send() gives, with the value in it.
    class sender : wait_queue::waiter {
    public:
        /// Will send `value` into `to`.
        sender(channel& to, T value) noexcept
            : wait_queue::waiter(to.senders_), to_(to), value_(std::move(value)) {}

        bool await_ready() noexcept { return to_.closed_ || (sent_ = to_.try_send(std::move(*value_))); }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
            if (!park(caller, "a channel's receiver", where)) {
                return false;
            }
            to_.senders_.push(*this);
            return true;
        }
        result<void> await_resume() const noexcept {
            if (sent_) {
                return {};
            }
            return canceled() ? make_error_code(std::errc::operation_canceled)
                              : make_error_code(errc::closed);
        }

    private:
        friend channel;
        channel& to_;
        std::optional<T> value_;
        bool sent_ = false;
    };

    /// Sends `value`, and waits for room, or for a receiver.
    ///
    /// Completes: when a receiver has it, or the buffer.
    /// Fails:     `errc::closed`, `operation_canceled`; it was not sent then, and is gone with the awaiter.
    ///            Who must keep it asks try_send first.
    /// Cancelled: leaves at once; where the value was taken already, it is sent.
    [[nodiscard]] sender send(T value) { return sender(*this, std::move(value)); }

    /// What receive() gives.
    class receiver : wait_queue::waiter {
    public:
        /// Will receive from `from`.
        explicit receiver(channel& from) noexcept
            : wait_queue::waiter(from.receivers_, &receiver::give_back), from_(from) {}

        bool await_ready() noexcept {
            value_ = from_.try_receive();
            return value_.has_value() || from_.closed_;
        }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
            if (!park(caller, "a channel's sender", where)) {
                return false;
            }
            from_.receivers_.push(*this);
            return true;
        }
        result<T> await_resume() noexcept {
            if (value_.has_value()) {
                return std::move(*value_);
            }
            return canceled() ? make_error_code(std::errc::operation_canceled)
                              : make_error_code(errc::closed);
        }

    private:
        friend channel;

        static bool give_back(wait_queue::waiter& served) noexcept {
            auto& self = static_cast<receiver&>(served);
            return self.from_.take_back(self);
        }

        channel& from_;
        std::optional<T> value_;
        std::uint64_t order_ = 0;  // of the value, among those that were handed over
    };

    /// Takes the oldest value, or waits for one.
    ///
    /// Completes: with it.
    /// Fails:     `errc::closed` when it is closed and empty, `operation_canceled`.
    /// Cancelled: leaves at once, without a value; where one was handed to it already, it has it.
    [[nodiscard]] receiver receive() noexcept { return receiver(*this); }

private:
    /// What a receiver has given back.
    struct returned {
        returned(T&& from, std::uint64_t order_of) noexcept : value(std::move(from)), order(order_of) {}
        T value;
        std::uint64_t order;
    };

    void hand_over(T&& value, std::uint64_t order) noexcept {
        auto& first = static_cast<receiver&>(receivers_.pop());
        first.value_.emplace(std::move(value));
        first.order_ = order;
        first.wake();
    }

    /// A receiver that was served is cancelled. False: there is no memory to keep its value, so it has it.
    bool take_back(receiver& from) noexcept {
        if (!receivers_.empty()) {
            hand_over(std::move(*from.value_), from.order_);
        } else {
            auto place = returned_.begin();
            while (place != returned_.end() && place->order < from.order_) {
                ++place;
            }
            try {
                returned_.emplace(place, std::move(*from.value_), from.order_);
            } catch (const std::bad_alloc&) {
                return false;
            }
        }
        from.value_.reset();
        return true;
    }

    void push(T&& value) noexcept {
        buffer_[(first_ + size_) % capacity_].emplace(std::move(value));
        ++size_;
    }

    std::optional<T> pop() noexcept {
        std::optional<T> oldest = std::move(buffer_[first_]);
        buffer_[first_].reset();
        first_ = (first_ + 1) % capacity_;
        --size_;
        return oldest;
    }

    /// The longest waiting sender, told that its value is taken - right after this.
    sender& next_sender() noexcept {
        auto& first = static_cast<sender&>(senders_.pop());
        first.sent_ = true;
        first.wake();
        return first;
    }

    std::size_t capacity_;
    std::unique_ptr<std::optional<T>[]> buffer_;
    std::size_t first_ = 0;
    std::size_t size_ = 0;
    bool closed_ = false;
    std::uint64_t handed_ = 0;
    std::list<returned> returned_;  // in front of the buffer; no receiver waits then
    wait_queue senders_;
    wait_queue receivers_;
};

}  // namespace zloop
