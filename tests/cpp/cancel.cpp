#include <zloop/cancel.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include <zloop/channel.hpp>
#include <zloop/nursery.hpp>
#include <zloop/offload.hpp>
#include <zloop/sleep.hpp>
#include <zloop/stream.hpp>
#include <zloop/sync.hpp>
#include <zloop/testing.hpp>
#include <zloop/watch.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"
#include "tasks.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using support::nap;
using zloop::testing::virtual_loop;

namespace {

template <class T>
task<T> value_after(nanoseconds duration, T value) {
    const auto slept = co_await sleep_for(duration);
    slept.value();
    co_return value;
}

/// Gives its value however it is asked to end.
task<int> stubborn(nanoseconds duration) {
    static_cast<void>(co_await shield(nap(duration)));
    co_return 7;
}

/// Awaits what `start` begins, and does not ask what came of it.
template <class F>
task<int> heedless(F start) {
    static_cast<void>(co_await start());
    co_return 1;
}

/// Goes on inside of another op, without a turn of its own.
task<> until_resumed(std::coroutine_handle<>& waiting) {
    struct resumed_by {
        std::coroutine_handle<>& place;
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> caller) const noexcept { place = caller; }
        void await_resume() const noexcept {}
    };
    resumed_by other{waiting};
    co_await other;
}

}  // namespace

TEST_CASE("a shielded task is out of reach of the scopes above, and its caller waits for it", "[shield]") {
    virtual_loop on;
    bool after = false;
    auto work = [&]() -> task<std::error_code> {
        const auto inside = co_await shield(nap(1s));
        CHECK(inside);
        after = true;
        co_return (co_await sleep_for(1s)).error();  // this one is not shielded
    };
    auto working = on.start(work());
    on.settle();

    working.cancel();
    on.settle();
    CHECK(!after);

    CHECK(on.join(working) == std::errc::operation_canceled);
    CHECK(after);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a task that is cancelled already can still shield", "[shield]") {
    virtual_loop on;
    auto work = []() -> task<bool> { co_return static_cast<bool>(co_await shield(nap(1s))); };
    auto working = on.start(work());
    working.cancel();

    CHECK(on.join(working));
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("shield passes on values, references, exceptions, and nothing", "[shield]") {
    virtual_loop on;
    int referred = 1;
    auto pointer = []() -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(3); };
    auto reference = [&]() -> task<int&> { co_return referred; };
    auto nothing = []() -> task<> { co_await next_turn(); };
    auto fails = []() -> task<int> {
        co_await next_turn();
        throw std::runtime_error("told");
    };

    CHECK(*run(on, shield(pointer())) == 3);
    CHECK(&run(on, shield(reference())) == &referred);
    run(on, shield(nothing()));
    CHECK_THROWS_AS(run(on, shield(fails())), std::runtime_error);
}

TEST_CASE("a loop that ends reaches through shields, open ones and those to come", "[shield]") {
    int ended = 0;
    auto shielded = [&]() -> task<> { ended += (co_await shield(nap(1h))).error() ? 1 : 0; };
    auto says_goodbye = [&]() -> task<> {
        static_cast<void>(co_await sleep_for(1h));
        ended += (co_await shield(nap(1h))).error() ? 1 : 0;  // begins when the loop is at its end already
    };
    {
        virtual_loop on;
        spawn(on, shielded());
        spawn(on, says_goodbye());
        on.settle();
    }
    CHECK(ended == 2);
}

TEST_CASE("a task that ends in time keeps its result, and leaves no timer", "[timeout]") {
    virtual_loop on;

    const auto got = run(on, with_timeout(2s, value_after(1s, std::string("told"))));

    CHECK(got.value() == "told");
    CHECK(on.elapsed() == 1s);
    CHECK(on.timers().empty());
}

TEST_CASE("a task that takes too long is cancelled, joined, and timed out", "[timeout]") {
    virtual_loop on;

    CHECK(run(on, with_timeout(2s, nap(1h))).error() == std::errc::timed_out);
    CHECK(on.elapsed() == 2s);
    CHECK(run(on, with_timeout(2s, value_after(1h, 5))).error() == std::errc::timed_out);  // it throws
    CHECK(on.elapsed() == 4s);
    CHECK(on.timers().empty());
}

TEST_CASE("with_deadline takes a moment of the loop's clock", "[timeout]") {
    virtual_loop on;
    on.advance(10s);

    CHECK(run(on, with_deadline(on.now() + 2s, nap(1h))).error() == std::errc::timed_out);
    CHECK(on.elapsed() == 12s);
}

TEST_CASE("a value that has not met the deadline wins over it, however late it comes", "[timeout]") {
    virtual_loop on;

    CHECK(run(on, with_timeout(1s, stubborn(3s))).value() == 7);
    CHECK(on.elapsed() == 3s);
}

TEST_CASE("a task without a result is timed out when it has met the deadline", "[timeout]") {
    virtual_loop on;
    auto naps = [](nanoseconds duration) -> task<> { static_cast<void>(co_await sleep_for(duration)); };
    auto works = []() -> task<> { static_cast<void>(co_await stubborn(3s)); };

    CHECK(run(on, with_timeout(1s, naps(1h))).error() == std::errc::timed_out);
    CHECK(run(on, with_timeout(1s, naps(1ms))));
    CHECK(run(on, with_timeout(1s, works())));
}

TEST_CASE("who makes a value of the deadline's cancellation is timed out nevertheless", "[timeout]") {
    virtual_loop on;
    int referred = 1;
    auto status = []() -> task<int> { co_return co_await sleep_for(1h) ? 200 : 400; };
    auto later = []() -> task<int> {  // it meets the deadline by what it begins after that
        static_cast<void>(co_await stubborn(3s));
        static_cast<void>(co_await sleep_for(1s));
        co_return 5;
    };
    auto reference = [&]() -> task<int&> {
        static_cast<void>(co_await sleep_for(1h));
        co_return referred;
    };
    auto says = [&]() -> task<result<int>> { co_return co_await status(); };
    auto partly = []() -> task<progress> {
        static_cast<void>(co_await sleep_for(1h));
        co_return progress({}, 5);
    };
    auto is_late = [&](auto work) {
        return run(on, with_timeout(1s, std::move(work))).error() == std::errc::timed_out;
    };

    CHECK(is_late(status()));
    CHECK(is_late(later()));
    CHECK(is_late(reference()));
    CHECK(is_late(says()));
    CHECK(is_late(with_timeout(1h, status())));
    const auto [error, count] = run(on, with_timeout(1s, partly()));
    CHECK(error == std::errc::timed_out);
    CHECK(count == 5);
}

TEST_CASE("who makes values of the deadline's cancellation in several tasks is timed out", "[timeout]") {
    virtual_loop on;
    auto all = []() -> task<std::vector<result<void>>> {
        std::vector<task<result<void>>> naps;
        for (int index = 0; index < 3; ++index) {
            naps.push_back(nap(1h));
        }
        co_return co_await when_all(std::move(naps));
    };
    auto children = []() -> task<> {
        auto body = [](nursery& beside) -> task<> {
            beside.spawn([]() -> task<> { static_cast<void>(co_await sleep_for(1h)); });
            co_return;
        };
        co_await with_nursery(body);
    };
    auto child = []() -> task<int> {
        job<result<void>> beside(co_await current_context(), nap(1h));
        co_return co_await beside.join() ? 1 : 2;
    };

    CHECK(run(on, with_timeout(1s, all())).error() == std::errc::timed_out);
    CHECK(run(on, with_timeout(1s, children())).error() == std::errc::timed_out);
    CHECK(run(on, with_timeout(1s, child())).error() == std::errc::timed_out);
    CHECK(on.elapsed() == 3s);
}

TEST_CASE("a deadline that comes amid another cancellation is not met by who was cancelled before",
          "[timeout]") {
    virtual_loop on;
    std::coroutine_handle<> waiting;
    support::delayed before([&] { waiting.resume(); });
    on.arm(before, time_point(1s));
    auto first_of_two = [&]() -> task<std::size_t> {
        const auto first = co_await when_any(until_resumed(waiting), nap(1h));
        co_return first.index();
    };
    auto working = on.start(with_deadline(time_point(1s), first_of_two()));

    CHECK(on.join(working).value() == 0);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a deadline is met by whatever waits, and by what begins after it", "[timeout]") {
    loop on(support::each_backend());
    event never;
    channel<int> line(1);
    support::connection with(on, support::kind::unix_socket);
    support::pipe_ends silent;
    char byte[1];
    std::atomic<bool> busy = false, go = false;
    offload_pool pool(1);

    const auto is_late = [&](auto start) {
        const auto late = run(on, with_timeout(1ms, heedless(start)));
        const auto too_late = run(on, with_deadline(on.now() - 1ms, heedless(start)));
        return late.error() == std::errc::timed_out && too_late.error() == std::errc::timed_out;
    };

    CHECK(is_late([&] { return sleep_for(1h); }));
    CHECK(is_late([&] { return never.wait(); }));
    CHECK(is_late([&] { return line.receive(); }));
    CHECK(is_late([&] { return with.socket.recv(std::as_writable_bytes(std::span(byte))); }));
    CHECK(is_late([&] { return wait_readable(silent.out.get()); }));
    const auto take_the_thread = [&] {
        return offload_abandonable(pool, [&busy, &go] {
            busy = true;
            while (!go.load()) {
                std::this_thread::sleep_for(1ms);
            }
        });
    };
    CHECK(is_late(take_the_thread));
    while (!busy.load()) {  // what had not begun never will
        static_cast<void>(run(on, with_timeout(1ms, heedless(take_the_thread))));
    }
    CHECK(is_late([&] { return offload(pool, [] {}); }));  // behind what was abandoned: it never begins
    go = true;
    bool begun = false;
    const auto work = [&] {
        begun = true;
        std::this_thread::sleep_for(5ms);
    };
    const auto outcome = run(on, with_timeout(3ms, heedless([&] { return offload(pool, work); })));
    CHECK(static_cast<bool>(outcome) == begun);  // once it has begun, nothing can end it any more
}

TEST_CASE("what tells its error beside something else is timed out, and keeps that", "[timeout]") {
    struct report {
        std::error_code error;
        int count = 0;
    };
    virtual_loop on;
    auto says = [](std::error_code code, nanoseconds duration) -> task<report> {
        static_cast<void>(co_await sleep_for(duration));
        co_return report{code, 7};
    };

    const auto canceled = std::make_error_code(std::errc::operation_canceled);
    const auto [error, count] = run(on, with_timeout(1s, says(canceled, 1h)));
    CHECK(error == std::errc::timed_out);
    CHECK(count == 7);
    CHECK(run(on, with_timeout(1s, says({}, 1h))).error == std::errc::timed_out);
    CHECK(run(on, with_timeout(1s, says(errc::closed, 1h))).error == errc::closed);
    CHECK(!run(on, with_timeout(1s, says({}, 1ms))).error);
    CHECK(run(on, with_timeout(1s, value_after(1h, report()))).error == std::errc::timed_out);  // it throws
}

TEST_CASE("a failure of another kind is passed on, the deadline met or not", "[timeout]") {
    virtual_loop on;
    auto says = []() -> task<result<int>> {
        static_cast<void>(co_await sleep_for(1h));
        co_return errc::closed;
    };
    auto fails = []() -> task<int> {
        static_cast<void>(co_await sleep_for(1h));
        throw std::runtime_error("told");
    };

    CHECK(run(on, with_timeout(1s, says())).error() == errc::closed);
    CHECK_THROWS_AS(run(on, with_timeout(1s, fails())), std::runtime_error);
}

TEST_CASE("a deadline and a result of the same turn: the result wins", "[timeout]") {
    virtual_loop on;

    CHECK(run(on, with_timeout(1s, nap(1s))));  // the deadline's op comes first, but the nap is over as well
    CHECK(on.elapsed() == 1s);
    CHECK(on.timers().empty());
}

TEST_CASE("a deadline that is on its way when the task ends is waited for and forgotten", "[timeout]") {
    virtual_loop on;
    std::coroutine_handle<> waiting;
    support::delayed before([&] { waiting.resume(); });
    on.arm(before, time_point(1s));
    auto working = on.start(with_deadline(time_point(1s), until_resumed(waiting)));

    CHECK(on.join(working));  // a task<void>, and not timed out: it had ended when the deadline struck
    CHECK(on.elapsed() == 1s);
    CHECK(on.timers().empty());
}

TEST_CASE("a deadline at the end of time arms no timer", "[timeout]") {
    virtual_loop on;
    auto working = on.start(with_deadline(time_point::max(), nap(1s)));
    on.settle();
    CHECK(on.timers().size() == 1);  // the nap's

    CHECK(on.join(working));
    CHECK(run(on, with_timeout(nanoseconds::max(), nap(1s))));
}

TEST_CASE("a deadline that has passed lets the task run to its first wait", "[timeout]") {
    virtual_loop on;
    on.advance(5s);
    auto at_once = []() -> task<int> { co_return 3; };

    CHECK(run(on, with_deadline(time_point(1s), at_once())).value() == 3);
    CHECK(run(on, with_deadline(time_point(1s), nap(1h))).error() == std::errc::timed_out);
    CHECK(run(on, with_timeout(nanoseconds::min(), nap(1h))).error() == std::errc::timed_out);
    CHECK(on.elapsed() == 5s);
    CHECK(on.timers().empty());
}

TEST_CASE("the nearer one of nested deadlines counts, and who is above passes it on", "[timeout]") {
    virtual_loop on;
    result<void> inner_outcome;
    auto inner = [&](nanoseconds limit) -> task<result<void>> {
        inner_outcome = co_await with_timeout(limit, nap(1h));
        co_return inner_outcome;
    };

    CHECK(run(on, with_timeout(5s, inner(1s))).error() == std::errc::timed_out);
    CHECK(inner_outcome.error() == std::errc::timed_out);
    CHECK(on.elapsed() == 1s);

    CHECK(run(on, with_timeout(1s, inner(5s))).error() == std::errc::timed_out);
    CHECK(inner_outcome.error() == std::errc::operation_canceled);  // it is not the inner one's doing
    CHECK(on.elapsed() == 2s);

    CHECK(run(on, with_timeout(1s, inner(1s))).error() == std::errc::timed_out);
    CHECK(inner_outcome.error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 3s);
    CHECK(on.timers().empty());
}

TEST_CASE("who is cancelled from above is cancelled, not timed out", "[timeout]") {
    virtual_loop on;
    auto working = on.start(with_timeout(1s, nap(1h)));
    auto throwing = on.start(with_timeout(1s, value_after(1h, 1)));
    on.settle();

    working.cancel();
    throwing.cancel();

    CHECK(on.join(working).error() == std::errc::operation_canceled);
    CHECK_THROWS_AS(on.join(throwing), std::system_error);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("an operation_canceled of the task's own is passed on as it is", "[timeout]") {
    virtual_loop on;
    auto gives_up = []() -> task<result<int>> { co_return std::errc::operation_canceled; };

    CHECK(run(on, with_timeout(1s, gives_up())).error() == std::errc::operation_canceled);
}

TEST_CASE("with_timeout passes on what only moves, what has no default, references, errors, exceptions",
          "[timeout]") {
    struct tough {
        explicit tough(int number) : value(number) {}
        tough(tough&&) = default;
        int value;
    };
    virtual_loop on;
    int referred = 1;
    auto pointer = []() -> task<std::unique_ptr<int>> { co_return std::make_unique<int>(3); };
    auto made = []() -> task<tough> {
        co_await next_turn();
        co_return tough(4);
    };
    auto reference = [&]() -> task<int&> { co_return referred; };
    auto says = []() -> task<result<int>> { co_return errc::end_of_stream; };
    auto fails = []() -> task<int> {
        co_await next_turn();
        throw std::runtime_error("told");
    };

    CHECK(*run(on, with_timeout(1s, pointer())).value() == 3);
    CHECK(run(on, with_timeout(1s, made())).value().value == 4);
    CHECK(run(on, with_timeout(1s, reference())).value() == &referred);
    CHECK(run(on, with_timeout(1s, says())).error() == errc::end_of_stream);
    CHECK_THROWS_AS(run(on, with_timeout(1s, fails())), std::runtime_error);
    CHECK(run(on, with_timeout(1s, value_after(1h, nullptr))).error() == std::errc::timed_out);
    CHECK(on.timers().empty());
}

TEST_CASE("a deadline leaves shielded work alone, and tells of it afterwards", "[timeout]") {
    virtual_loop on;

    CHECK(run(on, with_timeout(1s, shield(nap(3s)))));
    CHECK(on.elapsed() == 3s);
}

TEST_CASE("with_timeout allocates nothing once the pool is warm", "[timeout]") {
    if (!probes::counts_allocations) {
        return;
    }
    virtual_loop on;
    auto work = []() -> task<std::size_t> {
        std::size_t before = 0;
        for (int round = 0; round < 100; ++round) {
            if (round == 10) {
                before = probes::allocations();
            }
            auto short_nap = nap(1ms);
            auto long_nap = nap(1h);
            (co_await with_timeout(1s, std::move(short_nap))).value();
            static_cast<void>(co_await with_timeout(1ms, std::move(long_nap)));
            static_cast<void>(co_await shield(nap(1ms)));
        }
        co_return probes::allocations() - before;
    };

    CHECK(run(on, work()) == 0);
}

TEST_CASE("a stop that was requested before cancels from the start", "[stop]") {
    virtual_loop on;
    std::stop_source source;
    source.request_stop();

    CHECK(run(on, with_stop(source.get_token(), nap(1h))).error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("a stop cancels what waits, once the loop is there", "[stop]") {
    virtual_loop on;
    std::stop_source source;
    auto working = on.start(with_stop(source.get_token(), nap(1h)));
    on.advance(1s);

    source.request_stop();

    CHECK(on.join(working).error() == std::errc::operation_canceled);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a token that nobody stops, or can stop, changes nothing", "[stop]") {
    virtual_loop on;
    std::stop_source source;
    int referred = 1;
    auto reference = [&]() -> task<int&> {
        co_await next_turn();
        co_return referred;
    };
    auto nothing = []() -> task<> { co_await next_turn(); };

    CHECK(run(on, with_stop(source.get_token(), value_after(1s, 5))) == 5);
    CHECK(*run(on, with_stop({}, value_after(1s, std::make_unique<int>(6)))) == 6);
    CHECK(&run(on, with_stop(source.get_token(), reference())) == &referred);
    run(on, with_stop({}, nothing()));
    source.request_stop();
    on.settle();
}

TEST_CASE("a stop in the very last moment is waited for and forgotten", "[stop]") {
    virtual_loop on;
    std::stop_source source;
    auto work = [&]() -> task<int> {
        (co_await sleep_for(1s)).value();
        source.request_stop();
        co_return 3;
    };
    auto cancelled_after_that = [&]() -> task<std::error_code> {
        const auto got = co_await with_stop(source.get_token(), work());
        CHECK(got == 3);
        co_return (co_await sleep_for(1s)).error();
    };

    CHECK(run(on, cancelled_after_that()) == std::error_code());
}

TEST_CASE("with_stop passes on exceptions, and cancellation from above", "[stop]") {
    virtual_loop on;
    std::stop_source source;
    auto fails = []() -> task<> {
        co_await next_turn();
        throw std::runtime_error("told");
    };
    CHECK_THROWS_AS(run(on, with_stop(source.get_token(), fails())), std::runtime_error);

    auto working = on.start(with_stop(source.get_token(), nap(1h)));
    on.settle();
    working.cancel();
    CHECK(on.join(working).error() == std::errc::operation_canceled);
}

TEST_CASE("a stop from another thread wakes the loop and cancels, at any moment", "[stop]") {
    loop on;
    for (int round = 0; round < 200; ++round) {
        std::stop_source source;
        std::atomic<bool> go = false;
        std::thread stopper([&] {
            while (!go.load()) {
            }
            for (int pause = 0; pause < round * 20; ++pause) {
                go.store(true);
            }
            source.request_stop();
        });
        auto work = [&]() -> task<result<void>> {
            go.store(true);
            for (int turn = 0; turn < round % 5; ++turn) {
                co_await next_turn();
            }
            co_return co_await sleep_for(round % 2 == 0 ? nanoseconds(1h) : nanoseconds(20us));
        };
        const auto outcome = run(on, with_stop(source.get_token(), work()));
        CHECK((outcome || outcome.error() == std::errc::operation_canceled));
        CHECK((outcome.error() == std::errc::operation_canceled || round % 2 == 1));
        stopper.join();
    }
}

TEST_CASE("a loop that ends has done with stops that are on their way", "[stop]") {
    // On the heap: else g++ 12 takes it for uninitialized, at -Og.
    const auto source = std::make_unique<std::stop_source>();
    std::error_code outcome;
    {
        auto work = [&]() -> task<> { outcome = (co_await with_stop(source->get_token(), nap(1h))).error(); };
        virtual_loop on;  // which ends it
        spawn(on, work());
        on.settle();
        source->request_stop();
    }
    CHECK(outcome == std::errc::operation_canceled);
}
