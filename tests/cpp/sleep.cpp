#include <zloop/sleep.hpp>

#include <string>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using zloop::testing::virtual_loop;

namespace {

task<result<void>> nap_for(nanoseconds duration) { co_return co_await sleep_for(duration); }
task<result<void>> nap_until(time_point deadline) { co_return co_await sleep_until(deadline); }

}  // namespace

TEST_CASE("a sleep ends at its deadline and not before", "[sleep]") {
    virtual_loop on;
    auto sleeping = on.start(nap_for(1h));

    on.advance(1h - 1ns);
    CHECK(!sleeping.done());

    on.advance(1ns);
    CHECK(sleeping.done());
    CHECK(sleeping.take());
}

TEST_CASE("sleep_until takes a moment of the loop's clock", "[sleep]") {
    virtual_loop on;
    on.advance(5s);
    auto sleeping = on.start(nap_until(on.now() + 3s));

    CHECK(on.join(sleeping));
    CHECK(on.elapsed() == 8s);
}

TEST_CASE("a sleep that is over takes a turn all the same", "[sleep]") {
    virtual_loop on;
    on.advance(5s);
    const nanoseconds duration = GENERATE(as<nanoseconds>(), 0ns, -1h, nanoseconds::min());
    std::vector<std::string> seen;
    auto sleeps = [&]() -> task<> {
        seen.push_back("sleeps");
        const auto outcome = co_await sleep_for(duration);
        seen.push_back(outcome ? "slept" : "failed");
    };
    auto other = [&]() -> task<> {
        seen.push_back("other");
        co_return;
    };
    auto first = on.start(sleeps());
    auto second = on.start(other());

    on.join(first);
    on.join(second);

    CHECK(seen == std::vector<std::string>{"sleeps", "other", "slept"});
    CHECK(on.elapsed() == 5s);
}

TEST_CASE("sleeps with one deadline end in the order in which they began", "[sleep]") {
    virtual_loop on;
    std::vector<int> seen;
    auto sleeps = [&](int number) -> task<> {
        const auto outcome = co_await sleep_for(1s);
        CHECK(outcome);
        seen.push_back(number);
    };
    for (int number = 0; number < 5; ++number) {
        spawn(on, sleeps(number));
    }

    on.advance(1s);

    CHECK(seen == std::vector{0, 1, 2, 3, 4});
}

TEST_CASE("a cancelled sleep ends at once and leaves no timer", "[sleep]") {
    virtual_loop on;
    auto sleeping = on.start(nap_for(1h));
    on.advance(10min);

    sleeping.cancel();
    CHECK(on.timers().empty());

    CHECK(on.join(sleeping).error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 10min);
}

TEST_CASE("a sleep in a cancelled scope does not begin", "[sleep]") {
    virtual_loop on;
    int ended = 0;
    auto work = [&]() -> task<> {
        for (int round = 0; round < 3; ++round) {
            const auto outcome = co_await sleep_for(1h);
            ended += outcome.error() == std::errc::operation_canceled;
        }
    };
    auto sleeping = on.start(work());
    sleeping.cancel();

    on.join(sleeping);

    CHECK(ended == 3);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a sleep that is due wins over a cancel", "[sleep]") {
    virtual_loop on;
    job<result<void>>* late = nullptr;
    auto cancels = [&]() -> task<> {
        const auto outcome = co_await sleep_for(1s);
        CHECK(outcome);
        late->cancel();  // due in this very turn, and queued behind us
    };
    auto canceller = on.start(cancels());
    auto sleeping = on.start(nap_for(1s));
    late = &sleeping;

    on.join(canceller);

    CHECK(on.join(sleeping));
}

TEST_CASE("a sleep without end does not overflow", "[sleep]") {
    virtual_loop on;
    on.advance(1s);
    auto sleeping = on.start(nap_for(nanoseconds::max()));
    on.advance(24h * 365);
    CHECK(!sleeping.done());

    sleeping.cancel();
    CHECK(!on.join(sleeping));
}

TEST_CASE("ten thousand sleeps need no more than their timers", "[sleep]") {
    virtual_loop on;
    int ended = 0;
    auto sleeps = [&](int number) -> task<> {
        const auto outcome = co_await sleep_for(std::chrono::milliseconds(number * 7919 % 10'000));
        ended += outcome ? 1 : 0;
    };
    for (int number = 0; number < 10'000; ++number) {
        spawn(on, sleeps(number));
    }
    on.settle();
    CHECK(on.timers().size() == 9'999);  // one slept for no time at all

    on.advance(10s);
    CHECK(ended == 10'000);
    CHECK(on.timers().empty());
}

TEST_CASE("an interval ticks a period after the last tick was due, however long the work took",
          "[interval]") {
    virtual_loop on;
    std::vector<nanoseconds> ticks;
    auto work = [&]() -> task<> {
        interval every(1s);
        for (const auto busy : {0ms, 300ms, 999ms, 0ms}) {
            const auto ticked = (co_await every.next()).value();
            CHECK(ticked == 1);
            ticks.push_back(on.elapsed());
            (co_await sleep_for(busy)).value();
        }
    };
    auto working = on.start(work());

    on.join(working);

    CHECK(ticks == std::vector<nanoseconds>{1s, 2s, 3s, 4s});
}

TEST_CASE("an interval tells how many ticks were missed, and keeps its beat", "[interval]") {
    virtual_loop on;
    auto work = [&]() -> task<> {
        interval every(1s);
        auto ticked = (co_await every.next()).value();
        CHECK(ticked == 1);
        (co_await sleep_for(3'500ms)).value();
        ticked = (co_await every.next()).value();
        CHECK(ticked == 3);  // those of 2 s, 3 s, 4 s, at once
        CHECK(on.elapsed() == 4'500ms);
        ticked = (co_await every.next()).value();
        CHECK(ticked == 1);
        CHECK(on.elapsed() == 5s);
        (co_await sleep_for(2s)).value();  // until a tick is due, exactly
        ticked = (co_await every.next()).value();
        CHECK(ticked == 2);
        CHECK(on.elapsed() == 7s);
    };
    auto working = on.start(work());

    on.join(working);
}

TEST_CASE("the first tick of an interval is a period after the first wait", "[interval]") {
    virtual_loop on;
    interval every(1s);
    auto work = [&]() -> task<std::uint64_t> { co_return *co_await every.next(); };
    on.advance(10s);

    CHECK(run(on, work()) == 1);
    CHECK(on.elapsed() == 11s);
}

TEST_CASE("a tick that was not waited for to its end is still to come", "[interval]") {
    virtual_loop on;
    interval every(1s);
    auto waits = [&]() -> task<result<std::uint64_t>> { co_return co_await every.next(); };
    auto waiting = on.start(waits());
    on.advance(400ms);
    waiting.cancel();
    CHECK(on.join(waiting).error() == std::errc::operation_canceled);
    CHECK(on.timers().empty());

    CHECK(run(on, waits()).value() == 1);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a tick that is due when its wait is cancelled is not lost", "[interval]") {
    virtual_loop on;
    interval every(1s);
    auto tick = [&]() -> task<result<std::uint64_t>> { co_return co_await every.next(); };
    auto work = [&]() -> task<> {
        const auto first = co_await when_any(nap_for(1s), tick());  // both are due in the same turn
        CHECK(first.index() == 0);
        const auto ticked = (co_await every.next()).value();
        CHECK(ticked == 1);
        CHECK(on.elapsed() == 1s);
        const auto late = co_await with_timeout(1s, tick());
        CHECK(late.error() == std::errc::timed_out);
        const auto after = (co_await every.next()).value();
        CHECK(after == 1);
        CHECK(on.elapsed() == 2s);
    };

    run(on, work());
}

TEST_CASE("a wait for a tick is for that which is next when it begins", "[interval]") {
    virtual_loop on;
    interval every(1s);
    auto work = [&]() -> task<> {
        (co_await every.next()).value();
        auto made_early = every.next();
        (co_await every.next()).value();
        const auto ticked = (co_await made_early).value();
        CHECK(ticked == 1);
    };

    run(on, work());
    CHECK(on.elapsed() == 3s);
}

TEST_CASE("a sleep and a tick allocate nothing once the heap of timers has grown", "[sleep][interval]") {
    if (!probes::counts_allocations) {
        return;
    }
    virtual_loop on;
    auto work = []() -> task<std::size_t> {
        interval every(1s);
        (co_await every.next()).value();
        const std::size_t before = probes::allocations();
        for (int round = 0; round < 100; ++round) {
            (co_await sleep_for(1s)).value();
            (co_await every.next()).value();
        }
        co_return probes::allocations() - before;
    };

    CHECK(run(on, work()) == 0);
}
