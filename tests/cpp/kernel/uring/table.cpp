#include <zloop/kernel/uring/table.hpp>

#if ZLOOP_HAS_URING

#include <algorithm>
#include <vector>

#include <fcntl.h>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using detail::uring::channel_table;
using detail::uring::lane;
using detail::uring::request_state;
using support::pipe_ends;
using a_channel = detail::uring::channel;

namespace {

struct table_fixture {
    pipe_ends pipe;
    channel_table table;
    int number = pipe.out.get();

    table_fixture() { CHECK(!table.reserve(std::max(pipe.in.get(), pipe.out.get()))); }

    a_channel& add() {
        CHECK(!table.add(number, true));
        return table.at(number);
    }
};

}  // namespace

TEST_CASE("a number has a channel while it is in the table, and a new life after it", "[uring]") {
    table_fixture with;
    CHECK(with.table.find(with.number) == nullptr);
    const auto before = with.table.life(with.number);
    a_channel& at = with.add();
    CHECK(at.fd == with.number);
    CHECK(with.table.find(with.number) == &at);
    CHECK(with.table.life(with.number) == before);

    CHECK(&with.table.remove(with.number) == &at);

    CHECK(at.closed);
    CHECK(with.table.find(with.number) == nullptr);
    CHECK(with.table.life(with.number) != before);
    with.table.free_if_done(at);
}

TEST_CASE("a channel knows what its descriptor is", "[uring]") {
    table_fixture with;
    CHECK(with.add().kind == detail::descriptor_kind::other);
    CHECK(!with.table.at(with.number).byte_stream);

    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0);
    const fd one(both[0]), other(both[1]);
    REQUIRE(!with.table.reserve(one.get()));
    REQUIRE(!with.table.add(one.get(), true));
    CHECK(with.table.at(one.get()).byte_stream);
    for (const int each : {with.number, one.get()}) {
        with.table.free_if_done(with.table.remove(each));
    }
}

TEST_CASE("what is no descriptor, or has no readiness, has no channel", "[uring]") {
    table_fixture with;
    const fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    const fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    REQUIRE(!with.table.reserve(std::max(file.get(), null.get())));

    CHECK(with.table.add(file.get(), false) == std::errc::operation_not_permitted);
    CHECK(with.table.add(null.get(), false) == std::errc::operation_not_permitted);
    const int number = with.number;
    with.pipe.out.reset();
    CHECK(with.table.add(number, false) == std::errc::bad_file_descriptor);
    CHECK(with.table.find(number) == nullptr);
}

TEST_CASE("a channel that has left lives until the kernel and the list have let go of it", "[uring]") {
    table_fixture with;
    a_channel& former = with.add();
    former.of(lane::reading) = request_state::running;
    with.table.list(former);
    with.table.remove(with.number);
    with.table.free_if_done(former);
    a_channel& fresh = with.add();
    CHECK(&fresh != &former);  // its memory is in use

    std::vector<a_channel*> seen;
    with.table.for_each([&](a_channel& each) { seen.push_back(&each); });
    CHECK(seen == std::vector<a_channel*>{&former, &fresh});

    former.of(lane::reading) = request_state::none;
    with.table.free_if_done(former);
    CHECK(with.table.has_listed());
    with.table.serve_listed([](a_channel&) { return true; });  // and with that it is freed

    seen.clear();
    with.table.for_each([&](a_channel& each) { seen.push_back(&each); });
    CHECK(seen == std::vector<a_channel*>{&fresh});
    with.table.free_if_done(with.table.remove(with.number));
}

TEST_CASE("who is in the list is served until it has what it wanted, each once a round", "[uring]") {
    table_fixture with;
    a_channel& at = with.add();
    with.table.list(at);
    with.table.list(at);
    int served = 0;

    with.table.serve_listed([&](a_channel&) { return ++served == 2; });
    CHECK(served == 1);
    CHECK(with.table.has_listed());
    with.table.serve_listed([&](a_channel&) { return ++served == 2; });
    CHECK(served == 2);
    CHECK(!with.table.has_listed());
    with.table.free_if_done(with.table.remove(with.number));
}

TEST_CASE("one channel after the other takes no memory, and one without memory is an error", "[uring]") {
    if (!probes::counts_allocations) {
        return;
    }
    table_fixture with;
    const auto round = [&] {
        with.add();
        with.table.free_if_done(with.table.remove(with.number));
    };
    {
        const probes::no_memory_for anything(1);
        CHECK(with.table.add(with.number, true) == std::errc::not_enough_memory);
        CHECK(with.table.find(with.number) == nullptr);
    }
    round();
    const auto before = probes::allocations();
    for (int count = 0; count < 100; ++count) {
        round();
    }
    CHECK(probes::allocations() == before);
}

#endif
