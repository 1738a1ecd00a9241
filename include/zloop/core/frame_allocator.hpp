// zloop/core/frame_allocator.hpp: memory for a coroutine's frame out of a user's allocator.
//
// A copy of the allocator lies behind the frame, as the frame is freed by who knows its size alone.
//
// Nothing in it is for users.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include <zloop/config.hpp>

namespace zloop::detail {

template <class Allocator>
class frame_allocator {
    struct alignas(__STDCPP_DEFAULT_NEW_ALIGNMENT__) block {
        std::byte bytes[__STDCPP_DEFAULT_NEW_ALIGNMENT__];
    };
    using traits = typename std::allocator_traits<Allocator>::template rebind_traits<block>;
    using kept = typename traits::allocator_type;
    static_assert(std::is_same_v<typename traits::pointer, block*>, "an allocator with plain pointers");
    static_assert(alignof(kept) <= alignof(block));

public:
    static void* allocate(const Allocator& from, std::size_t size) {
        kept own(from);
        block* const memory = traits::allocate(own, blocks_of(size));
        ::new (behind(memory, size)) kept(std::move(own));
        return memory;
    }

    static void release(void* memory, std::size_t size) noexcept {
        auto* const place = std::launder(static_cast<kept*>(behind(memory, size)));
        kept own(std::move(*place));
        place->~kept();
        traits::deallocate(own, static_cast<block*>(memory), blocks_of(size));
    }

private:
    static constexpr std::size_t rounded(std::size_t size) noexcept {
        return (size + alignof(kept) - 1) / alignof(kept) * alignof(kept);
    }
    static constexpr std::size_t blocks_of(std::size_t size) noexcept {
        return (rounded(size) + sizeof(kept) + sizeof(block) - 1) / sizeof(block);
    }
    static void* behind(void* memory, std::size_t size) noexcept {
        return static_cast<std::byte*>(memory) + rounded(size);
    }
};

/// The allocator among a coroutine's arguments: what comes behind std::allocator_arg, which is the first, or
/// the second of a member's.
template <class Allocator, class... Rest>
const Allocator& allocator_among(const std::allocator_arg_t&, const Allocator& found,
                                 const Rest&...) noexcept {
    return found;
}
template <class Object, class Allocator, class... Rest>
const Allocator& allocator_among(const Object&, const std::allocator_arg_t&, const Allocator& found,
                                 const Rest&...) noexcept {
    return found;
}

}  // namespace zloop::detail
