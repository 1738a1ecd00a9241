#include <zloop/kernel/epoll.hpp>

#include <memory>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

// A backend without a loop: what one wait() queues can be counted.
struct epoll_fixture {
    epoll_backend kernel;
    op_queue ready;

    epoll_fixture() { kernel.deliver_to(ready); }

    /// Waits once and runs what came of it; how much that was.
    int wait(nanoseconds timeout = 0ns) {
        CHECK(!kernel.wait(timeout));
        kernel.collect();
        int count = 0;
        for (; !ready.empty(); ++count) {
            op& next = ready.pop();
            next.run(next);
        }
        return count;
    }
};

/// Whether the epoll set reports something, again and again.
bool spins(const backend& kernel) { return is_readable(kernel.native_handle()); }

}  // namespace

TEST_CASE("the backend says its name and has a descriptor to wait for", "[epoll]") {
    epoll_fixture with;
    CHECK(with.kernel.name() == "epoll");
    CHECK(!is_readable(with.kernel.native_handle()));

    with.kernel.wake();
    CHECK(is_readable(with.kernel.native_handle()));
}

TEST_CASE("a watched descriptor that was closed while a duplicate lives does not spin", "[epoll]") {
    epoll_fixture with;
    pipe_ends pipe, other;
    const fd duplicate(::dup(pipe.out.get()));
    lookout readable(pipe.out.get(), direction::read, [] {});
    int calls = 0;
    lookout still(other.out.get(), direction::read, [&] { ++calls; });
    REQUIRE(!with.kernel.watch(readable));
    REQUIRE(!with.kernel.watch(still));
    pipe.write();
    pipe.out.reset();
    with.kernel.unwatch(readable);  // too late: no epoll_ctl can name the registration
    CHECK(spins(with.kernel));
    const int handle = with.kernel.native_handle();
    const auto descriptors = open_descriptors();

    CHECK(with.wait() == 0);

    CHECK(!spins(with.kernel));
    CHECK(with.kernel.native_handle() == handle);
    CHECK(open_descriptors() == descriptors);
    other.write();
    CHECK(with.wait() == 1);  // the others came along into the new set
    CHECK(calls == 1);
    other.read();
    with.kernel.unwatch(still);
    with.kernel.wake();
    CHECK(spins(with.kernel));
    CHECK(with.wait() == 0);
    CHECK(!spins(with.kernel));
}

TEST_CASE("a set that cannot be rebuilt for want of a descriptor is rebuilt later", "[epoll]") {
    epoll_fixture with;
    pipe_ends pipe;
    const fd duplicate(::dup(pipe.out.get()));
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel.watch(readable));
    pipe.write();
    pipe.out.reset();
    with.kernel.unwatch(readable);

    const probes::failing epoll_create1_fails(probes::epoll_create1, EMFILE);
    CHECK(with.wait() == 0);
    CHECK(spins(with.kernel));
    CHECK(with.wait() == 0);
    CHECK(!spins(with.kernel));
}

TEST_CASE("a wait that a signal interrupts returns early and without an error", "[epoll]") {
    epoll_fixture with;
    const probes::failing limited(probes::epoll_pwait2, EINTR);
    const probes::failing endless(probes::epoll_wait, EINTR, 2);  // and a limited one, without epoll_pwait2
    CHECK(with.wait(1h) == 0);
    CHECK(with.wait(nanoseconds(-1)) == 0);
}

TEST_CASE("a wait that fails otherwise says so", "[epoll]") {
    epoll_fixture with;
    const probes::failing endless(probes::epoll_wait, EBADF);
    CHECK(with.kernel.wait(nanoseconds(-1)) == std::errc::bad_file_descriptor);
}

TEST_CASE("without epoll_pwait2, waits are rounded up to milliseconds", "[epoll]") {
    // In a child: the absence is remembered.
    const std::size_t calls = has_epoll_pwait2() ? 1 : 0;
    const pid_t child = ::fork();
    if (child == 0) {
        epoll_backend kernel;
        op_queue ready;
        kernel.deliver_to(ready);
        const probes::failing epoll_pwait2_fails(probes::epoll_pwait2, ENOSYS, 1'000);
        const auto asked = probes::epoll_pwait2.count.load();
        const auto begin = std::chrono::steady_clock::now();
        const bool failed =
            static_cast<bool>(kernel.wait(1ns)) || static_cast<bool>(kernel.wait(1'000'001ns));
        const auto passed = std::chrono::steady_clock::now() - begin;
        ::_exit(!failed && passed >= 3ms && probes::epoll_pwait2.count == asked + calls ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
}

TEST_CASE("a backend without descriptors to spare throws and leaves none open", "[epoll]") {
    const auto before = open_descriptors();
    SECTION("no epoll set") {
        const probes::failing epoll_create1_fails(probes::epoll_create1, EMFILE);
        CHECK_THROWS_AS(epoll_backend(), std::system_error);
    }
    SECTION("no eventfd") {
        const probes::failing eventfd_fails(probes::eventfd, EMFILE);
        CHECK_THROWS_AS(epoll_backend(), std::system_error);
    }
    SECTION("no registration") {
        const probes::failing epoll_ctl_fails(probes::epoll_ctl, ENOMEM);
        CHECK_THROWS_AS(epoll_backend(), std::system_error);
    }
    SECTION("all there") { const epoll_backend kernel; }
    CHECK(open_descriptors() == before);
}
