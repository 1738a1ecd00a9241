// zloop/tls/error.hpp: what can go wrong in TLS, as std::error_code.
//
// Three categories: what is wrong with a peer's certificate is X509_V_ERR_…
// (X509_verify_cert_error_string(3)), what OpenSSL says otherwise is its own packed code (ERR_get_error(3)),
// and one error is ours. Errors of the stream below TLS pass through as they are.
#pragma once

#include <zloop/config.hpp>

#include <string>
#include <system_error>

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <zloop/error.hpp>

namespace zloop::tls {

/// An error that OpenSSL has no code for.
/// Example: examples/cpp/https_get.cpp
enum class errc {
    truncated = 1,  ///< the stream below ended without close_notify: what came may not be all that was sent
};

/// The category of `tls::errc`.
inline const std::error_category& category() noexcept {
    struct words final : std::error_category {
        const char* name() const noexcept override { return "zloop.tls"; }
        std::string message(int code) const override {
            return code == static_cast<int>(errc::truncated) ? "truncated" : "unknown zloop.tls error";
        }
    };
    static const words instance;
    return instance;
}

/// The category of X509_V_ERR_…: why a certificate was refused.
inline const std::error_category& certificate_category() noexcept {
    struct words final : std::error_category {
        const char* name() const noexcept override { return "certificate"; }
        std::string message(int code) const override { return ::X509_verify_cert_error_string(code); }
    };
    static const words instance;
    return instance;
}

/// The category of OpenSSL's packed codes.
inline const std::error_category& openssl_category() noexcept {
    struct words final : std::error_category {
        const char* name() const noexcept override { return "openssl"; }
        std::string message(int code) const override {
            const auto packed = static_cast<unsigned long>(static_cast<unsigned>(code));
            if (const char* const reason = ::ERR_reason_error_string(packed)) {
                return reason;
            }
            char text[256];
            ::ERR_error_string_n(packed, text, sizeof text);
            return text;
        }
    };
    static const words instance;
    return instance;
}

/// Makes a std::error_code of a tls::errc; the standard library calls it.
inline std::error_code make_error_code(errc code) noexcept { return {static_cast<int>(code), category()}; }

}  // namespace zloop::tls

template <>
struct std::is_error_code_enum<zloop::tls::errc> : std::true_type {};

namespace zloop::detail {

/// The first error of this thread's queue, which caused the others; the queue is empty then. A failure that
/// OpenSSL has no words for is one of memory, or of a callback: `otherwise`.
inline std::error_code take_openssl_error(std::errc otherwise = std::errc::not_enough_memory) noexcept {
    const unsigned long packed = ::ERR_get_error();
    ::ERR_clear_error();
    if (packed == 0) {
        return std::make_error_code(otherwise);
    }
    if (ERR_GET_LIB(packed) == ERR_LIB_SYS) {
        return system_error_code(ERR_GET_REASON(packed));
    }
    return {static_cast<int>(static_cast<unsigned>(packed)), tls::openssl_category()};
}

}  // namespace zloop::detail
