// A loop without coroutines: ops that are queued, a timer, an op that another thread posts; a turner around
// each run, where a program takes its big lock, and a hook around each wait, where it lets go of it.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include <zloop/loop.hpp>

using namespace std::chrono_literals;

std::string seen;

struct note : zloop::op {
    explicit note(char letter, zloop::loop* ended = nullptr) noexcept
        : op(&note::write), letter_(letter), ended_(ended) {}

private:
    static void write(zloop::op& self) noexcept {
        auto& own = static_cast<note&>(self);
        seen += own.letter_;
        if (own.ended_ != nullptr) {
            own.ended_->stop();
        }
    }

    char letter_;
    zloop::loop* ended_;
};

struct bell : zloop::timer_node {
    bell() noexcept : timer_node(&bell::ring) {}

    std::atomic<bool> rang = false;

private:
    static void ring(zloop::op& self) noexcept {
        seen += '!';
        static_cast<bell&>(self).rang = true;
        static_cast<bell&>(self).rang.notify_one();
    }
};

struct counting_hook : zloop::wait_hook {
    void before_wait() noexcept override { ++before; }
    void after_wait() noexcept override { ++after; }

    int before = 0;
    int after = 0;
};

struct locked_turner : zloop::turner {
    explicit locked_turner(zloop::loop& turned) : on(turned) { on.use_turner(this); }
    ~locked_turner() { leave(); }

    void turn_until(bool (*is_over)(const void*), const void* what, zloop::nanoseconds limit) override {
        ++runs;  // here the lock would be taken
        do {
            on.turn(limit);
        } while (!is_over(what));
    }
    void leave() noexcept override { on.use_turner(nullptr); }

    zloop::loop& on;
    int runs = 0;
};

int main() {
    counting_hook hook;  // outlives the loop
    zloop::loop loop;
    locked_turner turner(loop);
    loop.use_wait_hook(&hook);
    note first('a');
    note second('b');
    note last('c', &loop);
    bell early;
    bell never;

    loop.push(first);
    loop.push(second);
    loop.arm(early, loop.now() + 5ms);
    loop.arm(never, loop.now() + 1ms);
    loop.disarm(never);
    std::thread other([&] {
        early.rang.wait(false);
        loop.post(last);  // and with it the loop wakes up
    });
    loop.run();
    other.join();

    std::printf("%s after %d waits\n", seen.c_str(), hook.after);
    const bool good =
        seen == "ab!c" && turner.runs == 1 && hook.before == hook.after && hook.after > 0 && !never.armed();
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
