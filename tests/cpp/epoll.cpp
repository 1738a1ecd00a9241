#include <zloop/epoll.hpp>

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
struct fixture {
    epoll_backend kernel;
    op_queue ready;

    fixture() { kernel.deliver_to(ready); }

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
    fixture with;
    CHECK(with.kernel.name() == "epoll");
    CHECK(!is_readable(with.kernel.native_handle()));

    with.kernel.wake();
    CHECK(is_readable(with.kernel.native_handle()));
}

TEST_CASE("a watched descriptor is reported for as long as it is ready", "[epoll]") {
    fixture with;
    pipe_ends pipe;
    int calls = 0;
    lookout readable(pipe.out.get(), direction::read, [&] { ++calls; });
    REQUIRE(!with.kernel.watch(readable));
    CHECK(with.wait() == 0);

    pipe.write();
    CHECK(with.wait() == 1);
    CHECK(with.wait() == 1);
    pipe.read();
    CHECK(with.wait() == 0);
    CHECK(calls == 2);

    pipe.write();
    with.kernel.unwatch(readable);
    CHECK(with.wait() == 0);
    CHECK(!spins(with.kernel));
}

TEST_CASE("a watcher is queued once, however often it is reported", "[epoll]") {
    fixture with;
    pipe_ends pipe;
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel.watch(readable));
    pipe.write();

    CHECK(!with.kernel.wait(0ns));
    with.kernel.collect();
    CHECK(!with.kernel.wait(0ns));
    with.kernel.collect();

    CHECK(&with.ready.pop() == &readable);
    CHECK(with.ready.empty());
    with.kernel.unwatch(readable);
}

TEST_CASE("a descriptor has one watcher a direction", "[epoll]") {
    fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    std::string seen;
    lookout readable(ours.get(), direction::read, [&] { seen += 'r'; });
    lookout writable(ours.get(), direction::write, [&] { seen += 'w'; });
    lookout another(ours.get(), direction::read, [&] { seen += '?'; });

    CHECK(!with.kernel.watch(readable));
    CHECK(!with.kernel.watch(writable));
    CHECK(with.kernel.watch(another) == std::errc::device_or_resource_busy);
    CHECK(with.wait() == 1);
    CHECK(seen == "w");

    CHECK(::send(peer.get(), "x", 1, 0) == 1);
    CHECK(with.wait() == 2);
    CHECK(seen == "wrw");

    with.kernel.unwatch(writable);
    CHECK(with.wait() == 1);
    CHECK(seen == "wrwr");

    with.kernel.unwatch(readable);
    CHECK(!with.kernel.watch(another));
    CHECK(with.wait() == 1);
    with.kernel.unwatch(another);
    CHECK(seen == "wrwr?");
}

TEST_CASE("a hang-up is told to readers and to writers", "[epoll]") {
    fixture with;
    std::string seen;
    {
        pipe_ends pipe;
        lookout readable(pipe.out.get(), direction::read, [&] { seen += 'r'; });
        REQUIRE(!with.kernel.watch(readable));
        pipe.in.reset();
        CHECK(with.wait() == 1);
        with.kernel.unwatch(readable);
    }
    {
        pipe_ends pipe;
        while (::write(pipe.in.get(), std::string(4096, 'x').data(), 4096) > 0) {
        }
        lookout writable(pipe.in.get(), direction::write, [&] { seen += 'w'; });
        REQUIRE(!with.kernel.watch(writable));
        CHECK(with.wait() == 0);
        pipe.out.reset();
        CHECK(with.wait() == 1);
        with.kernel.unwatch(writable);
    }
    CHECK(seen == "rw");
}

TEST_CASE("watching a regular file fails with EPERM", "[epoll]") {
    fixture with;
    const fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    lookout readable(file.get(), direction::read, [] {});

    CHECK(with.kernel.watch(readable) == std::errc::operation_not_permitted);
    CHECK(with.kernel.watch(readable) == std::errc::operation_not_permitted);  // and is not remembered
}

TEST_CASE("what is no open descriptor is refused", "[epoll]") {
    fixture with;
    const int number = GENERATE(-1, 900'000'000, 0x7fff'ffff);
    lookout readable(number, direction::read, [] {});

    CHECK(with.kernel.watch(readable) == std::errc::bad_file_descriptor);
    CHECK(with.kernel.attach(number) == std::errc::bad_file_descriptor);
}

TEST_CASE("closing a watched descriptor ends its events", "[epoll]") {
    fixture with;
    pipe_ends pipe;
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel.watch(readable));
    pipe.write();
    pipe.out.reset();

    CHECK(with.wait() == 0);
    with.kernel.unwatch(readable);
    CHECK(!spins(with.kernel));
}

TEST_CASE("a watched descriptor that was closed while a duplicate lives does not spin", "[epoll]") {
    fixture with;
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
    fixture with;
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

TEST_CASE("a descriptor's number that is used again starts a new life", "[epoll]") {
    fixture with;
    pipe_ends former;
    const int number = former.out.get();
    const fd duplicate(::dup(number));
    std::string seen;
    lookout old(number, direction::read, [&] { seen += "old"; });
    REQUIRE(!with.kernel.watch(old));
    former.write();
    former.out.reset();

    SECTION("watched again") {
        with.kernel.unwatch(old);
        pipe_ends fresh;
        REQUIRE(::dup2(fresh.out.get(), number) == number);
        lookout next(number, direction::read, [&] { seen += "new"; });
        REQUIRE(!with.kernel.watch(next));

        CHECK(with.wait() == 0);
        fresh.write();
        CHECK(with.wait() == 1);
        CHECK(seen == "new");
        with.kernel.unwatch(next);
    }
    SECTION("taken into service while its former watcher still watches") {
        int both[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
        const fd ours(both[0]), peer(both[1]);
        REQUIRE(::dup2(ours.get(), number) == number);
        REQUIRE(!with.kernel.attach(number));

        CHECK(with.wait() == 0);
        CHECK(with.wait() == 0);  // the new set's first edges
        CHECK(!spins(with.kernel));
        with.kernel.unwatch(old);  // orphaned: changes nothing
        CHECK(with.kernel.watch(old) == std::errc::bad_file_descriptor);
        with.kernel.release(number);
        CHECK(seen.empty());
    }
    ::close(number);
}

TEST_CASE("a descriptor in service cannot be watched, nor be taken into service again", "[epoll]") {
    fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    lookout readable(ours.get(), direction::read, [] {});
    REQUIRE(!with.kernel.attach(ours.get()));

    CHECK(with.kernel.watch(readable) == std::errc::device_or_resource_busy);

    with.kernel.release(ours.get());
    CHECK(!with.kernel.watch(readable));
    with.kernel.unwatch(readable);
    CHECK(!with.kernel.attach(ours.get()));
    with.kernel.release(ours.get());
}

TEST_CASE("each attach of a number begins another life of it", "[epoll]") {
    fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);

    REQUIRE(!with.kernel.attach(ours.get()));
    const auto first = with.kernel.life(ours.get());
    REQUIRE(!with.kernel.attach(ours.get()));  // as after a close that we were not told of
    CHECK(with.kernel.life(ours.get()) != first);
    with.kernel.release(ours.get());
}

TEST_CASE("a released descriptor's events wake nobody", "[epoll]") {
    fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    REQUIRE(!with.kernel.attach(ours.get()));
    with.wait();

    with.kernel.release(ours.get());
    CHECK(::send(peer.get(), "x", 1, 0) == 1);

    CHECK(!spins(with.kernel));
}

TEST_CASE("wake ends a wait that sleeps", "[epoll]") {
    fixture with;
    std::thread waker([&] { with.kernel.wake(); });

    CHECK(with.wait(nanoseconds(-1)) == 0);  // without end, but for the wake
    waker.join();
}

TEST_CASE("a wake before the wait is remembered, and several are one", "[epoll]") {
    fixture with;
    for (int count = 0; count < 3; ++count) {
        with.kernel.wake();
    }

    CHECK(with.wait(1h) == 0);
    CHECK(!spins(with.kernel));
}

TEST_CASE("a wait ends not before its timeout, to the microsecond", "[epoll]") {
    fixture with;
    for (const nanoseconds timeout : {1'000ns, 300'000ns, 1'500'000ns}) {
        nanoseconds slept{};
        // The rings that other tests have closed end later, and each interrupts one wait.
        for (int attempt = 0; attempt < 50 && slept < timeout; ++attempt) {
            const auto begin = std::chrono::steady_clock::now();
            with.wait(timeout);
            slept = std::chrono::steady_clock::now() - begin;
        }
        CHECK(slept >= timeout);
    }
}

TEST_CASE("a wait that a signal interrupts returns early and without an error", "[epoll]") {
    fixture with;
    const probes::failing limited(probes::epoll_pwait2, EINTR);
    CHECK(with.wait(1h) == 0);
    const probes::failing endless(probes::epoll_wait, EINTR);
    CHECK(with.wait(nanoseconds(-1)) == 0);
}

TEST_CASE("a wait that fails otherwise says so", "[epoll]") {
    fixture with;
    const probes::failing endless(probes::epoll_wait, EBADF);
    CHECK(with.kernel.wait(nanoseconds(-1)) == std::errc::bad_file_descriptor);
}

TEST_CASE("without epoll_pwait2, waits are rounded up to milliseconds", "[epoll]") {
    // In a child: the absence is remembered.
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
        ::_exit(!failed && passed >= 3ms && probes::epoll_pwait2.count == asked + 1 ? 0 : 1);
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

TEST_CASE("more events than one wait takes are taken by the next", "[epoll]") {
    constexpr std::size_t many = 600;
    rlimit limit{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < many + 100) {
        limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, many + 100);
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    fixture with;
    pipe_ends pipe;
    pipe.write();
    std::vector<fd> copies;
    std::vector<std::unique_ptr<lookout>> watchers;
    std::size_t calls = 0;
    for (std::size_t index = 0; index < many; ++index) {
        copies.emplace_back(::fcntl(pipe.out.get(), F_DUPFD_CLOEXEC, 0));
        watchers.push_back(std::make_unique<lookout>(copies.back().get(), direction::read, [&] { ++calls; }));
        REQUIRE(!with.kernel.watch(*watchers.back()));
    }

    const int first = with.wait();
    const int second = with.wait();

    CHECK(first == 512);
    CHECK(second >= static_cast<int>(many) - 512);
    for (auto& each : watchers) {
        with.kernel.unwatch(*each);
    }
    CHECK(!spins(with.kernel));
}
