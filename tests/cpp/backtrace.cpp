#include <zloop/backtrace.hpp>

#include <string>

#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/nursery.hpp>
#include <zloop/sleep.hpp>
#include <zloop/sync.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using zloop::testing::virtual_loop;

namespace {

unsigned inner_line, outer_line;

task<> inner() {
    inner_line = __LINE__ + 1;
    static_cast<void>(co_await sleep_for(1h));
}

task<> outer() {
    outer_line = __LINE__ + 1;
    co_await inner();
}

template <class T>
struct owner {
    task<> member(T) { co_await next_turn(); }
};

/// "what, what": a line a task.
std::string awaited(const loop& on) {
    std::string text;
    for (const task_trace& stack : backtrace(on)) {
        for (const frame_trace& frame : stack) {
            text += &frame == &stack.front() ? "" : ", ";
            text += frame.what;
        }
        text += '\n';
    }
    return text;
}

std::string printed(const loop& on) {
    char* text = nullptr;
    std::size_t size = 0;
    std::FILE* const out = ::open_memstream(&text, &size);
    print_backtrace(on, out);
    std::fclose(out);
    const std::string copy(text, size);
    std::free(text);
    return copy;
}

}  // namespace

TEST_CASE("a backtrace names the function and the line of each await", "[backtrace]") {
    virtual_loop on;
    auto working = on.start(outer());
    on.settle();

    const auto tasks = backtrace(on);

    REQUIRE(tasks.size() == 1);
    REQUIRE(tasks[0].size() == 2);
    CHECK(tasks[0][0].what == std::string("task"));
    CHECK(tasks[0][0].where.line() == outer_line);
    CHECK(tasks[0][0].function().find("outer") != std::string::npos);
    CHECK(tasks[0][1].what == std::string("sleep"));
    CHECK(tasks[0][1].where.line() == inner_line);
    CHECK(tasks[0][1].function().find("inner") != std::string::npos);
    CHECK(tasks[0][1].where.file_name() == std::string(__FILE__));
    working.cancel();
    on.join(working);
}

TEST_CASE("a backtrace names members, templates, and lambdas as their compiler does", "[backtrace]") {
    virtual_loop on;
    owner<int> one;
    auto lambda = []() -> task<> { co_await next_turn(); };
    auto member = on.start(one.member(1));
    auto called = on.start(lambda());
    on.run_once();

    const auto tasks = backtrace(on);

    REQUIRE(tasks.size() == 2);
    CHECK(tasks[0].at(0).function().find("member") != std::string::npos);
    CHECK(tasks[0].at(0).function().find("Frame") == std::string::npos);
    CHECK(!tasks[1].at(0).function().empty());
    CHECK(tasks[1].at(0).function().find("Frame") == std::string::npos);
    on.join(member);
    on.join(called);
}

TEST_CASE("each task is in the backtrace from its start to its end, the oldest first", "[backtrace]") {
    virtual_loop on;
    CHECK(backtrace(on).empty());
    auto sleeps = [](nanoseconds duration) -> task<> { static_cast<void>(co_await sleep_for(duration)); };
    auto first = on.start(sleeps(2s));
    auto second = on.start(inner());
    CHECK(on.stats().live == 2);
    CHECK(awaited(on) == "\n\n");  // they have not begun

    on.settle();
    CHECK(awaited(on) == "sleep\nsleep\n");
    CHECK(backtrace(on)[1][0].where.line() == inner_line);

    on.advance(2s);
    CHECK(on.stats().live == 1);
    CHECK(backtrace(on).size() == 1);
    second.cancel();
    on.join(second);
    on.join(first);
    CHECK(on.stats().live == 0);
}

TEST_CASE("a backtrace tells what is awaited, whatever it is", "[backtrace]") {
    virtual_loop on;
    event happened;
    semaphore permits(0);
    mutex alone;
    condition changed;
    channel<int> line;
    auto held = alone.try_lock();
    auto waits_for_event = [&]() -> task<> { static_cast<void>(co_await happened.wait()); };
    auto acquires = [&]() -> task<> { static_cast<void>(co_await permits.acquire()); };
    auto sends = [&]() -> task<> { static_cast<void>(co_await line.send(1)); };
    auto waits = [&]() -> task<> { static_cast<void>(co_await changed.wait(held)); };
    auto all = [&]() -> task<> { co_await when_all(inner(), inner()); };
    auto body = [&](nursery& children) -> task<> {
        children.spawn(inner());
        co_return;
    };
    const struct {
        task<> work;
        const char* expected;
    } cases[] = {
        {waits_for_event(), "event\n"},
        {acquires(), "semaphore\n"},
        {sends(), "a channel's receiver\n"},
        {waits(), "task, condition\n"},
        {all(), "task, task, several tasks\nsleep\nsleep\n"},
        {with_nursery(body), "nursery\nsleep\n"},
    };
    for (auto& each : cases) {
        auto working = on.start(std::move(const_cast<task<>&>(each.work)));
        on.settle();

        CHECK(awaited(on) == each.expected);

        working.cancel();
        on.join(working);
    }
}

TEST_CASE("a job that is joined is a stack of its own, also where two wait for each other", "[backtrace]") {
    virtual_loop on;
    job<>* other = nullptr;
    auto joins = [&]() -> task<> {
        co_await next_turn();
        co_await other->join();
    };
    auto first = on.start(joins());
    auto work = [&]() -> task<> {
        co_await next_turn();
        static_cast<void>(co_await sleep_for(1s));
        co_await next_turn();
    };
    auto second = on.start(work());
    other = &second;
    on.settle();

    CHECK(awaited(on) == "job\nsleep\n");

    on.join(first);
    on.settle();
}

TEST_CASE("a task can take a backtrace of itself: what it awaited last, and nothing of what has ended",
          "[backtrace]") {
    virtual_loop on;
    std::string seen;
    auto child = []() -> task<int> {
        co_await next_turn();
        co_return 1;
    };
    auto fails = []() -> task<int> {
        co_await next_turn();
        throw 1;
    };
    auto work = [&]() -> task<> {
        seen += awaited(on);
        co_await child();
        seen += awaited(on);
        try {
            co_await fails();
        } catch (int) {
            seen += awaited(on);
        }
        static_cast<void>(co_await with_timeout(1s, child()));
        seen += awaited(on);
        job<int> beside(co_await current_context(), child());
        co_await beside.join();
        seen += awaited(on);
    };

    run(on, work());

    CHECK(seen == "\ntask\ntask\ntask\njob\n");
}

TEST_CASE("a printed backtrace has a line for each task and two for each coroutine", "[backtrace]") {
    virtual_loop on;
    CHECK(printed(on).empty());
    auto working = on.start(outer());
    CHECK(printed(on) == "task 1, which has awaited nothing yet\n");
    on.settle();

    const std::string text = printed(on);

    CHECK(text.find("task 1\n") == 0);
    const std::string place =
        "at " + std::string(__FILE__) + ":" + std::to_string(inner_line) + ", awaits sleep\n";
    CHECK(text.find(place) != std::string::npos);
    CHECK(std::count(text.begin(), text.end(), '\n') == 5);
    working.cancel();
    on.join(working);
}
