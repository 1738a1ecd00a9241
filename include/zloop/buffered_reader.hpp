// zloop/buffered_reader.hpp: lines and other small messages out of a byte source, many from each read.
//
// The reader owns its source, or refers to it: `buffered_reader(std::move(socket))`,
// `buffered_reader(socket)`. What it gives are views into its buffer, which the next call may move. Whatever
// was read from the source is in the buffer until it is given out: a call that fails, is cancelled or meets
// the end takes nothing, and the next one goes on. It is a byte source itself, and a stream over one, so that
// layers stack.
//
// A message with its delimiter is no longer than the limit, 64 KiB where nothing is said. read_line strips
// "\n" or
// "\r\n", and nothing else; read_until strips nothing.
#pragma once

#include <zloop/config.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <zloop/stream.hpp>

namespace zloop {

namespace detail {

/// Bytes that come in at the end and go out at the front, in one piece of memory.
///
/// None at first, 4 KiB with the first byte; doubled when there is no room left, and when one read has
/// filled most of it, as more will be there at once. Never more than the limit.
class byte_queue {
public:
    explicit byte_queue(std::size_t limit_bytes) noexcept : limit_(limit_bytes) { assert(limit_bytes != 0); }
    byte_queue(byte_queue&& other) noexcept : byte_queue(other.limit_) { *this = std::move(other); }
    byte_queue& operator=(byte_queue&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(limit_, other.limit_);
        std::swap(capacity_, other.capacity_);
        std::swap(begin_, other.begin_);
        std::swap(end_, other.end_);
        std::swap(gushes_, other.gushes_);
        return *this;
    }
    ~byte_queue() = default;

    std::size_t limit() const noexcept { return limit_; }
    std::size_t size() const noexcept { return end_ - begin_; }
    std::string_view view() const noexcept { return {bytes_.get() + begin_, size()}; }

    /// The first bytes, which stay where they are until room() is asked for.
    std::string_view take(std::size_t count) noexcept {
        const auto taken = view().substr(0, count);
        begin_ += taken.size();
        return taken;
    }

    /// Where more can come, until `wanted` bytes are there; empty at the limit.
    std::span<std::byte> room(std::size_t wanted) {
        if (size() == 0) {
            begin_ = end_ = 0;
        }
        const bool is_full = end_ == capacity_ && size() > capacity_ / 2;
        const std::size_t asked =
            std::max({is_full || gushes_ ? 2 * capacity_ : capacity_, wanted, first_bytes});
        if (const std::size_t capacity = std::min(asked, limit_); capacity != capacity_) {
            std::unique_ptr<char[]> larger(new char[capacity]);
            view().copy(larger.get(), size());
            bytes_ = std::move(larger);
            capacity_ = capacity;
            end_ = size();
            begin_ = 0;
        } else if (end_ == capacity_ || begin_ + wanted > capacity_) {
            std::memmove(bytes_.get(), bytes_.get() + begin_, size());
            end_ = size();
            begin_ = 0;
        }
        return std::as_writable_bytes(std::span(bytes_.get() + end_, capacity_ - end_));
    }

    /// So many bytes came.
    void came(std::size_t count) noexcept {
        gushes_ = count == capacity_ - end_ && count >= capacity_ / 2;
        end_ += count;
    }

private:
    static constexpr std::size_t first_bytes = 4096;

    std::unique_ptr<char[]> bytes_;
    std::size_t limit_;
    std::size_t capacity_ = 0;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    bool gushes_ = false;
};

}  // namespace detail

/// Gives the bytes of a source message by message.
///
/// Completes: with a view of the buffer, valid until the next call.
/// Fails:     as the source does, with what it throws; `errc::end_of_stream` when the source ends inside of
///            what was asked for, `errc::limit_exceeded`. Then nothing was taken. Throws std::bad_alloc.
/// Cancelled: takes nothing: what has come is buffered(), and the next call goes on.
/// Owns:      `S`, unless that is a reference, and a buffer of at most `limit_bytes`, which the longest
///            message fits into with its delimiter. Larger ones are read by recv, or by read_exactly
///            (stream.hpp), into memory of your own.
/// Overlap:   one call at a time, and the reader stays where it is meanwhile. send() beside them is fine,
///            where it is on the source.
/// Example:   examples/cpp/buffered_reader.cpp
template <byte_source S>
class buffered_reader {
public:
    /// Reads from `source`: `buffered_reader(socket)` refers to it, `buffered_reader(std::move(socket))` owns
    /// it. A limit is at least a byte; memory comes with the first read.
    explicit buffered_reader(std::type_identity_t<S> source, std::size_t limit_bytes = 64 * 1024)
        : source_(std::forward<S>(source)), bytes_(limit_bytes) {}

    /// Gives the source. What is read from it directly comes behind buffered().
    std::remove_reference_t<S>& source() noexcept { return source_; }

    /// What has come and was not taken yet.
    std::string_view buffered() const noexcept { return bytes_.view(); }

    /// Takes the first `count` bytes of buffered().
    void consume(std::size_t count) noexcept { bytes_.take(count); }

    /// Takes a line without its end, which is "\n" or "\r\n". A last one that has none stays in buffered().
    task<result<std::string_view>> read_line() {
        std::size_t size = buffered().find('\n') + 1;
        if (size == 0) {  // else it costs no further frame
            auto [error, found] = co_await peek_until("\n");
            if (error) {
                co_return error;
            }
            size = found;
        }
        auto line = bytes_.take(size);
        line.remove_suffix(line.ends_with("\r\n") ? 2 : 1);
        co_return line;
    }

    /// Takes what comes up to `delimiter`, and with it.
    task<result<std::string_view>> read_until(std::string delimiter) {
        auto [error, size] = co_await peek_until(std::move(delimiter));
        if (error) {
            co_return error;
        }
        co_return bytes_.take(size);
    }

    /// Takes `count` bytes.
    task<result<std::string_view>> read_exactly(std::size_t count) {
        if (count <= bytes_.size()) {
            co_return bytes_.take(count);
        }
        auto [error, seen] = co_await peek(count);
        if (error) {
            co_return error;
        }
        if (seen.size() < count) {
            co_return errc::end_of_stream;
        }
        co_return bytes_.take(count);
    }

    /// Takes all that is there: at least a byte, or none at the end.
    task<result<std::span<const std::byte>>> receive() {
        auto [error, seen] = co_await peek();
        if (error) {
            co_return error;
        }
        co_return bytes_of(bytes_.take(seen.size()));
    }

    /// Takes bytes into `buffer`; a large one is read into directly when nothing is buffered.
    /// Completes: with their number; 0 at the end.
    task<result<std::size_t>> recv(std::span<std::byte> buffer) {
        constexpr std::size_t large = 4096;
        if (buffer.size() >= large && buffered().empty()) {
            co_return co_await source_.recv(buffer);
        }
        if (!buffer.empty()) {
            auto [error, seen] = co_await peek();
            if (error) {
                co_return error;
            }
        }
        const auto taken = bytes_.take(buffer.size());
        std::copy_n(std::as_bytes(std::span(taken)).begin(), taken.size(), buffer.begin());
        co_return taken.size();
    }

    /// Waits until at least `count` bytes are buffered(), and takes none; fewer are there at the end.
    task<result<std::string_view>> peek(std::size_t count = 1) {
        if (count > bytes_.limit()) {
            co_return errc::limit_exceeded;
        }
        while (bytes_.size() < count) {
            auto [error, came] = co_await fill(count);
            if (error) {
                co_return error;
            }
            if (came == 0) {
                break;
            }
        }
        co_return buffered();
    }

    /// Waits until `delimiter` is in buffered(), and takes nothing: the size up to it, and with it.
    task<result<std::size_t>> peek_until(std::string delimiter) {
        detail::delimiter_search end(std::move(delimiter));
        for (;;) {
            if (const auto size = end.size_in(buffered()); size != std::string_view::npos) {
                co_return size;
            }
            auto [error, came] = co_await fill();
            if (error) {
                co_return error;
            }
            if (came == 0) {
                co_return errc::end_of_stream;
            }
        }
    }

    /// Reads on, whatever is buffered(): how many bytes came, none at the end.
    task<result<std::size_t>> fill() { return fill(0); }

    /// Sends as the source does, when it is a stream: nothing is buffered this way.
    auto send(std::span<const std::byte> buffer)
        requires byte_sink<S>
    {
        return source_.send(buffer);
    }
    /// Sends several buffers as the source does, when it takes them.
    auto send(std::span<const iovec> buffers)
        requires vectored_sink<S>
    {
        return source_.send(buffers);
    }

private:
    task<result<std::size_t>> fill(std::size_t wanted) {
        const auto room = bytes_.room(wanted);
        if (room.empty()) {
            co_return errc::limit_exceeded;
        }
        auto [error, count] = co_await source_.recv(room);
        if (error) {
            co_return error;
        }
        bytes_.came(count);
        co_return count;
    }

    S source_;
    detail::byte_queue bytes_;
};

/// Refers to a source that has a name, and owns one that is moved in.
template <class S>
buffered_reader(S&&) -> buffered_reader<S>;
/// The same, with a limit.
template <class S>
buffered_reader(S&&, std::size_t) -> buffered_reader<S>;

}  // namespace zloop
