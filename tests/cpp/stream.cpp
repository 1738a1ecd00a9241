#include <zloop/stream.hpp>

#include <string>

#include <zloop/testing.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::script;
using zloop::testing::virtual_loop;

namespace {

struct fixture {
    virtual_loop on;
    int number = on.kernel().open();
    script& peer = on.kernel().at(number);
    stream socket = stream::adopt(on, fd(number)).value();

    result<void> write(std::string_view text) { return run(on, write_all(socket, bytes_of(text))); }

    result<std::string> read(std::size_t count) {
        std::string text(count, '\0');
        auto done = run(on, read_exactly(socket, std::as_writable_bytes(std::span(text))));
        return done ? result<std::string>(text) : result<std::string>(done.error());
    }

    result<std::size_t> until(std::string& buffer, std::string delimiter,
                              std::size_t limit_bytes = 64 * 1024) {
        return run(on, read_until(socket, buffer, std::move(delimiter), limit_bytes));
    }
};

}  // namespace

TEST_CASE("write_all sends everything through short writes", "[stream]") {
    fixture with;
    with.peer.takes(1).takes(3).takes(2);

    CHECK(with.write("hello, world"));
    CHECK(with.peer.written == "hello, world");
}

TEST_CASE("write_all waits while the peer takes nothing", "[stream]") {
    fixture with;
    with.peer.takes(4).takes(0);
    with.on.kernel().after(1s, [&] { with.peer.takes(100); });

    CHECK(with.write("hello, world"));
    CHECK(with.peer.written == "hello, world");
    CHECK(with.on.elapsed() == 1s);
}

TEST_CASE("write_all of nothing asks for nothing", "[stream]") {
    fixture with;
    with.peer.fails_write(EPIPE);

    CHECK(with.write(""));
}

TEST_CASE("write_all fails as send does", "[stream]") {
    fixture with;
    with.peer.takes(5).fails_write(ECONNRESET);

    CHECK(with.write("hello, world").error() == std::errc::connection_reset);
    CHECK(with.peer.written == "hello");
}

TEST_CASE("read_exactly fills the buffer from short reads", "[stream]") {
    fixture with;
    with.peer.receives("h").receives("el").stalls_read().receives("lo, world");

    CHECK(with.read(5).value() == "hello");
    CHECK(with.read(7).value() == ", world");
}

TEST_CASE("read_exactly of nothing asks for nothing", "[stream]") {
    fixture with;
    with.peer.ends();

    CHECK(with.read(0));
}

TEST_CASE("read_exactly tells an end inside from an error", "[stream]") {
    fixture with;
    SECTION("the end of the stream") {
        with.peer.receives("hel").ends();
        CHECK(with.read(5).error() == errc::end_of_stream);
    }
    SECTION("an end before anything came") {
        with.peer.ends();
        CHECK(with.read(5).error() == errc::end_of_stream);
    }
    SECTION("a reset") {
        with.peer.receives("hel").fails_read(ECONNRESET);
        CHECK(with.read(5).error() == std::errc::connection_reset);
    }
}

TEST_CASE("read_until returns the size with the delimiter and keeps what came behind", "[stream]") {
    fixture with;
    with.peer.receives("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody");
    std::string buffer;

    const auto line = with.until(buffer, "\r\n").value();
    CHECK(buffer.substr(0, line) == "GET / HTTP/1.1\r\n");
    buffer.erase(0, line);
    const auto rest = with.until(buffer, "\r\n\r\n").value();
    CHECK(buffer.substr(0, rest) == "Host: a\r\n\r\n");
    CHECK(buffer.substr(rest) == "body");
}

TEST_CASE("read_until finds a delimiter that arrives in pieces", "[stream]") {
    fixture with;
    for (const char* byte : {"a", "\r", "\n", "\r", "\r", "\n", "\r", "\n", "z"}) {
        with.peer.receives(byte);
    }
    std::string buffer;

    CHECK(with.until(buffer, "\r\n\r\n").value() == 8);
    CHECK(buffer == "a\r\n\r\r\n\r\n");
}

TEST_CASE("read_until does not read when the delimiter is there", "[stream]") {
    fixture with;
    with.peer.fails_read(EIO);
    std::string buffer = "line\nrest";

    CHECK(with.until(buffer, "\n").value() == 5);
    CHECK(buffer == "line\nrest");
}

TEST_CASE("read_until reads no more than its limit", "[stream]") {
    fixture with;
    with.peer.receives("0123456789abcdef\n");
    std::string buffer;

    SECTION("and fails when that holds no delimiter") {
        CHECK(with.until(buffer, "\n", 10).error() == errc::limit_exceeded);
        CHECK(buffer == "0123456789");
    }
    SECTION("and succeeds when the delimiter ends there") {
        CHECK(with.until(buffer, "\n", 17).value() == 17);
    }
}

TEST_CASE("read_until leaves in the buffer what came before a failure", "[stream]") {
    fixture with;
    std::string buffer = "al";
    SECTION("the end of the stream") {
        with.peer.receives("most").ends();
        CHECK(with.until(buffer, "\n").error() == errc::end_of_stream);
    }
    SECTION("a reset") {
        with.peer.receives("most").fails_read(ECONNRESET);
        CHECK(with.until(buffer, "\n").error() == std::errc::connection_reset);
    }
    CHECK(buffer == "almost");
}

TEST_CASE("a cancel ends a helper in the middle", "[stream]") {
    fixture with;
    with.peer.receives("hel");
    std::string text(5, '\0');
    auto reading = with.on.start(read_exactly(with.socket, std::as_writable_bytes(std::span(text))));
    with.on.settle();

    reading.cancel();

    CHECK(with.on.join(reading).error() == std::errc::operation_canceled);
    CHECK(text.substr(0, 3) == "hel");
}

TEST_CASE("whatever has recv and send is a byte stream", "[stream]") {
    struct slow {  // a layer of somebody else's: a byte at a time
        stream& below;
        auto recv(std::span<std::byte> buffer) { return below.recv(buffer); }
        auto send(std::span<const std::byte> buffer) { return below.send(buffer.first(1)); }
    };
    static_assert(byte_stream<stream>);
    static_assert(byte_stream<slow>);
    static_assert(!byte_stream<std::string>);
    fixture with;
    slow layer{with.socket};

    CHECK(run(with.on, write_all(layer, bytes_of("abc"))));
    CHECK(with.peer.written == "abc");
}
