// zloop/kernel/attempt.hpp: one try of an operation's system call, on a descriptor that does not block.
//
// What every backend shares that is told of readiness, and what io_uring falls back to for what its
// ring cannot do. Nothing here waits, and nothing here knows of loops or queues: an operation comes,
// its outcome is written into it, or it would block.
#pragma once

#include <climits>
#include <cstring>
#include <span>

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/sendfile.h>
#endif

#include <zloop/address.hpp>
#include <zloop/core/platform.hpp>
#include <zloop/kernel/backend.hpp>

namespace zloop {

/// A message of a batch: one of many that are received or sent together.
///
/// Owns:    no bytes: the buffer is the caller's.
/// Example: examples/cpp/datagrams.cpp
struct datagram {
    std::span<std::byte> bytes;  ///< what to send; the room to receive into, and then what came
    address peer;                ///< where to, or none on a connected socket; where from
    bool truncated = false;      ///< more came than there was room for; the rest is lost
};

namespace detail {

enum class descriptor_kind : std::uint8_t { tcp, socket, other };

/// What a descriptor is, which decides the system calls that it knows.
inline descriptor_kind kind_of(int fd) noexcept {
    int type = 0;
    socklen_t room = sizeof type;
#if defined(SO_PROTOCOL)
    int protocol = 0;
    if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &room) == 0) {
        return protocol == IPPROTO_TCP ? descriptor_kind::tcp : descriptor_kind::socket;
    }
    room = sizeof type;
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &room) == 0 ? descriptor_kind::socket
                                                                    : descriptor_kind::other;
#else
    if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &room) != 0) {
        return descriptor_kind::other;
    }
    address own;
    socklen_t size = address::capacity();
    const bool internet = ::getsockname(fd, own.data(), &size) == 0 &&
                          (own.data()->sa_family == AF_INET || own.data()->sa_family == AF_INET6);
    return internet && type == SOCK_STREAM ? descriptor_kind::tcp : descriptor_kind::socket;
#endif
}

inline bool would_block(int error) noexcept { return error == EAGAIN || error == EWOULDBLOCK; }

/// Writes the outcome of a call that moves bytes. False: it would block.
inline bool moved(io_op& operation, ssize_t count) noexcept {
    if (count >= 0) {
        operation.size = static_cast<std::size_t>(count);
        return true;
    }
    if (would_block(errno)) {
        return false;
    }
    operation.error = usual_error(errno);
    operation.size = 0;
    return true;
}

/// Repeats a call while a signal interrupts it.
template <class F>
ssize_t uninterrupted(F&& call) noexcept {
    ssize_t count;
    do {
        count = call();
    } while (count < 0 && errno == EINTR);
    return count;
}

inline bool try_receive_from(io_op& operation) noexcept {
    iovec into{operation.data, operation.size};
    msghdr message{};
    message.msg_name = operation.name;
    message.msg_namelen = static_cast<socklen_t>(operation.name_size);
    message.msg_iov = &into;
    message.msg_iovlen = 1;
    const ssize_t count = uninterrupted([&] { return ::recvmsg(operation.fd, &message, 0); });
    if (count >= 0) {
        operation.name_size = message.msg_namelen;
        operation.truncated = (message.msg_flags & MSG_TRUNC) != 0;
    }
    return moved(operation, count);
}

inline bool try_recv(io_op& operation, descriptor_kind kind) noexcept {
    if (operation.name != nullptr) {
        return try_receive_from(operation);
    }
    if (kind == descriptor_kind::other) {
        return moved(operation,
                     uninterrupted([&] { return ::read(operation.fd, operation.data, operation.size); }));
    }
    return moved(operation,
                 uninterrupted([&] { return ::recv(operation.fd, operation.data, operation.size, 0); }));
}

/// write(2) of all parts. A pipe whose readers are gone is an error, EPIPE, as a socket is.
inline bool try_write(io_op& operation) noexcept {
    const no_sigpipe guard;
    return moved(operation, uninterrupted([&] {
                     return ::writev(operation.fd, operation.parts, static_cast<int>(operation.part_count));
                 }));
}

inline int flags_of(const io_op& operation) noexcept { return quietly | (operation.more ? expect_more : 0); }

inline bool try_send(io_op& operation, descriptor_kind kind) noexcept {
    if (kind == descriptor_kind::other) {
        return try_write(operation);
    }
    const int flags = flags_of(operation);
    if (operation.part_count == 1) {  // 50 ns cheaper than sendmsg(2)
        const iovec& part = *operation.parts;
        return moved(operation, uninterrupted([&] {
                         return ::sendto(operation.fd, part.iov_base, part.iov_len, flags, operation.name,
                                         static_cast<socklen_t>(operation.name_size));
                     }));
    }
    msghdr message{};
    message.msg_name = operation.name;
    message.msg_namelen = static_cast<socklen_t>(operation.name_size);
    message.msg_iov = const_cast<iovec*>(operation.parts);
    message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(operation.part_count);
    return moved(operation, uninterrupted([&] { return ::sendmsg(operation.fd, &message, flags); }));
}

inline bool try_accept(io_op& operation) noexcept {
    for (;;) {
        auto room = static_cast<socklen_t>(operation.name_size);
        const int fd =
            accept_connection(operation.fd, operation.name, operation.name != nullptr ? &room : nullptr);
        if (fd >= 0) {
            operation.accepted = fd;
            operation.name_size = room;
            return true;
        }
        if (would_block(errno)) {
            return false;
        }
        // A connection that died in the queue is nobody's failure.
        if (errno != ECONNABORTED && errno != EPROTO && errno != EINTR) {
            operation.error = errno;
            return true;
        }
    }
}

inline bool try_connect(io_op& operation) noexcept {
    if (operation.connecting) {
        socklen_t room = sizeof operation.error;
        if (::getsockopt(operation.fd, SOL_SOCKET, SO_ERROR, &operation.error, &room) != 0) {
            operation.error = errno;
        }
        return true;
    }
    if (::connect(operation.fd, operation.name, static_cast<socklen_t>(operation.name_size)) == 0) {
        return true;
    }
    if (errno == EINPROGRESS || errno == EINTR) {  // interrupted: it goes on in the background
        operation.connecting = true;
        return false;
    }
    operation.error = errno;
    return true;
}

/// sendfile(2), which each system has its own of: `size` bytes of `file` from `offset` on, to a socket.
/// Returns what was sent; -1, and errno, where nothing was. Raises SIGPIPE: it knows no MSG_NOSIGNAL.
inline ssize_t send_part(int socket, int file, std::int64_t offset, std::size_t size) noexcept {
#if defined(__GLIBC__) && __SIZEOF_LONG__ == 4
    off64_t begin = offset;
    return ::sendfile64(socket, file, &begin, size);
#elif defined(__linux__)
    off_t begin = offset;
    return ::sendfile(socket, file, &begin, size);
#elif defined(__APPLE__) || defined(__FreeBSD__)
    if (size == 0) {
        return 0;  // to these calls it means: to the end of the file
    }
#if defined(__APPLE__)
    auto sent = static_cast<off_t>(size);
    const int failed = ::sendfile(file, socket, offset, &sent, nullptr, 0);
#else
    off_t sent = 0;
    const int failed = ::sendfile(file, socket, offset, size, nullptr, &sent, 0);
#endif
    // Some may have gone before it failed: those count first.
    return failed != 0 && sent == 0 ? -1 : static_cast<ssize_t>(sent);
#else
    char part[16 * 1024];  // NetBSD has no such call
    const ssize_t there = read_at(file, part, size < sizeof part ? size : sizeof part, offset);
    return there > 0 ? ::send(socket, part, static_cast<std::size_t>(there), quietly) : there;
#endif
}

inline bool try_sendfile(sendfile_op& operation) noexcept {
    const no_sigpipe guard;
    return moved(operation, uninterrupted([&] {
                     return send_part(operation.fd, operation.file, operation.offset, operation.size);
                 }));
}

#if defined(__linux__) || defined(__FreeBSD__)

/// One recvmmsg(2) or sendmmsg(2) for as many as fit on the stack.
inline bool try_batch(batch_op& operation, bool receiving) noexcept {
    constexpr unsigned most = 64;
    mmsghdr headers[most];
    iovec parts[most];
    const auto count = static_cast<unsigned>(operation.size < most ? operation.size : most);
    for (unsigned index = 0; index < count; ++index) {
        datagram& item = operation.items[index];
        parts[index] = {item.bytes.data(), item.bytes.size()};
        msghdr& message = headers[index].msg_hdr;
        message = {};
        message.msg_iov = &parts[index];
        message.msg_iovlen = 1;
        if (receiving) {
            message.msg_name = item.peer.data();
            message.msg_namelen = address::capacity();
        } else if (item.peer.size() != 0) {
            message.msg_name = item.peer.data();
            message.msg_namelen = item.peer.size();
        }
    }
    const bool ended = moved(operation, uninterrupted([&]() -> ssize_t {
                                 return receiving ? ::recvmmsg(operation.fd, headers, count, 0, nullptr)
                                                  : ::sendmmsg(operation.fd, headers, count, quietly);
                             }));
    if (receiving && ended && operation.error == 0) {
        for (std::size_t index = 0; index < operation.size; ++index) {
            datagram& item = operation.items[index];
            item.bytes = item.bytes.first(static_cast<std::size_t>(headers[index].msg_len));
            item.peer.resize(headers[index].msg_hdr.msg_namelen);
            item.truncated = (headers[index].msg_hdr.msg_flags & MSG_TRUNC) != 0;
        }
    }
    return ended;
}

#else

/// One system call a datagram, until the next would block.
inline bool try_batch(batch_op& operation, bool receiving) noexcept {
    std::size_t done = 0;
    for (; done < operation.size; ++done) {
        datagram& item = operation.items[done];
        io_op single(*operation.owner, receiving ? opcode::recv : opcode::send,
                     descriptor{operation.fd, operation.life});
        iovec part{item.bytes.data(), item.bytes.size()};
        single.data = item.bytes.data();
        single.size = item.bytes.size();
        single.parts = &part;
        single.part_count = 1;
        if (receiving || item.peer.size() != 0) {
            single.name = item.peer.data();
            single.name_size = receiving ? address::capacity() : item.peer.size();
        }
        if (!(receiving ? try_receive_from(single) : try_send(single, descriptor_kind::socket))) {
            break;
        }
        if (single.error != 0) {
            if (done == 0) {
                operation.error = single.error;
                operation.size = 0;
                return true;
            }
            break;  // as recvmmsg and sendmmsg do: what went well counts first
        }
        if (receiving) {
            item.bytes = item.bytes.first(single.size);
            item.peer.resize(single.name_size);
            item.truncated = single.truncated;
        }
    }
    if (done == 0 && operation.size != 0) {
        return false;
    }
    operation.size = done;
    return true;
}

#endif

/// What attempt() does for all but the bytes of a stream.
[[gnu::noinline]] inline bool attempt_other(io_op& operation, descriptor_kind kind) noexcept {
    switch (operation.code) {
        case opcode::receive:
        case opcode::recv: return try_recv(operation, kind);
        case opcode::receive_batch: return try_batch(static_cast<batch_op&>(operation), true);
        case opcode::accept: return try_accept(operation);
        case opcode::send: return try_send(operation, kind);
        case opcode::send_batch: return try_batch(static_cast<batch_op&>(operation), false);
        case opcode::sendfile: return try_sendfile(static_cast<sendfile_op&>(operation));
        case opcode::connect: return try_connect(operation);
    }
    return true;
}

/// One try. False: it would block. `receive` has been given its buffer. Small enough to be part of its caller
/// where it is one recv(2) or one send(2).
inline bool attempt(io_op& operation, descriptor_kind kind) noexcept {
    if (kind != descriptor_kind::other && operation.name == nullptr) {
        if (operation.code <= opcode::recv) {
            return moved(operation, uninterrupted([&] {
                             return ::recv(operation.fd, operation.data, operation.size, 0);
                         }));
        }
        if (operation.code == opcode::send && operation.part_count == 1) {
            return moved(operation, uninterrupted([&] {
                             return ::send(operation.fd, operation.parts->iov_base, operation.parts->iov_len,
                                           flags_of(operation));
                         }));
        }
    }
    return attempt_other(operation, kind);
}

}  // namespace detail

}  // namespace zloop
