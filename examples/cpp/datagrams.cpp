// Messages: one with its sender, one that is cut, an empty one, and a batch in one system call.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <zloop/zloop.hpp>

zloop::task<bool> exchange(zloop::loop& loop) {
    auto server = zloop::datagram_socket::bind(loop, zloop::address::loopback()).value();
    auto client = zloop::datagram_socket::bind(loop, zloop::address::loopback()).value();
    client.connect(server.local_address()).value();

    (co_await client.send(zloop::bytes_of("ping"))).value();
    const auto asked = (co_await server.receive()).value();
    bool good = zloop::as_text(asked.bytes) == "ping" && asked.peer == client.local_address();
    (co_await server.send_to(zloop::bytes_of("pong"), asked.peer)).value();

    std::array<std::byte, 2> small;
    const auto cut = (co_await client.receive_from(small)).value();
    good = good && cut.size == 2 && cut.truncated;

    std::array<zloop::datagram, 3> batch{};  // empty, each to the peer
    good = good && (co_await client.send_batch(batch)).value() == 3;
    std::array<std::array<std::byte, 8>, 3> room;
    for (std::size_t index = 0; index < batch.size(); ++index) {
        batch[index].bytes = room[index];
    }
    std::size_t came = 0;
    while (came < batch.size()) {
        came += (co_await server.receive_batch(std::span(batch).subspan(came))).value();
    }
    std::printf("%s, and %zu more\n", good ? "as it should be" : "otherwise", came);
    co_return good&& batch[2].bytes.empty() && batch[2].peer == client.local_address();
}

int main() {
    zloop::loop loop;
    return zloop::run(loop, exchange(loop)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
