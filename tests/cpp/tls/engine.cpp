#include <zloop/tls/engine.hpp>

#include <string>
#include <vector>

#include "catch.hpp"
#include "certificates.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::detail::tls_engine;

namespace {

result<std::string> text_of(tls_engine& from, std::size_t most = 100'000) {
    std::string text(most, '\0');
    const auto [error, count] = from.read(std::as_writable_bytes(std::span(text)));
    return error ? result<std::string>(error) : result<std::string>(text.substr(0, count));
}

const auto more = std::make_error_code(std::errc::resource_unavailable_try_again);

/// Two engines that are each other's peer.
struct engines {
    tls_engine client{for_client(), tls_engine::role::client};
    tls_engine server{for_server(), tls_engine::role::server};

    engines() { REQUIRE(client.prepare("localhost", {})); }

    /// Carries what one owes to the other, who does something with each piece of it.
    template <class F>
    static void carry(tls_engine& from, tls_engine& to, std::size_t piece, F use) {
        const auto bytes = from.take_outgoing();
        for (auto rest = std::span(bytes); !rest.empty();) {
            const auto some = rest.first(std::min(piece, rest.size()));
            rest = rest.subspan(some.size());
            to.feed(some);
            use();
            to.keep();
        }
    }

    /// Until both are done; the last thing that either said.
    std::pair<std::error_code, std::error_code> shake(std::size_t piece = 100'000) {
        std::error_code theirs = server.shake_hands().error();
        std::error_code ours = client.shake_hands().error();
        const auto go_on = [](tls_engine& one, std::error_code& said) {
            said = one.shake_hands().error();
            if (!said) {
                CHECK(text_of(one).error() == more);  // tickets, at the client
            }
        };
        while (client.owed() + server.owed() != 0) {
            carry(client, server, piece, [&] { go_on(server, theirs); });
            carry(server, client, piece, [&] { go_on(client, ours); });
        }
        return {ours, theirs};
    }
};

}  // namespace

TEST_CASE("two engines shake hands in whatever pieces their bytes come", "[tls]") {
    const std::size_t piece = GENERATE(std::size_t{1}, std::size_t{7}, std::size_t{100'000});
    engines both;

    const auto [ours, theirs] = both.shake(piece);

    CHECK_FALSE(ours);
    CHECK_FALSE(theirs);
}

TEST_CASE("an engine reads what its peer has written, as much as there is room for", "[tls]") {
    engines both;
    both.shake();
    const std::string text = pattern(50'000);
    REQUIRE(both.client.write(bytes_of(text)).value() == text.size());
    const auto sent = both.client.take_outgoing();

    both.server.feed(sent);

    CHECK(text_of(both.server, 10).value() == text.substr(0, 10));
    CHECK(text_of(both.server, 40'000).value() == text.substr(10, 40'000));
    CHECK(text_of(both.server).value() == text.substr(40'010));
    CHECK(text_of(both.server).error() == more);
}

TEST_CASE("what was fed and not read is kept, and its memory may go", "[tls]") {
    engines both;
    both.shake();
    const std::string text = pattern(40'000);
    static_cast<void>(both.client.write(bytes_of(text)));
    std::string came;
    {
        auto lent = both.client.take_outgoing();
        both.server.feed(lent);
        came = text_of(both.server, 1).value();
        both.server.keep();
        std::fill(lent.begin(), lent.end(), std::byte{0});
    }

    CHECK(came + text_of(both.server).value() == text);
}

TEST_CASE("an end without close_notify is truncation, also in the handshake", "[tls]") {
    engines both;
    SECTION("in the handshake") {
        static_cast<void>(both.client.shake_hands());
        both.client.feed({});
        CHECK(both.client.shake_hands().error() == tls::errc::truncated);
    }
    SECTION("after it, behind what came") {
        both.shake();
        static_cast<void>(both.client.write(bytes_of("some")));
        const auto sent = both.client.take_outgoing();
        both.server.feed(sent);
        CHECK(text_of(both.server).value() == "some");
        both.server.feed({});
        CHECK(text_of(both.server).error() == tls::errc::truncated);
        CHECK(text_of(both.server).error() == tls::errc::truncated);
    }
}

TEST_CASE("after close_notify there is nothing to read, and still something to write", "[tls]") {
    engines both;
    both.shake();

    CHECK(both.client.close());

    engines::carry(both.client, both.server, 100'000, [&] { CHECK(text_of(both.server).value().empty()); });
    CHECK(both.client.write(bytes_of("late")).error() == std::errc::broken_pipe);
    CHECK(both.server.write(bytes_of("still")).value() == 5);
    engines::carry(both.server, both.client, 100'000,
                   [&] { CHECK(text_of(both.client).value() == "still"); });
}

TEST_CASE("a changed byte is an error, the peer is told, and nothing is read any more", "[tls]") {
    engines both;
    both.shake();
    static_cast<void>(both.client.write(bytes_of("first")));
    auto sent = both.client.take_outgoing();
    sent.back() ^= std::byte{1};

    both.server.feed(sent);

    CHECK(text_of(both.server).error().message() == "decryption failed or bad record mac");
    CHECK(both.server.owed() != 0);
    engines::carry(both.server, both.client, 100'000, [&] {
        CHECK(text_of(both.client).error().message().find("bad record mac") != std::string::npos);
    });
    CHECK(text_of(both.server).error().message() == "decryption failed or bad record mac");
    CHECK(both.server.write(bytes_of("x")).error().message() == "decryption failed or bad record mac");
}

TEST_CASE("what is no TLS is refused", "[tls]") {
    engines both;
    const std::string request = "GET / HTTP/1.1\r\n\r\n";

    both.server.feed(bytes_of(request));

    CHECK(both.server.shake_hands().error().message() == "http request");
}

TEST_CASE("a close_notify that anybody can have sent ends no handshake well", "[tls]") {
    const std::string forged("\x15\x03\x03\x00\x02\x01\x00", 7);
    engines both;
    SECTION("for a client") {
        static_cast<void>(both.client.shake_hands());
        both.client.feed(bytes_of(forged));
        CHECK(both.client.shake_hands().error() == tls::errc::truncated);
        CHECK(both.client.write(bytes_of("secret")).error() == tls::errc::truncated);
    }
    SECTION("for a server, behind a hello") {
        static_cast<void>(both.client.shake_hands());
        auto hello = both.client.take_outgoing();
        const auto more_of_it = bytes_of(forged);
        hello.insert(hello.end(), more_of_it.begin(), more_of_it.end());
        both.server.feed(hello);
        CHECK(both.server.shake_hands().error());
        CHECK(both.server.shake_hands().error() != more);
    }
}

TEST_CASE("a host that cannot be one is refused before anything is sent", "[tls]") {
    tls_engine client(for_client(), tls_engine::role::client);

    for (const std::string& host :
         {std::string("local\0host", 10), std::string(300, 'a'), std::string("."), std::string(".com"),
          std::string("10.0.0.1 "), std::string(" localhost"), std::string("a\tb"), std::string("a\x7f")}) {
        INFO(host);
        CHECK(client.prepare(host, {}).error() == std::errc::invalid_argument);
    }
    CHECK(::ERR_peek_error() == 0);
}

TEST_CASE("an engine that is idle holds no buffer", "[tls]") {
    engines both;
    both.shake();
    static_cast<void>(both.client.write(bytes_of("text")));
    engines::carry(both.client, both.server, 100'000, [&] { static_cast<void>(text_of(both.server)); });

    CHECK(both.client.owed() == 0);
    CHECK(both.client.take_outgoing().capacity() == 0);
}
