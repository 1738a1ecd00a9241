#include <zloop/wait/socket_base.hpp>

#include <zloop/datagram.hpp>
#include <zloop/listener.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("any option that is a number is set and read back, and a wrong one is an error", "[socket_base]") {
    loop on(each_backend());
    connection with(on, kind::tcp);

    CHECK(with.socket.set_option(IPPROTO_TCP, TCP_NODELAY, 1));
    CHECK(with.socket.get_option(IPPROTO_TCP, TCP_NODELAY).value() != 0);
    CHECK(with.socket.set_option(SOL_SOCKET, 9999, 1).error() == std::errc::no_protocol_option);
    CHECK(with.socket.get_option(SOL_SOCKET, 9999).error() == std::errc::no_protocol_option);
}

TEST_CASE("an option that is a structure is set and read back", "[socket_base]") {
    loop on(each_backend());
    connection with(on, kind::tcp);

    CHECK(with.socket.set_option(SOL_SOCKET, SO_LINGER, linger{1, 7}));
    const linger now = with.socket.get_option<linger>(SOL_SOCKET, SO_LINGER).value();
    CHECK(now.l_onoff == 1);
    CHECK(now.l_linger == 7);
}

TEST_CASE("the sizes of the kernel's buffers are set, in any kind of socket", "[socket_base]") {
    loop on(each_backend());
    const auto check = [](socket_base& socket) {
        CHECK(socket.set_receive_buffer(20'000));
        CHECK(socket.set_send_buffer(30'000));
        CHECK(socket.receive_buffer().value() >= 20'000);
        CHECK(socket.receive_buffer().value() <= 40'000);
        CHECK(socket.send_buffer().value() >= 30'000);
        CHECK(socket.send_buffer().value() <= 60'000);
    };
    connection with(on, GENERATE(kind::tcp, kind::unix_socket));
    check(with.socket);
    auto door = listener::bind(on, address::loopback()).value();
    check(door);
    auto messages = datagram_socket::open(on, AF_INET).value();
    check(messages);
}

TEST_CASE("what has no address, or no peer, has the address of no family", "[socket_base]") {
    loop on(each_backend());
    auto door = listener::bind(on, address::loopback()).value();
    CHECK(door.local_address().host() == "127.0.0.1");
    CHECK(door.peer_address() == address());
    door.close();
    CHECK(door.local_address().family() == AF_UNSPEC);
    CHECK(door.set_send_buffer(1).error() == std::errc::bad_file_descriptor);
    CHECK(door.send_buffer().error() == std::errc::bad_file_descriptor);
}
