// zloop/kernel/uring/buffers.hpp: the buffers that the kernel receives into, of its own choice.
//
// The kernel takes a buffer out of a ring that it shares with us when bytes have come, not before: an
// idle connection holds none. What it has filled leaves the ring for good and another buffer takes its
// place, so bytes that nobody asks for, or that a slow peer does not take, keep no one else from
// receiving. Whoever holds a buffer counts as its user; with the last one it goes back to the pool.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/ring.hpp>

#if ZLOOP_HAS_URING

#include <new>
#include <vector>

namespace zloop::detail::uring {

/// A buffer: this head, and `room` bytes behind it.
struct buffer {
    buffer* next = nullptr;   ///< in a queue, or in the pool
    std::uint32_t begin = 0;  ///< what nobody has taken yet
    std::uint32_t end = 0;
    std::uint32_t room = 0;
    std::uint32_t users = 0;

    std::byte* bytes() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
    std::size_t size() const noexcept { return end - begin; }
    bool contains(const void* address) noexcept {
        const auto at = reinterpret_cast<std::uintptr_t>(address);
        const auto from = reinterpret_cast<std::uintptr_t>(bytes());
        return at >= from && at - from < room;
    }

    /// Null: no memory.
    static buffer* make(std::uint32_t room) noexcept {
        void* const memory = ::operator new(sizeof(buffer) + room, std::nothrow);
        buffer* const made = memory != nullptr ? ::new (memory) buffer : nullptr;
        if (made != nullptr) {
            made->room = room;
        }
        return made;
    }
    static void destroy(buffer* made) noexcept { ::operator delete(made); }
};

/// Filled buffers in the order in which they came. Owns them.
class buffer_queue {
public:
    bool empty() const noexcept { return first_ == nullptr; }
    std::size_t size_bytes() const noexcept { return size_bytes_; }
    buffer& front() noexcept { return *first_; }
    buffer* back() noexcept { return last_; }

    void push(buffer& filled) noexcept {
        filled.next = nullptr;
        (last_ != nullptr ? last_->next : first_) = &filled;
        last_ = &filled;
        size_bytes_ += filled.size();
    }

    void push_front(buffer& filled) noexcept {
        filled.next = first_;
        first_ = &filled;
        last_ = last_ != nullptr ? last_ : &filled;
        size_bytes_ += filled.size();
    }

    buffer& pop() noexcept {
        buffer& oldest = *first_;
        first_ = oldest.next;
        if (first_ == nullptr) {
            last_ = nullptr;
        }
        size_bytes_ -= oldest.size();
        return oldest;
    }

    /// Bytes went to the last buffer, or left the first one.
    void grew(std::size_t count) noexcept { size_bytes_ += count; }
    void shrank(std::size_t count) noexcept { size_bytes_ -= count; }

private:
    buffer* first_ = nullptr;
    buffer* last_ = nullptr;
    std::size_t size_bytes_ = 0;
};

class buffer_ring {
public:
    static constexpr std::uint32_t room_bytes = 16 * 1024;
    static constexpr unsigned entries = 1024;  // a power of two
    static constexpr unsigned first_supply = 32;
    static constexpr std::uint16_t group = 0;

    /// Throws std::system_error.
    explicit buffer_ring(const ring& owner)
        : memory_(mapping::of(entries * sizeof(provided_buffer), MAP_PRIVATE | MAP_ANONYMOUS)) {
        buffer_registration wanted{};
        wanted.address = reinterpret_cast<std::uintptr_t>(memory_.at<void>());
        wanted.entries = entries;
        wanted.group = group;
        if (const int outcome = control(owner.native_handle(), register_buffer_ring, &wanted, 1);
            outcome < 0) {
            throw std::system_error(-outcome, std::system_category(), "a ring of buffers");
        }
        given_.reserve(entries);
        wanting_.reserve(entries);
    }

    buffer_ring(const buffer_ring&) = delete;
    buffer_ring& operator=(const buffer_ring&) = delete;
    ~buffer_ring() {
        for (buffer* each : given_) {
            buffer::destroy(each);
        }
        while (pool_ != nullptr) {
            buffer::destroy(std::exchange(pool_, pool_->next));
        }
    }

    /// What the kernel has may be written to for ever: it is never freed.
    void leak() noexcept { given_.clear(); }

    /// What the kernel has filled with `size` bytes; its one user is the caller.
    buffer& take(unsigned number, std::uint32_t size) noexcept {
        buffer& filled = *std::exchange(given_[number], nullptr);
        wanting_.push_back(static_cast<std::uint16_t>(number));
        filled.begin = 0;
        filled.end = size;
        filled.users = 1;
        return filled;
    }

    void drop(buffer& used) noexcept {
        if (--used.users == 0) {
            if (pooled_ < given_.size() && used.room == room_bytes) {
                used.next = std::exchange(pool_, &used);
                ++pooled_;
            } else {
                buffer::destroy(&used);
            }
        }
    }

    /// Fills the places of what was taken. False: the kernel has no buffer at all.
    bool replenish() noexcept {
        if (given_.empty()) {
            grow();
        }
        while (!wanting_.empty()) {
            buffer* const fresh = pool_ != nullptr ? pool_ : buffer::make(room_bytes);
            if (fresh == nullptr) {
                break;
            }
            if (fresh == pool_) {
                pool_ = fresh->next;
                --pooled_;
            }
            give(wanting_.back(), *fresh);
            wanting_.pop_back();
        }
        return wanting_.size() < given_.size();
    }

    /// The kernel has run out: from now on it gets twice as many.
    void grow() noexcept {
        const std::size_t before = given_.size();
        const std::size_t after = before == 0 ? first_supply : before * 2;
        for (std::size_t number = before; number < after && number < entries; ++number) {
            given_.push_back(nullptr);  // reserved
            wanting_.push_back(static_cast<std::uint16_t>(number));
        }
    }

private:
    void give(std::uint16_t number, buffer& empty) noexcept {
        given_[number] = &empty;
        auto* const places = memory_.at<provided_buffer>();
        provided_buffer& place = places[tail_++ % entries];
        place.address = reinterpret_cast<std::uintptr_t>(empty.bytes());
        place.length = room_bytes;
        place.number = number;
        __atomic_store_n(&places->tail, tail_, __ATOMIC_RELEASE);
    }

    mapping memory_;
    std::vector<buffer*> given_;          // by number; null: wanting
    std::vector<std::uint16_t> wanting_;  // numbers without a buffer
    buffer* pool_ = nullptr;
    std::size_t pooled_ = 0;
    std::uint16_t tail_ = 0;
};

}  // namespace zloop::detail::uring

#endif
