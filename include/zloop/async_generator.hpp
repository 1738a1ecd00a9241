// zloop/async_generator.hpp: `async_generator<T>`, a coroutine that awaits between the values that it gives.
//
// It runs inside of its consumer's await of next(), in the scope of that: what it awaits is cancelled with
// the consumer, or by a with_timeout() around next(). Between two values it does not run at all, so it keeps
// nothing that has to be awaited at its end (a nursery) across a co_yield.
#pragma once

#include <zloop/config.hpp>

#include <cassert>
#include <concepts>
#include <coroutine>
#include <exception>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <zloop/task.hpp>

namespace zloop {

template <class T>
class async_generator;

namespace detail {

template <class T>
class async_generator_promise : public task_promise_base {
    using object = std::remove_reference_t<T>;

    /// Gives the value to who waits for it, or to who has never stopped.
    struct hand_over {
        bool await_ready() const noexcept { return false; }
        std::coroutine_handle<> await_suspend(
            std::coroutine_handle<async_generator_promise> from) const noexcept {
            return from.promise().take_parent();
        }
        void await_resume() const noexcept {}
    };

public:
    async_generator<T> get_return_object() noexcept;

    hand_over yield_value(object& value) noexcept {
        value_ = std::addressof(value);
        return {};
    }
    hand_over yield_value(object&& value) noexcept
        requires(!std::is_reference_v<T>)
    {
        value_ = std::addressof(value);
        return {};
    }
    auto yield_value(const object& value)
        requires(!std::is_reference_v<T> && !std::is_const_v<object> && std::copy_constructible<object>)
    {
        struct copied : hand_over {
            copied(const object& from, async_generator_promise& of) : copy(from), of_(of) {}
            bool await_ready() noexcept {
                of_.value_ = std::addressof(copy);
                return false;
            }
            object copy;
            async_generator_promise& of_;
        };
        return copied(value, *this);
    }
    void return_void() const noexcept {}
    void unhandled_exception() noexcept { failure_ = this->caught(); }

private:
    friend async_generator<T>;
    object* value_ = nullptr;
    std::exception_ptr failure_;
    bool runs_ = false;
};

}  // namespace detail

/// A lazy sequence of what is waited for: `while (auto* each = co_await lines.next())`.
///
/// Owns:    the frame, with the arguments of the call, and the value that it stands at. It is destroyed at
///          any value, or at its end, but not while next() waits.
/// Thread:  that of its loop.
/// Example: examples/cpp/generators.cpp
template <class T>
class [[nodiscard]] async_generator {
    using object = std::remove_reference_t<T>;

public:
    /// For the compiler.
    using promise_type = detail::async_generator_promise<T>;

    /// A sequence without values: to be assigned to.
    async_generator() noexcept = default;
    /// Takes the frame of `other`, which has no values then.
    async_generator(async_generator&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
    /// Exchanges the frames.
    async_generator& operator=(async_generator&& other) noexcept {
        std::swap(frame_, other.frame_);
        return *this;
    }
    /// Ends the coroutine where it stands.
    ~async_generator() {
        if (frame_) {
            assert(!frame_.promise().runs_);
            frame_.destroy();
        }
    }

    /// What next() gives.
    class stepper {
    public:
        /// Will run `frame` to its next value.
        explicit stepper(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

        bool await_ready() const noexcept { return !frame_ || frame_.done(); }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            promise_type& promise = frame_.promise();
            if (std::exchange(promise.runs_, true)) [[unlikely]] {
                frame_ = {};
                throw std::logic_error("an async_generator makes one value at a time");
            }
            detail::note(caller.promise(), static_cast<const detail::task_promise_base&>(promise), where);
            if constexpr (std::derived_from<P, detail::task_promise_base>) {
                parent_ = &caller.promise();
            }
            promise.surround(caller.promise().surroundings());
            promise.value_ = nullptr;
            frame_.resume();
            if (promise.value_ != nullptr || frame_.done()) {
                return false;
            }
            promise.continue_with(caller);
            return true;
        }
        object* await_resume() {
            if (!frame_) {
                return nullptr;
            }
            if (parent_ != nullptr) {
                parent_->child_ended();
            }
            promise_type& promise = frame_.promise();
            promise.runs_ = false;
            if (promise.failure_) {
                std::rethrow_exception(std::exchange(promise.failure_, nullptr));
            }
            return frame_.done() ? nullptr : promise.value_;
        }

    private:
        std::coroutine_handle<promise_type> frame_;
        detail::task_promise_base* parent_ = nullptr;
    };

    /// Waits for the next value.
    ///
    /// Completes: with a pointer to it, which lives until the next next() or the generator's end; with null
    ///            when the coroutine has returned.
    /// Fails:     throws what leaves the coroutine, once; then it has ended. Throws std::logic_error where
    ///            somebody waits already.
    /// Cancelled: what the coroutine awaits is, and it says what becomes of that: it may go on.
    /// Overlap:   one waiter.
    [[nodiscard]] stepper next() noexcept { return stepper(frame_); }

private:
    friend promise_type;
    explicit async_generator(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

    std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
async_generator<T> async_generator_promise<T>::get_return_object() noexcept {
    return async_generator<T>(std::coroutine_handle<async_generator_promise>::from_promise(*this));
}

}  // namespace detail

}  // namespace zloop
