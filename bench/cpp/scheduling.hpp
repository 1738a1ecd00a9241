// scheduling.hpp: the rows of the scheduling benchmark, which each library fills with its own way.
#pragma once

#include <chrono>
#include <cstdint>

namespace bench {

/// Does something `count` times and returns the time that it took.
using measure = std::chrono::nanoseconds (*)(std::int64_t count);

struct row {
    const char* name;
    double bar;          ///< how many times as fast as asio it is meant to be
    std::int64_t count;  ///< of one round: some ten milliseconds
    measure asio;
    measure zloop;
};

class stopwatch {
public:
    std::chrono::nanoseconds elapsed() const { return std::chrono::steady_clock::now() - begin_; }

private:
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

#define BENCH_ROWS(X)      \
    X(await_child)         \
    X(spawn_and_join)      \
    X(post_own)            \
    X(arm_and_cancel)      \
    X(await_due_timer)     \
    X(timeout_around_task) \
    X(channel_hand_off)    \
    X(post_from_thread)

namespace with_asio {
#define X(name) std::chrono::nanoseconds name(std::int64_t count);
BENCH_ROWS(X)
#undef X
}  // namespace with_asio

namespace with_zloop {
#define X(name) std::chrono::nanoseconds name(std::int64_t count);
BENCH_ROWS(X)
#undef X
}  // namespace with_zloop

}  // namespace bench
