// echo_zloop.cpp: an echo server on zloop's public API, to set beside floor.c.
//
// ZLOOP_BACKEND chooses the backend; `echo_zloop --backend` only says which one it is. Prints `port N`
// once it listens on 127.0.0.1. SIGTERM ends it.
#include <cstdio>

#include <sys/resource.h>

#include <zloop/zloop.hpp>

namespace {

zloop::task<> echo(zloop::stream socket) {
    for (;;) {
        auto [error, bytes] = co_await socket.receive();
        if (error || bytes.empty()) {
            co_return;
        }
        while (!bytes.empty()) {  // lent to us, and kept by a send of it that waits
            const auto [failure, sent] = co_await socket.send(bytes);
            if (failure) {
                co_return;
            }
            bytes = bytes.subspan(sent);
        }
    }
}

zloop::task<> serve(zloop::loop& loop, zloop::listener& door) {
    for (;;) {
        auto [error, guest] = co_await door.accept();
        if (error) {
            co_return;
        }
        static_cast<void>(guest.socket.set_option(IPPROTO_TCP, TCP_NODELAY, 1));
        zloop::spawn(loop, echo(std::move(guest.socket)));
    }
}

}  // namespace

int main(int count, char**) {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);

    zloop::loop loop;
    if (count > 1) {
        std::printf("%s\n", loop.kernel().name().data());
        return 0;
    }
    auto door = zloop::listener::bind(loop, zloop::address::loopback()).value();
    std::printf("port %d\n", door.local_address().port());
    std::fflush(stdout);
    zloop::run(loop, serve(loop, door));
}
