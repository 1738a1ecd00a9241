#include <zloop/kernel/kqueue.hpp>

#include "catch.hpp"

#if ZLOOP_HAS_KQUEUE

#include <string>
#include <thread>

#include <signal.h>
#include <sys/wait.h>

#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

// A backend without a loop: what one wait() queues can be counted.
struct kqueue_fixture {
    kqueue_backend kernel;
    op_queue ready;

    kqueue_fixture() { kernel.deliver_to(ready); }

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

struct socket_pair {
    fd ours, peer;
    socket_pair() {
        int both[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, both) == 0);
        ours.reset(both[0]);
        peer.reset(both[1]);
        REQUIRE(detail::tame(both[0]));
    }
};

/// What a child exits with that does `work`, and nothing else.
template <class F>
pid_t child(F&& work) {
    const pid_t number = ::fork();
    if (number == 0) {
        ::_exit(work());
    }
    return number;
}

int status_of(pid_t number) {
    int status = -1;
    ::waitpid(number, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("the kqueue backend says its name and has a descriptor to wait for", "[kqueue]") {
    kqueue_fixture with;
    CHECK(with.kernel.name() == "kqueue");
    CHECK(!is_readable(with.kernel.native_handle()));

    with.kernel.wake();
    CHECK(is_readable(with.kernel.native_handle()));
    CHECK(with.wait() == 0);
    CHECK(!is_readable(with.kernel.native_handle()));
}

TEST_CASE("a kqueue's wait ends by another thread's wake, or at its limit and never before", "[kqueue]") {
    kqueue_fixture with;
    std::thread other([&] { with.kernel.wake(); });
    CHECK(with.wait(24h * 365 * 100) == 0);
    other.join();

    const auto begin = std::chrono::steady_clock::now();
    CHECK(with.wait(2'000'001ns) == 0);
    CHECK(std::chrono::steady_clock::now() - begin >= 2'000'001ns);
}

TEST_CASE("a descriptor that a kqueue watches is reported for as long as it is ready", "[kqueue]") {
    kqueue_fixture with;
    pipe_ends pipe;
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel.watch(readable));
    CHECK(with.wait() == 0);

    pipe.write();
    CHECK(with.wait() == 1);
    CHECK(with.wait() == 1);
    pipe.read();
    CHECK(with.wait() == 0);

    pipe.write();
    with.kernel.unwatch(readable);
    CHECK(with.wait() == 0);
}

TEST_CASE("a kqueue's watchers of the two directions come and go apart", "[kqueue]") {
    kqueue_fixture with;
    socket_pair both;
    std::string seen;
    lookout readable(both.ours.get(), direction::read, [&] { seen += 'r'; });
    lookout writable(both.ours.get(), direction::write, [&] { seen += 'w'; });
    lookout another(both.ours.get(), direction::read, [&] { seen += '?'; });

    CHECK(!with.kernel.watch(readable));
    CHECK(!with.kernel.watch(writable));
    CHECK(with.kernel.watch(another) == std::errc::device_or_resource_busy);
    CHECK(with.wait() == 1);
    CHECK(seen == "w");

    with.kernel.unwatch(writable);
    CHECK(with.wait() == 0);
    CHECK(::send(both.peer.get(), "x", 1, 0) == 1);
    CHECK(with.wait() == 1);
    CHECK(seen == "wr");
    with.kernel.unwatch(readable);
}

TEST_CASE("a half-closed peer is told to who reads from a kqueue's descriptor, and not to who writes",
          "[kqueue]") {
    kqueue_fixture with;
    socket_pair both;
    while (::send(both.ours.get(), std::string(4096, 'x').data(), 4096, detail::quietly) > 0) {
    }
    std::string seen;
    lookout readable(both.ours.get(), direction::read, [&] { seen += 'r'; });
    lookout writable(both.ours.get(), direction::write, [&] { seen += 'w'; });
    REQUIRE(!with.kernel.watch(readable));
    REQUIRE(!with.kernel.watch(writable));
    CHECK(with.wait() == 0);

    REQUIRE(::shutdown(both.peer.get(), SHUT_WR) == 0);

    CHECK(with.wait() == 1);
    CHECK(seen == "r");
    with.kernel.unwatch(readable);
    with.kernel.unwatch(writable);
}

TEST_CASE("a kqueue forgets a watched descriptor that is closed, also where a duplicate lives", "[kqueue]") {
    kqueue_fixture with;
    pipe_ends pipe;
    const fd duplicate(::dup(pipe.out.get()));
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel.watch(readable));
    pipe.write();
    pipe.out.reset();

    CHECK(with.wait() == 0);
    with.kernel.unwatch(readable);
    CHECK(!is_readable(with.kernel.native_handle()));
}

TEST_CASE("a descriptor that a kqueue watched is taken into service edge-triggered", "[kqueue]") {
    kqueue_fixture with;
    socket_pair both;
    lookout readable(both.ours.get(), direction::read, [] { FAIL("a watcher of a former life"); });
    REQUIRE(!with.kernel.watch(readable));
    REQUIRE(!with.kernel.attach(both.ours.get()));
    CHECK(::send(both.peer.get(), "x", 1, 0) == 1);

    CHECK(with.wait() == 0);
    CHECK(!is_readable(with.kernel.native_handle()));  // told once
    with.kernel.unwatch(readable);
    with.kernel.release(both.ours.get());
    CHECK(::send(both.peer.get(), "x", 1, 0) == 1);
    CHECK(!is_readable(with.kernel.native_handle()));
}

TEST_CASE("a kqueue takes either end of a pipe into service, whole or broken", "[kqueue]") {
    kqueue_fixture with;
    pipe_ends pipe;
    REQUIRE(!with.kernel.attach(pipe.out.get()));
    CHECK(!is_readable(with.kernel.native_handle()));  // nothing of a direction that it has not
    pipe.write();
    CHECK(is_readable(with.kernel.native_handle()));
    with.kernel.release(pipe.out.get());

    pipe.out.reset();
    CHECK(!with.kernel.attach(pipe.in.get()));
    with.kernel.release(pipe.in.get());
}

TEST_CASE("a kqueue refuses files", "[kqueue]") {
    kqueue_fixture with;
    const fd file(::open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    lookout readable(file.get(), direction::read, [] {});

    CHECK(with.kernel.watch(readable) == std::errc::operation_not_permitted);
    CHECK(with.kernel.attach(file.get()) == std::errc::operation_not_permitted);
}

TEST_CASE("a kqueue refuses what is no descriptor", "[kqueue]") {
    kqueue_fixture with;
    const int number = GENERATE(-1, 900'000'000, 0x7fff'ffff);
    lookout readable(number, direction::read, [] {});

    CHECK(with.kernel.watch(readable) == std::errc::bad_file_descriptor);
    CHECK(with.kernel.attach(number) == std::errc::bad_file_descriptor);
}

TEST_CASE("a fork of a kqueue's process touches nothing that has the queue's number there", "[kqueue]") {
    kqueue_fixture with;
    pipe_ends pipe;
    const int number = with.kernel.native_handle();
    const pid_t fork = child([&] {
        ::dup2(pipe.out.get(), number);
        lookout readable(pipe.out.get(), direction::read, [] {});
        const bool refused = with.kernel.watch(readable) == std::errc::operation_not_permitted &&
                             with.kernel.attach(pipe.in.get()) == std::errc::operation_not_permitted;
        with.kernel.abandon();
        return refused && ::fcntl(number, F_GETFD) >= 0 ? 0 : 1;
    });
    CHECK(status_of(fork) == 0);

    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel.watch(readable));
    pipe.write();
    CHECK(with.wait() == 1);
    with.kernel.unwatch(readable);
}

TEST_CASE("an exit notice is readable once the child has ended, and reaps nothing", "[kqueue]") {
    SECTION("which it does later") {
        pipe_ends hold;
        const pid_t running = child([&] {
            hold.in.reset();
            pollfd end{hold.out.get(), POLLIN, 0};
            return ::poll(&end, 1, -1) == 1 ? 7 : 1;
        });
        const fd notice = detail::make_exit_notice(running);
        REQUIRE(notice);
        CHECK(!is_readable(notice.get()));

        hold.in.reset();
        CHECK(is_readable(notice.get(), 20'000));
        CHECK(status_of(running) == 7);
    }
    SECTION("which it did before") {
        const pid_t ended = child([] { return 9; });
        siginfo_t about{};
        REQUIRE(::waitid(P_PID, static_cast<id_t>(ended), &about, WEXITED | WNOWAIT) == 0);

        const fd notice = detail::make_exit_notice(ended);
        REQUIRE(notice);
        CHECK(is_readable(notice.get(), 20'000));
        CHECK(status_of(ended) == 9);
    }
}

#endif
