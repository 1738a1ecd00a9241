// A kitchen: two stoves (a semaphore), one table (a mutex and a condition), a bell (an event), and the cooks
// that have gone home (a latch).

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <zloop/zloop.hpp>

struct kitchen {
    zloop::event open;
    zloop::semaphore stoves{2};
    zloop::mutex alone;
    zloop::condition changed;
    zloop::latch at_home{4};
    int cooking = 0;
    int most_cooking = 0;
    int dishes = 0;
};

zloop::task<> cook(kitchen& here) {
    (co_await here.open.wait()).value();
    (co_await here.stoves.acquire()).value();
    here.most_cooking = std::max(here.most_cooking, ++here.cooking);
    co_await zloop::next_turn();
    --here.cooking;
    here.stoves.release();
    {
        const auto held = (co_await here.alone.lock()).value();  // until the end of this block
        ++here.dishes;
        here.changed.notify_all();
    }
    here.at_home.count_down();
}

zloop::task<bool> serve(kitchen& here) {
    auto table = (co_await here.alone.lock()).value();
    (co_await here.changed.wait_until(table, [&] { return here.dishes == 4; })).value();
    table.unlock();
    (co_await here.at_home.wait()).value();
    co_return here.most_cooking == 2 && here.stoves.available() == 2 && here.at_home.is_open();
}

int main() {
    kitchen here;
    zloop::loop loop;
    for (int count = 0; count < 4; ++count) {
        zloop::spawn(loop, cook(here));
    }
    here.open.set();
    const bool good = zloop::run(loop, serve(here));
    std::printf("%d dishes, %d cooks at once\n", here.dishes, here.most_cooking);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
