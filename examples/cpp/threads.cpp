// Loops on several threads: what passes between them, and a server that is spread over them.

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include <zloop/zloop.hpp>

zloop::task<> echo(zloop::accepted guest) {
    for (;;) {
        const auto received = co_await guest.socket.receive();
        if (!received || received->empty() || !co_await guest.socket.send(*received)) {
            co_return;
        }
    }
}

zloop::task<int> work(zloop::runtime& threads, zloop::address where, zloop::thread_channel<int>& numbers) {
    // A call on another loop's thread, and its result here.
    const std::string text = co_await zloop::on(threads.at(1), [] { return std::string("from there"); });
    std::printf("%s\n", text.c_str());

    // No answer at all: what is posted may only move.
    threads.at(0).post(
        [alone = std::make_unique<int>(7), &numbers] { static_cast<void>(numbers.try_send(int(*alone))); });

    auto line = (co_await zloop::connect(where)).value();
    (co_await line.send(zloop::bytes_of("echo\n"))).value();
    std::printf("%s", std::string(zloop::as_text((co_await line.receive()).value())).c_str());

    int sum = 0;
    for (auto each = co_await numbers.receive(); each; each = co_await numbers.receive()) {
        sum += *each;
        if (sum == 7 + 1 + 2 + 3) {
            numbers.close();
        }
    }
    std::printf("%d\n", sum);
    co_return sum == 13 ? 0 : 1;
}

int main() {
    zloop::runtime threads(2);
    const auto where = threads.serve(zloop::address::loopback(), echo).value();

    // From a thread without a loop, which would block where there is no room. There is some for each number:
    // who may not wait, as what is posted above, could find none.
    zloop::thread_channel<int> numbers(4);
    std::thread plain([&] {
        for (const int each : {1, 2, 3}) {
            numbers.send_blocking(each).value();
        }
    });
    const int outcome = zloop::run(work(threads, where, numbers));
    plain.join();
    threads.stop();  // what runs there is cancelled
    threads.join();
    return outcome;
}
