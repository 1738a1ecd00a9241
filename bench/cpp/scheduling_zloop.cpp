// scheduling_zloop.cpp: the rows by zloop.
#include "scheduling.hpp"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <zloop/zloop.hpp>

namespace bench::with_zloop {

namespace {

using namespace std::chrono_literals;
using zloop::task;

std::chrono::nanoseconds run(task<> work) {
    zloop::loop loop;
    const stopwatch watch;
    zloop::run(loop, std::move(work));
    return watch.elapsed();
}

task<> nothing() { co_return; }

/// An op that counts.
struct counted : zloop::op {
    counted() : op([](op& self) noexcept { ++*static_cast<counted&>(self).done; }) {}
    std::int64_t* done = nullptr;
};

}  // namespace

std::chrono::nanoseconds await_child(std::int64_t count) {
    return run([](std::int64_t times) -> task<> {
        for (std::int64_t index = 0; index < times; ++index) {
            co_await nothing();
        }
    }(count));
}

std::chrono::nanoseconds spawn_and_join(std::int64_t count) {
    return run([](std::int64_t times) -> task<> {
        zloop::nursery children(co_await zloop::current_context());
        for (std::int64_t index = 0; index < times; ++index) {
            children.spawn(nothing());
            co_await children.join();
        }
    }(count));
}

std::chrono::nanoseconds post_own(std::int64_t count) {
    zloop::loop loop;
    std::int64_t done = 0;
    std::vector<std::unique_ptr<counted>> ops;
    for (int index = 0; index < 1000; ++index) {
        ops.push_back(std::make_unique<counted>());
        ops.back()->done = &done;
    }
    const stopwatch watch;
    while (done < count) {
        for (auto& each : ops) {
            loop.push(*each);
        }
        loop.run_once(zloop::nanoseconds::zero());
    }
    return watch.elapsed();
}

std::chrono::nanoseconds arm_and_cancel(std::int64_t count) {
    zloop::loop loop;
    const auto never = [](zloop::op&) noexcept {};
    struct timer : zloop::timer_node {
        using timer_node::timer_node;
    } node(never);
    const stopwatch watch;
    for (std::int64_t index = 0; index < count; ++index) {
        loop.arm(node, loop.now() + 1h);
        loop.disarm(node);
    }
    return watch.elapsed();
}

std::chrono::nanoseconds await_due_timer(std::int64_t count) {
    return run([](std::int64_t times) -> task<> {
        for (std::int64_t index = 0; index < times; ++index) {
            (co_await zloop::sleep_for(0s)).value();
        }
    }(count));
}

std::chrono::nanoseconds timeout_around_task(std::int64_t count) {
    return run([](std::int64_t times) -> task<> {
        for (std::int64_t index = 0; index < times; ++index) {
            (co_await zloop::with_timeout(1h, nothing())).value();
        }
    }(count));
}

std::chrono::nanoseconds channel_hand_off(std::int64_t count) {
    return run([](std::int64_t times) -> task<> {
        zloop::channel<std::int64_t> channel(0);
        zloop::nursery children(co_await zloop::current_context());
        children.spawn([](zloop::channel<std::int64_t>& to, std::int64_t values) -> task<> {
            for (std::int64_t index = 0; index < values; ++index) {
                (co_await to.send(index)).value();
            }
        }(channel, times));
        for (std::int64_t index = 0; index < times; ++index) {
            (co_await channel.receive()).value();
        }
        co_await children.join();
    }(count));
}

std::chrono::nanoseconds post_from_thread(std::int64_t count) {
    zloop::loop loop;
    std::int64_t done = 0;
    struct busy final : zloop::op {
        busy(zloop::loop& home, const std::int64_t& progress, std::int64_t goal)
            : op([](op& self) noexcept {
                  auto& own = static_cast<busy&>(self);
                  if (own.progress_ < own.goal_) {
                      own.home_.push(own);
                  }
              }),
              home_(home),
              progress_(progress),
              goal_(goal) {}

    private:
        zloop::loop& home_;
        const std::int64_t& progress_;
        std::int64_t goal_;
    } worker(loop, done, count);
    // asio makes room for each handler; so do we.
    struct posted final : zloop::op {
        explicit posted(std::int64_t& progress)
            : op([](op& self) noexcept {
                  ++static_cast<posted&>(self).progress_;
                  delete static_cast<posted*>(&self);
              }),
              progress_(progress) {}

    private:
        std::int64_t& progress_;
    };
    loop.push(worker);
    const stopwatch watch;
    std::thread other([&] {
        for (std::int64_t index = 0; index < count; ++index) {
            loop.post(*new posted(done));
        }
    });
    while (done < count) {
        loop.run_once();
    }
    const auto elapsed = watch.elapsed();
    other.join();
    while (!loop.ready().empty()) {
        loop.run_once(zloop::nanoseconds::zero());
    }
    return elapsed;
}

}  // namespace bench::with_zloop
