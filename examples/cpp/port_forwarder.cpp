// Passes connections on, with half-closes:  port_forwarder port host port
// Passes on to itself, and ends:            port_forwarder --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

/// One direction. Its end closes that direction only: the other one may still have much to say.
zloop::task<zloop::result<void>> forward(zloop::stream& from, zloop::stream& to) {
    for (;;) {
        const auto [error, lent] = co_await from.receive();
        if (error) {
            co_return error;
        }
        if (lent.empty()) {
            co_return to.shutdown(SHUT_WR);
        }
        const std::string bytes(reinterpret_cast<const char*>(lent.data()), lent.size());
        if (const auto sent = co_await zloop::write_all(to, zloop::bytes_of(bytes)); !sent) {
            co_return sent;
        }
    }
}

/// Both directions. An error in one of them cancels the other: that is the nursery's rule.
zloop::task<> tunnel(zloop::stream guest, std::string host, std::string port) {
    try {
        auto there = (co_await zloop::connect(host, port)).value();
        auto both = [&](zloop::nursery& directions) -> zloop::task<> {
            directions.spawn(forward(guest, there));
            directions.spawn(forward(there, guest));
            co_return;
        };
        co_await zloop::with_nursery(both);
    } catch (const std::system_error& error) {
        if (error.code() != std::errc::operation_canceled) {
            std::fprintf(stderr, "port_forwarder: %s\n", error.what());
        }
    }
}

zloop::task<> serve(zloop::listener& door, std::string host, std::string port) {
    auto accept = [&](zloop::nursery& tunnels) -> zloop::task<> {
        for (;;) {
            auto guest = (co_await door.accept()).value();
            tunnels.spawn(tunnel(std::move(guest.socket), host, port));
        }
    };
    co_await zloop::with_nursery(accept);
}

/// Answers when all of the question has come: only a half-close tells.
zloop::task<> answer(zloop::listener& door) {
    auto socket = (co_await door.accept()).value().socket;
    std::string question(64, '\0');
    std::size_t size = 0;
    for (std::size_t more = 1; more != 0; size += more) {
        more = (co_await socket.recv(std::as_writable_bytes(std::span(question).subspan(size)))).value();
    }
    const std::string answered = question.substr(0, size) + " - yes\n";
    (co_await zloop::write_all(socket, zloop::bytes_of(answered))).value();
}

zloop::task<bool> ask(zloop::address where) {
    auto socket = (co_await zloop::connect(where)).value();
    (co_await zloop::write_all(socket, zloop::bytes_of("does it work?"))).value();
    socket.shutdown(SHUT_WR).value();
    std::string answered;
    (co_await zloop::read_until(socket, answered, "\n")).value();
    co_return answered == "does it work? - yes\n";
}

int main(int count, char** arguments) {
    const bool self_test = count == 2 && std::string(arguments[1]) == "--self-test";
    if (!self_test && count != 4) {
        std::fprintf(stderr, "usage: port_forwarder port host port\n");
        return EXIT_FAILURE;
    }
    zloop::loop loop;
    const auto port = static_cast<std::uint16_t>(self_test ? 0 : std::atoi(arguments[1]));
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    if (!self_test) {
        zloop::run(loop, serve(door, arguments[2], arguments[3]));
    }
    auto far = zloop::listener::bind(loop, zloop::address::loopback()).value();
    zloop::spawn(loop, answer(far));
    const std::string far_port = std::to_string(far.local_address().port());
    const auto first =
        zloop::run(loop, zloop::when_any(serve(door, "127.0.0.1", far_port), ask(door.local_address())));
    return first.index() == 1 && std::get<1>(first) ? EXIT_SUCCESS : EXIT_FAILURE;
}
