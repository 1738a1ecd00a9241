// Sends back whatever it gets, until SIGTERM or SIGINT. Then it takes no more guests, and those who are
// there have ten seconds to finish:   graceful_shutdown [port]
// Visits, and then ends itself:       graceful_shutdown --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<> echo(zloop::stream socket) {
    std::string line;
    while (const auto size = co_await zloop::read_until(socket, line, "\n")) {
        if (!co_await zloop::write_all(socket, zloop::bytes_of(line).first(*size))) {
            co_return;
        }
        line.erase(0, *size);
    }
}

zloop::task<> welcome(zloop::listener& door, zloop::nursery& guests) {
    while (auto guest = co_await door.accept()) {
        guests.spawn(echo(std::move(guest->socket)));
    }
}

zloop::task<> until_told(zloop::signal_set& told_to_stop) {
    const auto number = (co_await told_to_stop.wait()).value();
    std::printf("signal %d: no more guests\n", number);
}

zloop::task<> evening(zloop::listener& door, zloop::signal_set& told_to_stop, zloop::event& last_call) {
    auto body = [&](zloop::nursery& guests) -> zloop::task<> {
        co_await zloop::when_any(welcome(door, guests), until_told(told_to_stop));
        door.close();
        last_call.set();
    };
    co_await zloop::with_nursery(body);  // until the last guest has left
}

zloop::task<> closing_time(zloop::event& last_call) {
    (co_await last_call.wait()).value();
    (co_await zloop::sleep_for(10s)).value();
}

zloop::task<> serve(zloop::listener& door, zloop::signal_set& told_to_stop) {
    zloop::event last_call;
    // Whoever is first cancels the other: who stays too long is put out, and nobody waits for an empty room.
    co_await zloop::when_any(evening(door, told_to_stop, last_call), closing_time(last_call));
    std::puts("all have left");
}

zloop::task<bool> visit(zloop::address where) {
    auto socket = (co_await zloop::connect(where)).value();
    std::string seen;
    for (const char* word : {"hello\n", "goodbye\n"}) {
        (co_await zloop::write_all(socket, zloop::bytes_of(word))).value();
        const auto size = (co_await zloop::read_until(socket, seen, word)).value();
        std::raise(SIGTERM);  // from here on it is the only guest
        seen.resize(size);
    }
    co_return seen == "hello\ngoodbye\n";
}

int main(int count, char** arguments) {
    const std::string argument = count > 1 ? arguments[1] : "7000";
    const bool self_test = argument == "--self-test";
    const auto port = static_cast<std::uint16_t>(self_test ? 0 : std::atoi(argument.c_str()));

    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    zloop::signal_set told_to_stop(loop, {SIGTERM, SIGINT});
    std::printf("echo at %s\n", door.local_address().to_string().c_str());

    if (!self_test) {
        zloop::run(loop, serve(door, told_to_stop));
        return EXIT_SUCCESS;
    }
    zloop::job<bool> visiting(loop, visit(door.local_address()));
    zloop::run(loop, serve(door, told_to_stop));
    return visiting.take() ? EXIT_SUCCESS : EXIT_FAILURE;
}
