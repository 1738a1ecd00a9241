// Blocking work on threads: waited for, so it may use what its caller has; or left alone by who is cancelled,
// so it owns what it uses.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<int> sum(const std::vector<int>& numbers) {
    auto work = [&] { return std::accumulate(numbers.begin(), numbers.end(), 0); };
    co_return (co_await zloop::offload(work)).value();
}

zloop::task<zloop::result<int>> dawdle(zloop::offload_pool& pool, std::shared_ptr<std::atomic<bool>> let_go) {
    auto work = [let_go] {
        let_go->wait(false);
        return 1;
    };
    co_return co_await zloop::offload_abandonable(pool, std::move(work));
}

zloop::task<bool> work() {
    const std::vector<int> numbers(1000, 2);
    const int total = co_await sum(numbers);

    zloop::offload_pool pool(1);
    const auto let_go = std::make_shared<std::atomic<bool>>(false);
    const auto outcome = co_await zloop::with_timeout(10ms, dawdle(pool, let_go));
    let_go->store(true);  // the pool's destructor waits for what still runs
    let_go->notify_all();

    std::printf("%d; %s\n", total, outcome.error().message().c_str());
    co_return total == 2000 && outcome.error() == std::errc::timed_out;
}

int main() { return zloop::run(work()) ? EXIT_SUCCESS : EXIT_FAILURE; }
