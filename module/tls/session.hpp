// module/tls/session.hpp: an ssl.SSLObject between two ssl.MemoryBIOs, driven by cached calls.
//
// The methods of ssl.SSLObject are Python, and only hand over to the C object inside: we call that one, by
// method descriptors that the module looked up once. loop.py sees to it that nobody has
// replaced or derived anything here. The C objects copy; the one that reads and writes memory of ours is lent
// it as a `window`, for the time of one call.
#pragma once

#include <cstddef>
#include <span>

#include "../state.hpp"
#include "records.hpp"

namespace zl {

class tls_session {
public:
    /// `context.wrap_bio(...)`. Throws.
    void begin(module_state& state, PyObject* context, PyObject* server_side, PyObject* server_hostname);

    /// The time in which OpenSSL works for this session. It may call Python, of who set a callback in the
    /// context, and that may want something of us; but OpenSSL crashes when it is entered twice.
    class use {
    public:
        explicit use(tls_session& session);  // throws when it is in use, or was cleared
        use(const use&) = delete;
        use& operator=(const use&) = delete;
        ~use() { session_.in_use_ = false; }

    private:
        tls_session& session_;
    };
    bool in_use() const noexcept { return in_use_; }

    bool begun() const noexcept { return static_cast<bool>(inner_); }
    PyObject* object() const noexcept { return object_.get(); }

    /// One step of the handshake: null with the error set where it does not end by it.
    py::ref shake_hands(module_state& state);

    /// One step of the end, as the handshake's.
    py::ref unwrap(module_state& state);

    /// The peer's certificate, as ssl shows it. Throws.
    py::ref peer_certificate(module_state& state) const;

    /// Gives OpenSSL what came from the peer. Throws.
    void feed(module_state& state, std::span<const std::byte> data);

    /// What stock's `_incoming.pending` says: fed, and not taken by OpenSSL.
    std::size_t unread() const noexcept { return unread_ > withheld_ ? unread_ - withheld_ : 0; }

    /// OpenSSL was called in another way, and may have taken of what was fed. Throws.
    void look_at_unread(module_state& state);

    /// Whether a read would say anything.
    bool has_message() const noexcept { return unread_ > records_.tail() || inside_; }

    /// There is no message: stock's read would have given all that was fed to OpenSSL.
    void withhold() noexcept { withheld_ = unread_; }

    struct plaintext {
        py::ref bytes;       // none: there was nothing
        bool ended = false;  // the peer will send no more
    };

    /// All that is there. Throws, and then what was there is lost.
    plaintext read(module_state& state);

    struct amount {
        std::size_t count = 0;
        bool ended = false;
    };

    /// As much as fits into `buffer`, of `size` bytes.
    amount read_into(module_state& state, PyObject* buffer, std::size_t size);

    /// Encrypts; returns how much of it. Throws.
    std::size_t write(module_state& state, PyObject* data);
    std::size_t write(module_state& state, std::span<const std::byte> data);

    /// Encrypted bytes that were not taken yet. Throws.
    std::size_t outgoing_bytes(module_state& state) const;

    /// All of them, or none. Throws.
    py::ref take_outgoing(module_state& state);

    int visit(visitproc visit, void* arg) const;
    void clear() noexcept;

private:
    std::size_t read_at(module_state& state, std::byte* data, std::size_t size);
    void drained() noexcept;

    py::ref object_;  // the ssl.SSLObject
    py::ref inner_;   // its _ssl._SSLSocket
    py::ref incoming_, outgoing_;
    tls_records records_;
    std::size_t unread_ = 0;  // in `incoming_`, at most
    std::size_t withheld_ = 0;
    bool written_ =
        false;  // `outgoing_` may hold something; else it is not asked: 0.04 us, four times an echo
    bool in_use_ = false;
    bool inside_ = false;  // of a record: a buffer had no room for all of it
};

/// What ssl raises when it needs more from the peer; then the indicator is cleared.
bool take_ssl_again(module_state& state) noexcept;

/// Looks ssl up, and makes the type of windows. Without an ssl module there is no TLS, and no error.
void look_up_ssl(PyObject* module, module_state& state);

}  // namespace zl
