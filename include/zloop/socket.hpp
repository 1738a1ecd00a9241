// zloop/socket.hpp: connected byte streams, over TCP and Unix sockets, and how to connect one.
//
// A stream owns its descriptor and keeps it in service of its loop's backend; it does not outlive the
// loop. Awaitables live in the awaiting frame and allocate nothing. One operation a direction at a
// time; reading beside writing is fine.
#pragma once

#include <span>

#include <zloop/wait/io_awaiter.hpp>
#include <zloop/wait/socket_base.hpp>

namespace zloop {

struct stream_pair;

/// A connected stream socket; or the end of a pipe (pipe.hpp), which knows no option and no address.
///
/// Fails:     each operation as its system call does, without SIGPIPE; `operation_canceled`;
///            `device_or_resource_busy` when it overlaps another; `bad_file_descriptor` when another task has
///            closed the stream.
/// Cancelled: an operation leaves at once and the stream stays usable: what was not read is for the next
///            read, what was not sent is not sent later. A result that is there already wins.
/// Owns:      the descriptor; closing or destroying the stream ends what waits on it with operation_canceled.
///            Moves, also while something waits; does not outlive its loop.
/// Overlap:   one operation a direction at a time; reading beside writing is fine.
/// Thread:    that of its loop.
/// Example:   examples/cpp/echo_server.cpp
class stream : public socket_base {
public:
    /// No stream. Nothing is awaited on it.
    stream() noexcept = default;

    /// Takes a connected (or connecting), non-blocking socket, or a pipe's end, into service of `on`.
    ///
    /// Fails:   when the backend does; `socket` then stays the caller's.
    /// Owns:    the stream has the descriptor.
    /// Example: examples/cpp/sockets.cpp
    static result<stream> adopt(loop& on, fd&& socket) noexcept {
        auto adopted = attached::adopt(on, std::move(socket));
        if (!adopted) {
            return adopted.error();
        }
        return stream(std::move(*adopted));
    }

    /// Makes two Unix sockets that are connected with each other.
    ///
    /// Fails:   as socketpair(2) does; nothing is left open.
    /// Example: examples/cpp/copy.cpp
    static result<stream_pair> pair(loop& on) noexcept;

    /// Receives bytes into a buffer that the loop lends until the next await: an idle stream holds none.
    /// Where that await is a send of them, here or elsewhere, it is lent until the send has ended, and on
    /// from there.
    ///
    /// Completes: with at least a byte, or with none at the end of the stream.
    /// Fails:     as recv(2) does, `not_enough_memory`, `operation_canceled`.
    auto receive() noexcept { return detail::receive_awaiter(kernel(), self()); }

    /// Receives bytes into `buffer`, which is not empty and stays alive meanwhile; as many as are there, at
    /// least one.
    ///
    /// Completes: with their number; 0 at the end of the stream.
    /// Fails:     as recv(2) does, `operation_canceled`, and then nothing was read.
    auto recv(std::span<std::byte> buffer) noexcept { return detail::recv_awaiter(kernel(), self(), buffer); }

    /// Sends some bytes of `buffer`, which stays alive meanwhile; write_all (stream.hpp) sends all.
    ///
    /// Completes: with their number, once the kernel has them; the peer may have none yet.
    /// Fails:     as send(2) does, `broken_pipe` without a signal; `operation_canceled`, and then nothing was
    ///            sent.
    auto send(std::span<const std::byte> buffer) noexcept {
        return detail::send_one_awaiter(kernel(), self(), buffer);
    }

    /// Sends some bytes of `buffers`, in order, in one system call (IOV_MAX at most); otherwise the same.
    auto send(std::span<const iovec> buffers) noexcept {
        return detail::send_awaiter(kernel(), self(), buffers);
    }

    /// Sends now or never; otherwise as send(). Where `more` follows at once, TCP on Linux may hold back a
    /// segment that is not full: until the next send without it, until push(), or for 200 ms.
    /// Fails: `resource_unavailable_try_again` instead of waiting.
    result<std::size_t> try_send(std::span<const iovec> buffers, bool more = false) noexcept {
        return detail::try_now(kernel(), opcode::send, self(), [&](io_op& operation) {
            operation.more = more;
            operation.parts = buffers.data();
            operation.part_count = detail::count_of(buffers);
        });
    }

    /// Sends what try_send() was told to hold back, by setting TCP_CORK to 0. Nothing else of the socket
    /// changes.
    void push() noexcept {
#if defined(TCP_CORK)
        detail::set_number(live(), IPPROTO_TCP, TCP_CORK, 0);
#endif
    }

    /// Whether TCP_CORK is set, by who wants to push by himself.
    bool is_corked() const noexcept {
#if defined(TCP_CORK)
        int corked = 0;
        socklen_t size = sizeof corked;
        return ::getsockopt(live(), IPPROTO_TCP, TCP_CORK, &corked, &size) == 0 && corked != 0;
#else
        return false;
#endif
    }

    /// Sends some of the `count` bytes at `offset` of the regular file `file`, which stays open meanwhile;
    /// the kernel moves them. send_file (send_file.hpp) sends all.
    ///
    /// Completes: with the bytes sent; with none at the file's end.
    /// Fails:     as send does, or as sendfile(2) for what is no file.
    auto sendfile(int file, std::int64_t offset, std::size_t count) noexcept {
        return detail::sendfile_awaiter(kernel(), self(), file, offset, count);
    }

    /// Ends one direction: after `write` the peer finds the end of the stream, and we can still read.
    /// Fails: as shutdown(2) does: `not_connected`, `not_a_socket` for a pipe.
    result<void> shutdown(direction toward) noexcept {
        return shutdown(toward == direction::write ? SHUT_WR : SHUT_RD);
    }

    /// Ends writing, reading, or both (SHUT_WR, SHUT_RD, SHUT_RDWR).
    result<void> shutdown(int how) noexcept {
        const int number = live();
        if (number >= 0 && kernel().shut_down(number, how)) {
            return {};
        }
        return detail::outcome_of(::shutdown(number, how));
    }

    /// Sends small messages at once, without waiting for the peer to confirm those before (TCP).
    result<void> set_no_delay(bool on) noexcept { return set_option(IPPROTO_TCP, TCP_NODELAY, on ? 1 : 0); }

    /// Finds out that the peer is gone although nobody sends anything (TCP): asks it after two hours.
    result<void> set_keep_alive(bool on) noexcept { return set_option(SOL_SOCKET, SO_KEEPALIVE, on ? 1 : 0); }

    /// Asks a silent peer after `idle`, then each `interval`; `probes` without an answer end the stream with
    /// `timed_out`.
    /// Fails: as setsockopt(2) does; those before the one that failed are set.
    result<void> set_keep_alive(std::chrono::seconds idle, std::chrono::seconds interval,
                                int probes) noexcept {
#if defined(TCP_KEEPIDLE)
        constexpr int idle_option = TCP_KEEPIDLE;
#else
        constexpr int idle_option = TCP_KEEPALIVE;  // macOS
#endif
        const bool done =
            detail::set_number(live(), IPPROTO_TCP, idle_option, static_cast<int>(idle.count())) &&
            detail::set_number(live(), IPPROTO_TCP, TCP_KEEPINTVL, static_cast<int>(interval.count())) &&
            detail::set_number(live(), IPPROTO_TCP, TCP_KEEPCNT, probes) &&
            detail::set_number(live(), SOL_SOCKET, SO_KEEPALIVE, 1);
        return done ? std::error_code{} : system_error_code(errno);
    }

    /// The descriptor alone, as attached has it.
    using socket_base::release;

    /// Gives the descriptor away as release() does, and with it the bytes that were received and that nobody
    /// has asked for: a backend that completes (io_uring) receives ahead, once receive() was called.
    /// Fails: throws std::bad_alloc, and then nothing was given away.
    [[nodiscard]] int release(std::vector<std::byte>& unread) {
        unread = take_unclaimed().bytes;
        return release();
    }

private:
    explicit stream(attached&& descriptor) noexcept : socket_base(std::move(descriptor)) {}
};

/// Two ends of one connection.
/// Owns: both.
struct stream_pair {
    stream first;   ///< what is written here is read there
    stream second;  ///< and the other way round
};

inline result<stream_pair> stream::pair(loop& on) noexcept {
    auto made = detail::make_socket_pair(SOCK_STREAM);
    if (!made) {
        return system_error_code(errno);
    }
    auto first = adopt(on, std::move(made.first));
    auto second = adopt(on, std::move(made.second));
    if (!first || !second) {
        return first ? second.error() : first.error();
    }
    return stream_pair{std::move(*first), std::move(*second)};
}

/// What connect() does to a socket before it connects it.
struct client_options {
    address local{};        ///< where to connect from; none: the kernel chooses
    bool no_delay = false;  ///< TCP alone
};

namespace detail {

class connect_awaiter : public io_awaiter<> {
public:
    connect_awaiter(backend& kernel, int number, const address& peer) noexcept
        : io_awaiter(kernel, opcode::connect, number) {
        name = const_cast<sockaddr*>(peer.data());
        name_size = peer.size();
    }

    result<void> await_resume() noexcept { return system_error_code(finish()); }
};

/// A socket to connect to `peer` with.
inline result<fd> make_client_socket(const address& peer, const client_options& options) noexcept {
    fd made = make_socket(peer.family(), SOCK_STREAM);
    const address& local = options.local;
    const bool prepared = made &&
                          (local.size() == 0 || ::bind(made.get(), local.data(), local.size()) == 0) &&
                          (!options.no_delay || set_number(made.get(), IPPROTO_TCP, TCP_NODELAY, 1));
    if (!prepared) {
        return system_error_code(errno);
    }
    return made;
}

}  // namespace detail

/// Connects to `peer`, on the calling task's loop.
///
/// Fails:     as connect(2) does, or `operation_canceled`; nothing is left open. A Unix listener whose queue
///            is full is `resource_unavailable_try_again`: the kernel does not tell when there is room.
/// Cancelled: leaves at once, and closes the socket.
/// Owns:      the caller has the stream.
/// Example:   examples/cpp/chat_room.cpp
inline task<result<stream>> connect(address peer, client_options options = {}) {
    const context here = co_await current_context();
    auto made = detail::make_client_socket(peer, options);
    if (!made) {
        co_return made.error();
    }
    auto socket = stream::adopt(*here.on, std::move(*made));
    if (!socket) {
        co_return socket.error();
    }
    const auto outcome = co_await detail::connect_awaiter(here.on->kernel(), socket->native_handle(), peer);
    if (!outcome) {
        co_return outcome.error();
    }
    co_return std::move(*socket);
}

}  // namespace zloop
