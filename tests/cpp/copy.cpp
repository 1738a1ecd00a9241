#include <zloop/copy.hpp>

#include <stdexcept>
#include <string>

#include <zloop/buffered_reader.hpp>
#include <zloop/cancel.hpp>
#include <zloop/foreign_stream.hpp>
#include <zloop/pipe.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::script;
using zloop::testing::virtual_loop;

namespace {

/// Two made-up streams.
struct copy_fixture {
    virtual_loop on;
    int first = on.kernel().open();
    int second = on.kernel().open();
    script& source = on.kernel().at(first);
    script& sink = on.kernel().at(second);
    stream from = stream::adopt(on, fd(first)).value();
    stream to = stream::adopt(on, fd(second)).value();
};

/// A stream without receive and try_send, as a user's own layer is.
struct plain {
    stream& below;
    auto recv(std::span<std::byte> buffer) { return below.recv(buffer); }
    auto send(std::span<const std::byte> buffer) { return below.send(buffer); }
};

std::string stepped(std::size_t size, unsigned step) {
    std::string text(size, '\0');
    for (std::size_t index = 0; index < size; ++index) {
        text[index] = static_cast<char>(index * step / 7 + index / 251);
    }
    return text;
}

std::string unsent(const transferred& done) { return text_of(done.unsent); }

/// The same copy by each of the ways that bytes can take.
template <class F>
void each_way(copy_fixture& with, F check) {
    plain plain_from{with.from}, plain_to{with.to};
    buffered_reader<stream&> reader(with.from);
    SECTION("lent, sent now or never") { check(with.from, with.to); }
    SECTION("lent, to a sink that always waits") { check(with.from, plain_to); }
    SECTION("through a buffer") { check(plain_from, with.to); }
    SECTION("through a buffer, to a sink that always waits") { check(plain_from, plain_to); }
    SECTION("out of a reader") { check(reader, with.to); }
    SECTION("out of a reader, to a sink that always waits") { check(reader, plain_to); }
}

}  // namespace

TEST_CASE("copy sends all up to the end of its source, and ends nothing", "[copy]") {
    copy_fixture with;
    with.source.receives("hello").stalls_read().receives(", ").receives("world").ends();
    each_way(with, [&](auto& from, auto& to) {
        const auto [error, count, unsent] = run(with.on, copy(from, to));
        CHECK(!error);
        CHECK(count == 12);
        CHECK(unsent.empty());
        CHECK(with.sink.written == "hello, world");
        CHECK(run(with.on, write_all(to, bytes_of("!"))));
    });
}

TEST_CASE("copy goes through reads and writes of one byte, and waits", "[copy]") {
    copy_fixture with;
    const std::string text = stepped(300, 3);
    with.source.receives(text).ends();
    for (std::size_t index = 0; index < text.size(); ++index) {
        with.source.gives(index % 5 == 0 ? 7 : 1);
        with.sink.takes(1);
        if (index % 7 == 0) {
            with.sink.stalls_write();
        }
    }
    each_way(with, [&](auto& from, auto& to) {
        CHECK(run(with.on, copy(from, to)).value() == text.size());
        CHECK(with.sink.written == text);
    });
}

TEST_CASE("copy stops at its limit, and leaves the rest in the source", "[copy]") {
    copy_fixture with;
    with.source.receives("hello, world").ends();
    each_way(with, [&](auto& from, auto& to) {
        CHECK(run(with.on, copy(from, to, 0)).value() == 0);
        CHECK(run(with.on, copy(from, to, 5)).value() == 5);
        CHECK(with.sink.written == "hello");
        CHECK(run(with.on, copy(from, to, 2)).value() == 2);
        CHECK(with.sink.written == "hello, ");
        CHECK(run(with.on, copy(from, to, 100)).value() == 5);
        CHECK(with.sink.written == "hello, world");
    });
}

TEST_CASE("copy through a limit that needs several buffers", "[copy]") {
    copy_fixture with;
    const std::string text = stepped(200'000, 5);
    with.source.receives(text);
    each_way(with, [&](auto& from, auto& to) {
        CHECK(run(with.on, copy(from, to, 150'000)).value() == 150'000);
        CHECK(with.sink.written == text.substr(0, 150'000));
    });
}

TEST_CASE("copy says how far it came when its source fails", "[copy]") {
    copy_fixture with;
    with.source.receives("hello").fails_read(ECONNRESET);
    each_way(with, [&](auto& from, auto& to) {
        const auto done = run(with.on, copy(from, to));
        CHECK(done.error == std::errc::connection_reset);
        CHECK(!done);
        CHECK(done.count == 5);
        CHECK(done.unsent.empty());
        CHECK_THROWS_AS(done.value(), std::system_error);
    });
}

TEST_CASE("copy loses no byte when its sink fails", "[copy]") {
    copy_fixture with;
    with.source.receives("hello, world");
    const int when = GENERATE(0, 1, 2);  // at once, after a part, after a wait
    if (when > 0) {
        with.sink.takes(4);
    }
    if (when > 1) {
        with.sink.stalls_write();
    }
    with.sink.fails_write(ECONNRESET);
    const auto check = [&](auto& from, auto& to, const auto& kept) {
        const auto done = run(with.on, copy(from, to));
        CHECK(done.error == std::errc::connection_reset);
        CHECK(done.count == with.sink.written.size());
        CHECK(with.sink.written + kept(done) == "hello, world");
    };
    plain plain_from{with.from}, plain_to{with.to};
    buffered_reader<stream&> reader(with.from);
    SECTION("lent") { check(with.from, with.to, unsent); }
    SECTION("lent, to a sink that always waits") { check(with.from, plain_to, unsent); }
    SECTION("through a buffer") { check(plain_from, with.to, unsent); }
    SECTION("out of a reader, which keeps it") {
        check(reader, with.to, [&](const transferred& done) {
            CHECK(done.unsent.empty());
            return std::string(reader.buffered());
        });
    }
}

TEST_CASE("a copy that is cancelled while it waits for its source goes on later", "[copy]") {
    copy_fixture with;
    with.source.receives("hello, ");
    each_way(with, [&](auto& from, auto& to) {
        auto copying = with.on.start(copy(from, to));
        with.on.settle();
        CHECK(!copying.done());
        copying.cancel();

        const auto done = with.on.join(copying);
        CHECK(done.error == std::errc::operation_canceled);
        CHECK(done.count == 7);
        CHECK(done.unsent.empty());
        with.source.receives("world").ends();
        CHECK(run(with.on, copy(from, to)).value() == 5);
        CHECK(with.sink.written == "hello, world");
    });
}

TEST_CASE("a copy that is cancelled while it waits for its sink gives back what was not sent", "[copy]") {
    copy_fixture with;
    with.source.receives("hello, world");
    with.sink.takes(3).takes(0);
    each_way(with, [&](auto& from, auto& to) {
        auto copying = with.on.start(copy(from, to));
        with.on.settle();
        CHECK(!copying.done());
        copying.cancel();

        const auto done = with.on.join(copying);
        CHECK(done.error == std::errc::operation_canceled);
        CHECK(done.count == 3);
        with.sink.takes(1).takes(100);
        with.source.ends();
        CHECK(run(with.on, write_all(to, done.unsent)));
        CHECK(run(with.on, copy(from, to)).value() + done.count + done.unsent.size() == 12);
        CHECK(with.sink.written == "hello, world");
    });
}

TEST_CASE("a deadline around a copy keeps the count", "[copy]") {
    copy_fixture with;
    with.source.receives("hello");
    auto outcome = run(with.on, with_timeout(1s, copy(with.from, with.to)));
    CHECK(outcome.error == std::errc::timed_out);
    CHECK(outcome.count == 5);
}

TEST_CASE("copy passes on what its source or its sink throws", "[copy]") {
    struct moody {
        task<result<std::size_t>> recv(std::span<std::byte>) {
            co_await next_turn();
            throw std::domain_error("source");
        }
        task<result<std::size_t>> send(std::span<const std::byte>) {
            co_await next_turn();
            throw std::domain_error("sink");
        }
    };
    copy_fixture with;
    with.source.receives("hello");
    moody broken;
    CHECK_THROWS_WITH(run(with.on, copy(broken, with.to)), "source");
    CHECK_THROWS_WITH(run(with.on, copy(with.from, broken)), "sink");
    with.source.receives("again");
    buffered_reader reader(with.from);
    CHECK_THROWS_WITH(run(with.on, copy(reader, broken)), "sink");
    CHECK(reader.buffered() == "again");  // which a reader does not lose
}

TEST_CASE("copy works between a user's own source and sink", "[copy]") {
    virtual_loop on;
    countdown from;
    wall to;
    to.room = 7;
    const auto done = run(on, copy(from, to));
    CHECK(done.error == std::errc::no_space_on_device);
    CHECK(to.seen == "9876543");
    CHECK(done.count == 7);
    CHECK(unsent(done) == "2");  // "1" and "0" were not read
}

TEST_CASE("a stream may be copied into itself: an echo", "[copy]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    job<transferred> echoing(on, copy(with.socket, with.socket));
    for (const char* text : {"one", "two"}) {
        with.sends(text);
        CHECK(turn_until(on, [&] { return is_readable(with.peer.get()); }));
        CHECK(with.peer_reads() == text);
    }
    CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0);
    CHECK(finish(on, echoing).value() == 6);
}

// On epoll all tasks' bytes come into the same memory.
TEST_CASE("copies beside each other do not see each other's bytes", "[copy]") {
    loop on(each_backend());
    const bool tries = GENERATE(true, false);
    connection one(on, kind::unix_socket), two(on, kind::unix_socket);
    connection other_one(on, kind::tcp), other_two(on, kind::unix_socket);
    for (auto* each : {&other_one, &other_two}) {
        CHECK(each->socket.set_send_buffer(5000));
    }
    const std::string texts[] = {stepped(100'000, 3), stepped(100'000, 11)};
    plain plain_one{other_one.socket}, plain_two{other_two.socket};
    job<transferred> first(on, tries ? copy(one.socket, other_one.socket) : copy(one.socket, plain_one));
    job<transferred> second(on, tries ? copy(two.socket, other_two.socket) : copy(two.socket, plain_two));

    std::size_t sent[2] = {};
    std::string got[2];
    const connection* sources[] = {&one, &two};
    connection* sinks[] = {&other_one, &other_two};
    CHECK(turn_until(on, [&] {
        for (const int index : {0, 1}) {
            const auto rest = std::string_view(texts[index]).substr(sent[index]);
            const ssize_t count = ::send(sources[index]->peer.get(), rest.data(), rest.size(), MSG_DONTWAIT);
            sent[index] += count > 0 ? static_cast<std::size_t>(count) : 0;
            if (is_readable(sinks[index]->peer.get())) {
                got[index] += sinks[index]->peer_reads(3000);
            }
        }
        return got[0].size() == texts[0].size() && got[1].size() == texts[1].size();
    }));
    CHECK(got[0] == texts[0]);
    CHECK(got[1] == texts[1]);
    one.peer.reset();
    two.peer.reset();
    CHECK(finish(on, first).value() == texts[0].size());
    CHECK(finish(on, second).value() == texts[1].size());
}

TEST_CASE("copy works between pipes and descriptors of somebody else", "[copy]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    pipe_ends in, out;
    foreign_stream input(in.out.get()), output(out.in.get());
    job<transferred> first(on, copy(input, ends.writer));
    job<transferred> second(on, copy(ends.reader, output));
    in.write();
    CHECK(turn_until(on, [&] { return is_readable(out.out.get()); }));
    out.read();
    in.write();
    in.in.reset();
    CHECK(finish(on, first).value() == 2);
    ends.writer.close();
    CHECK(finish(on, second).value() == 2);
}

TEST_CASE("a copy whose sink keeps up allocates nothing", "[copy]") {
    if (!probes::counts_allocations) {
        return;
    }
    loop on(each_backend());
    connection from(on, kind::unix_socket), to(on, kind::unix_socket);
    job<transferred> copying(on, copy(from.socket, to.socket));
    std::byte room[100];
    const auto round = [&] {
        CHECK(::send(from.peer.get(), "hello", 5, 0) == 5);
        while (::recv(to.peer.get(), room, sizeof room, MSG_DONTWAIT) <= 0) {
            on.run_once(10ms);
        }
    };
    round();
    const std::size_t before = probes::allocations();
    for (int count = 0; count < 20; ++count) {
        round();
    }
    CHECK(probes::allocations() - before == 0);
    from.peer.reset();
    CHECK(finish(on, copying).value() == 105);
}
