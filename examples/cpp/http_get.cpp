// Fetches a page by HTTP/1.1, within 10 seconds:  http_get host[:port] [/path]
// Fetches from a server of its own, and ends:     http_get --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <strings.h>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

struct response {
    int status = 0;
    std::string body;
};

/// What has come and was not used yet.
class reader {
public:
    explicit reader(zloop::stream& socket) : socket_(socket) {}

    zloop::task<std::string> line() {
        const auto size = (co_await zloop::read_until(socket_, held_, "\r\n")).value();
        co_return take(size).substr(0, size - 2);
    }

    zloop::task<std::string> bytes(std::size_t count, bool or_to_the_end = false) {
        while (held_.size() < count) {
            const auto more = (co_await socket_.receive()).value();
            if (more.empty() && !or_to_the_end) {
                throw std::system_error(zloop::errc::end_of_stream);
            }
            if (more.empty()) {
                break;
            }
            held_.append(reinterpret_cast<const char*>(more.data()), more.size());
        }
        co_return take(count);
    }

private:
    std::string take(std::size_t count) {
        std::string taken = held_.substr(0, count);
        held_.erase(0, count);
        return taken;
    }

    zloop::stream& socket_;
    std::string held_;
};

zloop::task<response> get(std::string host, std::string port, std::string path) {
    auto socket = (co_await zloop::connect(host, port)).value();
    const std::string request =
        "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n";
    (co_await zloop::write_all(socket, zloop::bytes_of(request))).value();

    reader from(socket);
    response got;
    got.status = std::atoi((co_await from.line()).substr(std::string("HTTP/1.1 ").size()).c_str());
    std::size_t length = std::string::npos;
    bool chunked = false;
    for (std::string header = co_await from.line(); !header.empty(); header = co_await from.line()) {
        const auto colon = header.find(':');
        const std::string name = header.substr(0, colon);
        if (::strcasecmp(name.c_str(), "content-length") == 0) {
            length = std::strtoul(header.c_str() + colon + 1, nullptr, 10);
        } else if (::strcasecmp(name.c_str(), "transfer-encoding") == 0) {
            chunked = header.find("chunked", colon) != std::string::npos;
        }
    }
    while (chunked) {
        length = std::strtoul((co_await from.line()).c_str(), nullptr, 16);
        got.body += co_await from.bytes(length);
        co_await from.line();  // empty, behind each chunk; there may be trailers behind the last
        chunked = length != 0;
    }
    if (got.body.empty()) {
        got.body = co_await from.bytes(length, length == std::string::npos);
    }
    co_return got;
}

/// Answers `with` to any request, and nothing to the next.
zloop::task<> answer(zloop::listener& door, std::string with) {
    auto socket = (co_await door.accept()).value().socket;
    std::string request;
    (co_await zloop::read_until(socket, request, "\r\n\r\n")).value();
    (co_await zloop::write_all(socket, zloop::bytes_of(with))).value();
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
        const auto [nothing, got] =
            co_await zloop::when_all(answer(door, answered), get("127.0.0.1", port, "/"));
        passed = passed && got.status == 200 && got.body == "hello";
    }
    const auto late = co_await zloop::with_timeout(20ms, get("127.0.0.1", port, "/"));  // nobody accepts
    co_return passed&& late.error() == std::errc::timed_out;
}

int main(int count, char** arguments) {
    std::string host = count > 1 ? arguments[1] : "";
    if (host == "--self-test") {
        return zloop::run(self_test()) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    const auto colon = host.find(':');
    const std::string port = colon == std::string::npos ? "80" : host.substr(colon + 1);
    try {
        auto fetching = get(host.substr(0, colon), port, count > 2 ? arguments[2] : "/");
        const response got = zloop::run(zloop::with_timeout(10s, std::move(fetching))).value();
        std::printf("%s", got.body.c_str());
        return got.status == 200 ? EXIT_SUCCESS : EXIT_FAILURE;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "http_get: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
