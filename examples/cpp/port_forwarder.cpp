// Passes connections on, with half-closes:  port_forwarder port host port
// Passes on to itself, and ends:            port_forwarder --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

/// One direction. Its end closes that direction only: the other one may still have much to say.
zloop::task<> forward(zloop::stream& from, zloop::stream& to) {
    (co_await zloop::copy(from, to)).value();
    to.shutdown(zloop::direction::write).value();
}

/// Both directions. A failure of one of them cancels the other.
zloop::task<> tunnel(zloop::stream guest, std::string host, std::string port) {
    try {
        auto there = (co_await zloop::connect(host, port)).value();
        co_await zloop::when_all(forward(guest, there), forward(there, guest));
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

/// Repeats the question, and answers when all of it has come: only a half-close tells.
zloop::task<> answer(zloop::listener& door) {
    auto socket = (co_await door.accept()).value().socket;
    (co_await zloop::copy(socket, socket)).value();
    (co_await zloop::write_all(socket, zloop::bytes_of(" - yes\n"))).value();
}

zloop::task<bool> ask(zloop::address where) {
    zloop::buffered_reader server((co_await zloop::connect(where)).value());
    (co_await zloop::write_all(server, zloop::bytes_of("does it work?"))).value();
    server.source().shutdown(zloop::direction::write).value();
    co_return (co_await server.read_line()).value() == "does it work? - yes";
}

int main(int count, char** arguments) {
    zloop::loop loop;
    const auto port = static_cast<std::uint16_t>(count == 4 ? std::atoi(arguments[1]) : 0);
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    if (count == 4) {
        zloop::run(loop, serve(door, arguments[2], arguments[3]));
    }
    auto far = zloop::listener::bind(loop, zloop::address::loopback()).value();
    zloop::spawn(loop, answer(far));
    auto passing = serve(door, "127.0.0.1", std::to_string(far.local_address().port()));
    const auto first = zloop::run(loop, zloop::when_any(std::move(passing), ask(door.local_address())));
    return first.index() == 1 && std::get<1>(first) ? EXIT_SUCCESS : EXIT_FAILURE;
}
