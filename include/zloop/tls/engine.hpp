// zloop/tls/engine.hpp: one connection's TLS without any I/O: bytes in, bytes out.
//
// OpenSSL reads and writes through a BIO of ours. What came from the peer is looked at where it lies, and
// only what is left over when somebody else may use that memory is copied; what has to leave is collected
// until it was sent. So an idle connection holds no buffer of ours, and none of OpenSSL's
// (SSL_MODE_RELEASE_BUFFERS).
//
// Whatever ends with `resource_unavailable_try_again` needs more of the peer's bytes. No other failure is
// recovered from: it is given again by every call that follows.
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <zloop/tls/context.hpp>

namespace zloop::detail {

class tls_engine {
public:
    enum class role : bool { client, server };

    tls_engine(tls::context with, role plays)
        : connection_{std::move(with)}, handle_(::SSL_new(connection_.serving.native_handle()), &::SSL_free) {
        BIO* const bio = handle_ ? ::BIO_new(method()) : nullptr;
        if (bio == nullptr || ::SSL_set_ex_data(ssl(), tls_connection::index(), &connection_) != 1) {
            ::BIO_free(bio);
            ::ERR_clear_error();
            throw std::bad_alloc();
        }
        ::BIO_set_data(bio, this);
        ::BIO_set_init(bio, 1);
        ::SSL_set_bio(ssl(), bio, bio);  // owns it
        plays == role::client ? ::SSL_set_connect_state(ssl()) : ::SSL_set_accept_state(ssl());
    }
    tls_engine(const tls_engine&) = delete;
    tls_engine& operator=(const tls_engine&) = delete;

    ~tls_engine() {
        if (!failure_) {
            // Else OpenSSL takes the session for one that must not be resumed. The peer is not told.
            ::SSL_set_shutdown(ssl(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        }
    }

    SSL* ssl() const noexcept { return handle_.get(); }
    const tls::session& newest_session() const noexcept { return connection_.newest; }

    /// Whom the client expects: its certificate must be for `host`, a name or an address, and a name is told
    /// to the server; empty: anybody. And the session to go on with. Before the handshake.
    /// Fails: `invalid_argument` when that is no host.
    result<void> prepare(std::string host, const tls::session& earlier) {
        if (!host.empty()) {
            if (host.ends_with('.')) {
                host.pop_back();  // the root, which no certificate names
            }
            if (const auto expected = expect(host); !expected) {
                return expected;
            }
        }
        connection_.host = std::move(host);
        if (connection_.accepts(earlier)) {
            ::SSL_set_session(ssl(), earlier.native_handle());  // or not: then the handshake is a whole one
            if (connection_.serving.verifies() && ::SSL_get_verify_result(ssl()) != X509_V_OK) {
                ::SSL_set_session(ssl(), nullptr);
            }
            ::ERR_clear_error();
        }
        return {};
    }

    /// What came from the peer, to be looked at by the next calls until keep(). All before was read.
    void feed(std::span<const std::byte> came) noexcept {
        assert(incoming_.empty());
        kept_ = {};
        incoming_ = came;
        ended_ = came.empty();
    }

    /// The same, of the first `count` bytes of memory that is ours from now on.
    void feed(std::vector<std::byte>&& buffer, std::size_t count) noexcept {
        feed(std::span(buffer).first(count));
        kept_ = std::move(buffer);
    }

    /// Copies what nobody has read yet: the memory that was fed is about to be somebody else's.
    void keep() noexcept {
        if (incoming_.empty()) {
            kept_ = {};
        } else if (kept_.empty()) {
            try {
                kept_.assign(incoming_.begin(), incoming_.end());
            } catch (const std::bad_alloc&) {
                fail(std::make_error_code(std::errc::not_enough_memory));
            }
            incoming_ = kept_;
        }
    }

    /// How many bytes there are to send.
    std::size_t owed() const noexcept { return outgoing_.size(); }

    /// What has to be sent, behind what was taken before.
    std::vector<std::byte> take_outgoing() noexcept { return std::exchange(outgoing_, {}); }

    result<void> shake_hands() noexcept {
        return attempt([&](std::size_t&) { return ::SSL_do_handshake(ssl()); }).error();
    }

    /// As much as is there; 0: the peer has sent close_notify.
    result<std::size_t> read(std::span<std::byte> into) noexcept {
        std::size_t total = 0;
        while (total < into.size()) {
            const auto rest = into.subspan(total);
            const auto [error, count] = attempt(
                [&](std::size_t& done) { return ::SSL_read_ex(ssl(), rest.data(), rest.size(), &done); });
            if (error && total == 0) {
                return error;
            }
            if (count == 0) {
                break;
            }
            total += count;
        }
        return total;
    }

    /// Encrypts all of `from`, which is not empty.
    /// Fails: `broken_pipe` after close().
    result<std::size_t> write(std::span<const std::byte> from) noexcept {
        if ((::SSL_get_shutdown(ssl()) & SSL_SENT_SHUTDOWN) != 0) {
            return std::errc::broken_pipe;
        }
        return attempt(
            [&](std::size_t& done) { return ::SSL_write_ex(ssl(), from.data(), from.size(), &done); });
    }

    /// Says close_notify. Reading goes on.
    result<void> close() noexcept {
        if (failure_) {
            return failure_;
        }
        if (!::SSL_is_init_finished(ssl())) {  // in the middle of a message that follows the handshake
            return std::errc::resource_unavailable_try_again;
        }
        ::SSL_shutdown(ssl());
        ::ERR_clear_error();  // that the peer has not answered yet
        return {};
    }

private:
    /// Calls OpenSSL, and says what came of it. 0 where the peer has said that there is nothing to read any
    /// more.
    template <class F>
    result<std::size_t> attempt(F call) noexcept {
        if (failure_) {
            return failure_;
        }
        ::ERR_clear_error();  // SSL_get_error looks at all that is there
        std::size_t count = 0;
        const int outcome = call(count);
        if (outcome == 1) {
            return count;
        }
        switch (::SSL_get_error(ssl(), outcome)) {
            case SSL_ERROR_ZERO_RETURN:
                // Before the end of the handshake anybody can have sent it.
                return ::SSL_is_init_finished(ssl()) ? result<std::size_t>(0)
                                                     : result<std::size_t>(fail(tls::errc::truncated));
            case SSL_ERROR_WANT_READ:
                return ended_ ? fail(tls::errc::truncated)
                              : std::make_error_code(std::errc::resource_unavailable_try_again);
            case SSL_ERROR_WANT_WRITE:  // there was no memory to write to
                return fail(std::make_error_code(std::errc::not_enough_memory));
            default: return fail(reason());
        }
    }

    std::error_code fail(std::error_code for_good) noexcept { return failure_ = for_good; }

    result<void> expect(const std::string& host) {
        // OpenSSL takes a name that begins with a dot for all that end so, and blanks behind an address.
        const bool is_odd = std::any_of(host.begin(), host.end(),
                                        [](unsigned char each) { return each <= ' ' || each == 127; });
        if (host.empty() || host.front() == '.' || is_odd) {
            return std::errc::invalid_argument;
        }
        X509_VERIFY_PARAM* const rules = ::SSL_get0_param(ssl());
        ::X509_VERIFY_PARAM_set_hostflags(
            rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
        ::ERR_clear_error();
        unsigned char number[sizeof(in6_addr)];
        const bool is_v4 = ::inet_pton(AF_INET, host.c_str(), number) == 1;
        if (is_v4 || ::inet_pton(AF_INET6, host.c_str(), number) == 1) {
            const std::size_t size = is_v4 ? sizeof(in_addr) : sizeof(in6_addr);
            return ::X509_VERIFY_PARAM_set1_ip(rules, number, size) == 1 ? std::error_code()
                                                                         : take_openssl_error();
        }
        if (::SSL_set1_host(ssl(), host.c_str()) != 1 || SSL_set_tlsext_host_name(ssl(), host.c_str()) != 1) {
            ::ERR_clear_error();
            return std::errc::invalid_argument;  // too long
        }
        return {};
    }

    /// What is in OpenSSL's queue; of a certificate that was refused, why.
    std::error_code reason() const noexcept {
        const unsigned long packed = ::ERR_peek_last_error();
        if (ERR_GET_LIB(packed) == ERR_LIB_SSL && ERR_GET_REASON(packed) == SSL_R_CERTIFICATE_VERIFY_FAILED) {
            ::ERR_clear_error();
            return {static_cast<int>(::SSL_get_verify_result(ssl())), tls::certificate_category()};
        }
        return take_openssl_error();
    }

    static const BIO_METHOD* method() {
        static const std::unique_ptr<BIO_METHOD, void (*)(BIO_METHOD*)> made = [] {
            std::unique_ptr<BIO_METHOD, void (*)(BIO_METHOD*)> fresh(
                ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "zloop"), &::BIO_meth_free);
            if (fresh == nullptr) {
                throw std::bad_alloc();
            }
            ::BIO_meth_set_read(fresh.get(), &tls_engine::take_incoming);
            ::BIO_meth_set_write(fresh.get(), &tls_engine::add_outgoing);
            ::BIO_meth_set_ctrl(fresh.get(), [](BIO*, int command, long, void*) {
                return command == BIO_CTRL_FLUSH ? 1L : 0L;
            });
            return fresh;
        }();
        return made.get();
    }

    static int take_incoming(BIO* bio, char* into, int size) noexcept {
        auto& incoming = static_cast<tls_engine*>(::BIO_get_data(bio))->incoming_;
        BIO_clear_retry_flags(bio);
        if (incoming.empty()) {
            BIO_set_retry_read(bio);
            return -1;
        }
        const std::size_t count = std::min(incoming.size(), static_cast<std::size_t>(size));
        std::memcpy(into, incoming.data(), count);
        incoming = incoming.subspan(count);
        return static_cast<int>(count);
    }

    static int add_outgoing(BIO* bio, const char* from, int size) noexcept {
        auto& outgoing = static_cast<tls_engine*>(::BIO_get_data(bio))->outgoing_;
        BIO_clear_retry_flags(bio);
        try {
            const auto bytes = std::as_bytes(std::span(from, static_cast<std::size_t>(size)));
            outgoing.insert(outgoing.end(), bytes.begin(), bytes.end());
            return size;
        } catch (...) {  // no memory
            BIO_set_retry_write(bio);
            return -1;
        }
    }

    std::span<const std::byte> incoming_;
    std::vector<std::byte> kept_;  // where incoming_ is, when that is ours
    std::vector<std::byte> outgoing_;
    std::error_code failure_;
    bool ended_ = false;  // the stream below has
    tls_connection connection_;
    std::unique_ptr<SSL, void (*)(SSL*)> handle_;
};

}  // namespace zloop::detail
