#include <zloop/buffered_reader.hpp>

#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include <zloop/cancel.hpp>
#include <zloop/copy.hpp>
#include <zloop/foreign_stream.hpp>
#include <zloop/pipe.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

namespace {

/// A reader that refers to a made-up stream.
struct reader_fixture : scripted_stream {
    explicit reader_fixture(std::size_t limit_bytes = 64 * 1024) : reader(socket, limit_bytes) {}

    buffered_reader<stream&> reader;

    /// Text, or the error's message.
    template <class T>
    std::string got(task<result<T>> work) {
        const auto outcome = run(on, std::move(work));
        if (!outcome) {
            return outcome.error().message();
        }
        if constexpr (std::is_same_v<T, std::string_view>) {
            return std::string(*outcome);
        } else if constexpr (std::is_same_v<T, std::size_t>) {
            return std::to_string(*outcome);
        } else {
            return text_of(*outcome);
        }
    }
    std::string line() { return got(reader.read_line()); }

    std::string read(std::size_t most) {
        std::string text(most, '\0');
        const auto count = run(on, reader.recv(std::as_writable_bytes(std::span(text))));
        return count ? text.substr(0, *count) : count.error().message();
    }
};

std::string message(errc code) { return make_error_code(code).message(); }

/// Lines until the end, and what is behind the last.
template <class S>
task<std::vector<std::string>> all_lines(buffered_reader<S>& from) {
    std::vector<std::string> lines;
    while (const auto line = co_await from.read_line()) {
        lines.emplace_back(*line);
    }
    lines.emplace_back(from.buffered());
    co_return lines;
}

}  // namespace

TEST_CASE("lines come one by one, without their ends", "[buffered_reader]") {
    reader_fixture with;
    with.peer.receives("one\ntwo\r\n\n\r\nth").receives("ree\r").receives("\nfour").ends();

    CHECK(with.line() == "one");
    CHECK(with.line() == "two");
    CHECK(with.line().empty());
    CHECK(with.line().empty());
    CHECK(with.line() == "three");
    CHECK(with.line() == message(errc::end_of_stream));
    CHECK(with.reader.buffered() == "four");
    CHECK(with.line() == message(errc::end_of_stream));
}

TEST_CASE("a carriage return alone ends no line, and only the last one is taken off", "[buffered_reader]") {
    reader_fixture with;
    with.peer.receives("a\rb\r\r\n");
    CHECK(with.line() == "a\rb\r");
}

TEST_CASE("a message of a line, a body and a trailer is taken apart", "[buffered_reader]") {
    reader_fixture with;
    std::string all = "POST /\r\nlength: 5\r\n\r\nhello--\r\nnext";
    SECTION("in one piece") { with.peer.receives(all); }
    SECTION("a byte at a time") {
        with.peer.receives(all);
        for (std::size_t count = 0; count < all.size(); ++count) {
            with.peer.gives(1);
        }
    }
    SECTION("with pauses") {
        for (const char byte : all) {
            with.peer.receives({&byte, 1}).stalls_read();
        }
    }
    with.peer.ends();

    CHECK(with.got(with.reader.read_until("\r\n\r\n")) == "POST /\r\nlength: 5\r\n\r\n");
    CHECK(with.got(with.reader.read_exactly(5)) == "hello");
    CHECK(with.got(with.reader.peek(2)).substr(0, 2) == "--");
    CHECK(with.got(with.reader.peek_until("\r\n")) == "4");
    CHECK(with.line() == "--");
    CHECK(with.got(with.reader.read_exactly(5)) == message(errc::end_of_stream));
    CHECK(with.reader.buffered() == "next");
    with.reader.consume(1);
    CHECK(with.got(with.reader.peek(100)) == "ext");  // no error: it is all there is
    CHECK(with.got(with.reader.receive()) == "ext");
    CHECK(with.got(with.reader.receive()).empty());
    CHECK(with.got(with.reader.peek()).empty());
    CHECK(with.got(with.reader.read_exactly(0)).empty());
}

TEST_CASE("any chunks give the same lines", "[buffered_reader]") {
    std::minstd_rand random(7);
    const auto upto = [&](std::size_t most) {
        return std::uniform_int_distribution<std::size_t>(0, most)(random);
    };
    for (int round = 0; round < 200; ++round) {
        const std::size_t limit = 20 + upto(100) * upto(100);
        reader_fixture with(limit);
        std::vector<std::string> lines(1 + upto(60));
        std::string all;
        for (auto& line : lines) {
            for (std::size_t size = upto(upto(3) == 0 ? limit - 2 : 10); size > 0; --size) {
                line += "abc\r"[upto(2)];
            }
            all += line + (upto(1) == 0 ? "\n" : "\r\n");
        }
        lines.emplace_back(upto(10), 'z');
        all += lines.back();
        for (std::string_view rest = all; !rest.empty();) {
            const auto piece = rest.substr(0, 1 + upto(upto(1) == 0 ? 3 : 5000));
            with.peer.receives(piece).gives(1 + upto(upto(1) == 0 ? 5 : 5000));
            rest.remove_prefix(piece.size());
            if (upto(4) == 0) {
                with.peer.stalls_read();
            }
        }
        with.peer.ends();

        CHECK(run(with.on, all_lines(with.reader)) == lines);
    }
}

TEST_CASE("what is longer than the limit is refused, and stays", "[buffered_reader]") {
    reader_fixture with(10);
    with.peer.receives("0123456789abc\n");
    SECTION("a line") { CHECK(with.line() == message(errc::limit_exceeded)); }
    SECTION("a line, again") {
        CHECK(with.line() == message(errc::limit_exceeded));
        CHECK(with.line() == message(errc::limit_exceeded));
    }
    SECTION("a count, without reading") {
        CHECK(with.got(with.reader.read_exactly(11)) == message(errc::limit_exceeded));
        CHECK(with.got(with.reader.peek(11)) == message(errc::limit_exceeded));
        CHECK(with.reader.buffered().empty());
        CHECK(with.got(with.reader.peek(10)) == "0123456789");
        CHECK(with.got(with.reader.fill()) == message(errc::limit_exceeded));
    }
    CHECK(with.reader.buffered() == "0123456789");
    with.reader.consume(4);
    CHECK(with.line() == "456789abc");  // the limit exactly, with its end
}

TEST_CASE("a failure of the source takes nothing", "[buffered_reader]") {
    reader_fixture with;
    with.peer.receives("almost").fails_read(ECONNRESET).receives(" there\n");

    CHECK(with.line() == support::message(std::errc::connection_reset));
    CHECK(with.reader.buffered() == "almost");
    CHECK(with.line() == "almost there");
}

TEST_CASE("a cancelled read takes nothing, and the next one goes on", "[buffered_reader]") {
    reader_fixture with;
    const auto cancel = [&]<class T>(task<result<T>> work) {
        with.peer.receives("x");
        auto reading = with.on.start(std::move(work));
        with.on.settle();
        reading.cancel();
        CHECK(with.on.join(reading).error() == std::errc::operation_canceled);
    };
    cancel(with.reader.read_line());
    cancel(with.reader.read_until("yyyy"));
    cancel(with.reader.read_exactly(10));
    cancel(with.reader.peek(10));
    cancel(with.reader.peek_until("yyyy"));
    CHECK(with.reader.buffered() == "xxxxx");

    auto late = with.on.start(with_timeout(1s, with.reader.read_line()));
    CHECK(with.on.join(late).error() == std::errc::timed_out);
    with.peer.receives("y\n");
    CHECK(with.line() == "xxxxxy");
}

TEST_CASE("a read that loses a race takes nothing, and one whose result was dropped is peeked at again",
          "[buffered_reader]") {
    reader_fixture with;
    auto other = []() -> task<int> { co_return 1; };
    const auto race = [&] { return run(with.on, when_any(with.reader.peek_until("\n"), other())); };
    with.peer.receives("line");
    CHECK(race().index() == 1);
    with.peer.receives("\n");
    static_cast<void>(race());
    CHECK(with.line() == "line");
}

TEST_CASE("what a source throws comes out, and nothing is lost", "[buffered_reader]") {
    struct moody {
        int calls = 0;
        task<result<std::size_t>> recv(std::span<std::byte> into) {
            co_await next_turn();
            if (++calls % 2 == 0) {
                throw std::domain_error("moody");
            }
            into[0] = static_cast<std::byte>(calls == 5 ? '\n' : '-');
            co_return 1u;
        }
    };
    virtual_loop on;
    moody source;
    buffered_reader reader(source);
    CHECK_THROWS_AS(run(on, reader.read_line()), std::domain_error);
    CHECK(reader.buffered() == "-");
    CHECK_THROWS_AS(run(on, reader.peek(10)), std::domain_error);
    CHECK(run(on, reader.read_line()).value() == "--");
}

TEST_CASE("a reader is a byte source: what is buffered comes first", "[buffered_reader]") {
    reader_fixture with;
    with.peer.receives("line\nrest").receives("more").ends();
    CHECK(with.line() == "line");
    std::string text(6, '\0');
    SECTION("recv") {
        CHECK(with.read(2) == "re");
        CHECK(with.read(0).empty());
        CHECK(with.read(100) == "st");
        CHECK(with.read(3) == "mor");
        CHECK(with.read(100) == "e");
        CHECK(with.read(1).empty());
    }
    SECTION("recv into a large buffer, which is read into directly") {
        CHECK(with.read(10'000) == "rest");
        CHECK(with.read(10'000) == "more");
        CHECK(with.reader.buffered().empty());
        CHECK(with.read(10'000).empty());
    }
    SECTION("read_exactly") {
        CHECK(run(with.on, read_exactly(with.reader, std::as_writable_bytes(std::span(text)))));
        CHECK(text == "restmo");
        CHECK(with.got(with.reader.receive()) == "re");
    }
    SECTION("read_until") {
        text.clear();
        CHECK(run(with.on, read_until(with.reader, text, "mo")).value() == 6);
    }
    SECTION("copy") {
        wall to;
        CHECK(run(with.on, copy(with.reader, to)).value() == 8);
        CHECK(to.seen == "restmore");
    }
}

TEST_CASE("a reader over a stream is a stream, and readers stack", "[buffered_reader]") {
    static_assert(byte_stream<buffered_reader<stream>> && vectored_sink<buffered_reader<stream&>>);
    static_assert(byte_source<buffered_reader<countdown&>> && !byte_sink<buffered_reader<countdown&>>);
    static_assert(byte_sink<buffered_reader<foreign_stream>> &&
                  !vectored_sink<buffered_reader<foreign_stream>>);
    reader_fixture with;
    with.peer.receives("one\ntwo\n");
    buffered_reader<buffered_reader<stream&>&> upper(with.reader, 4);

    CHECK(with.got(upper.read_line()) == "one");
    CHECK(upper.buffered().empty());
    CHECK(with.reader.buffered() == "two\n");
    CHECK(with.got(upper.read_line()) == "two");

    const std::span<const std::byte> parts[] = {bytes_of("a"), bytes_of("b")};
    CHECK(run(with.on, write_all(upper, parts)));
    CHECK(run(with.on, write_all(with.reader, bytes_of("c"))));
    CHECK(with.peer.written == "abc");
}

TEST_CASE("a reader refers to its source, or owns it, and moves with what it has", "[buffered_reader]") {
    virtual_loop on;
    const int number = on.kernel().open();
    on.kernel().at(number).receives("one\ntwo\n");
    stream socket = stream::adopt(on, fd(number)).value();
    {
        buffered_reader referring(socket);
        static_assert(std::is_same_v<decltype(referring), buffered_reader<stream&>>);
        CHECK(&referring.source() == &socket);
    }
    buffered_reader owning(std::move(socket), 100);
    static_assert(std::is_same_v<decltype(owning), buffered_reader<stream>>);
    CHECK(owning.source().native_handle() == number);
    CHECK(run(on, owning.read_line()).value() == "one");

    buffered_reader moved(std::move(owning));
    CHECK(moved.buffered() == "two\n");
    CHECK(run(on, moved.read_line()).value() == "two");
    buffered_reader<stream> another{stream()};
    another = std::move(moved);
    CHECK(another.source().native_handle() == number);
    CHECK(!on.kernel().at(number).closed);
    another.source().close();
    CHECK(on.kernel().at(number).closed);
}

TEST_CASE("a reader works on each kind of stream", "[buffered_reader]") {
    loop on(each_backend());
    const auto check = [&](auto source, int peer, auto end) {
        buffered_reader reader(std::move(source));
        const std::string text = std::string(10'000, 'a') + "\nb\nend";
        REQUIRE(::write(peer, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
        CHECK(run(on, reader.read_line()).value() == std::string(10'000, 'a'));
        CHECK(run(on, reader.read_exactly(2)).value() == "b\n");
        job<std::vector<std::string>> reading(on, all_lines(reader));
        turn(on, 3);
        CHECK(!reading.done());
        end();
        CHECK(finish(on, reading) == std::vector<std::string>{"end"});
    };
    SECTION("a socket") {
        connection with(on, GENERATE(kind::tcp, kind::unix_socket));
        check(std::move(with.socket), with.peer.get(), [&] { with.peer.reset(); });
    }
    SECTION("a pipe") {
        auto ends = make_pipe(on).value();
        check(std::move(ends.reader), ends.writer.native_handle(), [&] { ends.writer.close(); });
    }
    SECTION("a descriptor of somebody else") {
        pipe_ends ends;
        check(foreign_stream(ends.out.get()), ends.in.get(), [&] { ends.in.reset(); });
    }
}

TEST_CASE("a buffer grows with what comes, up to its limit", "[buffered_reader]") {
    detail::byte_queue bytes(20'000);
    const auto come = [&](std::size_t count) { bytes.came(count); };
    CHECK(bytes.room(0).size() == 4096);  // nothing before
    come(100);
    CHECK(bytes.room(0).size() == 3996);
    bytes.take(100);
    CHECK(bytes.room(0).size() == 4096);
    come(4096);  // all at once: there will be more
    bytes.take(4096);
    CHECK(bytes.room(0).size() == 8192);
    come(5000);
    CHECK(bytes.room(0).size() == 3192);
    come(3192);
    bytes.take(5000);
    CHECK(bytes.room(0).size() == 5000);  // less than half is used: it moves to the front
    CHECK(bytes.room(9000).size() == 9000 - 3192);
    come(9000 - 3192);
    CHECK(bytes.room(0).size() == 18'000 - 9000);
    come(9000);
    CHECK(bytes.room(0).size() == 2000);
    come(2000);
    CHECK(bytes.room(0).empty());
    bytes.take(1);
    CHECK(bytes.room(0).size() == 1);
    CHECK(bytes.size() == 19'999);
}

TEST_CASE("reading lines allocates nothing once the buffer is there", "[buffered_reader]") {
    if (!probes::counts_allocations) {
        return;
    }
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    buffered_reader reader(with.socket);
    const auto round = [&] {
        with.sends("a line\nanother\nand half");
        auto work = [&]() -> task<> {
            (co_await reader.read_line()).value();
            (co_await reader.read_until("\n")).value();
            (co_await reader.read_exactly(8)).value();
        };
        run(on, work());
    };
    round();
    const std::size_t before = probes::allocations();
    for (int count = 0; count < 10; ++count) {
        round();
    }
    CHECK(probes::allocations() - before == 0);
}
