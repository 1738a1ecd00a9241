#include <zloop/foreign_stream.hpp>

#include <cstdlib>
#include <optional>
#include <string>
#include <thread>

#include <sys/mman.h>
#include <termios.h>

#include <zloop/job.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

enum class thing { pipe, nowait_less_pipe, stream_socket, terminal };

/// Two descriptors, both blocking, the first to be used by a foreign_stream.
struct ends {
    fd ours, theirs;
    std::optional<probes::failing> no_read, no_write;

    ends(thing what, direction toward) {
        int both[2];
        switch (what) {
            case thing::nowait_less_pipe:
                no_read.emplace(probes::preadv2, EOPNOTSUPP, 1'000'000);
                no_write.emplace(probes::pwritev2, EOPNOTSUPP, 1'000'000);
                [[fallthrough]];
            case thing::pipe:
                REQUIRE(::pipe2(both, O_CLOEXEC) == 0);
                ours.reset(both[toward == direction::read ? 0 : 1]);
                theirs.reset(both[toward == direction::read ? 1 : 0]);
                break;
            case thing::stream_socket:
                REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0);
                ours.reset(both[0]);
                theirs.reset(both[1]);
                break;
            case thing::terminal:
                theirs.reset(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
                REQUIRE(::grantpt(theirs.get()) == 0);
                REQUIRE(::unlockpt(theirs.get()) == 0);
                ours.reset(::open(::ptsname(theirs.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
                REQUIRE(ours);
                termios raw;
                REQUIRE(::tcgetattr(ours.get(), &raw) == 0);
                ::cfmakeraw(&raw);
                REQUIRE(::tcsetattr(ours.get(), TCSANOW, &raw) == 0);
                break;
        }
    }

    void writes(std::string_view text) const {
        CHECK(::write(theirs.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }
    std::string reads(std::size_t most = 1 << 16) const {
        std::string text(most, '\0');
        const ssize_t count = ::read(theirs.get(), text.data(), most);
        text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
        return text;
    }
    bool is_untouched() const { return (::fcntl(ours.get(), F_GETFL) & O_NONBLOCK) == 0; }
};

task<std::string> read_some(foreign_stream& from, std::size_t most = 100) {
    std::string text(most, '\0');
    auto [error, count] = co_await from.recv(std::as_writable_bytes(std::span(text)));
    co_return error ? error.message() : text.substr(0, count);
}

const auto any_thing = [] {
    return GENERATE(thing::pipe, thing::nowait_less_pipe, thing::stream_socket, thing::terminal);
};

}  // namespace

TEST_CASE("bytes are read from a blocking descriptor, whose flags stay as they are", "[foreign_stream]") {
    loop on(each_backend());
    const ends with(any_thing(), direction::read);
    foreign_stream input(with.ours.get());
    CHECK(input.native_handle() == with.ours.get());
    with.writes("there");
    std::string got(5, '\0');
    CHECK(run(on, read_exactly(input, std::as_writable_bytes(std::span(got)))));
    CHECK(got == "there");

    job<result<void>> reading(on, read_exactly(input, std::as_writable_bytes(std::span(got))));
    turn(on, 3);
    CHECK(!reading.done());
    with.writes("later, and more");
    CHECK(finish(on, reading));
    CHECK(got == "later");
    CHECK(with.is_untouched());
}

TEST_CASE("the end of what is read is no bytes", "[foreign_stream]") {
    loop on(each_backend());
    const thing what = GENERATE(thing::pipe, thing::nowait_less_pipe, thing::stream_socket);
    ends with(what, direction::read);
    foreign_stream input(with.ours.get());
    with.writes("last");
    job<std::string> reading(on, read_some(input));
    CHECK(finish(on, reading) == "last");
    job<std::string> at_end(on, read_some(input));
    turn(on, 3);
    with.theirs.reset();

    CHECK(finish(on, at_end).empty());
    CHECK(run(on, read_some(input)).empty());
}

TEST_CASE("a terminal that hangs up is an error or an end, and not for ever", "[foreign_stream]") {
    loop on(each_backend());
    ends with(thing::terminal, direction::read);
    foreign_stream input(with.ours.get());
    job<std::string> reading(on, read_some(input));
    turn(on, 3);
    with.theirs.reset();

    const std::string outcome = finish(on, reading);
    CHECK((outcome.empty() || outcome == system_error_code(EIO).message()));
}

TEST_CASE("bytes are written to a blocking descriptor, which waits for the reader and not for us",
          "[foreign_stream]") {
    loop on(each_backend());
    const thing what = any_thing();
    const ends with(what, direction::write);
    foreign_stream output(with.ours.get());
    std::string sent(1 << 18, '\0');
    for (std::size_t index = 0; index < sent.size(); ++index) {
        sent[index] = static_cast<char>('a' + index % 23);
    }
    job<result<void>> writing(on, write_all(output, bytes_of(sent)));
    turn(on, 300);  // each of which ends
    CHECK(!writing.done());

    std::string got;
    std::thread reader([&] {
        while (got.size() < sent.size()) {
            got += with.reads();
        }
    });
    CHECK(finish(on, writing));
    reader.join();
    CHECK((got == sent));
    CHECK(with.is_untouched());
}

TEST_CASE("a write to a reader that is gone fails, and raises no signal", "[foreign_stream]") {
    loop on(each_backend());
    const thing what = GENERATE(thing::pipe, thing::nowait_less_pipe, thing::stream_socket);
    ends with(what, direction::write);
    foreign_stream output(with.ours.get());
    with.theirs.reset();

    CHECK(run(on, write_all(output, bytes_of("x"))).error() == std::errc::broken_pipe);
}

TEST_CASE("what is cancelled while it waits has read and written nothing", "[foreign_stream]") {
    loop on(each_backend());
    const thing what = any_thing();
    const ends with(what, direction::read);
    foreign_stream input(with.ours.get());
    job<std::string> reading(on, read_some(input));
    turn(on, 3);
    SECTION("and nothing came") {
        reading.cancel();
        CHECK(finish(on, reading) == message(std::errc::operation_canceled));
        with.writes("kept");
        CHECK(run(on, read_some(input)) == "kept");
    }
    SECTION("and something came") {
        with.writes("kept");
        is_readable(with.ours.get(), 1000);
        queue_events(on);
        reading.cancel();
        const std::string outcome = finish(on, reading);
        CHECK((outcome == "kept" ||
               (outcome == message(std::errc::operation_canceled) && run(on, read_some(input)) == "kept")));
    }
    SECTION("before it began") {
        reading.cancel();
        CHECK(finish(on, reading) == message(std::errc::operation_canceled));
        with.writes("kept");
        job<std::string> other(on, read_some(input));
        other.cancel();
        CHECK(finish(on, other) == message(std::errc::operation_canceled));
        CHECK(run(on, read_some(input)) == "kept");
    }
}

TEST_CASE("a write that is cancelled while it waits writes nothing later", "[foreign_stream]") {
    loop on(each_backend());
    const thing what = any_thing();
    const ends with(what, direction::write);
    foreign_stream output(with.ours.get());
    const std::string much(1 << 22, 'f');
    job<result<void>> writing(on, write_all(output, bytes_of(much)));
    turn(on, 2000);
    REQUIRE(!writing.done());
    writing.cancel();
    CHECK(finish(on, writing).error() == std::errc::operation_canceled);

    std::string rest;
    while (is_readable(with.theirs.get(), 50)) {
        rest += with.reads();
        turn(on);
    }
    CHECK(!rest.empty());
    CHECK(rest.size() < much.size());
    CHECK(rest.find_first_not_of('f') == std::string::npos);
}

TEST_CASE("a file is read and written as well", "[foreign_stream]") {
    loop on(each_backend());
    const fd file(::memfd_create("zloop-tests", MFD_CLOEXEC));
    foreign_stream stream(file.get());
    CHECK(run(on, write_all(stream, bytes_of("hello"))));
    REQUIRE(::lseek(file.get(), 1, SEEK_SET) == 1);

    CHECK(run(on, read_some(stream)) == "ello");
    CHECK(run(on, read_some(stream)).empty());
}

TEST_CASE("reading a file gives the rest of the loop its turn", "[foreign_stream]") {
    loop on(each_backend());
    const fd zero(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    foreign_stream endless(zero.get());
    bool stop = false;
    auto reads = [&]() -> task<> {
        while (!stop) {
            const std::string text = co_await read_some(endless, 10);
            CHECK(text.size() == 10);
        }
    };
    callback stops([&] { stop = true; });
    job<> reading(on, reads());
    on.push(stops);
    finish(on, reading);

    CHECK(stop);
}

TEST_CASE("null takes everything and gives nothing", "[foreign_stream]") {
    loop on(each_backend());
    const fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    foreign_stream stream(null.get());

    CHECK(run(on, read_some(stream)).empty());
    CHECK(run(on, write_all(stream, bytes_of("anything"))));
}

TEST_CASE("what is no descriptor, or not open for that, is an error", "[foreign_stream]") {
    loop on(each_backend());
    foreign_stream nothing(-1);
    CHECK(run(on, read_some(nothing)) == message(std::errc::bad_file_descriptor));
    const ends with(thing::pipe, direction::read);
    foreign_stream input(with.ours.get());
    const fd directory(::open("/", O_RDONLY | O_CLOEXEC));
    foreign_stream folder(directory.get());
    CHECK(run(on, read_some(folder)) == message(std::errc::is_a_directory));
    with.writes("x");
    CHECK(run(on, write_all(folder, bytes_of("x"))).error() == std::errc::bad_file_descriptor);
}

TEST_CASE("another that reads the same pipe and is faster makes us wait, not block", "[foreign_stream]") {
    loop on(each_backend());
    const thing what = GENERATE(thing::pipe, thing::nowait_less_pipe);
    const ends with(what, direction::read);
    foreign_stream input(with.ours.get());
    with.writes("taken");
    job<std::string> reading(on, read_some(input));
    turn(on);  // asked: ready
    char taken[5];
    CHECK(::read(with.ours.get(), taken, sizeof taken) == 5);
    turn(on, 3);
    CHECK(!reading.done());

    with.writes("ours");
    CHECK(finish(on, reading) == "ours");
}

TEST_CASE("the side that a terminal emulator holds is read and written, too", "[foreign_stream]") {
    loop on(each_backend());
    const ends with(thing::terminal, direction::read);
    foreign_stream emulator(with.theirs.get());
    CHECK(run(on, write_all(emulator, bytes_of("typed"))));
    std::string typed;
    while (typed.size() < 5) {
        char byte;
        REQUIRE(::read(with.ours.get(), &byte, 1) == 1);
        typed += byte;
    }
    CHECK(typed == "typed");
    CHECK(::write(with.ours.get(), "shown", 5) == 5);
    std::string shown;
    while (shown.size() < 5) {
        shown += run(on, read_some(emulator));
    }
    CHECK(shown == "shown");
}

TEST_CASE("a terminal's second description is closed with its stream", "[foreign_stream]") {
    const ends with(thing::terminal, direction::read);
    const auto before = open_descriptors();
    {
        const foreign_stream stream(with.ours.get());
        CHECK(open_descriptors() == before + 1);
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("the program's own descriptors have names", "[foreign_stream]") {
    CHECK(standard_input().native_handle() == 0);
    CHECK(standard_output().native_handle() == 1);
    CHECK(standard_error().native_handle() == 2);
}
