#include <zloop/zloop.hpp>

#include <string>

#include "catch.hpp"

using namespace std::chrono_literals;

namespace {

zloop::task<std::string> exchange(zloop::listener& door) {
    auto client = (co_await zloop::connect(door.local_address())).value();
    auto server = (co_await door.accept()).value().socket;

    (co_await zloop::write_all(client, zloop::bytes_of("ping\n"))).value();
    std::string line;
    const auto size = (co_await zloop::read_until(server, line, "\n")).value();
    co_return line.substr(0, size);
}

}  // namespace

TEST_CASE("the umbrella has all that a program needs", "[zloop]") {
    zloop::loop on;
    auto door = zloop::listener::bind(on, zloop::address::loopback()).value();

    CHECK(zloop::run(on, exchange(door)) == "ping\n");
}

TEST_CASE("the costs that the design promises are kept", "[zloop]") {
    constexpr std::size_t pointer = sizeof(void*);  // eight bytes, or four
    CHECK(sizeof(zloop::op) == 2 * pointer);
    CHECK(sizeof(zloop::timer_node) == 3 * pointer);
    CHECK(sizeof(zloop::task<int>) == pointer);
    CHECK(sizeof(zloop::io_op) <= 136);
    CHECK(sizeof(zloop::stream) == pointer + 8);
}
