#include <zloop/tls.hpp>

#include <random>
#include <string>
#include <vector>

#include <zloop/buffered_reader.hpp>
#include <zloop/cancel.hpp>
#include <zloop/nursery.hpp>
#include <zloop/sleep.hpp>
#include <zloop/when.hpp>

#include "catch.hpp"
#include "certificates.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using zloop::testing::virtual_loop;

namespace {

/// A stream without receive, as a user's own layer is.
struct bare {
    stream socket;
    auto recv(std::span<std::byte> buffer) { return socket.recv(buffer); }
    auto send(std::span<const std::byte> buffer) { return socket.send(buffer); }
};

template <class S>
struct secured {
    result<tls::stream<S>> client;
    result<tls::stream<S>> server;
};

/// Both ends of a connection shake hands.
template <class S>
task<secured<S>> shake(S first, S second, tls::context with = for_client(), std::string host = "localhost",
                       tls::context by = for_server(), tls::session earlier = {}) {
    auto [client, server] = co_await when_all(
        tls::connect(std::move(first), std::move(with), std::move(host), std::move(earlier)),
        tls::accept(std::move(second), std::move(by)));
    co_return secured<S>{std::move(client), std::move(server)};
}

/// Two ends of TLS on a loop; the client's is `client`.
struct tls_fixture {
    loop on{each_backend()};
    tls::stream<stream> client, server;

    explicit tls_fixture(tls::context with = for_client(), tls::context by = for_server()) {
        auto both = try_to(std::move(with), "localhost", std::move(by));
        client = std::move(both.client).value();
        server = std::move(both.server).value();
    }

    secured<stream> try_to(tls::context with, std::string host, tls::context by = for_server(),
                           tls::session earlier = {}) {
        auto pair = stream::pair(on).value();
        return run(on, shake(std::move(pair.first), std::move(pair.second), std::move(with), std::move(host),
                             std::move(by), std::move(earlier)));
    }

    /// The client sends until its socket takes no more, and gives up on that: all that it has counted as
    /// sent.
    std::string send_until_cancelled() {
        const std::string block = pattern(64 * 1024);
        std::string taken;
        for (bool full = false; !full;) {
            job sending(on, client.send(bytes_of(block)));
            turn(on, 5);
            full = !sending.done();
            sending.cancel();
            taken += block.substr(0, finish(on, sending).value());
        }
        return taken;
    }

    std::string server_reads(std::size_t size) {
        std::string text(size, '\0');
        CHECK(run(on, read_exactly(server, std::as_writable_bytes(std::span(text)))));
        return text;
    }
};

template <class S>
task<result<std::string>> read_text(S& from, std::size_t most = 64 * 1024) {
    std::string text(most, '\0');
    const auto [error, count] = co_await from.recv(std::as_writable_bytes(std::span(text)));
    co_return error ? result<std::string>(error) : result<std::string>(text.substr(0, count));
}

/// All that comes, up to the end.
template <class S>
task<std::string> read_all(S& from) {
    std::string all;
    for (;;) {
        result<std::string> some = co_await read_text(from);
        if (some.value().empty()) {
            co_return all;
        }
        all += *some;
    }
}

template <class S>
task<> write_and_finish(S& to, std::string text) {
    const result<void> written = co_await write_all(to, bytes_of(text));
    const result<void> finished = co_await to.finish();
    CHECK(written);
    CHECK(finished);
}

}  // namespace

TEST_CASE("bytes go both ways through TLS", "[tls]") {
    tls_fixture with;

    CHECK(run(with.on, write_all(with.client, bytes_of("ping"))));
    CHECK(run(with.on, read_text(with.server)).value() == "ping");
    CHECK(run(with.on, write_all(with.server, bytes_of("pong"))));
    CHECK(run(with.on, read_text(with.client)).value() == "pong");
    CHECK(with.client.version() == "TLSv1.3");
}

TEST_CASE("large texts cross each other, and nobody waits for the other to read", "[tls]") {
    tls_fixture with;
    const std::string there = pattern(3'000'000), back = pattern(2'500'001);

    auto [sent, answered, came, returned] =
        run(with.on, when_all(write_and_finish(with.client, there), write_and_finish(with.server, back),
                              read_all(with.server), read_all(with.client)));

    CHECK((came == there));
    CHECK((returned == back));
}

TEMPLATE_TEST_CASE("TLS works over streams that only receive into a buffer", "[tls]", bare) {
    loop on(each_backend());
    auto pair = stream::pair(on).value();
    auto both = run(on, shake<TestType>({std::move(pair.first)}, {std::move(pair.second)}));
    auto client = std::move(both.client).value();
    auto server = std::move(both.server).value();
    const std::string text = pattern(300'000);

    auto [sent, came] = run(on, when_all(write_and_finish(client, text), read_all(server)));

    CHECK((came == text));
}

TEST_CASE("TLS works within TLS, and over a stream that it does not own", "[tls]") {
    tls_fixture with;
    auto inner = run(with.on, [](tls_fixture& outer) -> task<secured<tls::stream<stream>&>> {
        auto [client, server] = co_await when_all(tls::connect(outer.client, for_client(), "localhost"),
                                                  tls::accept(outer.server, for_server()));
        co_return secured<tls::stream<stream>&>{std::move(client), std::move(server)};
    }(with));
    auto client = std::move(inner.client).value();
    auto server = std::move(inner.server).value();

    auto [sent, came] = run(with.on, when_all(write_and_finish(client, "deep"), read_all(server)));

    CHECK(came == "deep");
    CHECK(&client.below() == &with.client);
}

TEST_CASE("lines are read through TLS", "[tls]") {
    tls_fixture with;
    buffered_reader reader(std::move(with.server));

    CHECK(run(with.on, write_all(with.client, bytes_of("one\ntwo\n"))));

    CHECK(run(with.on, reader.read_line()).value() == "one");
    CHECK(run(with.on, reader.read_line()).value() == "two");
}

TEST_CASE("a server must be who it was asked to be", "[tls]") {
    tls_fixture with;
    SECTION("by name") {
        CHECK(with.try_to(for_client(), "localhost").client);
        CHECK(with.try_to(for_client(), "localhost.").client);
        const auto refused = with.try_to(for_client(), "example.org");
        CHECK(refused.client.error() ==
              std::error_code(X509_V_ERR_HOSTNAME_MISMATCH, tls::certificate_category()));
        CHECK(refused.server.error().category() == tls::openssl_category());  // was told
    }
    SECTION("by address") {
        CHECK(with.try_to(for_client(), "127.0.0.1").client);
        CHECK(with.try_to(for_client(), "::1").client);
        CHECK(with.try_to(for_client(), "127.0.0.2").client.error() ==
              std::error_code(X509_V_ERR_IP_ADDRESS_MISMATCH, tls::certificate_category()));
    }
    SECTION("by somebody who is trusted") {
        authority stranger("stranger");
        const auto refused = with.try_to(tls::context::client(stranger.file()).value(), "localhost");
        CHECK(refused.client.error().category() == tls::certificate_category());
    }
    SECTION("unless nobody asks") {
        auto careless = tls::context::client().value();
        careless.trust_anybody();
        CHECK(with.try_to(careless, "example.org").client);
        CHECK(with.try_to(careless, "").client);
    }
}

TEST_CASE("without a host there is no certificate that would be right", "[tls]") {
    loop on(each_backend());
    auto pair = stream::pair(on).value();

    const auto refused = run(on, tls::connect(std::move(pair.first), for_client(), ""));

    CHECK(refused.error() == std::errc::invalid_argument);
}

TEST_CASE("client and server agree on a protocol", "[tls]") {
    auto client = for_client(), server = for_server();
    REQUIRE(client.set_protocols({"h2", "http/1.1"}));
    SECTION("the server's best that was offered") {
        REQUIRE(server.set_protocols({"spdy", "http/1.1", "h2"}));
        tls_fixture with(client, server);
        CHECK(with.client.protocol() == "http/1.1");
        CHECK(with.server.protocol() == "http/1.1");
    }
    SECTION("none, when there is none in common") {
        REQUIRE(server.set_protocols({"spdy"}));
        tls_fixture with(client, server);
        CHECK(with.client.protocol().empty());
    }
    SECTION("none, when the server has none") {
        tls_fixture with(client, server);
        CHECK(with.server.protocol().empty());
    }
}

TEST_CASE("a server of several names shows the certificate of the one that is meant", "[tls]") {
    const auto other = trusted_authority().issue("other", "DNS:other.test");
    auto server = for_server();
    std::vector<std::string> asked;
    server.on_server_name([&](std::string_view name) -> std::optional<tls::context> {
        asked.emplace_back(name);
        if (name == "other.test") {
            auto found = tls::context::server(other.chain, other.key).value();
            found.set_protocols({"its-own"}).value();
            return found;  // nobody else holds it
        }
        if (name == "trouble.test") {
            throw std::runtime_error("out of luck");
        }
        return std::nullopt;
    });
    auto client = for_client();
    REQUIRE(client.set_protocols({"its-own"}));
    tls_fixture with;

    auto there = with.try_to(client, "other.test", server);
    CHECK(with.try_to(client, "localhost", server).client);
    const auto trouble = with.try_to(client, "trouble.test", server);

    CHECK(there.client.value().protocol() == "its-own");
    CHECK(there.server.value().server_name() == "other.test");
    CHECK(trouble.client.error().message().find("internal error") != std::string::npos);
    CHECK(asked == std::vector<std::string>{"other.test", "localhost", "trouble.test"});
}

TEST_CASE("a server may ask its clients who they are", "[tls]") {
    const auto me = trusted_authority().issue("me", "DNS:me");
    authority stranger("stranger");
    auto server = for_server();
    auto known = for_client(), unknown = for_client();
    REQUIRE(known.use_certificate(me.chain, me.key));
    const auto them = stranger.issue("them", "DNS:them");
    REQUIRE(unknown.use_certificate(them.chain, them.key));
    tls_fixture with;
    const auto wanted = GENERATE(tls::client_certificates::optional, tls::client_certificates::required);
    REQUIRE(server.ask_for_certificates(wanted, trusted_authority().file()));

    auto shown = with.try_to(known, "localhost", server);
    const auto not_shown = with.try_to(for_client(), "localhost", server);
    const auto not_good = with.try_to(unknown, "localhost", server);

    CHECK(shown.server.value().peer_certificate() != nullptr);
    CHECK(bool(not_shown.server) == (wanted == tls::client_certificates::optional));
    CHECK(not_good.server.error().category() == tls::certificate_category());
}

TEST_CASE("a session makes the next connection to the same server shorter", "[tls]") {
    auto client = for_client();
    const auto server = for_server();
    const int version = GENERATE(TLS1_2_VERSION, TLS1_3_VERSION);
    SSL_CTX_set_max_proto_version(client.native_handle(), version);
    tls_fixture first(client, server);
    CHECK_FALSE(first.client.is_resumed());
    REQUIRE(run(first.on, write_all(first.server, bytes_of("hello"))));
    REQUIRE(run(first.on, read_text(first.client)).value() == "hello");
    const tls::session kept = first.client.newest_session();
    REQUIRE(kept);
    first.client = {};  // without a word: that does not spoil the session

    const auto second = first.try_to(client, "localhost", server, kept);

    CHECK(const_cast<secured<stream>&>(second).client.value().is_resumed());
    CHECK(const_cast<secured<stream>&>(second).server.value().is_resumed());
}

TEST_CASE("a session is good for its host and its context, and no other", "[tls]") {
    const auto other = trusted_authority().issue("both", "DNS:localhost, DNS:other.test");
    const auto server = tls::context::server(other.chain, other.key).value();
    auto client = for_client();
    SSL_CTX_set_max_proto_version(client.native_handle(), TLS1_2_VERSION);  // which gives it at once
    tls_fixture first(client, server);
    const tls::session kept = first.client.newest_session();
    REQUIRE(kept);

    auto again = first.try_to(client, "localhost.", server, kept);
    auto elsewhere = first.try_to(client, "other.test", server, kept);
    auto otherwise = first.try_to(for_client(), "localhost", server, kept);

    CHECK(again.client.value().is_resumed());
    CHECK_FALSE(elsewhere.client.value().is_resumed());
    CHECK_FALSE(otherwise.client.value().is_resumed());
}

TEST_CASE("a session of somebody who was not verified is none once verification is asked for", "[tls]") {
    authority stranger("stranger");
    const auto unknown = stranger.issue("localhost", "DNS:localhost");
    const auto server = tls::context::server(unknown.chain, unknown.key).value();
    auto client = for_client();
    SSL_CTX_set_max_proto_version(client.native_handle(), TLS1_2_VERSION);
    client.trust_anybody();
    tls_fixture first(client, server);
    const tls::session kept = first.client.newest_session();
    REQUIRE(kept);
    ::SSL_CTX_set_verify(client.native_handle(), SSL_VERIFY_PEER, nullptr);

    const auto refused = first.try_to(client, "localhost", server, kept);

    CHECK(refused.client.error().category() == tls::certificate_category());
}

TEST_CASE("who has a session with one host of a server is nobody at another that asks for certificates",
          "[tls]") {
    const auto strict_names = trusted_authority().issue("strict", "DNS:strict.test");
    auto strict = tls::context::server(strict_names.chain, strict_names.key).value();
    REQUIRE(strict.ask_for_certificates(tls::client_certificates::required, trusted_authority().file()));
    auto server = for_server();
    server.on_server_name([&](std::string_view name) -> std::optional<tls::context> {
        return name == "strict.test" ? std::optional(strict) : std::nullopt;
    });
    auto client = for_client();
    tls_fixture first(client, server);
    REQUIRE(run(first.on, write_all(first.server, bytes_of("a ticket comes before this"))));
    REQUIRE(run(first.on, read_text(first.client)));
    SSL_SESSION* const kept = first.client.newest_session().native_handle();
    REQUIRE(kept != nullptr);

    // Our client would not try: OpenSSL's is asked directly.
    auto pair = stream::pair(first.on).value();
    zloop::detail::tls_engine attacker(client, zloop::detail::tls_engine::role::client);
    REQUIRE(attacker.prepare("strict.test", {}));
    REQUIRE(::SSL_set_session(attacker.ssl(), kept) == 1);
    job serving(first.on, tls::accept(std::move(pair.second), server));
    while (!serving.done()) {
        static_cast<void>(attacker.shake_hands());
        const auto owed = attacker.take_outgoing();
        if (!owed.empty()) {
            REQUIRE(run(first.on, write_all(pair.first, owed)));
        }
        turn(first.on, 3);
        job came(first.on, receive_text(pair.first));
        turn(first.on, 3);
        came.cancel();
        const std::string text = finish(first.on, came);
        if (!text.empty() && text != message(std::errc::operation_canceled)) {
            attacker.feed(bytes_of(text));
            static_cast<void>(attacker.shake_hands());
            attacker.keep();
        }
    }

    CHECK(finish(first.on, serving).error().category() == tls::openssl_category());
    CHECK(::SSL_session_reused(attacker.ssl()) == 0);
}

TEST_CASE("both ends say that they are done", "[tls]") {
    tls_fixture with;

    auto [ours, theirs] = run(with.on, when_all(with.client.shutdown(), with.server.shutdown()));

    CHECK(ours);
    CHECK(theirs);
    CHECK(run(with.on, with.client.send(bytes_of("late"))).error() == std::errc::broken_pipe);
    CHECK(run(with.on, read_text(with.client)).value().empty());
}

TEST_CASE("shutdown drops what still comes, and takes for an answer that the peer goes", "[tls]") {
    tls_fixture with;
    REQUIRE(run(with.on, write_all(with.server, bytes_of(pattern(10'000)))));
    job leaving(with.on, with.client.shutdown());
    turn(with.on, 3);

    with.server = {};  // with our close_notify unread, so that the kernel says reset

    CHECK(finish(with.on, leaving));
}

TEST_CASE("shutdown waits no longer than it is told for a peer that is silent", "[tls]") {
    tls_fixture with;

    CHECK(run(with.on, with.client.shutdown(20ms)).error() == std::errc::timed_out);
}

TEST_CASE("a peer that leaves without a word has cut the text", "[tls]") {
    tls_fixture with;
    REQUIRE(run(with.on, write_all(with.server, bytes_of("half a sen"))));
    with.server = {};

    CHECK(run(with.on, read_text(with.client)).value() == "half a sen");
    CHECK(run(with.on, read_text(with.client)).error() == tls::errc::truncated);
}

TEST_CASE("a handshake with somebody who says nothing ends when it is told", "[tls]") {
    loop on(each_backend());
    auto pair = stream::pair(on).value();

    const auto late = run(on, with_timeout(20ms, tls::accept(std::move(pair.first), for_server())));

    CHECK(late.error() == std::errc::timed_out);
}

TEST_CASE("a handshake with somebody who leaves, or speaks something else, fails", "[tls]") {
    loop on(each_backend());
    auto pair = stream::pair(on).value();
    SECTION("leaves") {
        pair.second = {};
        CHECK(run(on, tls::accept(std::move(pair.first), for_server())).error() == tls::errc::truncated);
    }
    SECTION("speaks HTTP") {
        REQUIRE(run(on, write_all(pair.second, bytes_of("GET / HTTP/1.1\r\n\r\n"))));
        const auto refused = run(on, tls::accept(std::move(pair.first), for_server()));
        CHECK(refused.error().message() == "http request");
        CHECK(run(on, receive_text(pair.second)).empty());
    }
}

TEST_CASE("a recv that is cancelled has read nothing", "[tls]") {
    tls_fixture with;
    job waiting(with.on, read_text(with.client));
    turn(with.on, 3);

    waiting.cancel();

    CHECK(finish(with.on, waiting).error() == std::errc::operation_canceled);
    REQUIRE(run(with.on, write_all(with.server, bytes_of("after all"))));
    CHECK(run(with.on, read_text(with.client)).value() == "after all");
}

TEST_CASE("what a cancelled send has encrypted arrives, and nothing twice", "[tls]") {
    tls_fixture with;
    const std::string taken = with.send_until_cancelled();
    SECTION("with the next send") {
        auto [sent, came] =
            run(with.on, when_all(write_and_finish(with.client, "more"), read_all(with.server)));
        CHECK((came == taken + "more"));
    }
    SECTION("while an answer is awaited") {
        job answer(with.on, read_text(with.client));
        CHECK((with.server_reads(taken.size()) == taken));
        REQUIRE(run(with.on, write_all(with.server, bytes_of("thanks"))));
        CHECK(finish(with.on, answer).value() == "thanks");
    }
}

TEST_CASE("a send that is cancelled beside a recv leaves its bytes to that", "[tls]") {
    tls_fixture with;
    job answer(with.on, read_text(with.client));
    turn(with.on, 3);

    const std::string taken = with.send_until_cancelled();

    CHECK((with.server_reads(taken.size()) == taken));
    REQUIRE(run(with.on, write_all(with.server, bytes_of("thanks"))));
    CHECK(finish(with.on, answer).value() == "thanks");
}

TEST_CASE("a send that waits for what one before has left is cancelled without a byte", "[tls]") {
    tls_fixture with;
    const std::string taken = with.send_until_cancelled();
    job second(with.on, with.client.send(bytes_of("second")));
    turn(with.on, 3);

    second.cancel();

    CHECK(finish(with.on, second).error() == std::errc::operation_canceled);
    auto [sent, came] = run(with.on, when_all(write_and_finish(with.client, ""), read_all(with.server)));
    CHECK((came == taken));
}

TEST_CASE("a reset ends both directions", "[tls]") {
    tls_fixture with;
    connection reset(with.on, kind::tcp);
    auto handshaking = job(with.on, tls::accept(std::move(reset.socket), for_server()));
    turn(with.on, 3);
    const linger at_once{1, 0};
    ::setsockopt(reset.peer.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);

    reset.peer.reset();

    CHECK(finish(with.on, handshaking).error() == std::errc::connection_reset);
}

TEST_CASE("keys are renewed in the middle of it", "[tls]") {
    tls_fixture with;
    REQUIRE(::SSL_key_update(with.client.native_handle(), SSL_KEY_UPDATE_REQUESTED) == 1);
    REQUIRE(run(with.on, write_all(with.client, bytes_of("new"))));

    CHECK(run(with.on, read_text(with.server)).value() == "new");
    REQUIRE(run(with.on, write_all(with.server, bytes_of("keys"))));
    CHECK(run(with.on, read_text(with.client)).value() == "keys");
}

TEST_CASE("a recv that fails for good says how, also when a send beside it is cancelled", "[tls]") {
    tls_fixture with;
    job answer(with.on, read_text(with.client));
    turn(with.on, 3);
    static_cast<void>(with.send_until_cancelled());

    with.server.below().close();

    const auto error = finish(with.on, answer).error();
    CHECK((error == std::errc::connection_reset || error == tls::errc::truncated));
}

TEST_CASE("a stream may move while something waits on it", "[tls]") {
    tls_fixture with;
    job answer(with.on, read_text(with.client));
    turn(with.on, 3);
    auto receiving = with.server.recv({});

    const tls::stream<stream> client = std::move(with.client);
    tls::stream<stream> server = std::move(with.server);

    CHECK(run(with.on, std::move(receiving)).value() == 0);
    REQUIRE(run(with.on, write_all(server, bytes_of("found"))));
    CHECK(finish(with.on, answer).value() == "found");
    CHECK_FALSE(with.client);
    CHECK(run(with.on, with.client.send(bytes_of("x"))).error() == std::errc::not_connected);
}

TEST_CASE("a recv of no bytes asks for nothing", "[tls]") {
    tls_fixture with;

    CHECK(run(with.on, with.client.recv({})).value() == 0);
    CHECK(run(with.on, with.client.send({})).value() == 0);
}
