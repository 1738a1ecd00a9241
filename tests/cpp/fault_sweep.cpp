// Every system call of a program that uses nearly everything fails once, with each error that it may have.
// In a process of its own, zloop-tests [sweep]: a kernel that once knew no epoll_pwait2 is not asked again.
#include <csignal>
#include <string>
#include <thread>

#include <sys/wait.h>

#include <zloop/testing/faults.hpp>
#include <zloop/zloop.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// What both sides of a connection know of the bytes from the client to the server.
struct ledger {
    std::size_t acknowledged = 0;
    std::size_t received = 0;
    std::size_t answered = 0;
    bool in_order = true;
    bool ended = false;  ///< the server has met the end of the stream
};

constexpr std::size_t amount = 300'000;

std::byte byte_at(std::size_t position) { return static_cast<std::byte>(position * 31 + (position >> 9)); }

/// Failures that a program goes on after.
bool is_passing(const std::error_code& error) {
    return error == std::errc::not_enough_memory || error == std::errc::no_buffer_space ||
           error == std::errc::too_many_files_open || error == std::errc::too_many_files_open_in_system;
}

task<> serve(listener& door, ledger& book) {
    auto arrived = co_await door.accept();
    for (int tries = 0; !arrived && is_passing(arrived.error()) && tries < 3; ++tries) {
        arrived = co_await door.accept();
    }
    stream socket = std::move(arrived.value().socket);
    for (;;) {
        const auto bytes = co_await socket.receive();
        if (!bytes) {
            if (is_passing(bytes.error())) {
                continue;
            }
            co_return;
        }
        for (const std::byte each : *bytes) {
            book.in_order = book.in_order && each == byte_at(book.received++);
        }
        if (bytes->empty()) {
            break;
        }
    }
    book.ended = true;
    (co_await write_all(socket, bytes_of("received"))).value();
}

task<> visit(address where, ledger& book) {
    auto socket = (co_await connect(where)).value();
    socket.set_option(IPPROTO_TCP, TCP_NODELAY, 1).value();
    std::vector<std::byte> bytes(amount);
    for (std::size_t index = 0; index < amount; ++index) {
        bytes[index] = byte_at(index);
    }
    while (book.acknowledged < amount) {
        const std::span<const std::byte> rest = std::span(bytes).subspan(book.acknowledged);
        const iovec parts[2] = {
            {const_cast<std::byte*>(rest.data()), rest.size() / 2},
            {const_cast<std::byte*>(rest.data()) + rest.size() / 2, rest.size() - rest.size() / 2}};
        const auto sent = co_await socket.send(std::span<const iovec>(parts));
        if (!sent && is_passing(sent.error())) {
            continue;
        }
        book.acknowledged += sent.value();
    }
    socket.shutdown(SHUT_WR).value();
    std::byte answer[8];
    (co_await read_exactly(socket, answer)).value();
    book.answered = sizeof answer;
}

task<> work(offload_pool& pool) {
    const auto seven = co_await offload(pool, [] {
        std::this_thread::sleep_for(2ms);  // until the loop sleeps, and has to be woken
        return 7;
    });
    if (seven.value() != 7) {
        throw std::logic_error("not seven");
    }
}

task<> look_up(offload_pool& pool) {
    resolve_options options;
    options.pool = &pool;
    const auto found = co_await resolve("localhost", "80", options);
    if (found.value().empty()) {
        throw std::logic_error("no addresses");
    }
}

task<> be_signalled() {
    const context here = co_await current_context();
    signal_set interesting(*here.on, {SIGUSR2});
    if (::kill(::getpid(), SIGUSR2) != 0) {
        co_return;
    }
    const auto number = co_await interesting.wait();
    static_cast<void>(number.value());
}

task<> wait_for_a_pipe() {
    detail::pipe_ends both = detail::make_pipe();
    if (!both) {
        co_return;
    }
    (co_await wait_writable(both.write_end.get())).value();
}

task<> exchange_datagrams() {
    const context here = co_await current_context();
    auto one = datagram_socket::bind(*here.on, address::loopback()).value();
    auto other = datagram_socket::bind(*here.on, address::loopback()).value();
    const address where = other.local_address();
    (co_await one.send_to(bytes_of("ping"), where)).value();
    std::byte room[16];
    static_cast<void>((co_await other.receive_from(room)).value());
}

task<> run_a_program() {
    const std::string text(100'000, 't');
    command what{.argv = {"cat"}, .cwd = "/", .new_group = true};
    run_options options;
    options.input = text;
    const auto outcome = co_await run_process(what, options);
    // Less where its input has broken, as one does that the program has closed.
    if (outcome.value().status.success() && !text.starts_with(outcome->out)) {
        throw std::logic_error("not what it was given");
    }
}

task<> end_a_program() {
    const context here = co_await current_context();
    const command what{
        .argv = {"sleep", "100"}, .in = redirect::null, .out = redirect::pipe, .err = redirect::output};
    auto child = process::spawn(*here.on, what).value();
    if (child.kill(SIGTERM)) {
        (co_await child.wait()).value();
    }
}

task<> tick() {
    interval every(100us);
    for (int count = 0; count < 3; ++count) {
        (co_await every.next()).value();
    }
}

/// Each of them may fail; none of them may keep the others from ending.
task<> tolerate(task<> one) {
    try {
        co_await std::move(one);
    } catch (const std::system_error&) {
    }
}

task<> everything(ledger& book, offload_pool& pool) {
    const context here = co_await current_context();
    listener door = listener::bind(*here.on, address::loopback()).value();
    const address where = door.local_address();
    nursery children(here);
    children.spawn(tolerate(be_signalled()));
    children.spawn(tolerate(wait_for_a_pipe()));
    children.spawn(tolerate(exchange_datagrams()));
    children.spawn(tolerate(tick()));
    children.spawn(tolerate(run_a_program()));
    children.spawn(tolerate(end_a_program()));
    children.spawn(tolerate(work(pool)));
    children.spawn(tolerate(look_up(pool)));
    // Whichever side of the connection fails, the other has nobody to wait for.
    std::vector<task<>> sides;
    sides.push_back(serve(door, book));
    sides.push_back(visit(where, book));
    children.spawn(tolerate(when_all(std::move(sides))));
    co_await children.join();
}

/// One run. Whether it came to its end: false when it had to be cancelled.
bool run_scenario(const backend_choice& choice, ledger& book) {
    try {
        loop on(choice.make());
        offload_pool pool(1);
        const auto outcome = run(on, with_timeout(2s, everything(book, pool)));
        return outcome.error() != std::errc::timed_out;
    } catch (const std::system_error&) {
        return true;  // no loop, no listener: said so
    }
}

}  // namespace

TEST_CASE("whichever system call fails: nothing hangs, leaks, or loses what was acknowledged", "[.][sweep]") {
    const backend_choice choice = GENERATE(from_range(backends()));
    ledger first;
    REQUIRE(run_scenario(choice, first));  // and what is made once for the process is made
    REQUIRE(first.answered == 8);
    const std::size_t descriptors = open_descriptors();

    zloop::testing::fault_sweep sweep;
    while (sweep.next()) {
        ledger book;
        const bool ended = run_scenario(choice, book);
        sweep.rest();

        INFO(choice.name << ", " << sweep.what());
        CHECK(ended);
        CHECK(book.in_order);
        CHECK(book.received <= book.acknowledged + amount);
        if (book.ended) {
            CHECK(book.received >= book.acknowledged);
        }
        if (book.answered != 0) {
            CHECK(book.acknowledged == amount);
            CHECK(book.received == amount);
        }
        CHECK(open_descriptors() == descriptors);
        CHECK((::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD));
    }
    CHECK(sweep.runs() > 100);
}
