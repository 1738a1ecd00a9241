// Sends back whatever it gets:  echo_server [port]
// Asks itself, and ends:        echo_server --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<> echo(zloop::stream socket) {
    for (;;) {
        // Lent by the loop until the next await: an idle connection holds no buffer.
        const auto [error, bytes] = co_await socket.receive();
        if (error || bytes.empty()) {
            co_return;
        }
        // So what a slow peer makes us wait to send is copied.
        const std::string reply(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        if (!co_await zloop::write_all(socket, zloop::bytes_of(reply))) {
            co_return;
        }
    }
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
    auto socket = (co_await zloop::connect(where)).value();
    (co_await zloop::write_all(socket, zloop::bytes_of("hello\n"))).value();
    std::string answer;
    (co_await zloop::read_until(socket, answer, "\n")).value();
    co_return answer == "hello\n";
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
