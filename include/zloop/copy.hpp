// zloop/copy.hpp: all bytes of a source into a sink.
//
// What receive() lends is valid until the next await and no longer: on epoll the next receive of any task
// comes into the same memory, and a send that has to wait, or its turn, is an await. So what is lent is sent
// now or never, by try_send. What the sink has no room for is copied first, and freed when it is sent. That
// way a copy that waits for its source holds no buffer, one whose sink keeps up copies and allocates nothing,
// and one whose sink does not pays a memcpy for each time that it has to wait anyway.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <zloop/stream.hpp>

namespace zloop {

/// Has `peek()`, which shows what has come, and keeps it until `consume(count)`; nothing to see is its end.
template <class S>
concept peekable_source = requires(S& stream, std::size_t count) {
    { stream.peek() } -> awaitable_to<result<std::string_view>>;
    stream.consume(count);
};

/// Has `try_send(buffers)`, which sends now, or fails with `resource_unavailable_try_again`.
template <class S>
concept trying_sink = byte_sink<S> && requires(S& stream, std::span<const iovec> from) {
    { stream.try_send(from) } -> std::same_as<result<std::size_t>>;
};

/// How far a transfer came: `auto [error, count, unsent] = co_await copy(from, to);`
///
/// Owns:    what is unsent.
/// Example: examples/cpp/copy.cpp
struct [[nodiscard]] transferred {
    std::error_code error;          ///< what ended it early
    std::uint64_t count = 0;        ///< bytes that the sink took
    std::vector<std::byte> unsent;  ///< after an error: what was taken from the source, and not by the sink

    /// Whether it came to its end.
    explicit operator bool() const noexcept { return !error; }

    /// Gives the count.
    /// Fails: throws the error as std::system_error.
    std::uint64_t value() const {
        if (error) {
            throw std::system_error(error);
        }
        return count;
    }
};

/// No limit to a number of bytes.
inline constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

namespace detail {

/// Sends all of `bytes`, which outlive it, and counts; what an error leaves over is kept.
template <byte_sink S>
task<> send_counted(S& to, std::span<const std::byte> bytes, transferred& done) {
    while (!bytes.empty()) {
        auto [error, sent] = co_await to.send(bytes);
        if (error) {
            done.unsent.assign(bytes.begin(), bytes.end());
            done.error = error;
            co_return;
        }
        done.count += sent;
        bytes = bytes.subspan(sent);
    }
}

template <peekable_source From, byte_sink To>
task<transferred> copy_peeked(From& from, To& to, std::uint64_t limit_bytes) {
    transferred done;
    while (done.count < limit_bytes) {
        auto [error, seen] = co_await from.peek();
        if (error || seen.empty()) {
            done.error = error;
            break;
        }
        const auto most = std::min<std::uint64_t>(seen.size(), limit_bytes - done.count);
        auto [failure, sent] = co_await to.send(bytes_of(seen).first(static_cast<std::size_t>(most)));
        if (failure) {
            done.error = failure;
            break;
        }
        from.consume(sent);
        done.count += sent;
    }
    co_return done;
}

template <borrowing_source From, byte_sink To>
task<transferred> copy_lent(From& from, To& to) {
    transferred done;
    while (!done.error) {
        auto [error, lent] = co_await from.receive();
        if (error || lent.empty()) {
            done.error = error;
            break;
        }
        if constexpr (trying_sink<To>) {
            const iovec part{const_cast<std::byte*>(lent.data()), lent.size()};
            auto [failure, sent] = to.try_send({&part, 1});
            if (failure && failure != std::errc::resource_unavailable_try_again) {
                done.error = failure;
                done.unsent.assign(lent.begin(), lent.end());
                break;
            }
            done.count += sent;
            lent = lent.subspan(sent);
        }
        if (!lent.empty()) {
            const std::vector<std::byte> own(lent.begin(), lent.end());
            co_await send_counted(to, own, done);
        }
    }
    co_return done;
}

template <byte_source From, byte_sink To>
task<transferred> copy_buffered(From& from, To& to, std::uint64_t limit_bytes) {
    constexpr std::uint64_t most = 64 * 1024;
    transferred done;
    const auto size = static_cast<std::size_t>(std::min(limit_bytes, most));
    const std::unique_ptr<std::byte[]> buffer(new std::byte[size]);
    while (!done.error && done.count < limit_bytes) {
        const auto room = static_cast<std::size_t>(std::min<std::uint64_t>(size, limit_bytes - done.count));
        auto [error, count] = co_await from.recv({buffer.get(), room});
        if (error || count == 0) {
            done.error = error;
            break;
        }
        co_await send_counted(to, std::span(buffer.get(), count), done);
    }
    co_return done;
}

}  // namespace detail

/// Sends what comes out of `from` into `to`, up to the end of `from`, or `limit_bytes`. Ends neither of them.
///
/// Completes: with what came of it, errors and cancellation as well: no byte is lost. A source that peeks
///            (buffered_reader.hpp) keeps what the sink has not taken; of any other it is in `unsent`.
/// Fails:     throws what `from` or `to` throws, or std::bad_alloc; then an unknown part is sent.
/// Cancelled: completes with operation_canceled as the error, and the count. After a deadline with_timeout
///            makes timed_out of that error; the count and what is unsent stay.
/// Owns:      nothing while it waits for a source that lends; else, or with a limit, up to 64 KiB.
/// Overlap:   it reads `from` and writes `to`, which may be the same stream.
/// Example:   examples/cpp/copy.cpp
template <byte_source From, byte_sink To>
task<transferred> copy(From& from, To& to, std::uint64_t limit_bytes = unlimited) {
    if constexpr (peekable_source<From>) {
        return detail::copy_peeked(from, to, limit_bytes);
    } else {
        if constexpr (borrowing_source<From>) {
            if (limit_bytes == unlimited) {  // how much is lent, nobody can say before
                return detail::copy_lent(from, to);
            }
        }
        return detail::copy_buffered(from, to, limit_bytes);
    }
}

}  // namespace zloop
