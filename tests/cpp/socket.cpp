#include <zloop/socket.hpp>

#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>

#include <zloop/job.hpp>
#include <zloop/listener.hpp>
#include <zloop/sleep.hpp>
#include <zloop/stream.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// An open file with `text` in it and no name.
fd file_of(std::string_view text) {
    fd file(::memfd_create("zloop-tests", MFD_CLOEXEC));
    REQUIRE(::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    return file;
}

}  // namespace

TEST_CASE("a connection carries bytes both ways", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    const place at(family);
    auto door = listener::bind(on, at.where).value();
    auto serve = [&]() -> task<> {
        auto [error, arrived] = co_await door.accept();
        CHECK(!error);
        CHECK(arrived.peer.family() == at.where.family());
        const std::string text = co_await receive_text(arrived.socket);
        (co_await write_all(arrived.socket, bytes_of("echo " + text))).value();
    };
    auto ask = [&]() -> task<std::string> {
        auto socket = (co_await connect(door.local_address())).value();
        (co_await write_all(socket, bytes_of("hello"))).value();
        const std::string answer = co_await receive_text(socket);
        co_return answer + co_await receive_text(socket);
    };
    spawn(on, serve());

    CHECK(run(on, ask()) == "echo hello");
}

TEST_CASE("IPv6 connections work like IPv4 ones", "[socket]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::ip("::1", 0).value());
    if (!door) {
        WARN("no IPv6 here: " << door.error().message());
        return;
    }
    auto work = [&]() -> task<std::string> {
        auto client = (co_await connect(door->local_address())).value();
        co_return (co_await door->accept()).value().peer.host();
    };
    CHECK(run(on, work()) == "::1");
}

TEST_CASE("accepted and connected descriptors are non-blocking and not inherited", "[socket]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    auto work = [&]() -> task<> {
        auto client = (co_await connect(door.local_address())).value();
        auto server = (co_await door.accept()).value().socket;
        for (const int each : {door.native_handle(), client.native_handle(), server.native_handle()}) {
            CHECK((::fcntl(each, F_GETFL) & O_NONBLOCK) != 0);
            CHECK((::fcntl(each, F_GETFD) & FD_CLOEXEC) != 0);
        }
    };
    run(on, work());
}

TEST_CASE("a refused connection fails and leaves nothing open", "[socket]") {
    loop on(each_backend());
    address nobody;
    {
        auto door = listener::bind(on, address::loopback()).value();
        nobody = door.local_address();
    }
    const auto before = open_descriptors();

    CHECK(run(on, connect_to(nobody)).error() == std::errc::connection_refused);
    CHECK(run(on, connect_to(place(kind::unix_socket).where)).error() == std::errc::connection_refused);
    CHECK(run(on, connect_to(address::local("/no/such/socket").value())).error() ==
          std::errc::no_such_file_or_directory);
    CHECK(run(on, connect_to(address())).error() == std::errc::address_family_not_supported);
    CHECK(open_descriptors() == before);
}

namespace {

/// A TCP listener whose queue is full: a further connect waits.
struct deaf_listener {
    fd door;
    address where = address::loopback();
    std::vector<fd> queued;

    deaf_listener() : door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        socklen_t size = where.size();
        REQUIRE(::bind(door.get(), where.data(), size) == 0);
        REQUIRE(::listen(door.get(), 0) == 0);
        REQUIRE(::getsockname(door.get(), where.data(), &size) == 0);
        for (int count = 0; count < 3; ++count) {
            queued.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
            static_cast<void>(::connect(queued.back().get(), where.data(), where.size()));
        }
    }
};

}  // namespace

TEST_CASE("a cancelled connect ends at once and leaves nothing open", "[socket]") {
    loop on(each_backend());
    const deaf_listener deaf;
    const auto before = open_descriptors();
    job<result<stream>> connecting(on, connect_to(deaf.where));
    on.run_once(0ns);
    on.run_once(0ns);
    REQUIRE(!connecting.done());
    CHECK(open_descriptors() == before + 1);

    connecting.cancel();
    while (!connecting.done()) {
        on.run_once();
    }

    CHECK(connecting.take().error() == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
}

TEST_CASE("a connect in a cancelled scope does not begin", "[socket]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    const auto before = open_descriptors();
    job<result<stream>> connecting(on, connect_to(door.local_address()));
    connecting.cancel();
    while (!connecting.done()) {
        on.run_once();
    }

    CHECK(connecting.take().error() == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
    CHECK(!is_readable(door.native_handle()));
}

TEST_CASE("a connection comes from the address that was asked for", "[socket]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::any()).value();
    const address where = address::loopback(door.local_address().port());
    client_options options;
    options.local = address::ip("127.0.0.3", 0).value();
    options.no_delay = true;
    auto work = [&]() -> task<stream> { co_return (co_await connect(where, options)).value(); };
    stream socket = run(on, work());

    CHECK(socket.local_address().host() == "127.0.0.3");
    CHECK(socket.get_option(IPPROTO_TCP, TCP_NODELAY).value() != 0);
}

TEST_CASE("a connect that cannot begin fails and leaves nothing open", "[socket]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    const place local(kind::unix_socket);
    auto named = listener::bind(on, local.where).value();
    const auto before = open_descriptors();
    const auto failure = [&](const address& peer, const client_options& options) {
        auto work = [](address to, client_options with) -> task<std::error_code> {
            co_return (co_await connect(to, with)).error();
        };
        return run(on, work(peer, options));
    };
    client_options taken;
    taken.local = door.local_address();
    CHECK(failure(door.local_address(), taken) == std::errc::address_in_use);
    client_options elsewhere;
    elsewhere.local = address::ip("192.0.2.1", 0).value();
    CHECK(failure(door.local_address(), elsewhere) == std::errc::address_not_available);
    client_options undelayed;
    undelayed.no_delay = true;
    CHECK(failure(local.where, undelayed) == std::errc::operation_not_supported);
    CHECK(open_descriptors() == before);
}

TEST_CASE("a Unix listener whose queue is full is an error: nobody would tell of room", "[socket]") {
    loop on(each_backend());
    const place at(kind::unix_socket);
    listen_options options;
    options.backlog = 0;
    auto door = listener::bind(on, at.where, options).value();
    auto first = run(on, connect_to(at.where)).value();

    CHECK(run(on, connect_to(at.where)).error() == std::errc::resource_unavailable_try_again);
}

TEST_CASE("send takes several buffers in order", "[socket]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    const iovec parts[] = {
        {const_cast<char*>("ab"), 2}, {const_cast<char*>(""), 0}, {const_cast<char*>("cde"), 3}};
    auto work = [&]() -> task<result<std::size_t>> { co_return co_await with.socket.send(parts); };

    CHECK(run(on, work()).value() == 5);
    CHECK(with.peer_reads() == "abcde");
}

TEST_CASE("sendfile sends a part of a file", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    const fd file = file_of("hello, world");
    const auto send = [&](std::int64_t offset, std::size_t count) {
        return run(on, perform([&] { return with.socket.sendfile(file.get(), offset, count); }));
    };
    CHECK(send(7, 3).value() == 3);
    CHECK(with.peer_reads() == "wor");
    CHECK(send(10, 100).value() == 2);  // the file ends
    CHECK(with.peer_reads() == "ld");
    CHECK(send(12, 100).value() == 0);
    CHECK(send(0, 0).value() == 0);
    CHECK(::lseek(file.get(), 0, SEEK_CUR) == 12);  // its own position is not touched
}

TEST_CASE("sendfile of what is no file, or to a peer that is gone, fails", "[socket]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    const fd file = file_of("text");
    const auto send = [&](int from) {
        return run(on, perform([&] { return with.socket.sendfile(from, 0, 4); })).error();
    };
    CHECK(send(-1) == std::errc::bad_file_descriptor);
    CHECK(send(with.peer.get()));
    CHECK(with.socket.shutdown(direction::write));
    CHECK(send(file.get()) == std::errc::broken_pipe);
}

TEST_CASE("sendfile waits until the peer has read", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    const fd file = file_of("late");
    fill(with.socket);
    job<result<std::size_t>> sending(on, perform([&] { return with.socket.sendfile(file.get(), 0, 4); }));
    turn(on, 3);
    CHECK(!sending.done());

    CHECK(turn_until(on, [&] {
        with.peer_drains();
        return sending.done();
    }));
    CHECK(sending.take().value() == 4);
}

TEST_CASE("a pair is connected with itself", "[socket]") {
    loop on(each_backend());
    const auto before = open_descriptors();
    {
        auto both = stream::pair(on).value();
        CHECK(run(on, send_some(both.first, "there")).value() == 5);
        CHECK(run(on, receive_text(both.second)) == "there");
        CHECK(run(on, send_some(both.second, "back")).value() == 4);
        CHECK(run(on, receive_text(both.first)) == "back");
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("much data goes both ways through one socket at the same time", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    constexpr std::size_t size = 3 << 20;
    loop on(each_backend());
    const place at(family);
    auto door = listener::bind(on, at.where).value();
    const auto text_from = [](char first) {
        std::string text(size, '\0');
        for (std::size_t index = 0; index < size; ++index) {
            text[index] = static_cast<char>(first + static_cast<char>(index % 23));
        }
        return text;
    };
    const std::string up = text_from('a'), down = text_from('A');
    auto writes = [](stream& to, const std::string& text) -> task<> {
        (co_await write_all(to, bytes_of(text))).value();
    };
    auto reads = [](stream& from, std::string& text) -> task<> {
        (co_await read_exactly(from, std::as_writable_bytes(std::span(text)))).value();
    };
    auto client = [&]() -> task<stream> { co_return (co_await connect(door.local_address())).value(); };
    auto server = [&]() -> task<stream> { co_return (co_await door.accept()).value().socket; };
    job<stream> connecting(on, client()), accepting(on, server());
    stream ours = finish(on, connecting), theirs = finish(on, accepting);
    std::string got_up(size, '\0'), got_down(size, '\0');
    job<> one(on, writes(ours, up)), two(on, reads(ours, got_down));
    job<> three(on, writes(theirs, down)), four(on, reads(theirs, got_up));
    for (job<>* each : {&one, &two, &three, &four}) {
        finish(on, *each);
    }

    CHECK((got_up == up));
    CHECK((got_down == down));
}

TEST_CASE("a stream reads and writes at the same time", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::tcp);
    std::string read;
    auto reads = [&]() -> task<> { read = co_await receive_text(with.socket); };
    job<> reading(on, reads());
    CHECK(run(on, write_all(with.socket, bytes_of("out"))));
    CHECK(with.peer_reads() == "out");
    with.sends("in");
    while (!reading.done()) {
        on.run_once();
    }

    CHECK(read == "in");
}

TEST_CASE("shutdown of writing is the end for the peer, and no more", "[socket]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));

    CHECK(with.socket.shutdown(direction::write));
    CHECK(with.peer_reads().empty());
    with.sends("still");
    CHECK(run(on, receive_text(with.socket)) == "still");
    CHECK(run(on, send_some(with.socket, "x")).error() == std::errc::broken_pipe);
}

TEST_CASE("shutdown of reading ends a read that waits, and no more", "[socket]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    job<std::string> reading(on, receive_text(with.socket));
    turn(on, 2);

    CHECK(with.socket.shutdown(direction::read));

    CHECK(finish(on, reading).empty());
    CHECK(run(on, send_some(with.socket, "still")).value() == 5);
    CHECK(with.peer_reads() == "still");
}

TEST_CASE("shutdown of both directions ends both", "[socket]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));

    CHECK(with.socket.shutdown(SHUT_RDWR));
    CHECK(run(on, receive_text(with.socket)).empty());
    CHECK(with.peer_reads().empty());
    with.socket.close();
    CHECK(with.socket.shutdown(direction::write).error() == std::errc::bad_file_descriptor);
}

TEST_CASE("the options of TCP are set by name", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::tcp);

    CHECK(with.socket.set_no_delay(true));
    CHECK(with.socket.get_option(IPPROTO_TCP, TCP_NODELAY).value() != 0);
    CHECK(with.socket.set_no_delay(false));
    CHECK(with.socket.get_option(IPPROTO_TCP, TCP_NODELAY).value() == 0);
    CHECK(with.socket.set_keep_alive(true));
    CHECK(with.socket.get_option(SOL_SOCKET, SO_KEEPALIVE).value() != 0);
    CHECK(with.socket.set_keep_alive(false));
    CHECK(with.socket.get_option(SOL_SOCKET, SO_KEEPALIVE).value() == 0);
    CHECK(with.socket.set_keep_alive(60s, 10s, 3));
    CHECK(with.socket.get_option(SOL_SOCKET, SO_KEEPALIVE).value() != 0);
    CHECK(with.socket.get_option(IPPROTO_TCP, TCP_KEEPIDLE).value() == 60);
    CHECK(with.socket.get_option(IPPROTO_TCP, TCP_KEEPINTVL).value() == 10);
    CHECK(with.socket.get_option(IPPROTO_TCP, TCP_KEEPCNT).value() == 3);

    CHECK(with.socket.set_keep_alive(0s, 10s, 3).error() == std::errc::invalid_argument);
    connection local(on, kind::unix_socket);
    CHECK(local.socket.set_no_delay(true).error() == std::errc::operation_not_supported);
}

TEST_CASE("a stream whose reading task is cancelled by the loop's end is closed", "[socket]") {
    const auto before = open_descriptors();
    std::error_code outcome;
    auto serve = [&](stream socket) -> task<> { outcome = (co_await socket.receive()).error(); };
    {
        loop on(each_backend());
        connection with(on, GENERATE(kind::tcp, kind::unix_socket));
        spawn(on, serve(std::move(with.socket)));
        on.run_once(0ns);
    }
    CHECK(outcome == std::errc::operation_canceled);
    CHECK(open_descriptors() == before);
}

TEST_CASE("an idle stream holds no buffer: every loan is the loop's", "[socket]") {
    loop on(platform_backend());
    connection first(on, kind::unix_socket), second(on, kind::unix_socket);
    first.sends("one");
    second.sends("two");
    auto where = [](stream& from) -> task<const void*> {
        co_return (co_await from.receive()).value().data();
    };

    const void* const lent = run(on, where(first.socket));
    CHECK(run(on, where(second.socket)) == lent);
}

TEST_CASE("bytes behind a message with descriptors arrive although its read was short", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    auto receive_both = [&]() -> task<std::string> {
        std::string text = co_await receive_text(with.socket);
        while (text.size() < 2) {
            text += co_await receive_text(with.socket);
        }
        co_return text;
    };
    char byte = 'a';
    iovec part{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int sent = with.peer.get();
    std::memcpy(CMSG_DATA(header), &sent, sizeof sent);
    REQUIRE(::sendmsg(with.peer.get(), &message, 0) == 1);
    with.sends("b");

    job<std::string> reading(on, receive_both());
    CHECK(finish(on, reading) == "ab");
}

TEST_CASE("bytes behind urgent data arrive although the read before it was short", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::tcp);
    auto receive_both = [&]() -> task<std::string> {
        std::string text = co_await receive_text(with.socket);
        while (text.size() < 2) {
            text += co_await receive_text(with.socket);
        }
        co_return text;
    };
    with.sends("a");
    with.sends("!", MSG_OOB);
    with.sends("b");

    job<std::string> reading(on, receive_both());
    CHECK(finish(on, reading) == "ab");
}

TEST_CASE("the end of the stream arrives behind the last bytes", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    const bool at_once = GENERATE(true, false);
    loop on(each_backend());
    connection with(on, family);
    std::vector<std::string> seen;
    auto work = [&]() -> task<> {
        do {
            seen.push_back(co_await receive_text(with.socket));
        } while (!seen.back().empty());
        seen.push_back(co_await receive_text(with.socket));  // the end stays the end
    };
    job<> running(on, work());
    with.sends("last");
    if (!at_once) {
        CHECK(turn_until(on, [&] { return !seen.empty(); }));
    }
    SECTION("the peer shuts down writing") { CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0); }
    SECTION("the peer closes") { with.peer.reset(); }
    finish(on, running);

    CHECK(seen == std::vector<std::string>{"last", "", ""});
}

TEST_CASE("a half-closed peer can still be written to", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0);
    job<std::string> reading(on, receive_text(with.socket));
    CHECK(finish(on, reading).empty());

    CHECK(run(on, send_some(with.socket, "still here")).value() == 10);
    CHECK(with.peer_reads() == "still here");
}

TEST_CASE("a reset ends a parked read with its error", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::tcp);
    job<std::string> reading(on, receive_text(with.socket));
    on.run_once(0ns);
    const linger reset{1, 0};
    CHECK(::setsockopt(with.peer.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
    with.peer.reset();

    CHECK(finish(on, reading) == message(std::errc::connection_reset));
}

TEST_CASE("a send that does not fit waits until the peer has read", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    fill(with.socket);
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);
    on.run_once(0ns);
    CHECK(!sending.done());

    CHECK(turn_until(on, [&] {
        with.peer_drains();
        return sending.done();
    }));
    CHECK(sending.take().value() == 4);
}

TEST_CASE("a send waits for a peer that has sent its end as for any other", "[socket]") {
    // io_uring takes the end for readiness, tries a send 128 times, and fails it where it has several parts.
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    const bool heard = GENERATE(false, true);
    loop on(each_backend());
    connection with(on, family);
    fill(with.socket);
    if (heard) {
        CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0);
        CHECK(run(on, receive_text(with.socket)).empty());
        fill(with.socket);  // TCP makes room when it hears of the end
    }
    std::string first = "late", second = "r";
    const iovec parts[] = {{first.data(), first.size()}, {second.data(), second.size()}};
    auto work = [&]() -> task<result<std::size_t>> { co_return co_await with.socket.send(parts); };
    job<result<std::size_t>> sending(on, work());
    on.run_once(0ns);
    if (!heard) {
        CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0);
    }
    int turns = 0;
    const auto end = std::chrono::steady_clock::now() + 20ms;
    while (!sending.done() && std::chrono::steady_clock::now() < end) {
        on.run_once(5ms);
        ++turns;
    }
    CHECK(turns < 40);  // it does not spin
    CHECK(turn_until(on, [&] {
        with.peer_drains();
        return sending.done();
    }));
    CHECK(sending.take().value() == 5);
}

TEST_CASE("everything that write_all sends arrives through partial sends", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    std::string sent(4 << 20, '\0');
    for (std::size_t index = 0; index < sent.size(); ++index) {
        sent[index] = static_cast<char>(index * 31 / 7);
    }
    std::string received;
    std::thread peer([&] {
        for (std::string part = with.peer_reads(100'000); !part.empty(); part = with.peer_reads(100'000)) {
            received += part;
        }
    });
    CHECK(run(on, write_all(with.socket, bytes_of(sent))));
    CHECK(with.socket.shutdown(SHUT_WR));
    peer.join();

    CHECK((received == sent));
}

TEST_CASE("a send to a peer that is gone fails and raises no signal", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    fill(with.socket);
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);
    with.peer.reset();

    const auto error = finish(on, sending).error();
    CHECK((error == std::errc::broken_pipe || error == std::errc::connection_reset));
    CHECK(run(on, send_some(with.socket, "later")).error() == std::errc::broken_pipe);
}

TEST_CASE("try_send fails instead of waiting", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    std::vector<iovec> parts(IOV_MAX + 10, iovec{const_cast<char*>("x"), 1});
    CHECK(with.socket.try_send(parts).value() == IOV_MAX);

    fill(with.socket);
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);
    with.peer_drains();
    CHECK(with.socket.try_send(parts).error() == std::errc::resource_unavailable_try_again);  // not past it
    CHECK(finish(on, sending).value() == 4);
    CHECK(with.peer_reads() == "late");
}

TEST_CASE("a cancelled read ends at once and the stream stays usable", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    job<std::string> reading(on, receive_text(with.socket));
    on.run_once(0ns);

    reading.cancel();
    CHECK(finish(on, reading) == message(std::errc::operation_canceled));

    with.sends("later");
    job<std::string> again(on, receive_text(with.socket));
    CHECK(finish(on, again) == "later");
}

TEST_CASE("a read that is cancelled when its bytes are there has them, or leaves them to the next",
          "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    job<std::string> reading(on, receive_text(with.socket));
    turn(on, 2);
    with.sends("kept");
    queue_events(on);
    reading.cancel();
    const std::string outcome = finish(on, reading);

    if (outcome == message(std::errc::operation_canceled)) {
        CHECK(run(on, receive_text(with.socket)) == "kept");
    } else {
        CHECK(outcome == "kept");
    }
}

TEST_CASE("what is asked of a stream in a cancelled scope does not begin", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::tcp);
    with.sends("kept");
    const fd file = file_of("text");
    const auto check = [&](auto start) {
        job waiting(on, perform(start));
        waiting.cancel();
        CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
    };
    std::string buffer(10, '\0');
    check([&] { return with.socket.receive(); });
    check([&] { return with.socket.recv(std::as_writable_bytes(std::span(buffer))); });
    check([&] { return with.socket.send(bytes_of("x")); });
    check([&] { return with.socket.sendfile(file.get(), 0, 4); });

    CHECK(!is_readable(with.peer.get()));
    CHECK(run(on, receive_text(with.socket)) == "kept");
}

TEST_CASE("a send that is cancelled ends at once, and is not sent later", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    fill(with.socket);
    const fd file = file_of("late");
    const auto check = [&](auto start) {
        job waiting(on, perform(start));
        turn(on, 2);
        REQUIRE(!waiting.done());
        waiting.cancel();
        CHECK(finish(on, waiting).error() == std::errc::operation_canceled);
    };
    check([&] { return with.socket.send(bytes_of("late")); });
    check([&] { return with.socket.sendfile(file.get(), 0, 4); });

    CHECK(with.socket.shutdown(direction::write));
    std::string all;
    for (std::string part = with.peer_reads(1 << 20); !part.empty(); part = with.peer_reads(1 << 20)) {
        all += part;
    }
    CHECK(all.find_first_not_of('f') == std::string::npos);
}

TEST_CASE("closing a stream ends what waits on it, in both directions", "[socket]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(each_backend());
    connection with(on, family);
    fill(with.socket);
    job<std::string> reading(on, receive_text(with.socket));
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);

    with.socket.close();
    CHECK(!reading.done());  // never inline

    CHECK(finish(on, reading) == message(std::errc::operation_canceled));
    CHECK(finish(on, sending).error() == std::errc::operation_canceled);
}

TEST_CASE("a stream that was closed by another task fails with bad_file_descriptor", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    with.socket.close();
    with.socket.close();

    CHECK(run(on, receive_text(with.socket)) == message(std::errc::bad_file_descriptor));
    CHECK(run(on, send_some(with.socket, "x")).error() == std::errc::bad_file_descriptor);
    const iovec part{const_cast<char*>("x"), 1};
    CHECK(with.socket.try_send({&part, 1}).error() == std::errc::bad_file_descriptor);
}

TEST_CASE("a second operation in one direction is refused, the first goes on", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    job<std::string> first(on, receive_text(with.socket));
    on.run_once(0ns);

    CHECK(run(on, receive_text(with.socket)) == message(std::errc::device_or_resource_busy));
    CHECK(run(on, send_some(with.socket, "beside")).value() == 6);

    with.sends("text");
    CHECK(finish(on, first) == "text");
}

TEST_CASE("a released stream is the caller's, and out of service", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    job<std::string> reading(on, receive_text(with.socket));
    on.run_once(0ns);

    const fd taken(with.socket.release());

    CHECK(!with.socket);
    CHECK(finish(on, reading) == message(std::errc::operation_canceled));
    with.sends("x");
    CHECK(!is_readable(on.kernel().native_handle()));
    stream again = stream::adopt(on, fd(::dup(taken.get()))).value();
    job<std::string> more(on, receive_text(again));
    CHECK(finish(on, more) == "x");
}

TEST_CASE("what a stream has received already goes with it when it is released", "[socket]") {
    loop on(each_backend());
    connection with(on, kind::unix_socket);
    with.sends("first");
    CHECK(run(on, receive_text(with.socket)) == "first");
    with.sends("second");
    turn(on, 2);

    std::vector<std::byte> unread;
    const fd taken(with.socket.release(unread));

    CHECK(!with.socket);
    std::string rest = text_of(unread);
    char more[10];
    if (const ssize_t count = ::recv(taken.get(), more, sizeof more, MSG_DONTWAIT); count > 0) {
        rest.append(more, static_cast<std::size_t>(count));
    }
    CHECK(rest == "second");
    CHECK(with.socket.release(unread) == -1);
    CHECK(unread.empty());
}

TEST_CASE("sends of what receive() lends keep it, however long they take", "[socket]") {
    loop on(each_backend());
    connection from(on, kind::unix_socket), other(on, kind::unix_socket);
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    connection first(on, family), second(on, family);
    fill(first.socket);
    fill(second.socket);
    const std::string text = pattern(9'000);
    auto relays = [&]() -> task<> {
        const auto bytes = (co_await from.socket.receive()).value();
        std::vector<task<result<void>>> both;
        both.push_back(write_all(first.socket, bytes));
        both.push_back(write_all(second.socket, bytes));
        co_await when_all(std::move(both));
    };
    job<> relaying(on, relays());
    from.sends(text);
    CHECK(turn_until(on, [&] { return !is_readable(from.socket.native_handle()); }));
    turn(on, 2);
    REQUIRE(!relaying.done());

    for (int count = 0; count < 3; ++count) {  // whatever was lent before is lent again
        other.sends(std::string(10'000, 'x'));
        CHECK(run(on, receive_text(other.socket)) == std::string(10'000, 'x'));
    }
    std::string got[2];
    const auto read = [&] {
        std::string block(1 << 20, '\0');
        for (const auto& [index, peer] : {std::pair(0, &first.peer), std::pair(1, &second.peer)}) {
            const ssize_t count = ::recv(peer->get(), block.data(), block.size(), MSG_DONTWAIT);
            got[index].append(block, 0, count > 0 ? static_cast<std::size_t>(count) : 0);
        }
    };
    CHECK(turn_until(on, [&] {
        read();
        return relaying.done();
    }));
    for (const fd* peer : {&first.peer, &second.peer}) {
        while (is_readable(peer->get())) {
            read();
        }
    }

    for (const std::string& each : got) {
        REQUIRE(each.size() > text.size());
        CHECK((each.substr(each.size() - text.size()) == text));
        CHECK(each.find_first_not_of('f') >= each.size() - text.size());
    }
}

TEST_CASE("after a turn without a limit the backend's descriptor tells of all that is waited for",
          "[socket]") {
    loop on(each_backend());
    connection with(on, kind::tcp);
    job<std::string> reading(on, receive_text(with.socket));
    REQUIRE(turn_until(on, [&] { return !is_readable(on.kernel().native_handle()); }));
    connection late(on, kind::tcp);
    job<std::string> reading_late(on, receive_text(late.socket));
    on.run_once(0ns);  // starts it; from here on we sleep elsewhere
    while (is_readable(on.kernel().native_handle())) {
        on.run_once(0ns);  // epoll's first edges
    }

    late.sends("hello");

    CHECK(is_readable(on.kernel().native_handle(), 1000));
    CHECK(finish(on, reading_late) == "hello");
    reading.cancel();
    finish(on, reading);
}

TEST_CASE("who reads right after a read was cancelled waits for the bytes", "[socket]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    job<std::string> first(on, recv_text(with.socket, 100));
    turn(on, 3);
    first.cancel();
    job<std::string> second(on, recv_text(with.socket, 100));
    on.run_once(1ms);

    SECTION("and gets them") {
        with.sends("hello");
        CHECK(finish(on, second) == "hello");
    }
    SECTION("and can be cancelled too") {
        second.cancel();
        CHECK(finish(on, second) == system_error_code(ECANCELED).message());
        with.sends("hello");
        CHECK(run(on, recv_text(with.socket, 100)) == "hello");
    }
    SECTION("until the socket is closed") {
        with.socket.close();
        CHECK(finish(on, second) == system_error_code(ECANCELED).message());
    }
    CHECK(finish(on, first) == system_error_code(ECANCELED).message());
}
