// A chat server; SIGINT or SIGTERM ends it, and it says good night:  chat [port]

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "chat.hpp"

zloop::task<> wait_for(zloop::signal_set& signals, zloop::event& stop) {
    static_cast<void>(co_await signals.wait());
    stop.set();
}

int main(int count, char** arguments) {
    const auto port = static_cast<std::uint16_t>(std::atoi(count > 1 ? arguments[1] : "7001"));
    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    zloop::signal_set signals(loop, {SIGINT, SIGTERM});
    zloop::event stop;
    std::printf("chat at %s\n", door.local_address().to_string().c_str());
    std::fflush(stdout);
    zloop::run(loop, zloop::when_all(chat::serve(door, stop), wait_for(signals, stop)));
}
