// Fetches a page by HTTP/1.1, within 10 seconds:  http_get example.org 80 /
// Fetches from a server of its own, and ends:     http_get --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <strings.h>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

/// Collects what is sent to it: a byte sink of our own.
struct collected {
    std::string text;
    zloop::task<zloop::result<std::size_t>> send(std::span<const std::byte> bytes) {
        text += zloop::as_text(bytes);
        co_return bytes.size();
    }
};

/// The body, if the status is 200.
zloop::task<std::string> get(std::string host, std::string port, std::string path) {
    zloop::buffered_reader server((co_await zloop::connect(host, port)).value());
    const std::string request =
        "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n";
    (co_await zloop::write_all(server, zloop::bytes_of(request))).value();

    std::string line((co_await server.read_line()).value());
    if (!line.starts_with("HTTP/1.1 200 ")) {
        throw std::runtime_error(line);
    }
    std::uint64_t length = zloop::unlimited;  // then the body ends with the connection
    bool chunked = false;
    while (line = (co_await server.read_line()).value(), !line.empty()) {
        if (::strncasecmp(line.c_str(), "content-length:", 15) == 0) {
            length = std::strtoull(line.c_str() + 15, nullptr, 10);
        } else if (::strncasecmp(line.c_str(), "transfer-encoding:", 18) == 0) {
            chunked = line.find("chunked") != std::string::npos;
        }
    }
    collected body;
    do {
        if (chunked) {
            line = (co_await server.read_line()).value();
            length = std::strtoull(line.c_str(), nullptr, 16);
        }
        const auto count = (co_await zloop::copy(server, body, length)).value();
        if (count < length && length != zloop::unlimited) {
            throw std::system_error(zloop::errc::end_of_stream);
        }
        if (chunked) {
            (co_await server.read_line()).value();  // empty; there may be trailers behind the last
        }
    } while (chunked && length != 0);
    co_return body.text;
}

/// Answers `with` to any request, and nothing to the next.
zloop::task<> answer(zloop::listener& door, std::string with) {
    zloop::buffered_reader guest((co_await door.accept()).value().socket);
    (co_await guest.read_until("\r\n\r\n")).value();
    (co_await zloop::write_all(guest, zloop::bytes_of(with))).value();
}

zloop::task<bool> self_test() {
    const zloop::context here = co_await zloop::current_context();
    auto door = zloop::listener::bind(*here.on, zloop::address::loopback()).value();
    const std::string port = std::to_string(door.local_address().port());
    bool passed = true;
    for (const char* answered :
         {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",  //
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
          "HTTP/1.1 200 OK\r\n\r\nhello"}) {
        const auto [nothing, body] =
            co_await zloop::when_all(answer(door, answered), get("127.0.0.1", port, "/"));
        passed = passed && body == "hello";
    }
    const auto late = co_await zloop::with_timeout(20ms, get("127.0.0.1", port, "/"));  // nobody accepts
    co_return passed&& late.error() == std::errc::timed_out;
}

int main(int count, char** arguments) {
    if (count != 4) {
        return zloop::run(self_test()) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    try {
        auto fetching = get(arguments[1], arguments[2], arguments[3]);
        std::printf("%s", zloop::run(zloop::with_timeout(10s, std::move(fetching))).value().c_str());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "http_get: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
