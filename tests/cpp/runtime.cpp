#include <zloop/runtime.hpp>

#include <atomic>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <pthread.h>

#include <zloop/connect.hpp>
#include <zloop/on.hpp>
#include <zloop/sleep.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace std::chrono_literals;

namespace {

task<> echo(accepted guest) {
    while (true) {
        const auto got = co_await guest.socket.receive();
        if (!got || got->empty() || !co_await guest.socket.send(*got)) {
            co_return;
        }
    }
}

std::unique_ptr<backend> none() { throw std::runtime_error("no backend"); }

}  // namespace

TEST_CASE("a runtime has loops on threads of their own, and ends what runs on them", "[runtime]") {
    std::atomic<int> started = 0;
    std::atomic<int> canceled = 0;
    std::mutex guard;
    std::set<pthread_t> threads;
    {
        runtime several(3);
        CHECK(several.size() == 3);
        several.start_on_each([&](loop&) -> task<> {
            {
                const std::lock_guard held(guard);
                threads.insert(::pthread_self());
            }
            ++started;
            started.notify_one();
            canceled += (co_await sleep_for(1h)).error() == std::errc::operation_canceled ? 1 : 0;
        });
        for (int seen = 0; seen < 3; seen = started) {
            started.wait(seen);
        }
        several.stop();
        several.join();
        CHECK(canceled == 3);
    }
    CHECK(threads.size() == 3);
}

TEST_CASE("a server is spread over the loops, by the kernel and in turn", "[runtime]") {
    const auto how = GENERATE(spreading::by_kernel, spreading::in_turn);
    const auto family = how == spreading::in_turn ? GENERATE(support::kind::tcp, support::kind::unix_socket)
                                                  : support::kind::tcp;
    const support::place place(family);
    runtime two(2);
    std::atomic<int> of_loop[2] = {0, 0};
    const auto where = two.serve(
                              place.where,
                              [&](accepted guest) -> task<> {
                                  const loop* here = (co_await current_context()).on;
                                  ++of_loop[here == &two.at(1)];
                                  co_await echo(std::move(guest));
                              },
                              how)
                           .value();
    auto ask = [&]() -> task<> {
        for (int index = 0; index < 8; ++index) {
            auto line = (co_await connect(where)).value();
            (co_await line.send(bytes_of("hello"))).value();
            const auto got = co_await line.receive();
            CHECK(as_text(got.value()) == "hello");
        }
    };

    run(ask());

    CHECK(of_loop[0] + of_loop[1] == 8);
    CHECK((how == spreading::by_kernel || of_loop[0] == 4));
}

TEST_CASE("a place that is taken is told by who serves", "[runtime]") {
    runtime one(1);
    const auto where = one.serve(address::loopback(), echo).value();

    CHECK(one.serve(where, echo).error() == std::errc::address_in_use);
}

TEST_CASE("loops that await each other end together", "[runtime]") {
    runtime two(2);
    std::atomic<int> ended = 0;
    std::atomic<bool> begun = false;
    two.start_on_each([&](loop& here) -> task<> {
        loop& other = &here == &two.at(0) ? two.at(1) : two.at(0);
        const auto got = co_await on(other, [&]() -> task<result<void>> {
            begun = true;
            begun.notify_one();
            co_return co_await sleep_for(1h);
        });
        ended += got.error() == std::errc::operation_canceled ? 1 : 0;
    });
    begun.wait(false);

    two.stop();
    two.join();

    CHECK(ended == 2);
}

TEST_CASE("a runtime without a loop is none", "[runtime]") {
    CHECK_THROWS_AS(runtime(0), std::invalid_argument);
    CHECK_THROWS_AS(runtime(2, none), std::runtime_error);
}
