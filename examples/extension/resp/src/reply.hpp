// reply.hpp: what has been received and not been read yet, and the replies in it.
//
// A reply is a part of the memory that the kernel has put it into, and keeps that alive: between the socket
// and who reads the reply nothing is copied, but what had come of a reply that does not fit behind its begin.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "protocol.hpp"

namespace resp {

/// One whole reply of a server, or one push.
class reply {
public:
    reply() = default;
    reply(std::shared_ptr<const char[]> memory, std::string_view bytes, kind of)
        : memory_(std::move(memory)), bytes_(bytes), of_(of) {}

    /// As it came.
    std::string_view bytes() const { return bytes_; }
    kind of() const { return of_; }
    bool is_error() const { return of_ == kind::error || of_ == kind::long_error; }

    /// The text of an error, or of a short string; empty for others.
    std::string_view text() const {
        cursor elements(bytes_);
        for (;;) {
            const cursor::token first = elements.next();
            if (first.of != kind::attribute) {
                return first.text;
            }
            for (std::size_t left = first.size * 2; left != 0; --left) {
                skip(elements);
            }
        }
    }

    /// Passes over one value, with all that is in it, and the attributes in front of it.
    static void skip(cursor& elements) {
        while (skip_one(elements) == kind::attribute) {
        }
    }
    static kind skip_one(cursor& elements) {
        const cursor::token passed = elements.next();
        if (passed.of == kind::bytes && passed.is_streamed) {
            while (!elements.chunk().empty()) {
            }
        } else if (passed.is_streamed) {
            while (!elements.ends()) {
                skip(elements);
            }
        } else {
            const bool has_pairs = passed.of == kind::map || passed.of == kind::attribute;
            for (std::uint64_t left = passed.size * (has_pairs ? 2 : 1); left != 0; --left) {
                skip(elements);
            }
        }
        return passed.of;
    }

private:
    std::shared_ptr<const char[]> memory_;
    std::string_view bytes_;
    kind of_ = kind::null;
};

/// Bytes as they come, and the replies that are whole in them. Holds no memory while it has nothing.
class inbox {
public:
    explicit inbox(const limits& allowed = {}) : scanner_(allowed) {}

    /// Whether the begin of a reply is here, whose end is to come.
    bool is_within_reply() const { return filled_ != taken_; }

    /// Room for what comes next: for the rest of the reply, where its size is known.
    std::span<char> room() {
        if (capacity_ - filled_ < scanner_.missing()) {
            // Grows by its own size at least, so that a reply of unknown size is moved a few times, not
            // often.
            const std::size_t begun = filled_ - taken_;
            move_to(begun + std::max({scanner_.missing(), begun, least_room}));
        }
        return {memory_.get() + filled_, capacity_ - filled_};
    }
    /// So many bytes have come into it.
    void fill(std::size_t count) { filled_ += count; }

    /// Takes bytes that have come elsewhere.
    void add(std::string_view bytes) {
        if (capacity_ - filled_ < bytes.size()) {
            const std::size_t begun = filled_ - taken_;
            move_to(begun + std::max(begun, bytes.size()));
        }
        std::memcpy(memory_.get() + filled_, bytes.data(), bytes.size());
        filled_ += bytes.size();
    }

    /// The next reply; false: there is no whole one.
    /// Throws: protocol_error.
    bool take(reply& next) {
        if (filled_ == taken_) {
            memory_.reset();
            filled_ = taken_ = capacity_ = 0;
            return false;
        }
        const std::string_view unread(memory_.get() + taken_, filled_ - taken_);
        const std::size_t size = scanner_.scan(unread);
        if (size == 0) {
            return false;
        }
        next = reply(memory_, unread.substr(0, size), scanner_.found());
        taken_ += size;
        return true;
    }

private:
    static constexpr std::size_t least_room = 16 * 1024;

    /// Other memory, of `capacity`, with what is not taken yet. The former is the replies' that are in it.
    void move_to(std::size_t capacity) {
        std::shared_ptr<char[]> fresh = std::make_shared_for_overwrite<char[]>(capacity);
        if (filled_ != taken_) {
            std::memcpy(fresh.get(), memory_.get() + taken_, filled_ - taken_);
        }
        memory_ = std::move(fresh);
        filled_ -= std::exchange(taken_, 0);
        capacity_ = capacity;
    }

    scanner scanner_;
    std::shared_ptr<char[]> memory_;
    std::size_t capacity_ = 0;
    std::size_t filled_ = 0;  // up to here it has come
    std::size_t taken_ = 0;   // up to here it was taken
};

}  // namespace resp
