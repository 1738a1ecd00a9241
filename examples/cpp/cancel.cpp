// Three ways to end a task early: its job's cancel(), a deadline, a std::stop_token. Each asks; what the task
// awaits in a shield goes on to its end.

#include <cstdio>
#include <cstdlib>
#include <stop_token>
#include <thread>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<zloop::result<void>> nap(zloop::nanoseconds duration) {
    co_return co_await zloop::sleep_for(duration);
}

zloop::task<zloop::result<void>> careful_nap(int& put_away) {
    const auto slept = co_await zloop::sleep_for(1h);
    const auto tidied = co_await zloop::shield(nap(1ms));
    put_away += tidied ? 1 : 0;
    co_return slept;
}

zloop::task<bool> work() {
    int put_away = 0;

    zloop::job<zloop::result<void>> napping(co_await zloop::current_context(), careful_nap(put_away));
    co_await zloop::next_turn();
    napping.cancel();
    const auto cancelled = co_await napping.join();

    const auto late = co_await zloop::with_timeout(1ms, careful_nap(put_away));

    std::stop_source stop;
    std::thread other([stop]() mutable { stop.request_stop(); });
    const auto stopped = co_await zloop::with_stop(stop.get_token(), careful_nap(put_away));
    other.join();

    std::printf("%s; %s; %s\n", cancelled.error().message().c_str(), late.error().message().c_str(),
                stopped.error().message().c_str());
    co_return put_away == 3 && cancelled.error() == std::errc::operation_canceled&& late.error() ==
                                   std::errc::timed_out&& stopped.error() == std::errc::operation_canceled;
}

int main() { return zloop::run(work()) ? EXIT_SUCCESS : EXIT_FAILURE; }
