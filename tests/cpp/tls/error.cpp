#include <zloop/tls/error.hpp>

#include <string>

#include <openssl/ssl.h>

#include "catch.hpp"

using namespace zloop;

TEST_CASE("a certificate's error says what is wrong with it", "[tls]") {
    const std::error_code error(X509_V_ERR_CERT_HAS_EXPIRED, tls::certificate_category());

    CHECK(error.message() == "certificate has expired");
    CHECK(std::string(error.category().name()) == "certificate");
}

TEST_CASE("an end without close_notify is an error of its own", "[tls]") {
    const std::error_code error = tls::errc::truncated;

    CHECK(error);
    CHECK(error == tls::errc::truncated);
    CHECK(error.message() == "truncated");
    CHECK(std::string(error.category().name()) == "zloop.tls");
    CHECK(std::error_code(7, tls::category()).message() == "unknown zloop.tls error");
}

TEST_CASE("OpenSSL's error is the first of its queue, which is empty then", "[tls]") {
    SSL_load_error_strings();
    ::ERR_clear_error();
    ERR_put_error(ERR_LIB_SSL, 0, SSL_R_WRONG_VERSION_NUMBER, "", 0);
    ERR_put_error(ERR_LIB_SSL, 0, ERR_R_MALLOC_FAILURE, "", 0);

    const auto error = zloop::detail::take_openssl_error();

    CHECK(error.category() == tls::openssl_category());
    CHECK(error.message() == "wrong version number");
    CHECK(::ERR_peek_error() == 0);
}

TEST_CASE("a code that OpenSSL has no words for is a number at least", "[tls]") {
    ERR_put_error(ERR_LIB_USER, 0, 4095, "", 0);

    CHECK(zloop::detail::take_openssl_error().message().find("4095") != std::string::npos);
}

TEST_CASE("a failure that OpenSSL says nothing about is one of memory, unless told otherwise", "[tls]") {
    CHECK(zloop::detail::take_openssl_error() == std::errc::not_enough_memory);
    CHECK(zloop::detail::take_openssl_error(std::errc::invalid_argument) == std::errc::invalid_argument);
}
