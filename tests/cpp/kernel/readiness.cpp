#include <zloop/kernel/readiness.hpp>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include <netinet/tcp.h>

#include <zloop/datagram.hpp>
#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("a short TCP read means drained: the next read waits without asking the kernel", "[readiness]") {
    loop on(platform_backend());
    connection with(on, kind::tcp);
    std::vector<std::string> seen;
    auto work = [&]() -> task<> {
        for (int round = 0; round < 3; ++round) {
            seen.push_back(co_await receive_text(with.socket));
        }
    };
    const auto before = probes::recv.count.load();
    job<> running(on, work());
    for (const char* text : {"one", "two", "three"}) {
        with.sends(text);
        CHECK(turn_until(on, [&] { return !seen.empty() && seen.back() == text; }));
        on.run_once(0ns);
        on.run_once(0ns);
    }
    finish(on, running);

    CHECK(probes::recv.count - before == 3);
}

TEST_CASE("a batch with room left means drained: the next one waits without asking the kernel",
          "[readiness]") {
    const auto family = GENERATE(AF_INET, AF_UNIX);
    loop on(platform_backend());
    auto both = datagram_socket::pair(on).value();
    if (family == AF_INET) {
        both.first = datagram_socket::bind(on, address::loopback()).value();
        both.second = datagram_socket::bind(on, address::loopback()).value();
        both.first.connect(both.second.local_address()).value();
    }
    std::size_t seen = 0;
    auto work = [&]() -> task<> {
        std::array<std::string, 4> rooms;
        std::array<datagram, 4> items;
        while (seen < 3) {
            for (std::size_t index = 0; index < items.size(); ++index) {
                rooms[index].resize(8);
                items[index].bytes = std::as_writable_bytes(std::span(rooms[index]));
            }
            seen += (co_await both.second.receive_batch(items)).value();
        }
    };
    const auto before = probes::recvmmsg.count.load();
    job<> running(on, work());
    for (std::size_t round = 1; round <= 3; ++round) {
        CHECK(both.first.try_send(bytes_of("message")).value() == 7);
        CHECK(turn_until(on, [&] { return seen == round; }));
        on.run_once(0ns);
        on.run_once(0ns);
    }
    finish(on, running);

    CHECK(probes::recvmmsg.count - before == 3);
}

TEST_CASE("a connection at rest costs no epoll_ctl", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(platform_backend());
    connection with(on, family);
    const auto before = probes::epoll_ctl.count.load();
    for (int round = 0; round < 10; ++round) {
        with.sends("ping");
        CHECK(run(on, receive_text(with.socket)) == "ping");
        CHECK(run(on, send_some(with.socket, "pong")).value() == 4);
        CHECK(with.peer_reads() == "pong");
    }
    with.socket.close();

    CHECK(probes::epoll_ctl.count == before);
}

TEST_CASE("a spurious readiness parks again and loses nothing", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(platform_backend());
    connection with(on, family);
    job<std::string> reading(on, receive_text(with.socket));
    with.sends("a");
    const probes::failing recv_fails(probes::recv, EAGAIN);
    const auto asked = probes::recv.count.load();
    CHECK(turn_until(on, [&] { return probes::recv.count > asked; }));
    CHECK(!reading.done());

    with.sends("b");
    CHECK(finish(on, reading) == "ab");
}

TEST_CASE("system calls that a signal interrupts are repeated", "[readiness]") {
    loop on(platform_backend());
    connection with(on, kind::tcp);
    with.sends("text");
    const probes::failing recv_fails(probes::recv, EINTR, 3);
    job<std::string> reading(on, receive_text(with.socket));
    CHECK(finish(on, reading) == "text");

    const probes::failing send_fails(probes::send, EINTR, 3);
    CHECK(run(on, send_some(with.socket, "reply")).value() == 5);
    const probes::failing sendmsg_fails(probes::sendmsg, EINTR, 3);
    const iovec parts[] = {{const_cast<char*>("a"), 1}, {const_cast<char*>("b"), 1}};
    CHECK(with.socket.try_send(parts).value() == 2);
    std::string got;
    while (got.size() < 7) {
        got += with.peer_reads();
    }
    CHECK(got == "replyab");
}

TEST_CASE("a busy peer starves nobody: one read a turn", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on(platform_backend());
    connection busy(on, family), other(on, family);
    std::vector<std::string> seen;
    busy.sends("aabbcc");
    other.sends("112233");
    auto reads = [&](stream& from) -> task<> {
        for (int round = 0; round < 3; ++round) {
            seen.push_back(co_await recv_text(from, 2));
        }
    };
    job<> first(on, reads(busy.socket)), second(on, reads(other.socket));
    finish(on, first);
    finish(on, second);

    CHECK(seen == std::vector<std::string>{"aa", "11", "bb", "22", "cc", "33"});
}

TEST_CASE("what a descriptor's former life still sends reaches nobody", "[readiness]") {
    loop on(platform_backend());
    connection former(on, kind::unix_socket);
    const int number = former.socket.native_handle();
    const fd duplicate(::dup(number));
    former.socket.close();
    connection fresh(on, kind::unix_socket);  // the kernel hands out the lowest free number
    REQUIRE(fresh.socket.native_handle() == number);
    job<std::string> reading(on, receive_text(fresh.socket));
    on.run_once(0ns);

    const auto before = probes::recv.count.load();
    former.sends("stale");
    is_readable(duplicate.get(), 1000);
    on.begin_run();
    on.run_once(10ms);
    on.run_once(0ns);
    CHECK(probes::recv.count == before);
    CHECK(!reading.done());

    fresh.sends("fresh");
    CHECK(finish(on, reading) == "fresh");
}

namespace {

// A recv whose buffer is chosen when the kernel has bytes.
struct provided_op : io_op {
    provided_op(backend& kernel, int number) : io_op(kernel, opcode::recv, number) {
        provide = [](io_op& self) noexcept { static_cast<provided_op&>(self).choose(); };
    }
    std::function<void()> choose;
};

class provided_awaiter : provided_op {
public:
    provided_awaiter(stream& from, loop& on, std::function<void(io_op&)> what)
        : provided_op(on.kernel(), from.native_handle()) {
        choose = [this, what = std::move(what)] { what(*this); };
    }
    bool await_ready() const noexcept { return false; }
    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller) {
        waiter = caller;
        if (owner->start(*this)) {
            return false;
        }
        within_ = caller.promise().surroundings().within;
        within_->enter(*this);
        return true;
    }
    result<std::size_t> await_resume() noexcept {
        if (within_ != nullptr) {
            within_->leave();
        }
        return error != 0 ? result<std::size_t>(system_error_code(error)) : result<std::size_t>(size);
    }

private:
    scope* within_ = nullptr;
};

}  // namespace

TEST_CASE("a provided buffer is chosen when there are bytes", "[readiness]") {
    loop on(platform_backend());
    connection with(on, kind::tcp);
    char buffer[16];
    int asked = 0;
    std::vector<connection> others;
    std::function<void(io_op&)> choose = [&](io_op& operation) {
        ++asked;
        operation.data = reinterpret_cast<std::byte*>(buffer);
        operation.size = sizeof buffer;
    };
    auto work = [&]() -> task<result<std::size_t>> {
        co_return co_await provided_awaiter(with.socket, on, choose);
    };

    SECTION("and not before") {
        job<result<std::size_t>> reading(on, work());
        on.run_once(0ns);
        on.run_once(0ns);
        CHECK(asked == 0);
        with.sends("bytes");
        CHECK(finish(on, reading).value() == 5);
        CHECK(asked == 1);
        CHECK(std::string_view(buffer, 5) == "bytes");
    }
    SECTION("by who takes new descriptors into service, and there is nothing to read after all") {
        choose = [&, choose](io_op& operation) {
            choose(operation);
            while (others.size() < 100) {
                others.emplace_back(on, kind::unix_socket);  // the table of slots grows and moves
            }
        };
        const probes::failing recv_fails(probes::recv, EAGAIN);
        with.sends("by");
        job<result<std::size_t>> reading(on, work());
        CHECK(turn_until(on, [&] { return asked == 1; }));
        with.sends("tes");
        CHECK(finish(on, reading).value() == 5);
    }
    SECTION("by who closes the stream") {
        choose = [&](io_op&) { with.socket.close(); };
        with.sends("bytes");
        job<result<std::size_t>> reading(on, work());
        CHECK(finish(on, reading).error() == std::errc::operation_canceled);
    }
    SECTION("by who cancels the read") {
        job<result<std::size_t>>* reader = nullptr;
        const bool parked = GENERATE(true, false);
        choose = [&, choose](io_op& operation) {
            choose(operation);
            reader->cancel();
        };
        if (!parked) {
            with.sends("ready");
            on.run_once(0ns);
        }
        job<result<std::size_t>> reading(on, work());
        reader = &reading;
        if (parked) {
            on.run_once(0ns);
            with.sends("bytes");
        }
        CHECK(finish(on, reading).error() == std::errc::operation_canceled);
    }
    SECTION("by who has none") {
        choose = [&](io_op& operation) { operation.error = ENOBUFS; };
        with.sends("bytes");
        job<result<std::size_t>> reading(on, work());
        CHECK(finish(on, reading).error() == std::errc::no_buffer_space);
    }
}
