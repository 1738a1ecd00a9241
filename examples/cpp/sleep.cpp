// Three tasks sleep at the same time, on one thread; the patient one is told to stop.

#include <cstdio>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<> nap(const char* name, zloop::nanoseconds duration) {
    const auto outcome = co_await zloop::sleep_for(duration);
    std::printf("%s %s\n", name, outcome ? "slept well" : "was woken early");
}

zloop::task<> morning() {
    const auto here = co_await zloop::current_context();

    zloop::job<> cat(here, nap("the cat", 30ms));
    zloop::job<> bear(here, nap("the bear", 24h * 120));
    co_await nap("the child", 60ms);

    bear.cancel();  // asks; the nap ends in its own turn
    co_await cat.join();
    co_await bear.join();
}

int main() { zloop::run(morning()); }
