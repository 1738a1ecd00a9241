#include <zloop/kernel/uring/buffers.hpp>

#if ZLOOP_HAS_URING

#include "catch.hpp"
#include "support.hpp"

using namespace support;
using zloop::detail::uring::buffer;
using zloop::detail::uring::buffer_queue;
using zloop::detail::uring::buffer_ring;

TEST_CASE("filled buffers leave a queue in the order in which they came", "[uring]") {
    buffer_queue queue;
    buffer* const first = buffer::make(16);
    buffer* const second = buffer::make(16);
    first->end = 10;
    second->end = 5;

    queue.push(*first);
    queue.push(*second);
    CHECK(queue.size_bytes() == 15);
    CHECK(queue.back() == second);
    queue.front().begin += 4;
    queue.shrank(4);

    CHECK(&queue.pop() == first);
    CHECK(queue.size_bytes() == 5);
    CHECK(&queue.pop() == second);
    CHECK(queue.size_bytes() == 0);
    CHECK(queue.empty());
    CHECK(queue.back() == nullptr);
    buffer::destroy(first);
    buffer::destroy(second);
}

TEST_CASE("a buffer knows what lies in it", "[uring]") {
    buffer* const one = buffer::make(16);
    CHECK(one->contains(one->bytes()));
    CHECK(one->contains(one->bytes() + 15));
    CHECK(!one->contains(one->bytes() + 16));
    CHECK(!one->contains(one));
    buffer::destroy(one);
}

TEST_CASE("who has a buffer keeps it, and the kernel gets another in its place", "[uring]") {
    if (!has_uring()) {
        return;
    }
    zloop::detail::uring::ring ring(8, 16);
    buffer_ring buffers(ring);
    REQUIRE(buffers.replenish());

    buffer& first = buffers.take(3, 100);
    buffer* const address = &first;
    CHECK(first.size() == 100);
    CHECK(buffers.replenish());
    buffer& second = buffers.take(3, 7);  // the same number, another buffer
    CHECK(&second != address);

    buffers.drop(second);
    CHECK(first.size() == 100);
    buffers.drop(first);
    CHECK(buffers.replenish());
    CHECK(&buffers.take(3, 1) == address);  // the last one that came back
    buffers.drop(*address);
}

#endif
