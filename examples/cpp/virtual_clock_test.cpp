// A test of code that waits for a minute, in no time: the clock jumps when nothing else can run.
// With a test framework it is the same; here, a failed check ends the program.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <zloop/testing.hpp>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

// What is tested: tries again and again, twice as late each time, for a minute at most.
template <class F>
zloop::task<zloop::result<int>> retry(F attempt) {
    auto patiently = [&]() -> zloop::task<zloop::result<int>> {
        for (zloop::nanoseconds pause = 1s;; pause *= 2) {
            const auto outcome = co_await attempt();
            if (outcome) {
                co_return outcome;
            }
            if (const auto slept = co_await zloop::sleep_for(pause); !slept) {
                co_return slept.error();
            }
        }
    };
    co_return co_await zloop::with_timeout(1min, patiently());
}

void check(bool holds, const char* promise) {
    std::printf("%s: %s\n", holds ? "ok" : "FAILED", promise);
    if (!holds) {
        std::exit(EXIT_FAILURE);
    }
}

int main() {
    {
        zloop::testing::virtual_loop loop;
        std::vector<zloop::nanoseconds> attempts;
        auto third_time_lucky = [&]() -> zloop::task<zloop::result<int>> {
            attempts.push_back(loop.elapsed());
            if (attempts.size() < 3) {
                co_return std::errc::connection_refused;
            }
            co_return 42;
        };

        const auto outcome = zloop::run(loop, retry(third_time_lucky));

        check(outcome.value() == 42, "retry gives what the first success gave");
        check(attempts == std::vector<zloop::nanoseconds>{0s, 1s, 3s}, "each pause is twice the one before");
        check(loop.timers().empty(), "no timer is left");
    }
    {
        zloop::testing::virtual_loop loop;
        auto hopeless = []() -> zloop::task<zloop::result<int>> { co_return std::errc::connection_refused; };

        const auto outcome = zloop::run(loop, retry(hopeless));

        check(outcome.error() == std::errc::timed_out, "it gives up in the end");
        check(loop.elapsed() == 1min, "after a minute");
    }
    {
        zloop::testing::virtual_loop loop;
        auto hopeless = []() -> zloop::task<zloop::result<int>> { co_return std::errc::connection_refused; };
        auto retrying = loop.start(retry(hopeless));
        loop.advance(10s);

        retrying.cancel();

        check(loop.join(retrying).error() == std::errc::operation_canceled, "it can be cancelled");
        check(loop.elapsed() == 10s, "which takes no time");
    }
}
