#include <zloop/sync.hpp>

#include <memory>
#include <string>
#include <vector>

#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using zloop::testing::virtual_loop;

namespace {

task<result<void>> wait(event& awaited) { co_return co_await awaited.wait(); }
task<result<void>> wait(latch& awaited) { co_return co_await awaited.wait(); }
task<result<void>> acquire(semaphore& awaited) { co_return co_await awaited.acquire(); }
task<result<mutex::guard>> lock(mutex& awaited) { co_return co_await awaited.lock(); }

}  // namespace

TEST_CASE("an event that is set lets go on who waits, and who comes later", "[event]") {
    virtual_loop on;
    event happened;
    auto first = on.start(wait(happened));
    auto second = on.start(wait(happened));
    on.settle();
    CHECK(!happened.is_set());
    CHECK(!first.done());

    happened.set();
    CHECK(!first.done());  // never inline

    CHECK(on.join(first));
    CHECK(on.join(second));
    CHECK(run(on, wait(happened)));
    CHECK(happened.is_set());
}

TEST_CASE("a set that is reset at once has let go on who waited", "[event]") {
    virtual_loop on;
    event happened;
    auto waiting = on.start(wait(happened));
    on.settle();

    happened.set();
    happened.reset();

    CHECK(on.join(waiting));
    auto late = on.start(wait(happened));
    on.settle();
    CHECK(!late.done());
    happened.set();
    CHECK(on.join(late));
}

TEST_CASE("the waiters of an event go on in the order in which they came", "[event]") {
    virtual_loop on;
    event happened;
    std::vector<int> seen;
    auto waits = [&](int number) -> task<> {
        (co_await happened.wait()).value();
        seen.push_back(number);
    };
    for (int number = 0; number < 4; ++number) {
        spawn(on, waits(number));
    }
    on.settle();

    happened.set();
    on.settle();

    CHECK(seen == std::vector{0, 1, 2, 3});
}

TEST_CASE("a cancelled wait for an event leaves nothing in it", "[event]") {
    virtual_loop on;
    {
        event happened;
        auto first = on.start(wait(happened));
        auto second = on.start(wait(happened));
        on.settle();

        second.cancel();
        CHECK(on.join(second).error() == std::errc::operation_canceled);
        CHECK(!first.done());
        first.cancel();
        CHECK(on.join(first).error() == std::errc::operation_canceled);
    }
}

TEST_CASE("an event that has happened wins over a cancel", "[event]") {
    virtual_loop on;
    event happened;
    auto waiting = on.start(wait(happened));
    on.settle();

    happened.set();
    waiting.cancel();

    CHECK(on.join(waiting));
}

TEST_CASE("a cancelled task waits for no event", "[event]") {
    virtual_loop on;
    event happened;
    auto waiting = on.start(wait(happened));
    waiting.cancel();

    CHECK(on.join(waiting).error() == std::errc::operation_canceled);
}

TEST_CASE("a latch opens when all have counted down", "[latch]") {
    virtual_loop on;
    latch door(3);
    auto waiting = on.start(wait(door));
    door.count_down();
    on.settle();
    CHECK(!door.is_open());
    CHECK(!waiting.done());

    door.count_down(2);

    CHECK(door.is_open());
    CHECK(on.join(waiting));
    CHECK(run(on, wait(door)));
}

TEST_CASE("a latch that expects nobody is open", "[latch]") {
    virtual_loop on;
    latch door(0);

    CHECK(door.is_open());
    CHECK(run(on, wait(door)));
}

TEST_CASE("a wait for a latch can be cancelled", "[latch]") {
    virtual_loop on;
    latch door(1);
    auto waiting = on.start(wait(door));
    on.settle();
    waiting.cancel();

    CHECK(on.join(waiting).error() == std::errc::operation_canceled);
}

TEST_CASE("a semaphore has as many permits as it was given", "[semaphore]") {
    virtual_loop on;
    semaphore permits(2);
    auto first = on.start(acquire(permits));
    auto second = on.start(acquire(permits));
    auto third = on.start(acquire(permits));
    on.settle();
    CHECK(first.done());
    CHECK(second.done());
    CHECK(!third.done());
    CHECK(permits.available() == 0);
    CHECK(!permits.try_acquire());

    permits.release();
    CHECK(on.join(third));

    permits.release();
    permits.release();
    CHECK(permits.available() == 2);
    CHECK(permits.try_acquire());
    CHECK(permits.available() == 1);
}

TEST_CASE("a permit that was handed on cannot be overtaken", "[semaphore]") {
    virtual_loop on;
    semaphore permits(1);
    CHECK(permits.try_acquire());
    auto waiting = on.start(acquire(permits));
    on.settle();

    permits.release();
    CHECK(!permits.try_acquire());  // it is on its way
    CHECK(permits.available() == 0);

    CHECK(on.join(waiting));
}

TEST_CASE("permits go to who waits longest", "[semaphore]") {
    virtual_loop on;
    semaphore permits(0);
    std::vector<int> seen;
    auto work = [&](int number) -> task<> {
        (co_await permits.acquire()).value();
        seen.push_back(number);
        co_await next_turn();
        permits.release();
    };
    for (int number = 0; number < 5; ++number) {
        spawn(on, work(number));
    }
    on.settle();

    permits.release();
    on.settle();

    CHECK(seen == std::vector{0, 1, 2, 3, 4});
    CHECK(permits.available() == 1);
}

TEST_CASE("a permit that was handed to who is cancelled before it runs goes to the next", "[semaphore]") {
    virtual_loop on;
    semaphore permits(0);
    auto first = on.start(acquire(permits));
    auto second = on.start(acquire(permits));
    auto third = on.start(acquire(permits));
    on.settle();

    permits.release();
    first.cancel();
    second.cancel();
    third.cancel();

    CHECK(on.join(first).error() == std::errc::operation_canceled);
    CHECK(on.join(second).error() == std::errc::operation_canceled);
    CHECK(on.join(third).error() == std::errc::operation_canceled);
    CHECK(permits.available() == 1);
}

TEST_CASE("the first of two acquires takes one permit", "[semaphore][when_any]") {
    virtual_loop on;
    semaphore one(0), other(0);
    auto either = on.start(when_any(acquire(one), acquire(other)));
    on.settle();
    one.release();
    other.release();
    CHECK(on.join(either).index() == 0);
    CHECK(one.available() == 0);
    CHECK(other.available() == 1);

    one.release();
    CHECK(run(on, when_any(acquire(one), acquire(other))).index() == 0);
    CHECK(one.available() == 0);
    CHECK(other.available() == 1);
}

TEST_CASE("a cancelled acquire gets no permit and loses none", "[semaphore]") {
    virtual_loop on;
    semaphore permits(0);
    auto first = on.start(acquire(permits));
    auto second = on.start(acquire(permits));
    on.settle();

    first.cancel();
    permits.release();

    CHECK(on.join(first).error() == std::errc::operation_canceled);
    CHECK(on.join(second));
    permits.release();
    CHECK(permits.available() == 1);
}

TEST_CASE("one task at a time has a mutex, in the order of their coming", "[mutex]") {
    virtual_loop on;
    mutex alone;
    int inside = 0;
    std::vector<int> seen;
    auto work = [&](int number) -> task<> {
        const auto held = (co_await alone.lock()).value();
        CHECK(++inside == 1);
        seen.push_back(number);
        (co_await sleep_for(1s)).value();
        --inside;
    };
    for (int number = 0; number < 4; ++number) {
        spawn(on, work(number));
    }

    on.advance(4s);

    CHECK(seen == std::vector{0, 1, 2, 3});
    CHECK(alone.try_lock());
}

TEST_CASE("try_lock does not wait", "[mutex]") {
    mutex alone;
    auto held = alone.try_lock();
    CHECK(held);
    CHECK(!alone.try_lock());

    held.unlock();
    CHECK(!held);
    held.unlock();  // has none any more

    CHECK(alone.try_lock());
}

TEST_CASE("a guard that is assigned to lets go of what it held", "[mutex]") {
    mutex one, other;
    auto held = one.try_lock();
    auto second = other.try_lock();

    held = std::move(second);

    CHECK(one.try_lock());
    CHECK(!other.try_lock());
    held = mutex::guard();
    CHECK(other.try_lock());
}

TEST_CASE("a moved guard holds the mutex once", "[mutex]") {
    mutex alone;
    auto held = alone.try_lock();
    {
        const auto moved = std::move(held);
        CHECK(!held);
        CHECK(moved);
    }
    CHECK(alone.try_lock());
}

TEST_CASE("a mutex that was handed to who is cancelled before it runs is free, or the next one's",
          "[mutex]") {
    virtual_loop on;
    mutex alone;
    auto held = alone.try_lock();
    auto waiting = on.start(lock(alone));
    on.settle();

    held.unlock();
    CHECK(!alone.try_lock());
    auto next = on.start(lock(alone));
    on.settle();
    waiting.cancel();  // too late: it has run

    {
        const auto got = on.join(waiting).value();
        CHECK(got);
        CHECK(!alone.try_lock());
        next.cancel();
    }
    CHECK(alone.try_lock());
    CHECK(on.join(next).error() == std::errc::operation_canceled);
}

TEST_CASE("a cancelled lock has no mutex", "[mutex]") {
    virtual_loop on;
    mutex alone;
    auto held = alone.try_lock();
    auto waiting = on.start(lock(alone));
    auto next = on.start(lock(alone));
    on.settle();

    waiting.cancel();
    held.unlock();

    auto [error, none] = on.join(waiting);
    CHECK(error == std::errc::operation_canceled);
    CHECK(!none);
    CHECK(on.join(next).value());
}

TEST_CASE("a condition lets the mutex go while it waits, and has it again afterwards", "[condition]") {
    virtual_loop on;
    mutex alone;
    condition changed;
    std::vector<std::string> seen;
    auto waits = [&]() -> task<> {
        auto held = (co_await alone.lock()).value();
        seen.push_back("waits");
        (co_await changed.wait(held)).value();
        CHECK(held);
        CHECK(!alone.try_lock());
        seen.push_back("goes on");
    };
    auto changes = [&]() -> task<> {
        const auto held = (co_await alone.lock()).value();
        seen.push_back("changes");
        changed.notify_one();
        (co_await sleep_for(1s)).value();
        seen.push_back("lets go");
    };
    auto waiting = on.start(waits());
    auto changing = on.start(changes());

    on.join(waiting);
    on.join(changing);

    CHECK(seen == std::vector<std::string>{"waits", "changes", "lets go", "goes on"});
    CHECK(alone.try_lock());
}

TEST_CASE("notify_one wakes who waits longest, notify_all wakes all", "[condition]") {
    virtual_loop on;
    mutex alone;
    condition changed;
    std::vector<int> seen;
    auto waits = [&](int number) -> task<> {
        auto held = (co_await alone.lock()).value();
        (co_await changed.wait(held)).value();
        seen.push_back(number);
    };
    for (int number = 0; number < 4; ++number) {
        spawn(on, waits(number));
    }
    on.settle();

    changed.notify_one();
    on.settle();
    CHECK(seen == std::vector{0});

    changed.notify_all();
    on.settle();
    CHECK(seen == std::vector{0, 1, 2, 3});
    changed.notify_one();  // nobody is there
    changed.notify_all();
}

TEST_CASE("wait_until waits for more than a notification", "[condition]") {
    virtual_loop on;
    mutex alone;
    condition changed;
    int count = 0;
    auto waits = [&]() -> task<int> {
        auto held = (co_await alone.lock()).value();
        (co_await changed.wait_until(held, [&] { return count == 3; })).value();
        co_return count;
    };
    auto waiting = on.start(waits());

    for (int step = 0; step < 3; ++step) {
        on.settle();
        CHECK(!waiting.done());
        ++count;
        changed.notify_one();
    }

    CHECK(on.join(waiting) == 3);
}

TEST_CASE("a cancelled condition has the mutex again, and nobody in it", "[condition]") {
    const bool before = GENERATE(false, true);
    virtual_loop on;
    mutex alone;
    {
        condition changed;
        std::error_code outcome;
        auto waits = [&]() -> task<> {
            auto held = (co_await alone.lock()).value();
            outcome = (co_await changed.wait_until(held, [] { return false; })).error();
            CHECK(held);
        };
        auto waiting = on.start(waits());
        if (!before) {
            on.settle();
            CHECK(alone.try_lock());
        }
        int locked = 0;
        auto locks = [&]() -> task<> { locked += (co_await alone.lock()).value() ? 1 : 0; };
        auto other = on.start(locks());
        waiting.cancel();

        on.join(waiting);
        on.join(other);
        CHECK(outcome == std::errc::operation_canceled);
        CHECK(locked == 1);
    }
    CHECK(alone.try_lock());
}

TEST_CASE("a notification of who is cancelled before it runs wakes the next", "[condition]") {
    virtual_loop on;
    mutex alone;
    condition changed;
    auto waits = [&]() -> task<std::error_code> {
        auto held = (co_await alone.lock()).value();
        co_return (co_await changed.wait(held)).error();
    };
    auto waiting = on.start(waits());
    auto next = on.start(waits());
    on.settle();

    changed.notify_one();
    waiting.cancel();

    CHECK(on.join(waiting) == std::errc::operation_canceled);
    CHECK(on.join(next) == std::error_code());
}

TEST_CASE("who waits for what is destroyed goes on as cancelled", "[sync]") {
    virtual_loop on;
    auto happened = std::make_unique<event>();
    auto permits = std::make_unique<semaphore>(0);
    auto open = std::make_unique<latch>(1);
    auto one = on.start(wait(*happened));
    auto two = on.start(acquire(*permits));
    auto three = on.start(wait(*open));
    on.settle();

    happened.reset();
    permits.reset();
    open.reset();
    one.cancel();

    CHECK(on.join(one).error() == std::errc::operation_canceled);
    CHECK(on.join(two).error() == std::errc::operation_canceled);
    CHECK(on.join(three).error() == std::errc::operation_canceled);
}

TEST_CASE("who was served by what is destroyed keeps what it got", "[sync]") {
    virtual_loop on;
    auto permits = std::make_unique<semaphore>(0);
    auto waiting = on.start(acquire(*permits));
    on.settle();

    permits->release();
    permits.reset();
    waiting.cancel();

    CHECK(on.join(waiting));
}

TEST_CASE("a condition that is destroyed with its mutex leaves its waiters without either", "[condition]") {
    virtual_loop on;
    struct guarded {
        mutex alone;
        condition changed;
    };
    auto shared = std::make_unique<guarded>();
    auto waits = [](guarded& with) -> task<std::error_code> {
        auto held = (co_await with.alone.lock()).value();
        const auto outcome = co_await with.changed.wait(held);
        CHECK(!held);
        co_return outcome.error();
    };
    auto waiting = on.start(waits(*shared));
    on.settle();

    shared.reset();

    CHECK(on.join(waiting) == std::errc::operation_canceled);
}

TEST_CASE("waits of all kinds end with their loop", "[sync]") {
    event never;
    semaphore none(0);
    mutex alone;
    condition unchanged;
    auto held = alone.try_lock();
    int ended = 0;
    {
        auto waits_for_event = [&]() -> task<> { ended += (co_await never.wait()).error() ? 1 : 0; };
        auto acquires = [&]() -> task<> { ended += (co_await none.acquire()).error() ? 1 : 0; };
        auto locks = [&]() -> task<> { ended += (co_await alone.lock()).error() ? 1 : 0; };
        auto waits = [&]() -> task<> { ended += (co_await unchanged.wait(held)).error() ? 1 : 0; };
        virtual_loop on;  // which ends them
        spawn(on, waits_for_event());
        spawn(on, acquires());
        spawn(on, locks());
        on.settle();
        spawn(on, waits());
        on.settle();
    }
    CHECK(ended == 3);  // and the lock, which the condition let go
}

TEST_CASE("no wait allocates", "[sync]") {
    if (!probes::counts_allocations) {
        return;
    }
    virtual_loop on;
    event turn;
    semaphore permits(0);
    mutex alone;
    condition changed;
    auto other = [&]() -> task<> {
        for (;;) {
            if (!co_await turn.wait()) {
                co_return;
            }
            turn.reset();
            permits.release();
            co_await next_turn();
            const auto held = co_await alone.lock();  // waits, until the other one waits for us
            changed.notify_one();
        }
    };
    auto one = [&]() -> task<std::size_t> {
        std::size_t before = 0;
        for (int round = 0; round < 1'000; ++round) {
            if (round == 10) {
                before = probes::allocations();  // the pool of frames is warm
            }
            turn.set();
            (co_await permits.acquire()).value();
            auto held = (co_await alone.lock()).value();
            co_await next_turn();
            (co_await changed.wait(held)).value();
        }
        co_return probes::allocations() - before;
    };
    auto beside = on.start(other());

    CHECK(run(on, one()) == 0);
    beside.cancel();
    on.join(beside);
}
