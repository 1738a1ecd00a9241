// zloop/foreign_stream.hpp: bytes through a descriptor that is not ours: standard input, a terminal.
//
// Such a descriptor is shared: with the shell that started us, with what we start. Making it non-blocking
// would change it for all of them, so its flags stay as they are. A task waits until it is ready, and then
// makes one system call that cannot block:
//
//  - sockets know MSG_DONTWAIT;
//  - a terminal is opened once more, non-blocking, by its name: that is a description of our own;
//  - pipes know RWF_NOWAIT (Linux 6.4). Without it the descriptor is asked again right before the call, and
//    PIPE_BUF bytes are written at most, for which a pipe that is ready has room. What is left is a
//    process that shares our end of the pipe and is faster: then the call waits for the other end;
//  - a file is always ready: reading it waits for the disk (offload.hpp has threads for that).
//
// The stream owns nothing but a terminal's second description.
#pragma once

#include <algorithm>
#include <climits>
#include <span>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <zloop/core/fd.hpp>
#include <zloop/kernel/attempt.hpp>
#include <zloop/watch.hpp>

namespace zloop {

namespace detail {

/// Whether a terminal is the side that a terminal emulator holds: by name it would be opened anew.
inline bool is_pty_master(int descriptor) noexcept {
#if defined(TIOCGPTN)
    unsigned number;
    return ::ioctl(descriptor, TIOCGPTN, &number) == 0;
#elif defined(TIOCPTMASTER)
    return ::ioctl(descriptor, TIOCPTMASTER) == 0;
#else
    return ::ptsname(descriptor) != nullptr;
#endif
}

/// Another description of the same terminal, non-blocking; none where it cannot be opened.
inline fd reopen_terminal(int descriptor) noexcept {
    char name[128];
    const int flags = ::fcntl(descriptor, F_GETFL);
    if (flags < 0 || is_pty_master(descriptor) || ::ttyname_r(descriptor, name, sizeof name) != 0) {
        return {};
    }
    return fd(::open(name, (flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

}  // namespace detail

/// A byte stream over a descriptor of somebody else, whose flags stay as they are.
///
/// Owns:    not the descriptor: it stays open, and the stream alive, until what is awaited has ended.
/// Overlap: one operation a direction of a descriptor, over all streams on it.
/// Thread:  that of its loop.
/// Example: examples/cpp/foreign_stream.cpp
class foreign_stream {
public:
    /// Looks what `descriptor` is. Opens nothing but a terminal once more; one that is closed fails when it
    /// is used.
    explicit foreign_stream(int descriptor) noexcept : fd_(descriptor) {
        struct stat about {};
        if (::fstat(descriptor, &about) != 0 || S_ISREG(about.st_mode) || S_ISBLK(about.st_mode) ||
            S_ISDIR(about.st_mode)) {
            way_ = way::plain;
        } else if (S_ISSOCK(about.st_mode)) {
            way_ = way::socket;
        } else if (S_ISCHR(about.st_mode) && ::isatty(descriptor) == 1) {
            own_ = detail::reopen_terminal(descriptor);
            way_ = own_ ? way::plain : way::asked;
            most_written_ = own_ ? most_written_ : 1;  // a terminal that is ready has room for no more
        }
    }

    /// The descriptor that the stream was made of.
    int native_handle() const noexcept { return fd_; }

    /// Reads bytes into `buffer`, which stays alive meanwhile; as many as are there, at least one. Each read
    /// takes a turn.
    ///
    /// Completes: with their number; 0 at the end.
    /// Fails:     as read(2) does; as wait_readable() does; `operation_canceled`, and then nothing was read.
    task<result<std::size_t>> recv(std::span<std::byte> buffer) {
        return transfer(direction::read, buffer.data(), buffer.size());
    }

    /// Writes some bytes of `buffer`, which stays alive meanwhile; write_all (stream.hpp) sends all.
    ///
    /// Completes: with their number.
    /// Fails:     as write(2) does, `broken_pipe` without a signal; as wait_writable() does;
    ///            `operation_canceled`, and then nothing was written.
    task<result<std::size_t>> send(std::span<const std::byte> buffer) {
        return transfer(direction::write, const_cast<std::byte*>(buffer.data()), buffer.size());
    }

private:
    enum class way : std::uint8_t { plain, socket, nowait, asked };

    int target() const noexcept { return own_ ? own_.get() : fd_; }

    task<result<std::size_t>> transfer(direction toward, std::byte* data, std::size_t size) {
        for (;;) {
            const auto ready = co_await detail::watch_awaiter(target(), toward);
            if (!ready) {
                co_return ready.error();
            }
            const ssize_t count = detail::uninterrupted(
                [&] { return toward == direction::read ? read_now(data, size) : write_now(data, size); });
            if (count >= 0) {
                co_return static_cast<std::size_t>(count);
            }
            if (!detail::would_block(errno)) {
                co_return system_error_code(errno);
            }
        }
    }

    /// One system call, which does not block.
    ssize_t read_now(std::byte* data, std::size_t size) noexcept {
        if (way_ == way::socket) {
            return ::recv(fd_, data, size, MSG_DONTWAIT);
        }
#if defined(RWF_NOWAIT)
        if (way_ == way::nowait) {
            const iovec into{data, size};
            const ssize_t count = ::preadv2(fd_, &into, 1, -1, RWF_NOWAIT);
            if (count >= 0 || knows_nowait(errno)) {
                return count;
            }
        }
#endif
        return is_blocked(direction::read) ? -1 : ::read(target(), data, size);
    }

    ssize_t write_now(std::byte* data, std::size_t size) noexcept {
        if (way_ == way::socket) {
            return ::send(fd_, data, size, MSG_DONTWAIT | detail::quietly);
        }
        const detail::no_sigpipe guard;
#if defined(RWF_NOWAIT)
        if (way_ == way::nowait) {
            const iovec from{data, size};
            const ssize_t count = ::pwritev2(fd_, &from, 1, -1, RWF_NOWAIT);
            if (count >= 0 || knows_nowait(errno)) {
                return count;
            }
        }
#endif
        const std::size_t most = way_ == way::plain ? size : std::min(size, most_written_);
        return is_blocked(direction::write) ? -1 : ::write(target(), data, most);
    }

    bool knows_nowait(int error) noexcept {
        if (error != EOPNOTSUPP && error != ENOSYS) {
            return true;
        }
        way_ = way::asked;
        return false;
    }

    /// Whether somebody else was faster since the wait; sets errno.
    bool is_blocked(direction toward) const noexcept {
        if (way_ == way::plain) {
            return false;
        }
        pollfd asked{fd_, static_cast<short>(toward == direction::read ? POLLIN : POLLOUT), 0};
        if (::poll(&asked, 1, 0) != 0) {
            return false;
        }
        errno = EAGAIN;
        return true;
    }

    int fd_;
    fd own_;
    std::size_t most_written_ = PIPE_BUF;
    way way_ = way::nowait;
};

/// Gives what the program was started with to read. Several may be made; they share what is read.
inline foreign_stream standard_input() noexcept { return foreign_stream(0); }
/// Gives what the program was started with to write to.
inline foreign_stream standard_output() noexcept { return foreign_stream(1); }
/// Gives what the program was started with to complain to.
inline foreign_stream standard_error() noexcept { return foreign_stream(2); }

}  // namespace zloop
