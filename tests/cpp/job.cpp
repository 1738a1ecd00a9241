#include <zloop/job.hpp>

#include <string>
#include <thread>
#include <vector>

#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "support.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

TEST_CASE("a job runs beside its caller, from the next turn on", "[job]") {
    virtual_loop on;
    bool began = false;
    auto work = [&]() -> task<int> {
        began = true;
        (co_await sleep_for(1s)).value();
        co_return 5;
    };
    job<int> running(on, work());
    CHECK(!began);
    CHECK(!running.done());

    on.settle();
    CHECK(began);
    CHECK(!running.done());

    CHECK(on.join(running) == 5);
    CHECK(running.done());
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("jobs run at the same time", "[job]") {
    virtual_loop on;
    auto work = []() -> task<result<void>> { co_return co_await sleep_for(1s); };
    auto first = on.start(work());
    auto second = on.start(work());

    CHECK(on.join(first));
    CHECK(on.join(second));
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a job throws what its task threw", "[job]") {
    virtual_loop on;
    auto fails = []() -> task<> {
        co_await next_turn();
        throw std::runtime_error("told");
    };
    auto running = on.start(fails());

    CHECK_THROWS_AS(on.join(running), std::runtime_error);
}

TEST_CASE("a cancelled job's wait ends with operation_canceled", "[job]") {
    virtual_loop on;
    auto work = []() -> task<std::error_code> { co_return (co_await sleep_for(1h)).error(); };
    auto running = on.start(work());
    on.advance(1s);

    running.cancel();
    CHECK(!running.done());  // never inline

    CHECK(on.join(running) == std::errc::operation_canceled);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a job that is cancelled before it began runs to its first wait", "[job]") {
    virtual_loop on;
    auto work = []() -> task<std::error_code> { co_return (co_await sleep_for(1h)).error(); };
    auto running = on.start(work());

    running.cancel();

    CHECK(on.join(running) == std::errc::operation_canceled);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a job below a scope is cancelled with it", "[job]") {
    virtual_loop on;
    scope group(&on.root_scope());
    auto work = []() -> task<std::error_code> { co_return (co_await sleep_for(1h)).error(); };
    job<std::error_code> inside(on, group, work());
    job<std::error_code> outside(on, work());
    on.settle();

    group.cancel();

    CHECK(on.join(inside) == std::errc::operation_canceled);
    CHECK(!outside.done());
    outside.cancel();
    on.join(outside);
}

TEST_CASE("the waiter of a job is queued when it is done", "[job]") {
    virtual_loop on;
    int notified = 0;
    callback waiter([&] { ++notified; });
    auto work = []() -> task<> { co_await next_turn(); };
    auto running = on.start(work());
    running.notify(waiter);

    on.join(running);
    CHECK(notified == 0);  // queued, not called
    on.settle();
    CHECK(notified == 1);
}

TEST_CASE("a spawned task ends by itself and leaves nothing", "[job]") {
    virtual_loop on;
    int ended = 0;
    auto work = [&]() -> task<> {
        (co_await sleep_for(1s)).value();
        ++ended;
    };
    spawn(on, work());
    spawn(on, work());

    on.advance(2s);
    CHECK(ended == 2);
}

TEST_CASE("a spawned task's exception reaches the failure hook", "[job]") {
    virtual_loop on;
    const auto& reported = keep_failures(on);
    auto fails = []() -> task<> {
        co_await next_turn();
        throw std::runtime_error("nobody waits");
    };
    spawn(on, fails());

    on.settle();

    CHECK(reported == std::vector<std::string>{"nobody waits"});
}

TEST_CASE("run gives the result and leaves the loop usable", "[job]") {
    virtual_loop on;
    auto number = []() -> task<int> { co_return 1; };
    auto fails = []() -> task<> {
        throw 1;
        co_return;
    };

    CHECK(run(on, number()) == 1);
    CHECK_THROWS_AS(run(on, fails()), int);
    CHECK(run(on, number()) == 1);
}

TEST_CASE("run without a loop makes one, and ends what was spawned on it", "[job]") {
    bool ended = false;
    auto background = [&]() -> task<> {
        const auto outcome = co_await sleep_for(1h);
        ended = outcome.error() == std::errc::operation_canceled;
    };
    auto work = [&]() -> task<int> {
        const context here = co_await current_context();
        spawn(*here.on, background());
        co_await next_turn();
        co_return 7;
    };

    CHECK(run(work()) == 7);
    CHECK(ended);
}

TEST_CASE("when the loop cannot wait, run ends the task and throws", "[job]") {
    virtual_loop on;  // fails instead of waiting for ever
    const int peer = on.kernel().open();
    std::error_code outcome;
    auto work = [&]() -> task<> {
        auto socket = stream::adopt(on, fd(peer)).value();
        outcome = (co_await socket.receive()).error();
    };

    CHECK_THROWS_AS(run(on, work()), std::system_error);
    CHECK(outcome == std::errc::operation_canceled);
}

TEST_CASE("join gives the result, or throws it, whether the job has ended or not", "[job]") {
    const bool ended = GENERATE(false, true);
    virtual_loop on;
    auto number = []() -> task<int> {
        co_await next_turn();
        co_return 5;
    };
    auto fails = []() -> task<> {
        co_await next_turn();
        throw std::runtime_error("told");
    };
    auto work = [&]() -> task<int> {
        const context here = co_await current_context();
        job<int> good(here, number());
        job<> bad(here, fails());
        if (ended) {
            (co_await sleep_for(1s)).value();
            CHECK(good.done());
        }
        bool thrown = false;
        try {
            co_await bad.join();
        } catch (const std::runtime_error&) {
            thrown = true;
        }
        CHECK(thrown);
        co_return co_await good.join();
    };

    CHECK(run(on, work()) == 5);
}

TEST_CASE("who joins a job is not cancelled itself, but the job is", "[job]") {
    virtual_loop on;
    auto naps = []() -> task<result<void>> { co_return co_await sleep_for(1h); };
    auto work = [&]() -> task<std::error_code> {
        job<result<void>> child(co_await current_context(), naps());
        co_return (co_await child.join()).error();
    };
    auto working = on.start(work());
    on.settle();

    working.cancel();

    CHECK(on.join(working) == std::errc::operation_canceled);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a loop counts its live tasks and its wakes", "[job][loop]") {
    loop on;
    auto naps = []() -> task<> { static_cast<void>(co_await sleep_for(1h)); };
    auto work = [&]() -> task<> {
        job<> child(*(co_await current_context()).on, naps());
        CHECK(on.stats().live == 2);
        child.cancel();
        co_await child.join();
        CHECK(on.stats().live == 1);
    };
    run(on, work());
    CHECK(on.stats().live == 0);

    bool arrived = false;
    callback nothing([&] { arrived = true; });
    const auto wakes = on.stats().wakes;
    on.post(nothing);
    on.run_once(0ns);
    CHECK(on.stats().wakes == wakes);  // it did not sleep
    std::thread other([&] {
        std::this_thread::sleep_for(20ms);
        on.post(nothing);
    });
    arrived = false;
    while (!arrived) {
        on.run_once(10s);  // something else may wake it, too
    }
    other.join();
    CHECK(on.stats().wakes == wakes + 1);
}

TEST_CASE("a job is joined once: who comes second is refused, and the first gets the result", "[job]") {
    virtual_loop on;
    auto work = []() -> task<int> {
        (co_await sleep_for(1s)).value();
        co_return 5;
    };
    auto working = on.start(work());
    auto joins = [&]() -> task<int> { co_return co_await working.join(); };
    auto first = on.start(joins());
    auto second = on.start(joins());
    on.settle();
    CHECK_THROWS_AS(on.join(second), std::logic_error);

    CHECK(on.join(first) == 5);

    auto third = on.start(joins());
    CHECK_THROWS_AS(on.join(third), std::logic_error);
    CHECK_THROWS_AS(working.take(), std::logic_error);
}

TEST_CASE("the result of a job that has not ended is refused", "[job]") {
    virtual_loop on;
    auto running = on.start(nap(1s));
    CHECK_THROWS_AS(running.take(), std::logic_error);
    CHECK(on.join(running));
}

TEST_CASE("who is to be notified of a job that has ended is queued at once", "[job]") {
    virtual_loop on;
    auto running = on.start(nap(0s));
    while (!running.done()) {
        on.settle();
    }
    int notified = 0;
    callback waiter([&] { ++notified; });
    running.notify(waiter);
    CHECK_THROWS_AS(running.notify(waiter), std::logic_error);
    on.settle();
    CHECK(notified == 1);
}

TEST_CASE("a detached task that was cancelled has not failed", "[job]") {
    std::vector<std::string> reported;
    {
        virtual_loop on;
        static_cast<void>(keep_failures(on));
        auto needs = []() -> task<> { (co_await sleep_for(1h)).value(); };
        spawn(on, needs());
        on.settle();
    }
    virtual_loop on;
    CHECK(keep_failures(on).empty());
}

TEST_CASE("a spawned callable is kept until its task has ended", "[job]") {
    virtual_loop on;
    std::string seen;
    {
        const std::string text(100, 'x');
        spawn(on, [text, &seen]() -> task<> {
            (co_await sleep_for(1s)).value();
            seen = text;
        });
    }
    on.advance(2s);
    CHECK(seen == std::string(100, 'x'));
}

TEST_CASE("a job that an exception leaves ends the process, and the exception is told", "[job]") {
    const auto said = dying([] {
        virtual_loop on;
        auto leaves = [&]() -> task<> {
            job<result<void>> child(co_await current_context(), nap(1h));
            co_await next_turn();
            throw std::runtime_error("the first error");
        };
        run(on, leaves());
    });
    CHECK(said.signal == SIGABRT);
    CHECK(contains(said.text, "a job was destroyed that has not ended, as an exception passed"));
    CHECK(contains(said.text, "awaits sleep"));
    CHECK(contains(said.text, "the exception that passed: the first error"));
}

TEST_CASE("a job that is left by an exception that is caught ends the process in its next turn", "[job]") {
    const auto said = dying([] {
        virtual_loop on;
        auto leaves = [&]() -> task<> {
            try {
                job<result<void>> never_begun(co_await current_context(), nap(1h));
                throw std::runtime_error("caught");
            } catch (const std::exception& error) {
                std::fprintf(stderr, "caught it: %s\n", error.what());
            }
            co_await next_turn();
            std::fputs("went on\n", stderr);
        };
        run(on, leaves());
    });
    CHECK(said.signal == SIGABRT);
    CHECK(contains(said.text, "caught it: caught"));
    CHECK(!contains(said.text, "went on"));
}

TEST_CASE("a job that is left without an exception ends the process there", "[job]") {
    const auto said = dying([] {
        virtual_loop on;
        { const job<result<void>> child(on, nap(1h)); }
        std::fputs("went on\n", stderr);
    });
    CHECK(said.signal == SIGABRT);
    CHECK(contains(said.text, "a job was destroyed that has not ended\n"));
    CHECK(!contains(said.text, "went on"));
}
