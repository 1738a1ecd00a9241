// zloop/tls.hpp: TLS over any byte stream, by OpenSSL (1.1.1 or 3).
//
// A tls::stream is what a handshake gives, so there is none that is not secure yet. It is a byte stream
// itself: write_all, buffered_reader, copy and another TLS go on top of it. It owns the stream below, or
// refers to it.
//
// zloop.hpp leaves this header out: it and its parts, tls_*.hpp, are the only ones that need OpenSSL, which a
// program links with -lssl -lcrypto.
#pragma once

#include <zloop/config.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <zloop/tls/carrier.hpp>

namespace zloop::detail {
struct tls_handshake;
}  // namespace zloop::detail

namespace zloop::tls {

/// Gives a certificate back to OpenSSL.
struct certificate_deleter {
    /// Frees a reference.
    void operator()(X509* owned) const noexcept { ::X509_free(owned); }
};
/// A certificate of OpenSSL's, owned; null: none.
using certificate = std::unique_ptr<X509, certificate_deleter>;

/// Bytes that nobody in between can read or change.
///
/// Completes: recv and send as those of any stream. What is still owed to the peer, after a send that was
///            cancelled or by the protocol itself, leaves with whatever is awaited next, or is already.
/// Fails:     as the stream below does; with what the peer has done wrong (tls/error.hpp), and then always.
/// Cancelled: as recv() and send() tell; the stream stays usable.
/// Owns:      `S`, unless that is a reference. It may move while something waits on it, but is not destroyed
///            then: `below().close()` ends that. One that is destroyed says nothing to its peer: shutdown().
/// Overlap:   recv beside send; otherwise one at a time.
/// Thread:    that of its loop.
/// Example:   examples/cpp/https_get.cpp
template <byte_stream S>
class stream {
public:
    /// No stream. Of one, only recv, send, finish and shutdown are asked, which fail with `not_connected`.
    stream() noexcept = default;

    /// Whether it was made by a handshake, and not moved from.
    explicit operator bool() const noexcept { return carrier_ != nullptr; }

    /// Bytes into `buffer`, which stays alive meanwhile; as many as are there, at least one.
    /// Completes: with none when the peer has said that there are no more.
    /// Fails:     `tls::errc::truncated` when it has not, and the stream below ends;
    ///            `operation_canceled`, and then nothing was read.
    task<result<std::size_t>> recv(std::span<std::byte> buffer) {
        return carrier_ ? carrier_->recv(buffer) : refused<std::size_t>();
    }

    /// Some bytes of `buffer`, which stays alive meanwhile; write_all (stream.hpp) sends all.
    /// Completes: when the stream below has taken them; or, when it is cancelled meanwhile, with those that
    ///            are encrypted: they count as sent.
    /// Fails:     `broken_pipe` after finish() and shutdown();
    ///            `operation_canceled`, and then nothing was sent.
    task<result<std::size_t>> send(std::span<const std::byte> buffer) {
        return carrier_ ? carrier_->send(buffer) : refused<std::size_t>();
    }

    /// Says that nothing more will be sent (close_notify). The peer may go on.
    /// Fails: as the stream below does; `operation_canceled`.
    task<result<void>> finish() { return carrier_ ? carrier_->finish() : refused<void>(); }

    /// Says the same, and waits until the peer has said it too, or `patience` is over; what it sends
    /// meanwhile is dropped. A peer that just goes has said it.
    /// Fails: `timed_out`; as the stream below does; `operation_canceled`.
    task<result<void>> shutdown(nanoseconds patience = std::chrono::seconds(5)) {
        return carrier_ ? with_timeout(patience, carrier_->say_goodbye()) : refused<void>();
    }

    /// The stream below; there is one unless this was moved from. What is sent or received there directly,
    /// the peer does not understand.
    std::remove_reference_t<S>& below() noexcept { return carrier_->below; }

    /// The protocol that was agreed on (ALPN); empty: none.
    std::string_view protocol() const noexcept {
        const unsigned char* name = nullptr;
        unsigned size = 0;
        ::SSL_get0_alpn_selected(native_handle(), &name, &size);
        return {reinterpret_cast<const char*>(name), size};
    }

    /// The name that the client asked for (SNI); empty: none.
    std::string_view server_name() const noexcept {
        const char* const name = ::SSL_get_servername(native_handle(), TLSEXT_NAMETYPE_host_name);
        return name != nullptr ? name : "";
    }

    /// What the peer has shown; null: nothing.
    certificate peer_certificate() const noexcept {
#if OPENSSL_VERSION_NUMBER >= 0x30000000L
        return certificate(::SSL_get1_peer_certificate(native_handle()));
#else
        return certificate(::SSL_get_peer_certificate(native_handle()));
#endif
    }

    /// What the next connection to this server can begin with: the newest that it has given. With TLS 1.3
    /// that comes behind the handshake, with the first bytes that are read.
    const session& newest_session() const noexcept { return carrier_->engine.newest_session(); }

    /// Whether the handshake was the short one, of a session.
    bool is_resumed() const noexcept { return ::SSL_session_reused(native_handle()) == 1; }

    /// As in "TLSv1.3".
    std::string_view version() const noexcept { return ::SSL_get_version(native_handle()); }

    /// OpenSSL's object: to look at, not to read or write with.
    SSL* native_handle() const noexcept { return carrier_->engine.ssl(); }

private:
    using carrier = detail::tls_carrier<S>;
    friend detail::tls_handshake;

    explicit stream(std::unique_ptr<carrier> ready) noexcept : carrier_(std::move(ready)) {}

    template <class T>
    static task<result<T>> refused() {
        co_return std::errc::not_connected;
    }

    std::unique_ptr<carrier> carrier_;
};

}  // namespace zloop::tls

namespace zloop::detail {

/// Makes streams of handshakes.
struct tls_handshake {
    template <byte_stream S>
    static task<result<tls::stream<S>>> as_client(S below, tls::context with, std::string host,
                                                  tls::session earlier) {
        if (host.empty() && with.verifies()) {
            co_return std::errc::invalid_argument;  // whose certificate would be the right one?
        }
        auto made = std::make_unique<tls_carrier<S>>(std::forward<S>(below), std::move(with),
                                                     tls_engine::role::client);
        if (const auto prepared = made->engine.prepare(std::move(host), earlier); !prepared) {
            co_return prepared.error();
        }
        co_return co_await shake(std::move(made));
    }

    template <byte_stream S>
    static task<result<tls::stream<S>>> as_server(S below, tls::context with) {
        co_return co_await shake(std::make_unique<tls_carrier<S>>(std::forward<S>(below), std::move(with),
                                                                  tls_engine::role::server));
    }

private:
    template <byte_stream S>
    static task<result<tls::stream<S>>> shake(std::unique_ptr<tls_carrier<S>> made) {
        const auto done = co_await made->until_done([&] { return made->engine.shake_hands(); });
        if (!done) {
            co_return done.error();
        }
        if (const auto sent = co_await made->flush(); !sent) {
            co_return sent.error();
        }
        co_return tls::stream<S>(std::move(made));
    }
};

}  // namespace zloop::detail

namespace zloop::tls {

/// Makes a stream secure, as its client: `tls::connect(std::move(socket), context, "example.org")`.
///
/// The server's certificate must be for `host`, a name or an address; a server of several names learns which
/// one is meant. `earlier` is newest_session() of a connection before, of this context to this host.
///
/// Completes: when the handshake is done, and our last part of it sent. Nothing limits the time: with_timeout
///            does.
/// Fails:     as the stream below does; `tls::errc::truncated` when the peer leaves; in
///            certificate_category() when its certificate is refused, in openssl_category() otherwise
///            (tls/error.hpp); `invalid_argument` without a host whose certificate could be checked;
///            `operation_canceled`. Then an owned stream is gone.
/// Cancelled: as any failure.
/// Owns:      `below`, unless that is an lvalue, which then outlives what is made.
/// Thread:    that of the loop.
/// Example:   examples/cpp/https_get.cpp
template <class S>
    requires byte_stream<std::remove_reference_t<S>>
task<result<stream<S>>> connect(S&& below, context with, std::string host, session earlier = {}) {
    return detail::tls_handshake::as_client<S>(std::forward<S>(below), std::move(with), std::move(host),
                                               std::move(earlier));
}

/// Makes a stream secure, as its server; otherwise as connect().
/// Example: examples/cpp/https_get.cpp
template <class S>
    requires byte_stream<std::remove_reference_t<S>>
task<result<stream<S>>> accept(S&& below, context with) {
    return detail::tls_handshake::as_server<S>(std::forward<S>(below), std::move(with));
}

}  // namespace zloop::tls
