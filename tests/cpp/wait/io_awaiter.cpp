#include <zloop/wait/io_awaiter.hpp>

#include <string>

#include <zloop/socket.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("an operation whose outcome is there at once does not suspend", "[io_awaiter]") {
    scripted_stream with;
    with.peer.receives("ab");
    auto work = [&]() -> task<std::uint64_t> {
        const auto before = with.on.stats().ops;
        (co_await with.socket.send(bytes_of("x"))).value();
        (co_await with.socket.receive()).value();
        co_return with.on.stats().ops - before;
    };
    CHECK(run(with.on, work()) == 0);
}

TEST_CASE("an operation that waits is a leaf of its scope, and only meanwhile", "[io_awaiter]") {
    scripted_stream with;
    auto receives = [&]() -> task<std::string> {
        const std::string first = co_await receive_text(with.socket);
        co_await next_turn();
        co_await next_turn();
        co_return first + co_await receive_text(with.socket);
    };
    auto running = with.on.start(receives());
    with.on.settle();
    with.peer.receives("first ");
    turn(with.on, 2);
    running.cancel();  // between the two: remembered for the second

    CHECK(with.on.join(running) == "first " + message(std::errc::operation_canceled));
}

TEST_CASE("who is cancelled between its event and its turn has taken nothing", "[io_awaiter]") {
    scripted_stream with;
    auto running = with.on.start(receive_text(with.socket));
    with.on.settle();
    with.peer.receives("there");  // queues the waiting one
    running.cancel();

    CHECK(with.on.join(running) == message(std::errc::operation_canceled));
    CHECK(run(with.on, receive_text(with.socket)) == "there");
}

TEST_CASE("what is tried now or never does not wait", "[io_awaiter]") {
    scripted_stream with;
    with.peer.takes(0);
    const iovec part{const_cast<char*>("x"), 1};
    CHECK(with.socket.try_send({&part, 1}).error() == std::errc::resource_unavailable_try_again);
}

TEST_CASE("an operation that waits allocates nothing", "[io_awaiter]") {
    if (!probes::counts_allocations) {
        return;
    }
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    std::size_t allocated = 1;
    std::size_t before = 0;
    auto work = [&]() -> task<> {
        for (int round = 0; round < 2; ++round) {  // the first makes what the backend keeps
            before = probes::allocations();
            (co_await with.socket.receive()).value();
            allocated = probes::allocations() - before;
        }
    };
    job<> running(on, work());
    turn(on, 3);
    with.sends("x");
    turn(on, 3);
    with.sends("x");
    finish(on, running);

    CHECK(allocated == 0);
}
