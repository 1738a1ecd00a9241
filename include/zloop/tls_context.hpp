// zloop/tls_context.hpp: what TLS connections have in common: certificates, whom to trust, protocols.
//
// A context is a handle of OpenSSL's SSL_CTX; copies are the same one, and each connection holds one. It is
// set up by one thread, and may then serve the connections of any number of them.
//
// What is not said is safe: TLS 1.2 or newer, no renegotiation, no compression, and a client that verifies
// its server. What OpenSSL knows beyond this is set by native_handle().
#pragma once

#include <zloop/config.hpp>

#include <functional>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <openssl/ssl.h>

#include <zloop/error.hpp>
#include <zloop/tls_error.hpp>

namespace zloop::tls {

/// What a client keeps of a connection to make the next one to that server cheaper; empty at first.
class session {
public:
    session() noexcept = default;

    /// Takes over a reference.
    explicit session(SSL_SESSION* owned) : handle_(owned, &::SSL_SESSION_free) {}

    explicit operator bool() const noexcept { return handle_ != nullptr; }
    SSL_SESSION* native_handle() const noexcept { return handle_.get(); }

private:
    std::shared_ptr<SSL_SESSION> handle_;
};

/// Whether a server wants to see its clients' certificates. One that is shown must be good in any case.
enum class client_certificates : bool { optional, required };

/// Settings of many connections, of clients or of a server.
///
/// Example: examples/cpp/https_get.cpp
class context {
public:
    /// For clients, which trust what the system trusts.
    /// Fails: when the system's certificates cannot be read.
    static result<context> client() {
        context made(::TLS_client_method());
        if (::SSL_CTX_set_default_verify_paths(made.native_handle()) != 1) {
            return detail::take_openssl_error();
        }
        return made.for_clients();
    }

    /// For clients, which trust the certificates in the PEM file `trusted`, and nobody else.
    /// Fails: when it cannot be read.
    static result<context> client(const std::string& trusted) {
        context made(::TLS_client_method());
        if (const auto read = made.trust(trusted); !read) {
            return read.error();
        }
        return made.for_clients();
    }

    /// For servers, which show the first certificate of the PEM file `chain`, and those that vouch for it
    /// behind; `key` is its private key, not encrypted.
    /// Fails: when one of them cannot be read, or they do not belong together.
    static result<context> server(const std::string& chain, const std::string& key) {
        context made(::TLS_server_method());
        if (const auto used = made.use_certificate(chain, key); !used) {
            return used.error();
        }
        SSL_CTX* const handle = made.native_handle();
        ::SSL_CTX_set_options(handle, SSL_OP_CIPHER_SERVER_PREFERENCE);
        // Sessions of clients with certificates are resumed only where they say whose they are.
        static constexpr unsigned char ours[] = "zloop";
        ::SSL_CTX_set_session_id_context(handle, ours, sizeof ours - 1);
        ::SSL_CTX_set_tlsext_servername_callback(handle, &context::choose_by_name);
        ::SSL_CTX_set_tlsext_servername_arg(handle, made.settings_.get());
        return made;
    }

    /// Shows a certificate, as server() does: for clients that have one.
    result<void> use_certificate(const std::string& chain, const std::string& key) {
        ::ERR_clear_error();
        if (::SSL_CTX_use_certificate_chain_file(native_handle(), chain.c_str()) != 1 ||
            ::SSL_CTX_use_PrivateKey_file(native_handle(), key.c_str(), SSL_FILETYPE_PEM) != 1 ||
            ::SSL_CTX_check_private_key(native_handle()) != 1) {
            return detail::take_openssl_error();
        }
        return {};
    }

    /// Has a server ask its clients for certificates that those in the PEM file `trusted` vouch for.
    /// Fails: when it cannot be read.
    result<void> ask_for_certificates(client_certificates wanted, const std::string& trusted) {
        if (const auto read = trust(trusted); !read) {
            return read;
        }
        ::SSL_CTX_set_client_CA_list(native_handle(), ::SSL_load_client_CA_file(trusted.c_str()));
        const int strictness =
            wanted == client_certificates::required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE;
        ::SSL_CTX_set_verify(native_handle(), SSL_VERIFY_PEER | strictness, nullptr);
        return {};
    }

    /// Has a client take any server for the right one. Such a connection is private, but with whom, nobody
    /// knows.
    void trust_anybody() noexcept { ::SSL_CTX_set_verify(native_handle(), SSL_VERIFY_NONE, nullptr); }

    /// The protocols to speak inside of TLS, best first (ALPN, RFC 7301): a client offers them, a server
    /// takes the first of its own that was offered. Where there is none in common, a server goes on without.
    /// Fails: `invalid_argument` when a name is empty or has more than 255 bytes.
    result<void> set_protocols(std::initializer_list<std::string_view> names) {
        std::vector<unsigned char> listed;
        for (const std::string_view name : names) {
            if (name.empty() || name.size() > 255) {
                return std::errc::invalid_argument;
            }
            listed.push_back(static_cast<unsigned char>(name.size()));
            listed.insert(listed.end(), name.begin(), name.end());
        }
        settings_->protocols = std::move(listed);
        const auto& kept = settings_->protocols;
        if (::SSL_CTX_set_alpn_protos(native_handle(), kept.data(), static_cast<unsigned>(kept.size())) !=
            0) {
            return detail::take_openssl_error();
        }
        ::SSL_CTX_set_alpn_select_cb(native_handle(), &context::choose_protocol, settings_.get());
        return {};
    }

    /// Asks `choose` for the context of the host that a client names (SNI, RFC 6066): of that is the
    /// certificate. None: this one goes on. When it throws, the handshake fails.
    void on_server_name(std::function<std::optional<context>(std::string_view)> choose) {
        settings_->choose = std::move(choose);
    }

    SSL_CTX* native_handle() const noexcept { return settings_->handle.get(); }

    /// Whether a peer must prove who it is.
    bool verifies() const noexcept { return ::SSL_CTX_get_verify_mode(native_handle()) != SSL_VERIFY_NONE; }

private:
    struct settings {
        std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> handle;
        std::vector<unsigned char> protocols;  // each behind its length
        std::function<std::optional<context>(std::string_view)> choose;
    };

    explicit context(const SSL_METHOD* method)
        : settings_(std::make_shared<settings>(settings{{::SSL_CTX_new(method), &::SSL_CTX_free}, {}, {}})) {
        SSL_CTX* const handle = native_handle();
        if (handle == nullptr) {
            throw std::bad_alloc();
        }
        ::SSL_CTX_set_min_proto_version(handle, TLS1_2_VERSION);
        ::SSL_CTX_set_options(handle, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
        ::SSL_CTX_set_mode(handle, SSL_MODE_RELEASE_BUFFERS);
        // OpenSSL's own asks the terminal for the password of a key, and waits.
        ::SSL_CTX_set_default_passwd_cb(handle, [](char*, int, int, void*) { return 0; });
        ::ERR_clear_error();
    }

    context& for_clients() {
        SSL_CTX* const handle = native_handle();
        ::SSL_CTX_set_verify(handle, SSL_VERIFY_PEER, nullptr);
        ::SSL_CTX_set_session_cache_mode(handle, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        ::SSL_CTX_sess_set_new_cb(handle, &context::keep_session);
        return *this;
    }

    result<void> trust(const std::string& file) {
        ::ERR_clear_error();
        if (::SSL_CTX_load_verify_locations(native_handle(), file.c_str(), nullptr) != 1) {
            return detail::take_openssl_error();
        }
        return {};
    }

    static int choose_by_name(SSL* handle, int* alert, void* of) noexcept;
    static int keep_session(SSL* handle, SSL_SESSION* newest) noexcept;

    static int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* size,
                               const unsigned char* offered, unsigned offered_size, void* of) noexcept {
        const auto& ours = static_cast<settings*>(of)->protocols;
        unsigned char* found = nullptr;  // OpenSSL's own signature is without const
        const int outcome = ::SSL_select_next_proto(
            &found, size, ours.data(), static_cast<unsigned>(ours.size()), offered, offered_size);
        *chosen = found;
        return outcome == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
    }

    std::shared_ptr<settings> settings_;
};

}  // namespace zloop::tls

namespace zloop::detail {

/// What a context's callbacks change of a connection, which finds it by its SSL object.
struct tls_connection {
    tls::context serving;   ///< the one that was asked for by name, or the first
    tls::session newest{};  ///< the last that the server has given

    /// Where an SSL object keeps the address of its connection.
    static int index() {
        static const int number = ::SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
        return number;
    }
    static tls_connection& of(SSL* handle) {
        return *static_cast<tls_connection*>(::SSL_get_ex_data(handle, index()));
    }
};

}  // namespace zloop::detail

namespace zloop::tls {

inline int context::choose_by_name(SSL* handle, int* alert, void* of) noexcept {
    const char* const name = ::SSL_get_servername(handle, TLSEXT_NAMETYPE_host_name);
    const auto& choose = static_cast<settings*>(of)->choose;
    if (name == nullptr || !choose) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    try {
        if (auto chosen = choose(name)) {
            // It brings its certificates; whom to ask for theirs stays with the SSL object unless told.
            ::SSL_set_SSL_CTX(handle, chosen->native_handle());
            ::SSL_set_verify(handle, ::SSL_CTX_get_verify_mode(chosen->native_handle()), nullptr);
            detail::tls_connection::of(handle).serving = std::move(*chosen);
        }
        return SSL_TLSEXT_ERR_OK;
    } catch (...) {
        *alert = SSL_AD_INTERNAL_ERROR;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
}

inline int context::keep_session(SSL* handle, SSL_SESSION* newest) noexcept {
    try {
        detail::tls_connection::of(handle).newest = session(newest);
        return 1;  // the reference is ours
    } catch (...) {
        return 1;  // and was let go of
    }
}

}  // namespace zloop::tls
