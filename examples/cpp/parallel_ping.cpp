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
zloop::task<zloop::result<zloop::nanoseconds>> round_trip(std::string host, std::string port) {
    const auto begin = std::chrono::steady_clock::now();
    auto [error, socket] = co_await zloop::connect(host, port);
    if (!error) {
        std::string answer;
        error = (co_await zloop::write_all(socket, zloop::bytes_of("ping\n"))).error();
        if (!error) {
            error = (co_await zloop::read_until(socket, answer, "\n")).error();
        }
    }
    if (error) {
        co_return error;
    }
    co_return std::chrono::steady_clock::now() - begin;
}

/// when_any takes the first that ends: who has failed waits for the others, until it is cancelled.
zloop::task<zloop::nanoseconds> ping(std::string name) {
    const auto colon = name.rfind(':');
    const auto [error, time] = co_await round_trip(name.substr(0, colon), name.substr(colon + 1));
    if (error) {
        if (error != std::errc::operation_canceled) {
            std::printf("%s: %s\n", name.c_str(), error.message().c_str());
        }
        (co_await zloop::sleep_until(zloop::time_point::max())).value();
    }
    co_return time;
}

zloop::task<bool> ask(std::vector<std::string> names) {
    std::vector<zloop::task<zloop::nanoseconds>> pings;
    for (const auto& name : names) {
        pings.push_back(ping(name));
    }
    auto race = zloop::when_any(std::move(pings));
    const auto first = co_await zloop::with_timeout(5s, std::move(race));
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
    auto socket = (co_await door.accept()).value().socket;
    std::string line;
    (co_await zloop::read_until(socket, line, "\n")).value();
    (co_await zloop::sleep_for(delay)).value();
    (co_await zloop::write_all(socket, zloop::bytes_of(line))).value();
}

zloop::task<bool> self_test() {
    const zloop::context here = co_await zloop::current_context();
    std::vector<zloop::listener> doors;
    std::vector<std::string> names{"127.0.0.1:1"};  // nobody is there
    for (int count = 0; count < 3; ++count) {
        doors.push_back(zloop::listener::bind(*here.on, zloop::address::loopback()).value());
        names.push_back(doors.back().local_address().to_string());
    }
    zloop::nursery servers(here);
    servers.spawn(answer(doors[0], 1h));
    servers.spawn(answer(doors[1], 1ms));
    servers.spawn(answer(doors[2], 2h));

    const bool answered = co_await ask(names);

    servers.cancel();  // two of them sleep
    co_await servers.join();
    co_return answered;
}

int main(int count, char** arguments) {
    const std::vector<std::string> names(arguments + 1, arguments + count);
    if (names.empty()) {
        std::fprintf(stderr, "usage: parallel_ping host:port...\n");
        return EXIT_FAILURE;
    }
    const bool answered = zloop::run(names[0] == "--self-test" ? self_test() : ask(names));
    return answered ? EXIT_SUCCESS : EXIT_FAILURE;
}
