// Sends back whatever it gets:  echo_server [port]
// Asks itself, and ends:        echo_server --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

/// An idle connection holds no buffer: copy waits with none.
zloop::task<> echo(zloop::stream socket) {
    static_cast<void>(co_await zloop::copy(socket, socket));  // to the end; an error is the guest's alone
}

zloop::task<> serve(zloop::loop& loop, zloop::listener& door) {
    for (;;) {
        auto [error, guest] = co_await door.accept();
        if (error == std::errc::operation_canceled) {
            co_return;
        }
        if (!error) {
            zloop::spawn(loop, echo(std::move(guest.socket)));
        } else if (!co_await zloop::sleep_for(1s)) {  // out of descriptors: others may give some back
            co_return;
        }
    }
}

zloop::task<bool> ask(zloop::address where) {
    zloop::buffered_reader server((co_await zloop::connect(where)).value());
    (co_await zloop::write_all(server, zloop::bytes_of("hello\n"))).value();
    co_return (co_await server.read_line()).value() == "hello";
}

int main(int count, char** arguments) {
    const std::string argument = count > 1 ? arguments[1] : "7000";
    const bool self_test = argument == "--self-test";
    const auto port = static_cast<std::uint16_t>(self_test ? 0 : std::atoi(argument.c_str()));

    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    std::printf("echo at %s\n", door.local_address().to_string().c_str());

    if (self_test) {
        zloop::spawn(loop, serve(loop, door));
        return zloop::run(loop, ask(door.local_address())) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    zloop::run(loop, serve(loop, door));
}
