#include <zloop/kernel/uring/arrivals.hpp>

#if ZLOOP_HAS_URING

#include <string>
#include <vector>

#include <sys/ioctl.h>

#include <zloop/job.hpp>
#include <zloop/kernel/uring/backend.hpp>
#include <zloop/listener.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// Bytes that lie in a socket, for whoever receives next.
int unread(const stream& socket) {
    int count = 0;
    REQUIRE(::ioctl(socket.native_handle(), FIONREAD, &count) == 0);
    return count;
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

/// A stream whose request for all that comes is under way.
connection listened_to(loop& on, kind family) {
    connection made(on, family);
    made.sends("first");
    CHECK(run(on, receive_text(made.socket)) == "first");
    return made;
}

}  // namespace

TEST_CASE("a receive that nobody continues stops, and loses nothing", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    connection with = listened_to(on, GENERATE(kind::tcp, kind::unix_socket));
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
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    connection with = listened_to(on, kind::unix_socket);

    for (const char* each : {"one ", "two ", "three"}) {
        with.sends(each);
        turn(on);
    }

    CHECK(run(on, receive_text(with.socket)) == "one two three");
}

TEST_CASE("a read into the caller's memory gets what has arrived before it, and in order", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    connection with = listened_to(on, GENERATE(kind::tcp, kind::unix_socket));
    const std::string text = pattern(200'000);
    std::size_t sent = 0;
    std::string received;
    auto receives = [&]() -> task<> {
        for (std::size_t round = 0; received.size() < text.size(); ++round) {
            if (round % 5 == 4) {
                received += co_await receive_text(with.socket);
            } else {
                received += co_await recv_text(with.socket, round % 3 == 0 ? 10 : 5'000);
            }
        }
    };
    job<> receiving(on, receives());

    while (!receiving.done()) {
        sent += send_what_fits(with.peer, std::string_view(text).substr(sent, 30'000));
        on.run_once(10ms);
    }

    CHECK((received == text));
}

TEST_CASE("more streams than the kernel has buffers receive everything", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    std::vector<connection> all;
    std::vector<std::unique_ptr<job<std::string>>> reading;
    for (int count = 0; count < 200; ++count) {
        all.emplace_back(on, kind::unix_socket);
    }
    for (connection& each : all) {
        reading.push_back(std::make_unique<job<std::string>>(on, receive_text(each.socket)));
    }
    turn(on, 2);
    for (std::size_t index = 0; index < all.size(); ++index) {
        all[index].sends(std::to_string(index));
    }

    for (std::size_t index = 0; index < all.size(); ++index) {
        CHECK(finish(on, *reading[index]) == std::to_string(index));
    }
}

TEST_CASE("without memory for buffers a receive fails, and the next one does not", "[uring]") {
    if (!has_uring() || !probes::counts_allocations) {
        return;
    }
    loop on(uring());
    connection with(on, kind::unix_socket);
    job<std::string> reading(on, receive_text(with.socket));
    {
        const probes::no_memory_for none(detail::uring::buffer_ring::room_bytes);
        turn(on, 2);
        with.sends("late");
        CHECK(finish(on, reading) == message(std::errc::not_enough_memory));
    }
    CHECK(run(on, receive_text(with.socket)) == "late");
}

TEST_CASE("who releases a stream can have what it has received already", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    connection with = listened_to(on, GENERATE(kind::tcp, kind::unix_socket));
    const std::string text = pattern(60'000);
    std::size_t sent = 0;
    while (sent < text.size()) {
        sent += send_what_fits(with.peer, std::string_view(text).substr(sent));
        turn(on);
    }
    CHECK(run(on, recv_text(with.socket, 1'000)) == text.substr(0, 1'000));

    std::vector<std::byte> unread;
    const fd taken(with.socket.release(unread));

    REQUIRE(taken);
    CHECK(!unread.empty());
    std::string rest = text_of(unread);
    std::string more(100'000, '\0');
    for (ssize_t count; (count = ::recv(taken.get(), more.data(), more.size(), MSG_DONTWAIT)) > 0;) {
        rest.append(more, 0, static_cast<std::size_t>(count));
    }
    CHECK((rest == text.substr(1'000)));
    with.sends("to the new owner");
    turn(on, 3);
    CHECK(::recv(taken.get(), more.data(), more.size(), MSG_DONTWAIT) == 16);
}

TEST_CASE("who releases a listener can have the connections that it has accepted already", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loop on(uring());
    place where(kind::tcp);
    listener door = listener::bind(on, where.where).value();
    const address here = door.local_address();
    const auto knocks = [&] {
        fd guest(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        REQUIRE(::connect(guest.get(), here.data(), here.size()) == 0);
        return guest;
    };
    const fd first = knocks();
    CHECK(run(on, perform([&] { return door.accept(); })));
    const fd second = knocks(), third = knocks();
    turn(on, 3);

    std::vector<fd> unclaimed;
    const fd taken(door.release(unclaimed));

    REQUIRE(unclaimed.size() == 2);
    CHECK(::send(unclaimed[0].get(), "2", 1, MSG_NOSIGNAL) == 1);
    CHECK(::send(unclaimed[1].get(), "3", 1, MSG_NOSIGNAL) == 1);
    char byte = 0;
    CHECK((::recv(second.get(), &byte, 1, 0) == 1 && byte == '2'));
    CHECK((::recv(third.get(), &byte, 1, 0) == 1 && byte == '3'));
    const fd fourth = knocks();
    CHECK(is_readable(taken.get(), 1'000));
}

#endif
