// Asks a name server for a host's IPv4 addresses over UDP, and asks again when no answer comes (RFC 1035):
//     udp_query 127.0.0.53 example.org
//     udp_query --self-test

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

/// A query for the A records of `host`: header, the name as labels, type A, class IN.
std::string query_for(std::string_view host, char id) {
    std::string message{'\x5a', id, '\x01', '\0', '\0', '\x01', '\0', '\0', '\0', '\0', '\0', '\0'};
    while (!host.empty()) {
        const std::string_view label = host.substr(0, host.find('.'));
        message += static_cast<char>(label.size());
        message += label;
        host.remove_prefix(std::min(host.size(), label.size() + 1));
    }
    return message + std::string("\0\0\1\0\1", 5);
}

/// The addresses in an answer to a query of `asked` bytes; names in answers are two-byte pointers to it.
std::vector<std::string> addresses_in(std::string_view answer, std::size_t asked) {
    std::vector<std::string> found;
    while (answer.size() >= asked + 12) {  // pointer, type, class, time to live, length
        const std::string_view record = answer.substr(asked);
        const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(record[at]); };
        const std::size_t length = byte(10) * 256u + byte(11);
        if (byte(2) == 0 && byte(3) == 1 && length == 4 && record.size() >= 16) {
            char text[INET_ADDRSTRLEN];
            found.emplace_back(::inet_ntop(AF_INET, record.data() + 12, text, sizeof text));
        }
        asked += 12 + length;
    }
    return found;
}

zloop::task<zloop::result<std::string>> ask(zloop::datagram_socket& socket, std::string_view query) {
    if (const auto sent = co_await socket.send(zloop::bytes_of(query)); !sent) {
        co_return sent.error();
    }
    for (;;) {
        const auto [error, message] = co_await socket.receive();
        if (error) {
            co_return error;
        }
        const auto answer = zloop::as_text(message.bytes);
        if (answer.substr(0, 2) == query.substr(0, 2)) {  // else it is late, and another query's
            co_return std::string(answer);
        }
    }
}

zloop::task<std::vector<std::string>> look_up(zloop::address server, std::string host) {
    const auto here = co_await zloop::current_context();
    auto socket = zloop::datagram_socket::open(*here.on, server.family()).value();
    socket.connect(server).value();
    for (char attempt = 1; attempt <= 3; ++attempt) {
        const std::string query = query_for(host, attempt);
        auto answer = co_await zloop::with_timeout(attempt * 500ms, ask(socket, query));
        if (answer) {
            co_return addresses_in(*answer, query.size());
        }
        std::printf("attempt %d: %s\n", attempt, answer.error().message().c_str());
    }
    co_return {};
}

/// Knows one address, and loses the first query.
zloop::task<> name_server(zloop::datagram_socket& socket) {
    static_cast<void>(co_await socket.receive());
    const auto [error, message] = co_await socket.receive();
    std::string answer(zloop::as_text(message.bytes));
    const zloop::address peer = message.peer;
    answer += std::string("\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\x2a", 16);
    static_cast<void>(co_await socket.send_to(zloop::bytes_of(answer), peer));
}

int main(int count, char** arguments) {
    zloop::loop loop;
    if (count == 3) {
        const auto server = zloop::address::ip(arguments[1], 53).value();
        for (const auto& found : zloop::run(loop, look_up(server, arguments[2]))) {
            std::printf("%s\n", found.c_str());
        }
        return EXIT_SUCCESS;
    }
    auto server = zloop::datagram_socket::bind(loop, zloop::address::loopback()).value();
    zloop::spawn(loop, name_server(server));
    const auto found = zloop::run(loop, look_up(server.local_address(), "example.org"));
    return found == std::vector<std::string>{"192.0.2.42"} ? EXIT_SUCCESS : EXIT_FAILURE;
}
