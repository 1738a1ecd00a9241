#include <zloop/core/frame_pool.hpp>

#include <set>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "probes.hpp"

using zloop::detail::frame_pool;

TEST_CASE("a freed frame is the next one of its size class", "[frame_pool]") {
    if (!probes::counts_allocations) {
        return;
    }
    void* const first = frame_pool::allocate(129);
    frame_pool::release(first, 129);
    const std::size_t before = probes::allocations();

    void* const second = frame_pool::allocate(144);  // 129 to 144 bytes are one class

    CHECK(second == first);
    CHECK(probes::allocations() == before);
    frame_pool::release(second, 144);
}

TEST_CASE("frames in use do not overlap, whatever their sizes", "[frame_pool]") {
    struct piece {
        unsigned char* memory;
        std::size_t size;
    };
    std::vector<piece> pieces;
    for (int round = 0; round < 3; ++round) {
        for (std::size_t size = 1; size < 1400; size += 13) {
            auto* const memory = static_cast<unsigned char*>(frame_pool::allocate(size));
            CHECK(reinterpret_cast<std::uintptr_t>(memory) % __STDCPP_DEFAULT_NEW_ALIGNMENT__ == 0);
            std::fill_n(memory, size, static_cast<unsigned char>(size));
            pieces.push_back({memory, size});
        }
        std::size_t wrong = 0;
        for (const piece& each : pieces) {
            for (std::size_t index = 0; index < each.size; ++index) {
                wrong += each.memory[index] != static_cast<unsigned char>(each.size);
            }
            frame_pool::release(each.memory, each.size);
        }
        CHECK(wrong == 0);
        pieces.clear();
    }
}

TEST_CASE("frames over 4 KiB come from the heap and go back to it", "[frame_pool]") {
    if (!probes::counts_allocations) {
        return;
    }
    frame_pool::release(frame_pool::allocate(4097), 4097);
    const std::size_t before = probes::allocations();

    frame_pool::release(frame_pool::allocate(4097), 4097);

    CHECK(probes::allocations() == before + 1);
}

TEST_CASE("a size class keeps 256 frames", "[frame_pool]") {
    if (!probes::counts_allocations) {
        return;
    }
    std::thread([] {  // a thread begins with an empty pool
        std::vector<void*> frames;
        for (int count = 0; count < 300; ++count) {
            frames.push_back(frame_pool::allocate(64));
        }
        for (void* each : frames) {
            frame_pool::release(each, 64);
        }
        frames.clear();
        frames.reserve(300);
        const std::size_t before = probes::allocations();

        for (int count = 0; count < 300; ++count) {
            frames.push_back(frame_pool::allocate(64));
        }

        CHECK(probes::allocations() == before + 300 - 256);
        for (void* each : frames) {
            frame_pool::release(each, 64);
        }
    })
        .join();
}

TEST_CASE("a frame may be freed on another thread", "[frame_pool]") {
    void* const here = frame_pool::allocate(100);
    void* there = nullptr;

    std::thread([&] {
        frame_pool::release(here, 100);
        there = frame_pool::allocate(100);
    }).join();

    if (!ZLOOP_ASAN) {
        CHECK(there == here);
    }
    frame_pool::release(there, 100);
}

namespace {

std::size_t late_allocations = 0;

struct late {  // outlives the thread's pool, which is made after it
    void* frame = nullptr;
    ~late() {
        frame_pool::release(frame, 64);
        const std::size_t before = probes::allocations();
        frame_pool::release(frame_pool::allocate(64), 64);
        late_allocations = probes::allocations() - before;
    }
};

}  // namespace

TEST_CASE("frames are allocated and freed after a thread's pool is gone", "[frame_pool]") {
    std::thread([] {
        static thread_local late last;
        last.frame = frame_pool::allocate(64);
        frame_pool::release(frame_pool::allocate(64), 64);  // the pool is made when a frame comes back
    }).join();

    CHECK(late_allocations == (probes::counts_allocations ? 1 : 0));  // from the heap
}
