// zloop/default_backend.hpp: the backend that a loop gets when nobody gives it one.
//
// The environment variable ZLOOP_BACKEND names it: epoll, io_uring, kqueue, or auto, which is as none.
// What this machine does not have, or forbids, is as none too, silently: a program that was started
// with ZLOOP_BACKEND=io_uring runs in a container without.
#pragma once

#include <cstdlib>
#include <memory>
#include <string_view>

#include <zloop/epoll.hpp>
#include <zloop/kqueue.hpp>
#include <zloop/uring.hpp>

namespace zloop {

namespace detail {

/// What the user asked for; nothing when it is "auto".
inline std::string_view wanted_backend() noexcept {
    const char* const value = std::getenv("ZLOOP_BACKEND");
    return value != nullptr ? value : "";
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

/// A new backend on what every kernel of this platform has: epoll, or kqueue.
/// Fails: throws std::system_error, or std::bad_alloc.
inline std::unique_ptr<backend> platform_backend() {
#if ZLOOP_HAS_EPOLL
    return std::make_unique<epoll_backend>();
#elif ZLOOP_HAS_KQUEUE
    return std::make_unique<kqueue_backend>();
#else
#error "zloop has no backend for this system: epoll needs Linux, kqueue macOS or FreeBSD"
#endif
}

/// A new backend: the one that ZLOOP_BACKEND names, if it can run here; else the platform's.
/// Fails: throws std::system_error, or std::bad_alloc.
inline std::unique_ptr<backend> default_backend() {
    if (detail::wanted_backend() == "io_uring") {
        if (auto made = detail::try_uring()) {
            return made;
        }
    }
    return platform_backend();
}

}  // namespace zloop
