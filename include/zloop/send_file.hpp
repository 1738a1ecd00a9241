// zloop/send_file.hpp: a regular file, or a part of it, into a byte sink.
//
// The kernel moves the bytes where the sink has `sendfile`, and where that knows both descriptors. Elsewhere
// they are read and sent. Reading a file waits for the disk in either case, as files are always ready: that
// of a slow one belongs into a thread (offload.hpp).
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <zloop/copy.hpp>
#include <zloop/core/fd.hpp>
#include <zloop/kernel/attempt.hpp>  // uninterrupted

namespace zloop {

/// Has `sendfile(file, offset, count)`, which sends some bytes of a file; none at its end.
template <class S>
concept file_sink = byte_sink<S> && requires(S& stream, int file, std::int64_t offset, std::size_t count) {
    { stream.sendfile(file, offset, count) } -> awaitable_to<result<std::size_t>>;
};

namespace detail {

/// A source of a part of a file; it moves no file position.
class file_part {
public:
    file_part(int file, std::uint64_t offset) noexcept : file_(file), offset_(offset) {}

    struct read_already {
        result<std::size_t> outcome;
        bool await_ready() const noexcept { return true; }
        void await_suspend(std::coroutine_handle<>) const noexcept {}
        result<std::size_t> await_resume() const noexcept { return outcome; }
    };

    read_already recv(std::span<std::byte> into) noexcept {
        const ssize_t count = uninterrupted(
            [&] { return read_at(file_, into.data(), into.size(), static_cast<std::int64_t>(offset_)); });
        if (count < 0) {
            return {system_error_code(errno)};
        }
        offset_ += static_cast<std::uint64_t>(count);
        return {static_cast<std::size_t>(count)};
    }

private:
    int file_;
    std::uint64_t offset_;
};

/// Whether an error of sendfile(2) says that it does not know such descriptors, and nothing of the peer.
inline bool is_unsuited(const std::error_code& error) noexcept {
    return error == std::errc::invalid_argument || error == std::errc::function_not_supported ||
           error == std::errc::operation_not_supported || error == std::errc::not_a_socket;
}

}  // namespace detail

/// Sends `count` bytes of the regular file `file` from `offset` on, or what it has. The file stays open
/// meanwhile; its position is neither used nor moved.
///
/// Completes: with what came of it, errors and cancellation as well; `unsent` stays empty, as the file is
///            still there. A file that ends earlier is no error.
/// Cancelled: completes with operation_canceled as the error, and the count.
/// Owns:      nothing; up to 64 KiB where the sink has no `sendfile`.
/// Example:   examples/cpp/send_file.cpp
template <byte_sink S>
task<transferred> send_file(S& to, int file, std::uint64_t offset = 0, std::uint64_t count = unlimited) {
    transferred done;
    if constexpr (file_sink<S>) {
        constexpr std::uint64_t at_once = 256 * 1024;  // so that a fast peer starves nobody
        while (done.count < count) {
            const auto most = static_cast<std::size_t>(std::min(count - done.count, at_once));
            auto [error, sent] =
                co_await to.sendfile(file, static_cast<std::int64_t>(offset + done.count), most);
            if (error && detail::is_unsuited(error)) {
                break;
            }
            if (error || sent == 0) {
                done.error = error;
                co_return done;
            }
            done.count += sent;
        }
    }
    if (done.count < count) {
        detail::file_part rest(file, offset + done.count);
        const auto read = co_await copy(rest, to, count - done.count);
        done.error = read.error;
        done.count += read.count;
    }
    co_return done;
}

/// Sends all of the file at `path`; otherwise as for a file that is open.
///
/// Completes: with what came of it; a file that cannot be opened is its error.
/// Owns:      the file, until the end.
/// Example:   examples/cpp/send_file.cpp
template <byte_sink S>
task<transferred> send_file(S& to, std::string path) {
    // A fifo of that name would wait for its writer; a file knows no O_NONBLOCK.
    const fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | detail::of_any_size));
    if (!file) {
        co_return transferred{system_error_code(errno), 0, {}};
    }
    co_return co_await send_file(to, file.get());
}

}  // namespace zloop
