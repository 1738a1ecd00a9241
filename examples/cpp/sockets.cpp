// Options of a socket, and a descriptor that comes from elsewhere and goes there again.

#include <cstdio>
#include <cstdlib>

#include <sys/socket.h>
#include <unistd.h>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

zloop::task<bool> work(zloop::loop& loop) {
    auto door = zloop::listener::bind(loop, zloop::address::loopback()).value();
    auto client = (co_await zloop::connect(door.local_address())).value();
    auto [server, peer] = (co_await door.accept()).value();

    client.set_no_delay(true).value();
    client.set_keep_alive(60s, 10s, 3).value();
    client.set_option(SOL_SOCKET, SO_LINGER, linger{1, 2}).value();
    const auto lingering = client.get_option<linger>(SOL_SOCKET, SO_LINGER).value();
    std::printf("from %s, lingers %d s\n", peer.to_string().c_str(), lingering.l_linger);

    const zloop::fd number(client.release());  // out of service, as another library would want it
    auto again = zloop::stream::adopt(loop, zloop::fd(::dup(number.get()))).value();
    (co_await zloop::write_all(again, zloop::bytes_of("x"))).value();
    const auto heard = (co_await server.receive()).value();
    co_return zloop::as_text(heard) == "x" && peer == again.local_address() && lingering.l_onoff != 0 &&
        !client && client.get_option(SOL_SOCKET, SO_TYPE).error() == std::errc::bad_file_descriptor;
}

int main() {
    zloop::loop loop;
    return zloop::run(loop, work(loop)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
