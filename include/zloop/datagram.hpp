// zloop/datagram.hpp: sockets of messages: UDP, and Unix datagrams.
//
// What is sent arrives whole or not at all, and an empty message arrives too: a size of 0 is no end.
// The socket owns its descriptor, as a stream does. One operation a direction at a time; receiving beside
// sending is fine.
//
// A message that could not be delivered (ICMP: nobody is there) is told to a connected socket alone,
// as the error of its next operation, which then has done nothing; the socket goes on.
#pragma once

#include <zloop/kernel/attempt.hpp>  // datagram
#include <zloop/wait/io_awaiter.hpp>
#include <zloop/wait/operation.hpp>
#include <zloop/wait/socket_base.hpp>

namespace zloop {

struct datagram_pair;

/// A message in a buffer that the loop lends until the next await.
struct lent_datagram {
    std::span<const std::byte> bytes;  ///< until the next await, as stream::receive() lends them
    address peer;                      ///< who sent it; none for an unnamed Unix socket
    bool truncated = false;            ///< more came than there was room for; the rest is lost
};

/// A message in the caller's buffer.
struct received {
    std::size_t size = 0;    ///< how much of the buffer it fills
    address peer;            ///< as in lent_datagram
    bool truncated = false;  ///< as in lent_datagram
};

/// How a datagram socket is bound.
struct datagram_options {
    bool reuse_address = false;  ///< UDP: others may bind the same port; for multicast
    bool reuse_port = false;     ///< UDP: the kernel spreads the peers over those who share the port
    bool only_v6 = false;        ///< an IPv6 socket has no IPv4 peers (as ::ffff:127.0.0.1), on any system
};

namespace detail {

template <>
inline constexpr bool is_lent<result<lent_datagram>> = true;

class receive_datagram_awaiter : public io_awaiter<> {
public:
    receive_datagram_awaiter(backend& kernel, descriptor on) noexcept
        : io_awaiter(kernel, opcode::receive, on) {
        name = peer_.data();
        name_size = address::capacity();
    }
    receive_datagram_awaiter(receive_datagram_awaiter&& other) noexcept : io_awaiter(std::move(other)) {
        name = peer_.data();
    }

    result<lent_datagram> await_resume() noexcept {
        if (const int failure = finish()) {
            return system_error_code(failure);
        }
        peer_.resize(name_size);
        return lent_datagram{{data, size}, peer_, truncated};
    }

private:
    address peer_;
};

class receive_from_awaiter : public io_awaiter<> {
public:
    receive_from_awaiter(backend& kernel, descriptor on, std::span<std::byte> buffer) noexcept
        : io_awaiter(kernel, opcode::recv, on) {
        data = buffer.data();
        size = buffer.size();
        name = peer_.data();
        name_size = address::capacity();
    }
    receive_from_awaiter(receive_from_awaiter&& other) noexcept : io_awaiter(std::move(other)) {
        name = peer_.data();
    }

    result<received> await_resume() noexcept {
        if (const int failure = finish()) {
            return system_error_code(failure);
        }
        peer_.resize(name_size);
        return received{size, peer_, truncated};
    }

private:
    address peer_;
};

class send_to_awaiter : public io_awaiter<> {
public:
    send_to_awaiter(backend& kernel, descriptor on, std::span<const std::byte> buffer,
                    const address& peer) noexcept
        : io_awaiter(kernel, opcode::send, on),
          peer_(peer),
          buffer_{const_cast<std::byte*>(buffer.data()), buffer.size()} {
        name = peer_.data();
        name_size = peer_.size();
        parts = &buffer_;
        part_count = 1;
        now_or_never = peer.family() == AF_UNIX;
    }
    send_to_awaiter(send_to_awaiter&& other) noexcept
        : io_awaiter(std::move(other)), peer_(other.peer_), buffer_(other.buffer_) {
        name = peer_.data();
        parts = &buffer_;
    }

    result<std::size_t> await_resume() noexcept { return moved(); }

private:
    address peer_;
    iovec buffer_;
};

class batch_awaiter : public io_awaiter<batch_op> {
public:
    batch_awaiter(backend& kernel, opcode operation, descriptor on, std::span<datagram> batch) noexcept
        : io_awaiter(kernel, operation, on) {
        items = batch.data();
        size = batch.size();
        if (operation == opcode::send_batch) {
            for (const datagram& each : batch) {
                now_or_never = now_or_never || each.peer.family() == AF_UNIX;
            }
        }
    }

    result<std::size_t> await_resume() noexcept { return moved(); }
};

}  // namespace detail

/// A socket of messages: UDP, or Unix datagrams.
///
/// Fails:     each operation as its system call does; `operation_canceled`; `device_or_resource_busy` when it
///            overlaps another; `bad_file_descriptor` when another task has closed the socket. A connected
///            one is told, by its next operation, that a former message met nobody, and goes on.
/// Cancelled: an operation leaves at once and the socket stays usable: a message that was not received is for
///            the next, one that was not sent is not sent later. A result that is there already wins.
/// Owns:      the descriptor; closing or destroying the socket ends what waits on it with operation_canceled.
///            Moves, also while something waits; does not outlive its loop. A Unix path stays behind.
/// Overlap:   one operation a direction at a time; receiving beside sending is fine.
/// Thread:    that of its loop.
/// Example:   examples/cpp/datagrams.cpp
class datagram_socket : public socket_base {
public:
    /// No socket. Nothing is awaited on it.
    datagram_socket() noexcept = default;

    /// Makes a socket that is bound nowhere yet: to send from. AF_INET, AF_INET6 or AF_UNIX.
    /// Fails: as socket(2) does.
    static result<datagram_socket> open(loop& on, int family) noexcept {
        fd made = detail::make_socket(family, SOCK_DGRAM);
        if (!made) {
            return system_error_code(errno);
        }
        return adopt(on, std::move(made));
    }

    /// Makes a socket at `where`. A Unix path must not exist yet, and stays behind (listener.hpp tells why).
    /// Fails: as socket(2), setsockopt(2) and bind(2) do; nothing is left open.
    static result<datagram_socket> bind(loop& on, const address& where,
                                        const datagram_options& options = {}) noexcept {
        fd made = detail::make_socket(where.family(), SOCK_DGRAM);
        const bool bound = made &&
                           detail::prepare_to_bind(made.get(), where.family(), options.reuse_address,
                                                   options.reuse_port, options.only_v6) &&
                           ::bind(made.get(), where.data(), where.size()) == 0;
        if (!bound) {
            return system_error_code(errno);
        }
        return adopt(on, std::move(made));
    }

    /// Makes two Unix sockets that are connected with each other.
    /// Fails: as socketpair(2) does; nothing is left open.
    static result<datagram_pair> pair(loop& on) noexcept;

    /// Takes a non-blocking datagram socket into service of `on`.
    ///
    /// Fails: when the backend does; `socket` then stays the caller's.
    /// Owns:  the socket has the descriptor.
    static result<datagram_socket> adopt(loop& on, fd&& socket) noexcept {
        auto adopted = attached::adopt(on, std::move(socket));
        if (!adopted) {
            return adopted.error();
        }
        return datagram_socket(std::move(*adopted));
    }

    /// From now on sends to `peer` and receives from nobody else. Nothing is sent for it; what has
    /// arrived from others is still received.
    /// Fails: as connect(2) does; at once, nothing is awaited.
    result<void> connect(const address& peer) noexcept {
        return detail::outcome_of(::connect(live(), peer.data(), peer.size()));
    }

    /// Undoes connect(): sends to nobody in particular, receives from all. Linux takes a port away that was
    /// not asked for by its number; the next send is given another.
    /// Fails: as connect(2) does.
    result<void> disconnect() noexcept {
        sockaddr nobody{};
        nobody.sa_family = AF_UNSPEC;
        if (::connect(live(), &nobody, sizeof nobody) != 0 &&
            errno != EAFNOSUPPORT) {  // the BSDs do it and say that
            return system_error_code(errno);
        }
        return {};
    }

    /// Receives a message into a buffer that the loop lends until the next await, and tells who sent it.
    ///
    /// Completes: with a `lent_datagram`, which may be empty.
    /// Fails:     a former message's `connection_refused`, on a connected socket; `operation_canceled`.
    auto receive() noexcept { return detail::receive_datagram_awaiter(kernel(), self()); }

    /// Receives a message into `buffer`, which stays alive meanwhile, and tells who sent it; otherwise as
    /// receive().
    /// Completes: with a `received`.
    auto receive_from(std::span<std::byte> buffer) noexcept {
        return detail::receive_from_awaiter(kernel(), self(), buffer);
    }

    /// Receives a message into `buffer`, no matter from whom; otherwise as receive().
    /// Completes: with its size. A longer one is cut; receive_from tells.
    auto recv(std::span<std::byte> buffer) noexcept { return detail::recv_awaiter(kernel(), self(), buffer); }

    /// Sends a message to the peer that the socket is connected to.
    ///
    /// Completes: with its size, once the kernel has it.
    /// Fails:     `message_size` when it is too long; a former one's `connection_refused`;
    ///            `operation_canceled`.
    auto send(std::span<const std::byte> message) noexcept {
        return detail::send_one_awaiter(kernel(), self(), message);
    }

    /// Sends one message that lies in several buffers; otherwise the same.
    auto send(std::span<const iovec> parts) noexcept { return detail::send_awaiter(kernel(), self(), parts); }

    /// Sends a message to `peer`.
    /// Fails: as send does. A Unix peer whose queue is full is `resource_unavailable_try_again`: the kernel
    ///        tells when there is room to a connected socket alone.
    auto send_to(std::span<const std::byte> message, const address& peer) noexcept {
        return detail::send_to_awaiter(kernel(), self(), message, peer);
    }

    /// Receives as many messages as are there, at least one; 64 are the most. Each item's `bytes` is the room
    /// for one, and then what came.
    ///
    /// Completes: with their number.
    /// Fails:     as receive() does.
    auto receive_batch(std::span<datagram> items) noexcept {
        return detail::batch_awaiter(kernel(), opcode::receive_batch, self(), items);
    }

    /// Sends as many of `items` as there is room for, in order, at least one; 64 are the most. An item
    /// without a peer goes to the one that the socket is connected to.
    ///
    /// Completes: with their number.
    /// Fails:     as send_to does, for the first; a later one's failure is left for the next call to meet.
    auto send_batch(std::span<datagram> items) noexcept {
        return detail::batch_awaiter(kernel(), opcode::send_batch, self(), items);
    }

    /// Sends as send() or, with a peer, send_to(), now or never.
    /// Fails: `resource_unavailable_try_again` instead of waiting.
    result<std::size_t> try_send(std::span<const std::byte> message, const address& peer = {}) noexcept {
        const iovec part{const_cast<std::byte*>(message.data()), message.size()};
        return detail::try_now(kernel(), opcode::send, self(), [&](io_op& operation) {
            operation.parts = &part;
            operation.part_count = 1;
            if (peer.size() != 0) {
                operation.name = const_cast<sockaddr*>(peer.data());
                operation.name_size = peer.size();
            }
        });
    }

    /// Receives as receive_batch(), now or never.
    /// Fails: `resource_unavailable_try_again` instead of waiting.
    result<std::size_t> try_receive_batch(std::span<datagram> items) noexcept {
        return detail::try_now<batch_op>(kernel(), opcode::receive_batch, self(), [&](batch_op& operation) {
            operation.items = items.data();
            operation.size = items.size();
        });
    }

    /// Allows messages to a broadcast address (UDP on IPv4).
    result<void> set_broadcast(bool on) noexcept { return set_option(SOL_SOCKET, SO_BROADCAST, on ? 1 : 0); }

    /// Joins the multicast `group` on an interface, by its index; 0: the kernel chooses.
    /// Fails: as setsockopt(2) does.
    result<void> join(const address& group, unsigned interface = 0) noexcept {
        return change_membership(MCAST_JOIN_GROUP, group, interface);
    }

    /// Leaves what join() has joined.
    /// Fails: as setsockopt(2) does.
    result<void> leave(const address& group, unsigned interface = 0) noexcept {
        return change_membership(MCAST_LEAVE_GROUP, group, interface);
    }

private:
    explicit datagram_socket(attached&& descriptor) noexcept : socket_base(std::move(descriptor)) {}

    result<void> change_membership(int option, const address& group, unsigned interface) noexcept {
        group_req request{};
        request.gr_interface = interface;
        if (group.size() > sizeof request.gr_group) {
            return std::errc::invalid_argument;
        }
        std::memcpy(&request.gr_group, group.data(), group.size());
        return set_option(group.family() == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, option, request);
    }
};

/// Two ends of one connection.
/// Owns: both.
struct datagram_pair {
    datagram_socket first;   ///< what is sent here is received there
    datagram_socket second;  ///< and the other way round
};

inline result<datagram_pair> datagram_socket::pair(loop& on) noexcept {
    auto made = detail::make_socket_pair(SOCK_DGRAM);
    if (!made) {
        return system_error_code(errno);
    }
    auto first = adopt(on, std::move(made.first));
    auto second = adopt(on, std::move(made.second));
    if (!first || !second) {
        return first ? second.error() : first.error();
    }
    return datagram_pair{std::move(*first), std::move(*second)};
}

}  // namespace zloop
