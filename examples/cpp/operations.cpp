// Whatever can be awaited has a deadline, is raced and waited for with others, and is started: not only
// tasks.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<> greet(std::string name, std::unique_ptr<int> times) {
    co_await zloop::next_turn();
    for (int each = 0; each < *times; ++each) {
        std::printf("hello %s\n", name.c_str());
    }
}

zloop::task<> work() {
    const zloop::context here = co_await zloop::current_context();
    auto [near, far] = zloop::stream::pair(*here.on).value();
    zloop::channel<std::string> orders(1);
    std::array<std::byte, 64> buffer;

    // A deadline: the time is up, and whatever comes later is still there.
    const auto late = co_await zloop::with_timeout(1ms, near.recv(buffer));
    std::printf("%s\n", late.error().message().c_str());

    // The first of several: the losers have taken nothing.
    (co_await far.send(zloop::bytes_of("six bytes"))).value();
    (co_await orders.send("tea")).value();
    const auto first = co_await zloop::when_any(orders.receive(), near.recv(buffer), zloop::sleep_for(1h));
    if (const auto* order = std::get_if<0>(&first)) {
        std::printf("%s\n", order->value().c_str());
    }
    const auto bytes = co_await near.recv(buffer);
    std::printf("%zu bytes\n", bytes.value());

    // All of a list, of whatever kind.
    std::vector<zloop::sleep_for> naps;
    naps.emplace_back(1ms);
    naps.emplace_back(2ms);
    const auto rested = co_await zloop::when_all(std::move(naps));
    std::printf("%zu naps\n", rested.size());

    // What is started keeps what it was called with.
    co_await zloop::with_nursery([](zloop::nursery& children) -> zloop::task<> {
        std::string name = "you";
        children.spawn(greet, name, std::make_unique<int>(2));
        children.spawn(zloop::with_timeout(1s, zloop::sleep_for(1ms)));  // its error would be a failure
        co_return;
    });

    // For who takes tasks alone.
    zloop::task<zloop::result<void>> task = zloop::as_task(zloop::sleep_for(1ms));
    if (first.index() != 0 || !co_await std::move(task)) {
        std::exit(1);
    }
}

int main() { zloop::run(work()); }
