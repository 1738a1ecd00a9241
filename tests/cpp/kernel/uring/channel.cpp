#include <zloop/kernel/uring/channel.hpp>

#if ZLOOP_HAS_URING

#include "catch.hpp"
#include "probes.hpp"

using namespace zloop;
using detail::uring::connection_queue;
using detail::uring::lane;
using detail::uring::lane_of;
using detail::uring::lanes;
using detail::uring::request_state;
using a_channel = detail::uring::channel;

TEST_CASE("accepted connections leave in the order in which they came", "[uring]") {
    connection_queue queue;
    CHECK(queue.empty());
    for (const int number : {7, 8, 9}) {
        CHECK(queue.push(number));
    }

    CHECK(queue.pop() == 7);
    CHECK(queue.size() == 2);
    CHECK(queue.push(10));
    for (const int number : {8, 9, 10}) {
        CHECK(queue.pop() == number);
    }
    CHECK(queue.empty());
    CHECK(queue.push(11));
    CHECK(queue.pop() == 11);
}

TEST_CASE("a connection that there is no memory for is not in the queue", "[uring]") {
    if (!probes::counts_allocations) {
        return;
    }
    connection_queue queue;
    {
        const probes::no_memory_for anything(1);
        CHECK(!queue.push(7));
    }
    CHECK(queue.empty());
    CHECK(queue.push(8));
    CHECK(queue.pop() == 8);
}

TEST_CASE("a tag names a lane of a channel, and is no other's", "[uring]") {
    a_channel one(3, true), other(4, true);
    for (const lane each : lanes) {
        CHECK(&a_channel::of(one.tag(each)) == &one);
        CHECK(a_channel::lane_of(one.tag(each)) == each);
        CHECK(one.tag(each) != other.tag(each));
    }
    CHECK(one.tag(lane::reading) != one.tag(lane::writing));
}

TEST_CASE("reads and writes have a lane each, and a waiter each", "[uring]") {
    CHECK(lane_of(opcode::recv) == lane::reading);
    CHECK(lane_of(opcode::receive) == lane::reading);
    CHECK(lane_of(opcode::accept) == lane::reading);
    CHECK(lane_of(opcode::send) == lane::writing);
    CHECK(lane_of(opcode::connect) == lane::writing);
    CHECK(lane_of(opcode::sendfile) == lane::writing);

    a_channel at(3, true);
    CHECK(&at.waiter(lane::reading) == &at.waiter(lane::arriving));  // who reads waits for what arrives
    CHECK(&at.waiter(lane::reading) != &at.waiter(lane::writing));
}

TEST_CASE("a channel is in the kernel as long as one of its lanes is", "[uring]") {
    a_channel at(3, true);
    CHECK(!at.in_kernel());
    for (const lane each : lanes) {
        at.of(each) = request_state::owing;
        CHECK(at.in_kernel());
        CHECK(!at.is_idle(each));
        at.of(each) = request_state::none;
    }
    CHECK(!at.in_kernel());
}

TEST_CASE("a reader need not wait for bytes, connections or an end that are there", "[uring]") {
    a_channel bytes(3, true), connections(4, true), ended(5, true);
    CHECK(!bytes.has_something());
    auto* const filled = detail::uring::buffer::make(8);
    bytes.received.push(*filled);
    CHECK(connections.connections.push(9));
    ended.has_outcome = true;

    CHECK(bytes.has_something());
    CHECK(connections.has_something());
    CHECK(ended.has_something());
    detail::uring::buffer::destroy(&bytes.received.pop());
    CHECK(!bytes.has_something());
}

#endif
