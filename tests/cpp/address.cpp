#include <zloop/address.hpp>

#include <algorithm>
#include <new>

#include "catch.hpp"

using namespace std::string_literals;
using namespace std::string_view_literals;
using zloop::address;

TEST_CASE("a numeric IPv4 address is read and printed", "[address]") {
    const address made = address::ip("192.0.2.7", 8080).value();

    CHECK(made.family() == AF_INET);
    CHECK(made.host() == "192.0.2.7");
    CHECK(made.port() == 8080);
    CHECK(made.to_string() == "192.0.2.7:8080");
    CHECK(made.size() == sizeof(sockaddr_in));
}

TEST_CASE("a numeric IPv6 address is read and printed in its shortest form", "[address]") {
    const address made = address::ip("2001:0db8:0000::0001", 443).value();

    CHECK(made.family() == AF_INET6);
    CHECK(made.host() == "2001:db8::1");
    CHECK(made.to_string() == "[2001:db8::1]:443");
    CHECK(made.size() == sizeof(sockaddr_in6));
}

TEST_CASE("an address of the loopback network is known as such", "[address]") {
    for (const char* const here : {"127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"}) {
        INFO(here);
        CHECK(address::ip(here, 80)->is_loopback());
    }
    for (const char* const elsewhere :
         {"128.0.0.1", "0.0.0.0", "192.0.2.127", "::", "::2", "::ffff:192.0.2.1"}) {
        INFO(elsewhere);
        CHECK_FALSE(address::ip(elsewhere, 80)->is_loopback());
    }
    CHECK(address::loopback().is_loopback());
    CHECK_FALSE(address::local("/run/socket")->is_loopback());
    CHECK_FALSE(address().is_loopback());
}

TEST_CASE("an address of every interface is known as such", "[address]") {
    for (const char* const every : {"0.0.0.0", "::", "::ffff:0.0.0.0"}) {
        INFO(every);
        CHECK(address::ip(every, 80)->is_any());
    }
    for (const char* const one : {"0.0.0.1", "127.0.0.0", "::1", "::ffff:0.0.0.1"}) {
        INFO(one);
        CHECK_FALSE(address::ip(one, 80)->is_any());
    }
    CHECK(address::any().is_any());
    CHECK_FALSE(address::local("")->is_any());
    CHECK_FALSE(address().is_any());
}

TEST_CASE("an IPv6 scope is read by interface name and by number, and printed by name", "[address]") {
    const auto index = ::if_nametoindex("lo");
    REQUIRE(index != 0);

    const address by_name = address::ip("fe80::1%lo", 80).value();
    const address by_number = address::ip("fe80::1%" + std::to_string(index), 80).value();

    CHECK(by_name == by_number);
    CHECK(by_name.host() == "fe80::1%lo");
    CHECK(by_name != *address::ip("fe80::1", 80));
    CHECK(address::ip("fe80::1%4294967295", 80)->host() == "fe80::1%4294967295");
}

TEST_CASE("what is no numeric address is an invalid argument", "[address]") {
    const std::string_view text =
        GENERATE("", "localhost", "256.0.0.1", "1.2.3", "1.2.3.4 ", "::1%", "::1%no-such-interface",
                 "::1%4294967296", "127.0.0.1%lo", "[::1]", ":::", "1:2:3:4:5:6:7:8:9");
    CAPTURE(text);

    CHECK(address::ip(text, 80).error() == std::errc::invalid_argument);
    CHECK(address::ip(std::string(500, '1'), 80).error() == std::errc::invalid_argument);
}

TEST_CASE("a NUL byte does not end an address early", "[address]") {
    CHECK(address::ip("127.0.0.1\0.example.org"sv, 80).error() == std::errc::invalid_argument);
    CHECK(address::local("/tmp/a\0b"sv).error() == std::errc::invalid_argument);
}

TEST_CASE("every port comes back in host order", "[address]") {
    const std::uint16_t port = GENERATE(as<std::uint16_t>(), 0, 1, 255, 256, 65535);

    CHECK(address::ip("127.0.0.1", port)->port() == port);
    CHECK(address::ip("::1", port)->port() == port);
    CHECK(address::loopback(port).port() == port);
    CHECK(address::any(port).port() == port);
}

TEST_CASE("loopback and any are IPv4's", "[address]") {
    CHECK(address::loopback(1).to_string() == "127.0.0.1:1");
    CHECK(address::any().to_string() == "0.0.0.0:0");
}

TEST_CASE("addresses are equal when host, port and family are", "[address]") {
    CHECK(address::loopback(80) == *address::ip("127.0.0.1", 80));
    CHECK(address::loopback(80) != address::loopback(81));
    CHECK(address::any(80) != *address::ip("::", 80));
    CHECK(address() == address());
    CHECK(address() != address::any());
}

TEST_CASE("a Unix path is an address without a port", "[address]") {
    const address made = address::local("/run/zloop").value();

    CHECK(made.family() == AF_UNIX);
    CHECK(made.host() == "/run/zloop");
    CHECK(made.to_string() == "/run/zloop");
    CHECK(made.port() == 0);
}

TEST_CASE("a Unix path takes 107 bytes, an abstract name 108", "[address]") {
    CHECK(address::local(std::string(107, 'p'))->host() == std::string(107, 'p'));
    CHECK(address::local(std::string(sizeof sockaddr_un::sun_path, 'p')).error() ==
          std::errc::filename_too_long);
    CHECK(address::local('\0' + std::string(107, 'a'))->host() == '\0' + std::string(107, 'a'));
    CHECK(address::local('\0' + std::string(sizeof sockaddr_un::sun_path, 'a')).error() ==
          std::errc::filename_too_long);
}

TEST_CASE("an abstract Unix name keeps its NUL bytes", "[address]") {
    CHECK(address::local("\0a\0b"sv)->host() == "\0a\0b"s);
    CHECK(*address::local("\0a"sv) != *address::local("\0a\0"sv));
}

TEST_CASE("the empty Unix path is the unnamed address", "[address]") {
    const address made = address::local("").value();

    CHECK(made.family() == AF_UNIX);
    CHECK(made.size() == offsetof(sockaddr_un, sun_path));
    CHECK(made.host().empty());
}

TEST_CASE("no address has no family and prints as nothing", "[address]") {
    CHECK(address().family() == AF_UNSPEC);
    CHECK(address().to_string().empty());
    CHECK(address().port() == 0);
}

TEST_CASE("an address begins with every byte zero, wherever it is made", "[address]") {
    alignas(address) unsigned char memory[sizeof(address)];
    std::memset(memory, 0xff, sizeof memory);

    const auto* const made = new (memory) address;

    const auto* const bytes = reinterpret_cast<const unsigned char*>(made->data());
    CHECK(std::count(bytes, bytes + sizeof(sockaddr_un), 0) == sizeof(sockaddr_un));
}

TEST_CASE("a system call's address is taken over, and cut where it is too long", "[address]") {
    const address made = address::ip("192.0.2.7", 80).value();
    char longer[200]{};
    std::memcpy(longer, made.data(), made.size());

    CHECK(address(made.data(), made.size()) == made);
    CHECK(address(reinterpret_cast<sockaddr*>(longer), sizeof longer).size() == address::capacity());

    address written;
    written.resize(1000);
    CHECK(written.size() == address::capacity());
}
