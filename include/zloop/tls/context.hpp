// zloop/tls/context.hpp: what TLS connections have in common: certificates, whom to trust, protocols.
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

#include <openssl/rand.h>
#include <openssl/ssl.h>

#include <zloop/error.hpp>
#include <zloop/tls/error.hpp>

namespace zloop::detail {
struct tls_connection;
}  // namespace zloop::detail

namespace zloop::tls {

/// What a client keeps of a connection to make the next one to that server cheaper; empty at first.
///
/// Who resumes a session verifies nobody again, so it is only good for the same host and the same context;
/// with others it is not used.
///
/// Owns:    a reference; copies are the same session.
/// Example: examples/cpp/https_get.cpp
class session {
public:
    /// No session: the connection begins anew.
    session() noexcept = default;

    /// Whether there is one.
    explicit operator bool() const noexcept { return handle_ != nullptr; }
    /// OpenSSL's object; null: none.
    SSL_SESSION* native_handle() const noexcept { return handle_.get(); }

private:
    friend class context;
    friend detail::tls_connection;

    std::shared_ptr<SSL_SESSION> handle_;
    std::shared_ptr<const void> owner_;  // the context's settings
    std::string host_;
};

/// Whether a server wants to see its clients' certificates. One that is shown must be good in any case.
enum class client_certificates : bool {
    optional,  ///< they may show none
    required,  ///< who shows none is refused
};

/// Settings of many connections, of clients or of a server.
///
/// Owns:    a reference to OpenSSL's SSL_CTX; copies are the same one, and each connection has one.
/// Thread:  one sets it up; then any, at once.
/// Example: examples/cpp/https_get.cpp
class context {
public:
    /// Makes one for clients, which trust what the system trusts. What is read of that, and when, is
    /// OpenSSL's matter.
    /// Fails: as OpenSSL does, in openssl_category(); throws std::bad_alloc.
    static result<context> client() {
        context made(::TLS_client_method());
        ::ERR_clear_error();
        if (::SSL_CTX_set_default_verify_paths(made.native_handle()) != 1) {
            return detail::take_openssl_error();
        }
        return made.for_clients();
    }

    /// Makes one for clients, which trust the certificates in the PEM file `trusted`, and nobody else.
    /// Fails: when it cannot be read; throws std::bad_alloc.
    static result<context> client(const std::string& trusted) {
        context made(::TLS_client_method());
        if (const auto read = made.trust(trusted); !read) {
            return read.error();
        }
        return made.for_clients();
    }

    /// Makes one for servers, which show the first certificate of the PEM file `chain`, and those that vouch
    /// for it behind; `key` is its private key, not encrypted.
    /// Fails: when one of them cannot be read, or they do not belong together; throws std::bad_alloc.
    static result<context> server(const std::string& chain, const std::string& key) {
        context made(::TLS_server_method());
        if (const auto used = made.use_certificate(chain, key); !used) {
            return used.error();
        }
        SSL_CTX* const handle = made.native_handle();
        ::SSL_CTX_set_options(handle, SSL_OP_CIPHER_SERVER_PREFERENCE);
        // A session is resumed by the context that it was made with, and no other: it may have asked for
        // less.
        unsigned char ours[16];
        if (::RAND_bytes(ours, sizeof ours) != 1 ||
            ::SSL_CTX_set_session_id_context(handle, ours, sizeof ours) != 1) {
            return detail::take_openssl_error();
        }
        // Before anything is resumed, which the callback for names would be too late for; that one only has
        // OpenSSL note the name.
        ::SSL_CTX_set_client_hello_cb(handle, &context::choose_by_name, made.settings_.get());
        ::SSL_CTX_set_tlsext_servername_callback(
            handle, +[](SSL*, int*, void*) -> int { return SSL_TLSEXT_ERR_OK; });
        return made;
    }

    /// Shows a certificate, as server() does: for clients that have one.
    /// Fails: as server() does.
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
    /// Fails: `invalid_argument` when a name is empty or has more than 255 bytes, or when there is none.
    result<void> set_protocols(std::initializer_list<std::string_view> names) {
        std::vector<unsigned char> listed;
        for (const std::string_view name : names) {
            if (name.empty() || name.size() > 255) {
                return std::errc::invalid_argument;
            }
            listed.push_back(static_cast<unsigned char>(name.size()));
            listed.insert(listed.end(), name.begin(), name.end());
        }
        if (listed.empty()) {
            return std::errc::invalid_argument;
        }
        ::ERR_clear_error();
        settings_->protocols = std::move(listed);
        const auto& kept = settings_->protocols;
        if (::SSL_CTX_set_alpn_protos(native_handle(), kept.data(), static_cast<unsigned>(kept.size())) !=
            0) {
            return detail::take_openssl_error();
        }
        ::SSL_CTX_set_alpn_select_cb(native_handle(), &context::choose_protocol, settings_.get());
        return {};
    }

    /// Asks `choose` for the context of the host that a client names (SNI, RFC 6066): of that are the
    /// certificate, the protocols, and what clients are asked for; a client that names nobody, or a host that
    /// gives none, gets this one. Called on the thread of the connection. When it throws, the handshake
    /// fails.
    void on_server_name(std::function<std::optional<context>(std::string_view)> choose) {
        settings_->choose = std::move(choose);
    }

    /// OpenSSL's object, to set what is not here; it stays the context's.
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
        if (SSL_CTX_get_min_proto_version(handle) < TLS1_2_VERSION) {  // the system may want more
            SSL_CTX_set_min_proto_version(handle, TLS1_2_VERSION);
        }
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

    friend detail::tls_connection;

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
    std::string host{};     ///< whom a client expects
    tls::session newest{};  ///< the last that the server has given

    /// Whether a client may go on with `earlier`: who was verified then is who is expected now.
    bool accepts(const tls::session& earlier) const noexcept {
        return earlier && earlier.owner_ == serving.settings_ && earlier.host_ == host;
    }

    /// Takes over a reference.
    void keep(SSL_SESSION* owned) {
        newest.handle_.reset(owned, &::SSL_SESSION_free);
        newest.owner_ = serving.settings_;
        newest.host_ = host;
    }

    /// Where an SSL object keeps the address of its connection.
    static int index() {
        static const int number = ::SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
        return number;
    }
    static tls_connection& of(SSL* handle) {
        return *static_cast<tls_connection*>(::SSL_get_ex_data(handle, index()));
    }

    /// The name in a client's first message; empty where there is none (RFC 6066, section 3).
    static std::string_view name_in_hello(SSL* handle) noexcept {
        const unsigned char* bytes = nullptr;
        std::size_t size = 0;
        if (::SSL_client_hello_get0_ext(handle, TLSEXT_TYPE_server_name, &bytes, &size) != 1) {
            return {};
        }
        constexpr std::size_t head = 2 + 1 + 2;  // the list's size, the kind of name, its size
        const auto number = [&](std::size_t at) { return std::size_t{bytes[at]} << 8 | bytes[at + 1]; };
        if (size <= head || number(0) != size - 2 || bytes[2] != TLSEXT_NAMETYPE_host_name ||
            number(3) > size - head) {
            return {};
        }
        const std::string_view name(reinterpret_cast<const char*>(bytes) + head, number(3));
        return name.find('\0') == name.npos ? name : std::string_view();
    }
};

}  // namespace zloop::detail

namespace zloop::tls {

inline int context::choose_by_name(SSL* handle, int* alert, void* of) noexcept {
    const auto& choose = static_cast<settings*>(of)->choose;
    const auto name = detail::tls_connection::name_in_hello(handle);
    if (name.empty() || !choose) {
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    try {
        if (auto chosen = choose(name)) {
            SSL_CTX* const theirs = chosen->native_handle();
            ::SSL_set_SSL_CTX(handle, theirs);  // certificates, protocols, which sessions; the rest is told:
            ::SSL_set_verify(handle, ::SSL_CTX_get_verify_mode(theirs),
                             ::SSL_CTX_get_verify_callback(theirs));
            detail::tls_connection::of(handle).serving = std::move(*chosen);
        }
        return SSL_CLIENT_HELLO_SUCCESS;
    } catch (...) {
        *alert = SSL_AD_INTERNAL_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
}

inline int context::keep_session(SSL* handle, SSL_SESSION* newest) noexcept {
    try {
        detail::tls_connection::of(handle).keep(newest);
    } catch (...) {  // no memory: it was let go of
    }
    return 1;  // the reference was ours
}

}  // namespace zloop::tls
