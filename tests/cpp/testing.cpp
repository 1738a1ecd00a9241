#include <zloop/testing.hpp>

#include <string>
#include <vector>

#include <zloop/sleep.hpp>
#include <zloop/socket.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::script;
using zloop::testing::virtual_loop;

TEST_CASE("virtual time stands still while anything can run", "[testing]") {
    virtual_loop on;
    auto busy = [&]() -> task<> {
        for (int turn = 0; turn < 100; ++turn) {
            co_await next_turn();
        }
    };
    run(on, busy());

    CHECK(on.elapsed() == 0s);
}

TEST_CASE("virtual time jumps to the next deadline when nothing can run", "[testing]") {
    virtual_loop on;
    auto sleeps = []() -> task<result<void>> { co_return co_await sleep_for(24h * 365); };

    CHECK(run(on, sleeps()));
    CHECK(on.elapsed() == 24h * 365);
}

TEST_CASE("a test that would wait for ever fails", "[testing]") {
    virtual_loop on;

    CHECK_THROWS_AS(on.run_once(), std::system_error);
}

TEST_CASE("advance lets exactly so much time pass, with all that happens in it", "[testing]") {
    virtual_loop on;
    std::vector<std::string> seen;
    on.kernel().after(1s, [&] {
        seen.push_back("1s");
        on.kernel().after(1s, [&] { seen.push_back("2s"); });
    });
    on.kernel().after(2s, [&] { seen.push_back("2s too"); });
    on.kernel().after(3s, [&] { seen.push_back("3s"); });

    on.advance(2s);
    CHECK(seen == std::vector<std::string>{"1s", "2s too", "2s"});
    CHECK(on.elapsed() == 2s);

    on.advance(500ms);
    CHECK(on.elapsed() == 2500ms);
    CHECK(seen.size() == 3);
    on.advance(500ms);
    CHECK(seen.size() == 4);
}

TEST_CASE("plans happen although the loop is busy", "[testing]") {
    virtual_loop on;
    bool planned = false;
    on.kernel().after(0s, [&] { planned = true; });
    auto busy = [&]() -> task<> {
        while (!planned) {
            co_await next_turn();
        }
    };

    run(on, busy());
    CHECK(on.elapsed() == 0s);
}

namespace {

struct scripted {
    virtual_loop on;
    int number = on.kernel().open();
    script& peer = on.kernel().at(number);
    stream socket = stream::adopt(on, fd(number)).value();

    task<std::string> read(std::size_t most = 100) {
        std::string text(most, '\0');
        auto [error, count] = co_await socket.recv(std::as_writable_bytes(std::span(text)));
        co_return error ? error.message() : text.substr(0, count);
    }
    task<result<std::size_t>> write(std::string_view text) {
        co_return co_await socket.send(std::as_bytes(std::span(text)));
    }
};

}  // namespace

TEST_CASE("a scripted read meets bytes, errors and the end in order", "[testing]") {
    scripted with;
    with.peer.receives("hello").fails_read(EIO).receives("more").ends();

    CHECK(run(with.on, with.read(2)) == "he");
    CHECK(run(with.on, with.read()) == "llo");
    CHECK(run(with.on, with.read()) == system_error_code(EIO).message());
    CHECK(run(with.on, with.read()) == "more");
    CHECK(run(with.on, with.read()).empty());
    CHECK(run(with.on, with.read()).empty());
}

TEST_CASE("a scripted read without a step waits for one", "[testing]") {
    scripted with;
    with.on.kernel().after(3s, [&] { with.peer.receives("late"); });

    CHECK(run(with.on, with.read()) == "late");
    CHECK(with.on.elapsed() == 3s);
}

TEST_CASE("a stalled read goes on by itself", "[testing]") {
    scripted with;
    with.peer.stalls_read().receives("then");
    auto reading = with.on.start(with.read());

    with.on.run_once(0ns);
    CHECK(!reading.done());
    CHECK(with.on.join(reading) == "then");
    CHECK(with.on.elapsed() == 0s);
}

TEST_CASE("a borrowed receive gives the script's bytes", "[testing]") {
    scripted with;
    with.peer.receives("borrowed");
    auto work = [&]() -> task<std::string> { co_return text_of((co_await with.socket.receive()).value()); };

    CHECK(run(with.on, work()) == "borrowed");
}

TEST_CASE("a scripted write takes everything, or what its steps say", "[testing]") {
    scripted with;
    CHECK(run(with.on, with.write("all")).value() == 3);

    with.peer.takes(2).fails_write(EPIPE);
    CHECK(run(with.on, with.write("part")).value() == 2);
    CHECK(run(with.on, with.write("none")).error() == std::errc::broken_pipe);
    CHECK(with.peer.written == "allpa");
}

TEST_CASE("a blocked scripted write waits for a write step, not for a read step", "[testing]") {
    scripted with;
    with.peer.takes(0);
    auto writing = with.on.start(with.write("text"));
    with.on.settle();

    with.peer.receives("unrelated");
    with.on.settle();
    CHECK(!writing.done());

    with.peer.takes(3);
    CHECK(with.on.join(writing).value() == 3);
}

TEST_CASE("a scripted listener hands out scripted connections", "[testing]") {
    virtual_loop on;
    const int door = on.kernel().open();
    const int guest = on.kernel().open();
    on.kernel().at(guest).receives("hi");
    on.kernel().after(1s, [&] { on.kernel().at(door).accepts(guest); });
    auto work = [&]() -> task<std::string> {
        auto listening = listener::adopt(on, fd(door)).value();
        auto arrived = (co_await listening.accept()).value();
        co_return text_of((co_await arrived.socket.receive()).value());
    };

    CHECK(run(on, work()) == "hi");
    CHECK(on.kernel().at(guest).closed);
    CHECK(on.kernel().at(door).closed);
}

TEST_CASE("closing a scripted stream ends what waits on it", "[testing]") {
    scripted with;
    auto reading = with.on.start(with.read());
    with.on.settle();

    with.socket.close();

    CHECK(with.on.join(reading) == system_error_code(ECANCELED).message());
    CHECK(with.peer.closed);
    CHECK(run(with.on, with.read()) == system_error_code(EBADF).message());
}

TEST_CASE("scripted operations overlap in different directions only", "[testing]") {
    scripted with;
    auto reading = with.on.start(with.read());
    with.on.settle();

    CHECK(run(with.on, with.read()) == system_error_code(EBUSY).message());
    CHECK(run(with.on, with.write("text")).value() == 4);

    with.peer.receives("first");
    CHECK(with.on.join(reading) == "first");
}

TEST_CASE("a cancel after a scripted read has completed keeps its bytes", "[testing]") {
    scripted with;
    auto reading = with.on.start(with.read());
    with.on.settle();

    with.peer.receives("bytes");
    reading.cancel();

    CHECK(with.on.join(reading) == "bytes");
}

TEST_CASE("a watched descriptor is ready when the test says so", "[testing]") {
    virtual_loop on;
    int calls = 0;
    lookout readable(5, direction::read, [&] { ++calls; });
    lookout second(5, direction::read, [] {});
    CHECK(!on.kernel().watch(readable));
    CHECK(on.kernel().watch(second) == std::errc::device_or_resource_busy);

    on.kernel().make_ready(5, direction::read);
    on.kernel().make_ready(5, direction::read);
    on.kernel().make_ready(5, direction::write);
    on.settle();
    CHECK(calls == 1);

    on.kernel().unwatch(readable);
    on.kernel().make_ready(5, direction::read);
    on.settle();
    CHECK(calls == 1);
}

TEST_CASE("a post wakes a scripted loop", "[testing]") {
    virtual_loop on;
    bool ran = false;
    callback posted([&] { ran = true; });
    on.post(posted);

    on.run_once();

    CHECK(ran);
    CHECK(on.elapsed() == 0s);
}
