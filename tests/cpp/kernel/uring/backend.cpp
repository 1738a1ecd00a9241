#include <zloop/kernel/uring/backend.hpp>

#if ZLOOP_HAS_URING

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <sys/ioctl.h>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/stream.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

// What every backend promises is tested with each of them, in the files of what promises it. Here: what is
// io_uring's alone.

TEST_CASE("an io_uring loop says its name and has a descriptor to wait for", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    CHECK(on.kernel().name() == "io_uring");
    turn(on);
    CHECK(!is_readable(on.kernel().native_handle()));

    on.kernel().wake();
    CHECK(is_readable(on.kernel().native_handle()));
    turn(on);
    CHECK(!is_readable(on.kernel().native_handle()));
}

TEST_CASE("a socket that is closed while it receives is closed at once", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    job<std::string> reading(on, receive_text(with.socket));
    turn(on, 3);

    with.socket.close();

    CHECK(with.peer_reads().empty());  // would wait for ever if the kernel still had the socket
    CHECK(finish(on, reading) == system_error_code(ECANCELED).message());
}

TEST_CASE("what is closed before it was asked for never meets the number's next owner", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    turn(on);
    connection former(on, kind::unix_socket);
    const int number = former.socket.native_handle();
    job<std::string> reading(on, receive_text(former.socket));
    on.run_once(1ms);  // runs the task: its request is not on its way yet

    SECTION("closed by its owner") { former.socket.close(); }
    SECTION("closed behind its back") { REQUIRE(::close(number) == 0); }
    connection fresh(on, kind::unix_socket);
    REQUIRE(fresh.socket.native_handle() == number);
    fresh.sends("not for you");
    turn(on, 3);

    CHECK(finish(on, reading) == system_error_code(ECANCELED).message());
    CHECK(run(on, receive_text(fresh.socket)) == "not for you");
}

TEST_CASE("what a poll has found for a former watcher is not told to the next one", "[uring]") {
    if (!has_uring()) {
        return;
    }
    uring_backend kernel;
    op_queue ready;
    kernel.deliver_to(ready);
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    lookout former(ours.get(), direction::read, [] {});
    lookout next(ours.get(), direction::read, [] {});
    lookout writer(ours.get(), direction::write, [] {});
    REQUIRE(!kernel.watch(former));
    REQUIRE(!kernel.watch(writer));
    CHECK(::send(peer.get(), "x", 1, 0) == 1);
    CHECK(!kernel.wait(0ns));  // both directions are found ready; nobody is told yet

    kernel.unwatch(former);
    char byte;
    CHECK(::recv(ours.get(), &byte, 1, 0) == 1);
    REQUIRE(!kernel.watch(next));
    kernel.collect();

    CHECK(!next.queued);
    CHECK(writer.queued);
    CHECK(&ready.pop() == &writer);
    CHECK(!kernel.wait(0ns));
    kernel.collect();
    CHECK(!next.queued);
    CHECK(::send(peer.get(), "x", 1, 0) == 1);
    CHECK(!kernel.wait(0ns));
    kernel.collect();
    CHECK(next.queued);
    kernel.unwatch(next);
    kernel.unwatch(writer);
}

TEST_CASE("a loop belongs to the thread that turned it first", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    std::thread([&] { turn(on); }).join();

    std::error_code refused;
    try {
        on.run_once(1ms);
    } catch (const std::system_error& error) {
        refused = error.code();
    }
    CHECK(refused == std::errc::operation_not_permitted);
}

TEST_CASE("a loop can be destroyed from another thread, whatever its own has begun", "[uring]") {
    if (!has_uring()) {
        return;
    }
    auto on = std::make_unique<loop>(uring());
    connection first(*on, kind::unix_socket), second(*on, kind::unix_socket);
    fill(second.socket);
    int canceled = 0;
    auto receives = [&](stream socket) -> task<> {
        const auto received = co_await socket.receive();
        canceled += received.error() == std::errc::operation_canceled;
    };
    auto reads_and_writes = [&](stream socket) -> task<> {
        auto reads = [&]() -> task<> {
            std::byte room[10];
            canceled += (co_await socket.recv(room)).error() == std::errc::operation_canceled;
        };
        auto writes = [&]() -> task<> {
            canceled += (co_await socket.send(bytes_of("x"))).error() == std::errc::operation_canceled;
        };
        std::vector<task<>> both;
        both.push_back(reads());
        both.push_back(writes());
        co_await when_all(std::move(both));
    };
    spawn(*on, receives(std::move(first.socket)));
    spawn(*on, reads_and_writes(std::move(second.socket)));
    std::thread([&] { turn(*on, 3); }).join();

    on.reset();

    CHECK(canceled == 3);
    CHECK(first.peer_reads().empty());  // it is closed
    second.peer_drains();
    CHECK(second.peer_reads().empty());
}

#endif
