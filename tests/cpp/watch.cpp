#include <zloop/watch.hpp>

#include <optional>

#include <zloop/job.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

namespace {

task<result<void>> readable(int descriptor) { co_return co_await wait_readable(descriptor); }
task<result<void>> writable(int descriptor) { co_return co_await wait_writable(descriptor); }

/// Fills a non-blocking pipe.
void fill(int descriptor) {
    char block[4096] = {};
    while (::write(descriptor, block, sizeof block) > 0) {
    }
}

/// Empties a non-blocking pipe.
void drain(int descriptor) {
    char block[4096];
    while (::read(descriptor, block, sizeof block) > 0) {
    }
}

/// Whether nothing is watched in `toward`: another can watch.
bool is_free(loop& on, int descriptor, direction toward) {
    lookout other(descriptor, toward, [] {});
    if (on.kernel().watch(other)) {
        return false;
    }
    on.kernel().unwatch(other);
    return true;
}

}  // namespace

TEST_CASE("wait_readable ends when there is something to read", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    job<result<void>> waiting(on, readable(pipe.out.get()));
    turn(on, 3);
    CHECK(!waiting.done());

    pipe.write();

    CHECK(finish(on, waiting));
    CHECK(is_free(on, pipe.out.get(), direction::read));
}

TEST_CASE("wait_readable ends at once, yet in a later turn, where there is something already", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    pipe.write();
    std::string order;
    auto waits = [&]() -> task<> {
        (co_await wait_readable(pipe.out.get())).value();
        order += 'w';
    };
    job<> waiting(on, waits());
    callback other([&] { order += 'o'; });
    on.push(other);

    finish(on, waiting);

    CHECK(order == "ow");
}

TEST_CASE("wait_readable ends at the end of what is read", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    job<result<void>> waiting(on, readable(pipe.out.get()));
    turn(on, 2);

    pipe.in.reset();

    CHECK(finish(on, waiting));
}

TEST_CASE("wait_writable ends when there is room again", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    fill(pipe.in.get());
    job<result<void>> waiting(on, writable(pipe.in.get()));
    turn(on, 3);
    CHECK(!waiting.done());

    drain(pipe.out.get());

    CHECK(finish(on, waiting));
    CHECK(is_free(on, pipe.in.get(), direction::write));
}

TEST_CASE("wait_writable ends when the reader is gone", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    fill(pipe.in.get());
    job<result<void>> waiting(on, writable(pipe.in.get()));
    turn(on, 2);

    pipe.out.reset();

    CHECK(finish(on, waiting));
}

TEST_CASE("one descriptor is waited for in both directions", "[watch]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    fd ours(with.socket.release());
    REQUIRE(::fcntl(with.peer.get(), F_SETFL, O_NONBLOCK) == 0);
    fill(ours.get());
    job<result<void>> reading(on, readable(ours.get()));
    job<result<void>> writing(on, writable(ours.get()));
    turn(on, 2);

    with.sends("x");
    is_readable(ours.get(), 1000);
    CHECK(finish(on, reading));
    turn(on, 2);
    CHECK(!writing.done());
    drain(with.peer.get());
    CHECK(finish(on, writing));
}

TEST_CASE("a descriptor is waited for again and again, its flags untouched", "[watch]") {
    loop on(each_backend());
    int both[2];
    REQUIRE(::pipe2(both, O_CLOEXEC) == 0);
    const fd out(both[0]), in(both[1]);
    std::string read;
    auto reads = [&]() -> task<> {
        for (int count = 0; count < 3; ++count) {
            (co_await wait_readable(out.get())).value();
            char byte;
            CHECK(::read(out.get(), &byte, 1) == 1);
            read += byte;
        }
    };
    job<> reading(on, reads());
    for (const char* each : {"a", "b", "c"}) {
        turn(on, 3);
        CHECK(::write(in.get(), each, 1) == 1);
    }
    finish(on, reading);

    CHECK(read == "abc");
    CHECK((::fcntl(out.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("waiting for the same descriptor again is one epoll_ctl", "[watch]") {
    loop on(platform_backend());
    pipe_ends pipe;
    const auto before = probes::epoll_ctl.count.load();
    for (int round = 0; round < 5; ++round) {
        job<result<void>> waiting(on, readable(pipe.out.get()));
        turn(on, 2);
        pipe.write();
        CHECK(finish(on, waiting));
        drain(pipe.out.get());
        turn(on, 2);
    }

    CHECK(probes::epoll_ctl.count - before == 5);
}

TEST_CASE("a number that is another file's by now is waited for like any other", "[watch]") {
    loop on(each_backend());
    pipe_ends former;
    const int number = former.out.get();
    job<result<void>> first(on, readable(number));
    turn(on, 2);
    former.write();
    CHECK(finish(on, first));
    const fd duplicate(::dup(number));  // so that the former registration lives on
    pipe_ends fresh;
    REQUIRE(::dup3(fresh.out.get(), number, O_CLOEXEC) == number);

    job<result<void>> waiting(on, readable(number));
    turn(on, 3);
    CHECK(!waiting.done());
    fresh.write();
    CHECK(finish(on, waiting));
}

TEST_CASE("who watches once and who watches on share a descriptor", "[watch]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    fd ours(with.socket.release());
    REQUIRE(::fcntl(ours.get(), F_SETFL, O_NONBLOCK) == 0);
    fill(ours.get());
    int seen = 0;
    lookout reading(ours.get(), direction::read, [&] { ++seen; });
    REQUIRE(!on.kernel().watch(reading));
    job<result<void>> writing(on, writable(ours.get()));
    turn(on, 2);

    with.sends("x");
    CHECK(turn_until(on, [&] { return seen >= 2; }));
    CHECK(!writing.done());
    CHECK(with.peer_drains() > 0);
    CHECK(finish(on, writing));
    const int before = seen;
    CHECK(turn_until(on, [&] { return seen >= before + 2; }));
    on.kernel().unwatch(reading);
}

TEST_CASE("a regular file, which no backend can watch, is always ready", "[watch]") {
    loop on(each_backend());
    const fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    const fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));

    CHECK(run(on, readable(file.get())));
    CHECK(run(on, readable(null.get())));
    CHECK(run(on, writable(null.get())));
}

TEST_CASE("what is no descriptor is refused", "[watch]") {
    loop on(each_backend());

    CHECK(run(on, readable(-1)).error() == std::errc::bad_file_descriptor);
    CHECK(run(on, writable(1 << 20)).error() == std::errc::bad_file_descriptor);
}

TEST_CASE("a second wait in one direction, and one for a stream's descriptor, are refused", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    job<result<void>> waiting(on, readable(pipe.out.get()));
    turn(on, 2);
    CHECK(run(on, readable(pipe.out.get())).error() == std::errc::device_or_resource_busy);
    CHECK(!waiting.done());
    pipe.write();
    CHECK(finish(on, waiting));

    connection with(on, kind::tcp);
    CHECK(run(on, readable(with.socket.native_handle())).error() == std::errc::device_or_resource_busy);
}

TEST_CASE("a cancelled wait ends, and nothing is watched any more", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    job<result<void>> waiting(on, readable(pipe.out.get()));
    turn(on, 2);

    waiting.cancel();
    CHECK(!waiting.done());  // never inline

    CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
    CHECK(is_free(on, pipe.out.get(), direction::read));
    pipe.write();
    CHECK(run(on, readable(pipe.out.get())));
}

TEST_CASE("a wait that is ready already wins over a cancel", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    std::optional<job<result<void>>> waiting;
    SECTION("it became ready") {
        waiting.emplace(on, readable(pipe.out.get()));
        turn(on, 2);
        pipe.write();
        queue_events(on);
        waiting->cancel();
        CHECK(finish(on, *waiting));
    }
    SECTION("it was ready from the start") {
        pipe.write();
        waiting.emplace(on, readable(pipe.out.get()));
        on.run_once(0ns);
        waiting->cancel();
        CHECK(finish(on, *waiting));
    }
    CHECK(is_free(on, pipe.out.get(), direction::read));
}

TEST_CASE("a wait in a cancelled scope does not begin", "[watch]") {
    loop on(each_backend());
    pipe_ends pipe;
    pipe.write();
    job<result<void>> waiting(on, readable(pipe.out.get()));
    waiting.cancel();

    CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
}

TEST_CASE("the loop's end ends a wait", "[watch]") {
    pipe_ends pipe;
    std::error_code outcome;
    auto waits = [&]() -> task<> { outcome = (co_await wait_readable(pipe.out.get())).error(); };
    {
        loop on(each_backend());
        spawn(on, waits());
        turn(on, 2);
    }
    CHECK(outcome == std::errc::operation_canceled);
}

TEST_CASE("a wait ends by a cancel also when its descriptor was closed and is a stream's now", "[watch]") {
    loop on(each_backend());
    std::optional<connection> fresh;
    pipe_ends pipe;
    const int number = pipe.out.get();
    job<result<void>> waiting(on, readable(number));
    turn(on, 2);
    pipe.out.reset();
    fresh.emplace(on, kind::unix_socket);
    REQUIRE(fresh->socket.native_handle() == number);

    waiting.cancel();

    CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
    fresh->sends("still in service");
    auto receives = [&]() -> task<std::string> {
        co_return text_of((co_await fresh->socket.receive()).value());
    };
    CHECK(run(on, receives()) == "still in service");
}

TEST_CASE("waiting allocates nothing", "[watch]") {
    if (!probes::counts_allocations) {
        return;
    }
    loop on(each_backend());
    pipe_ends pipe;
    std::size_t allocated = 1;
    auto waits = [&]() -> task<> {
        for (int round = 0; round < 3; ++round) {  // the first two fill the backend's tables
            const std::size_t before = probes::allocations();
            (co_await wait_readable(pipe.out.get())).value();
            allocated = probes::allocations() - before;
            drain(pipe.out.get());
        }
    };
    job<> waiting(on, waits());
    turn(on, 2);
    for (int round = 0; round < 3; ++round) {
        pipe.write();
        turn(on, 3);
    }
    finish(on, waiting);

    CHECK(allocated == 0);
}

TEST_CASE("a made-up descriptor is waited for as well", "[watch]") {
    virtual_loop on;
    const int number = on.kernel().open();
    auto waiting = on.start(readable(number));
    on.kernel().after(1s, [&] { on.kernel().make_ready(number, direction::read); });
    CHECK(on.join(waiting));
    CHECK(on.elapsed() == 1s);

    auto cancelled = on.start(writable(number));
    on.settle();
    cancelled.cancel();
    CHECK(on.join(cancelled).error() == std::errc::operation_canceled);
}
