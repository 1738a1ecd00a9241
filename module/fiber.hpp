// module/fiber.hpp: a coroutine for the life of a connection: starts at once, frees itself at its end.
//
// Its owner keeps a `fiber::place` for it, to know whether it runs and to cancel it, and stays alive
// until the body has called end(). Nothing is awaited in it but zloop's awaitables, and of those that throw
// it sees to that. Without memory for its frame nothing begins, and who called has to say so.
#pragma once

#include <exception>
#include <new>

#include <zloop/task.hpp>

namespace zl {

class [[nodiscard]] fiber {
public:
    /// False: there was no memory.
    bool begun() const noexcept { return begun_; }

    /// Where an owner keeps track of one fiber at a time. 8 bytes.
    class place {
    public:
        bool running() const noexcept { return scope_ != nullptr; }

        /// What the fiber waits for ends with operation_canceled, in its turn; so does all it awaits later.
        void cancel() noexcept {
            if (scope_ != nullptr) {
                scope_->cancel();
            }
        }

        /// Called by the body, last: the place is free for another fiber.
        void end() noexcept { scope_ = nullptr; }

    private:
        friend class fiber;
        zloop::scope* scope_ = nullptr;
    };

    class promise_type {
    public:
        /// For member coroutines `fiber f(fiber::place&)` of who has an `event_loop()` and a `scope_above()`.
        template <class Owner>
        promise_type(const Owner& owner, place& kept) noexcept
            : within_(&owner.scope_above()), context_{&owner.event_loop(), &within_} {
            kept.scope_ = &within_;
        }

        const zloop::context& surroundings() const noexcept { return context_; }

        fiber get_return_object() const noexcept { return fiber(true); }
        static fiber get_return_object_on_allocation_failure() noexcept { return fiber(false); }
        std::suspend_never initial_suspend() const noexcept { return {}; }
        std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }

        static void* operator new(std::size_t size, const std::nothrow_t& nothrow) noexcept {
            return zloop::detail::frame_pool::allocate(size, nothrow);
        }
        static void* operator new(std::size_t size) noexcept {  // what g++ 12 looks for in its place
            return operator new(size, std::nothrow);
        }
        static void operator delete(void* frame, std::size_t size) noexcept {
            zloop::detail::frame_pool::release(frame, size);
        }

    private:
        zloop::scope within_;
        zloop::context context_;
    };

private:
    explicit fiber(bool begun) noexcept : begun_(begun) {}

    bool begun_;
};

/// Suspends a fiber until the loop's next turn, and there behind all that this one has queued: where the
/// kernel's events of that turn stand. Nothing can end it early.
class next_turn : zloop::op {
public:
    explicit next_turn(zloop::loop& on) noexcept
        : op([](zloop::op& self) noexcept { static_cast<next_turn&>(self).fiber_.resume(); }), loop_(on) {}

    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> fiber) noexcept {
        fiber_ = fiber;
        loop_.push_behind(*this);
    }
    void await_resume() const noexcept {}

private:
    zloop::loop& loop_;
    std::coroutine_handle<> fiber_;
};

}  // namespace zl
