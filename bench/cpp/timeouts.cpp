// timeouts.cpp: what with_timeout costs around an operation, and how two loops of a runtime scale.
//
//     timeouts [rounds]
//
// Prints the medians; a ratio is of rounds that stood beside each other.
#include "scheduling.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zloop/zloop.hpp>

namespace {

using namespace std::chrono_literals;
using zloop::task;

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

/// ns an awaited receive from a channel that has a value.
template <bool limited>
double ready(std::int64_t count) {
    zloop::loop loop;
    const bench::stopwatch watch;
    zloop::run(loop, [](std::int64_t times) -> task<> {
        zloop::channel<int> box(1);
        for (std::int64_t index = 0; index < times; ++index) {
            static_cast<void>(box.try_send(1));
            if constexpr (limited) {
                static_cast<void>(co_await zloop::with_timeout(1h, box.receive()));
            } else {
                static_cast<void>(co_await box.receive());
            }
        }
    }(count));
    return static_cast<double>(watch.elapsed().count()) / static_cast<double>(count);
}

/// Answers each byte, until the peer is gone.
template <bool limited>
task<> answer(zloop::stream& line) {
    std::array<std::byte, 64> buffer;
    for (;;) {
        zloop::result<std::size_t> got = 0;
        if constexpr (limited) {
            got = co_await zloop::with_timeout(1h, line.recv(buffer));
        } else {
            got = co_await line.recv(buffer);
        }
        if (zloop::value_of(got) == 0) {
            co_return;
        }
        static_cast<void>(co_await line.send(std::span(buffer).first(zloop::value_of(got))));
    }
}

/// ns of an awaited recv that waits, of two on one loop: each byte goes to and fro.
template <bool limited>
double waiting(std::int64_t count) {
    zloop::loop loop;
    auto [near, far] = zloop::stream::pair(loop).value();
    const bench::stopwatch watch;
    zloop::run(loop, [](zloop::stream& one, zloop::stream& other, std::int64_t times) -> task<> {
        zloop::nursery children(co_await zloop::current_context());
        children.spawn(answer<limited>(other));
        std::array<std::byte, 64> buffer{};
        for (std::int64_t index = 0; index < times; ++index) {
            static_cast<void>(co_await one.send(std::span(buffer).first(1)));
            if constexpr (limited) {
                static_cast<void>(co_await zloop::with_timeout(1h, one.recv(buffer)));
            } else {
                static_cast<void>(co_await one.recv(buffer));
            }
        }
        one.close();
        co_await children.join();
    }(near, far, count));
    return static_cast<double>(watch.elapsed().count()) / static_cast<double>(2 * count);
}

/// To and fro on a loop of its own, until told to end; how often.
task<std::int64_t> to_and_fro(zloop::loop& on, const std::atomic<bool>& ends) {
    auto [near, far] = zloop::stream::pair(on).value();
    zloop::nursery children(co_await zloop::current_context());
    children.spawn(answer<false>(far));
    std::array<std::byte, 64> buffer{};
    std::int64_t times = 0;
    for (; !ends.load(std::memory_order_relaxed); ++times) {
        static_cast<void>(co_await near.send(std::span(buffer).first(1)));
        static_cast<void>(co_await near.recv(buffer));
    }
    near.close();
    co_await children.join();
    co_return times;
}

constexpr auto patience = 300ms;

double of_runtime() {
    std::atomic<bool> ends = false;
    std::atomic<std::int64_t> total = 0;
    std::atomic<int> left = 2;
    zloop::runtime two(2);
    two.start_on_each([&](zloop::loop& on) -> task<> {
        const std::int64_t times = co_await to_and_fro(on, ends);
        total += times;
        --left;
    });
    ::usleep(std::chrono::microseconds(patience).count());
    ends = true;
    while (left != 0) {
        ::usleep(100);
    }
    return static_cast<double>(total);
}

double of_processes() {
    struct shared {
        std::atomic<bool> ends;
        std::atomic<std::int64_t> total;
    };
    void* const memory =
        ::mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    auto* const both = new (memory) shared{};
    for (int index = 0; index < 2; ++index) {
        if (::fork() == 0) {
            zloop::loop own;
            both->total += zloop::run(own, to_and_fro(own, both->ends));
            ::_exit(0);
        }
    }
    ::usleep(std::chrono::microseconds(patience).count());
    both->ends = true;
    while (::wait(nullptr) > 0) {
    }
    const auto total = static_cast<double>(both->total);
    ::munmap(memory, sizeof(shared));
    return total;
}

void say(const char* what, double measured, double bar, bool at_most, const char* unit) {
    const bool holds = at_most ? measured <= bar : measured >= bar;
    std::printf("%-46s %9.2f %s, bar %s %.2f: %s\n", what, measured, unit, at_most ? "<=" : ">=", bar,
                holds ? "holds" : "FALLS SHORT");
}

}  // namespace

int main(int count, char** arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 15;
    std::vector<double> at_once, bare, ratios, scaling;
    for (int round = -1; round < rounds; ++round) {
        const double with = ready<true>(200'000);
        const double without = ready<false>(200'000);
        const double waits = waiting<true>(10'000);
        const double ratio = waits / waiting<false>(10'000);
        const double processes = of_processes();
        const double runtime = of_runtime();
        if (round >= 0) {  // the first warms up
            at_once.push_back(with);
            bare.push_back(without);
            ratios.push_back(ratio);
            scaling.push_back(runtime / processes);
        }
    }
    std::printf("%-46s %9.2f ns\n", "a channel's receive that is ready", median(bare));
    say("with_timeout around it", median(at_once), 40, true, "ns");
    say("with_timeout around a recv that waits", median(ratios), 1.15, true, "x");
    say("runtime of 2 loops, x two processes", median(scaling), 0.95, false, "x");
}
