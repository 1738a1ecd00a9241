// zloop/config.hpp: the version, and the platform in the words that the other headers use.
//
// The only header that defines macros; all of them begin with ZLOOP_. Every header has it before the system's
// <coroutine>, which has words of its own for a compiler that is set to an older standard.
#pragma once

#if __cplusplus < 202002L
#error "zloop needs C++20: -std=c++20, or newer"
#endif

/// The version of these headers, a string literal: for the preprocessor. `zloop::version` is the same.
#define ZLOOP_VERSION "0.1.0"

#if defined(__linux__)
/// 1 where the platform has epoll, which is Linux; else 0.
#define ZLOOP_HAS_EPOLL 1

/// 1 where the platform may have io_uring, else 0. Whether the kernel has it, and lets us, uring_backend
/// finds out.
#define ZLOOP_HAS_URING 1
#else
#define ZLOOP_HAS_EPOLL 0
#define ZLOOP_HAS_URING 0
#endif

#if !defined(ZLOOP_LIBKQUEUE)
/// 1 where kqueue is libkqueue's, over Linux: whoever builds for that says so, and links it. Else 0.
#define ZLOOP_LIBKQUEUE 0
#endif

#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || ZLOOP_LIBKQUEUE
/// 1 where the platform has kqueue, which is macOS, FreeBSD and NetBSD; else 0.
#define ZLOOP_HAS_KQUEUE 1
#else
#define ZLOOP_HAS_KQUEUE 0
#endif

/// 1 under AddressSanitizer, else 0. Pooled memory would hide a use after free, so pools step aside there.
#if defined(__SANITIZE_ADDRESS__)
#define ZLOOP_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ZLOOP_ASAN 1
#endif
#endif
#ifndef ZLOOP_ASAN
#define ZLOOP_ASAN 0
#endif

/// 1 under AddressSanitizer, ThreadSanitizer and MemorySanitizer, else 0. They keep books of a thread's stack
/// and of signal handlers: a child that shares our memory would write into them, and never take it back.
#if ZLOOP_ASAN || defined(__SANITIZE_THREAD__)
#define ZLOOP_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define ZLOOP_SANITIZED 1
#endif
#endif
#ifndef ZLOOP_SANITIZED
#define ZLOOP_SANITIZED 0
#endif

/// Whether <source_location> can be had: clang 14 has the header, but not what the header needs.
#if defined(__clang__)
#define ZLOOP_HAS_SOURCE_LOCATION __has_builtin(__builtin_source_location)
#else
#define ZLOOP_HAS_SOURCE_LOCATION 1
#endif

namespace zloop {

/// The version of these headers, as in "1.2.3".
/// Example: examples/cpp/errors.cpp
inline constexpr const char* version = ZLOOP_VERSION;

}  // namespace zloop
