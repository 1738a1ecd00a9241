// scheduling_asio.cpp: the rows by asio's C++20 coroutines, as its documentation writes them.
#include "scheduling.hpp"

#include <atomic>
#include <thread>

#include <asio.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/experimental/channel.hpp>

namespace bench::with_asio {

namespace {

using namespace std::chrono_literals;
using asio::awaitable;
using asio::use_awaitable;

/// One thread, as zloop's loop has: asio may leave its locks out.
struct context : asio::io_context {
    context() : io_context(1) {}
};

template <class F>
std::chrono::nanoseconds run(context& io, F work) {
    asio::co_spawn(io, work, asio::detached);
    const stopwatch watch;
    io.run();
    return watch.elapsed();
}

awaitable<void> nothing() { co_return; }

}  // namespace

std::chrono::nanoseconds await_child(std::int64_t count) {
    context io;
    return run(io, [count]() -> awaitable<void> {
        for (std::int64_t index = 0; index < count; ++index) {
            co_await nothing();
        }
    });
}

std::chrono::nanoseconds spawn_and_join(std::int64_t count) {
    context io;
    return run(io, [&io, count]() -> awaitable<void> {
        for (std::int64_t index = 0; index < count; ++index) {
            co_await asio::co_spawn(io, nothing(), use_awaitable);
        }
    });
}

std::chrono::nanoseconds post_own(std::int64_t count) {
    context io;
    std::int64_t done = 0;
    const stopwatch watch;
    while (done < count) {
        for (int index = 0; index < 1000; ++index) {
            asio::post(io, [&done] { ++done; });
        }
        io.restart();
        io.poll();
    }
    return watch.elapsed();
}

std::chrono::nanoseconds arm_and_cancel(std::int64_t count) {
    context io;
    asio::steady_timer timer(io);
    const stopwatch watch;
    for (std::int64_t index = 0; index < count; ++index) {
        timer.expires_after(1h);
        timer.async_wait([](std::error_code) {});
        timer.cancel();
        io.restart();
        io.poll();  // asio's cancelled wait is a handler that runs
    }
    return watch.elapsed();
}

std::chrono::nanoseconds await_due_timer(std::int64_t count) {
    context io;
    return run(io, [&io, count]() -> awaitable<void> {
        asio::steady_timer timer(io);
        for (std::int64_t index = 0; index < count; ++index) {
            timer.expires_after(0s);
            co_await timer.async_wait(use_awaitable);
        }
    });
}

std::chrono::nanoseconds timeout_around_task(std::int64_t count) {
    using namespace asio::experimental::awaitable_operators;
    context io;
    return run(io, [&io, count]() -> awaitable<void> {
        for (std::int64_t index = 0; index < count; ++index) {
            asio::steady_timer limit(io, 1h);
            co_await (nothing() || limit.async_wait(use_awaitable));
        }
    });
}

std::chrono::nanoseconds channel_hand_off(std::int64_t count) {
    context io;
    asio::experimental::channel<void(std::error_code, std::int64_t)> channel(io, 0);
    asio::co_spawn(
        io,
        [&]() -> awaitable<void> {
            for (std::int64_t index = 0; index < count; ++index) {
                co_await channel.async_send(std::error_code(), index, use_awaitable);
            }
        },
        asio::detached);
    return run(io, [&]() -> awaitable<void> {
        for (std::int64_t index = 0; index < count; ++index) {
            co_await channel.async_receive(use_awaitable);
        }
    });
}

std::chrono::nanoseconds post_from_thread(std::int64_t count) {
    asio::io_context io;  // two threads: with its locks
    std::atomic<std::int64_t> done = 0;
    const auto busy = [&](auto&& self) -> void {
        if (done.load(std::memory_order_relaxed) < count) {
            asio::post(io, [&, self] { self(self); });
        }
    };
    busy(busy);
    const stopwatch watch;
    std::thread other([&] {
        for (std::int64_t index = 0; index < count; ++index) {
            asio::post(io, [&done] { done.fetch_add(1, std::memory_order_relaxed); });
        }
    });
    io.run();
    const auto elapsed = watch.elapsed();
    other.join();
    return elapsed;
}

}  // namespace bench::with_asio
