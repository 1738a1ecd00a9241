// Connects to whichever address of a host answers: the first here is nobody's, and so the second has it.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<bool> visit(zloop::listener& door) {
    const zloop::address there = door.local_address();

    const std::vector<zloop::address> candidates{zloop::address::loopback(1), there};
    auto first = (co_await zloop::connect(candidates, 1h)).value();  // at once, when one has failed

    zloop::connect_options options;
    options.names.family = AF_INET;
    options.socket.no_delay = true;
    auto second = (co_await zloop::connect("127.0.0.1", there.port(), options)).value();

    const auto refused = co_await zloop::connect(zloop::address::loopback(1));
    std::printf("%s; %s\n", first.peer_address().to_string().c_str(), refused.error().message().c_str());
    co_return first.peer_address() == there&& second.peer_address() == there&& refused.error() ==
        std::errc::connection_refused;
}

int main() {
    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback()).value();
    return zloop::run(loop, visit(door)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
