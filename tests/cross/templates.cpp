// Everything that a header leaves to be compiled by its user, compiled: for systems that the tests cannot
// run on. What this would do, nobody asks.

#include <string>
#include <vector>

#include <zloop/testing.hpp>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;
using namespace zloop;

// What a macOS means that says this of a send.
#if defined(__APPLE__)
static_assert(detail::usual_error(EPROTOTYPE) == EPIPE);
#endif
static_assert(detail::usual_error(ECONNRESET) == ECONNRESET);

// Templates whose every member is compiled.
template class zloop::result<int>;
template class zloop::result<std::string>;
template class zloop::task<int>;
template class zloop::task<std::string>;
template class zloop::job<int>;
template class zloop::channel<std::string>;

namespace {

task<int> number(int value) { co_return value; }

task<> serve(listener& door) {
    auto [failure, connection] = co_await door.accept();
    if (failure) {
        co_return;
    }
    const auto bytes = co_await connection.socket.receive();
    if (bytes) {
        static_cast<void>(co_await write_all(connection.socket, *bytes));
    }
    const std::span<const std::byte> parts[] = {bytes_of("one"), bytes_of("two")};
    static_cast<void>(co_await write_all(connection.socket, parts));
    static_cast<void>(connection.socket.shutdown(SHUT_WR));
}

task<result<std::size_t>> talk(address where) {
    auto socket = co_await connect(where);
    if (!socket) {
        co_return socket.error();
    }
    std::byte room[100];
    const std::span<std::byte> buffer(room);
    const auto sent = co_await socket->send(buffer);
    if (!sent) {
        co_return sent.error();
    }
    const auto read = co_await read_exactly(*socket, buffer);
    if (!read) {
        co_return read.error();
    }
    co_return co_await socket->recv(buffer);
}

task<> exchange(loop& on) {
    auto socket = datagram_socket::bind(on, address::loopback()).value();
    static_cast<void>(socket.join(address::ip("239.1.2.3", 0).value()));
    std::byte room[100];
    const std::span<std::byte> buffer(room);
    datagram items[1];
    items[0].bytes = buffer;
    const std::span<datagram> batch(items);
    static_cast<void>(co_await socket.send_to(buffer, socket.local_address()));
    static_cast<void>(co_await socket.receive());
    static_cast<void>(co_await socket.receive_from(buffer));
    static_cast<void>(co_await socket.send_batch(batch));
    static_cast<void>(co_await socket.receive_batch(batch));
    static_cast<void>(socket.disconnect());
    auto both = stream::pair(on).value();
    static_cast<void>(both.first.set_keep_alive(1min, 10s, 3));
    static_cast<void>(co_await both.first.sendfile(0, 0, 100));
    auto ends = make_pipe(on).value();
    static_cast<void>(co_await ends.writer.send(buffer));
    foreign_stream input = standard_input();
    static_cast<void>(co_await input.recv(buffer));
    static_cast<void>(co_await input.send(buffer));
    static_cast<void>(co_await copy(both.first, both.second));
    static_cast<void>(co_await copy(input, both.second, 100));
    static_cast<void>(co_await send_file(both.first, "/dev/null"));
    static_cast<void>(co_await send_file(input, 0));
    buffered_reader<foreign_stream&> lines(input);
    static_cast<void>(co_await lines.read_line());
    static_cast<void>(co_await lines.read_exactly(3));
    static_cast<void>(co_await lines.receive());
    static_cast<void>(co_await lines.recv(buffer));
    static_cast<void>(co_await copy(lines, both.first));
}

task<> together() {
    const auto here = co_await current_context();
    auto one = number(1);
    auto two = number(2);
    static_cast<void>(co_await when_all(std::move(one), std::move(two)));
    auto three = number(3);
    auto four = number(4);
    static_cast<void>(co_await when_any(std::move(three), std::move(four)));
    auto five = number(5);
    static_cast<void>(co_await with_timeout(1s, std::move(five)));

    auto door = listener::bind(*here.on, address::loopback()).value();
    job<> server(here, serve(door));
    auto talking = talk(door.local_address());
    static_cast<void>(co_await std::move(talking));
    co_await server.join();
    co_await exchange(*here.on);
    static_cast<void>(co_await wait_readable(0));
    static_cast<void>(co_await sleep_for(1ms));
}

task<> told(channel<std::string>& words, mutex& door, condition& changed) {
    auto held = co_await door.lock();
    if (held) {
        static_cast<void>(co_await changed.wait(*held));
    }
    static_cast<void>(co_await words.send("word"));
    static_cast<void>(co_await words.receive());
}

task<> beside() {
    const auto here = co_await current_context();
    channel<std::string> words(1);
    mutex door;
    condition changed;
    nursery all(here);
    all.spawn(told(words, door, changed));
    changed.notify_all();
    co_await all.join();

    std::vector<task<int>> several;
    several.push_back(number(7));
    static_cast<void>(co_await when_all(std::move(several)));
    auto eight = number(8);
    static_cast<void>(co_await shield(std::move(eight)));
    auto nine = number(9);
    static_cast<void>(co_await with_stop({}, std::move(nine)));
    interval ticks(1ms);
    static_cast<void>(co_await ticks.next());
    static_cast<void>(co_await offload([] { return 10; }));
}

task<> children(loop& on) {
    const command what{.argv = {"cat"}, .in = redirect::pipe, .err = redirect::output, .new_group = true};
    auto child = process::spawn(on, what).value();
    static_cast<void>(co_await write_all(child.in, bytes_of("x")));
    static_cast<void>(child.kill(SIGTERM));
    static_cast<void>(co_await child.stop(1s));
    static_cast<void>(co_await run_process(what));
}

task<> outside() {
    const std::string name = "localhost";
    static_cast<void>(co_await resolve(name, 80));
    auto socket = co_await connect(name, 80);
    if (socket) {
        std::string line;
        static_cast<void>(co_await read_until(*socket, line, "\n"));
    }
}

}  // namespace

int main() {
    run(together());
    run(beside());
    run(outside());
    loop on;
    run(on, children(on));
    const fd notice = detail::make_exit_notice(1);
    static_cast<void>(notice);
    testing::virtual_loop pretended;
    auto running = pretended.start(number(6));
    return pretended.join(running);
}
