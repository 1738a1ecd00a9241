#include <zloop/kernel/uring/loans.hpp>

#if ZLOOP_HAS_URING

#include <functional>

#include <zloop/testing/scripted.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using detail::uring::buffer;
using detail::uring::buffer_ring;
using detail::uring::loans;

namespace {

/// A coroutine that calls a function when it is resumed.
struct waiting {
    struct promise_type {
        waiting get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() const noexcept { return {}; }
        std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        void unhandled_exception() const noexcept { std::terminate(); }
    };
    std::coroutine_handle<> frame;

    static waiting to(std::function<void()> what) {
        what();
        co_return;
    }
};

struct loans_fixture {
    zloop::testing::scripted_backend nobody;
    detail::uring::ring ring{8, 16};
    buffer_ring buffers{ring};
    loans lent{buffers};
    io_op receiving{nobody, opcode::receive, -1};

    /// What a receive() has filled, lent to what `runs`.
    void lend(std::function<void()> runs) {
        REQUIRE(lent.offer_scratch(receiving));
        lent.lend_scratch(receiving);
        receiving.waiter = waiting::to(std::move(runs)).frame;
        lent.resume(receiving);
    }
    /// A send of bytes in the scratch buffer, or elsewhere.
    struct send : io_op {
        iovec part;
        send(backend& kernel, const void* from) : io_op(kernel, opcode::send, -1) {
            part = {const_cast<void*>(from), 1};
            parts = &part;
            part_count = 1;
        }
    };
};

}  // namespace

TEST_CASE("a receive is lent the scratch buffer, which serves the next one as well", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loans_fixture with;
    const std::byte* first = nullptr;
    bool ran = false;
    with.lend([&] { ran = true; });
    CHECK(ran);
    first = with.receiving.data;
    CHECK(with.receiving.size == 64 * 1024);

    with.lend([] {});

    CHECK(with.receiving.data == first);
    CHECK(with.receiving.lease == nullptr);
}

TEST_CASE("a send that waits keeps what is lent, and the next receive gets other memory", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loans_fixture with;
    REQUIRE(with.lent.offer_scratch(with.receiving));
    const std::byte* const first = with.receiving.data;
    loans_fixture::send sending(with.nobody, first + 10);

    with.lend([&] { with.lent.keep(sending); });
    CHECK(sending.lease != nullptr);
    with.lend([] {});
    CHECK(with.receiving.data != first);

    with.lent.let_go(sending);  // it ends
    CHECK(sending.lease == nullptr);
}

TEST_CASE("a send of other bytes, or when nothing is lent, keeps nothing", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loans_fixture with;
    const char elsewhere = 'x';
    loans_fixture::send other(with.nobody, &elsewhere);
    with.lend([&] { with.lent.keep(other); });
    CHECK(other.lease == nullptr);

    loans_fixture::send late(with.nobody, with.receiving.data);  // it was lent, and is not any more
    with.lent.keep(late);
    CHECK(late.lease == nullptr);
    with.lent.let_go(late);
}

TEST_CASE("what is lent until the next wait is kept until then", "[uring]") {
    if (!has_uring()) {
        return;
    }
    loans_fixture with;
    REQUIRE(with.lent.offer_scratch(with.receiving));
    const std::byte* const first = with.receiving.data;
    with.lent.lend_scratch(with.receiving);
    with.lent.lend_until_wait(with.receiving);
    CHECK(with.receiving.lease == nullptr);

    REQUIRE(with.lent.offer_scratch(with.receiving));
    CHECK(with.receiving.data != first);  // somebody has that
    with.lent.end_of_turn();
    with.lent.end_of_turn();
}

#endif
