// Reads lines and a body out of one stream. A read that is cancelled takes nothing.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<bool> work(zloop::loop& loop) {
    auto [theirs, ours] = zloop::stream::pair(loop).value();
    zloop::buffered_reader from(ours);  // refers to it; from(std::move(ours)) would own it

    (co_await zloop::write_all(theirs, zloop::bytes_of("name: you\r\n\r\nbo"))).value();
    const std::string header((co_await from.read_line()).value());  // a view, until the next call
    const bool empty = (co_await from.read_line()).value().empty();

    auto early = co_await zloop::with_timeout(1ms, from.read_exactly(4));
    const bool kept = early.error() == std::errc::timed_out && from.buffered() == "bo";

    (co_await zloop::write_all(theirs, zloop::bytes_of("dy"))).value();
    const std::string body((co_await from.read_exactly(4)).value());
    theirs.close();
    const auto end = co_await from.read_line();
    std::printf("%s, %s\n", header.c_str(), body.c_str());
    co_return header == "name: you" && empty&& kept&& body == "body" &&
        end.error() == zloop::errc::end_of_stream;
}

int main() {
    zloop::loop loop;
    return zloop::run(loop, work(loop)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
