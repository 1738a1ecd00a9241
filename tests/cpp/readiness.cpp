#include <zloop/readiness.hpp>

#include <string>
#include <thread>
#include <vector>

#include <netinet/tcp.h>

#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/stream.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

/// Turns until `condition`, in at most a second.
template <class F>
bool turn_until(loop& on, F&& condition) {
    const time_point end = on.now() + 1s;
    while (!condition()) {
        if (on.now() > end) {
            return false;
        }
        on.run_once(10ms);
    }
    return true;
}

template <class T>
T join(loop& on, job<T>& running) {
    if (!turn_until(on, [&] { return running.done(); })) {
        FAIL_CHECK("the job waits for ever");
        running.cancel();
        while (!running.done()) {
            on.run_once();
        }
    }
    return running.take();
}

/// One receive: the bytes, or the error's message.
task<std::string> receive_text(stream& from) {
    const auto received = co_await from.receive();
    co_return received ? text_of(*received) : received.error().message();
}

/// One read into a buffer of `most` bytes.
task<std::string> recv_text(stream& from, std::size_t most) {
    std::string text(most, '\0');
    const auto [error, count] = co_await from.recv(std::as_writable_bytes(std::span(text)));
    co_return error ? error.message() : text.substr(0, count);
}

task<result<std::size_t>> send_some(stream& to, std::string_view text) {
    co_return co_await to.send(bytes_of(text));
}

std::string message(std::errc code) { return system_error_code(static_cast<int>(code)).message(); }

/// Fills the send buffers of `socket`, so that the next send parks.
void fill(stream& socket) {
    const std::string block(64 * 1024, 'f');
    const iovec part{const_cast<char*>(block.data()), block.size()};
    result<std::size_t> sent(0);
    for (int round = 0; round < 2'000 && sent; ++round) {
        sent = socket.try_send({&part, 1});
    }
    CHECK(sent.error() == std::errc::resource_unavailable_try_again);
}

std::size_t drain(connection& with) {
    std::string block(1 << 20, '\0');
    std::size_t total = 0;
    ssize_t count;
    while ((count = ::recv(with.peer.get(), block.data(), block.size(), MSG_DONTWAIT)) > 0) {
        total += static_cast<std::size_t>(count);
    }
    return total;
}

}  // namespace

TEST_CASE("a short TCP read means drained: the next read waits without asking the kernel", "[readiness]") {
    loop on;
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
    join(on, running);

    CHECK(probes::recv.count - before == 3);
}

TEST_CASE("a connection at rest costs no epoll_ctl", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
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

TEST_CASE("bytes behind a message with descriptors arrive although its read was short", "[readiness]") {
    loop on;
    connection with(on, kind::unix_socket);
    char byte = 'a';
    iovec part{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int sent = with.peer.get();
    std::memcpy(CMSG_DATA(header), &sent, sizeof sent);
    REQUIRE(::sendmsg(with.peer.get(), &message, 0) == 1);
    with.sends("b");

    job<std::string> first(on, receive_text(with.socket));
    CHECK(join(on, first) == "a");
    job<std::string> second(on, receive_text(with.socket));
    CHECK(join(on, second) == "b");
}

TEST_CASE("bytes behind urgent data arrive although the read before it was short", "[readiness]") {
    loop on;
    connection with(on, kind::tcp);
    with.sends("a");
    with.sends("!", MSG_OOB);
    with.sends("b");

    job<std::string> first(on, receive_text(with.socket));
    CHECK(join(on, first) == "a");
    job<std::string> second(on, receive_text(with.socket));
    CHECK(join(on, second) == "b");
}

TEST_CASE("the end of the stream arrives behind the last bytes", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    const bool at_once = GENERATE(true, false);
    loop on;
    connection with(on, family);
    std::vector<std::string> seen;
    auto work = [&]() -> task<> {
        do {
            seen.push_back(co_await receive_text(with.socket));
        } while (!seen.back().empty());
        seen.push_back(co_await receive_text(with.socket));  // the end stays the end
    };
    job<> running(on, work());
    with.sends("last");
    if (!at_once) {
        CHECK(turn_until(on, [&] { return !seen.empty(); }));
    }
    SECTION("the peer shuts down writing") { CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0); }
    SECTION("the peer closes") { with.peer.reset(); }
    join(on, running);

    CHECK(seen == std::vector<std::string>{"last", "", ""});
}

TEST_CASE("a half-closed peer can still be written to", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    CHECK(::shutdown(with.peer.get(), SHUT_WR) == 0);
    job<std::string> reading(on, receive_text(with.socket));
    CHECK(join(on, reading).empty());

    CHECK(run(on, send_some(with.socket, "still here")).value() == 10);
    CHECK(with.peer_reads() == "still here");
}

TEST_CASE("a reset ends a parked read with its error", "[readiness]") {
    loop on;
    connection with(on, kind::tcp);
    job<std::string> reading(on, receive_text(with.socket));
    on.run_once(0ns);
    const linger reset{1, 0};
    CHECK(::setsockopt(with.peer.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
    with.peer.reset();

    CHECK(join(on, reading) == message(std::errc::connection_reset));
}

TEST_CASE("a spurious readiness parks again and loses nothing", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    job<std::string> reading(on, receive_text(with.socket));
    with.sends("a");
    const probes::failing recv_fails(probes::recv, EAGAIN);
    const auto asked = probes::recv.count.load();
    CHECK(turn_until(on, [&] { return probes::recv.count > asked; }));
    CHECK(!reading.done());

    with.sends("b");
    CHECK(join(on, reading) == "ab");
}

TEST_CASE("system calls that a signal interrupts are repeated", "[readiness]") {
    loop on;
    connection with(on, kind::tcp);
    with.sends("text");
    const probes::failing recv_fails(probes::recv, EINTR, 3);
    job<std::string> reading(on, receive_text(with.socket));
    CHECK(join(on, reading) == "text");

    const probes::failing send_fails(probes::send, EINTR, 3);
    CHECK(run(on, send_some(with.socket, "reply")).value() == 5);
    const probes::failing sendmsg_fails(probes::sendmsg, EINTR, 3);
    const iovec parts[] = {{const_cast<char*>("a"), 1}, {const_cast<char*>("b"), 1}};
    CHECK(with.socket.try_send(parts).value() == 2);
    CHECK(with.peer_reads() == "replyab");
}

TEST_CASE("a busy peer starves nobody: one read a turn", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
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
    join(on, first);
    join(on, second);

    CHECK(seen == std::vector<std::string>{"aa", "11", "bb", "22", "cc", "33"});
}

TEST_CASE("a send that does not fit waits until the peer has read", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    fill(with.socket);
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);
    on.run_once(0ns);
    CHECK(!sending.done());

    CHECK(turn_until(on, [&] {
        drain(with);
        return sending.done();
    }));
    CHECK(sending.take().value() == 4);
}

TEST_CASE("everything that write_all sends arrives through partial sends", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    std::string sent(4 << 20, '\0');
    for (std::size_t index = 0; index < sent.size(); ++index) {
        sent[index] = static_cast<char>(index * 31 / 7);
    }
    std::string received;
    std::thread peer([&] {
        for (std::string part = with.peer_reads(100'000); !part.empty(); part = with.peer_reads(100'000)) {
            received += part;
        }
    });
    CHECK(run(on, write_all(with.socket, bytes_of(sent))));
    CHECK(with.socket.shutdown(SHUT_WR));
    peer.join();

    CHECK((received == sent));
}

TEST_CASE("a send to a peer that is gone fails and raises no signal", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    fill(with.socket);
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);
    with.peer.reset();

    const auto error = join(on, sending).error();
    CHECK((error == std::errc::broken_pipe || error == std::errc::connection_reset));
    CHECK(run(on, send_some(with.socket, "later")).error() == std::errc::broken_pipe);
}

TEST_CASE("try_send fails instead of waiting", "[readiness]") {
    loop on;
    connection with(on, kind::unix_socket);
    std::vector<iovec> parts(IOV_MAX + 10, iovec{const_cast<char*>("x"), 1});
    CHECK(with.socket.try_send(parts).value() == IOV_MAX);

    fill(with.socket);
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);
    drain(with);
    CHECK(with.socket.try_send(parts).error() == std::errc::resource_unavailable_try_again);  // not past it
    CHECK(join(on, sending).value() == 4);
    CHECK(with.peer_reads() == "late");
}

TEST_CASE("a cancelled read ends at once and the stream stays usable", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    job<std::string> reading(on, receive_text(with.socket));
    on.run_once(0ns);

    reading.cancel();
    CHECK(join(on, reading) == message(std::errc::operation_canceled));

    with.sends("later");
    job<std::string> again(on, receive_text(with.socket));
    CHECK(join(on, again) == "later");
}

TEST_CASE("a read that is cancelled when its bytes are there leaves them to the next", "[readiness]") {
    loop on;
    connection with(on, kind::tcp);
    std::string first_outcome;
    auto reads = [&]() -> task<> { first_outcome = co_await receive_text(with.socket); };
    job<> reading(on, reads());
    on.run_once(0ns);
    with.sends("kept");
    callback cancels([&] { reading.cancel(); });
    on.push(cancels);  // runs after the poll that queues the read, and before the read
    on.begin_run();
    on.run_once(0ns);
    join(on, reading);
    CHECK(first_outcome == message(std::errc::operation_canceled));

    job<std::string> again(on, receive_text(with.socket));
    CHECK(join(on, again) == "kept");
}

TEST_CASE("a read in a cancelled scope does not begin", "[readiness]") {
    loop on;
    connection with(on, kind::tcp);
    with.sends("kept");
    on.run_once(0ns);
    job<std::string> reading(on, receive_text(with.socket));
    reading.cancel();
    const auto before = probes::recv.count.load();

    CHECK(join(on, reading) == message(std::errc::operation_canceled));
    CHECK(probes::recv.count == before);
}

TEST_CASE("closing a stream ends what waits on it, in both directions", "[readiness]") {
    const kind family = GENERATE(kind::tcp, kind::unix_socket);
    loop on;
    connection with(on, family);
    fill(with.socket);
    job<std::string> reading(on, receive_text(with.socket));
    job<result<std::size_t>> sending(on, send_some(with.socket, "late"));
    on.run_once(0ns);

    with.socket.close();
    CHECK(!reading.done());  // never inline

    CHECK(join(on, reading) == message(std::errc::operation_canceled));
    CHECK(join(on, sending).error() == std::errc::operation_canceled);
}

TEST_CASE("a stream that was closed by another task fails with bad_file_descriptor", "[readiness]") {
    loop on;
    connection with(on, kind::unix_socket);
    with.socket.close();
    with.socket.close();

    CHECK(run(on, receive_text(with.socket)) == message(std::errc::bad_file_descriptor));
    CHECK(run(on, send_some(with.socket, "x")).error() == std::errc::bad_file_descriptor);
    const iovec part{const_cast<char*>("x"), 1};
    CHECK(with.socket.try_send({&part, 1}).error() == std::errc::bad_file_descriptor);
}

TEST_CASE("a second operation in one direction is refused, the first goes on", "[readiness]") {
    loop on;
    connection with(on, kind::unix_socket);
    job<std::string> first(on, receive_text(with.socket));
    on.run_once(0ns);

    CHECK(run(on, receive_text(with.socket)) == message(std::errc::device_or_resource_busy));
    CHECK(run(on, send_some(with.socket, "beside")).value() == 6);

    with.sends("text");
    CHECK(join(on, first) == "text");
}

TEST_CASE("what a descriptor's former life still sends reaches nobody", "[readiness]") {
    loop on;
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
    CHECK(join(on, reading) == "fresh");
}

TEST_CASE("a released stream is the caller's, and out of service", "[readiness]") {
    loop on;
    connection with(on, kind::unix_socket);
    job<std::string> reading(on, receive_text(with.socket));
    on.run_once(0ns);

    const fd taken(with.socket.release());

    CHECK(!with.socket);
    CHECK(join(on, reading) == message(std::errc::operation_canceled));
    with.sends("x");
    CHECK(!is_readable(on.kernel().native_handle()));
    stream again = stream::adopt(on, fd(::dup(taken.get()))).value();
    job<std::string> more(on, receive_text(again));
    CHECK(join(on, more) == "x");
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
    loop on;
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
        CHECK(join(on, reading).value() == 5);
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
        CHECK(join(on, reading).value() == 5);
    }
    SECTION("by who closes the stream") {
        choose = [&](io_op&) { with.socket.close(); };
        with.sends("bytes");
        job<result<std::size_t>> reading(on, work());
        CHECK(join(on, reading).error() == std::errc::operation_canceled);
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
        CHECK(join(on, reading).error() == std::errc::operation_canceled);
    }
    SECTION("by who has none") {
        choose = [&](io_op& operation) { operation.error = ENOBUFS; };
        with.sends("bytes");
        job<result<std::size_t>> reading(on, work());
        CHECK(join(on, reading).error() == std::errc::no_buffer_space);
    }
}
