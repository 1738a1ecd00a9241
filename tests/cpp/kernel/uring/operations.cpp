#include <zloop/kernel/uring/operations.hpp>

#if ZLOOP_HAS_URING

#include <memory>
#include <string>
#include <vector>

#include <zloop/job.hpp>
#include <zloop/kernel/uring/backend.hpp>
#include <zloop/nursery.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("a send that is closed behind its back before it was asked for is canceled", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    turn(on);
    connection former(on, kind::unix_socket);
    const int number = former.socket.native_handle();
    job<result<std::size_t>> sending(on, send_some(former.socket, "not for you"));
    on.run_once(1ms);  // runs the task: its request is not on its way yet
    REQUIRE(::close(number) == 0);
    connection fresh(on, kind::unix_socket);
    REQUIRE(fresh.socket.native_handle() == number);

    CHECK(finish(on, sending).error() == std::errc::operation_canceled);
    CHECK(!is_readable(fresh.peer.get()));
}

TEST_CASE("more completions than the queue has places are all told", "[uring]") {
    if (!has_uring()) {
        return;
    }
    constexpr std::size_t pairs = 2'500;  // 5,000 sends in one turn
    loop on(uring());
    std::vector<stream> all;
    std::size_t sent = 0;
    auto sends = [&](stream& to) -> task<> { sent += (co_await to.send(bytes_of("x"))).value(); };
    for (std::size_t count = 0; count < pairs; ++count) {
        auto [first, second] = stream::pair(on).value();
        all.push_back(std::move(first));
        all.push_back(std::move(second));
    }
    for (stream& each : all) {
        spawn(on, sends(each));
    }

    CHECK(turn_until(on, [&] { return sent == 2 * pairs; }));
    std::size_t received = 0;
    auto receives = [&](stream& from) -> task<> { received += (co_await from.receive()).value().size(); };
    for (stream& each : all) {
        spawn(on, receives(each));
    }
    CHECK(turn_until(on, [&] { return received == 2 * pairs; }));
}

TEST_CASE("a loop that ends with thousands of operations in the kernel waits for them", "[uring]") {
    if (!has_uring()) {
        return;
    }
    constexpr std::size_t pairs = 1'000;
    const auto descriptors = open_descriptors();
    std::size_t canceled = 0;
    auto reads = [&](stream socket) -> task<> {
        std::byte room[100];
        const auto [error, count] = co_await socket.recv(room);
        canceled += error == std::errc::operation_canceled;
    };
    auto listens = [&](stream socket) -> task<> {
        const auto received = co_await socket.receive();
        canceled += received.error() == std::errc::operation_canceled;
    };
    {
        loop on(uring());
        for (std::size_t count = 0; count < pairs; ++count) {
            auto [first, second] = stream::pair(on).value();
            spawn(on, reads(std::move(first)));
            spawn(on, listens(std::move(second)));
        }
        turn(on, 2);
    }
    CHECK(canceled == 2 * pairs);
    CHECK(open_descriptors() == descriptors);
}

TEST_CASE("bytes that came to a cancelled read are there for the next one", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    std::byte unused[10];
    auto reads = [&](std::span<std::byte> room) -> task<result<std::size_t>> {
        co_return co_await with.socket.recv(room);
    };
    job<result<std::size_t>> first(on, reads(unused));
    turn(on, 3);
    SECTION("which has them, and has not run yet") {
        with.sends("hello");
        queue_events(on);
        first.cancel();
    }
    SECTION("while the kernel is asked to end it") {
        first.cancel();
        with.sends("hello");
    }
    CHECK(finish(on, first).error() == std::errc::operation_canceled);
    with.sends(", world");
    CHECK(run(on, recv_text(with.socket, 3)) == "hel");
    CHECK(run(on, recv_text(with.socket, 2)) == "lo");
    CHECK(run(on, receive_text(with.socket)) == ", world");
}

#endif
