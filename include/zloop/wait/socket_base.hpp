// zloop/wait/socket_base.hpp: what sockets of every kind share: their addresses and their options.
//
// Options are the kernel's: what it does not know is an error, what it rounds is read back.
#pragma once

#include <chrono>
#include <type_traits>

#include <netinet/tcp.h>

#include <zloop/address.hpp>
#include <zloop/core/platform.hpp>
#include <zloop/wait/attached.hpp>

namespace zloop {

namespace detail {

inline result<void> outcome_of(int returned) noexcept {
    return returned == 0 ? std::error_code{} : system_error_code(errno);
}

/// setsockopt(2) for the options that are numbers.
inline bool set_number(int descriptor, int level, int name, int value) noexcept {
    return ::setsockopt(descriptor, level, name, &value, sizeof value) == 0;
}

/// What listeners and datagram sockets ask for before they bind.
inline bool prepare_to_bind(int descriptor, int family, bool reuse_address, bool reuse_port,
                            bool only_v6) noexcept {
    return (!reuse_address || set_number(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)) &&
           (!reuse_port || set_number(descriptor, SOL_SOCKET, share_port, 1)) &&
           // Said either way: the system's default is one thing on Linux and another on FreeBSD.
           (family != AF_INET6 || set_number(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, only_v6 ? 1 : 0));
}

}  // namespace detail

/// What sockets of every kind share: addresses and options. Options of one that is closed fail with
/// `bad_file_descriptor`.
///
/// Fails:   as the system call does, at once: nothing here waits.
/// Example: examples/cpp/sockets.cpp
class socket_base : public attached {
public:
    /// Sets any option that is a number: setsockopt(2).
    result<void> set_option(int level, int name, int value) noexcept { return set(level, name, value); }
    /// Sets any option that is a structure, such as `linger`.
    template <class T>
        requires(std::is_class_v<T> && std::is_trivially_copyable_v<T>)
    result<void> set_option(int level, int name, const T& value) noexcept {
        return set(level, name, value);
    }

    /// Gives the value of any option that is a number, or, with T, a structure: getsockopt(2).
    template <class T = int>
        requires std::is_trivially_copyable_v<T>
    result<T> get_option(int level, int name) const noexcept {
        T value{};
        socklen_t room = sizeof value;
        if (::getsockopt(live(), level, name, &value, &room) != 0) {
            return system_error_code(errno);
        }
        return value;
    }

    /// Sets how many bytes the kernel holds for us. Linux reads back twice what was set.
    result<void> set_receive_buffer(int bytes) noexcept { return set(SOL_SOCKET, SO_RCVBUF, bytes); }
    /// Sets how many bytes the kernel holds for the peer.
    result<void> set_send_buffer(int bytes) noexcept { return set(SOL_SOCKET, SO_SNDBUF, bytes); }
    /// How many bytes the kernel holds for us.
    result<int> receive_buffer() const noexcept { return get_option(SOL_SOCKET, SO_RCVBUF); }
    /// How many bytes the kernel holds for the peer.
    result<int> send_buffer() const noexcept { return get_option(SOL_SOCKET, SO_SNDBUF); }

    /// Where the socket is: at port 0, or at no path, where it was not bound. No address (AF_UNSPEC) for what
    /// is no socket.
    address local_address() const noexcept { return address_by(::getsockname); }
    /// Where its peer is. No address (AF_UNSPEC) where there is none.
    address peer_address() const noexcept { return address_by(::getpeername); }

protected:
    /// No descriptor.
    socket_base() noexcept = default;
    /// A descriptor in service.
    explicit socket_base(attached&& descriptor) noexcept : attached(std::move(descriptor)) {}

private:
    template <class T>
    result<void> set(int level, int name, const T& value) noexcept {
        return detail::outcome_of(::setsockopt(live(), level, name, &value, sizeof value));
    }

    address address_by(int (*call)(int, sockaddr*, socklen_t*)) const noexcept {
        address found;
        socklen_t size = address::capacity();
        if (call(live(), found.data(), &size) != 0) {
            return {};
        }
        found.resize(size);
        return found;
    }
};

}  // namespace zloop
