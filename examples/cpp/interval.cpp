// Ticks without drift, on a clock that stands still while something runs: a late one counts those it missed.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <zloop/testing.hpp>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<std::vector<std::uint64_t>> count() {
    zloop::interval every(10ms);
    std::vector<std::uint64_t> ticks;
    for (const zloop::nanoseconds work : {1ms, 25ms, 1ms}) {
        ticks.push_back((co_await every.next()).value());
        (co_await zloop::sleep_for(work)).value();
    }
    ticks.push_back((co_await every.next()).value());
    co_return ticks;
}

int main() {
    zloop::testing::virtual_loop loop;
    const auto ticks = zloop::run(loop, count());
    for (const std::uint64_t each : ticks) {
        std::printf("%u ", static_cast<unsigned>(each));
    }
    std::printf("in %d ms\n", static_cast<int>(loop.elapsed() / 1ms));
    const bool good = ticks == std::vector<std::uint64_t>{1, 1, 2, 1} && loop.elapsed() == 50ms;
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
