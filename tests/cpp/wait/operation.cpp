#include <zloop/wait/operation.hpp>

#include <array>
#include <list>
#include <memory>
#include <string>

#include <zloop/cancel.hpp>
#include <zloop/channel.hpp>
#include <zloop/job.hpp>
#include <zloop/listener.hpp>
#include <zloop/nursery.hpp>
#include <zloop/sleep.hpp>
#include <zloop/sync.hpp>
#include <zloop/testing.hpp>
#include <zloop/when.hpp>

#include "../catch.hpp"
#include "../support.hpp"
#include "../tasks.hpp"

using namespace zloop;
using namespace std::chrono_literals;
using support::connection;
using support::each_backend;
using zloop::testing::virtual_loop;

namespace {

/// What has an operator co_await of its own, and gives a reference.
struct box_of_one {
    int& content;
    auto operator co_await() && {
        struct opened {
            int& content;
            bool await_ready() const noexcept { return true; }
            void await_suspend(std::coroutine_handle<>) const noexcept {}
            int& await_resume() const noexcept { return content; }
        };
        return opened{content};
    }
};

/// Says what cannot be taken out of its place.
struct rooted {
    rooted() = default;
    rooted(const rooted&) = delete;
    bool await_ready() const noexcept { return true; }
    void await_suspend(std::coroutine_handle<>) const noexcept {}
    void await_resume() const noexcept {}
};

static_assert(operation<sleep_for> && operation<task<int>> && operation<box_of_one>);
static_assert(awaitable<rooted> && !operation<rooted> && !awaitable<int>);
static_assert(std::same_as<awaited_type<sleep_for>, result<void>>);
static_assert(std::same_as<awaited_type<task<int>>, int> && std::same_as<awaited_type<box_of_one>, int&>);

task<> keeps(std::string text, nanoseconds duration, std::string& seen) {
    static_cast<void>(co_await sleep_for(duration));
    seen += text;
}

struct counter {
    int total = 0;
    task<> add(int number) {
        co_await next_turn();
        total += number;
    }
};

}  // namespace

TEST_CASE("an operation becomes a task that gives what it gives", "[operation]") {
    virtual_loop on;
    int number = 7;

    CHECK(run(on, as_task(sleep_for(2s))));
    CHECK(on.elapsed() == 2s);
    CHECK(&run(on, as_task(box_of_one{number})) == &number);
    CHECK(run(on, sleep_for(1s)));  // as do those who take tasks
    job<result<void>> nap(on, sleep_for(1s));
    CHECK(on.join(nap));
}

TEST_CASE("a deadline is around any operation, and costs no clock where that is ready", "[operation]") {
    virtual_loop on;
    struct watched final : clock_source {
        time_point now() noexcept override { return ++looks, time_point(); }
        int looks = 0;
    } clock;
    int number = 7;
    auto work = [&]() -> task<> {
        channel<int> box(1);
        const auto late = co_await with_timeout(1s, box.receive());
        CHECK(late.error() == std::errc::timed_out);
        CHECK(on.elapsed() == 1s);
        CHECK(box.try_send(5));
        on.use_clock(&clock);
        const auto at_once = co_await with_timeout(1s, box.receive());
        CHECK(at_once.value() == 5);
        const auto reference = co_await with_timeout(1s, box_of_one{number});
        CHECK(reference.value() == &number);
        CHECK(clock.looks == 0);
        on.use_clock(&on.kernel());
        const auto nested = co_await with_timeout(2s, with_timeout(1s, box.receive()));
        CHECK(nested.error() == std::errc::timed_out);
        CHECK(on.elapsed() == 2s);
        const auto turn = co_await with_deadline(on.now() + 1s, next_turn());
        CHECK(turn);
        auto later = with_timeout(1s, sleep_for(500ms));  // kept, and moved
        task<result<void>> as_one = std::move(later);
        const auto kept = co_await std::move(as_one);
        CHECK(kept);
    };

    run(on, work());

    CHECK(on.timers().empty());
}

TEST_CASE("a deadline that is due when its operation has ended is gone at once", "[operation]") {
    virtual_loop on;
    auto both = [&]() -> task<> {
        const auto slept = co_await with_timeout(1s, sleep_for(1s));  // the timers are due in one turn
        CHECK(slept);
        event rung;
        job<> rings(co_await current_context(), [](event& of) -> task<> {
            static_cast<void>(co_await sleep_for(1s));
            of.set();
        }(rung));
        co_await next_turn();
        const auto heard = co_await with_timeout(1s, rung.wait());
        CHECK(heard);
        co_await rings.join();
    };

    run(on, both());

    CHECK(on.elapsed() == 2s);
    CHECK(on.timers().empty());
    CHECK(on.ready().empty());
}

TEST_CASE("what says that it was cancelled is told apart from a time that was up", "[operation]") {
    virtual_loop on;
    channel<int> box;
    auto work = [&]() -> task<std::error_code> {
        co_return (co_await with_timeout(1h, box.receive())).error();
    };
    auto waits = on.start(work());
    on.settle();
    waits.cancel();
    CHECK(on.join(waits) == std::errc::operation_canceled);

    auto closes = on.start(work());
    on.settle();
    box.close();
    CHECK(on.join(closes) == errc::closed);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("any operations are waited for together", "[operation]") {
    virtual_loop on;
    int number = 7;
    auto work = [&]() -> task<> {
        auto [slept, boxed, answer, nothing] = co_await when_all(
            sleep_for(2s), box_of_one{number}, [](int value) -> task<int> { co_return value; }(42),
            next_turn());
        CHECK((slept && boxed == &number && answer == 42 && nothing == std::monostate()));
        auto [first, second] = co_await when_all(std::tuple(sleep_for(1s), with_timeout(1s, sleep_for(1h))));
        CHECK((first && second.error() == std::errc::timed_out));
        std::list<sleep_for> naps;
        naps.emplace_back(1s);
        naps.emplace_back(2s);
        const auto all = co_await when_all(std::move(naps));
        CHECK(all.size() == 2);
        std::array<sleep_for, 2> more{sleep_for(2s), sleep_for(1s)};
        const auto shorter = co_await when_any(std::move(more));
        CHECK(shorter.index == 1);
        const auto of_two = co_await when_any(std::tuple(sleep_for(1h), sleep_for(1s)));
        CHECK(of_two.index() == 1);
        CHECK_THROWS_AS(co_await when_any(std::list<sleep_for>()), std::invalid_argument);
    };

    run(on, work());

    CHECK(on.elapsed() == 7s);
}

TEST_CASE("who is not the first has consumed nothing", "[operation]") {
    loop on(each_backend());
    auto work = [&]() -> task<> {
        auto door = listener::bind(on, address::loopback()).value();
        connection wire(on, support::kind::unix_socket);
        channel<int> box(2), other(2);
        std::byte buffer[16];
        for (int round = 0; round < 3; ++round) {  // everything is there, or comes in one turn
            CHECK((box.try_send(round) && other.try_send(round)));
            wire.sends("abc");
            auto guest = co_await connect(door.local_address());
            auto first =
                co_await when_any(box.receive(), other.receive(), wire.socket.recv(buffer), door.accept());
            REQUIRE(first.index() == 0);
            CHECK(std::get<0>(first).value() == round);
            CHECK(other.size() == 1);
            const auto kept = co_await other.receive();
            CHECK(kept.value() == round);
            const auto bytes = co_await wire.socket.recv(buffer);
            CHECK(bytes.value() == 3);
            const auto came = co_await with_timeout(10s, door.accept());
            CHECK(came.value().peer == guest.value().local_address());
            CHECK(other.size() == 0);
        }
        // Those who wait already are all woken in one turn.
        for (int round = 0; round < 20; ++round) {
            job<> feeds(on, [](connection& to, channel<int>& one, channel<int>& two) -> task<> {
                co_await next_turn();
                to.sends("abc");
                static_cast<void>(one.try_send(1));
                static_cast<void>(two.try_send(2));
            }(wire, box, other));
            auto first =
                co_await when_any(wire.socket.recv(buffer), box.receive(), other.receive(), door.accept());
            co_await feeds.join();
            if (first.index() != 0) {
                const auto bytes = co_await wire.socket.recv(buffer);
                CHECK(bytes.value() == 3);
            }
            CHECK(box.size() == (first.index() == 1 ? 0 : 1));
            CHECK(other.size() == (first.index() == 2 ? 0 : 1));
            static_cast<void>(box.try_receive());
            static_cast<void>(other.try_receive());
        }
    };

    run(on, work());
}

TEST_CASE("what is spawned keeps its callable and its arguments", "[operation]") {
    virtual_loop on;
    std::string seen;
    {
        std::string text(50, 'a');
        spawn(on, keeps, text, nanoseconds(1s), std::ref(seen));
        spawn(
            on,
            [&seen](const std::string& by_reference, std::unique_ptr<int> alone) -> task<result<void>> {
                const auto slept = co_await sleep_for(2s);
                seen += by_reference + std::to_string(*alone);
                co_return slept;
            },
            std::move(text), std::make_unique<int>(5));
    }
    counter sum;
    run(on, with_nursery([&](nursery& children) -> task<> {
            children.spawn(&counter::add, &sum, 1);
            children.spawn(&counter::add, std::ref(sum).get(), 100);  // a copy
            children.spawn(sleep_for(1s));
            children.spawn(
                [](int& number) -> task<> {
                    number += 2;
                    co_await next_turn();
                },
                std::ref(sum.total));
            co_return;
        }));
    CHECK(sum.total == 3);
    on.advance(2s);
    CHECK(seen == std::string(50, 'a') + std::string(50, 'a') + "5");
}

TEST_CASE("an error of what is spawned is a failure", "[operation]") {
    virtual_loop on;
    const auto& failures = support::keep_failures(on);
    channel<int> closed;
    closed.close();

    spawn(on, closed.send(1));
    spawn(on, with_timeout(1s, sleep_for(1h)));
    on.advance(1s);

    CHECK(failures == std::vector<std::string>{"closed", support::message(std::errc::timed_out)});
    CHECK_THROWS_AS(spawn(on, task<result<void>>()), std::logic_error);
}

TEST_CASE("shield and with_stop are around any operation", "[operation]") {
    virtual_loop on;
    std::stop_source stop;
    auto work = [&]() -> task<> {
        const auto slept = co_await shield(sleep_for(1s));
        CHECK(slept);
        const auto stopped = co_await with_stop(stop.get_token(), sleep_for(1h));
        CHECK(stopped.error() == std::errc::operation_canceled);
    };
    auto works = on.start(work());
    on.settle();
    stop.request_stop();

    on.join(works);

    CHECK(on.elapsed() == 1s);
}

// A task that names its scope could not be cancelled by who awaits it for somebody.
static_assert(operation<task<int>>);
static_assert(awaitable<decltype(std::declval<task<int>>().within(std::declval<scope&>()))>);
static_assert(!operation<decltype(std::declval<task<int>>().within(std::declval<scope&>()))>);
