// Which of several servers answers first?  parallel_ping host:port...
// Asks three of its own, and ends:         parallel_ping --self-test
//
// Each is sent a line, and has to send one. The slow ones are cancelled once the first has answered.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

/// From the first packet to the answer.
zloop::task<zloop::nanoseconds> round_trip(std::string host, std::string port) {
    const auto begin = std::chrono::steady_clock::now();
    zloop::buffered_reader server((co_await zloop::connect(host, port)).value());
    (co_await zloop::write_all(server, zloop::bytes_of("ping\n"))).value();
    (co_await server.read_line()).value();
    co_return std::chrono::steady_clock::now() - begin;
}

/// when_any takes the first that ends: who has failed waits for the others, until it is cancelled.
zloop::task<zloop::nanoseconds> ping(std::string name) {
    const auto colon = name.rfind(':');
    try {
        co_return co_await round_trip(name.substr(0, colon), name.substr(colon + 1));
    } catch (const std::system_error& error) {
        if (error.code() == std::errc::operation_canceled) {
            throw;
        }
        std::printf("%s: %s\n", name.c_str(), error.what());
    }
    (co_await zloop::sleep_until(zloop::time_point::max())).value();
    co_return {};
}

zloop::task<bool> ask(std::vector<std::string> names) {
    std::vector<zloop::task<zloop::nanoseconds>> pings;
    for (const auto& name : names) {
        pings.push_back(ping(name));
    }
    const auto first = co_await zloop::with_timeout(5s, zloop::when_any(std::move(pings)));
    if (!first) {
        std::printf("nobody answers\n");
        co_return false;
    }
    const auto [index, time] = *first;
    std::printf("%s answers first, after %.3f ms\n", names[index].c_str(),
                static_cast<double>(time.count()) / 1e6);
    co_return true;
}

/// Answers one line, after a while.
zloop::task<> answer(zloop::listener& door, zloop::nanoseconds delay) {
    zloop::buffered_reader guest((co_await door.accept()).value().socket);
    (co_await guest.read_line()).value();
    (co_await zloop::sleep_for(delay)).value();
    (co_await zloop::write_all(guest, zloop::bytes_of("pong\n"))).value();
}

zloop::task<bool> self_test() {
    const zloop::context here = co_await zloop::current_context();
    std::vector<zloop::listener> doors;
    std::vector<std::string> names{"127.0.0.1:1"};  // nobody is there
    zloop::nursery servers(here);
    doors.reserve(3);
    for (const zloop::nanoseconds delay : {1h, 0h, 2h}) {
        doors.push_back(zloop::listener::bind(*here.on, zloop::address::loopback()).value());
        names.push_back(doors.back().local_address().to_string());
        servers.spawn(answer(doors.back(), delay));
    }
    const bool answered = co_await ask(names);
    servers.cancel();  // two of them sleep
    co_await servers.join();
    co_return answered;
}

int main(int count, char** arguments) {
    const std::vector<std::string> names(arguments + 1, arguments + count);
    const bool self_test_only = names.empty() || names[0] == "--self-test";
    return zloop::run(self_test_only ? self_test() : ask(names)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
