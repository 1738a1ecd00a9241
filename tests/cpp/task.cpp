#include <zloop/task.hpp>

#include <memory>
#include <string>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"

using namespace zloop;
using zloop::testing::virtual_loop;

namespace {

task<int> number(int value) { co_return value; }

task<int> number_later(int value) {
    co_await next_turn();
    co_return value;
}

}  // namespace

TEST_CASE("a task does not run before it is awaited", "[task]") {
    virtual_loop on;
    bool began = false;
    auto lazy = [&]() -> task<> {
        began = true;
        co_return;
    };
    {
        const task<> never = lazy();
        CHECK(!began);
    }
    CHECK(!began);

    run(on, lazy());
    CHECK(began);
}

TEST_CASE("a task gives a value", "[task]") {
    virtual_loop on;
    auto work = []() -> task<int> { co_return co_await number(2) + co_await number_later(40); };

    CHECK(run(on, work()) == 42);
}

TEST_CASE("a task gives a reference", "[task]") {
    virtual_loop on;
    int referred = 1;
    auto inner = [&]() -> task<int&> {
        co_await next_turn();
        co_return referred;
    };
    auto work = [&]() -> task<int*> {
        int& got = co_await inner();
        got = 5;
        co_return &got;
    };

    CHECK(run(on, work()) == &referred);
    CHECK(referred == 5);
    CHECK(&run(on, inner()) == &referred);
}

TEST_CASE("a task gives what only moves, and what has no default", "[task]") {
    struct tough {
        explicit tough(int number) : value(std::make_unique<int>(number)) {}
        std::unique_ptr<int> value;
    };
    virtual_loop on;
    auto pointer = []() -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(3); };
    auto made = []() -> task<tough> {
        co_await next_turn();
        co_return tough(4);
    };
    auto work = [&]() -> task<int> {
        const auto first = co_await pointer();
        const tough second = co_await made();
        co_return *first + *second.value;
    };

    CHECK(run(on, work()) == 7);
}

TEST_CASE("co_return {} gives the default", "[task]") {
    virtual_loop on;
    auto work = []() -> task<std::string> { co_return {}; };

    CHECK(run(on, work()).empty());
}

TEST_CASE("an exception travels to who awaits", "[task]") {
    const bool suspends = GENERATE(false, true);
    virtual_loop on;
    auto fails = [&]() -> task<int> {
        if (suspends) {
            co_await next_turn();
        }
        throw std::runtime_error("told");
    };
    auto between = [&]() -> task<int> { co_return co_await fails() + 1; };
    auto work = [&]() -> task<std::string> {
        try {
            co_await between();
        } catch (const std::runtime_error& error) {
            co_return error.what();
        }
        co_return "nothing thrown";
    };

    CHECK(run(on, work()) == "told");
    CHECK_THROWS_AS(run(on, between()), std::runtime_error);
}

TEST_CASE("exceptions leave tasks of references and of void, too", "[task]") {
    virtual_loop on;
    auto reference = []() -> task<int&> {
        co_await next_turn();
        throw 1;
    };
    auto nothing = []() -> task<> {
        co_await next_turn();
        throw 2;
    };

    CHECK_THROWS_AS(run(on, reference()), int);
    CHECK_THROWS_AS(run(on, nothing()), int);
}

TEST_CASE("an exception of a copied result does not leave the task half done", "[task]") {
    struct explosive {
        explosive() = default;
        explosive(explosive&&) { throw std::runtime_error("moved"); }
    };
    virtual_loop on;
    auto work = []() -> task<explosive> { co_return explosive(); };

    CHECK_THROWS_AS(run(on, work()), std::runtime_error);
}

TEST_CASE("locals are destroyed before the awaiting task goes on", "[task]") {
    virtual_loop on;
    std::vector<std::string> seen;
    struct noisy {
        std::vector<std::string>& log;
        ~noisy() { log.push_back("destroyed"); }
    };
    auto inner = [&]() -> task<> {
        const noisy local{seen};
        co_await next_turn();
    };
    auto work = [&]() -> task<> {
        co_await inner();
        seen.push_back("went on");
    };

    run(on, work());
    CHECK(seen == std::vector<std::string>{"destroyed", "went on"});
}

TEST_CASE("an awaited task's arguments are gone when the awaiting task goes on", "[task]") {
    virtual_loop on;
    const auto argument = std::make_shared<int>();
    auto inner = [](std::shared_ptr<int>, bool suspends, bool fails) -> task<> {
        if (suspends) {
            co_await next_turn();
        }
        if (fails) {
            throw std::runtime_error("lost");
        }
    };
    const bool suspends = GENERATE(false, true);
    const bool fails = GENERATE(false, true);
    long while_it_is_made = 0;
    long after = 0;
    bool failed = false;
    auto work = [&]() -> task<> {
        task<> child = inner(argument, suspends, fails);
        while_it_is_made = argument.use_count();
        try {
            co_await std::move(child);
        } catch (const std::runtime_error&) {
            failed = true;
        }
        after = argument.use_count();
    };

    run(on, work());

    CHECK(while_it_is_made == 2);
    CHECK(after == 1);
    CHECK(failed == fails);
}

TEST_CASE("a moved task runs once", "[task]") {
    virtual_loop on;
    int runs = 0;
    auto counted = [&]() -> task<> {
        ++runs;
        co_return;
    };
    task<> first = counted();
    task<> second = std::move(first);
    task<> third;
    third = std::move(second);

    run(on, std::move(third));

    CHECK(runs == 1);
    CHECK(!first.frame());
}

TEST_CASE("a million awaits that complete at once do not grow the stack", "[task]") {
    virtual_loop on;
    std::size_t deepest = 0;
    const void* const base = __builtin_frame_address(0);
    auto child = [&](int value) -> task<int> {
        deepest = std::max(deepest, probes::stack_depth(base));
        co_return value;
    };
    auto work = [&]() -> task<long> {
        long sum = 0;
        for (int count = 0; count < 1'000'000; ++count) {
            sum += co_await child(1);
        }
        co_return sum;
    };

    CHECK(run(on, work()) == 1'000'000);
    CHECK(deepest < 16 * 1024);
}

TEST_CASE("awaits that suspend now and then do not grow the stack either", "[task]") {
    virtual_loop on;
    std::size_t deepest = 0;
    const void* const base = __builtin_frame_address(0);
    auto child = [&](int value) -> task<int> {
        deepest = std::max(deepest, probes::stack_depth(base));
        if (value % 3 == 0) {
            co_await next_turn();
        }
        co_return 1;
    };
    auto middle = [&](int value) -> task<int> {
        co_return co_await child(value) + co_await child(value + 1) - 1;
    };
    auto work = [&]() -> task<long> {
        long sum = 0;
        for (int count = 0; count < 100'000; ++count) {
            sum += co_await middle(count);
        }
        co_return sum;
    };

    CHECK(run(on, work()) == 100'000);
    CHECK(deepest < 16 * 1024);
}

TEST_CASE("an await allocates nothing once the pool is warm", "[task]") {
    if (!probes::counts_allocations) {
        return;
    }
    virtual_loop on;
    auto child = [](int value) -> task<int> {
        co_await next_turn();
        co_return value;
    };
    auto work = [&]() -> task<std::size_t> {
        co_await child(1);
        const std::size_t before = probes::allocations();
        for (int count = 0; count < 1'000; ++count) {
            co_await child(count);
            co_await number(count);
        }
        co_return probes::allocations() - before;
    };

    CHECK(run(on, work()) == 0);
}

TEST_CASE("the context comes down from the awaiting task", "[task]") {
    virtual_loop on;
    auto inner = []() -> task<context> { co_return co_await current_context(); };
    auto work = [&]() -> task<bool> {
        const context here = co_await current_context();
        const context below = co_await inner();
        co_return here.on == &on&& below.on == &on&& here.within == below.within&& here.within != nullptr;
    };

    CHECK(run(on, work()));
}

TEST_CASE("next_turn goes on behind what is queued", "[task]") {
    virtual_loop on;
    std::vector<std::string> seen;
    auto work = [&](std::string name) -> task<> {
        for (const char* step : {"1", "2"}) {
            seen.push_back(name + step);
            co_await next_turn();
        }
    };
    job<> first(on, work("a")), second(on, work("b"));

    on.join(first);
    on.join(second);

    CHECK(seen == std::vector<std::string>{"a1", "b1", "a2", "b2"});
}

TEST_CASE("tasks nest deeply", "[task]") {
    virtual_loop on;
    struct tower {
        static task<int> climb(int height) {
            if (height == 0) {
                co_await next_turn();
                co_return 0;
            }
            co_return co_await climb(height - 1) + 1;
        }
    };

    CHECK(run(on, tower::climb(1'000)) == 1'000);
}

TEST_CASE("an empty task is refused, awaited or started", "[task]") {
    virtual_loop on;
    auto number = []() -> task<int> { co_return 1; };
    auto nothing = []() -> task<> { co_return; };
    auto twice = [&]() -> task<int> {
        auto one = number();
        int sum = co_await std::move(one);
        sum += co_await std::move(one);
        co_return sum;
    };
    auto moved = [&]() -> task<> {
        auto one = nothing();
        const auto other = std::move(one);
        co_await std::move(one);
    };
    CHECK_THROWS_AS(run(on, twice()), std::logic_error);
    CHECK_THROWS_AS(run(on, moved()), std::logic_error);
    CHECK_THROWS_AS(run(on, task<int>()), std::logic_error);
    CHECK_THROWS_AS(spawn(on, task<>()), std::logic_error);
    CHECK_THROWS_AS(run(on, with_timeout(std::chrono::seconds(1), task<int>())), std::logic_error);
    CHECK_THROWS_AS(run(on, shield(task<>())), std::logic_error);
    CHECK_THROWS_AS(run(on, when_all(number(), task<int>())), std::logic_error);
    CHECK_THROWS_AS(run(on, when_any(number(), task<int>())), std::logic_error);
    CHECK_THROWS_AS(task<int>().take(), std::logic_error);
    CHECK(on.timers().empty());
    CHECK(on.stats().live == 0);
    CHECK(!on.has_ready());
}

TEST_CASE("co_invoke keeps a closure and its arguments until its task has ended", "[task]") {
    virtual_loop on;
    const std::string text(100, 'x');
    auto begun = [&] {
        return co_invoke(
            [text](std::string more) -> task<std::string> {
                co_await next_turn();
                co_return text + more;
            },
            std::string(50, 'y'));
    };
    CHECK(run(on, begun()) == text + std::string(50, 'y'));
}

TEST_CASE("a task of a derived result is one of its base", "[task]") {
    struct detailed : result<void> {
        int more = 3;
    };
    virtual_loop on;
    auto work = []() -> task<detailed> { co_return detailed{}; };
    task<result<void>> plain = work();
    CHECK(run(on, std::move(plain)));
}

namespace {

template <class T>
task<T> generic(T number) {
    value_of(co_await sleep_for(std::chrono::seconds(1)));
    auto also = [](auto more) -> task<decltype(more)> {
        const auto slept = co_await sleep_for(std::chrono::seconds(1));
        slept.value();
        co_return more;
    };
    co_return number + co_await also(number);
}

}  // namespace

TEST_CASE("operations are awaited in templates and generic lambdas", "[task]") {
    virtual_loop on;
    CHECK(run(on, generic(2)) == 4);
    CHECK(on.elapsed() == std::chrono::seconds(2));
}
