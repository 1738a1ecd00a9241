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

zloop::task<> say_good_night(zloop::nursery& guests) {
    const auto patient = co_await zloop::sleep_for(10s);
    if (patient) {
        guests.cancel();
    }
}

zloop::task<> serve(zloop::listener& door, zloop::signal_set& told_to_stop) {
    const auto here = co_await zloop::current_context();
    zloop::nursery guests(here);

    zloop::job<> welcoming(here, welcome(door, guests));
    const auto number = co_await told_to_stop.wait();
    std::printf("signal %d: no more guests\n", *number);
    welcoming.cancel();
    co_await welcoming.join();
    door.close();

    zloop::job<> patience(here, say_good_night(guests));
    co_await guests.join();
    patience.cancel();
    co_await patience.join();
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
