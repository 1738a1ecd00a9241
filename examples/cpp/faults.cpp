// System calls that fail when a test says so: one of a kind, or each in turn with each of its errors. On
// Linux.

#include <cstdio>
#include <cstdlib>
#include <system_error>

#include <zloop/testing/faults.hpp>
#include <zloop/testing/interpose.hpp>  // in one source file of a program
#include <zloop/zloop.hpp>

namespace calls = zloop::testing::system_calls;

zloop::task<> greet() {
    const auto here = co_await zloop::current_context();
    auto door = zloop::listener::bind(*here.on, zloop::address::loopback()).value();
    auto client = (co_await zloop::connect(door.local_address())).value();
    auto server = (co_await door.accept()).value().socket;
    (co_await zloop::write_all(server, zloop::bytes_of("hi"))).value();
    std::byte greeting[2];
    (co_await zloop::read_exactly(client, greeting)).value();
}

/// Whether it went well. What else than an error of the system it throws ends the program.
bool greets() {
    try {
        zloop::run(greet());
        return true;
    } catch (const std::system_error&) {
        return false;
    }
}

int main() {
    bool good = greets();
#if defined(__linux__)
    {
        const zloop::testing::failing once(calls::accept4, EMFILE);
        good = good && !greets();
    }
    zloop::testing::fault_sweep sweep;
    while (sweep.next()) {
        greets();
    }
    std::printf("%zu runs, %zu accepts\n", sweep.runs(), calls::accept4.count.load());
    good = good && sweep.runs() > 20 && greets();
#endif
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
