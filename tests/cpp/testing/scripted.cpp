#include <zloop/testing/scripted.hpp>

#include <string>

#include <zloop/connect.hpp>
#include <zloop/listener.hpp>
#include <zloop/sleep.hpp>
#include <zloop/socket.hpp>
#include <zloop/stream.hpp>
#include <zloop/testing.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::script;
using zloop::testing::virtual_loop;

namespace {

struct scripted : scripted_stream {
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

TEST_CASE("a scripted read meets bytes, errors and the end in order", "[scripted]") {
    scripted with;
    with.peer.receives("hello").fails_read(EIO).receives("more").ends();

    CHECK(run(with.on, with.read(2)) == "he");
    CHECK(run(with.on, with.read()) == "llo");
    CHECK(run(with.on, with.read()) == system_error_code(EIO).message());
    CHECK(run(with.on, with.read()) == "more");
    CHECK(run(with.on, with.read()).empty());
    CHECK(run(with.on, with.read()).empty());
}

TEST_CASE("a scripted read without a step waits for one", "[scripted]") {
    scripted with;
    with.on.kernel().after(3s, [&] { with.peer.receives("late"); });

    CHECK(run(with.on, with.read()) == "late");
    CHECK(with.on.elapsed() == 3s);
}

TEST_CASE("a stalled read goes on by itself", "[scripted]") {
    scripted with;
    with.peer.stalls_read().receives("then");
    auto reading = with.on.start(with.read());

    with.on.run_once(0ns);
    CHECK(!reading.done());
    CHECK(with.on.join(reading) == "then");
    CHECK(with.on.elapsed() == 0s);
}

TEST_CASE("a borrowed receive gives the script's bytes", "[scripted]") {
    scripted with;
    with.peer.receives("borrowed");
    auto work = [&]() -> task<std::string> { co_return text_of((co_await with.socket.receive()).value()); };

    CHECK(run(with.on, work()) == "borrowed");
}

TEST_CASE("a scripted write takes everything, or what its steps say", "[scripted]") {
    scripted with;
    CHECK(run(with.on, with.write("all")).value() == 3);

    with.peer.takes(2).fails_write(EPIPE);
    CHECK(run(with.on, with.write("part")).value() == 2);
    CHECK(run(with.on, with.write("none")).error() == std::errc::broken_pipe);
    CHECK(with.peer.written == "allpa");
}

TEST_CASE("a blocked scripted write waits for a write step, not for a read step", "[scripted]") {
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

TEST_CASE("a scripted listener hands out scripted connections", "[scripted]") {
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

TEST_CASE("closing a scripted stream ends what waits on it", "[scripted]") {
    scripted with;
    auto reading = with.on.start(with.read());
    with.on.settle();

    with.socket.close();

    CHECK(with.on.join(reading) == system_error_code(ECANCELED).message());
    CHECK(with.peer.closed);
    CHECK(run(with.on, with.read()) == system_error_code(EBADF).message());
}

TEST_CASE("scripted operations overlap in different directions only", "[scripted]") {
    scripted with;
    auto reading = with.on.start(with.read());
    with.on.settle();

    CHECK(run(with.on, with.read()) == system_error_code(EBUSY).message());
    CHECK(run(with.on, with.write("text")).value() == 4);

    with.peer.receives("first");
    CHECK(with.on.join(reading) == "first");
}

TEST_CASE("who is cancelled as scripted bytes have come leaves them to the next read", "[scripted]") {
    scripted with;
    with.on.kernel().lets_go_late(GENERATE(false, true));
    auto reading = with.on.start(with.read());
    with.on.settle();

    with.peer.receives("bytes");
    reading.cancel();

    CHECK(with.on.join(reading) == system_error_code(ECANCELED).message());
    CHECK(run(with.on, with.read()) == "bytes");
}

TEST_CASE("who is cancelled as there is room again has sent nothing", "[scripted]") {
    scripted with;
    with.peer.takes(0);
    auto writing = with.on.start(with.write("text"));
    with.on.settle();

    with.peer.takes(4);
    writing.cancel();

    CHECK(with.on.join(writing).error() == std::errc::operation_canceled);
    CHECK(with.peer.written.empty());
    CHECK(run(with.on, with.write("then")).value() == 4);
}

TEST_CASE("a watched descriptor is ready when the test says so", "[scripted]") {
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

TEST_CASE("EINTR is tried again and EAGAIN waits, as with every backend", "[scripted]") {
    scripted with;
    with.peer.fails_read(EINTR).fails_read(EAGAIN).receives("read");
    with.peer.fails_write(EINTR).fails_write(EAGAIN).takes(3);

    CHECK(run(with.on, with.read()) == "read");
    CHECK(run(with.on, with.write("write")).value() == 3);
    CHECK(with.on.elapsed() == 0s);
}

TEST_CASE("two borrowed receives that complete in one turn keep their bytes apart", "[scripted]") {
    virtual_loop on;
    const auto [one, other] = on.kernel().pair();
    const auto [third, fourth] = on.kernel().pair();
    stream first = stream::adopt(on, fd(one)).value();
    stream second = stream::adopt(on, fd(third)).value();
    auto borrow = [](stream& from) -> task<std::string> {
        co_return text_of((co_await from.receive()).value());
    };
    auto left = on.start(borrow(first));
    auto right = on.start(borrow(second));
    on.settle();

    on.kernel().at(one).receives("left");
    on.kernel().at(third).receives("right");

    CHECK(on.join(left) == "left");
    CHECK(on.join(right) == "right");
    static_cast<void>(other);
    static_cast<void>(fourth);
}

namespace {

/// Both ends of a made-up connection.
struct connected {
    virtual_loop on;
    std::pair<int, int> numbers = on.kernel().pair();
    stream one = stream::adopt(on, fd(numbers.first)).value();
    stream other = stream::adopt(on, fd(numbers.second)).value();
    script& near_end = on.kernel().at(numbers.first);
    script& far_end = on.kernel().at(numbers.second);

    std::string read(stream& from, std::size_t most = 100) {
        auto work = [](stream& source, std::size_t size) -> task<std::string> {
            std::string text(size, '\0');
            auto [error, count] = co_await source.recv(std::as_writable_bytes(std::span(text)));
            co_return error ? error.message() : text.substr(0, count);
        };
        return run(on, work(from, most));
    }
    result<std::size_t> write(stream& to, std::string_view text) {
        auto work = [](stream& target, std::string_view bytes) -> task<result<std::size_t>> {
            co_return co_await target.send(bytes_of(bytes));
        };
        return run(on, work(to, text));
    }
};

}  // namespace

TEST_CASE("what is written to one end of a pair is read from the other", "[scripted]") {
    connected with;

    CHECK(with.write(with.one, "there").value() == 5);
    CHECK(with.write(with.other, "back").value() == 4);

    CHECK(with.read(with.other) == "there");
    CHECK(with.read(with.one) == "back");
}

TEST_CASE("reads and writes of a pair are as short as the test says", "[scripted]") {
    connected with;
    with.near_end.takes(3);
    with.far_end.gives(2);

    CHECK(with.write(with.one, "hello").value() == 3);
    CHECK(with.read(with.other) == "he");
    CHECK(with.read(with.other) == "l");
}

TEST_CASE("a write to a pair waits while the other end holds enough", "[scripted]") {
    connected with;
    with.near_end.holds(4);
    auto all = [&]() -> task<result<void>> {
        co_return co_await write_all(with.one, bytes_of("0123456789"));
    };
    auto writing = with.on.start(all());
    with.on.settle();

    CHECK(!writing.done());
    CHECK(with.read(with.other) == "0123");
    CHECK(with.read(with.other) == "4567");
    CHECK(with.read(with.other) == "89");
    CHECK(with.on.join(writing));
}

TEST_CASE("a closed end of a pair ends the other behind what was written", "[scripted]") {
    connected with;
    CHECK(with.write(with.one, "last"));

    with.one.close();

    CHECK(with.read(with.other) == "last");
    CHECK(with.read(with.other).empty());
    CHECK(with.write(with.other, "?").error() == std::errc::broken_pipe);
}

TEST_CASE("an end of a pair that is closed with unread bytes resets the other", "[scripted]") {
    connected with;
    CHECK(with.write(with.one, "unread"));

    with.other.close();

    CHECK(with.read(with.one) == system_error_code(ECONNRESET).message());
    CHECK(with.read(with.one).empty());
}

TEST_CASE("half of a pair can be shut", "[scripted]") {
    connected with;
    CHECK(with.write(with.one, "last"));

    CHECK(with.one.shutdown(SHUT_WR));

    CHECK(with.write(with.one, "?").error() == std::errc::broken_pipe);
    CHECK(with.read(with.other) == "last");
    CHECK(with.read(with.other).empty());
    CHECK(with.write(with.other, "answer").value() == 6);
    CHECK(with.read(with.one) == "answer");
    CHECK(with.one.shutdown(SHUT_RD));
    CHECK(with.read(with.one).empty());
}

TEST_CASE("a reset of a pair ends both ends, and what waits there", "[scripted]") {
    connected with;
    auto reads = [&]() -> task<std::error_code> { co_return (co_await with.one.receive()).error(); };
    auto reading = with.on.start(reads());
    with.on.settle();
    CHECK(with.write(with.one, "lost"));

    with.far_end.resets();

    CHECK(with.on.join(reading) == std::errc::connection_reset);
    CHECK(with.read(with.other) == system_error_code(ECONNRESET).message());
    CHECK(with.write(with.one, "?").error() == std::errc::broken_pipe);
}

TEST_CASE("a program that connects to a listener of its own needs no kernel", "[scripted]") {
    virtual_loop on;
    auto serve = [](listener& door) -> task<std::string> {
        auto guest = (co_await door.accept()).value().socket;
        (co_await write_all(guest, bytes_of("welcome"))).value();
        CHECK(guest.shutdown(SHUT_WR));
        co_return text_of((co_await guest.receive()).value());
    };
    auto visit = [](address where) -> task<std::string> {
        auto socket = (co_await connect(where)).value();
        std::string text(7, '\0');
        (co_await read_exactly(socket, std::as_writable_bytes(std::span(text)))).value();
        (co_await write_all(socket, bytes_of("thanks"))).value();
        co_return text;
    };

    SECTION("a listener that the program makes") {
        auto door = listener::bind(on, address::loopback()).value();
        const address where = door.local_address();
        auto serving = on.start(serve(door));
        CHECK(run(on, visit(where)) == "welcome");
        CHECK(on.join(serving) == "thanks");
        door.close();
        CHECK_THROWS_AS(run(on, visit(where)), std::system_error);
    }
    SECTION("a listener that the test makes up") {
        const address where = address::ip("192.0.2.1", 80).value();
        auto door = listener::adopt(on, fd(on.kernel().listen(where))).value();
        auto serving = on.start(serve(door));
        CHECK(run(on, visit(where)) == "welcome");
        CHECK(on.join(serving) == "thanks");
    }
    CHECK(on.kernel().in_service() == 0);
    CHECK(on.elapsed() == 0s);
}

TEST_CASE("who connects where nobody listens is refused", "[scripted]") {
    virtual_loop on;
    auto work = []() -> task<std::error_code> { co_return (co_await connect(address::loopback(1))).error(); };

    CHECK(run(on, work()) == std::errc::connection_refused);
}

namespace {

/// Starts an operation outside of any task, and expects it to complete at once.
template <class Op>
void at_once(virtual_loop& on, Op& operation) {
    REQUIRE(on.kernel().start(operation));
}

}  // namespace

TEST_CASE("scripted datagrams come whole, or cut, with their sender", "[scripted]") {
    virtual_loop on;
    const int number = on.kernel().open();
    CHECK(!on.kernel().attach(number));
    const address sender = address::loopback(53);
    on.kernel()
        .at(number)
        .receives_from(sender, "short")
        .receives_from(sender, "too long")
        .receives_from(sender, "");
    std::byte room[6];
    const auto receive = [&](std::size_t size, bool cut) {
        address from;
        io_op operation(on.kernel(), opcode::recv, number);
        operation.data = room;
        operation.size = sizeof room;
        operation.name = from.data();
        operation.name_size = address::capacity();
        at_once(on, operation);
        from.resize(operation.name_size);
        CHECK(operation.error == 0);
        CHECK(operation.size == size);
        CHECK(operation.truncated == cut);
        CHECK(from == sender);
    };

    receive(5, false);
    receive(6, true);
    receive(0, false);
    on.kernel().close(number);
}

TEST_CASE("scripted datagrams are sent and received in batches", "[scripted]") {
    virtual_loop on;
    const auto [one, other] = on.kernel().datagram_pair();
    CHECK(!on.kernel().attach(one));
    CHECK(!on.kernel().attach(other));
    std::string texts[] = {"first", "", "third"};
    datagram items[3];
    for (std::size_t index = 0; index < 3; ++index) {
        items[index].bytes = std::as_writable_bytes(std::span(texts[index]));
        items[index].peer = address::loopback(7);
    }
    batch_op sending(on.kernel(), opcode::send_batch, one);
    sending.items = items;
    sending.size = 3;
    at_once(on, sending);
    CHECK(sending.size == 3);
    CHECK(on.kernel().at(one).sent.size() == 3);
    CHECK(on.kernel().at(one).sent[0].text == "first");
    CHECK(on.kernel().at(one).sent[0].to == address::loopback(7));

    std::byte rooms[5][16];
    datagram got[5];
    for (std::size_t index = 0; index < 5; ++index) {
        got[index].bytes = rooms[index];
    }
    batch_op receiving(on.kernel(), opcode::receive_batch, other);
    receiving.items = got;
    receiving.size = 5;
    at_once(on, receiving);
    CHECK(receiving.size == 3);
    CHECK(text_of(got[0].bytes) == "first");
    CHECK(got[1].bytes.empty());
    CHECK(text_of(got[2].bytes) == "third");

    batch_op waiting(on.kernel(), opcode::receive_batch, other);
    waiting.now_or_never = true;
    waiting.items = got;
    waiting.size = 5;
    at_once(on, waiting);
    CHECK(waiting.error == EAGAIN);
    on.kernel().at(other).fails_read(ECONNREFUSED);
    at_once(on, waiting);
    CHECK(waiting.error == ECONNREFUSED);
    on.kernel().close(one);
    on.kernel().close(other);
}

TEST_CASE("a file can be sent to a scripted descriptor", "[scripted]") {
    virtual_loop on;
    const int number = on.kernel().open();
    CHECK(!on.kernel().attach(number));
    std::FILE* const file = std::tmpfile();
    std::fputs("0123456789", file);
    std::fflush(file);
    on.kernel().at(number).takes(3);
    sendfile_op operation(on.kernel(), opcode::sendfile, number);
    operation.file = ::fileno(file);
    operation.offset = 4;
    operation.size = 100;

    at_once(on, operation);

    CHECK(operation.size == 3);
    CHECK(on.kernel().at(number).written == "456");
    operation.offset = 10;
    at_once(on, operation);
    CHECK(operation.size == 0);
    std::fclose(file);
    on.kernel().close(number);
}

TEST_CASE("a scripted kernel may let go of a cancelled operation late", "[scripted]") {
    connected with;
    with.on.kernel().lets_go_late(true);
    auto reads = [&]() -> task<std::string> {
        const auto got = co_await with.one.receive();
        co_return got ? text_of(*got) : got.error().message();
    };
    auto reading = with.on.start(reads());
    with.on.settle();
    reading.cancel();

    SECTION("cancelled") {
        CHECK(with.on.kernel().settling());
        CHECK(with.on.join(reading) == system_error_code(ECANCELED).message());
    }
    SECTION("what comes until then wins") {
        with.near_end.receives("just in time");
        CHECK(with.on.join(reading) == "just in time");
    }
    SECTION("a loop that ends waits for it, also when waits fail for a while") {
        with.on.kernel().fails_wait(ENOMEM);
        with.on.shut_down();
        CHECK(reading.done());
    }
    CHECK(!with.on.kernel().settling());
    CHECK(with.on.kernel().waiting() == 0);
}

TEST_CASE("a scripted wait can end early, or fail", "[scripted]") {
    virtual_loop on;
    on.kernel().interrupts_wait();
    on.run_once(1s);
    CHECK(on.elapsed() == 0s);

    on.kernel().fails_wait(EBADF);
    CHECK_THROWS_AS(on.run_once(1s), std::system_error);
    on.run_once(1s);
    CHECK(on.elapsed() == 1s);
}

TEST_CASE("a scripted attach can fail, and the descriptor stays its owner's", "[scripted]") {
    virtual_loop on;
    on.kernel().fails_attach(ENOSPC);
    fd number(on.kernel().open());

    CHECK(stream::adopt(on, std::move(number)).error() == std::errc::no_space_on_device);
    CHECK(number);
    CHECK(stream::adopt(on, std::move(number)));
    CHECK(on.kernel().attach(-1) == std::errc::bad_file_descriptor);
}
