#include <zloop/thread_channel.hpp>

#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using zloop::testing::virtual_loop;

namespace {

/// Sends, or receives to the end, by awaiting on a loop of its own or by blocking.
template <bool awaits>
void send_all(thread_channel<std::unique_ptr<int>>& to, int count) {
    if constexpr (awaits) {
        run([](auto& into, int most) -> task<> {
            for (int each = 1; each <= most; ++each) {
                value_of(co_await into.send(std::make_unique<int>(each)));
            }
        }(to, count));
    } else {
        for (int each = 1; each <= count; ++each) {
            to.send_blocking(std::make_unique<int>(each)).value();
        }
    }
}

template <bool awaits>
long sum_of(thread_channel<std::unique_ptr<int>>& from) {
    long sum = 0;
    if constexpr (awaits) {
        run([](auto& out, long& total) -> task<> {
            auto got = co_await out.receive();
            for (; got; got = co_await out.receive()) {
                total += **got;
            }
        }(from, sum));
    } else {
        while (const auto got = from.receive_blocking()) {
            sum += **got;
        }
    }
    return sum;
}

}  // namespace

TEST_CASE("values go from threads and tasks to threads and tasks, each once", "[thread_channel]") {
    constexpr int count = 5000;
    const std::size_t capacity = GENERATE(1, 64);
    thread_channel<std::unique_ptr<int>> between(capacity);
    long sums[3] = {};
    std::thread receivers[] = {std::thread([&] { sums[0] = sum_of<true>(between); }),
                               std::thread([&] { sums[1] = sum_of<false>(between); }),
                               std::thread([&] { sums[2] = sum_of<true>(between); })};
    std::thread senders[] = {std::thread([&] { send_all<true>(between, count); }),
                             std::thread([&] { send_all<false>(between, count); })};

    for (auto& each : senders) {
        each.join();
    }
    between.close();
    for (auto& each : receivers) {
        each.join();
    }

    CHECK(std::accumulate(sums, sums + 3, 0L) == 2L * count * (count + 1) / 2);
    CHECK(between.size() == 0);
}

TEST_CASE("a thread_channel is bounded, and ends when it is closed", "[thread_channel]") {
    thread_channel<std::string> few(2);
    std::string text = "third";

    CHECK((few.try_send("first") && few.try_send("second")));
    CHECK(!few.try_send(std::move(text)));
    CHECK(text == "third");
    CHECK(few.send_blocking("late", 1ms).error() == std::errc::timed_out);
    few.close();
    CHECK(few.send_blocking("late").error() == errc::closed);
    CHECK(few.try_receive() == "first");
    CHECK(few.receive_blocking().value() == "second");
    CHECK(few.receive_blocking().error() == errc::closed);
    CHECK(few.is_closed());
    CHECK_THROWS_AS(thread_channel<int>(0), std::invalid_argument);
    thread_channel<int> empty(1);
    CHECK(empty.receive_blocking(1ms).error() == std::errc::timed_out);
}

TEST_CASE("who is cancelled at a thread_channel has taken nothing, and passes on what it was told",
          "[thread_channel]") {
    virtual_loop on;
    thread_channel<int> one(1);
    auto receives = [&]() -> task<result<int>> { co_return co_await one.receive(); };
    auto first = on.start(receives());
    auto second = on.start(receives());
    on.settle();

    CHECK(one.try_send(7));  // told to the first
    first.cancel();

    CHECK(on.join(first).error() == std::errc::operation_canceled);
    CHECK(on.join(second).value() == 7);

    auto late = on.start(receives());
    on.settle();
    late.cancel();
    CHECK(on.join(late).error() == std::errc::operation_canceled);
    CHECK(one.try_send(8));
    CHECK(run(on, with_timeout(1s, one.send(9))).error() == std::errc::timed_out);
    CHECK(run(on, when_any(one.send(9), one.receive())).index() == 1);
    CHECK(one.size() == 0);
    one.close();
    CHECK(run(on, receives()).error() == errc::closed);
    CHECK(run(on, one.send(1)).error() == errc::closed);
}
