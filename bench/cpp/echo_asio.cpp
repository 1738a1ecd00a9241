// echo_asio.cpp: an echo server on asio's coroutines, as its documentation writes them.
//
// Prints `port N` once it listens on 127.0.0.1. SIGTERM ends it.
#include <cstdio>

#include <sys/resource.h>

#include <asio.hpp>

namespace {

using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;

awaitable<void> echo(tcp::socket socket) {
    char buffer[16 * 1024];
    try {
        for (;;) {
            const std::size_t count = co_await socket.async_read_some(asio::buffer(buffer), use_awaitable);
            co_await asio::async_write(socket, asio::buffer(buffer, count), use_awaitable);
        }
    } catch (const std::system_error&) {
        // the peer is gone
    }
}

awaitable<void> serve(tcp::acceptor& door) {
    for (;;) {
        tcp::socket guest = co_await door.async_accept(use_awaitable);
        guest.set_option(tcp::no_delay(true));
        asio::co_spawn(door.get_executor(), echo(std::move(guest)), asio::detached);
    }
}

}  // namespace

int main() {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);

    asio::io_context io(1);
    tcp::acceptor door(io, {asio::ip::address_v4::loopback(), 0});
    door.listen(4096);
    std::printf("port %d\n", door.local_endpoint().port());
    std::fflush(stdout);
    asio::co_spawn(io, serve(door), asio::detached);
    io.run();
}
