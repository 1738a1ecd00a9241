#include <zloop/send_file.hpp>

#include <cstdlib>
#include <string>

#include <sys/stat.h>

#include <zloop/pipe.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

namespace {

/// A file of its own that goes with it.
struct written_file {
    char path[32] = "/tmp/zloop-tests-XXXXXX";
    fd file{::mkstemp(path)};

    explicit written_file(std::string_view text) {
        REQUIRE(file);
        REQUIRE(::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }
    written_file(const written_file&) = delete;
    written_file& operator=(const written_file&) = delete;
    ~written_file() { ::unlink(path); }
};

/// Reads as the peer until `sending` is done.
template <class T>
std::string read_while(loop& on, connection& with, job<T>& sending) {
    std::string got;
    CHECK(turn_until(on, [&] {
        while (is_readable(with.peer.get())) {
            got += with.peer_reads(100'000);
        }
        return sending.done();
    }));
    while (is_readable(with.peer.get())) {
        got += with.peer_reads(100'000);
    }
    return got;
}

}  // namespace

TEST_CASE("send_file sends a file, or a part of it", "[send_file]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    const written_file from("hello, world");
    const int file = from.file.get();
    const auto check = [&](task<transferred> sending, std::string_view text) {
        CHECK(run(on, std::move(sending)).value() == text.size());
        CHECK((text.empty() || with.peer_reads() == text));
    };
    check(send_file(with.socket, file), "hello, world");
    check(send_file(with.socket, file, 7), "world");
    check(send_file(with.socket, file, 3, 4), "lo, ");
    check(send_file(with.socket, file, 7, 100), "world");
    check(send_file(with.socket, file, 7, 0), "");
    check(send_file(with.socket, file, 100), "");
    check(send_file(with.socket, from.path), "hello, world");
    CHECK(::lseek(file, 0, SEEK_CUR) == 12);
}

TEST_CASE("send_file goes through short sends and waits", "[send_file]") {
    virtual_loop on;
    const int number = on.kernel().open();
    auto& peer = on.kernel().at(number);
    stream to = stream::adopt(on, fd(number)).value();
    const written_file from("hello, world");
    for (int count = 0; count < 12; ++count) {
        peer.takes(1).stalls_write();
    }
    CHECK(run(on, send_file(to, from.file.get())).value() == 12);
    CHECK(peer.written == "hello, world");
}

TEST_CASE("send_file reads and sends where there is no sendfile", "[send_file]") {
    loop on(each_backend());
    const written_file from(pattern(5000));
    SECTION("in the sink") {
        wall to;
        to.room = 10'000;
        CHECK(run(on, send_file(to, from.path)).value() == 5000);
        CHECK(run(on, send_file(to, from.file.get(), 1, 99)).value() == 99);
        CHECK(to.seen == pattern(5000) + pattern(5000).substr(1, 99));
    }
    SECTION("for these descriptors") {
        connection with(on, kind::unix_socket);
        const probes::failing unsuited(probes::sendfile, GENERATE(EINVAL, ENOSYS, EOPNOTSUPP));
        job<transferred> sending(on, send_file(with.socket, from.file.get()));
        CHECK(read_while(on, with, sending) == pattern(5000));
        CHECK(sending.take().value() == 5000);
    }
    SECTION("after a part") {
        connection with(on, kind::unix_socket);
        const std::string text = pattern(300'000);
        const written_file large(text);
        const probes::failing unsuited(probes::sendfile, EINVAL, 1, 1);
        job<transferred> sending(on, send_file(with.socket, large.file.get()));
        CHECK(read_while(on, with, sending) == text);
        CHECK(sending.take().value() == text.size());
    }
}

TEST_CASE("send_file writes into a pipe", "[send_file]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    const written_file from("hello, world");
    CHECK(run(on, send_file(ends.writer, from.file.get(), 2)).value() == 10);
    CHECK(run(on, receive_text(ends.reader)) == "llo, world");
}

TEST_CASE("send_file of what is no file fails", "[send_file]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    const auto failure = [&](auto from) { return run(on, send_file(with.socket, from)).error; };
    CHECK(failure("/nowhere") == std::errc::no_such_file_or_directory);
    CHECK(failure("/") == std::errc::is_a_directory);
    CHECK(failure(-1) == std::errc::bad_file_descriptor);
    const pipe_ends pipe;
    CHECK(failure(pipe.out.get()) == std::errc::invalid_seek);
    char path[] = "/tmp/zloop-tests-XXXXXX";
    REQUIRE(::mkdtemp(path) != nullptr);
    const std::string fifo = std::string(path) + "/fifo";
    REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
    CHECK(failure(fifo) == std::errc::invalid_seek);  // and nobody waited for who writes into it
    ::unlink(fifo.c_str());
    ::rmdir(path);
}

TEST_CASE("send_file says how far it came when the peer is gone", "[send_file]") {
    virtual_loop on;
    const int number = on.kernel().open();
    stream to = stream::adopt(on, fd(number)).value();
    const written_file from("hello, world");
    on.kernel().at(number).takes(4).takes(3).fails_write(ECONNRESET);
    const auto done = run(on, send_file(to, from.file.get()));
    CHECK(done.error == std::errc::connection_reset);
    CHECK(done.count == 7);
    wall small;
    small.room = 3;
    const auto [error, count, unsent] = run(on, send_file(small, from.file.get()));
    CHECK(error == std::errc::no_space_on_device);
    CHECK(count == 3);
    CHECK(unsent.empty());
}

TEST_CASE("a cancelled send_file goes on from its count", "[send_file]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    const std::string text = pattern(10'000'000);
    const written_file from(text);
    job<transferred> sending(on, send_file(with.socket, from.file.get()));
    turn(on, 20);
    CHECK(!sending.done());
    sending.cancel();
    const auto done = finish(on, sending);
    CHECK(done.error == std::errc::operation_canceled);
    CHECK(done.count > 0);

    job<transferred> rest(on, send_file(with.socket, from.file.get(), done.count));
    CHECK(read_while(on, with, rest) == text);
    CHECK(rest.take().value() == text.size() - done.count);
}

TEST_CASE("send_file to a peer that has gone is an error and no signal, however much was sent",
          "[send_file]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    const written_file from(pattern(100'000));
    with.peer.reset();

    std::error_code failure;
    for (int tries = 0; tries < 50 && !failure;
         ++tries) {  // what the kernel took before it knew counts as sent
        failure = run(on, send_file(with.socket, from.file.get())).error;
    }

    CHECK((failure == std::errc::broken_pipe || failure == std::errc::connection_reset));
}
