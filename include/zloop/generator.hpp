// zloop/generator.hpp: `generator<T>`, a coroutine whose values a for loop takes, one by one.
//
// It waits for nothing and knows no loop: what waits between two values is an async_generator
// (async_generator.hpp). As the standard's own, which g++ has from version 14 on, but for nested ones.
#pragma once

#include <zloop/config.hpp>

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>

#include <zloop/core/frame_pool.hpp>

namespace zloop {

template <class T>
class generator;

namespace detail {

template <class T>
class generator_promise {
    using object = std::remove_reference_t<T>;
    using reference = std::conditional_t<std::is_reference_v<T>, T, T&&>;

public:
    generator<T> get_return_object() noexcept;
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_always final_suspend() const noexcept { return {}; }

    std::suspend_always yield_value(reference value) noexcept {
        value_ = std::addressof(value);
        return {};
    }
    auto yield_value(const object& value)
        requires(!std::is_reference_v<T> && std::copy_constructible<object>)
    {
        struct copied {
            object copy;
            generator_promise& of;
            bool await_ready() noexcept {
                of.value_ = std::addressof(copy);
                return false;
            }
            void await_suspend(std::coroutine_handle<>) const noexcept {}
            void await_resume() const noexcept {}
        };
        return copied{value, *this};
    }
    void return_void() const noexcept {}
    void unhandled_exception() const { throw; }
    /// It waits for nothing.
    void await_transform(auto&&) = delete;

    static void* operator new(std::size_t size) { return frame_pool::allocate(size); }
    static void operator delete(void* frame, std::size_t size) noexcept { frame_pool::release(frame, size); }

    object& value() const noexcept { return *value_; }

private:
    object* value_ = nullptr;
};

}  // namespace detail

/// A lazy sequence: `for (auto&& each : numbers(10))`. A T that is a value is given as T&&, to be moved out
/// or looked at until the next one; a reference as it is. What is yielded by name, and is to be a value, is
/// copied.
///
/// Fails:   with the exception that leaves the coroutine, out of begin() or ++; then it has ended. Calling
///          the coroutine throws std::bad_alloc where there is no memory for its frame.
/// Owns:    the frame, with the arguments of the call. It may be destroyed at any value.
/// Overlap: one begin().
/// Thread:  one at a time.
/// Example: examples/cpp/generators.cpp
template <class T>
class [[nodiscard]] generator {
    using object = std::remove_reference_t<T>;

public:
    /// What it holds.
    using value_type = std::remove_cv_t<object>;
    /// What it gives.
    using reference = std::conditional_t<std::is_reference_v<T>, T, T&&>;

    /// For the compiler.
    using promise_type = detail::generator_promise<T>;

    /// Walks once, from value to value. Ends at std::default_sentinel.
    class iterator {
    public:
        /// As the standard library asks for it.
        using iterator_concept = std::input_iterator_tag;
        /// The same.
        using value_type = generator::value_type;
        /// The same.
        using difference_type = std::ptrdiff_t;

        /// Stands at the first value of what runs in `frame`, or at its end.
        explicit iterator(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}
        iterator(iterator&&) noexcept = default;
        iterator& operator=(iterator&&) noexcept = default;

        /// The value, until the next step.
        reference operator*() const noexcept { return static_cast<reference>(frame_.promise().value()); }
        /// Makes the next value.
        /// Fails: throws what leaves the coroutine.
        iterator& operator++() {
            frame_.resume();
            return *this;
        }
        /// The same.
        void operator++(int) { ++*this; }
        /// Whether there is no more.
        friend bool operator==(const iterator& self, std::default_sentinel_t) noexcept {
            return !self.frame_ || self.frame_.done();
        }

    private:
        std::coroutine_handle<promise_type> frame_;
    };

    /// A sequence without values: to be assigned to.
    generator() noexcept = default;
    /// Takes the frame of `other`, which has no values then.
    generator(generator&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
    /// Exchanges the frames.
    generator& operator=(generator&& other) noexcept {
        std::swap(frame_, other.frame_);
        return *this;
    }
    /// Ends the coroutine where it stands.
    ~generator() {
        if (frame_) {
            frame_.destroy();
        }
    }

    /// Makes the first value. Once.
    /// Fails: throws what leaves the coroutine.
    iterator begin() {
        if (frame_) {
            frame_.resume();
        }
        return iterator(frame_);
    }
    /// The end.
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    friend promise_type;
    explicit generator(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

    std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
generator<T> generator_promise<T>::get_return_object() noexcept {
    return generator<T>(std::coroutine_handle<generator_promise>::from_promise(*this));
}

}  // namespace detail

}  // namespace zloop
