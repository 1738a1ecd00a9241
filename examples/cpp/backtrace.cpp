// Who awaits what, at which line; and what the loop has counted.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<> inner() { static_cast<void>(co_await zloop::sleep_for(1h)); }
zloop::task<> outer() { co_await inner(); }

int main() {
    zloop::loop loop;
    zloop::job<> working(loop, outer());
    loop.run_once(0ns);

    zloop::print_backtrace(loop, stdout);
    const auto tasks = zloop::backtrace(loop);
    const auto counted = loop.stats();
    working.cancel();
    while (!working.done()) {
        loop.run_once();
    }

    const bool good = tasks.size() == 1 && tasks[0].size() == 2 && tasks[0][1].what == std::string("sleep") &&
                      tasks[0][1].where.line() == 11 && counted.live == 1 && zloop::backtrace(loop).empty();
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
