#include <zloop/kernel/uring/ring.hpp>

#if ZLOOP_HAS_URING

#include <thread>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/eventfd.h>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;
using detail::uring::completion;
using detail::uring::ring;
using detail::uring::submission;

namespace {

/// The names of the requests that have ended, and their results.
std::vector<std::pair<std::uint64_t, std::int32_t>> reap(ring& of) {
    std::vector<std::pair<std::uint64_t, std::int32_t>> seen;
    of.reap([&](const completion& each) { seen.emplace_back(each.user_data, each.result); });
    return seen;
}

/// A request that ends at once, or, of a descriptor, when that is readable.
submission* prepare(ring& of, std::uint64_t name, int polled = -1) {
    submission* const made = of.prepare();
    if (made != nullptr) {
        made->user_data = name;
        if (polled >= 0) {
            made->opcode = detail::uring::op_poll_add;
            made->fd = polled;
            made->operation_flags = detail::uring::poll_events(POLLIN);
        }
    }
    return made;
}

}  // namespace

TEST_CASE("requests leave together, with the next entry, and end in order", "[uring]") {
    if (!has_uring()) {
        return;
    }
    ring own(8, 16);
    REQUIRE(own.enter(0) == 0);
    CHECK(prepare(own, 1));
    CHECK(prepare(own, 2));
    CHECK(own.prepared() == 2);
    CHECK(!own.has_completions());

    CHECK(own.enter(2) == 0);

    CHECK(own.prepared() == 0);
    CHECK(own.has_completions());
    CHECK(reap(own) == std::vector<std::pair<std::uint64_t, std::int32_t>>{{1, 0}, {2, 0}});
    CHECK(!own.has_completions());
}

TEST_CASE("a full queue has no place for a request, until its requests are handed over", "[uring]") {
    if (!has_uring()) {
        return;
    }
    ring own(8, 16);
    CHECK(own.capacity() == 8);
    for (std::size_t count = 0; count < own.capacity(); ++count) {
        const submission* const made = prepare(own, count);
        REQUIRE(made != nullptr);
        CHECK(own.index_of(made) == count);
    }
    CHECK(own.prepare() == nullptr);

    CHECK(own.submit() == 0);

    const submission* const next = own.prepare();
    REQUIRE(next != nullptr);
    CHECK(own.index_of(next) == 0);
    CHECK(next->user_data == 0);  // nothing is left of who was there before
}

TEST_CASE("an entry waits for completions no longer than its limit", "[uring]") {
    if (!has_uring()) {
        return;
    }
    const pipe_ends pipe;
    ring own(8, 16);
    CHECK(prepare(own, 5, pipe.out.get()));
    const auto begin = std::chrono::steady_clock::now();

    CHECK(own.enter(1, 5ms) == 0);  // it has handed something over
    CHECK(std::chrono::steady_clock::now() - begin >= 5ms);
    CHECK(own.enter(1, 5ms) == ETIME);
    CHECK(std::chrono::steady_clock::now() - begin >= 10ms);
    CHECK(reap(own).empty());

    CHECK(::write(pipe.in.get(), "x", 1) == 1);
    CHECK(own.enter(1, 10s) == 0);
    const auto seen = reap(own);
    REQUIRE(seen.size() == 1);
    CHECK(seen[0].first == 5);
    CHECK((seen[0].second & POLLIN) != 0);
}

TEST_CASE("requests of a descriptor that is given up, and were not handed over, touch no other", "[uring]") {
    if (!has_uring()) {
        return;
    }
    const pipe_ends pipe;
    pipe_ends other;
    other.write();
    ring own(8, 16);
    CHECK(prepare(own, 1, pipe.out.get()));
    CHECK(prepare(own, 2, other.out.get()));

    own.renounce(pipe.out.get());
    CHECK(own.enter(2, 10s) == 0);

    const auto seen = reap(own);
    REQUIRE(seen.size() == 2);
    for (const auto& [name, result] : seen) {
        CHECK((name == 1) == (result == -EBADF));
    }
}

TEST_CASE("a ring announces that there is something to do", "[uring]") {
    if (!has_uring()) {
        return;
    }
    const fd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    pipe_ends pipe;
    ring own(8, 16);
    REQUIRE(own.announce_to(bell.get()));
    CHECK(prepare(own, 1, pipe.out.get()));
    CHECK(own.enter(0) == 0);
    CHECK(!is_readable(bell.get()));

    pipe.write();

    CHECK(is_readable(bell.get(), 1000));
    CHECK((own.has_work() || own.has_completions()));
    CHECK(own.enter(0) == 0);
    CHECK(reap(own).size() == 1);
}

TEST_CASE("a ring is its first thread's, and an abandoned one has no descriptor", "[uring]") {
    if (!has_uring()) {
        return;
    }
    const auto before = open_descriptors();
    ring own(8, 16);
    REQUIRE(own.enter(0) == 0);
    int elsewhere = 0;
    std::thread([&] { elsewhere = own.enter(0); }).join();
    CHECK(elsewhere == EEXIST);

    own.abandon();
    CHECK(own.native_handle() == -1);
    CHECK(open_descriptors() == before);
    own.abandon();
}

TEST_CASE("a ring that cannot be had throws, and leaves nothing open", "[uring]") {
    if (!has_uring()) {
        return;
    }
    const auto before = open_descriptors();
    SECTION("set up") {
        const probes::failing forbidden(probes::io_uring_setup, EPERM);
        CHECK_THROWS_AS(ring(8, 16), std::system_error);
    }
    SECTION("entered") {
        const probes::failing forbidden(probes::io_uring_enter, EPERM);
        CHECK_THROWS_AS(ring(8, 16), std::system_error);
    }
    CHECK(open_descriptors() == before);
}

#endif
