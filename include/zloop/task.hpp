// zloop/task.hpp: `task<T>`, a coroutine that runs when it is awaited.
//
// Whoever holds the task owns the frame. A child is resumed inside of the parent's await_suspend; if
// it ends there the parent goes on without having been suspended. Only a child that did suspend
// resumes its parent from its end. (Symmetric transfer both ways overflows the stack within a million
// synchronous awaits on g++ at -O0, -O1, -Og, under ASan and TSan; this form does not, at the same
// speed.)
//
// The loop and the cancellation scope travel in the promise, handed down at each co_await: no
// thread-local is needed to await.
#pragma once

#include <zloop/config.hpp>

#include <array>
#include <concepts>
#include <coroutine>
#include <cstring>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include <zloop/core/frame_allocator.hpp>
#include <zloop/core/frame_pool.hpp>
#include <zloop/core/site.hpp>
#include <zloop/loop.hpp>

namespace zloop {

/// What a running task knows of its surroundings. Null before it is started.
///
/// Owns:    nothing: the loop and the scope outlive the task.
/// Example: examples/cpp/awaitable.cpp
struct context {
    loop* on = nullptr;       ///< where it runs
    scope* within = nullptr;  ///< what it is cancelled with
};

/// Is what zloop's awaitables ask of a coroutine's promise: that it knows its surroundings.
/// Example: examples/cpp/awaitable.cpp
template <class P>
concept task_promise = requires(P& promise) {
    { promise.surroundings() } -> std::same_as<const context&>;
};

template <class T>
class task;

namespace detail {

class task_promise_base;

/// The answer to who awaits, starts or takes a task that is not there.
[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_empty_task() {
    throw std::logic_error("an empty task: it was awaited before, or moved from");
}

/// Told of the end of a task that nobody awaits, on the task's stack, which is suspended for good by
/// then: it may destroy the task. It resumes nothing.
struct completion {
    explicit completion(void (*ended_function)(completion&) noexcept) noexcept : ended(ended_function) {}
    void (*ended)(completion&) noexcept;

protected:
    ~completion() = default;
};

/// What a suspended task waits for: another task, or something that has a name; neither before its first
/// await.
struct awaited {
    const task_promise_base* child = nullptr;  ///< the awaiting task itself: one that has ended
    const char* what = nullptr;
    site where;
};

/// Where the exception that was caught last has left coroutines, the innermost first: the co_awaits that they
/// had come to. For who tells of it in another language. One of a thread.
struct failure_trail {
    static constexpr std::size_t most = 16;

    std::array<site, most> sites{};
    std::size_t size = 0;
    const void* exception = nullptr;  ///< to compare: it may be gone

    /// `passing` leaves a coroutine, which has come to `where`; `awaited`: by way of what it awaited there.
    inline static void note(const std::exception_ptr& passing, const site& where, bool awaited) noexcept;
    /// Gives the trail of `passing`, if it is that, and begins anew.
    inline static failure_trail take(const std::exception_ptr& passing) noexcept;

private:
    static const void* address_of(const std::exception_ptr& passing) noexcept {
        static_assert(sizeof passing == sizeof(void*), "of an ABI that this does not know");
        const void* address = nullptr;
        std::memcpy(&address, &passing, sizeof address);
        return address;
    }
};

inline constinit thread_local failure_trail last_failure{};

[[gnu::cold]] inline void failure_trail::note(const std::exception_ptr& passing, const site& where,
                                              bool awaited) noexcept {
    const void* const what = address_of(passing);
    if (!awaited || last_failure.exception != what) {
        last_failure.size = 0;
        last_failure.exception = what;
    }
    if (last_failure.size < most) {
        last_failure.sites[last_failure.size++] = where;
    }
}

[[gnu::cold]] inline failure_trail failure_trail::take(const std::exception_ptr& passing) noexcept {
    const failure_trail found = std::exchange(last_failure, failure_trail());
    return found.exception == address_of(passing) ? found : failure_trail();
}

class task_promise_base {
public:
    const context& surroundings() const noexcept { return context_; }
    void surround(const context& from) noexcept { context_ = from; }
    void continue_with(std::coroutine_handle<> parent) noexcept { parent_ = parent; }
    /// Who goes on with what it has so far, if it has suspended; once.
    std::coroutine_handle<> take_parent() noexcept {
        return parent_ ? std::exchange(parent_, {}) : std::noop_coroutine();
    }
    void when_done(completion& notified) noexcept { notified_ = &notified; }

    void waits_for(const char* what, site where) noexcept {
        awaited_.child = nullptr;
        awaited_.what = what;
        awaited_.where = where;
    }
    void waits_for(const task_promise_base& child, site where) noexcept {
        awaited_.child = &child;
        awaited_.where = where;
    }
    /// Before the frame of what it awaited goes.
    void child_ended() noexcept { awaited_.child = this; }
    const awaited& waiting_for() const noexcept { return awaited_; }

    std::suspend_always initial_suspend() const noexcept { return {}; }

    struct final_awaiter {
        bool await_ready() const noexcept { return false; }
        std::coroutine_handle<> await_suspend(std::coroutine_handle<>) const noexcept {
            if (self.parent_) {
                return self.parent_;
            }
            if (self.notified_ != nullptr) {
                self.notified_->ended(*self.notified_);  // and with it, perhaps, this frame
            }
            return std::noop_coroutine();
        }
        void await_resume() const noexcept {}

        const task_promise_base& self;
    };
    final_awaiter final_suspend() const noexcept { return {*this}; }

    static void* operator new(std::size_t size) { return frame_pool::allocate(size); }
    static void operator delete(void* frame, std::size_t size) noexcept { frame_pool::release(frame, size); }

protected:
    /// What has left the coroutine; unless its loop only waits for that to end the process.
    std::exception_ptr caught() const noexcept {
        auto failure = std::current_exception();
        if (context_.on != nullptr) {
            context_.on->end_if_doomed(failure);
        }
        failure_trail::note(failure, awaited_.where, awaited_.child == this);
        return failure;
    }

private:
    std::coroutine_handle<> parent_;
    completion* notified_ = nullptr;
    context context_;
    awaited awaited_;
};

/// A co_await of a task: what it awaits, and for whom.
struct await_link {
    std::coroutine_handle<> child;        ///< null: it has ended, and its frame is gone
    task_promise_base* parent = nullptr;  ///< null: one that keeps no backtrace

    void child_ended() const noexcept {
        if (parent != nullptr) {
            parent->child_ended();
        }
    }
};

/// Whether `failure` is what a cancelled operation's .value() throws.
inline bool is_canceled(const std::exception_ptr& failure) noexcept {
    try {
        std::rethrow_exception(failure);
    } catch (const std::system_error& error) {
        return error.code() == std::errc::operation_canceled;
    } catch (...) {
        return false;
    }
}

/// Gives the loop's hook a failure that comes after another one, or too late, to be thrown - unless it
/// only says that its task was cancelled.
inline void report_beside(loop& on, std::exception_ptr failure) noexcept {
    if (!is_canceled(failure)) {
        on.report(std::move(failure));
    }
}

/// Notes what a coroutine is about to wait for - a name, a task's promise - if its promise keeps that.
template <task_promise P, class What>
void note(P& promise, const What& what, site where) noexcept {
    if constexpr (requires { promise.waits_for(what, where); }) {
        promise.waits_for(what, where);
    }
}

template <class T>
class task_promise_of : public task_promise_base {
public:
    task<T> get_return_object() noexcept;

    template <class U = T>  // the default lets `co_return {}` mean T{}
        requires std::convertible_to<U, T>
    void return_value(U&& value) {
        outcome_.template emplace<1>(std::forward<U>(value));
    }
    void unhandled_exception() noexcept { outcome_.template emplace<2>(caught()); }

    bool failed() const noexcept { return outcome_.index() == 2; }

    T take() {
        if (failed()) {
            std::rethrow_exception(std::get<2>(std::move(outcome_)));
        }
        return std::get<1>(std::move(outcome_));
    }

private:
    std::variant<std::monostate, T, std::exception_ptr> outcome_;
};

template <class T>
class task_promise_of<T&> : public task_promise_base {
public:
    task<T&> get_return_object() noexcept;

    void return_value(T& value) noexcept { outcome_ = &value; }
    void unhandled_exception() noexcept { outcome_ = caught(); }

    bool failed() const noexcept { return outcome_.index() == 1; }

    T& take() {
        if (auto* failure = std::get_if<std::exception_ptr>(&outcome_)) {
            std::rethrow_exception(std::move(*failure));
        }
        return *std::get<T*>(outcome_);
    }

private:
    std::variant<T*, std::exception_ptr> outcome_;
};

template <>
class task_promise_of<void> : public task_promise_base {
public:
    task<void> get_return_object() noexcept;

    void return_void() const noexcept {}
    void unhandled_exception() noexcept { failure_ = caught(); }

    /// Until the task suspends for the first time: who awaits it, and owns the frame. Null: no longer.
    void start_for(await_link* from) noexcept { starter_ = from; }

    /// A task that ends before it has suspended leaves nothing behind, and so frees its frame itself: to have
    /// it destroyed takes another way through it, a quarter of all that an await costs.
    auto final_suspend() const noexcept {
        struct awaiter : final_awaiter {
            bool await_ready() const noexcept {
                await_link* const starter = static_cast<const task_promise_of&>(self).starter_;
                if (starter == nullptr || static_cast<const task_promise_of&>(self).failed()) {
                    return false;
                }
                starter->child = {};
                starter->child_ended();
                return true;
            }
        };
        return awaiter{{*this}};
    }

    bool failed() const noexcept { return failure_ != nullptr; }

    void take() {
        if (failure_) {
            std::rethrow_exception(std::exchange(failure_, nullptr));
        }
    }

private:
    await_link* starter_ = nullptr;
    std::exception_ptr failure_;
};

}  // namespace detail

/// A lazy coroutine with a result of type T: a value, a reference or void. It runs when it is awaited, or
/// when a job, a nursery, spawn() or run() starts it.
///
/// Completes: when the coroutine returns; `co_await std::move(task)` gives its result.
/// Fails:     with the exception that left the coroutine; std::logic_error for an empty task, which is one
///            that was awaited or moved from. Calling the coroutine throws std::bad_alloc where there is no
///            memory for its frame.
/// Cancelled: with the scope that it runs in: what it waits for ends with operation_canceled, and the task
///            goes on from there. One that is never awaited never runs.
/// Owns:      the frame, with the arguments of the call. A task that was started is not destroyed before it
///            has ended. A coroutine whose first parameters are std::allocator_arg_t and an allocator (behind
///            its object, if it has one) has its frame of that allocator, which outlives it, and of which a
///            copy is kept; all others of a pool of the thread.
/// Thread:    that of its loop.
/// Example:   examples/cpp/sleep.cpp
template <class T = void>
class [[nodiscard]] task {
public:
    /// For the compiler.
    using promise_type = detail::task_promise_of<T>;
    /// The frame, as the language knows it.
    using handle = std::coroutine_handle<promise_type>;

    /// No task: to be assigned to.
    task() noexcept = default;
    /// Owns `frame`, which has not been started.
    explicit task(handle frame) noexcept : frame_(frame) {}
    /// Takes the frame of `other`, which is no task then.
    task(task&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
    /// A task whose result is more than a T: of that the rest is dropped. One more frame.
    template <class U>
        requires(!std::same_as<U, T> && std::derived_from<U, T>)
    task(task<U> other) : task(narrowed(std::move(other))) {}

    /// Exchanges the frames: that of this task goes with `other`.
    task& operator=(task&& other) noexcept {
        std::swap(frame_, other.frame_);
        return *this;
    }
    /// Destroys the frame. It has not been started, or it has ended.
    ~task() {
        if (frame_) {
            frame_.destroy();
        }
    }

    /// What settled() gives: awaited, it runs the task, and leaves the frame to it.
    class settler : protected detail::await_link {
    public:
        /// Says that it may run in another scope than its caller's: it is no `operation`, as who cancels what
        /// it awaits would not reach it.
        using in_a_scope_of_its_own = void;

        /// Will run `frame` in `within`; null: in the caller's scope.
        explicit settler(handle frame, scope* within) noexcept
            : await_link{frame, nullptr}, within_(within) {}

        bool await_ready() const noexcept { return false; }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            auto& promise = begin(caller, where);
            child.resume();
            if (child.done()) {
                return false;
            }
            promise.continue_with(caller);
            return true;
        }
        void await_resume() const noexcept { child_ended(); }

    protected:
        /// The promise of the task.
        promise_type& promise() const noexcept { return handle::from_address(child.address()).promise(); }

        /// Hands the caller's surroundings to the task, which is about to be resumed.
        template <task_promise P>
        promise_type& begin(std::coroutine_handle<P> caller, site where) noexcept {
            promise_type& begun = promise();
            detail::note(caller.promise(), static_cast<const detail::task_promise_base&>(begun), where);
            if constexpr (std::derived_from<P, detail::task_promise_base>) {
                parent = &caller.promise();
            }
            context around = caller.promise().surroundings();
            if (within_ != nullptr) {
                around.within = within_;
            }
            begun.surround(around);
            return begun;
        }

    private:
        scope* within_;
    };

    /// What co_await and within() give: awaited, it runs the task and gives its result.
    /// Owns: the frame.
    class awaiter : public settler {
    public:
        /// Will run `frame` in `within`; null: in the caller's scope.
        explicit awaiter(handle frame, scope* within = nullptr) noexcept : settler(frame, within) {}
        /// Takes the frame of `other`, which has not begun.
        awaiter(awaiter&& other) noexcept : settler(other) { other.child = {}; }
        awaiter& operator=(awaiter&&) = delete;
        /// Destroys the frame.
        ~awaiter() {
            if (this->child) {
                this->child.destroy();
            }
        }

        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            if constexpr (std::is_void_v<T>) {
                auto& promise = this->begin(caller, where);
                promise.start_for(this);
                this->child.resume();
                if (!this->child || this->child.done()) {
                    return false;
                }
                promise.start_for(nullptr);
                promise.continue_with(caller);
                return true;
            } else {
                return settler::await_suspend(caller, where);
            }
        }
        T await_resume() {
            if constexpr (std::is_void_v<T>) {
                if (!this->child) {
                    return;
                }
            }
            this->child_ended();
            return this->promise().take();
        }
    };

    /// Runs the task in the caller's scope; gives its result, or throws what it threw.
    awaiter operator co_await() && {
        require();
        return awaiter(std::exchange(frame_, {}));
    }

    /// Runs the task in a scope of its own, below the caller's: `co_await std::move(task).within(inner)`.
    awaiter within(scope& inner) && {
        require();
        return awaiter(std::exchange(frame_, {}), &inner);
    }

    /// Runs the task in `inner` to its end, however it ends: `co_await task.settled(inner)`; then take().
    settler settled(scope& inner) & {
        require();
        return settler(frame_, &inner);
    }

    /// Gives the result of a task that has ended. Once.
    /// Fails: throws what the task threw.
    T take() {
        require();
        return frame_.promise().take();
    }
    /// Whether a task that has ended threw.
    bool failed() const noexcept { return frame_.promise().failed(); }

    /// Gives the frame, or none. For those who start tasks themselves (job.hpp); everybody else awaits.
    handle frame() const noexcept { return frame_; }

    /// Throws std::logic_error where there is no frame.
    void require() const {
        if (!frame_) [[unlikely]] {
            detail::refuse_empty_task();
        }
    }

    /// Gives the frame away.
    [[nodiscard]] handle release() noexcept { return std::exchange(frame_, {}); }

private:
    template <class U>
    static task narrowed(task<U> wider) {
        co_return co_await std::move(wider);
    }

    handle frame_;
};

namespace detail {

template <class T>
task<T> task_promise_of<T>::get_return_object() noexcept {
    return task<T>(std::coroutine_handle<task_promise_of>::from_promise(*this));
}
template <class T>
task<T&> task_promise_of<T&>::get_return_object() noexcept {
    return task<T&>(std::coroutine_handle<task_promise_of>::from_promise(*this));
}
inline task<void> task_promise_of<void>::get_return_object() noexcept {
    return task<void>(std::coroutine_handle<task_promise_of>::from_promise(*this));
}

/// The promise of a task whose frame is an allocator's, which is among the coroutine's arguments. To who
/// holds the task it is like any other.
template <class T, class Allocator, class... Arguments>
class task_promise_by : public task_promise_of<T> {
public:
    static void* operator new(std::size_t size, const Arguments&... arguments) {
        static_assert(alignof(task_promise_by) == alignof(task_promise_of<T>));  // a handle finds it by that
        return frame_allocator<Allocator>::allocate(allocator_among(arguments...), size);
    }
    static void operator delete(void* frame, std::size_t size) noexcept {
        frame_allocator<Allocator>::release(frame, size);
    }
};

}  // namespace detail

}  // namespace zloop

/// A coroutine that is called with std::allocator_arg and an allocator as its first arguments, behind its
/// object if it has one, has its frame there.
template <class T, class Allocator, class... Rest>
struct std::coroutine_traits<zloop::task<T>, std::allocator_arg_t, Allocator, Rest...> {
    using promise_type =
        zloop::detail::task_promise_by<T, std::remove_cvref_t<Allocator>, std::allocator_arg_t,
                                       std::remove_reference_t<Allocator>, std::remove_reference_t<Rest>...>;
};
template <class T, class Object, class Allocator, class... Rest>
struct std::coroutine_traits<zloop::task<T>, Object, std::allocator_arg_t, Allocator, Rest...> {
    using promise_type =
        zloop::detail::task_promise_by<T, std::remove_cvref_t<Allocator>, std::remove_reference_t<Object>,
                                       std::allocator_arg_t, std::remove_reference_t<Allocator>,
                                       std::remove_reference_t<Rest>...>;
};

namespace zloop {

/// Gives the loop and the scope of the calling task: `co_await current_context()`. Never suspends.
/// Example: examples/cpp/awaitable.cpp
class [[nodiscard]] current_context {
public:
    bool await_ready() const noexcept { return false; }
    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller) noexcept {
        found_ = caller.promise().surroundings();
        return false;
    }
    const context& await_resume() const noexcept { return found_; }

private:
    context found_;
};

/// Goes on in the loop's next turn, behind what is queued: `co_await next_turn()`.
///
/// Cancelled: not at all: it takes its turn in any case.
/// Example:   examples/cpp/sync.cpp
class [[nodiscard]] next_turn : op {
public:
    /// An awaitable for one co_await.
    next_turn() noexcept : op([](op& self) noexcept { static_cast<next_turn&>(self).caller_.resume(); }) {}
    /// The same, for what awaits it instead.
    next_turn(next_turn&&) noexcept : next_turn() {}

    bool await_ready() const noexcept { return false; }
    template <task_promise P>
    void await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        detail::note(caller.promise(), "the next turn", where);
        caller_ = caller;
        caller.promise().surroundings().on->push(*this);
    }
    void await_resume() const noexcept {}

private:
    std::coroutine_handle<> caller_;
};

}  // namespace zloop
