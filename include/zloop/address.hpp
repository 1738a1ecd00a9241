// zloop/address.hpp: where a socket is: IPv4, IPv6, or Unix.
//
// A value of 116 bytes, comparable, printable; no name is looked up here.
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <zloop/error.hpp>

namespace zloop {

/// Where a socket is: IPv4, IPv6, or Unix. A value: it looks nothing up, and opens nothing.
/// Example: examples/cpp/addresses.cpp
class address {
public:
    /// No address; family() is AF_UNSPEC.
    address() noexcept = default;

    /// Copies the address in `size` bytes at `name`, as system calls give it. Longer ones are cut.
    address(const sockaddr* name, socklen_t size) noexcept {
        std::memcpy(&storage_, name, size < capacity() ? size : capacity());
        resize(size);
    }

    /// Reads a numeric IPv4 or IPv6 address ("127.0.0.1", "::1", "fe80::1%eth0"), and takes a port.
    /// Fails: `invalid_argument`. A name is not a numeric address.
    static result<address> ip(std::string_view host, std::uint16_t port) noexcept {
        char text[INET6_ADDRSTRLEN + IF_NAMESIZE + 1];
        if (host.size() >= sizeof text || host.find('\0') != host.npos) {
            return std::errc::invalid_argument;
        }
        std::memcpy(text, host.data(), host.size());
        text[host.size()] = '\0';

        address made;
        if (auto& v4 = made.storage_.v4; ::inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
            v4.sin_family = AF_INET;
            v4.sin_port = htons(port);
            made.resize(sizeof v4);
            return made;
        }
        char* zone = std::strchr(text, '%');
        if (zone != nullptr) {
            *zone++ = '\0';
        }
        if (auto& v6 = made.storage_.v6; ::inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) {
            v6.sin6_family = AF_INET6;
            v6.sin6_port = htons(port);
            made.resize(sizeof v6);
            if (zone == nullptr) {
                return made;
            }
            if ((v6.sin6_scope_id = scope_id(zone)) != 0) {
                return made;
            }
        }
        return std::errc::invalid_argument;
    }

    /// Makes 127.0.0.1 at `port`; 0 lets the kernel choose when bound.
    static address loopback(std::uint16_t port = 0) noexcept { return v4(INADDR_LOOPBACK, port); }

    /// Makes the address of every IPv4 interface, at `port`.
    static address any(std::uint16_t port = 0) noexcept { return v4(INADDR_ANY, port); }

    /// Makes a Unix socket's address of its path; a leading NUL byte is Linux' abstract namespace, and
    /// nothing elsewhere. An empty path is the unnamed address: bound to it, a socket is given an abstract
    /// name.
    /// Fails: `filename_too_long` (107 bytes are the most, 103 on macOS and FreeBSD), `invalid_argument` (a
    ///        NUL byte inside).
    static result<address> local(std::string_view path) noexcept {
        address made;
        auto& name = made.storage_.local;
        const bool abstract = path.empty() || (has_abstract_names && path.front() == '\0');
        if (!abstract && path.find('\0') != path.npos) {
            return std::errc::invalid_argument;  // the kernel would end the path there
        }
        if (path.size() + (abstract ? 0 : 1) > sizeof name.sun_path) {
            return std::errc::filename_too_long;
        }
        name.sun_family = AF_UNIX;
        std::memcpy(name.sun_path, path.data(), path.size());
        made.resize(
            static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1)));
        return made;
    }

    /// AF_INET, AF_INET6, AF_UNIX; AF_UNSPEC: no address.
    int family() const noexcept { return size_ == 0 ? AF_UNSPEC : storage_.any.sa_family; }

    /// The port in host order; 0 for what has none.
    std::uint16_t port() const noexcept {
        switch (family()) {
            case AF_INET: return ntohs(storage_.v4.sin_port);
            case AF_INET6: return ntohs(storage_.v6.sin6_port);
            default: return 0;
        }
    }

    /// Whether it can only be this machine: 127.0.0.0/8, also mapped into IPv6, or ::1.
    bool is_loopback() const noexcept {
        switch (family()) {
            case AF_INET:
                return reinterpret_cast<const unsigned char&>(storage_.v4.sin_addr) == IN_LOOPBACKNET;
            case AF_INET6: {
                const in6_addr& host = storage_.v6.sin6_addr;
                return IN6_IS_ADDR_LOOPBACK(&host) ||
                       (IN6_IS_ADDR_V4MAPPED(&host) && host.s6_addr[12] == IN_LOOPBACKNET);
            }
            default: return false;
        }
    }

    /// Whether it is that of every interface: 0.0.0.0, also mapped into IPv6, or ::. Who connects there,
    /// reaches one of them.
    bool is_any() const noexcept {
        switch (family()) {
            case AF_INET: return storage_.v4.sin_addr.s_addr == INADDR_ANY;
            case AF_INET6: {
                const auto& host = storage_.v6.sin6_addr.s6_addr;
                const auto from = IN6_IS_ADDR_V4MAPPED(&storage_.v6.sin6_addr) ? 12 : 0;
                return std::all_of(host + from, host + sizeof host, [](auto each) { return each == 0; });
            }
            default: return false;
        }
    }

    /// The numeric host, or the path (empty for an unnamed Unix socket).
    std::string host() const {
        char text[INET6_ADDRSTRLEN];
        switch (family()) {
            case AF_INET: return ::inet_ntop(AF_INET, &storage_.v4.sin_addr, text, sizeof text);
            case AF_INET6: {
                std::string host = ::inet_ntop(AF_INET6, &storage_.v6.sin6_addr, text, sizeof text);
                if (const auto zone = storage_.v6.sin6_scope_id; zone != 0) {
                    char name[IF_NAMESIZE];
                    host += '%';
                    host += ::if_indextoname(zone, name) != nullptr ? name : std::to_string(zone);
                }
                return host;
            }
            case AF_UNIX: {
                const std::size_t length = size_ - offsetof(sockaddr_un, sun_path);
                const char* path = storage_.local.sun_path;
                // Elsewhere an unnamed one has NUL bytes for a path.
                return has_abstract_names && length > 0 && path[0] == '\0'
                           ? std::string(path, length)
                           : std::string(path, ::strnlen(path, length));
            }
            default: return {};
        }
    }

    /// "127.0.0.1:80", "[::1]:80", "/run/socket".
    std::string to_string() const {
        switch (family()) {
            case AF_INET: return host() + ':' + std::to_string(port());
            case AF_INET6: return '[' + host() + "]:" + std::to_string(port());
            default: return host();
        }
    }

    /// What system calls take.
    const sockaddr* data() const noexcept { return &storage_.any; }
    /// The same, for system calls that write there, up to capacity().
    sockaddr* data() noexcept { return &storage_.any; }
    /// Its bytes; 0: no address.
    socklen_t size() const noexcept { return size_; }

    /// The room for a system call to write into; tell it with resize().
    static constexpr socklen_t capacity() noexcept { return sizeof(storage); }
    /// Says how many bytes a system call has written. Longer ones are cut.
    void resize(socklen_t size) noexcept {
        size_ = size < capacity() ? size : capacity();
#if defined(__APPLE__) || defined(__FreeBSD__)
        storage_.any.sa_len = static_cast<std::uint8_t>(size_);  // as the kernel has it: it is compared
#endif
    }

    /// Whether two are the same, byte by byte.
    friend bool operator==(const address& a, const address& b) noexcept {
        return a.size_ == b.size_ && std::memcmp(&a.storage_, &b.storage_, a.size_) == 0;
    }

private:
#if defined(__linux__)
    static constexpr bool has_abstract_names = true;
#else
    static constexpr bool has_abstract_names = false;
#endif

    union storage {
        sockaddr_un local;  // the largest, and first: `{}` zeroes the first member, and no other byte
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
    };

    static address v4(std::uint32_t host, std::uint16_t port) noexcept {
        address made;
        made.storage_.v4.sin_family = AF_INET;
        made.storage_.v4.sin_port = htons(port);
        made.storage_.v4.sin_addr.s_addr = htonl(host);
        made.resize(sizeof(sockaddr_in));
        return made;
    }

    static std::uint32_t scope_id(const char* zone) noexcept {
        std::uint32_t number = 0;
        const char* end = zone + std::strlen(zone);
        if (const auto read = std::from_chars(zone, end, number); read.ec == std::errc{} && read.ptr == end) {
            return number;
        }
        return ::if_nametoindex(zone);
    }

    storage storage_{};
    socklen_t size_ = 0;
};

}  // namespace zloop
