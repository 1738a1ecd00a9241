// zloop/kernel/default_backend.hpp: the backend that a loop gets when nobody gives it one.
//
// The environment variable ZLOOP_BACKEND names it: epoll, io_uring, kqueue, or auto, which is as none.
// What this machine does not have, or forbids, is as none too, silently: a program that was started
// with ZLOOP_BACKEND=io_uring runs in a container without. A name that no system has is an error: it is a
// mistake, and who made it should not measure something else.
#pragma once

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include <zloop/kernel/epoll.hpp>
#include <zloop/kernel/kqueue.hpp>
#include <zloop/kernel/uring/backend.hpp>

namespace zloop {

namespace detail {

/// What the user asked for; "auto" when that is nothing. Throws std::invalid_argument for what is nowhere.
inline std::string_view wanted_backend() {
    const char* const value = std::getenv("ZLOOP_BACKEND");
    const std::string_view wanted = value != nullptr && *value != '\0' ? value : "auto";
    for (const std::string_view known : {"auto", "epoll", "io_uring", "kqueue"}) {
        if (wanted == known) {
            return wanted;
        }
    }
    throw std::invalid_argument("ZLOOP_BACKEND is \"" + std::string(wanted) +
                                "\"; it can be epoll, io_uring, kqueue or auto");
}

/// An io_uring backend; none where the kernel, a filter of system calls or the administrator is against it.
inline std::unique_ptr<backend> try_uring() {
#if ZLOOP_HAS_URING
    try {
        return std::make_unique<uring_backend>();
    } catch (const std::system_error&) {
    }
#endif
    return nullptr;
}

}  // namespace detail

/// Makes a backend on what every kernel of this platform has: epoll, or kqueue.
///
/// Fails:   throws std::system_error, or std::bad_alloc.
/// Owns:    the caller has it.
/// Example: examples/cpp/backends.cpp
inline std::unique_ptr<backend> platform_backend() {
#if ZLOOP_HAS_EPOLL
    return std::make_unique<epoll_backend>();
#elif ZLOOP_HAS_KQUEUE
    return std::make_unique<kqueue_backend>();
#else
#error "zloop has no backend for this system: epoll needs Linux, kqueue macOS, FreeBSD or NetBSD"
#endif
}

/// Makes the backend that ZLOOP_BACKEND names (`epoll`, `io_uring`, `kqueue`, `auto`), if it can run here;
/// else the platform's.
///
/// Fails:   throws std::invalid_argument when ZLOOP_BACKEND names none of them, std::system_error, or
///          std::bad_alloc.
/// Owns:    the caller has it.
/// Example: examples/cpp/backends.cpp
inline std::unique_ptr<backend> default_backend() {
    const std::string_view wanted = detail::wanted_backend();
    if (wanted == "io_uring") {
        if (auto made = detail::try_uring()) {
            return made;
        }
    }
#if ZLOOP_LIBKQUEUE
    if (wanted == "kqueue") {
        return std::make_unique<kqueue_backend>();
    }
#endif
    return platform_backend();
}

}  // namespace zloop
