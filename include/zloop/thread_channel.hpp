// zloop/thread_channel.hpp: values from thread to thread, through a bounded buffer.
//
// Each end is a task, which awaits on its own loop, or a plain thread, which blocks. Nobody is handed a value
// while it waits: it is told that there is one, or room, and takes it itself under the lock. So who is
// cancelled, or whose patience has ended, has taken nothing, and passes on what it was told. The price is
// that who comes along may be faster than who was told, and goes first.
//
// A waiter is told under the lock, so one that is told is still there, and its loop with it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <zloop/error.hpp>
#include <zloop/task.hpp>

namespace zloop {

namespace detail {

/// Who waits at an end of a thread_channel: a task or a thread.
struct thread_waiter {
    /// Tells that it is worth another try. Called under the channel's lock, when it has left the queue.
    explicit thread_waiter(void (*tell_function)(thread_waiter&) noexcept) noexcept : tell(tell_function) {}

    void (*tell)(thread_waiter&) noexcept;
    thread_waiter* next = nullptr;
    thread_waiter* previous = nullptr;
    bool queued = false;

protected:
    ~thread_waiter() = default;
};

/// Those who wait at one end, in order. Guarded by the channel's lock.
class thread_waiters {
public:
    bool empty() const noexcept { return first_ == nullptr; }

    void push(thread_waiter& last) noexcept {
        last.queued = true;
        last.next = nullptr;
        last.previous = last_;
        (last_ != nullptr ? last_->next : first_) = &last;
        last_ = &last;
    }
    /// For who was told in vain.
    void push_front(thread_waiter& first) noexcept {
        first.queued = true;
        first.previous = nullptr;
        first.next = first_;
        (first_ != nullptr ? first_->previous : last_) = &first;
        first_ = &first;
    }
    void remove(thread_waiter& leaving) noexcept {
        leaving.queued = false;
        (leaving.previous != nullptr ? leaving.previous->next : first_) = leaving.next;
        (leaving.next != nullptr ? leaving.next->previous : last_) = leaving.previous;
    }

    void tell_one() noexcept {
        if (first_ != nullptr) {
            thread_waiter& oldest = *first_;
            remove(oldest);
            oldest.tell(oldest);
        }
    }
    void tell_all() noexcept {
        while (first_ != nullptr) {
            tell_one();
        }
    }

private:
    thread_waiter* first_ = nullptr;
    thread_waiter* last_ = nullptr;
};

/// A thread that blocks.
class blocked_thread final : public thread_waiter {
public:
    blocked_thread() noexcept : thread_waiter(&blocked_thread::wake) {}

    /// False: the time is up, and nobody has told anything.
    bool wait(std::unique_lock<std::mutex>& lock, const std::optional<time_point>& until) {
        const auto is_told = [this] { return !queued; };
        if (!until) {
            told_.wait(lock, is_told);
            return true;
        }
        return told_.wait_until(lock, *until, is_told);
    }

private:
    static void wake(thread_waiter& self) noexcept { static_cast<blocked_thread&>(self).told_.notify_one(); }

    std::condition_variable told_;
};

/// A task that waits at an end of a channel: `End` tries, under the lock, and says whether that has ended it.
template <class End>
class thread_channel_waiter : op, cancellable, thread_waiter {
public:
    thread_channel_waiter(std::mutex& guard, thread_waiters& queue) noexcept
        : op(&thread_channel_waiter::arrive),
          cancellable(&thread_channel_waiter::stop),
          thread_waiter(&thread_channel_waiter::come),
          mutex_(guard),
          queue_(queue) {}
    thread_channel_waiter(thread_channel_waiter&& other) noexcept
        : thread_channel_waiter(other.mutex_, other.queue_) {}

    bool await_ready() {
        const std::lock_guard guard(mutex_);
        return end().try_it();
    }
    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
        note(caller.promise(), "another thread", where);
        surroundings_ = caller.promise().surroundings();
        if (surroundings_.within->refuses()) {
            canceled_ = true;
            return false;
        }
        caller_ = caller;
        {
            const std::lock_guard guard(mutex_);
            if (end().try_it()) {
                return false;
            }
            queue_.push(*this);
        }
        surroundings_.within->enter(*this);
        return true;
    }

protected:
    ~thread_channel_waiter() = default;
    bool canceled() const noexcept { return canceled_; }

private:
    End& end() noexcept { return static_cast<End&>(*this); }

    static void come(thread_waiter& told) noexcept {
        auto& self = static_cast<thread_channel_waiter&>(told);
        self.surroundings_.on->post(self);
    }

    static void arrive(op& node) noexcept {
        auto& self = static_cast<thread_channel_waiter&>(node);
        {
            const std::lock_guard guard(self.mutex_);
            if (self.canceled_) {
                if (self.is_told_) {
                    self.queue_.tell_one();
                }
            } else if (!self.end().try_it()) {
                self.queue_.push_front(self);
                return;
            }
        }
        self.surroundings_.within->leave(self.canceled_);
        self.caller_.resume();
    }

    static void stop(cancellable& leaf) noexcept {
        auto& self = static_cast<thread_channel_waiter&>(leaf);
        const std::lock_guard guard(self.mutex_);
        self.canceled_ = true;
        self.is_told_ = !self.queued;  // then it is on its way
        if (self.queued) {
            self.queue_.remove(self);
            self.surroundings_.on->push(self);
        }
    }

    std::mutex& mutex_;
    thread_waiters& queue_;
    context surroundings_;
    std::coroutine_handle<> caller_;
    bool canceled_ = false;
    bool is_told_ = false;
};

}  // namespace detail

/// A bounded first-in first-out channel between threads.
///
/// Owns:    the values in its buffer. Outlives all who use it: share it, or join them first.
/// Overlap: any number of senders and receivers, of either kind.
/// Thread:  any, for every member but the destructor.
/// Example: examples/cpp/threads.cpp
template <class T>
class thread_channel {
public:
    /// Makes one with room for `capacity` values, at least one. T moves without throwing.
    /// Fails: throws std::invalid_argument for none, std::bad_alloc.
    explicit thread_channel(std::size_t capacity)
        : capacity_(capacity), buffer_(new std::optional<T>[capacity]) {
        static_assert(std::is_nothrow_move_constructible_v<T>,
                      "a channel moves values, and that must not fail");
        if (capacity == 0) {
            throw std::invalid_argument("zloop::thread_channel: no room");
        }
    }
    thread_channel(const thread_channel&) = delete;
    thread_channel& operator=(const thread_channel&) = delete;

    /// The room in the buffer.
    std::size_t capacity() const noexcept { return capacity_; }
    /// How many values wait to be received; by now there may be others.
    std::size_t size() const {
        const std::lock_guard guard(mutex_);
        return size_;
    }
    /// Whether close() was called.
    bool is_closed() const {
        const std::lock_guard guard(mutex_);
        return closed_;
    }

    /// Ends the channel: no more values. Who waits to send fails, and receivers fail once the buffer is
    /// empty, with errc::closed.
    void close() {
        const std::lock_guard guard(mutex_);
        closed_ = true;
        senders_.tell_all();
        receivers_.tell_all();
    }

    /// Moves `value` on if there is room; else, or when it is closed, leaves it as it is. Does not wait.
    [[nodiscard]] bool try_send(T&& value) {
        const std::lock_guard guard(mutex_);
        return put(value);
    }
    /// Takes the oldest value, if there is one; also out of a closed channel. Does not wait.
    [[nodiscard]] std::optional<T> try_receive() {
        const std::lock_guard guard(mutex_);
        return take();
    }

    /// What send() gives, with the value in it.
    class sender : public detail::thread_channel_waiter<sender> {
    public:
        /// Will send `value` into `to`.
        sender(thread_channel& to, T value) noexcept
            : detail::thread_channel_waiter<sender>(to.mutex_, to.senders_),
              to_(to),
              value_(std::move(value)) {}

        result<void> await_resume() const noexcept {
            if (sent_) {
                return {};
            }
            return this->canceled() ? make_error_code(std::errc::operation_canceled)
                                    : make_error_code(errc::closed);
        }

    private:
        friend detail::thread_channel_waiter<sender>;
        bool try_it() noexcept { return (sent_ = to_.put(value_)) || to_.closed_; }

        thread_channel& to_;
        T value_;
        bool sent_ = false;
    };

    /// Sends `value`, and waits for room: `co_await channel.send(value)`.
    ///
    /// Completes: when the buffer has it.
    /// Fails:     `errc::closed`, `operation_canceled`; it was not sent then.
    /// Cancelled: leaves at once, and has sent nothing.
    [[nodiscard]] sender send(T value) { return sender(*this, std::move(value)); }

    /// What receive() gives.
    class receiver : public detail::thread_channel_waiter<receiver> {
    public:
        /// Will receive from `from`.
        explicit receiver(thread_channel& from) noexcept
            : detail::thread_channel_waiter<receiver>(from.mutex_, from.receivers_), from_(from) {}

        result<T> await_resume() noexcept {
            if (value_.has_value()) {
                return std::move(*value_);
            }
            return this->canceled() ? make_error_code(std::errc::operation_canceled)
                                    : make_error_code(errc::closed);
        }

    private:
        friend detail::thread_channel_waiter<receiver>;
        bool try_it() noexcept {
            value_ = from_.take();
            return value_.has_value() || from_.closed_;
        }

        thread_channel& from_;
        std::optional<T> value_;
    };

    /// Takes the oldest value, or waits for one: `co_await channel.receive()`.
    ///
    /// Completes: with it.
    /// Fails:     `errc::closed` when it is closed and empty, `operation_canceled`.
    /// Cancelled: leaves at once, without a value.
    [[nodiscard]] receiver receive() noexcept { return receiver(*this); }

    /// Sends `value`, and blocks until there is room, for `patience` at most.
    ///
    /// Fails:  `errc::closed`, `timed_out`; it was not sent then.
    /// Thread: any but that of a loop which has something else to do.
    result<void> send_blocking(T value, nanoseconds patience = nanoseconds::max()) {
        bool sent = false;
        const bool ended = block(senders_, patience, [&] { return (sent = put(value)) || closed_; });
        if (sent) {
            return {};
        }
        return ended ? make_error_code(errc::closed) : make_error_code(std::errc::timed_out);
    }

    /// Takes the oldest value, and blocks until there is one, for `patience` at most.
    ///
    /// Fails:  `errc::closed` when it is closed and empty, `timed_out`.
    /// Thread: any but that of a loop which has something else to do.
    result<T> receive_blocking(nanoseconds patience = nanoseconds::max()) {
        std::optional<T> taken;
        const bool ended = block(receivers_, patience, [&] {
            taken = take();
            return taken.has_value() || closed_;
        });
        if (taken.has_value()) {
            return std::move(*taken);
        }
        return ended ? make_error_code(errc::closed) : make_error_code(std::errc::timed_out);
    }

private:
    friend sender;
    friend receiver;

    /// Under the lock. False: it is closed, or full.
    bool put(T& value) noexcept {
        if (closed_ || size_ == capacity_) {
            return false;
        }
        buffer_[(first_ + size_) % capacity_].emplace(std::move(value));
        ++size_;
        receivers_.tell_one();
        return true;
    }

    /// Under the lock.
    std::optional<T> take() noexcept {
        std::optional<T> oldest;
        if (size_ != 0) {
            oldest = std::move(buffer_[first_]);
            buffer_[first_].reset();
            first_ = (first_ + 1) % capacity_;
            --size_;
            senders_.tell_one();
        }
        return oldest;
    }

    /// Blocks until `try_it` succeeds. False: the time was up.
    template <class F>
    bool block(detail::thread_waiters& queue, nanoseconds patience, F try_it) {
        std::optional<time_point> until;
        if (patience != nanoseconds::max()) {
            until = deadline_after(time_point::clock::now(), patience);
        }
        std::unique_lock lock(mutex_);
        detail::blocked_thread self;
        for (bool again = false; !try_it(); again = true) {
            again ? queue.push_front(self) : queue.push(self);
            if (!self.wait(lock, until)) {
                queue.remove(self);
                return false;
            }
        }
        return true;
    }

    const std::size_t capacity_;
    std::unique_ptr<std::optional<T>[]> buffer_;
    mutable std::mutex mutex_;
    std::size_t first_ = 0;
    std::size_t size_ = 0;
    bool closed_ = false;
    detail::thread_waiters senders_;
    detail::thread_waiters receivers_;
};

}  // namespace zloop
