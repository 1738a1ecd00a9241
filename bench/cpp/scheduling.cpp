// scheduling.cpp: what scheduling costs, zloop beside asio, in interleaved rounds of one run.
//
//     scheduling [rounds]
//
// Prints the median of the rounds for each. A ratio is of rounds that stood beside each other, so that a
// noisy neighbour meets both.
#include "scheduling.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
    using namespace bench;
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 15;
    const row rows[] = {
        {"await a child task that ends at once", 2.5, 300'000, with_asio::await_child,
         with_zloop::await_child},
        {"spawn and join an empty task", 5, 50'000, with_asio::spawn_and_join, with_zloop::spawn_and_join},
        {"post to the own loop", 3, 300'000, with_asio::post_own, with_zloop::post_own},
        {"arm a timer an hour ahead and cancel it", 15, 20'000, with_asio::arm_and_cancel,
         with_zloop::arm_and_cancel},
        {"await a timer that is due", 20, 2'000, with_asio::await_due_timer, with_zloop::await_due_timer},
        {"with_timeout around a task that ends at once", 20, 5'000, with_asio::timeout_around_task,
         with_zloop::timeout_around_task},
        {"channel hand-off, capacity 0", 4, 50'000, with_asio::channel_hand_off,
         with_zloop::channel_hand_off},
        {"post from another thread to a busy loop", 2, 100'000, with_asio::post_from_thread,
         with_zloop::post_from_thread},
    };
    std::printf("%-46s %9s %9s %7s %5s\n", "", "asio, ns", "zloop, ns", "ratio", "bar");
    for (const row& each : rows) {
        std::vector<double> asio, zloop, ratios;
        for (int round = -1; round < rounds; ++round) {
            const double theirs =
                static_cast<double>(each.asio(each.count).count()) / static_cast<double>(each.count);
            const double ours =
                static_cast<double>(each.zloop(each.count).count()) / static_cast<double>(each.count);
            if (round >= 0) {  // the first warms up
                asio.push_back(theirs);
                zloop.push_back(ours);
                ratios.push_back(theirs / ours);
            }
        }
        const double ratio = median(ratios);
        std::printf("%-46s %9.1f %9.1f %7.2f %5.1f %s\n", each.name, median(asio), median(zloop), ratio,
                    each.bar, ratio >= each.bar ? "holds" : "FALLS SHORT");
    }
}
