// A customer's program, which every road to zloop has to build. It says which version it met.
#include <cstdio>
#include <string>

#include <zloop/zloop.hpp>

namespace {

zloop::task<> greet(zloop::listener& door) {
    auto guest = (co_await door.accept()).value();
    (co_await zloop::write_all(guest.socket, zloop::bytes_of("hello\n"))).value();
}

zloop::task<std::string> listen_to(zloop::address where) {
    auto socket = (co_await zloop::connect(where)).value();
    std::string line;
    (co_await zloop::read_until(socket, line, "\n")).value();
    co_return line;
}

}  // namespace

int main() {
    zloop::loop loop;
    auto door = zloop::listener::bind(loop, zloop::address::loopback()).value();
    zloop::spawn(loop, greet(door));
    std::printf("zloop %s says %s", zloop::version,
                zloop::run(loop, listen_to(door.local_address())).c_str());
}
