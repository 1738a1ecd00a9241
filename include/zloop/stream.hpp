// zloop/stream.hpp: whole messages out of byte streams: read_exactly, read_until, write_all.
//
// For anything that has recv(span) and send(span) as awaitables, a `byte_stream`: a socket, or a
// user's own layer on top of one. Buffers belong to the caller and stay alive until the end.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <zloop/error.hpp>
#include <zloop/task.hpp>

namespace zloop {

/// What gives an R when it is awaited: an awaiter, a task, or what has an operator co_await.
template <class A, class R>
concept awaitable_to = requires(A&& that) {
    { that.await_resume() } -> std::same_as<R>;
} || requires(A&& that) {
    { static_cast<A&&>(that).operator co_await().await_resume() } -> std::same_as<R>;
} || requires(A&& that) {
    { operator co_await(static_cast<A&&>(that)).await_resume() } -> std::same_as<R>;
};

/// `recv(span)` gives some bytes, at least one; none at the end.
template <class S>
concept byte_source = requires(S& stream, std::span<std::byte> into) {
    { stream.recv(into) } -> awaitable_to<result<std::size_t>>;
};

/// `send(span)` takes some bytes, at least one.
template <class S>
concept byte_sink = requires(S& stream, std::span<const std::byte> from) {
    { stream.send(from) } -> awaitable_to<result<std::size_t>>;
};

template <class S>
concept byte_stream = byte_source<S> && byte_sink<S>;

/// The bytes of `text`, to send.
inline std::span<const std::byte> bytes_of(std::string_view text) noexcept {
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// Sends all of `buffer`.
/// Fails: as send does; then an unknown part is sent.
template <byte_stream S>
task<result<void>> write_all(S& stream, std::span<const std::byte> buffer) {
    while (!buffer.empty()) {
        auto [error, sent] = co_await stream.send(buffer);
        if (error) {
            co_return error;
        }
        buffer = buffer.subspan(sent);
    }
    co_return {};
}

/// Fills `buffer`.
/// Fails: `errc::end_of_stream` when the stream ends inside; what came is in the buffer.
template <byte_stream S>
task<result<void>> read_exactly(S& stream, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
        auto [error, count] = co_await stream.recv(buffer);
        if (error) {
            co_return error;
        }
        if (count == 0) {
            co_return errc::end_of_stream;
        }
        buffer = buffer.subspan(count);
    }
    co_return {};
}

/// Appends to `buffer` until `delimiter` is in it, and returns the size up to and with the delimiter.
/// What came behind it stays in the buffer: erase what was used and call again.
/// Fails: `errc::limit_exceeded` when `limit_bytes` hold no delimiter, `errc::end_of_stream`.
template <byte_stream S>
task<result<std::size_t>> read_until(S& stream, std::string& buffer, std::string delimiter,
                                     std::size_t limit_bytes = 64 * 1024) {
    constexpr std::size_t step = 4096;
    std::size_t searched = 0;
    for (;;) {
        if (const auto found = buffer.find(delimiter, searched); found != std::string::npos) {
            co_return found + delimiter.size();
        }
        if (buffer.size() >= limit_bytes) {
            co_return errc::limit_exceeded;
        }
        // The delimiter may have begun in what we have.
        searched = buffer.size() < delimiter.size() ? 0 : buffer.size() - delimiter.size() + 1;
        const std::size_t filled = buffer.size();
        buffer.resize(filled + (limit_bytes - filled < step ? limit_bytes - filled : step));
        auto [error, count] =
            co_await stream.recv(std::as_writable_bytes(std::span(buffer.data() + filled, buffer.size() - filled)));
        buffer.resize(filled + (error ? 0 : count));
        if (error) {
            co_return error;
        }
        if (count == 0) {
            co_return errc::end_of_stream;
        }
    }
}

}  // namespace zloop
