#include <zloop/pipe.hpp>

#include <string>

#include <zloop/job.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("what is written into a pipe is read from it, up to its end", "[pipe]") {
    loop on(each_backend());
    auto [reader, writer] = make_pipe(on).value();
    CHECK(run(on, write_all(writer, bytes_of("hello"))));
    CHECK(run(on, receive_text(reader)) == "hello");
    CHECK(run(on, write_all(writer, bytes_of("more"))));
    CHECK(run(on, recv_text(reader, 2)) == "mo");
    writer.close();
    CHECK(run(on, recv_text(reader, 100)) == "re");
    CHECK(run(on, receive_text(reader)).empty());
    CHECK(run(on, recv_text(reader, 100)).empty());
}

TEST_CASE("a pipe takes several buffers in order", "[pipe]") {
    loop on(each_backend());
    auto [reader, writer] = make_pipe(on).value();
    const iovec parts[] = {{const_cast<char*>("ab"), 2}, {const_cast<char*>("cde"), 3}};
    auto& into = writer;
    CHECK(run(on, perform([&] { return into.send(parts); })).value() == 5);
    CHECK(run(on, receive_text(reader)) == "abcde");
}

TEST_CASE("a read from an empty pipe waits, and ends with the writer", "[pipe]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    job<std::string> reading(on, receive_text(ends.reader));
    turn(on, 3);
    CHECK(!reading.done());

    ends.writer.close();

    CHECK(finish(on, reading).empty());
}

TEST_CASE("a write into a full pipe waits until it is read, or its reader is gone", "[pipe]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    fill(ends.writer);
    job<result<std::size_t>> sending(on, send_some(ends.writer, "last"));
    turn(on, 3);
    REQUIRE(!sending.done());

    SECTION("read") {
        std::string all;
        while (all.find('l') == std::string::npos) {
            all += run(on, receive_text(ends.reader));
        }
        while (!all.ends_with("last")) {
            all += run(on, receive_text(ends.reader));
        }
        CHECK(finish(on, sending).value() == 4);
    }
    SECTION("gone") {
        ends.reader.close();
        CHECK(finish(on, sending).error() == std::errc::broken_pipe);
        CHECK(run(on, send_some(ends.writer, "x")).error() == std::errc::broken_pipe);
    }
}

TEST_CASE("everything goes through a pipe that is read while it is written", "[pipe]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    std::string sent(1 << 20, '\0'), got(1 << 20, '\0');
    for (std::size_t index = 0; index < sent.size(); ++index) {
        sent[index] = static_cast<char>(index * 31 / 7);
    }
    job<result<void>> writing(on, write_all(ends.writer, bytes_of(sent)));
    CHECK(run(on, read_exactly(ends.reader, std::as_writable_bytes(std::span(got)))));
    CHECK(finish(on, writing));

    CHECK((got == sent));
}

TEST_CASE("a pipe's operations are cancelled, and end when it is closed", "[pipe]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    fill(ends.writer);
    auto idle = make_pipe(on).value();
    job<std::string> reading(on, receive_text(idle.reader));
    job<result<std::size_t>> sending(on, send_some(ends.writer, "never"));
    turn(on, 3);
    SECTION("cancelled") {
        reading.cancel();
        sending.cancel();
    }
    SECTION("closed") {
        idle.reader.close();
        ends.writer.close();
    }
    CHECK(finish(on, reading) == message(std::errc::operation_canceled));
    CHECK(finish(on, sending).error() == std::errc::operation_canceled);
}

TEST_CASE("a read from a pipe that is cancelled when bytes are there leaves or has them", "[pipe]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    job<std::string> reading(on, receive_text(ends.reader));
    turn(on, 2);
    const iovec part{const_cast<char*>("kept"), 4};
    CHECK(ends.writer.try_send({&part, 1}).value() == 4);
    queue_events(on);
    reading.cancel();
    const std::string outcome = finish(on, reading);

    CHECK((outcome == "kept" || (outcome == message(std::errc::operation_canceled) &&
                                 run(on, receive_text(ends.reader)) == "kept")));
}

TEST_CASE("a pipe's ends are not inherited, and closed when a pipe cannot be made", "[pipe]") {
    loop on(platform_backend());
    const auto before = open_descriptors();
    {
        const auto ends = make_pipe(on).value();
        for (const int each : {ends.reader.native_handle(), ends.writer.native_handle()}) {
            CHECK((::fcntl(each, F_GETFL) & O_NONBLOCK) != 0);
            CHECK((::fcntl(each, F_GETFD) & FD_CLOEXEC) != 0);
        }
    }
    {
        const probes::failing not_in_service(probes::epoll_ctl, ENOSPC);
        CHECK(make_pipe(on).error() == std::errc::no_space_on_device);
    }
    CHECK(open_descriptors() == before);
    const probes::failing no_descriptors(probes::pipe2, EMFILE);
    CHECK(make_pipe(on).error() == std::errc::too_many_files_open);
}

TEST_CASE("a pipe knows no options and no address", "[pipe]") {
    loop on(each_backend());
    auto ends = make_pipe(on).value();
    CHECK(ends.reader.local_address() == address());
    CHECK(ends.writer.set_no_delay(true).error() == std::errc::not_a_socket);
    CHECK(ends.writer.shutdown(direction::write).error() == std::errc::not_a_socket);
}
