#include <zloop/nursery.hpp>

#include <string>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using support::contains;
using support::dying;
using support::nap;
using support::thrown_by;
using zloop::testing::virtual_loop;

namespace {

/// Throws that it was cancelled, when it was.
task<> needed_nap(nanoseconds duration) { (co_await sleep_for(duration)).value(); }

task<> fail_after(nanoseconds duration, const char* what) {
    static_cast<void>(co_await shield(nap(duration)));
    throw std::runtime_error(what);
}

}  // namespace

TEST_CASE("a nursery's tasks run beside each other, from the next turn on, and are joined", "[nursery]") {
    virtual_loop on;
    std::string seen;
    auto child = [&](char letter) -> task<> {
        seen += letter;
        (co_await sleep_for(1s)).value();
        seen += letter;
    };
    auto work = [&]() -> task<> {
        nursery children(co_await current_context());
        children.spawn(child('a'));
        children.spawn(child('b'));
        CHECK(children.size() == 2);
        seen += '-';
        co_await children.join();
        CHECK(children.size() == 0);
        seen += '-';
    };

    run(on, work());

    CHECK(seen == "-abab-");
    CHECK(on.elapsed() == 1s);
    CHECK(on.stats().live == 0);
}

TEST_CASE("a nursery without tasks is joined at once", "[nursery]") {
    virtual_loop on;
    auto work = [&]() -> task<> {
        nursery children(co_await current_context());
        co_await children.join();
        children.spawn(needed_nap(1s));
        co_await children.join();
        co_await children.join();
    };

    run(on, work());
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("the first failure in a nursery cancels the rest, which is joined", "[nursery]") {
    virtual_loop on;
    std::error_code other;
    auto goes_on = [&]() -> task<> {
        other = (co_await sleep_for(1h)).error();
        static_cast<void>(co_await shield(nap(1s)));  // takes its time
    };
    auto body = [&](nursery& children) -> task<> {
        children.spawn(goes_on());
        children.spawn(fail_after(1s, "told"));
        co_return;
    };

    CHECK(thrown_by(on, with_nursery(body)) == "told");

    CHECK(other == std::errc::operation_canceled);
    CHECK(on.elapsed() == 2s);
    CHECK(on.timers().empty());
}

TEST_CASE("an error of a spawned result<void> is a failure", "[nursery]") {
    virtual_loop on;
    auto says = []() -> task<result<void>> {
        co_await next_turn();
        co_return errc::end_of_stream;
    };
    auto body = [&](nursery& children) -> task<> {
        children.spawn(says());
        children.spawn(nap(1h));
        co_return;
    };

    CHECK(thrown_by(on, with_nursery(body)) == std::error_code(errc::end_of_stream).message());
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("later failures in a nursery reach the loop's hook, and cancellations do not", "[nursery]") {
    virtual_loop on;
    const auto& reported = support::keep_failures(on);
    auto body = [&](nursery& children) -> task<> {
        children.spawn(fail_after(3s, "third"));
        children.spawn(fail_after(1s, "first"));
        children.spawn(fail_after(2s, "second"));
        children.spawn(needed_nap(1h));  // throws that it was cancelled
        co_return;
    };

    CHECK(thrown_by(on, with_nursery(body)) == "first");
    CHECK(reported == std::vector<std::string>{"second", "third"});
}

TEST_CASE("a nursery that its owner has cancelled did not fail", "[nursery]") {
    virtual_loop on;
    std::size_t left = 0;
    auto body = [&](nursery& children) -> task<> {
        children.spawn(needed_nap(1h));
        children.spawn(nap(1h));
        (co_await sleep_for(1s)).value();
        children.cancel();
        left = children.size();  // asked, not ended
    };
    auto owner = [&]() -> task<> {
        nursery children(co_await current_context());
        children.spawn(needed_nap(1h));
        children.spawn(nap(1h));
        (co_await sleep_for(1s)).value();
        children.cancel();
        co_await children.join();
    };

    CHECK(thrown_by(on, with_nursery(body)) == "nothing");
    CHECK(left == 2);
    CHECK(thrown_by(on, owner()) == "nothing");
    CHECK(on.elapsed() == 2s);
}

TEST_CASE("a real failure after a nursery's cancel is told", "[nursery]") {
    virtual_loop on;
    auto body = [&](nursery& children) -> task<> {
        children.spawn(needed_nap(1h));
        children.spawn(fail_after(1s, "told"));
        co_await next_turn();
        children.cancel();
    };

    CHECK(thrown_by(on, with_nursery(body)) == "told");
}

TEST_CASE("the cancellation of the owner reaches its nursery, and comes back out of it", "[nursery]") {
    virtual_loop on;
    auto body = [&](nursery& children) -> task<> {
        children.spawn(needed_nap(1h));
        co_return;
    };
    auto quiet_body = [&](nursery& children) -> task<> {
        auto naps = []() -> task<> { static_cast<void>(co_await sleep_for(1h)); };
        children.spawn(naps());
        co_return;
    };
    auto working = on.start(with_nursery(body));
    auto quiet = on.start(with_nursery(quiet_body));
    on.settle();

    working.cancel();
    quiet.cancel();

    try {
        on.join(working);
        FAIL("nothing thrown");
    } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::operation_canceled);
    }
    on.join(quiet);  // its task has ended well all the same
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a deadline cancels a nursery and is told as such", "[nursery]") {
    virtual_loop on;
    auto body = [&](nursery& children) -> task<> {
        children.spawn(needed_nap(1h));
        children.spawn(needed_nap(2h));
        co_return;
    };

    CHECK(run(on, with_timeout(1s, with_nursery(body))).error() == std::errc::timed_out);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("what a cancelled nursery spawns runs to its first wait", "[nursery]") {
    virtual_loop on;
    std::error_code outcome;
    auto notes = [&]() -> task<> { outcome = (co_await sleep_for(1h)).error(); };
    auto work = [&]() -> task<> {
        nursery children(co_await current_context());
        children.cancel();
        children.spawn(notes());
        co_await children.join();
    };

    run(on, work());
    CHECK(outcome == std::errc::operation_canceled);
}

TEST_CASE("a task may spawn into its own nursery", "[nursery]") {
    virtual_loop on;
    int ran = 0;
    struct family {
        static task<> grow(nursery& children, int generations, int& ran) {
            ++ran;
            if (generations > 0) {
                children.spawn(grow(children, generations - 1, ran));
                children.spawn(grow(children, generations - 1, ran));
            }
            co_return;
        }
    };
    auto body = [&](nursery& children) -> task<> {
        children.spawn(family::grow(children, 9, ran));
        co_return;
    };

    run(on, with_nursery(body));
    CHECK(ran == 1'023);
}

TEST_CASE("a task that comes when the last one has just ended is joined as well", "[nursery]") {
    virtual_loop on;
    bool ran = false;
    auto late = [&]() -> task<> {
        (co_await sleep_for(1s)).value();
        ran = true;
    };
    nursery* children = nullptr;
    support::delayed spawner([&] { children->spawn(late()); });
    auto work = [&]() -> task<> {
        nursery own(co_await current_context());
        children = &own;
        own.spawn(needed_nap(1s));
        co_await next_turn();
        on.arm(spawner, on.now() + 1s);  // due right behind the nap, which ends in the same turn
        co_await own.join();
    };

    run(on, work());
    CHECK(ran);
    CHECK(on.elapsed() == 2s);
}

TEST_CASE("a failure of with_nursery's body cancels its tasks, and they are joined", "[nursery]") {
    virtual_loop on;
    std::error_code outcome;
    auto notes = [&]() -> task<> { outcome = (co_await sleep_for(1h)).error(); };
    auto coroutine = [&](nursery& children) -> task<> {
        children.spawn(notes());
        co_await next_turn();
        throw std::runtime_error("told");
    };
    auto function = [&](nursery& children) -> task<> {  // throws before there is a task
        children.spawn(notes());
        throw std::runtime_error("told");
    };

    CHECK(thrown_by(on, with_nursery(coroutine)) == "told");
    CHECK(outcome == std::errc::operation_canceled);
    outcome.clear();
    CHECK(thrown_by(on, with_nursery(function)) == "told");
    CHECK(outcome == std::errc::operation_canceled);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a failure in the nursery cancels with_nursery's body", "[nursery]") {
    virtual_loop on;
    std::error_code outcome;
    auto body = [&](nursery& children) -> task<> {
        children.spawn(fail_after(1s, "told"));
        outcome = (co_await sleep_for(1h)).error();
    };

    CHECK(thrown_by(on, with_nursery(body)) == "told");
    CHECK(outcome == std::errc::operation_canceled);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("each task of a nursery is freed at its end", "[nursery]") {
    virtual_loop on;
    int alive = 0;
    struct counted {
        explicit counted(int& count) : alive(count) { ++alive; }
        counted(const counted&) = delete;
        ~counted() { --alive; }
        int& alive;
    };
    auto child = [&](nanoseconds duration) -> task<> {
        const counted local(alive);
        (co_await sleep_for(duration)).value();
    };
    auto body = [&](nursery& children) -> task<> {
        children.spawn(child(1s));
        children.spawn(child(2s));
        (co_await sleep_for(1'500ms)).value();
        CHECK(alive == 1);
        CHECK(children.size() == 1);
    };

    run(on, with_nursery(body));
    CHECK(alive == 0);
}

TEST_CASE("a loop that ends cancels and joins nurseries", "[nursery]") {
    int ended = 0;
    auto child = [&]() -> task<> {
        static_cast<void>(co_await sleep_for(1h));
        ++ended;
    };
    {
        virtual_loop on;
        auto body = [&](nursery& children) -> task<> {
            children.spawn(child());
            children.spawn(child());
            co_return;
        };
        spawn(on, with_nursery(body));
        on.settle();
    }
    CHECK(ended == 2);
}

TEST_CASE("a nursery serves a hundred thousand tasks one after the other, in constant memory", "[nursery]") {
    virtual_loop on;
    std::size_t deepest = 0;
    std::size_t allocated = 0;
    const void* const base = __builtin_frame_address(0);
    auto child = [&]() -> task<> {
        deepest = std::max(deepest, probes::stack_depth(base));
        co_return;
    };
    auto work = [&]() -> task<> {
        nursery children(co_await current_context());
        for (int round = 0; round < 100'000; ++round) {
            if (round == 10) {
                allocated = probes::allocations();
            }
            children.spawn(child());
            co_await children.join();
        }
        allocated = probes::allocations() - allocated;
    };

    run(on, work());

    CHECK(deepest < 16 * 1024);
    CHECK(allocated == 0);
}

TEST_CASE("a nursery of many tasks is joined without depth", "[nursery]") {
    virtual_loop on;
    auto body = [&](nursery& children) -> task<> {
        for (int count = 0; count < 50'000; ++count) {
            children.spawn(count == 25'000 ? fail_after(1s, "one of many") : needed_nap(1h));
        }
        co_return;
    };

    CHECK(thrown_by(on, with_nursery(body)) == "one of many");
    CHECK(on.timers().empty());
}

TEST_CASE("a nursery is joined by one task at a time", "[nursery]") {
    virtual_loop on;
    bool refused = false;
    auto work = [&]() -> task<> {
        nursery children(co_await current_context());
        children.spawn(needed_nap(1s));
        auto joins = [&]() -> task<> {
            try {
                co_await children.join();
            } catch (const std::logic_error&) {
                refused = true;
            }
        };
        job<> second(co_await current_context(), joins());
        co_await children.join();
        co_await second.join();
        children.spawn(needed_nap(1s));
        co_await children.join();
    };
    run(on, work());
    CHECK(refused);
}

TEST_CASE("nor by a second one when the last task has just ended", "[nursery]") {
    loop on;
    nursery children({&on, &on.root_scope()});
    children.spawn([]() -> task<> {
        co_await next_turn();
        throw std::runtime_error("for the first");
    });
    auto joins = [&]() -> task<> { co_await children.join(); };
    auto comes_late = [&]() -> task<> {
        co_await next_turn();  // behind the task, in the turn in which it ends
        CHECK_THROWS_AS(co_await children.join(), std::logic_error);
    };
    job<> first(on, joins());
    job<> second(on, comes_late());
    while (!first.done() || !second.done()) {
        on.run_once();
    }
    second.take();
    CHECK_THROWS_AS(first.take(), std::runtime_error);
}

TEST_CASE("a nursery keeps a spawned callable until its task has ended", "[nursery]") {
    virtual_loop on;
    std::string seen;
    auto body = [&](nursery& children) -> task<> {
        const std::string text(100, 'x');
        children.spawn([text, &seen]() -> task<> {
            (co_await sleep_for(1s)).value();
            seen += text;
        });
        children.spawn([text, &seen]() -> task<result<void>> {
            auto slept = co_await sleep_for(2s);
            seen += text;
            co_return slept;
        });
        co_return;
    };
    run(on, with_nursery(body));
    CHECK(seen == std::string(200, 'x'));
}

TEST_CASE("a nursery that an exception leaves ends the process, and the exception is told", "[nursery]") {
    const auto said = dying([] {
        virtual_loop on;
        auto leaves = [&]() -> task<> {
            nursery children(co_await current_context());
            children.spawn(needed_nap(1h));
            co_await next_turn();
            throw std::runtime_error("the first error");
        };
        run(on, leaves());
    });
    CHECK(said.signal == SIGABRT);
    CHECK(contains(said.text, "a nursery was destroyed with tasks in it, as an exception passed"));
    CHECK(contains(said.text, "awaits sleep"));
    CHECK(contains(said.text, "the exception that passed: the first error"));
}

TEST_CASE("with_nursery cannot be left before its tasks have ended", "[nursery]") {
    virtual_loop on;
    bool ended = false;
    auto body = [&](nursery& children) -> task<> {
        children.spawn([&]() -> task<> {
            static_cast<void>(co_await sleep_for(1h));
            ended = true;
        });
        co_await next_turn();
        throw std::runtime_error("the first error");
    };
    CHECK(thrown_by(on, with_nursery(body)) == "the first error");
    CHECK(ended);
    CHECK(on.elapsed() == 0s);
}
