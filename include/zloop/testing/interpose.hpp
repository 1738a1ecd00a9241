// zloop/testing/interpose.hpp: puts faults.hpp between a program and its system calls.
//
// To be included in exactly one source file of a test program, on Linux. It defines the C library's functions
// anew: a program's own definitions come before a shared library's, so no flag of the linker is needed. Each
// goes on to the function that would have been called without it, which under a sanitizer is the sanitizer's.
//
// Not for programs that are linked statically, and of no use on other systems, where it is empty.
//
// Example: examples/cpp/faults.cpp
#pragma once

#include <zloop/config.hpp>

#if defined(__linux__)

#include <csignal>

#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <zloop/testing/faults.hpp>

namespace zloop::testing::detail {

/// The next definition of a function. A sanitizer that is linked statically has no next one, but a name.
template <class F>
F* function_behind(std::atomic<F*>& found, F* sanitized, const char* name) noexcept {
    F* function = found.load(std::memory_order_relaxed);
    if (function == nullptr) {
        const int error = errno;
        function = sanitized != nullptr ? sanitized : reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
        found.store(function, std::memory_order_relaxed);
        errno = error;
    }
    return function;
}

}  // namespace zloop::testing::detail

// The names are given to the assembler: the compiler knows the functions by declarations that differ from one
// C library to the next, in noexcept and in const. These macros end with the file.
#define ZLOOP_DECLARE(type, symbol, parameters)                                                          \
    extern "C" [[gnu::weak]] type zloop_sanitized_##symbol parameters __asm__("__interceptor_" #symbol); \
    extern "C" type zloop_interposed_##symbol parameters __asm__(#symbol);

#define ZLOOP_BEHIND(symbol)                                                                          \
    static std::atomic<decltype(&zloop_interposed_##symbol)> found{nullptr};                          \
    const auto behind = zloop::testing::detail::function_behind<decltype(zloop_interposed_##symbol)>( \
        found, &zloop_sanitized_##symbol, #symbol)

#define ZLOOP_INTERPOSE_AS(call, failure, type, symbol, parameters, arguments) \
    ZLOOP_DECLARE(type, symbol, parameters)                                    \
    type zloop_interposed_##symbol parameters {                                \
        ZLOOP_BEHIND(symbol);                                                  \
        if (zloop::testing::system_calls::call.intercept()) {                  \
            return failure;                                                    \
        }                                                                      \
        return behind arguments;                                               \
    }

#define ZLOOP_INTERPOSE(type, symbol, parameters, arguments) \
    ZLOOP_INTERPOSE_AS(symbol, -1, type, symbol, parameters, arguments)

ZLOOP_INTERPOSE(int, socket, (int family, int kind, int protocol), (family, kind, protocol))
ZLOOP_INTERPOSE(int, socketpair, (int family, int kind, int protocol, int* both),
                (family, kind, protocol, both))
ZLOOP_INTERPOSE(int, bind, (int fd, const sockaddr* name, socklen_t size), (fd, name, size))
ZLOOP_INTERPOSE(int, listen, (int fd, int backlog), (fd, backlog))
ZLOOP_INTERPOSE(int, accept4, (int fd, sockaddr* name, socklen_t* size, int flags), (fd, name, size, flags))
ZLOOP_INTERPOSE(int, shutdown, (int fd, int how), (fd, how))
ZLOOP_INTERPOSE(int, getsockopt, (int fd, int level, int name, void* value, socklen_t* size),
                (fd, level, name, value, size))
ZLOOP_INTERPOSE(int, setsockopt, (int fd, int level, int name, const void* value, socklen_t size),
                (fd, level, name, value, size))
ZLOOP_INTERPOSE(int, getsockname, (int fd, sockaddr* name, socklen_t* size), (fd, name, size))
ZLOOP_INTERPOSE(int, getpeername, (int fd, sockaddr* name, socklen_t* size), (fd, name, size))
ZLOOP_INTERPOSE(ssize_t, recv, (int fd, void* data, std::size_t size, int flags), (fd, data, size, flags))
ZLOOP_INTERPOSE(ssize_t, recvmsg, (int fd, msghdr* message, int flags), (fd, message, flags))
ZLOOP_INTERPOSE(int, recvmmsg, (int fd, mmsghdr* messages, unsigned count, int flags, timespec* limit),
                (fd, messages, count, flags, limit))
ZLOOP_INTERPOSE(ssize_t, send, (int fd, const void* data, std::size_t size, int flags),
                (fd, data, size, flags))
ZLOOP_INTERPOSE(ssize_t, sendto,
                (int fd, const void* data, std::size_t size, int flags, const sockaddr* name, socklen_t room),
                (fd, data, size, flags, name, room))
ZLOOP_INTERPOSE(ssize_t, sendmsg, (int fd, const msghdr* message, int flags), (fd, message, flags))
ZLOOP_INTERPOSE(int, sendmmsg, (int fd, mmsghdr* messages, unsigned count, int flags),
                (fd, messages, count, flags))
ZLOOP_INTERPOSE(ssize_t, sendfile, (int to, int from, off_t* offset, std::size_t size),
                (to, from, offset, size))
ZLOOP_INTERPOSE_AS(sendfile, -1, ssize_t, sendfile64, (int to, int from, off64_t* offset, std::size_t size),
                   (to, from, offset, size))
ZLOOP_INTERPOSE(ssize_t, read, (int fd, void* data, std::size_t size), (fd, data, size))
ZLOOP_INTERPOSE(ssize_t, readv, (int fd, const iovec* parts, int count), (fd, parts, count))
ZLOOP_INTERPOSE(ssize_t, write, (int fd, const void* data, std::size_t size), (fd, data, size))
ZLOOP_INTERPOSE(ssize_t, writev, (int fd, const iovec* parts, int count), (fd, parts, count))
ZLOOP_INTERPOSE(ssize_t, preadv2, (int fd, const iovec* parts, int count, off_t offset, int flags),
                (fd, parts, count, offset, flags))
ZLOOP_INTERPOSE_AS(preadv2, -1, ssize_t, preadv64v2,
                   (int fd, const iovec* parts, int count, off64_t offset, int flags),
                   (fd, parts, count, offset, flags))
ZLOOP_INTERPOSE(ssize_t, pwritev2, (int fd, const iovec* parts, int count, off_t offset, int flags),
                (fd, parts, count, offset, flags))
ZLOOP_INTERPOSE_AS(pwritev2, -1, ssize_t, pwritev64v2,
                   (int fd, const iovec* parts, int count, off64_t offset, int flags),
                   (fd, parts, count, offset, flags))
ZLOOP_INTERPOSE(int, open, (const char* path, int flags, mode_t mode), (path, flags, mode))
ZLOOP_INTERPOSE_AS(open, -1, int, open64, (const char* path, int flags, mode_t mode), (path, flags, mode))
ZLOOP_INTERPOSE(int, pipe2, (int* both, int flags), (both, flags))
ZLOOP_INTERPOSE(int, dup2, (int from, int to), (from, to))
ZLOOP_INTERPOSE(int, dup3, (int from, int to, int flags), (from, to, flags))
ZLOOP_INTERPOSE(int, fcntl, (int fd, int command, void* argument), (fd, command, argument))
ZLOOP_INTERPOSE_AS(fcntl, -1, int, fcntl64, (int fd, int command, void* argument), (fd, command, argument))
ZLOOP_INTERPOSE(int, epoll_create1, (int flags), (flags))
ZLOOP_INTERPOSE(int, epoll_ctl, (int epoll, int operation, int fd, epoll_event* event),
                (epoll, operation, fd, event))
ZLOOP_INTERPOSE(int, epoll_wait, (int epoll, epoll_event* events, int room, int limit),
                (epoll, events, room, limit))
ZLOOP_INTERPOSE(int, eventfd, (unsigned value, int flags), (value, flags))
ZLOOP_INTERPOSE(int, signalfd, (int fd, const sigset_t* set, int flags), (fd, set, flags))
ZLOOP_INTERPOSE(int, sigaction, (int number, const struct sigaction* next, struct sigaction* before),
                (number, next, before))
ZLOOP_INTERPOSE(pid_t, fork, (), ())
ZLOOP_INTERPOSE(int, clone,
                (int (*run)(void*), void* stack, int flags, void* argument, void* a, void* b, void* c),
                (run, stack, flags, argument, a, b, c))
ZLOOP_INTERPOSE(int, execve, (const char* path, char* const* arguments, char* const* environment),
                (path, arguments, environment))
ZLOOP_INTERPOSE(int, chdir, (const char* path), (path))
ZLOOP_INTERPOSE(int, setpgid, (pid_t process, pid_t group), (process, group))
ZLOOP_INTERPOSE_AS(posix_spawn, errno, int, posix_spawn,
                   (pid_t * child, const char* path, const posix_spawn_file_actions_t* actions,
                    const posix_spawnattr_t* attributes, char* const* arguments, char* const* environment),
                   (child, path, actions, attributes, arguments, environment))
ZLOOP_INTERPOSE_AS(posix_spawnp, errno, int, posix_spawnp,
                   (pid_t * child, const char* path, const posix_spawn_file_actions_t* actions,
                    const posix_spawnattr_t* attributes, char* const* arguments, char* const* environment),
                   (child, path, actions, attributes, arguments, environment))
ZLOOP_INTERPOSE(int, waitid, (idtype_t kind, id_t which, siginfo_t* what, int options),
                (kind, which, what, options))
ZLOOP_INTERPOSE(pid_t, waitpid, (pid_t child, int* status, int options), (child, status, options))
ZLOOP_INTERPOSE(int, kill, (pid_t process, int number), (process, number))
ZLOOP_INTERPOSE_AS(pthread_create, errno, int, pthread_create,
                   (pthread_t * made, const pthread_attr_t* attributes, void* (*start)(void*),
                    void* argument),
                   (made, attributes, start, argument))
ZLOOP_INTERPOSE_AS(getaddrinfo, EAI_MEMORY, int, getaddrinfo,
                   (const char* host, const char* service, const addrinfo* hints, addrinfo** list),
                   (host, service, hints, list))

ZLOOP_DECLARE(int, close, (int fd))
int zloop_interposed_close(int fd) {
    ZLOOP_BEHIND(close);
    const bool fails = zloop::testing::system_calls::close.intercept();
    const int error = errno;
    const int outcome = behind(fd);  // the number is free, whatever close says
    if (fails) {
        errno = error;
    }
    return fails ? -1 : outcome;
}

ZLOOP_DECLARE(int, connect, (int fd, const sockaddr* name, socklen_t size))
int zloop_interposed_connect(int fd, const sockaddr* name, socklen_t size) {
    ZLOOP_BEHIND(connect);
    const bool fails = zloop::testing::system_calls::connect.intercept();
    if (!fails) {
        return behind(fd, name, size);
    }
    if (const int error = errno; error == EINTR) {  // it goes on in the background
        static_cast<void>(behind(fd, name, size));
        errno = error;
    }
    return -1;
}

ZLOOP_DECLARE(long, syscall, (long number, long a, long b, long c, long d, long e, long f))
long zloop_interposed_syscall(long number, long a, long b, long c, long d, long e, long f) {
    ZLOOP_BEHIND(syscall);
    namespace calls = zloop::testing::system_calls;
    bool fails = false;
    switch (number) {
#if defined(SYS_epoll_pwait2)
        case SYS_epoll_pwait2: fails = calls::epoll_pwait2.intercept(); break;
#endif
#if defined(SYS_pidfd_open)
        case SYS_pidfd_open: fails = calls::pidfd_open.intercept(); break;
        case SYS_pidfd_send_signal: fails = calls::pidfd_send_signal.intercept(); break;
#endif
#if defined(SYS_io_uring_setup)
        case SYS_io_uring_setup: fails = calls::io_uring_setup.intercept(); break;
        case SYS_io_uring_enter: fails = calls::io_uring_enter.intercept(); break;
        case SYS_io_uring_register: fails = calls::io_uring_register.intercept(); break;
#endif
        default: break;
    }
    return fails ? -1 : behind(number, a, b, c, d, e, f);
}

#undef ZLOOP_INTERPOSE
#undef ZLOOP_INTERPOSE_AS
#undef ZLOOP_BEHIND
#undef ZLOOP_DECLARE

#endif
