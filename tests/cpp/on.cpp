#include <zloop/on.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include <pthread.h>

#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/runtime.hpp>
#include <zloop/sleep.hpp>
#include <zloop/sync.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace std::chrono_literals;

TEST_CASE("work on another loop runs on its thread, and its result comes back", "[on]") {
    runtime other(1);
    loop here(support::each_backend());
    auto work = [&]() -> task<> {
        const pthread_t mine = ::pthread_self();
        auto alone = std::make_unique<int>(5);
        const auto [there, number] = co_await on(
            other.at(0),
            [](std::unique_ptr<int> moved) -> task<std::pair<pthread_t, int>> {
                co_await next_turn();
                co_return std::pair(::pthread_self(), *moved);
            },
            std::move(alone));
        CHECK(::pthread_equal(there, mine) == 0);
        CHECK(number == 5);
        CHECK(::pthread_equal(::pthread_self(), mine) != 0);
        const auto plain = co_await on(other.at(0), [] { return std::string("plain"); });
        CHECK(plain == "plain");
        int changed = 0;
        co_await on(other.at(0), [&] { changed = 1; });
        CHECK(changed == 1);
        CHECK_THROWS_AS(co_await on(other.at(0), [] { throw std::runtime_error("told"); }),
                        std::runtime_error);
        CHECK_THROWS_AS(co_await on(other.at(0), task<int>()), std::logic_error);
        const int own = co_await on(here, [] { return 3; });
        CHECK(own == 3);
    };

    run(here, work());
}

TEST_CASE("a cancellation crosses to the other loop, and is waited for", "[on]") {
    runtime other(1);
    loop here;
    auto nap = [] { return sleep_for(1h); };
    auto work = [&]() -> task<> {
        const auto late = co_await with_timeout(1ms, on(other.at(0), nap));
        CHECK(late.error() == std::errc::timed_out);
        const auto value = co_await with_timeout(1h, on(other.at(0), [] { return 7; }));
        CHECK(value.value() == 7);
        scope own((co_await current_context()).within);
        own.cancel();
        const auto refused = co_await as_task(on(other.at(0), nap)).within(own);
        CHECK(refused.error() == std::errc::operation_canceled);
        for (int round = 0; round < 200; ++round) {  // the two meet on the way
            const auto first = co_await when_any(on(other.at(0), [] { return 1; }), next_turn());
            CHECK((first.index() == 0 || first.index() == 1));
        }
    };

    run(here, work());
}

TEST_CASE("a loop that ends waits for its work on the other", "[on]") {
    runtime other(1);
    bool ended = false;
    {
        loop here;
        spawn(here, [&]() -> task<> {
            const auto got = co_await on(other.at(0), [] { return sleep_for(1h); });
            ended = got.error() == std::errc::operation_canceled;
        });
        here.run_once(0ns);
    }
    CHECK(ended);
}

TEST_CASE("work that has ended with its loop is asked for nothing any more", "[on]") {
    loop here;
    std::optional<runtime> other(std::in_place, 1);
    std::error_code error;
    auto waits = [&]() -> task<> {
        error = (co_await on(other->at(0), [] { return sleep_for(1h); })).error();
    };
    job<> waiting(here, waits());
    here.run_once(0ns);  // it has begun to
    other.reset();       // and its end is on the way here

    waiting.cancel();
    while (!waiting.done()) {
        here.run_once();
    }
    waiting.take();
    CHECK(error == std::errc::operation_canceled);
}
