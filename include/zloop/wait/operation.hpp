// zloop/wait/operation.hpp: anything that can be awaited, for what awaits it in its caller's place.
//
// A task, a socket's receive, a channel's, a timer, a user's own awaitable: until it begins it is a
// description, and is moved into what will await it. So nothing refers to a temporary that is gone, whether
// the whole is awaited at once or kept for later.
#pragma once

#include <concepts>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include <zloop/error.hpp>
#include <zloop/task.hpp>

namespace zloop {

/// Is what gives an R when it is awaited: an awaiter, a task, or what has an operator co_await.
template <class A, class R>
concept awaitable_to = requires(A&& that) {
    { that.await_resume() } -> std::same_as<R>;
} || requires(A&& that) {
    { static_cast<A&&>(that).operator co_await().await_resume() } -> std::same_as<R>;
} || requires(A&& that) {
    { operator co_await(static_cast<A&&>(that)).await_resume() } -> std::same_as<R>;
};

namespace detail {

template <class A>
concept has_member_co_await = requires(A&& that) { static_cast<A&&>(that).operator co_await(); };
template <class A>
concept has_free_co_await = requires(A&& that) { operator co_await(static_cast<A&&>(that)); };
template <class A>
concept is_awaiter = requires(A& that) {
    { that.await_ready() } -> std::convertible_to<bool>;
    that.await_resume();
};

/// What the language makes of `co_await std::move(operation)`: a reference to the operation, or something
/// else that lives beside it.
template <class A>
decltype(auto) awaiter_of(A& operation) {
    if constexpr (has_member_co_await<A>) {
        return std::move(operation).operator co_await();
    } else if constexpr (has_free_co_await<A>) {
        return operator co_await(std::move(operation));
    } else {
        return (operation);
    }
}

/// Is a task that runs in a scope which it names: what awaits it could not cancel it.
template <class A>
concept names_its_scope = requires { typename A::in_a_scope_of_its_own; };

}  // namespace detail

/// Is what can be awaited: a task, an operation, or what has an operator co_await.
/// Example: examples/cpp/operations.cpp
template <class A>
concept awaitable = std::is_object_v<A> &&
                    (detail::has_member_co_await<A> || detail::has_free_co_await<A> || detail::is_awaiter<A>);

/// Is one that can be moved until it is awaited: into with_timeout(), when_any() and their like, which then
/// own it. One that cannot be is awaited by a task of a line, and that is moved.
/// Example: examples/cpp/operations.cpp
template <class A>
concept operation = awaitable<A> && std::move_constructible<A> && !detail::names_its_scope<A>;

/// What awaiting an A gives.
template <awaitable A>
using awaited_type =
    decltype(std::declval<std::add_lvalue_reference_t<decltype(detail::awaiter_of(std::declval<A&>()))>>()
                 .await_resume());

namespace detail {

template <class A>
inline constexpr bool is_task = false;
template <class T>
inline constexpr bool is_task<task<T>> = true;

/// Something else than a task.
template <class A>
concept other_operation = operation<A> && !is_task<A>;

/// What is borrowed until the next await, and is gone when others have had a turn.
template <class T>
inline constexpr bool is_lent = false;
template <>
inline constexpr bool is_lent<result<std::span<const std::byte>>> = true;

template <class T>
using kept_type = std::conditional_t<std::is_rvalue_reference_v<T>, std::remove_reference_t<T>, T>;

/// The awaiter of an operation, made where the two stay.
template <class A>
class begun {
    using made = decltype(awaiter_of(std::declval<A&>()));
    static constexpr bool is_apart = !std::is_reference_v<made>;
    struct maker {
        A& from;
        operator made() const { return awaiter_of(from); }
    };

public:
    auto& make(A& from) {
        if constexpr (is_apart) {
            return awaiter_.emplace(maker{from});
        } else {
            awaiter_ = &awaiter_of(from);
            return *awaiter_;
        }
    }
    auto& get() noexcept { return *awaiter_; }

private:
    std::conditional_t<is_apart, std::optional<std::remove_cvref_t<made>>, std::remove_reference_t<made>*>
        awaiter_{};
};

/// awaiter.await_suspend(caller), from `where` if it wants to know that.
template <class W, class P>
decltype(auto) suspend_on(W& awaiter, std::coroutine_handle<P> caller, const site& where) {
    if constexpr (requires { awaiter.await_suspend(caller, where); }) {
        return awaiter.await_suspend(caller, where);
    } else {
        return awaiter.await_suspend(caller);
    }
}

}  // namespace detail

/// Makes a task of an operation: for who takes tasks alone. A task stays as it is.
///
/// Completes: with what `work` gives.
/// Owns:      `work`, in the task's frame.
/// Example:   examples/cpp/operations.cpp
template <detail::other_operation A>
task<detail::kept_type<awaited_type<A>>> as_task(A work) {
    co_return co_await std::move(work);
}
template <class T>
task<T> as_task(task<T> work) noexcept {
    return work;
}

namespace detail {

/// std::invoke, without <functional>: of a member of an object, or of what a pointer points to.
template <class F, class... Arguments>
decltype(auto) call(F& function, Arguments&&... arguments) {
    if constexpr (std::is_member_function_pointer_v<F>) {
        return [&function](auto&& object, auto&&... rest) -> decltype(auto) {
            if constexpr (requires { ((*object).*function)(static_cast<decltype(rest)>(rest)...); }) {
                return ((*object).*function)(static_cast<decltype(rest)>(rest)...);
            } else {
                return (object.*function)(static_cast<decltype(rest)>(rest)...);
            }
        }(static_cast<Arguments&&>(arguments)...);
    } else {
        return function(static_cast<Arguments&&>(arguments)...);
    }
}

template <class F, class... Arguments>
using called_type = std::invoke_result_t<F&, Arguments...>;

}  // namespace detail

/// Is what can be called with `Arguments`, moved, and then gives a task or another operation.
template <class F, class... Arguments>
concept operation_function =
    std::invocable<F&, Arguments...> && operation<detail::called_type<F, Arguments...>>;

/// Calls `function(arguments...)`, and keeps all of these until what it gives, a task or another operation,
/// has ended. A closure that is a coroutine does not keep itself: `[text]() -> task<> {…}()` reads a `text`
/// that is gone after its first wait, `co_invoke([text]() -> task<> {…})` does not. Arguments are moved to
/// the call, which may take them by reference: they stay as long as the task. `function` may be that of a
/// member, with its object, or a pointer to it, as the first argument.
///
/// Fails: with what the call throws, and with what the task does.
template <class F, class... Arguments>
    requires operation_function<F, Arguments...>
task<detail::kept_type<awaited_type<detail::called_type<F, Arguments...>>>> co_invoke(
    F function, Arguments... arguments) {
    auto work = detail::call(function, std::move(arguments)...);
    co_return co_await std::move(work);
}

namespace detail {

/// An operation that can be started beside others: it gives nothing, or an error at most.
template <class A>
concept child_operation =
    operation<A> && (std::is_void_v<awaited_type<A>> || std::derived_from<awaited_type<A>, result<void>>);

/// As a task that throws its error.
template <child_operation A>
task<void> as_child(A work) {
    if constexpr (std::is_void_v<awaited_type<A>>) {
        co_await std::move(work);
    } else {
        value_of(co_await std::move(work));
    }
}
inline task<void> as_child(task<void> work) noexcept { return work; }

template <class F, class... Arguments>
concept child_function = operation_function<F, Arguments...> && child_operation<called_type<F, Arguments...>>;

}  // namespace detail

}  // namespace zloop
