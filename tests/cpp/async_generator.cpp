#include <zloop/async_generator.hpp>

#include <memory>
#include <stdexcept>
#include <string>

#include <zloop/cancel.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using zloop::testing::virtual_loop;

namespace {

/// One a second; and how often it was told that it is cancelled.
async_generator<int> ticks(int most, int& canceled) {
    for (int each = 1; each <= most;) {
        if (co_await sleep_for(1s)) {
            co_yield each++;
        } else {
            ++canceled;
            co_yield -each;
        }
    }
}

}  // namespace

TEST_CASE("an async_generator awaits between its values", "[async_generator]") {
    virtual_loop on;
    int canceled = 0;
    auto work = [&]() -> task<int> {
        int sum = 0;
        auto seconds = ticks(3, canceled);
        while (const int* each = co_await seconds.next()) {
            sum += *each;
        }
        const int* const after = co_await seconds.next();
        CHECK(after == nullptr);
        async_generator<int> none;
        const int* const nothing = co_await none.next();
        CHECK(nothing == nullptr);
        co_return sum;
    };

    CHECK(run(on, work()) == 6);
    CHECK(on.elapsed() == 3s);
    CHECK(on.stats().live == 0);
}

TEST_CASE("a million values that are there need no stack and no turn", "[async_generator]") {
    virtual_loop on;
    auto numbers = []() -> async_generator<std::string> {
        const std::string kept = "kept";
        for (int each = 0; each < 500'000; ++each) {
            co_yield kept;
            co_yield "made";
        }
    };
    auto work = [&]() -> task<std::size_t> {
        std::size_t count = 0;
        const auto before = on.stats().turns;
        auto values = numbers();
        while (std::string* each = co_await values.next()) {
            count += each->size();
        }
        CHECK(on.stats().turns == before);
        co_return count;
    };

    CHECK(run(on, work()) == 4'000'000);
}

TEST_CASE("what cancels next() cancels what the async_generator awaits, and it goes on",
          "[async_generator]") {
    virtual_loop on;
    int canceled = 0;
    auto work = [&]() -> task<> {
        auto seconds = ticks(3, canceled);
        const auto early = co_await with_timeout(500ms, seconds.next());
        CHECK(early.error() == std::errc::timed_out);
        CHECK(canceled == 1);
        const auto in_time = co_await with_timeout(2s, seconds.next());
        CHECK(**in_time == 1);
        const auto first = co_await when_any(seconds.next(), sleep_for(1h));
        CHECK(*std::get<0>(first) == 2);
        CHECK(on.elapsed() == 2500ms);
    };

    run(on, work());
}

TEST_CASE("what leaves an async_generator arrives at who awaits it, once", "[async_generator]") {
    virtual_loop on;
    auto fails = [](bool waits) -> async_generator<int> {
        if (waits) {
            co_await next_turn();
        }
        co_yield 1;
        if (waits) {
            co_await next_turn();
        }
        throw std::runtime_error("told");
    };
    auto work = [&](bool waits) -> task<> {
        auto values = fails(waits);
        const int* const first = co_await values.next();
        CHECK(*first == 1);
        CHECK_THROWS_AS(co_await values.next(), std::runtime_error);
        const int* const after = co_await values.next();
        CHECK(after == nullptr);
    };

    run(on, work(false));
    run(on, work(true));
}

TEST_CASE("an async_generator makes one value at a time, and may be left at any", "[async_generator]") {
    virtual_loop on;
    auto shared = std::make_shared<int>(1);
    auto holds = [](std::shared_ptr<int> held) -> async_generator<std::shared_ptr<int>> {
        for (;;) {
            co_await next_turn();
            co_yield held;
        }
    };
    auto work = [&]() -> task<> {
        auto values = holds(shared);
        co_await when_all(values.next(), [](auto& same) -> task<> {
            CHECK_THROWS_AS(co_await same.next(), std::logic_error);
        }(values));
        CHECK(shared.use_count() == 2);
    };

    run(on, work());

    CHECK(shared.use_count() == 1);
}
