// zloop/stream.hpp: what a byte stream is, and whole messages out of one and into one: read_exactly,
// read_until, write_all.
//
// For anything that has recv(span) or send(span) as awaitables: a socket, a pipe, standard input, or a
// user's own layer on top of one. Buffers belong to the caller and stay alive until the end. Who reads many
// small messages takes a buffered_reader (buffered_reader.hpp).
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <sys/uio.h>

#include <zloop/error.hpp>
#include <zloop/task.hpp>
#include <zloop/wait/operation.hpp>

namespace zloop {

/// Has `recv(span)`, which gives some bytes, at least one; none at the end.
/// Example: examples/cpp/buffered_reader.cpp
template <class S>
concept byte_source = requires(S& stream, std::span<std::byte> into) {
    { stream.recv(into) } -> awaitable_to<result<std::size_t>>;
};

/// Has `send(span)`, which takes some bytes, at least one.
/// Example: examples/cpp/copy.cpp
template <class S>
concept byte_sink = requires(S& stream, std::span<const std::byte> from) {
    { stream.send(from) } -> awaitable_to<result<std::size_t>>;
};

/// Has both.
template <class S>
concept byte_stream = byte_source<S> && byte_sink<S>;

/// Has `receive()`, which lends some bytes until the next await; none at the end.
template <class S>
concept borrowing_source = byte_source<S> && requires(S& stream) {
    { stream.receive() } -> awaitable_to<result<std::span<const std::byte>>>;
};

/// Has `send(buffers)`, which takes some bytes of several buffers, in order; at least one.
template <class S>
concept vectored_sink = byte_sink<S> && requires(S& stream, std::span<const iovec> from) {
    { stream.send(from) } -> awaitable_to<result<std::size_t>>;
};

/// What came of moving a known number of bytes: all of them, or an error, and how many before it.
/// `auto [error, count] = co_await write_all(socket, text);`
/// Example: examples/cpp/pipe.cpp
class [[nodiscard]] progress : public result<void> {
public:
    /// The outcome `error`, after `moved` bytes.
    progress(std::error_code error = {}, std::size_t moved = 0) noexcept
        : result<void>(error), count(moved) {}
    progress(std::errc error) noexcept : result<void>(error) {}

    std::size_t count = 0;  ///< bytes that the stream took, or that are in the buffer

    /// For structured bindings: the error, and the count.
    template <std::size_t I>
    friend auto get(const progress& self) noexcept {
        if constexpr (I == 0) {
            return self.error();
        } else {
            return self.count;
        }
    }
};

/// Gives the bytes of `text`, to send.
/// Owns: nothing: `text` stays alive meanwhile.
inline std::span<const std::byte> bytes_of(std::string_view text) noexcept {
    return std::as_bytes(std::span(text.data(), text.size()));
}

/// Gives `bytes` that were received as text, to look at.
/// Owns: nothing: `bytes` stay as long as they did.
inline std::string_view as_text(std::span<const std::byte> bytes) noexcept {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

namespace detail {

/// What is left of several buffers, as the system takes it: so many at a time as fit into a task's frame.
class unsent_parts {
public:
    explicit unsent_parts(std::span<const std::span<const std::byte>> parts) noexcept : rest_(parts) {
        skip(0);
    }

    /// The next buffers, none of them empty; no buffer when all is sent.
    std::span<const iovec> next() noexcept {
        std::size_t count = 0;
        std::size_t begin = begin_;
        for (std::size_t index = 0; index < rest_.size() && count < window_.size(); ++index) {
            const auto part = rest_[index].subspan(std::exchange(begin, 0));
            if (!part.empty()) {
                window_[count++] = {const_cast<std::byte*>(part.data()), part.size()};
            }
        }
        return {window_.data(), count};
    }

    void skip(std::size_t sent) noexcept {
        begin_ += sent;
        while (!rest_.empty() && begin_ >= rest_.front().size()) {
            begin_ -= rest_.front().size();
            rest_ = rest_.subspan(1);
        }
    }

private:
    std::span<const std::span<const std::byte>> rest_;
    std::size_t begin_ = 0;  // in the first of them
    std::array<iovec, 16> window_;
};

/// Looks for a delimiter in text that grows at its end, and at each character of it once.
class delimiter_search {
public:
    explicit delimiter_search(std::string delimiter) noexcept : delimiter_(std::move(delimiter)) {}

    /// The size up to and with the delimiter; npos: it has not come.
    std::size_t size_in(std::string_view text) noexcept {
        const auto found = text.find(delimiter_, searched_);
        if (found != std::string_view::npos) {
            return found + delimiter_.size();
        }
        // It may have begun in what there is.
        searched_ = text.size() < delimiter_.size() ? 0 : text.size() - delimiter_.size() + 1;
        return std::string_view::npos;
    }

private:
    std::string delimiter_;
    std::size_t searched_ = 0;
};

/// Room at the end of a text; what nothing came into goes, also when reading throws.
class room_behind {
public:
    room_behind(std::string& text, std::size_t size) : text_(text), filled_(text.size()) {
        text.resize(filled_ + size);
    }
    room_behind(const room_behind&) = delete;
    room_behind& operator=(const room_behind&) = delete;
    ~room_behind() { text_.resize(filled_); }

    std::span<std::byte> bytes() noexcept {
        return std::as_writable_bytes(std::span(text_.data() + filled_, text_.size() - filled_));
    }
    void keep(std::size_t count) noexcept { filled_ += count; }

private:
    std::string& text_;
    std::size_t filled_;
};

}  // namespace detail

/// Sends all of `buffer`, which stays alive meanwhile.
///
/// Fails:     as send does; `count` says how much is sent, also after a deadline (with_timeout).
/// Cancelled: the same.
/// Example:   examples/cpp/pipe.cpp
template <byte_sink S>
task<progress> write_all(S& stream, std::span<const std::byte> buffer) {
    progress done;
    while (done.count < buffer.size()) {
        auto [error, sent] = co_await stream.send(buffer.subspan(done.count));
        if (error) {
            co_return progress(error, done.count);
        }
        done.count += sent;
    }
    co_return done;
}

/// Sends all of `parts`, in order: together where the sink takes several buffers, else one after the other.
/// The list stays alive until the end as well.
///
/// Fails:     as send does; `count` says how much is sent, also after a deadline (with_timeout).
/// Cancelled: the same.
/// Example:   examples/cpp/pipe.cpp
template <byte_sink S>
task<progress> write_all(S& stream, std::span<const std::span<const std::byte>> parts) {
    progress done;
    if constexpr (vectored_sink<S>) {
        detail::unsent_parts rest(parts);
        for (auto next = rest.next(); !next.empty(); next = rest.next()) {
            auto [error, sent] = co_await stream.send(next);
            if (error) {
                co_return progress(error, done.count);
            }
            rest.skip(sent);
            done.count += sent;
        }
    } else {
        for (const auto part : parts) {
            const auto written = co_await write_all(stream, part);
            done.count += written.count;
            if (!written) {
                co_return progress(written.error(), done.count);
            }
        }
    }
    co_return done;
}

/// Fills `buffer`, which stays alive meanwhile.
///
/// Fails:     `errc::end_of_stream` when the stream ends inside, else as recv does. What came is in the
/// buffer,
///            and `count` says how much that is, also after a deadline (with_timeout).
/// Cancelled: the same.
/// Example:   examples/cpp/pipe.cpp
template <byte_source S>
task<progress> read_exactly(S& stream, std::span<std::byte> buffer) {
    progress done;
    while (done.count < buffer.size()) {
        auto [error, came] = co_await stream.recv(buffer.subspan(done.count));
        if (error || came == 0) {
            co_return progress(error ? error : make_error_code(errc::end_of_stream), done.count);
        }
        done.count += came;
    }
    co_return done;
}

/// Appends to `buffer` until `delimiter` is in it. What came behind it stays in the buffer: erase what was
/// used and call again.
///
/// Completes: with the size up to and with the delimiter; at once when it is there already.
/// Fails:     `errc::limit_exceeded` when `limit_bytes` hold no delimiter, `errc::end_of_stream`, as recv
///            does; what came is in the buffer.
/// Cancelled: the same: the next call goes on.
/// Example:   examples/cpp/graceful_shutdown.cpp
template <byte_source S>
task<result<std::size_t>> read_until(S& stream, std::string& buffer, std::string delimiter,
                                     std::size_t limit_bytes = 64 * 1024) {
    constexpr std::size_t step = 4096;
    detail::delimiter_search end(std::move(delimiter));
    for (;;) {
        if (const auto size = end.size_in(buffer); size != std::string::npos) {
            co_return size;
        }
        if (buffer.size() >= limit_bytes) {
            co_return errc::limit_exceeded;
        }
        detail::room_behind room(buffer, std::min(limit_bytes - buffer.size(), step));
        auto [error, count] = co_await stream.recv(room.bytes());
        if (error) {
            co_return error;
        }
        if (count == 0) {
            co_return errc::end_of_stream;
        }
        room.keep(count);
    }
}

}  // namespace zloop

template <>
struct std::tuple_size<zloop::progress> : std::integral_constant<std::size_t, 2> {};
template <>
struct std::tuple_element<0, zloop::progress> {
    using type = std::error_code;
};
template <>
struct std::tuple_element<1, zloop::progress> {
    using type = std::size_t;
};
