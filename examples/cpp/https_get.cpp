// Fetches a page by HTTPS, within 10 seconds:     https_get example.org /
// Fetches from a server of its own, and ends:     https_get --self-test

#include <cstdio>
#include <cstdlib>
#include <string>

#include <unistd.h>
#include <zloop/tls.hpp>
#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

/// The answer, head and body. The server's certificate must be for `host`, by somebody whom `context` trusts.
zloop::task<std::string> get(zloop::tls::context context, std::string host, std::string port,
                             std::string path) {
    auto socket = (co_await zloop::connect(host, port)).value();
    auto server = (co_await zloop::tls::connect(std::move(socket), context, host)).value();

    const std::string request =
        "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n";
    (co_await zloop::write_all(server, zloop::bytes_of(request))).value();

    std::string answer;
    for (std::array<std::byte, 16 * 1024> some;;) {
        const auto count = (co_await server.recv(some)).value();  // throws when the text was cut
        if (count == 0) {
            break;
        }
        answer += zloop::as_text(std::span(some).first(count));
    }
    static_cast<void>(co_await server.shutdown(1s));  // it has said all; whether it listens is its own matter
    co_return answer;
}

/// Answers one request, whatever it is.
zloop::task<> answer(zloop::listener& door, zloop::tls::context context) {
    auto socket = (co_await door.accept()).value().socket;
    zloop::buffered_reader guest((co_await zloop::tls::accept(std::move(socket), context)).value());
    (co_await guest.read_until("\r\n\r\n")).value();
    (co_await zloop::write_all(guest, zloop::bytes_of("HTTP/1.1 200 OK\r\n\r\nhello"))).value();
    (co_await guest.source().shutdown()).value();
}

/// Makes a certificate for localhost that vouches for itself, and its key, both in one PEM file.
zloop::task<std::string> make_certificate() {
    const std::string file = "/tmp/https_get-" + std::to_string(::getpid()) + ".pem";
    zloop::command openssl;
    openssl.argv = {"openssl",  "req",
                    "-x509",    "-newkey",
                    "rsa:2048", "-nodes",
                    "-keyout",  file,
                    "-out",     file,
                    "-days",    "1",
                    "-subj",    "/CN=localhost",
                    "-addext",  "subjectAltName=DNS:localhost"};
    const auto made = (co_await zloop::run_process(std::move(openssl))).value();
    if (!made.status.success()) {
        throw std::runtime_error(made.err);
    }
    co_return file;
}

zloop::task<bool> self_test() {
    const zloop::context here = co_await zloop::current_context();
    auto door = zloop::listener::bind(*here.on, zloop::address::loopback()).value();
    const std::string port = std::to_string(door.local_address().port());
    const std::string file = co_await make_certificate();
    const auto server = zloop::tls::context::server(file, file).value();
    const auto client = zloop::tls::context::client(file).value();

    const auto [nothing, page] =
        co_await zloop::when_all(answer(door, server), get(client, "localhost", port, "/"));
    std::remove(file.c_str());
    co_return page.ends_with("\r\n\r\nhello");
}

int main(int count, char** arguments) {
    if (count != 3) {
        return zloop::run(self_test()) ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    try {
        auto trusted = zloop::tls::context::client().value();  // what the system trusts
        auto fetching = get(trusted, arguments[1], "443", arguments[2]);
        std::printf("%s", zloop::run(zloop::with_timeout(10s, std::move(fetching))).value().c_str());
    } catch (const std::exception& error) {
        std::fprintf(stderr, "https_get: %s\n", error.what());
        return EXIT_FAILURE;
    }
}
