#include <zloop/loop.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <sys/wait.h>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

namespace {

// A kernel in which nothing happens, and that counts what it is asked.
class idle_backend final : public backend {
public:
    std::vector<nanoseconds> waits;
    int wakes = 0;
    std::error_code failure;

    std::string_view name() const noexcept override { return "idle"; }
    int native_handle() const noexcept override { return -1; }
    std::error_code attach(int) noexcept override { return {}; }
    void release(int) noexcept override {}
    void close(int) noexcept override {}
    bool start(io_op&) noexcept override { return false; }
    void cancel(io_op&) noexcept override {}
    std::error_code watch(watcher&) noexcept override { return {}; }
    void unwatch(watcher&) noexcept override {}
    std::error_code wait(nanoseconds timeout) noexcept override {
        waits.push_back(timeout);
        return std::exchange(failure, {});
    }
    void collect() noexcept override {}
    void wake() noexcept override { ++wakes; }
};

struct idle_loop : loop {
    idle_loop() : loop(std::make_unique<idle_backend>()) {}
    idle_backend& kernel() { return static_cast<idle_backend&>(loop::kernel()); }
};

struct fixed_clock : clock_source {
    time_point time{};
    std::function<void()> when_asked = [] {};
    time_point now() noexcept override {
        when_asked();
        return time;
    }
};

}  // namespace

TEST_CASE("ops run in the order in which they were pushed", "[loop]") {
    virtual_loop on;
    std::vector<int> seen;
    callback first([&] { seen.push_back(1); }), second([&] { seen.push_back(2); }),
        third([&] { seen.push_back(3); });
    on.push(first);
    on.push(second);
    on.push(third);

    on.run_once(0ns);

    CHECK(seen == std::vector{1, 2, 3});
}

TEST_CASE("a limit that has passed is no time to sleep", "[loop]") {
    loop on(support::each_backend());

    on.run_once(-5ms);

    CHECK(on.stats().turns == 1);
}

TEST_CASE("what a turn's ops push waits for the next turn", "[loop]") {
    virtual_loop on;
    std::vector<std::string> seen;
    callback next([&] { seen.push_back("next"); });
    callback first([&] {
        seen.push_back("first");
        on.push(next);
    });
    callback second([&] { seen.push_back("second"); });
    on.push(first);
    on.push(second);

    on.run_once(0ns);
    CHECK(seen == std::vector<std::string>{"first", "second"});
    CHECK(on.ready().front() == &next);

    on.run_once(0ns);
    CHECK(seen == std::vector<std::string>{"first", "second", "next"});
}

TEST_CASE("what is pushed behind a turn runs in the next one, after all that this one has queued", "[loop]") {
    virtual_loop on;
    std::vector<std::string> seen;
    callback next([&] { seen.push_back("next"); }), behind([&] { seen.push_back("behind"); }),
        posted([&] { seen.push_back("posted"); }), due([&] { seen.push_back("due"); });
    callback first([&] {
        on.push_behind(behind);
        on.push(next);
        on.post(posted);
    });
    on.push(first);

    on.run_once(0ns);
    CHECK(seen.empty());
    CHECK(on.has_ready());

    on.run_once();  // does not sleep
    CHECK(seen == std::vector<std::string>{"next", "posted", "behind"});
    CHECK_FALSE(on.has_ready());

    on.push_behind(due);  // between two turns, too
    on.shut_down();
    CHECK(seen.back() == "due");
}

TEST_CASE("an op that pushes itself runs once a turn", "[loop]") {
    virtual_loop on;
    int runs = 0;
    std::optional<callback> again;
    again.emplace([&] {
        if (++runs < 10) {
            on.push(*again);
        }
    });
    on.push(*again);

    for (int turn = 1; turn <= 10; ++turn) {
        on.run_once(0ns);
        CHECK(runs == turn);
    }
    CHECK(on.ready().empty());
}

TEST_CASE("a turn runs what was ready, then what the kernel has, then what is due", "[loop]") {
    virtual_loop on;
    std::vector<std::string> seen;
    lookout readable(7, direction::read, [&] { seen.push_back("kernel"); });
    delayed due([&] { seen.push_back("timer"); });
    callback ready([&] { seen.push_back("ready"); });
    on.begin_run();
    REQUIRE(!on.kernel().watch(readable));
    on.kernel().after(0ns, [&] { on.kernel().make_ready(7, direction::read); });
    on.arm(due, on.now());
    on.push(ready);

    on.run_once(0ns);

    CHECK(seen == std::vector<std::string>{"ready", "kernel", "timer"});
    on.kernel().unwatch(readable);
}

TEST_CASE("timers run by deadline, ties in the order of arming", "[loop]") {
    virtual_loop on;
    std::vector<int> seen;
    delayed third([&] { seen.push_back(3); }), first([&] { seen.push_back(1); }),
        second([&] { seen.push_back(2); });
    on.arm(third, on.now() + 2s);
    on.arm(first, on.now() + 1s);
    on.arm(second, on.now() + 1s);

    on.advance(3s);

    CHECK(seen == std::vector{1, 2, 3});
    CHECK(on.timers().empty());
}

TEST_CASE("a disarmed timer does not run and does not wake the loop", "[loop]") {
    virtual_loop on;
    int runs = 0;
    delayed never([&] { ++runs; });
    on.arm(never, on.now() + 1s);

    on.disarm(never);
    const auto waits = on.stats().waits;
    on.advance(5s);

    CHECK(runs == 0);
    CHECK(on.timers().empty());
    CHECK(on.stats().waits == waits + 1);
}

TEST_CASE("a timer runs at its deadline, and not a nanosecond before", "[loop]") {
    idle_loop on;
    fixed_clock clock;
    on.use_clock(&clock);
    bool fired = false;
    delayed due([&] { fired = true; });
    on.arm(due, clock.time + 5ns);

    clock.time += 4ns;
    on.run_once(0ns);
    CHECK(!fired);

    clock.time += 1ns;
    on.run_once(0ns);
    CHECK(fired);
}

TEST_CASE("no timer runs early on the real clock", "[loop]") {
    loop on(each_backend());
    for (const nanoseconds delay :
         {0ns, 1ns, 999ns, 1'000ns, 130'001ns, 999'999ns, 1'000'001ns, 2'500'000ns}) {
        std::optional<time_point> fired;
        delayed due([&] { fired = on.now(); });
        const time_point deadline = on.now() + delay;
        on.arm(due, deadline);
        while (!fired) {
            on.run_once();
        }
        CHECK(*fired >= deadline);
    }
}

TEST_CASE("a timer below a millisecond does not wait for one", "[loop]") {
#if ZLOOP_HAS_EPOLL
    if (!support::has_epoll_pwait2()) {
        return;
    }
#endif
    loop on(each_backend());
    auto best = nanoseconds::max();
    for (int round = 0; round < 20; ++round) {
        bool fired = false;
        delayed due([&] { fired = true; });
        const time_point begin = on.now();
        on.arm(due, begin + 50us);
        while (!fired) {
            on.run_once();
        }
        best = std::min(best, nanoseconds(on.now() - begin));
    }
    CHECK(best < 900us);
}

TEST_CASE("run_once sleeps until its limit, the next timer, or without end", "[loop]") {
    idle_loop on;
    fixed_clock clock;
    on.use_clock(&clock);
    delayed due([] {}), never([] {});
    auto& waits = on.kernel().waits;

    on.run_once();
    CHECK(waits.back() < 0ns);
    on.run_once(5s);
    CHECK(waits.back() == 5s);
    on.arm(never, time_point::max());
    on.run_once();
    CHECK(waits.back() < 0ns);
    on.arm(due, clock.time + 3s);
    on.run_once(5s);
    CHECK(waits.back() == 3s);
    on.run_once(2s);
    CHECK(waits.back() == 2s);
    on.run_once();
    CHECK(waits.back() == 3s);
    on.run_once(0ns);
    CHECK(waits.back() == 0ns);
    clock.time += 4s;
    on.run_once();
    CHECK(waits.back() == 0ns);
    CHECK(!due.armed());

    on.disarm(never);
}

TEST_CASE("a busy loop asks the kernel every 65th turn", "[loop]") {
    idle_loop on;
    fixed_clock clock;
    on.use_clock(&clock);
    std::optional<callback> busy;
    busy.emplace([&] { on.push(*busy); });
    on.push(*busy);

    on.begin_run();
    on.run_once();
    CHECK(on.kernel().waits.size() == 1);
    for (int turn = 0; turn < 64; ++turn) {
        on.run_once();
    }
    CHECK(on.kernel().waits.size() == 1);
    on.run_once();
    CHECK(on.kernel().waits.size() == 2);

    for (int turn = 0; turn < 650; ++turn) {
        on.run_once();
    }
    CHECK(on.kernel().waits.size() == 12);
    CHECK(std::count(on.kernel().waits.begin(), on.kernel().waits.end(), 0ns) == 12);

    busy.emplace([] {});
    on.shut_down();
}

TEST_CASE("a busy loop asks the kernel after 100 microseconds", "[loop]") {
    idle_loop on;
    fixed_clock clock;
    on.use_clock(&clock);
    std::optional<callback> busy;
    busy.emplace([&] {
        clock.time += 50us;
        on.push(*busy);
    });
    on.push(*busy);
    on.begin_run();
    on.run_once();

    for (int turn = 0; turn < 30; ++turn) {
        on.run_once();
    }

    CHECK(on.kernel().waits.size() == 16);  // the first, and then every second turn
    busy.emplace([] {});
    on.shut_down();
}

TEST_CASE("a busy loop still sees the kernel's events", "[loop]") {
    loop on(each_backend());
    pipe_ends pipe;
    bool seen = false;
    lookout readable(pipe.out.get(), direction::read, [&] { seen = true; });
    std::optional<callback> busy;
    busy.emplace([&] {
        if (!seen) {
            on.push(*busy);
        }
    });
    REQUIRE(!on.kernel().watch(readable));
    on.push(*busy);
    on.run_once();
    pipe.write();

    int turns = 0;
    while (!seen && turns < 100) {
        on.run_once();
        ++turns;
    }

    CHECK(seen);
    CHECK(turns <= 65);
    on.kernel().unwatch(readable);
    on.shut_down();
}

TEST_CASE("a posted op runs, after what was queued before", "[loop]") {
    virtual_loop on;
    std::vector<int> seen;
    callback posted([&] { seen.push_back(2); }), pushed([&] { seen.push_back(1); });
    on.push(pushed);
    on.post(posted);

    on.run_once(0ns);

    CHECK(seen == std::vector{1, 2});
}

TEST_CASE("post wakes a loop that sleeps, and no other", "[loop]") {
    idle_loop on;
    callback posted([] {});

    on.post(posted);
    CHECK(on.kernel().wakes == 0);
    on.run_once();

    CHECK(on.kernel().waits == std::vector{0ns});  // what is posted is ready: nothing to wait for
}

TEST_CASE("ops posted by many threads all run, each thread's in order", "[loop]") {
    constexpr int threads = 4, each = 2'000;
    loop on(each_backend());
    int runs = 0;
    int out_of_order = 0;
    std::vector<int> last(threads, -1);
    std::vector<std::unique_ptr<callback>> ops;
    for (int index = 0; index < threads * each; ++index) {
        ops.push_back(std::make_unique<callback>([&, index] {
            ++runs;
            int& previous = last[static_cast<std::size_t>(index / each)];
            out_of_order += index % each != previous + 1;
            previous = index % each;
        }));
    }
    std::vector<std::thread> posters;
    for (int thread = 0; thread < threads; ++thread) {
        posters.emplace_back([&, thread] {
            for (int index = 0; index < each; ++index) {
                on.post(*ops[static_cast<std::size_t>(thread * each + index)]);
            }
        });
    }

    while (runs < threads * each) {
        on.run_once();
    }

    for (std::thread& thread : posters) {
        thread.join();
    }
    CHECK(out_of_order == 0);
}

TEST_CASE("no wake is lost between a loop that falls asleep and a thread that posts", "[loop]") {
    loop on(each_backend());
    std::atomic<int> asked = 0;
    int answered = 0;
    callback ping([&] { asked = ++answered; });
    std::thread poster([&] {
        for (int round = 0; round < 5'000; ++round) {
            on.post(ping);
            while (asked.load() <= round) {
                std::this_thread::yield();
            }
        }
    });

    while (answered < 5'000) {
        on.run_once();  // without a limit: a lost wake would hang
    }
    poster.join();
    CHECK(answered == 5'000);
}

TEST_CASE("a loop may end by the op that a thread is still posting", "[loop]") {
    const backend_choice choice = GENERATE(from_range(backends()));
    for (int round = 0; round < 300; ++round) {
        auto on = std::make_unique<loop>(choice.make());
        callback last([&] { on->stop(); });
        std::thread poster([&, to = on.get()] { to->post(last); });
        on->run();
        on.reset();
        poster.join();
    }
    SUCCEED("the sanitizers saw nothing");
}

namespace {

struct counting_hook : wait_hook {
    int before = 0, after = 0;
    void before_wait() noexcept override { ++before; }
    void after_wait() noexcept override { ++after; }
};

}  // namespace

TEST_CASE("the wait hook is called around each look at the kernel, and at no other time", "[loop]") {
    idle_loop on;
    fixed_clock clock;
    counting_hook hook;
    std::optional<callback> busy;
    busy.emplace([&] { on.push(*busy); });
    on.use_clock(&clock);
    on.use_wait_hook(&hook);

    on.run_once(1s);
    CHECK(hook.before == 1);
    CHECK(hook.after == 1);

    on.push(*busy);
    for (int turn = 0; turn < 100; ++turn) {
        on.run_once();
    }
    CHECK(hook.before == static_cast<int>(on.stats().polls));
    CHECK(hook.after == hook.before);
    CHECK(hook.before < 10);

    busy.emplace([] {});
    on.shut_down();
    CHECK(hook.after < 10);
}

TEST_CASE("what is posted when the loop has just decided to sleep keeps it awake", "[loop]") {
    idle_loop on;
    fixed_clock clock;
    bool ran = false;
    callback ready([&] { ran = true; });
    on.use_clock(&clock);
    clock.when_asked = [&, posted = false]() mutable {
        if (!std::exchange(posted, true)) {
            on.post(ready);
        }
    };

    on.run_once(1s);

    CHECK(ran);
    CHECK(on.kernel().waits == std::vector{0ns});
    CHECK(on.kernel().wakes == 0);
}

TEST_CASE("who gathers takes what is ready by hand, from inside of a turn, too", "[loop]") {
    virtual_loop on;
    std::vector<int> seen;
    callback second([&] { seen.push_back(2); });
    callback third([&] { seen.push_back(3); });
    callback fourth([&] { seen.push_back(4); });
    callback first([&] {
        on.gather(0ns);
        op& taken = on.take_ready();
        op& put_back = on.take_ready();
        on.put_back(put_back);
        taken.run(taken);
        seen.push_back(1);
    });
    for (op* each : std::initializer_list<op*>{&first, &second, &third, &fourth}) {
        on.push(*each);
    }

    on.run_once(0ns);
    CHECK(seen == std::vector{2, 1});  // the turn's own list is no longer true: it ends

    on.run_once(0ns);
    CHECK(seen == std::vector{2, 1, 3, 4});
}

TEST_CASE("interrupt leaves the rest of the turn queued, in order", "[loop]") {
    virtual_loop on;
    std::vector<int> seen;
    callback first([&] { seen.push_back(1); });
    callback second([&] {
        seen.push_back(2);
        on.push(first);
        on.interrupt();
    });
    callback third([&] { seen.push_back(3); }), fourth([&] { seen.push_back(4); });
    for (op* each : std::initializer_list<op*>{&first, &second, &third, &fourth}) {
        on.push(*each);
    }

    on.run_once(0ns);
    CHECK(seen == std::vector{1, 2});

    on.run_once(0ns);
    CHECK(seen == std::vector{1, 2, 3, 4, 1});
}

TEST_CASE("stop finishes the turn and starts no other", "[loop]") {
    virtual_loop on;
    std::vector<std::string> seen;
    callback next([&] { seen.push_back("next turn"); });
    callback stops([&] {
        on.stop();
        on.push(next);
    });
    callback rest([&] { seen.push_back("this turn"); });
    on.push(stops);
    on.push(rest);

    on.run();

    CHECK(seen == std::vector<std::string>{"this turn"});
    CHECK(on.ready().front() == &next);
    on.shut_down();
}

TEST_CASE("a wait that fails throws, and what was ready stays so", "[loop]") {
    idle_loop on;
    callback ready([] {});
    on.push(ready);
    on.begin_run();
    on.kernel().failure = system_error_code(ENOMEM);

    CHECK_THROWS_AS(on.run_once(), std::system_error);
    CHECK(on.ready().front() == &ready);
    CHECK_NOTHROW(on.run_once());
    CHECK(on.ready().empty());
}

namespace {

// What is around the runs of a loop, and is told of its end.
struct framed_turner : turner {
    explicit framed_turner(loop& turned) : on(turned) { on.use_turner(this); }

    void turn_until(bool (*is_over)(const void*), const void* what, nanoseconds limit) override {
        seen += '(';
        do {
            on.turn(limit);
            seen += '.';
        } while (!is_over(what));
        seen += ')';
    }
    void leave() noexcept override {
        seen += '!';
        on.use_turner(nullptr);
    }

    loop& on;
    std::string seen;
};

}  // namespace

TEST_CASE("who turns a loop in its place is around each run, and leaves when it ends", "[loop]") {
    virtual_loop on;
    framed_turner by(on);
    callback second([&] { on.stop(); });
    callback first([&] { on.push(second); });

    on.push(first);
    on.run();
    CHECK(std::exchange(by.seen, "") == "(..)");

    on.run_once(0ns);
    CHECK(std::exchange(by.seen, "") == "(.)");

    CHECK(run(on, [](int answer) -> task<int> { co_return answer; }(42)) == 42);
    CHECK(std::exchange(by.seen, "") == "(.)");

    on.shut_down();
    CHECK(by.seen == "!");
    CHECK(on.turned_by() == nullptr);
}

TEST_CASE("the loop counts turns, ops, polls and waits", "[loop]") {
    virtual_loop on;
    callback ready([] {});
    on.begin_run();
    on.push(ready);
    on.run_once();
    on.run_once(1s);

    CHECK(on.stats().turns == 2);
    CHECK(on.stats().ops == 1);
    CHECK(on.stats().polls == 2);
    CHECK(on.stats().waits == 1);
}

TEST_CASE("a loop that ends cancels what runs and waits for its end", "[loop]") {
    std::vector<std::string> seen;
    auto on = std::make_unique<virtual_loop>();
    const int peer = on->kernel().open();
    auto sleeps = [&](std::string name) -> task<> {
        const auto outcome = co_await sleep_for(1h);
        seen.push_back(name + (outcome.error() == std::errc::operation_canceled ? " canceled" : "?"));
        co_await next_turn();  // the end takes some turns
        seen.push_back(name + " ended");
    };
    auto receives = [&](stream socket) -> task<> {
        const auto outcome = co_await socket.receive();
        seen.push_back(outcome.error() == std::errc::operation_canceled ? "receive canceled" : "?");
    };
    spawn(*on, sleeps("sleep"));
    spawn(*on, receives(stream::adopt(*on, fd(peer)).value()));
    on->settle();
    spawn(*on, sleeps("unborn"));

    on.reset();

    std::sort(seen.begin(), seen.end());
    CHECK(seen == std::vector<std::string>{"receive canceled", "sleep canceled", "sleep ended",
                                           "unborn canceled", "unborn ended"});
}

TEST_CASE("what tasks start while the loop ends is ended too", "[loop]") {
    int ended = 0;
    auto on = std::make_unique<virtual_loop>();
    auto late = [&]() -> task<> {
        const auto outcome = co_await sleep_for(1h);
        ended += outcome.error() == std::errc::operation_canceled;
    };
    auto parent = [&]() -> task<> {
        const context here = co_await current_context();
        const auto outcome = co_await sleep_for(1h);
        ended += outcome.error() == std::errc::operation_canceled;
        spawn(*here.on, late());
    };
    spawn(*on, parent());
    on->settle();

    on.reset();

    CHECK(ended == 2);
}

namespace {

/// Runs `work` in a forked child; whether it returned true.
template <class F>
bool true_in_child(F&& work) {
    const pid_t child = ::fork();
    if (child == 0) {
        bool good = false;
        try {
            good = work();
        } catch (...) {
        }
        ::_exit(good ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE("a loop refuses to run in a fork of its process, and still runs in its own", "[loop]") {
    loop on(each_backend());
    auto work = []() -> task<int> { co_return 5; };

    CHECK(true_in_child([&] {
        int refusals = 0;
        try {
            on.run_once(0ns);
        } catch (const std::logic_error&) {
            ++refusals;
        }
        try {
            run(on, work());
        } catch (const std::logic_error&) {
            ++refusals;
        }
        return refusals == 2;
    }));
    CHECK(run(on, work()) == 5);
}

TEST_CASE("a fork makes loops of its own, and so does its fork", "[loop]") {
    loop on(each_backend());
    auto work = []() -> task<int> {
        co_await next_turn();
        co_return 5;
    };

    CHECK(true_in_child([&] { return run(work()) == 5 && true_in_child([&] { return run(work()) == 5; }); }));
}

TEST_CASE("a fork ends the loop that it inherited and leaves its parent's as it was", "[loop]") {
    auto on = std::make_unique<loop>(each_backend());
    connection with(*on, kind::unix_socket);
    std::string seen;
    auto reads = [&](stream socket) -> task<> {
        const auto received = co_await socket.receive();
        seen = received ? text_of(*received) : received.error().message();
    };
    pipe_ends pipe;
    lookout readable(pipe.out.get(), direction::read, [&] { seen += " and the watcher"; });
    spawn(*on, reads(std::move(with.socket)));
    REQUIRE(!on->kernel().watch(readable));
    on->run_once(0ns);

    CHECK(true_in_child([&] {
        on->abandon_if_inherited();
        on->kernel().unwatch(readable);
        on.reset();
        return seen == system_error_code(ECANCELED).message();
    }));

    with.sends("to the parent");
    on->run_once(1s);
    CHECK(seen == "to the parent");
    pipe.write();
    on->begin_run();  // asks the kernel, though a task's end is still queued
    on->run_once(1s);
    CHECK(seen == "to the parent and the watcher");
    on->kernel().unwatch(readable);
}

TEST_CASE("a loop runs in the thread that turned it first", "[loop]") {
    loop on(each_backend());
    std::thread([&] { turn(on); }).join();
    const auto refusal = [&](auto what) -> std::error_code {
        try {
            what();
        } catch (const std::system_error& error) {
            CHECK(std::string(error.what()).find("thread") != std::string::npos);
            return error.code();
        }
        return {};
    };
    CHECK(refusal([&] { on.run_once(1ms); }) == std::errc::operation_not_permitted);
    CHECK(refusal([&] { on.run(); }) == std::errc::operation_not_permitted);
    CHECK(refusal([&] { std::thread([&] { CHECK_THROWS_AS(turn(on), std::system_error); }).join(); }) ==
          std::error_code());
}

TEST_CASE("a loop is handed to another thread between two runs, where its backend can be", "[loop]") {
    loop on(each_backend());
    std::thread([&] {
        turn(on);
        CHECK(on.leave_thread() == (on.kernel().name() != "io_uring"));
    }).join();

    if (on.kernel().name() == "io_uring") {
        CHECK_THROWS_AS(turn(on), std::system_error);
    } else {
        CHECK_NOTHROW(turn(on));
    }
}

// As a guest of a host's loop.

namespace {

/// A host that sleeps in poll(2). False: it slept for a second, and nothing came.
bool hosts(loop& guest, const std::function<bool()>& is_done) {
    while (!is_done()) {
        guest.run_once(0ns);
        if (guest.has_ready() || is_done()) {
            continue;
        }
        int patience_ms = 1000;
        if (const auto next = guest.next_deadline(); next != time_point::max()) {
            patience_ms =
                static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(next - guest.now()).count());
        }
        if (!is_readable(guest.native_handle(), std::max(patience_ms, 0)) && patience_ms == 1000) {
            return false;
        }
    }
    return true;
}

}  // namespace

TEST_CASE("a post wakes a loop whose host sleeps, each time", "[loop]") {
    loop on(each_backend());
    for (int round = 0; round < 3; ++round) {
        bool came = false;
        callback posted([&] { came = true; });
        turn(on, 2);
        std::thread other([&] {
            std::this_thread::sleep_for(20ms);
            on.post(posted);
        });
        CHECK(hosts(on, [&] { return came; }));
        other.join();
    }
    CHECK(on.stats().wakes == 3);
}

TEST_CASE("a host's loop learns of readiness, of timers, and of what it cancels itself", "[loop]") {
    loop on(each_backend());
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    auto waits = [&](nanoseconds duration) -> task<result<void>> { co_return co_await sleep_for(duration); };
    for (int round = 0; round < 3; ++round) {
        job<std::string> reading(on, recv_text(with.socket, 10));
        turn(on, 2);
        std::thread peer([&] {
            std::this_thread::sleep_for(20ms);
            with.sends("hello");
        });
        CHECK(hosts(on, [&] { return reading.done(); }));
        CHECK(reading.take() == "hello");
        peer.join();
    }
    CHECK(on.next_deadline() == time_point::max());
    job<result<void>> napping(on, waits(5ms));
    CHECK(on.has_ready());
    CHECK(hosts(on, [&] { return napping.done(); }));

    job<std::string> idle(on, recv_text(with.socket, 10));
    turn(on, 3);
    CHECK(!on.has_ready());
    idle.cancel();
    CHECK(on.has_ready());  // or the host would sleep over it
    CHECK(hosts(on, [&] { return idle.done(); }));
    CHECK(idle.take() == message(std::errc::operation_canceled));
}

TEST_CASE("the scripted backend's loop has the same answers for a host", "[loop]") {
    virtual_loop on;
    bool came = false;
    callback posted([&] { came = true; });
    auto waits = []() -> task<result<void>> { co_return co_await sleep_for(1s); };
    job<result<void>> napping(on, waits());
    turn(on, 2);
    CHECK(on.native_handle() == -1);
    CHECK(!on.has_ready());
    CHECK(on.next_deadline() == time_point(1s));

    std::thread([&] { on.post(posted); }).join();
    CHECK(on.stats().wakes == 1);
    CHECK(on.has_ready());
    turn(on);
    CHECK(came);
    CHECK(!on.has_ready());

    on.join(napping).value();
}

TEST_CASE("what can be called is posted from any thread, and may only move", "[loop]") {
    loop on;
    int sum = 0;
    std::string failed;
    static std::string* told;
    told = &failed;
    on.use_failure_hook([](std::exception_ptr failure) {
        try {
            std::rethrow_exception(failure);
        } catch (const std::exception& error) {
            *told += error.what();
        }
    });
    std::thread other([&] {
        for (int each = 1; each <= 100; ++each) {
            on.post([&sum, alone = std::make_unique<int>(each)] { sum += *alone; });
        }
        on.post([] { throw std::runtime_error("told"); });
        on.post([&on] { on.stop(); });
    });

    on.run();
    other.join();

    CHECK(sum == 5050);
    CHECK(failed == "told");
    {
        loop ends;
        ends.post([&sum] { sum = 0; });
    }
    CHECK(sum == 0);
}
