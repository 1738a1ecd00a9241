// Three tasks sleep at the same time, on one thread; the patient one is told to stop.

#include <cstdio>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<> nap(const char* name, zloop::nanoseconds duration) {
    const auto outcome = co_await zloop::sleep_for(duration);
    std::printf("%s %s\n", name, outcome ? "slept well" : "was woken early");
}

zloop::task<> morning() {
    auto household = [](zloop::nursery& sleepers) -> zloop::task<> {
        sleepers.spawn(nap("the cat", 30ms));
        sleepers.spawn(nap("the bear", 24h * 120));
        co_await nap("the child", 60ms);

        sleepers.cancel();  // asks; who sleeps still wakes in its own turn
    };
    co_await zloop::with_nursery(household);  // until all are awake
}

int main() { zloop::run(morning()); }
