#include <zloop/when.hpp>

#include <memory>
#include <stdexcept>
#include <string>

#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using support::nap;
using support::thrown_by;
using zloop::testing::virtual_loop;

namespace {

struct tough {
    explicit tough(int number) : value(std::make_unique<int>(number)) {}
    std::unique_ptr<int> value;
};

task<> quiet_nap(nanoseconds duration) { static_cast<void>(co_await sleep_for(duration)); }

task<int> number_after(nanoseconds duration, int number) {
    (co_await sleep_for(duration)).value();
    co_return number;
}

task<int> failure_after(nanoseconds duration, const char* what) {
    static_cast<void>(co_await shield(nap(duration)));
    throw std::runtime_error(what);
}

task<tough> tough_after(nanoseconds duration, int number) {
    (co_await sleep_for(duration)).value();
    co_return tough(number);
}

template <class... Ts>
std::vector<task<int>> list_of(Ts... tasks) {
    std::vector<task<int>> list;
    (list.push_back(std::move(tasks)), ...);
    return list;
}

}  // namespace

TEST_CASE("when_all gives all results in order, and takes as long as the longest", "[when_all]") {
    virtual_loop on;
    int referred = 1;
    auto reference = [&]() -> task<int&> { co_return referred; };

    auto [number, nothing, pointer, only_moves, outcome] =
        run(on, when_all(number_after(3s, 3), quiet_nap(1s), reference(), tough_after(2s, 4), nap(1s)));

    CHECK(number == 3);
    CHECK(nothing == std::monostate());
    CHECK(pointer == &referred);
    CHECK(*only_moves.value == 4);
    CHECK(outcome);
    CHECK(on.elapsed() == 3s);
    CHECK(on.stats().live == 0);
}

TEST_CASE("when_all of a list gives a list", "[when_all]") {
    virtual_loop on;
    int referred[2] = {};
    auto reference = [&](int index) -> task<int&> {
        co_await next_turn();
        co_return referred[index];
    };
    std::vector<task<tough>> moving;
    moving.push_back(tough_after(2s, 1));
    moving.push_back(tough_after(1s, 2));
    std::vector<task<int&>> references;
    references.push_back(reference(0));
    references.push_back(reference(1));
    std::vector<task<>> nothing;
    nothing.push_back(quiet_nap(2s));
    nothing.push_back(quiet_nap(1s));

    CHECK(run(on, when_all(list_of(number_after(2s, 1), number_after(1s, 2)))) == std::vector{1, 2});
    CHECK(on.elapsed() == 2s);
    const auto moved = run(on, when_all(std::move(moving)));
    CHECK(*moved[0].value == 1);
    CHECK(*moved[1].value == 2);
    CHECK(run(on, when_all(std::move(references))) == std::vector{&referred[0], &referred[1]});
    run(on, when_all(std::move(nothing)));
    CHECK(on.elapsed() == 6s);
}

TEST_CASE("when_all of nothing is done at once", "[when_all]") {
    virtual_loop on;

    CHECK(run(on, when_all()) == std::tuple<>());
    CHECK(run(on, when_all(std::vector<task<int>>())).empty());
    run(on, when_all(std::vector<task<>>()));
}

TEST_CASE("when_all of one is that one", "[when_all]") {
    virtual_loop on;

    CHECK(run(on, when_all(number_after(1s, 5))) == std::tuple(5));
}

TEST_CASE("tasks that end at once do not suspend who waits for all", "[when_all]") {
    virtual_loop on;
    auto number = [](int value) -> task<int> { co_return value; };
    auto work = [&]() -> task<bool> {
        const auto before = (co_await current_context()).on->stats().ops;
        const auto both = co_await when_all(number(1), number(2));
        co_return both == std::tuple(1, 2) && (co_await current_context()).on->stats().ops == before;
    };

    CHECK(run(on, work()));
}

TEST_CASE("the tasks are started in order", "[when_all]") {
    virtual_loop on;
    std::string seen;
    auto says = [&](char letter) -> task<> {
        seen += letter;
        co_await next_turn();
        seen += letter;
    };

    run(on, when_all(says('a'), says('b'), says('c')));

    CHECK(seen == "abcabc");
}

TEST_CASE("the first failure cancels the others, which are joined", "[when_all]") {
    virtual_loop on;
    result<void> other;
    auto goes_on = [&]() -> task<int> {
        other = co_await nap(1h);
        static_cast<void>(co_await shield(nap(1s)));  // takes its time
        co_return 1;
    };

    CHECK(thrown_by(on, when_all(goes_on(), failure_after(1s, "told"))) == "told");
    CHECK(other.error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 2s);

    CHECK(thrown_by(on, when_all(list_of(failure_after(1s, "told"), goes_on()))) == "told");
    CHECK(on.elapsed() == 4s);
    std::vector<task<>> nothing;
    auto fails = []() -> task<> {
        throw std::runtime_error("told");
        co_return;
    };
    nothing.push_back(quiet_nap(1h));
    nothing.push_back(fails());
    CHECK(thrown_by(on, when_all(std::move(nothing))) == "told");
    CHECK(on.elapsed() == 4s);
    CHECK(on.stats().live == 0);
    CHECK(on.timers().empty());
}

TEST_CASE("a failure at once lets the next tasks begin in a cancelled scope", "[when_all]") {
    virtual_loop on;
    std::error_code second;
    auto fails = []() -> task<> {
        throw std::runtime_error("told");
        co_return;
    };
    auto notes = [&]() -> task<> { second = (co_await sleep_for(1h)).error(); };

    CHECK(thrown_by(on, when_all(fails(), notes())) == "told");

    CHECK(second == std::errc::operation_canceled);
}

TEST_CASE("second failures reach the loop's hook, and cancellations do not", "[when_all][when_any]") {
    virtual_loop on;
    const auto& reported = support::keep_failures(on);

    CHECK(thrown_by(on,
                    when_all(failure_after(2s, "second"), failure_after(1s, "first"), number_after(1h, 1))) ==
          "first");  // the third one throws that it is cancelled
    CHECK(reported == std::vector<std::string>{"second"});

    CHECK(run(on, when_any(number_after(1s, 5), failure_after(2s, "loser"), number_after(1h, 1))).index() ==
          0);
    CHECK(reported == std::vector<std::string>{"second", "loser"});
}

TEST_CASE("an error in a result is a result like others", "[when_all]") {
    virtual_loop on;
    auto says = []() -> task<result<int>> { co_return errc::end_of_stream; };

    auto [first, second] = run(on, when_all(says(), nap(1s)));

    CHECK(first.error() == errc::end_of_stream);
    CHECK(second);
}

TEST_CASE("who waits for all and is cancelled passes it on", "[when_all]") {
    virtual_loop on;
    auto working = on.start(when_all(nap(1h), nap(2h)));
    on.settle();

    working.cancel();

    auto [first, second] = on.join(working);
    CHECK(first.error() == std::errc::operation_canceled);
    CHECK(second.error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a result whose move throws is thrown to who waits", "[when_all]") {
    struct explosive {
        explicit explosive(int left) : moves_left(left) {}
        explosive(explosive&& other) : moves_left(other.moves_left - 1) {
            if (moves_left < 0) {
                throw std::runtime_error("moved");
            }
        }
        int moves_left;
    };
    virtual_loop on;
    auto work = [](int moves) -> task<explosive> { co_return explosive(moves); };
    const int moves = GENERATE(0, 1, 2);

    const std::string thrown = thrown_by(on, when_all(work(moves), work(100)));

    CHECK((thrown == "moved" || moves > 1));
}

TEST_CASE("a hundred thousand tasks at once", "[when_all]") {
    virtual_loop on;
    constexpr int count = 100'000;
    std::vector<task<int>> list;
    for (int number = 0; number < count; ++number) {
        list.push_back(number_after(std::chrono::milliseconds(number * 7919 % 1'000), 1));
    }

    const auto all = run(on, when_all(std::move(list)));

    CHECK(all == std::vector<int>(count, 1));
    CHECK(on.elapsed() == 999ms);

    for (int number = 0; number < count; ++number) {
        list.push_back(number == count / 2 ? failure_after(1s, "one of many") : number_after(1h, 1));
    }
    CHECK(thrown_by(on, when_all(std::move(list))) == "one of many");
    CHECK(on.elapsed() == 1'999ms);
    CHECK(on.timers().empty());
}

TEST_CASE("when_all in when_all in when_all", "[when_all]") {
    virtual_loop on;
    struct tree {
        static task<int> sum(int height) {
            if (height == 0) {
                co_return co_await number_after(1s, 1);
            }
            const auto [left, right] = co_await when_all(sum(height - 1), sum(height - 1));
            co_return left + right;
        }
    };

    CHECK(run(on, tree::sum(10)) == 1'024);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("when_any gives the first result; the others are cancelled and joined", "[when_any]") {
    virtual_loop on;
    result<void> loser;
    auto loses = [&]() -> task<std::string> {
        loser = co_await nap(1h);
        static_cast<void>(co_await shield(nap(1s)));  // takes its time
        co_return "too late";
    };

    const auto first = run(on, when_any(loses(), number_after(1s, 5), tough_after(2s, 6)));

    CHECK(std::get<1>(first) == 5);
    CHECK(loser.error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 2s);
    CHECK(on.timers().empty());
    CHECK(on.stats().live == 0);
}

TEST_CASE("when_any gives values, references, what only moves, and nothing", "[when_any]") {
    virtual_loop on;
    int referred = 1;
    auto reference = [&](nanoseconds duration) -> task<int&> {
        (co_await sleep_for(duration)).value();
        co_return referred;
    };

    CHECK(std::get<0>(run(on, when_any(reference(1s), quiet_nap(2s)))) == &referred);
    CHECK(run(on, when_any(reference(2s), quiet_nap(1s))).index() == 1);
    CHECK(*std::get<1>(run(on, when_any(quiet_nap(2s), tough_after(1s, 4)))).value == 4);
    CHECK(std::get<0>(run(on, when_any(nap(1s)))));

    std::vector<task<tough>> moving;
    moving.push_back(tough_after(2s, 1));
    moving.push_back(tough_after(1s, 2));
    const auto moved = run(on, when_any(std::move(moving)));
    CHECK(moved.index == 1);
    CHECK(*moved.value.value == 2);

    std::vector<task<int&>> references;
    references.push_back(reference(1s));
    references.push_back(reference(2s));
    CHECK(run(on, when_any(std::move(references))).value == &referred);

    std::vector<task<>> nothing;
    nothing.push_back(quiet_nap(2s));
    nothing.push_back(quiet_nap(1s));
    CHECK(run(on, when_any(std::move(nothing))).index == 1);
}

TEST_CASE("where one ends at once, those behind it never begin", "[when_any]") {
    virtual_loop on;
    auto at_once = [](int number) -> task<int> { co_return number; };
    auto work = [&]() -> task<bool> {
        bool began = false;
        auto notes = [&]() -> task<> {
            began = true;
            co_return;
        };
        auto noting = notes();
        const auto first = co_await when_any(at_once(3), std::move(noting));
        CHECK(std::get<0>(first) == 3);
        co_return began;
    };

    CHECK(!run(on, work()));
    CHECK(run(on, when_any(list_of(at_once(1), at_once(2)))).index == 0);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("when_any throws what the first one threw", "[when_any]") {
    virtual_loop on;
    auto fails = []() -> task<> {
        co_await next_turn();
        throw std::runtime_error("void");
    };
    std::vector<task<>> nothing;
    nothing.push_back(quiet_nap(1s));
    nothing.push_back(fails());

    CHECK(thrown_by(on, when_any(number_after(2s, 1), failure_after(1s, "told"))) == "told");
    CHECK(thrown_by(on, when_any(list_of(number_after(2s, 1), failure_after(1s, "told")))) == "told");
    CHECK(thrown_by(on, when_any(std::move(nothing))) == "void");
}

TEST_CASE("the first of an empty list is an invalid argument", "[when_any]") {
    virtual_loop on;

    CHECK_THROWS_AS(run(on, when_any(std::vector<task<int>>())), std::invalid_argument);
    CHECK_THROWS_AS(run(on, when_any(std::vector<task<>>())), std::invalid_argument);
}

TEST_CASE("who waits for the first and is cancelled passes it on", "[when_any]") {
    virtual_loop on;
    auto working = on.start(when_any(nap(1h), nap(2h)));
    on.settle();

    working.cancel();

    const auto first = on.join(working);
    CHECK(std::visit([](const auto& outcome) { return outcome.error(); }, first) ==
          std::errc::operation_canceled);
}

TEST_CASE("a channel that loses keeps its values", "[when_any]") {
    virtual_loop on;
    channel<int> line;
    auto receives = [&]() -> task<int> { co_return (co_await line.receive()).value(); };
    CHECK(run(on, when_any(receives(), number_after(1s, 5))).index() == 1);

    auto sends = [&]() -> task<> { (co_await line.send(6)).value(); };
    auto sending = on.start(sends());
    on.settle();
    CHECK(line.try_receive() == 6);
    on.join(sending);
}

TEST_CASE("a loop that ends cancels and joins what when_all and when_any wait for", "[when_all][when_any]") {
    int ended = 0;
    auto naps = [&]() -> task<> {
        static_cast<void>(co_await sleep_for(1h));
        ++ended;
    };
    {
        virtual_loop on;
        auto all = [&]() -> task<> { co_await when_all(naps(), naps()); };
        auto any = [&]() -> task<> { co_await when_any(naps(), naps()); };
        spawn(on, all());
        spawn(on, any());
        on.settle();
    }
    CHECK(ended == 4);
}

TEST_CASE("when_all and when_any of several tasks allocate nothing once the pool is warm",
          "[when_all][when_any]") {
    if (!probes::counts_allocations) {
        return;
    }
    virtual_loop on;
    auto work = []() -> task<std::size_t> {
        std::size_t before = 0;
        for (int round = 0; round < 100; ++round) {
            if (round == 10) {
                before = probes::allocations();
            }
            co_await when_all(number_after(1ms, 1), quiet_nap(1ms));
            co_await when_any(number_after(1ms, 1), quiet_nap(1h));
        }
        co_return probes::allocations() - before;
    };

    CHECK(run(on, work()) == 0);
}
