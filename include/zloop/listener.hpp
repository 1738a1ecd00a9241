// zloop/listener.hpp: where connections arrive, over TCP and Unix sockets.
//
// A listener owns its descriptor, as a stream does. A Unix path is the user's: bind() neither removes
// one that a dead program has left (nobody can tell it from a live one's without a race), nor the own
// one at the end. An abstract name (address::local) leaves nothing behind.
#pragma once

#include <zloop/socket.hpp>

namespace zloop {

/// What a listener hands out.
/// Owns: the connection.
struct accepted {
    stream socket;  ///< the connection, in service of the listener's loop
    address peer;   ///< who has connected; an unnamed Unix socket has no path
};

namespace detail {

class accept_awaiter : public io_awaiter<> {
public:
    accept_awaiter(loop& on, descriptor which) noexcept
        : io_awaiter(on.kernel(), opcode::accept, which), on_(on) {
        name = peer_.data();
        name_size = address::capacity();
    }
    accept_awaiter(accept_awaiter&& other) noexcept : io_awaiter(std::move(other)), on_(other.on_) {
        name = peer_.data();
    }

    result<zloop::accepted> await_resume() noexcept {
        if (const int failure = finish()) {
            return system_error_code(failure);
        }
        peer_.resize(name_size);
        auto socket = stream::adopt(on_, zloop::fd(io_op::accepted));
        if (!socket) {
            return socket.error();
        }
        return zloop::accepted{std::move(*socket), peer_};
    }

private:
    loop& on_;
    address peer_;
};

}  // namespace detail

/// How a listener is bound.
struct listen_options {
    int backlog = SOMAXCONN;    ///< how many connections may wait in the kernel until they are accepted
    bool reuse_address = true;  ///< a port is taken although old connections linger there
    bool reuse_port = false;    ///< the kernel spreads connections over those who share the port
    bool only_v6 = false;       ///< an IPv6 listener takes no IPv4 peers (as ::ffff:127.0.0.1), on any system
};

namespace detail {

/// A socket that listens, in service of no loop.
inline result<fd> listen_at(const address& where, const listen_options& options) noexcept {
    fd made = make_socket(where.family(), SOCK_STREAM);
    const bool bound = made &&
                       prepare_to_bind(made.get(), where.family(), options.reuse_address, options.reuse_port,
                                       options.only_v6) &&
                       ::bind(made.get(), where.data(), where.size()) == 0 &&
                       ::listen(made.get(), options.backlog) == 0;
    if (!bound) {
        return system_error_code(errno);
    }
    return made;
}

}  // namespace detail

/// A listening socket.
///
/// Owns:    the descriptor; closing or destroying the listener ends what waits on it with operation_canceled.
///          Moves, also while something waits; does not outlive its loop. A Unix path stays behind.
/// Overlap: one accept() at a time.
/// Thread:  that of its loop.
/// Example: examples/cpp/echo_server.cpp
class listener : public socket_base {
public:
    /// No listener. Nothing is awaited on it.
    listener() noexcept = default;

    /// Binds and listens at `where` (a Unix path must not exist yet).
    ///
    /// Fails:   as socket(2), setsockopt(2), bind(2) and listen(2) do; nothing is left open.
    /// Example: examples/cpp/echo_server.cpp
    static result<listener> bind(loop& on, const address& where,
                                 const listen_options& options = {}) noexcept {
        auto made = detail::listen_at(where, options);
        if (!made) {
            return made.error();
        }
        return adopt(on, std::move(*made));
    }

    /// Takes a listening, non-blocking socket into service of `on`.
    ///
    /// Fails: when the backend does; `socket` then stays the caller's.
    /// Owns:  the listener has the descriptor.
    static result<listener> adopt(loop& on, fd&& socket) noexcept {
        auto adopted = attached::adopt(on, std::move(socket));
        if (!adopted) {
            return adopted.error();
        }
        return listener(on, std::move(*adopted));
    }

    /// Waits for the next connection, and takes it into service of the listener's loop.
    ///
    /// Completes: with an `accepted`, in order of arrival; at most 64 of them before the rest of the loop has
    ///            its turn.
    /// Fails:     EMFILE and the like; the listener stays usable. A connection that was reset while it was
    ///            queued is passed over. `operation_canceled`.
    /// Cancelled: leaves at once; the next accept() has the connection, unless it was there already, which
    ///            wins.
    /// Example:   examples/cpp/echo_server.cpp
    auto accept() noexcept { return detail::accept_awaiter(*on_, self()); }

    /// The descriptor alone, as attached has it.
    using socket_base::release;

    /// Gives the descriptor away as release() does, and with it the connections that were accepted and that
    /// nobody has asked for: a backend that completes (io_uring) accepts ahead.
    /// Fails: throws std::bad_alloc, and then nothing was given away.
    [[nodiscard]] int release(std::vector<fd>& early) {
        early = take_unclaimed().connections;
        return release();
    }

private:
    listener(loop& on, attached&& descriptor) noexcept : socket_base(std::move(descriptor)), on_(&on) {}

    loop* on_ = nullptr;
};

}  // namespace zloop
