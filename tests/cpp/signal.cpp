#include <zloop/signal.hpp>

#include <csignal>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <sys/syscall.h>
#include <sys/wait.h>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"
#include "tasks.hpp"

using namespace std::chrono_literals;
using namespace zloop;
using support::each_backend;
using support::handling;
using support::join;
using support::open_descriptors;

namespace {

int wait_on(loop& on, signal_set& set) { return zloop::run(on, set.wait()).value(); }

/// The process' handler of a signal.
void (*handler_of(int number))(int) {
    struct sigaction now;
    ::sigaction(number, nullptr, &now);
    return now.sa_handler;
}

/// What a child process says of itself by its exit code; -1 when a signal has ended it.
template <class F>
int status_of_child(pid_t (*make)(), F&& child) {
    const pid_t made = make();
    if (made == 0) {
        ::_exit(child());
    }
    int status = 0;
    REQUIRE(::waitpid(made, &status, 0) == made);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::atomic<int> calls = 0;
void count_call(int) { ++calls; }

/// Whether the system delivers this signal; emulators keep some for themselves.
bool delivers(int number) {
    static volatile std::sig_atomic_t came;
    came = 0;
    const handling noting(number, [](int) { came = 1; });
    ::raise(number);
    if (came == 0) {
        WARN("no signal " << number << " here");
    }
    return came != 0;
}

}  // namespace

TEST_CASE("a set is told of its signals", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1, SIGUSR2});
    job<result<int>> waiting(on, set.wait());
    on.run_once(0ns);
    CHECK(!waiting.done());

    ::raise(SIGUSR2);

    CHECK(join(on, waiting).value() == SIGUSR2);
}

TEST_CASE("signals between two waits are remembered, each once", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1, SIGUSR2});
    ::raise(SIGUSR2);
    ::raise(SIGUSR1);
    ::raise(SIGUSR1);

    CHECK(wait_on(on, set) == SIGUSR1);
    CHECK(wait_on(on, set) == SIGUSR2);

    job<result<int>> waiting(on, set.wait());
    on.run_once(0ns);
    on.run_once(0ns);
    CHECK(!waiting.done());
    ::raise(SIGUSR1);
    CHECK(join(on, waiting).value() == SIGUSR1);
}

TEST_CASE("a signal of the highest number is one as well", "[signal]") {
    if (!delivers(SIGRTMAX)) {
        return;
    }
    loop on(each_backend());
    signal_set set(on, {SIGRTMAX, SIGRTMIN});
    ::raise(SIGRTMAX);

    CHECK(wait_on(on, set) == SIGRTMAX);
}

TEST_CASE("every set is told, on any loop and in any thread", "[signal]") {
    loop on(each_backend());
    signal_set first(on, {SIGUSR1});
    signal_set second(on, {SIGUSR1, SIGUSR2});
    signal_set other(on, {SIGUSR2});
    std::atomic<int> ready = 0, heard = 0;
    std::vector<std::thread> threads;
    for (int index = 0; index < 3; ++index) {
        threads.emplace_back([&] {
            loop own;
            signal_set set(own, {SIGUSR1});
            ++ready;
            heard += wait_on(own, set);
        });
    }
    while (ready != 3) {
        std::this_thread::yield();
    }

    ::kill(::getpid(), SIGUSR1);

    for (auto& each : threads) {
        each.join();
    }
    CHECK(heard == 3 * SIGUSR1);
    CHECK(wait_on(on, first) == SIGUSR1);
    CHECK(wait_on(on, second) == SIGUSR1);
    job<result<int>> waiting(on, other.wait());
    on.run_once(0ns);
    CHECK(!waiting.done());
    waiting.cancel();
    CHECK_FALSE(join(on, waiting));
}

TEST_CASE("the last set of a signal puts back the handler that was there before the first", "[signal]") {
    const handling custom(SIGUSR1, &count_call);
    const handling ignored(SIGUSR2, SIG_IGN);
    calls = 0;
    loop on(each_backend());
    auto first = std::make_unique<signal_set>(on, std::initializer_list<int>{SIGUSR1, SIGUSR2});
    auto second = std::make_unique<signal_set>(on, std::initializer_list<int>{SIGUSR1});

    first.reset();
    CHECK(handler_of(SIGUSR1) != &count_call);
    CHECK(handler_of(SIGUSR2) == SIG_IGN);
    ::raise(SIGUSR1);
    CHECK(calls == 0);
    second.reset();

    CHECK(handler_of(SIGUSR1) == &count_call);
    ::raise(SIGUSR1);
    CHECK(calls == 1);
}

TEST_CASE("a handler that somebody has installed over ours stays", "[signal]") {
    const handling before(SIGUSR1, SIG_DFL);
    loop on(each_backend());
    std::optional<signal_set> set;
    set.emplace(on, std::initializer_list<int>{SIGUSR1});
    const handling theirs(SIGUSR1, &count_call);

    set.reset();

    CHECK(handler_of(SIGUSR1) == &count_call);
}

TEST_CASE("a cancelled wait loses no signal", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1});
    job<result<int>> waiting(on, set.wait());
    on.run_once(0ns);
    waiting.cancel();
    CHECK(join(on, waiting).error() == std::errc::operation_canceled);

    ::raise(SIGUSR1);

    CHECK(wait_on(on, set) == SIGUSR1);

    job<result<int>> again(on, set.wait());
    on.run_once(0ns);
    ::raise(SIGUSR1);
    again.cancel();  // the byte may have been taken from the pipe by then, or not
    const auto outcome = join(on, again);
    if (!outcome) {
        CHECK(wait_on(on, set) == SIGUSR1);
    }
}

TEST_CASE("a wait in a cancelled scope fails, and keeps what has not come yet for the next", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1});
    job<result<int>> waiting(on, set.wait());
    waiting.cancel();

    CHECK(join(on, waiting).error() == std::errc::operation_canceled);
}

TEST_CASE("more signals than a pipe holds are no trouble", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1, SIGUSR2});
    for (int count = 0; count < 70'000; ++count) {
        ::raise(SIGUSR1);
    }
    ::raise(SIGUSR2);

    CHECK(wait_on(on, set) == SIGUSR1);
    CHECK(wait_on(on, set) == SIGUSR2);
}

TEST_CASE("errno survives a signal", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1});
    for (int count = 0; count < 70'000; ++count) {  // the pipe is full in the end: the handler's write fails
        errno = ENOTTY;
        ::raise(SIGUSR1);
        if (errno != ENOTTY) {
            FAIL("errno has changed");
        }
    }
}

TEST_CASE("a set that cannot be made changes nothing", "[signal]") {
    const handling before(SIGUSR1, &count_call);
    loop on(each_backend());
    const std::size_t descriptors = open_descriptors();

    CHECK_THROWS_AS(signal_set(on, {SIGUSR1, SIGKILL}), std::system_error);
    CHECK_THROWS_AS(signal_set(on, {SIGUSR1, 0}), std::system_error);
    CHECK_THROWS_AS(signal_set(on, {SIGUSR1, 4711}), std::system_error);
    if (on.kernel().name() == "epoll") {
        const probes::failing none(probes::epoll_ctl, ENOSPC);
        CHECK_THROWS_AS(signal_set(on, {SIGUSR1}), std::system_error);
    }

    CHECK(handler_of(SIGUSR1) == &count_call);
    CHECK(open_descriptors() == descriptors);
}

TEST_CASE("a fork's signals are its own", "[signal]") {
    const handling before(SIGUSR1, &count_call);
    calls = 0;
    loop on(each_backend());
    signal_set set(on, {SIGUSR1});
    const auto child = [] {
        ::raise(SIGUSR1);  // its handler is the one from before the set again
        if (calls != 1) {
            return 1;
        }
        loop own;
        signal_set mine(own, {SIGUSR1});
        ::raise(SIGUSR1);
        return wait_on(own, mine) == SIGUSR1 && calls == 1 ? 0 : 2;
    };

    CHECK(status_of_child(&::fork, child) == 0);

    job<result<int>> waiting(on, set.wait());
    on.run_once(0ns);
    on.run_once(0ns);
    CHECK(!waiting.done());
    ::raise(SIGUSR1);
    CHECK(join(on, waiting).value() == SIGUSR1);
    CHECK(calls == 0);
}

TEST_CASE("a fork lets go of the sets that it has inherited", "[signal]") {
    auto on = std::make_unique<loop>(each_backend());
    auto set = std::make_unique<signal_set>(*on, std::initializer_list<int>{SIGUSR1});

    CHECK(status_of_child(&::fork, [&] {
              on->abandon_if_inherited();
              set.reset();
              on.reset();
              return handler_of(SIGUSR1) == SIG_DFL ? 0 : 1;
          }) == 0);

    ::raise(SIGUSR1);
    CHECK(wait_on(*on, *set) == SIGUSR1);
}

TEST_CASE("a child that nobody was told of writes nothing to its parent's pipes", "[signal]") {
    loop on(each_backend());
    signal_set set(on, {SIGUSR1});

    CHECK(status_of_child([] { return static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); },
                          [] {
                              ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), SIGUSR1);
                              return 0;
                          }) == 0);

    job<result<int>> waiting(on, set.wait());
    on.run_once(0ns);
    on.run_once(0ns);
    CHECK(!waiting.done());
    waiting.cancel();
    CHECK_FALSE(join(on, waiting));
}

TEST_CASE("sets come and go in several threads while signals arrive", "[signal]") {
    const handling before(SIGUSR1, &count_call);
    std::atomic<bool> done = false;
    std::vector<std::thread> threads;
    for (int index = 0; index < 2; ++index) {
        threads.emplace_back([&] {
            loop own;
            for (int round = 0; round < 200; ++round) {
                signal_set set(own, {SIGUSR1});
                ::pthread_kill(::pthread_self(), SIGUSR1);
                const int heard = wait_on(own, set);
                if (heard != SIGUSR1) {
                    std::abort();
                }
            }
        });
    }
    std::thread storm([&] {
        while (!done) {
            ::kill(::getpid(), SIGUSR1);
            std::this_thread::yield();
        }
    });
    for (auto& each : threads) {
        each.join();
    }
    done = true;
    storm.join();
    CHECK(handler_of(SIGUSR1) == &count_call);
}
