// module/fiber.hpp: a coroutine for the life of a connection: starts at once, frees itself at its end.
//
// Its owner keeps a `fiber::place` for it, to know whether it runs and to cancel it, and stays alive
// until the body has called end(). Nothing is awaited in it but zloop's awaitables.
#pragma once

#include <exception>

#include <zloop/task.hpp>

namespace zl {

class fiber {
public:
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
        /// For member coroutines `fiber f(fiber::place&)` of who has an `event_loop()`.
        template <class Owner>
        promise_type(const Owner& owner, place& kept) noexcept
            : within_(&owner.event_loop().root_scope()), context_{&owner.event_loop(), &within_} {
            kept.scope_ = &within_;
        }

        const zloop::context& surroundings() const noexcept { return context_; }

        fiber get_return_object() const noexcept { return {}; }
        std::suspend_never initial_suspend() const noexcept { return {}; }
        std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }

        static void* operator new(std::size_t size) { return zloop::detail::frame_pool::allocate(size); }
        static void operator delete(void* frame, std::size_t size) noexcept {
            zloop::detail::frame_pool::release(frame, size);
        }

    private:
        zloop::scope within_;
        zloop::context context_;
    };
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
