#include <zloop/offload.hpp>

#include <condition_variable>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"
#include "tasks.hpp"

using namespace std::chrono_literals;
using namespace zloop;
using support::each_backend;
using support::join;

namespace {

/// A door that threads wait at.
class gate {
public:
    void open() {
        const std::lock_guard guard(mutex_);
        open_ = true;
        changed_.notify_all();
    }
    void pass() {
        std::unique_lock lock(mutex_);
        ++waiting_;
        changed_.notify_all();
        changed_.wait(lock, [this] { return open_; });
    }
    /// Until `count` threads have come.
    void await(int count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return waiting_ >= count; });
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    int waiting_ = 0;
    bool open_ = false;
};

/// Whether a fork can start threads. TSan's runtime forbids it, and qemu-user ends the process.
bool forks_can_start_threads() {
    if (probes::under_tsan) {
        return false;
    }
    const pid_t child = ::fork();
    if (child == 0) {
        std::thread([] {}).join();
        ::_exit(0);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    if (status != 0) {
        WARN("no thread in a fork here");
    }
    return status == 0;
}

}  // namespace

TEST_CASE("a pool without a thread is refused", "[offload]") {
    CHECK_THROWS_AS(offload_pool(0), std::invalid_argument);
}

TEST_CASE("offloaded work runs on another thread and its result comes back on the loop", "[offload]") {
    const auto here = std::this_thread::get_id();
    std::thread::id there;
    auto work = [&]() -> task<int> {
        const auto [error, value] = co_await offload([&] {
            there = std::this_thread::get_id();
            return 42;
        });
        CHECK(!error);
        CHECK(std::this_thread::get_id() == here);
        co_return value;
    };

    CHECK(zloop::run(work()) == 42);
    CHECK(there != here);
}

TEST_CASE("offloaded work gives void, results and move-only values as they are", "[offload]") {
    offload_pool pool;
    auto work = [&]() -> task<bool> {
        result<void> nothing = co_await offload(pool, [] {});
        result<int> failed =
            co_await offload(pool, []() -> result<int> { return std::errc::no_such_file_or_directory; });
        result<std::unique_ptr<int>> moved = co_await offload(pool, [] { return std::make_unique<int>(7); });
        // Named, because g++ 12 destroys twice what a closure in a co_await expression has captured.
        auto owns = [text = std::string(100, 'x'), one = std::make_unique<int>(1)] { return text; };
        result<std::string> owned = co_await offload(pool, std::move(owns));
        auto leaves = [text = std::string(100, 'y')] { return text; };
        result<std::string> left = co_await offload_abandonable(pool, leaves);
        co_return !nothing.error() && failed.error() == std::errc::no_such_file_or_directory &&
            **moved == 7 && owned->size() == 100 && left->size() == 100;
    };

    CHECK(zloop::run(work()));
}

TEST_CASE("what offloaded work throws travels to who awaits it", "[offload]") {
    offload_pool pool;
    auto work = [&](bool stays) -> task<std::string> {
        auto fails = []() -> int { throw std::runtime_error("no luck"); };
        try {
            if (stays) {
                (co_await offload(pool, fails)).value();
            } else {
                (co_await offload_abandonable(pool, fails)).value();
            }
        } catch (const std::runtime_error& error) {
            co_return error.what();
        }
        co_return "nothing";
    };

    CHECK(zloop::run(work(true)) == "no luck");
    CHECK(zloop::run(work(false)) == "no luck");
}

TEST_CASE("a pool has as many threads as work needs at once, and no more than it may", "[offload]") {
    offload_pool pool(3);
    loop on(each_backend());
    gate hold;
    std::atomic<int> running = 0, most = 0;
    auto work = [&]() -> task<> {
        (co_await offload(pool, [&] {
            const int now = ++running;
            for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
            }
            hold.pass();
            --running;
        })).value();
    };

    std::vector<std::unique_ptr<job<>>> jobs;
    for (int count = 0; count < 8; ++count) {
        jobs.push_back(std::make_unique<job<>>(on, work()));
    }
    on.run_once(0ns);
    hold.await(3);
    CHECK(running == 3);
    hold.open();
    for (auto& each : jobs) {
        join(on, *each);
    }
    CHECK(most == 3);
}

TEST_CASE("cancelled work that has not begun never begins", "[offload]") {
    offload_pool pool(1);
    loop on(each_backend());
    gate hold;
    bool began = false;
    auto block = [&]() -> task<> { (co_await offload(pool, [&] { hold.pass(); })).value(); };
    auto stays = [&]() -> task<std::error_code> {
        co_return (co_await offload(pool, [&] { began = true; })).error();
    };
    auto leaves = [&]() -> task<std::error_code> {
        co_return (co_await offload_abandonable(pool, [&] { began = true; })).error();
    };
    job<> blocking(on, block());
    job<std::error_code> first(on, stays());
    job<std::error_code> second(on, leaves());
    on.run_once(0ns);
    hold.await(1);

    first.cancel();
    second.cancel();

    CHECK(join(on, first) == std::errc::operation_canceled);
    CHECK(join(on, second) == std::errc::operation_canceled);
    CHECK(!blocking.done());
    hold.open();
    join(on, blocking);
    CHECK(!began);
}

TEST_CASE("cancelled work that has begun is waited for, and its result counts", "[offload]") {
    offload_pool pool;
    loop on(each_backend());
    gate hold;
    auto work = [&]() -> task<result<int>> {
        int here = 0;  // safe to use: the frame stays
        auto outcome = co_await offload(pool, [&] {
            hold.pass();
            return ++here;
        });
        co_return outcome;
    };
    job<result<int>> running(on, work());
    on.run_once(0ns);
    hold.await(1);

    running.cancel();
    on.run_once(0ns);
    CHECK(!running.done());
    hold.open();

    CHECK(join(on, running).value() == 1);
}

TEST_CASE("whoever waits abandonably leaves at once, and the work ends alone", "[offload]") {
    offload_pool pool;
    auto on = std::make_unique<loop>(each_backend());
    auto hold = std::make_shared<gate>();
    auto ended = std::make_shared<std::atomic<bool>>(false);
    auto work = [](offload_pool& where, std::shared_ptr<gate> door,
                   std::shared_ptr<std::atomic<bool>> flag) -> task<std::error_code> {
        auto passes = [door, flag] {
            door->pass();
            *flag = true;
        };
        auto outcome = co_await offload_abandonable(where, passes);
        co_return outcome.error();
    };
    {
        job<std::error_code> running(*on, work(pool, hold, ended));
        on->run_once(0ns);
        hold->await(1);
        running.cancel();
        CHECK(join(*on, running) == std::errc::operation_canceled);
    }
    on.reset();  // the answer has no loop to go to any more
    CHECK(!*ended);

    hold->open();
    while (!*ended) {
        std::this_thread::yield();
    }
}

TEST_CASE("work is not begun in a scope that is cancelled already", "[offload]") {
    loop on(each_backend());
    bool began = false;
    auto work = [&]() -> task<int> {
        int canceled = 0;
        canceled += (co_await offload([&] { began = true; })).error() == std::errc::operation_canceled;
        canceled +=
            (co_await offload_abandonable([&] { began = true; })).error() == std::errc::operation_canceled;
        co_return canceled;
    };
    job<int> running(on, work());
    running.cancel();

    CHECK(join(on, running) == 2);
    CHECK(!began);
}

TEST_CASE("a loop that ends waits for work that uses its tasks' frames", "[offload]") {
    offload_pool pool;
    gate hold;
    std::atomic<bool> ended = false;
    std::error_code seen;
    auto work = [&]() -> task<> {
        auto outcome = co_await offload(pool, [&] {
            hold.pass();
            ended = true;
        });
        seen = outcome.error();
        CHECK(ended);
    };
    std::thread opener;
    {
        loop on(each_backend());
        spawn(on, work());
        on.run_once(0ns);
        hold.await(1);
        opener = std::thread([&] { hold.open(); });
    }
    CHECK(ended);
    CHECK(!seen);
    opener.join();
}

TEST_CASE("several loops in several threads share a pool", "[offload]") {
    offload_pool pool(4);
    std::atomic<int> sum = 0;
    std::vector<std::thread> threads;
    for (int index = 0; index < 3; ++index) {
        threads.emplace_back([&] {
            auto work = [&]() -> task<> {
                for (int count = 0; count < 200; ++count) {
                    sum += (co_await offload(pool, [] { return 1; })).value();
                    sum += (co_await offload_abandonable(pool, [] { return 1; })).value();
                }
            };
            zloop::run(work());
        });
    }
    for (auto& each : threads) {
        each.join();
    }
    CHECK(sum == 1200);
}

TEST_CASE("cancelling at any moment loses neither the waiter nor the work", "[offload]") {
    offload_pool pool(2);
    loop on(each_backend());
    std::atomic<int> begun = 0;
    auto performed = std::make_shared<std::atomic<int>>(0);
    int canceled = 0, completed = 0;
    auto work = [&](bool stays) -> task<> {
        std::error_code error;
        if (stays) {
            error = (co_await offload(pool, [&] { ++begun; })).error();
        } else {
            auto performs = [performed] { ++*performed; };
            error = (co_await offload_abandonable(pool, performs)).error();
        }
        ++(error ? canceled : completed);
    };
    constexpr int rounds = 500;
    for (int round = 0; round < rounds; ++round) {
        job<> first(on, work(true));
        job<> second(on, work(false));
        on.run_once(0ns);
        for (int turn = 0; turn < round % 7; ++turn) {
            on.run_once(0ns);
        }
        first.cancel();
        second.cancel();
        join(on, first);
        join(on, second);
    }
    CHECK(canceled + completed == 2 * rounds);
}

TEST_CASE("a pool's threads are left alone by signals", "[offload]") {
    auto work = []() -> task<bool> {
        co_return (co_await offload([] {
            sigset_t mask;
            ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
            return ::sigismember(&mask, SIGTERM) == 1 && ::sigismember(&mask, SIGUSR1) == 1;
        })).value();
    };
    CHECK(zloop::run(work()));
}

TEST_CASE("a fork's pool begins anew, and its inherited loop ends without the threads", "[offload]") {
    offload_pool pool;
    auto on = std::make_unique<loop>(each_backend());
    gate hold;
    int canceled = 0;
    auto stays = [&]() -> task<> {
        auto outcome = co_await offload(pool, [&] { hold.pass(); });
        canceled += outcome.error() == std::errc::operation_canceled;
    };
    auto leaves = [&]() -> task<> {
        auto outcome = co_await offload_abandonable(pool, [&] { hold.pass(); });
        canceled += outcome.error() == std::errc::operation_canceled;
    };
    spawn(*on, stays());
    spawn(*on, leaves());
    on->run_once(0ns);
    hold.await(2);

    const bool begins_anew = forks_can_start_threads();
    const pid_t child = ::fork();
    if (child == 0) {
        on.reset();
        auto again = [&]() -> task<int> { co_return (co_await offload(pool, [] { return 5; })).value(); };
        const bool good = canceled == 2 && (!begins_anew || zloop::run(again()) == 5);
        ::_exit(good ? 0 : 1);
    }
    int status = -1;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);

    hold.open();
    on.reset();
    CHECK(canceled <= 1);  // who stays has its result; who leaves was cancelled, or came just in time
}

TEST_CASE("work fails when no thread can be started, and takes turns when only one can", "[offload]") {
    offload_pool pool;
    auto work = [&]() -> task<std::error_code> { co_return (co_await offload(pool, [] {})).error(); };
    {
        const probes::failing none(probes::pthread_create, EAGAIN);
        CHECK(zloop::run(work()) == std::errc::resource_unavailable_try_again);
    }
    CHECK(!zloop::run(work()));

    const probes::failing no_more(probes::pthread_create, EAGAIN, 100);
    loop on(each_backend());
    job<std::error_code> first(on, work());
    job<std::error_code> second(on, work());
    CHECK(!join(on, first));
    CHECK(!join(on, second));
}

TEST_CASE("a virtual clock stands still while a pool works", "[offload][testing]") {
    testing::virtual_loop on;
    offload_pool pool;
    auto work = [&]() -> task<int> {
        co_return (co_await offload(pool, [] {
            std::this_thread::sleep_for(5ms);
            return 3;
        })).value();
    };
    auto nap = [&]() -> task<> { (co_await sleep_for(1h)).value(); };
    auto sleeping = on.start(nap());
    auto running = on.start(work());

    CHECK(on.join(running) == 3);
    CHECK(on.elapsed() == 0ns);
    on.join(sleeping);
    CHECK(on.elapsed() == 1h);
}

TEST_CASE("offload allocates nothing once the threads are there", "[offload]") {
    offload_pool pool(1);
    auto work = [&]() -> task<std::size_t> {
        auto nothing = [] { return 1; };
        (co_await offload(pool, nothing)).value();
        const std::size_t before = probes::allocations();
        for (int count = 0; count < 10; ++count) {
            (co_await offload(pool, nothing)).value();
        }
        co_return probes::allocations() - before;
    };
    CHECK(zloop::run(work()) == 0);
}

TEST_CASE("what is posted to a pool is called on its threads, to the last", "[offload]") {
    std::atomic<int> sum = 0;
    {
        thread_pool pool(2);
        for (int each = 1; each <= 100; ++each) {
            pool.post([&sum, alone = std::make_unique<int>(each)] { sum += *alone; });
        }
    }
    CHECK(sum == 5050);
}

TEST_CASE("what is posted while a pool ends is called by the thread that posts", "[offload]") {
    for (int round = 0; round < 50; ++round) {
        std::atomic<int> called = 0;
        {
            thread_pool pool(2);
            pool.post([&] {
                ++called;
                pool.post([&] { ++called; });
            });
        }
        CHECK(called == 2);
    }
}
