#include <zloop/testing/script.hpp>

#include <string>

#include "catch.hpp"
#include "support.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("steps that are strung together are met in order, those of reads and of writes apart", "[script]") {
    scripted_stream with;
    with.peer.fails_write(ENOBUFS).receives("a").takes(1).fails_read(EIO).takes(2).receives("b");

    CHECK(run(with.on, send_some(with.socket, "text")).error() == std::errc::no_buffer_space);
    CHECK(run(with.on, send_some(with.socket, "text")).value() == 1);
    CHECK(run(with.on, recv_text(with.socket, 9)) == "a");
    CHECK(run(with.on, recv_text(with.socket, 9)) == message(std::errc::io_error));
    CHECK(run(with.on, send_some(with.socket, "ext")).value() == 2);
    CHECK(run(with.on, recv_text(with.socket, 9)) == "b");
    CHECK(with.peer.written == "tex");
}

TEST_CASE("no bytes are no step, and the end is met by every read after it", "[script]") {
    scripted_stream with;
    with.peer.receives("").receives("last").ends();

    CHECK(run(with.on, recv_text(with.socket, 9)) == "last");
    CHECK(run(with.on, recv_text(with.socket, 9)).empty());
    CHECK(run(with.on, recv_text(with.socket, 9)).empty());
}

TEST_CASE("a short read is one that finds bytes, whatever comes before it", "[script]") {
    scripted_stream with;
    with.peer.gives(1).gives(2).fails_read(EIO).receives("hello");

    CHECK(run(with.on, recv_text(with.socket, 9)) == message(std::errc::io_error));
    CHECK(run(with.on, recv_text(with.socket, 9)) == "h");
    CHECK(run(with.on, recv_text(with.socket, 9)) == "el");
    CHECK(run(with.on, recv_text(with.socket, 9)) == "lo");
}

TEST_CASE("room for nothing blocks until there is another step, which counts", "[script]") {
    scripted_stream with;
    with.peer.takes(0);
    auto sending = with.on.start(send_some(with.socket, "hello"));
    with.on.settle();
    CHECK(!sending.done());

    SECTION("room") {
        with.peer.takes(3);
        CHECK(with.on.join(sending).value() == 3);
    }
    SECTION("an error") {
        with.peer.fails_write(EPIPE);
        CHECK(with.on.join(sending).error() == std::errc::broken_pipe);
    }
}

TEST_CASE("a write that stalls goes on by itself, in no time", "[script]") {
    scripted_stream with;
    with.peer.stalls_write().stalls_write();

    CHECK(run(with.on, send_some(with.socket, "hello")).value() == 5);
    CHECK(with.on.elapsed() == 0s);
}

TEST_CASE("a reset loses what was not read, and fails one read", "[script]") {
    scripted_stream with;
    with.peer.receives("lost").resets();

    CHECK(run(with.on, recv_text(with.socket, 9)) == message(std::errc::connection_reset));
    CHECK(run(with.on, recv_text(with.socket, 9)).empty());
    CHECK(run(with.on, send_some(with.socket, "?")).error() == std::errc::broken_pipe);
}

TEST_CASE("what was written can be looked at when its writer has gone", "[script]") {
    scripted_stream with;
    CHECK(run(with.on, send_some(with.socket, "will")));

    with.socket.close();

    CHECK(with.peer.closed);
    CHECK(with.peer.written == "will");
}
