#include <zloop/uring.hpp>

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

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

// What every backend promises is tested with each of them, in the files of what promises it. Here: what is
// io_uring's alone.

namespace {

/// Whether there is no io_uring here; then the test case has nothing to say.
bool is_absent() {
    static const bool absent = [] {
        for (const backend_choice& each : backends()) {
            if (each.name == "io_uring") {
                return false;
            }
        }
        return true;
    }();
    if (absent) {
        WARN("no io_uring here");
    }
    return absent;
}

std::unique_ptr<backend> uring() { return std::make_unique<uring_backend>(); }

/// Bytes that lie in a socket, for whoever receives next.
int unread(const stream& socket) {
    int count = 0;
    REQUIRE(::ioctl(socket.native_handle(), FIONREAD, &count) == 0);
    return count;
}

/// A text in which no two places look alike for long.
std::string pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t index = 0; index < size; ++index) {
        text[index] = static_cast<char>(index * 31 + (index >> 8) + (index >> 16));
    }
    return text;
}

/// Sends what the peer's socket takes without waiting; how much of `text` that was.
std::size_t send_what_fits(const fd& peer, std::string_view text) {
    std::size_t sent = 0;
    while (sent < text.size()) {
        const ssize_t count =
            ::send(peer.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count <= 0) {
            break;
        }
        sent += static_cast<std::size_t>(count);
    }
    return sent;
}

}  // namespace

TEST_CASE("an io_uring loop says its name and has a descriptor to wait for", "[uring]") {
    if (is_absent()) {
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

TEST_CASE("a receive that nobody continues stops, and loses nothing", "[uring]") {
    if (is_absent()) {
        return;
    }
    loop on(uring());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    with.sends("first");
    CHECK(run(on, receive_text(with.socket)) == "first");
    const std::string text = pattern(64 << 20);

    // The peer sends for as long as the kernel takes something.
    std::size_t sent = 0;
    for (int quiet = 0; quiet < 5;) {
        const std::size_t more = send_what_fits(with.peer, std::string_view(text).substr(sent));
        sent += more;
        quiet = more == 0 ? quiet + 1 : 0;
        on.run_once(1ms);
    }

    INFO("the peer sent " << sent);
    CHECK(sent < text.size() / 2);
    CHECK(unread(with.socket) > 0);  // it stays in the socket, whose window is what the peer feels
    const int left = unread(with.socket);
    turn(on, 20);
    CHECK(unread(with.socket) == left);

    std::string received;
    auto receives = [&]() -> task<> {
        while (received.size() < sent) {
            received += co_await receive_text(with.socket);
        }
    };
    run(on, receives());
    CHECK((received == text.substr(0, sent)));
}

TEST_CASE("small messages that nobody receives are kept together", "[uring]") {
    if (is_absent()) {
        return;
    }
    loop on(uring());
    connection with(on, kind::unix_socket);
    with.sends("first");
    CHECK(run(on, receive_text(with.socket)) == "first");

    for (const char* each : {"one ", "two ", "three"}) {
        with.sends(each);
        turn(on);
    }

    CHECK(run(on, receive_text(with.socket)) == "one two three");
}

TEST_CASE("a socket that is closed while it receives is closed at once", "[uring]") {
    if (is_absent()) {
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
    if (is_absent()) {
        return;
    }
    loop on(uring());
    turn(on);
    connection former(on, kind::unix_socket);
    const int number = former.socket.native_handle();
    job<std::string> reading(on, receive_text(former.socket));
    on.run_once(0ns);  // runs the task: its request is not on its way yet

    SECTION("closed by its owner") { former.socket.close(); }
    SECTION("closed behind its back") { REQUIRE(::close(number) == 0); }
    connection fresh(on, kind::unix_socket);
    REQUIRE(fresh.socket.native_handle() == number);
    fresh.sends("not for you");
    turn(on, 3);

    CHECK(finish(on, reading) == system_error_code(ECANCELED).message());
    CHECK(run(on, receive_text(fresh.socket)) == "not for you");
}

#endif
