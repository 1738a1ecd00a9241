#include <zloop/testing.hpp>

#include <string>
#include <vector>

#include <zloop/sleep.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
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

TEST_CASE("a post wakes a scripted loop", "[testing]") {
    virtual_loop on;
    bool ran = false;
    callback posted([&] { ran = true; });
    on.post(posted);

    on.run_once();

    CHECK(ran);
    CHECK(on.elapsed() == 0s);
}
