// Step 1 of the tutorial: each guest hears itself:  step1_lines [port]

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

zloop::task<> visit(zloop::stream socket) {
    zloop::buffered_reader words(socket);
    while (const auto line = co_await words.read_line()) {
        const std::string answer = std::string(*line) + '\n';
        const auto sent = co_await zloop::write_all(socket, zloop::bytes_of(answer));
        if (!sent) {
            co_return;
        }
    }
}

zloop::task<> serve(zloop::listener& door) {
    zloop::nursery guests(co_await zloop::current_context());
    while (auto guest = co_await door.accept()) {
        guests.spawn(visit(std::move(guest->socket)));
    }
    guests.cancel();
    co_await guests.join();
}

int main(int count, char** arguments) {
    const auto port = static_cast<std::uint16_t>(std::atoi(count > 1 ? arguments[1] : "7001"));
    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback(port)).value();
    std::printf("chat at %s\n", door.local_address().to_string().c_str());
    std::fflush(stdout);
    zloop::run(loop, serve(door));
}
