#include <zloop/channel.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/nursery.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using zloop::testing::virtual_loop;

namespace {

template <class T>
task<result<void>> send(channel<T>& to, T value) {
    co_return co_await to.send(std::move(value));
}

template <class T>
task<result<T>> receive(channel<T>& from) {
    co_return co_await from.receive();
}

/// Receives `count` values into `seen`.
task<> collect(channel<int>& from, int count, std::vector<int>& seen) {
    while (count-- > 0) {
        seen.push_back((co_await from.receive()).value());
    }
}

}  // namespace

TEST_CASE("values come out in the order in which they went in", "[channel]") {
    const std::size_t capacity = GENERATE(0U, 1U, 3U, 100U);
    virtual_loop on;
    channel<int> line(capacity);
    std::vector<int> seen;
    auto send_some = [&]() -> task<> {
        for (int number = 0; number < 20; ++number) {
            (co_await line.send(number)).value();
        }
    };
    auto sending = on.start(send_some());
    auto receiving = on.start(collect(line, 20, seen));

    on.join(sending);
    on.join(receiving);

    REQUIRE(seen.size() == 20);
    for (int number = 0; number < 20; ++number) {
        CHECK(seen[static_cast<std::size_t>(number)] == number);
    }
    CHECK(line.size() == 0);
}

TEST_CASE("without a buffer a sender waits for its receiver", "[channel]") {
    virtual_loop on;
    channel<int> line;
    auto sending = on.start(send(line, 5));
    on.settle();
    CHECK(!sending.done());

    auto receiving = on.start(receive(line));

    CHECK(on.join(receiving).value() == 5);
    CHECK(on.join(sending));
}

TEST_CASE("a buffer holds as many values as its capacity, and the next sender waits", "[channel]") {
    virtual_loop on;
    channel<int> line(2);
    CHECK(line.capacity() == 2);
    auto first = on.start(send(line, 1));
    auto second = on.start(send(line, 2));
    auto third = on.start(send(line, 3));
    on.settle();
    CHECK(first.done());
    CHECK(second.done());
    CHECK(!third.done());
    CHECK(line.size() == 2);

    CHECK(line.try_receive() == 1);
    CHECK(line.size() == 2);  // the third's value has the place

    CHECK(on.join(third));
    CHECK(line.try_receive() == 2);
    CHECK(line.try_receive() == 3);
    CHECK(line.try_receive() == std::nullopt);
}

TEST_CASE("try_send and try_receive do not wait", "[channel]") {
    virtual_loop on;
    channel<std::unique_ptr<int>> line(1);
    CHECK(line.try_receive() == std::nullopt);
    auto first = std::make_unique<int>(1);
    auto second = std::make_unique<int>(2);

    CHECK(line.try_send(std::move(first)));
    CHECK(!line.try_send(std::move(second)));

    CHECK(!first);
    CHECK(*second == 2);  // what was not sent stays where it is
    CHECK(*line.try_receive().value() == 1);
    CHECK(line.try_receive() == std::nullopt);
}

TEST_CASE("try_send copies what it must not move", "[channel]") {
    channel<std::string> line(1);
    const std::string text = "a text that is too long to be stored in place";

    CHECK(line.try_send(text));
    CHECK(!line.try_send(text));

    CHECK(line.try_receive() == text);
}

TEST_CASE("try_send hands a value to who waits, try_receive takes one from who waits", "[channel]") {
    virtual_loop on;
    channel<int> line;
    CHECK(!line.try_send(1));
    auto receiving = on.start(receive(line));
    on.settle();

    CHECK(line.try_send(2));
    CHECK(!line.try_send(3));  // there was one receiver
    CHECK(on.join(receiving).value() == 2);

    auto sending = on.start(send(line, 4));
    on.settle();
    CHECK(line.try_receive() == 4);
    CHECK(line.try_receive() == std::nullopt);
    CHECK(on.join(sending));
}

TEST_CASE("a channel carries what only moves, and what has no default", "[channel]") {
    struct tough {
        explicit tough(int number) : value(std::make_unique<int>(number)) {}
        std::unique_ptr<int> value;
    };
    const std::size_t capacity = GENERATE(0U, 2U);
    virtual_loop on;
    channel<tough> line(capacity);
    auto sending = on.start(send(line, tough(4)));
    auto receiving = on.start(receive(line));

    CHECK(on.join(sending));
    CHECK(*on.join(receiving).value().value == 4);
}

TEST_CASE("receivers are served in the order in which they came", "[channel]") {
    virtual_loop on;
    channel<int> line;
    auto first = on.start(receive(line));
    auto second = on.start(receive(line));
    on.settle();

    CHECK(line.try_send(1));
    CHECK(line.try_send(2));

    CHECK(on.join(first).value() == 1);
    CHECK(on.join(second).value() == 2);
}

TEST_CASE("nobody overtakes a receiver that was served and has not run yet", "[channel]") {
    virtual_loop on;
    channel<int> line(1);
    auto waiting = on.start(receive(line));
    on.settle();
    CHECK(line.try_send(1));

    CHECK(line.try_receive() == std::nullopt);

    CHECK(on.join(waiting).value() == 1);
}

TEST_CASE("close lets receivers have what is buffered, and then fails with closed", "[channel]") {
    virtual_loop on;
    channel<int> line(2);
    CHECK(line.try_send(1));
    CHECK(line.try_send(2));

    CHECK(!line.is_closed());
    line.close();
    line.close();
    CHECK(line.is_closed());

    CHECK(run(on, receive(line)).value() == 1);
    CHECK(run(on, receive(line)).value() == 2);
    CHECK(run(on, receive(line)).error() == errc::closed);
    CHECK(run(on, send(line, 3)).error() == errc::closed);
    CHECK(!line.try_send(4));
}

TEST_CASE("close lets go of all who wait", "[channel]") {
    virtual_loop on;
    channel<int> full(1), empty(1);
    CHECK(full.try_send(1));
    auto sending = on.start(send(full, 2));
    auto receiving = on.start(receive(empty));
    on.settle();

    full.close();
    empty.close();

    CHECK(on.join(sending).error() == errc::closed);
    CHECK(on.join(receiving).error() == errc::closed);
    CHECK(run(on, receive(full)).value() == 1);
    CHECK(run(on, receive(full)).error() == errc::closed);  // the second was never sent
}

TEST_CASE("a cancelled receiver leaves the channel as if it had not come", "[channel]") {
    virtual_loop on;
    {
        channel<int> line;
        auto first = on.start(receive(line));
        auto second = on.start(receive(line));
        auto third = on.start(receive(line));
        on.settle();

        const int leaving = GENERATE(0, 1, 2);
        job<result<int>>* const all[] = {&first, &second, &third};
        all[leaving]->cancel();
        CHECK(line.try_send(0));
        CHECK(line.try_send(1));
        CHECK(!line.try_send(2));

        int next = 0;
        for (int index = 0; index < 3; ++index) {
            const auto got = on.join(*all[index]);
            if (index == leaving) {
                CHECK(got.error() == std::errc::operation_canceled);
            } else {
                CHECK(*got == next++);
            }
        }
    }  // no waiter is left in it, which its end asserts
}

TEST_CASE("a cancelled sender has sent nothing", "[channel]") {
    virtual_loop on;
    channel<int> line;
    auto first = on.start(send(line, 1));
    auto second = on.start(send(line, 2));
    on.settle();

    first.cancel();

    CHECK(line.try_receive() == 2);
    CHECK(line.try_receive() == std::nullopt);
    CHECK(on.join(first).error() == std::errc::operation_canceled);
    CHECK(on.join(second));
}

TEST_CASE("a value that was handed to who is cancelled before it runs is in the channel again", "[channel]") {
    virtual_loop on;
    channel<int> line(GENERATE(0u, 2u));
    auto first = on.start(receive(line));
    auto second = on.start(receive(line));
    auto third = on.start(receive(line));
    on.settle();
    CHECK(line.try_send(1));
    CHECK(line.try_send(2));
    SECTION("for the next that waits") {
        first.cancel();
        CHECK(on.join(third).value() == 1);
        CHECK(on.join(second).value() == 2);
        CHECK(on.join(first).error() == std::errc::operation_canceled);
    }
    SECTION("in its place, behind a close as well") {
        third.cancel();
        second.cancel();
        first.cancel();
        CHECK(line.size() == 2);
        CHECK(line.try_send(3) == (line.capacity() != 0));
        line.close();
        CHECK(on.join(first).error() == std::errc::operation_canceled);
        CHECK(on.join(second).error() == std::errc::operation_canceled);
        CHECK(on.join(third).error() == std::errc::operation_canceled);
        CHECK(run(on, receive(line)).value() == 1);
        CHECK(line.try_receive() == 2);
        CHECK(line.try_receive() == (line.capacity() != 0 ? std::optional(3) : std::nullopt));
        CHECK(run(on, receive(line)).error() == errc::closed);
    }
}

TEST_CASE("the first of two channels gives its value, and the other keeps its own", "[channel][when_any]") {
    virtual_loop on;
    channel<int> one(GENERATE(0u, 1u)), other(1);
    SECTION("both were waited for") {
        auto either = on.start(when_any(receive(one), receive(other)));
        on.settle();
        CHECK(one.try_send(1));
        CHECK(other.try_send(2));
        const auto first = on.join(either);
        CHECK(std::get<0>(first).value() == 1);
    }
    SECTION("both were there") {
        auto sending = on.start(send(one, 1));
        CHECK(other.try_send(2));
        on.settle();
        const auto first = run(on, when_any(receive(one), receive(other)));
        CHECK(std::get<0>(first).value() == 1);
        CHECK(on.join(sending));
    }
    CHECK(other.try_receive() == 2);
}

TEST_CASE("who waits at a channel that is destroyed goes on as cancelled", "[channel]") {
    virtual_loop on;
    auto line = std::make_unique<channel<int>>();
    auto other = std::make_unique<channel<int>>();
    auto receiving = on.start(receive(*line));
    auto sending = on.start(send(*other, 1));
    on.settle();

    line.reset();
    other.reset();
    receiving.cancel();

    CHECK(on.join(receiving).error() == std::errc::operation_canceled);
    CHECK(on.join(sending).error() == std::errc::operation_canceled);
}

TEST_CASE("a value that was taken from a sender is sent, whatever is cancelled then", "[channel]") {
    virtual_loop on;
    channel<int> line;

    auto sending = on.start(send(line, 6));
    on.settle();
    CHECK(line.try_receive() == 6);
    sending.cancel();
    CHECK(on.join(sending));
}

TEST_CASE("who is cancelled before waits for no value and no place, but takes what is there", "[channel]") {
    virtual_loop on;
    channel<int> line(1);
    std::vector<std::error_code> outcomes;
    auto work = [&]() -> task<> {
        const context here = co_await current_context();
        here.within->cancel();
        outcomes.push_back((co_await line.send(1)).error());
        outcomes.push_back((co_await line.send(2)).error());
        outcomes.push_back((co_await line.receive()).error());
        outcomes.push_back((co_await line.receive()).error());
    };
    auto working = on.start(work());

    on.join(working);

    const std::error_code canceled = std::make_error_code(std::errc::operation_canceled);
    CHECK(outcomes == std::vector<std::error_code>{{}, canceled, {}, canceled});
}

TEST_CASE("a hundred thousand hand-offs to and fro need neither stack nor memory", "[channel]") {
    const std::size_t capacity = GENERATE(0U, 1U);
    virtual_loop on;
    channel<int> there(capacity), back(capacity);
    constexpr int rounds = 100'000;
    std::size_t deepest = 0;
    std::size_t allocated = 0;
    const void* const base = __builtin_frame_address(0);
    auto answers = [&]() -> task<> {
        for (int round = 0; round < rounds; ++round) {
            const int got = (co_await there.receive()).value();
            deepest = std::max(deepest, probes::stack_depth(base));
            (co_await back.send(got + 1)).value();
        }
    };
    auto asks = [&]() -> task<long> {
        long sum = 0;
        const std::size_t before = probes::allocations();
        for (int round = 0; round < rounds; ++round) {
            (co_await there.send(round)).value();
            sum += (co_await back.receive()).value() - round;
        }
        allocated = probes::allocations() - before;
        co_return sum;
    };
    auto answering = on.start(answers());
    auto asking = on.start(asks());

    CHECK(on.join(asking) == rounds);
    on.join(answering);

    CHECK(deepest < 16 * 1024);
    CHECK(allocated == 0);
}

TEST_CASE("a million values that nobody waits for do not grow the stack", "[channel]") {
    virtual_loop on;
    channel<int> line(1);
    auto work = [&]() -> task<long> {
        long sum = 0;
        for (int round = 0; round < 1'000'000; ++round) {
            (co_await line.send(1)).value();
            sum += (co_await line.receive()).value();
        }
        co_return sum;
    };

    CHECK(run(on, work()) == 1'000'000);
}

TEST_CASE("many senders and receivers lose nothing, with cancellations in between", "[channel]") {
    virtual_loop on;
    channel<int> line(3);
    std::vector<int> received(200);
    std::vector<bool> sent(200);
    auto sends = [&](int number) -> task<> {
        (co_await sleep_for(std::chrono::milliseconds(number * 37 % 50))).value();
        const auto outcome = co_await with_timeout(std::chrono::milliseconds(number % 7), send(line, number));
        sent[static_cast<std::size_t>(number)] = static_cast<bool>(outcome);
    };
    auto receives = [&](int number) -> task<> {
        while (!line.is_closed() || line.size() != 0) {
            const auto got = co_await with_timeout(std::chrono::milliseconds(1 + number % 3), receive(line));
            if (got) {
                ++received[static_cast<std::size_t>(*got)];
            }
            if (number % 2 == 0) {
                (co_await sleep_for(3ms)).value();
            }
        }
    };
    auto work = [&](nursery& all) -> task<> {
        for (int number = 0; number < 4; ++number) {
            all.spawn(receives(number));
        }
        auto senders = [&](nursery& some) -> task<> {
            for (int number = 0; number < 200; ++number) {
                some.spawn(sends(number));
            }
            co_return;
        };
        co_await with_nursery(senders);
        line.close();
    };

    run(on, with_nursery(work));

    int count = 0;
    for (std::size_t number = 0; number < 200; ++number) {
        CHECK(received[number] == (sent[number] ? 1 : 0));
        count += received[number];
    }
    CHECK(count > 0);
    CHECK(on.stats().live == 0);
}
