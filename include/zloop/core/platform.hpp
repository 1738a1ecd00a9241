// zloop/core/platform.hpp: descriptors that are non-blocking and close-on-exec from the start.
//
// One system call where the platform has one for it (Linux, FreeBSD), several where it has not (macOS).
// There another thread that forks in between can inherit the descriptor: nothing can be done about it.
// A write to a peer that is gone never raises SIGPIPE, and no signal is delivered to a thread of ours.
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <zloop/core/fd.hpp>

namespace zloop::detail {

/// Makes a descriptor non-blocking and close-on-exec. False: it fails, and errno tells.
inline bool tame(int descriptor) noexcept {
    const int flags = ::fcntl(descriptor, F_GETFL);
    return flags >= 0 && ::fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 &&
           ::fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0;
}

/// Owns a descriptor of an older call's making, tamed; none where that fails, errno kept.
inline fd tamed(int descriptor) noexcept {
    fd made(descriptor);
    if (made && !tame(descriptor)) {
        const int error = errno;
        made.reset();
        errno = error;
    }
    return made;
}

// Files of any size: a 32-bit C library's off_t has 32 bits, unless the program asks for more.
#if defined(__GLIBC__) && __SIZEOF_LONG__ == 4
inline constexpr int of_any_size = O_LARGEFILE;  ///< for open(2)
inline ssize_t read_at(int file, void* into, std::size_t size, std::int64_t offset) noexcept {
    return ::pread64(file, into, size, offset);
}
#else
inline constexpr int of_any_size = 0;
inline ssize_t read_at(int file, void* into, std::size_t size, std::int64_t offset) noexcept {
    return ::pread(file, into, size, static_cast<off_t>(offset));
}
#endif

/// The error of a call on a socket, as other systems have it. macOS says EPROTOTYPE to who sends while the
/// peer ends the connection, and EPIPE to who tries again.
constexpr int usual_error(int error) noexcept {
#if defined(__APPLE__)
    return error == EPROTOTYPE ? EPIPE : error;
#else
    return error;
#endif
}

/// Whether connect(2), asked again, tells how the first one ended: to an address of this machine, Linux has
/// ended it by then. Others begin anew, or fail.
#if defined(__linux__)
inline constexpr bool connect_answers_again = true;
#else
inline constexpr bool connect_answers_again = false;
#endif

/// What lets several sockets listen on one port, each of which gets a share of the connections: FreeBSD's
/// SO_REUSEPORT gives all of them to the last.
#if defined(SO_REUSEPORT_LB)
inline constexpr int share_port = SO_REUSEPORT_LB;
#else
inline constexpr int share_port = SO_REUSEPORT;
#endif

/// What a send call is told, so that a peer that is gone is an error and no signal.
#if defined(MSG_NOSIGNAL)
inline constexpr int quietly = MSG_NOSIGNAL;
#else
inline constexpr int quietly = 0;
#endif

/// What a send on TCP is told of which more follows; 0 where the system does not know that.
#if defined(MSG_MORE)
inline constexpr int expect_more = MSG_MORE;
#else
inline constexpr int expect_more = 0;
#endif

/// The same for a socket's whole life, where not every version of the system heeds `quietly`.
inline void silence([[maybe_unused]] int socket) noexcept {
#if defined(__APPLE__)
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_NOSIGPIPE, &yes, sizeof yes);  // else it is no socket
#endif
}

/// socket(2), non-blocking. No descriptor: errno tells.
inline fd make_socket(int family, int type, int protocol = 0) noexcept {
#if defined(SOCK_NONBLOCK)
    return fd(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
#else
    return tamed(::socket(family, type, protocol));
#endif
}

/// accept(2), the connection non-blocking. -1: errno tells.
inline int accept_connection(int listening, sockaddr* name, socklen_t* size) noexcept {
#if defined(SOCK_NONBLOCK)
    return ::accept4(listening, name, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    return tamed(::accept(listening, name, size)).release();
#endif
}

/// Two sockets that are connected with each other.
struct socket_pair {
    fd first;
    fd second;
    explicit operator bool() const noexcept { return first && second; }
};

/// socketpair(2) of Unix sockets, both non-blocking. No descriptors: errno tells.
inline socket_pair make_socket_pair(int type) noexcept {
    int both[2];
#if defined(SOCK_NONBLOCK)
    if (::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, both) != 0) {
        return {};
    }
    return {fd(both[0]), fd(both[1])};
#else
    if (::socketpair(AF_UNIX, type, 0, both) != 0) {
        return {};
    }
    return {tamed(both[0]), tamed(both[1])};
#endif
}

/// The two ends of a pipe.
struct pipe_ends {
    fd read_end;
    fd write_end;
    explicit operator bool() const noexcept { return read_end && write_end; }
};

/// pipe(2), both ends non-blocking. No descriptors: errno tells.
inline pipe_ends make_pipe() noexcept {
    int both[2];
#if defined(__APPLE__)
    if (::pipe(both) != 0) {
        return {};
    }
    return {tamed(both[0]), tamed(both[1])};
#else
    if (::pipe2(both, O_NONBLOCK | O_CLOEXEC) != 0) {
        return {};
    }
    return {fd(both[0]), fd(both[1])};
#endif
}

/// Keeps SIGPIPE from this thread while it lives: write(2), sendfile(2) know no MSG_NOSIGNAL. Three system
/// calls. What a call returns does not tell whether it has raised one: a sendfile(2) that is cut short by
/// the peer's end raises it and returns what was sent before. So it is taken in any case.
class no_sigpipe {
public:
    no_sigpipe() noexcept {
        // Unqualified: macros on macOS.
        sigemptyset(&signal_);
        sigaddset(&signal_, SIGPIPE);
        ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
        // Where the program blocks it, one that is pending already is the program's.
        keeps_ = sigismember(&before_, SIGPIPE) == 1 && is_pending();
        errno = 0;  // what it is at the end is the call's
    }
    no_sigpipe(const no_sigpipe&) = delete;
    no_sigpipe& operator=(const no_sigpipe&) = delete;
    ~no_sigpipe() {
        const int error = errno;
        if (!keeps_) {
            take();  // before it is let through, now or by the program later
        }
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        errno = error;
    }

private:
    static bool is_pending() noexcept {
        sigset_t pending;
        return ::sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
    }

    void take() const noexcept {
#if defined(__APPLE__)
        int taken;
        if (is_pending()) {
            ::sigwait(&signal_, &taken);
        }
#else
        constexpr timespec at_once{};
        ::sigtimedwait(&signal_, nullptr, &at_once);
#endif
    }

    sigset_t signal_;
    sigset_t before_;
    bool keeps_;
};

/// Keeps all signals from this thread while it lives. Leaves errno alone.
class no_signals {
public:
    no_signals() noexcept {
        sigset_t all;
        sigfillset(&all);  // unqualified: a macro on macOS
        ::pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    no_signals(const no_signals&) = delete;
    no_signals& operator=(const no_signals&) = delete;
    ~no_signals() {
        const int error = errno;
        ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
        errno = error;
    }

private:
    sigset_t before_;
};

/// pthread_create(3) of a thread that no signal is delivered to: those are for threads that the program
/// knows of. Returns 0, or an errno.
inline int start_thread(pthread_t& made, void* (*body)(void*), void* argument) noexcept {
    const no_signals guard;
    return ::pthread_create(&made, nullptr, body, argument);
}

}  // namespace zloop::detail
