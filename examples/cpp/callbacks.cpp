// A loop without coroutines: an op that is queued, a timer, an op that another thread posts; and a hook
// around each wait, where a program that has a big lock lets go of it.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include <zloop/loop.hpp>

using namespace std::chrono_literals;

std::string seen;

struct note : zloop::op {
    explicit note(char letter) noexcept : op(&note::write), letter_(letter) {}

private:
    static void write(zloop::op& self) noexcept { seen += static_cast<note&>(self).letter_; }

    char letter_;
};

struct bell : zloop::timer_node {
    explicit bell(zloop::loop& stopped) noexcept : timer_node(&bell::ring), loop_(stopped) {}

private:
    static void ring(zloop::op& self) noexcept {
        seen += '!';
        static_cast<bell&>(self).loop_.stop();
    }

    zloop::loop& loop_;
};

struct counting_hook : zloop::wait_hook {
    void before_wait() noexcept override { ++before; }
    void after_wait() noexcept override { ++after; }

    int before = 0;
    int after = 0;
};

int main() {
    counting_hook hook;  // outlives the loop, as all ops do
    note first('a');
    note second('b');
    note posted('c');
    zloop::loop loop;
    bell late(loop);
    bell never(loop);
    loop.use_wait_hook(&hook);

    loop.push(first);
    loop.push(second);
    loop.arm(late, loop.now() + 20ms);
    loop.arm(never, loop.now() + 10ms);
    loop.disarm(never);
    std::thread other([&] { loop.post(posted); });
    loop.run();
    other.join();

    std::printf("%s after %d waits\n", seen.c_str(), hook.after);
    // What is posted may come between a and b's turn and the bell's, or before them.
    const bool good = seen.size() == 4 && seen.back() == '!' && seen.find("ab") != seen.npos;
    return good && hook.before == hook.after && hook.after > 0 && !never.armed() ? EXIT_SUCCESS
                                                                                 : EXIT_FAILURE;
}
