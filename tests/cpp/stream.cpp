#include <zloop/stream.hpp>

#include <stdexcept>
#include <string>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/foreign_stream.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

namespace {

struct stream_fixture : scripted_stream {
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
    stream_fixture with;
    with.peer.takes(1).takes(3).takes(2);

    CHECK(with.write("hello, world"));
    CHECK(with.peer.written == "hello, world");
}

TEST_CASE("write_all waits while the peer takes nothing", "[stream]") {
    stream_fixture with;
    with.peer.takes(4).takes(0);
    with.on.kernel().after(1s, [&] { with.peer.takes(100); });

    CHECK(with.write("hello, world"));
    CHECK(with.peer.written == "hello, world");
    CHECK(with.on.elapsed() == 1s);
}

TEST_CASE("write_all of nothing asks for nothing", "[stream]") {
    stream_fixture with;
    with.peer.fails_write(EPIPE);

    CHECK(with.write(""));
}

TEST_CASE("write_all fails as send does", "[stream]") {
    stream_fixture with;
    with.peer.takes(5).fails_write(ECONNRESET);

    CHECK(with.write("hello, world").error() == std::errc::connection_reset);
    CHECK(with.peer.written == "hello");
}

TEST_CASE("read_exactly fills the buffer from short reads", "[stream]") {
    stream_fixture with;
    with.peer.receives("h").receives("el").stalls_read().receives("lo, world");

    CHECK(with.read(5).value() == "hello");
    CHECK(with.read(7).value() == ", world");
}

TEST_CASE("read_exactly of nothing asks for nothing", "[stream]") {
    stream_fixture with;
    with.peer.ends();

    CHECK(with.read(0));
}

TEST_CASE("read_exactly tells an end inside from an error", "[stream]") {
    stream_fixture with;
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
    stream_fixture with;
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
    stream_fixture with;
    for (const char* byte : {"a", "\r", "\n", "\r", "\r", "\n", "\r", "\n", "z"}) {
        with.peer.receives(byte);
    }
    std::string buffer;

    CHECK(with.until(buffer, "\r\n\r\n").value() == 8);
    CHECK(buffer == "a\r\n\r\r\n\r\n");
}

TEST_CASE("read_until does not read when the delimiter is there", "[stream]") {
    stream_fixture with;
    with.peer.fails_read(EIO);
    std::string buffer = "line\nrest";

    CHECK(with.until(buffer, "\n").value() == 5);
    CHECK(buffer == "line\nrest");
}

TEST_CASE("read_until reads no more than its limit", "[stream]") {
    stream_fixture with;
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
    stream_fixture with;
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
    stream_fixture with;
    with.peer.receives("hel");
    std::string text(5, '\0');
    auto reading = with.on.start(read_exactly(with.socket, std::as_writable_bytes(std::span(text))));
    with.on.settle();

    reading.cancel();

    CHECK(with.on.join(reading).error() == std::errc::operation_canceled);
    CHECK(text.substr(0, 3) == "hel");
}

TEST_CASE("whatever has recv or send is a byte source or sink", "[stream]") {
    struct slow {  // a layer of somebody else's: a byte at a time
        stream& below;
        auto recv(std::span<std::byte> buffer) { return below.recv(buffer); }
        auto send(std::span<const std::byte> buffer) { return below.send(buffer.first(1)); }
    };
    static_assert(byte_stream<stream>);
    static_assert(byte_stream<foreign_stream>);
    static_assert(byte_stream<slow>);
    static_assert(byte_source<countdown> && !byte_sink<countdown>);
    static_assert(byte_sink<wall> && !byte_source<wall>);
    static_assert(!byte_source<std::string> && !byte_sink<std::string>);
    static_assert(borrowing_source<stream> && vectored_sink<stream>);
    static_assert(!borrowing_source<foreign_stream> && !vectored_sink<foreign_stream>);
    stream_fixture with;
    slow layer{with.socket};

    CHECK(run(with.on, write_all(layer, bytes_of("abc"))));
    CHECK(with.peer.written == "abc");
}

TEST_CASE("a source whose recv is a task, and that is no sink, is read from", "[stream]") {
    virtual_loop on;
    countdown from;
    std::string text(3, '\0');
    CHECK(run(on, read_exactly(from, std::as_writable_bytes(std::span(text)))));
    CHECK(text == "987");
    text.clear();
    CHECK(run(on, read_until(from, text, "4")).value() == 3);
    CHECK(text == "6543");  // two at a time
    CHECK(run(on, read_until(from, text, "x")).error() == errc::end_of_stream);
    CHECK(text == "6543210");
}

TEST_CASE("read_until leaves no empty room behind when its source throws", "[stream]") {
    struct broken {
        task<result<std::size_t>> recv(std::span<std::byte>) {
            co_await next_turn();
            throw std::domain_error("broken");
        }
    };
    virtual_loop on;
    broken from;
    std::string text = "kept";
    CHECK_THROWS_AS(run(on, read_until(from, text, "\n")), std::domain_error);
    CHECK(text == "kept");
}

TEST_CASE("write_all sends several parts in order, through short writes", "[stream]") {
    stream_fixture with;
    std::vector<std::span<const std::byte>> parts;
    std::string whole;
    const std::string letters = "abcdefghijklmnopqrstuvwxyz";
    for (std::size_t index = 0; index < 100; ++index) {
        const auto part = std::string_view(letters).substr(index % 7, index * 5 % 11);  // some are empty
        parts.push_back(bytes_of(part));
        whole += part;
    }
    SECTION("that take a byte at a time") {
        for (std::size_t count = 0; count < whole.size(); ++count) {
            with.peer.takes(1);
        }
    }
    SECTION("of all lengths") {
        for (std::size_t count = 1; count < whole.size(); count += 3) {
            with.peer.takes(count);
        }
    }
    SECTION("that wait") {
        with.peer.takes(5).stalls_write().takes(17).takes(0);
        with.on.kernel().after(1s, [&] { with.peer.takes(1000); });
    }

    CHECK(run(with.on, write_all(with.socket, parts)));
    CHECK(with.peer.written == whole);
}

TEST_CASE("write_all of no parts, or of empty ones, asks for nothing", "[stream]") {
    stream_fixture with;
    with.peer.fails_write(EPIPE);
    const std::span<const std::byte> parts[3];

    CHECK(run(with.on, write_all(with.socket, std::span(parts).first(0))));
    CHECK(run(with.on, write_all(with.socket, parts)));
}

TEST_CASE("write_all of several parts fails as send does, and is cancelled", "[stream]") {
    stream_fixture with;
    const std::span<const std::byte> parts[] = {bytes_of("hello, "), bytes_of("world")};
    SECTION("fails") {
        with.peer.takes(9).fails_write(ECONNRESET);
        CHECK(run(with.on, write_all(with.socket, parts)).error() == std::errc::connection_reset);
    }
    SECTION("is cancelled") {
        with.peer.takes(9).takes(0);
        auto writing = with.on.start(write_all(with.socket, parts));
        with.on.settle();
        writing.cancel();
        CHECK(with.on.join(writing).error() == std::errc::operation_canceled);
    }
    CHECK(with.peer.written == "hello, wo");
}

TEST_CASE("write_all sends part after part to a sink that takes one buffer at a time", "[stream]") {
    virtual_loop on;
    wall to;
    const std::span<const std::byte> parts[] = {bytes_of("ab"), {}, bytes_of("cde"), bytes_of("f")};
    CHECK(run(on, write_all(to, parts)));
    CHECK(to.seen == "abcdef");

    to.room = 9;
    CHECK(run(on, write_all(to, parts)).error() == std::errc::no_space_on_device);
    CHECK(to.seen == "abcdefabc");
}

TEST_CASE("write_all sends more parts than a system call takes", "[stream]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    std::string whole;
    for (int index = 0; index < 30'000; ++index) {
        whole += std::to_string(index) + ' ';
    }
    std::vector<std::span<const std::byte>> parts;
    for (std::size_t at = 0; at < whole.size(); at += 97) {
        parts.push_back(bytes_of(std::string_view(whole).substr(at, 97)));
    }
    job<result<void>> writing(on, write_all(with.socket, parts));
    std::string got;
    CHECK(turn_until(on, [&] {
        if (is_readable(with.peer.get())) {
            got += with.peer_reads();
        }
        return got.size() == whole.size();
    }));
    CHECK(finish(on, writing));
    CHECK(got == whole);
}

TEST_CASE("whole messages are read and written without allocating", "[stream]") {
    if (!probes::counts_allocations) {
        return;
    }
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    const std::span<const std::byte> parts[] = {bytes_of("hello, "), bytes_of("world\n")};
    std::string line;
    line.reserve(8192);
    std::byte room[3];
    auto work = [&]() -> task<> {
        (co_await write_all(with.socket, bytes_of("head\n"))).value();
        (co_await write_all(with.socket, parts)).value();
        (co_await read_exactly(with.socket, room)).value();
        line.clear();
        (co_await read_until(with.socket, line, "\n")).value();
    };
    const auto round = [&] {
        with.sends("abcde\n");
        run(on, work());
    };
    round();
    const std::size_t before = probes::allocations();
    for (int count = 0; count < 10; ++count) {
        round();
    }
    CHECK(probes::allocations() - before == 0);
}

TEST_CASE("a transfer that fails half way tells how far it came", "[stream]") {
    scripted_stream with;
    char room[8];
    const auto buffer = std::as_writable_bytes(std::span(room));
    SECTION("write_all") {
        with.peer.takes(3).takes(2).fails_write(EPIPE);
        const auto [error, count] = run(with.on, write_all(with.socket, bytes_of("12345678")));
        CHECK(error == std::errc::broken_pipe);
        CHECK(count == 5);
    }
    SECTION("write_all of parts") {
        with.peer.takes(3).takes(2).fails_write(EPIPE);
        const std::span<const std::byte> parts[] = {bytes_of("1234"), bytes_of("5678")};
        const auto [error, count] = run(with.on, write_all(with.socket, parts));
        CHECK(error == std::errc::broken_pipe);
        CHECK(count == 5);
    }
    SECTION("write_all of parts, one after the other") {
        wall to;
        to.room = 5;
        const std::span<const std::byte> parts[] = {bytes_of("1234"), bytes_of("5678")};
        const auto [error, count] = run(with.on, write_all(to, parts));
        CHECK(error == std::errc::no_space_on_device);
        CHECK(count == 5);
    }
    SECTION("read_exactly, at the end") {
        with.peer.receives("12345").ends();
        const auto [error, count] = run(with.on, read_exactly(with.socket, buffer));
        CHECK(error == errc::end_of_stream);
        CHECK(count == 5);
    }
    SECTION("read_exactly, at its deadline") {
        with.peer.receives("12345");
        const auto [error, count] =
            run(with.on, with_timeout(std::chrono::seconds(1), read_exactly(with.socket, buffer)));
        CHECK(error == std::errc::timed_out);
        CHECK(count == 5);
    }
    SECTION("write_all, at its deadline") {
        with.peer.takes(3).takes(0);
        const auto [error, count] =
            run(with.on, with_timeout(std::chrono::seconds(1), write_all(with.socket, bytes_of("12345678"))));
        CHECK(error == std::errc::timed_out);
        CHECK(count == 3);
    }
}
