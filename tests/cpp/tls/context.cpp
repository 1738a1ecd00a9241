#include <zloop/tls/context.hpp>

#include <fstream>
#include <thread>

#include "catch.hpp"
#include "certificates.hpp"

using namespace zloop;
using namespace support;

TEST_CASE("a context that nobody has changed is safe", "[tls]") {
    const auto client = tls::context::client().value();
    const auto server = for_server();

    CHECK(client.verifies());
    CHECK_FALSE(server.verifies());
    for (const auto& each : {client, server}) {
        SSL_CTX* const handle = each.native_handle();
        CHECK(SSL_CTX_get_min_proto_version(handle) == TLS1_2_VERSION);
        CHECK((::SSL_CTX_get_options(handle) & SSL_OP_NO_RENEGOTIATION) != 0);
        CHECK((::SSL_CTX_get_options(handle) & SSL_OP_NO_COMPRESSION) != 0);
    }
}

TEST_CASE("copies of a context are the same one", "[tls]") {
    auto first = tls::context::client().value();
    const auto second = first;

    first.trust_anybody();

    CHECK_FALSE(second.verifies());
}

TEST_CASE("a file that cannot be used is an error", "[tls]") {
    const auto& good = localhost();
    const std::string nowhere = trusted_authority().file() + ".not";
    SECTION("one that is not there: the system's") {
        CHECK(tls::context::client(nowhere).error() == std::errc::no_such_file_or_directory);
        CHECK(tls::context::server(nowhere, good.key).error() == std::errc::no_such_file_or_directory);
        CHECK(tls::context::server(good.chain, nowhere).error() == std::errc::no_such_file_or_directory);
    }
    SECTION("one that is no PEM file: OpenSSL's") {
        std::ofstream(nowhere) << "no certificate";
        CHECK(tls::context::server(nowhere, good.key).error().category() == tls::openssl_category());
        CHECK(tls::context::client(nowhere).error().category() == tls::openssl_category());
    }
    SECTION("a key of another certificate") {
        const auto other = trusted_authority().issue("other", "DNS:other");
        const auto made = tls::context::server(good.chain, other.key);
        CHECK(made.error().message() == "key values mismatch");
    }
    SECTION("an encrypted key, whose password nobody is asked for") {
        const auto locked = trusted_authority().encrypted(trusted_authority().issue("it", "DNS:it"));
        CHECK(tls::context::server(good.chain, locked).error().category() == tls::openssl_category());
    }
    SECTION("those whom a server's clients are trusted by") {
        auto server = tls::context::server(good.chain, good.key).value();
        const auto asked = server.ask_for_certificates(tls::client_certificates::required, nowhere + ".");
        CHECK(asked.error() == std::errc::no_such_file_or_directory);
        CHECK_FALSE(server.verifies());
    }
    CHECK(::ERR_peek_error() == 0);
}

TEST_CASE("a protocol's name has 1 to 255 bytes", "[tls]") {
    auto context = tls::context::client().value();
    const std::string longest(255, 'p');

    CHECK(context.set_protocols({"h2", longest}));
    CHECK(context.set_protocols({"h2", ""}).error() == std::errc::invalid_argument);
    CHECK(context.set_protocols({longest + "p"}).error() == std::errc::invalid_argument);
}
