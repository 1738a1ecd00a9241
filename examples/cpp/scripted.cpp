// A protocol without a kernel: two ends that are connected, short writes, a reset; and a peer that is a
// script.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/testing.hpp>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<std::string> read_line(zloop::stream& from) {
    std::string text;
    auto [error, size] = co_await zloop::read_until(from, text, "\n");
    co_return error ? error.message() : text.substr(0, size);
}

int main() {
    zloop::testing::virtual_loop loop;
    auto& kernel = loop.kernel();

    const auto [one, other] = kernel.pair();
    auto client = zloop::stream::adopt(loop, zloop::fd(one)).value();
    auto server = zloop::stream::adopt(loop, zloop::fd(other)).value();
    kernel.at(one).takes(3).holds(4);  // "hel", and then no more than 4 unread bytes at a time
    auto reading = loop.start(read_line(server));
    auto writing = loop.start(zloop::write_all(client, zloop::bytes_of("hello, world\n")));
    bool good = loop.join(reading) == "hello, world\n" && loop.join(writing);

    const int number = kernel.open();
    auto peer = zloop::stream::adopt(loop, zloop::fd(number)).value();
    kernel.at(number).receives("half a li").fails_read(ECONNRESET);
    kernel.after(1h, [&] { kernel.at(number).receives("never seen"); });
    good = good && zloop::run(loop, read_line(peer)) == "Connection reset by peer";

    std::printf("%s, in %d s\n", good ? "as it should be" : "otherwise",
                static_cast<int>(loop.elapsed() / 1s));
    return good && loop.elapsed() == 0s && kernel.waiting() == 0 && kernel.in_service() == 3 ? EXIT_SUCCESS
                                                                                             : EXIT_FAILURE;
}
