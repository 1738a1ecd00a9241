#include <zloop/kernel/backend.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>

#include <zloop/job.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;
using namespace support;

namespace {

// A kernel that completes, as io_uring does: it takes every operation and has its outcome later.
class completing_backend final : public backend {
public:
    std::vector<io_op*> started;
    std::vector<int> attached;
    std::vector<int> closed;

    std::string_view name() const noexcept override { return "completing"; }
    int native_handle() const noexcept override { return -1; }
    std::error_code attach(int fd) noexcept override {
        attached.push_back(fd);
        return {};
    }
    void release(int) noexcept override {}
    void close(int fd) noexcept override { closed.push_back(fd); }
    bool start(io_op& operation) noexcept override {
        operation.run = [](op& self) noexcept { static_cast<io_op&>(self).waiter.resume(); };
        started.push_back(&operation);
        return false;
    }
    void cancel(io_op& operation) noexcept override {
        if (std::erase(started, &operation) != 0) {
            operation.error = ECANCELED;
            ready_->push(operation);
        }
    }
    std::error_code watch(watcher&) noexcept override {
        return std::make_error_code(std::errc::not_supported);
    }
    void unwatch(watcher&) noexcept override {}
    std::error_code wait(nanoseconds) noexcept override { return {}; }
    void collect() noexcept override {}
    void wake() noexcept override {}

    void complete(std::size_t bytes, int error = 0) {
        io_op& done = *started.front();
        started.erase(started.begin());
        done.size = bytes;
        done.error = error;
        ready_->push(done);
    }
};

// A backend without a loop: what one wait() queues can be counted.
struct backend_fixture {
    std::unique_ptr<backend> kernel = each_backend();
    op_queue ready;

    backend_fixture() { kernel->deliver_to(ready); }

    /// Waits once and runs what came of it; how much that was.
    int wait(nanoseconds timeout = 0ns) {
        CHECK(!kernel->wait(timeout));
        kernel->collect();
        int count = 0;
        for (; !ready.empty(); ++count) {
            op& next = ready.pop();
            next.run(next);
        }
        return count;
    }

    /// Whether the kernel reports something, again and again.
    bool spins() const { return is_readable(kernel->native_handle()); }
};

}  // namespace

TEST_CASE("a completion backend fits behind a stream", "[backend]") {
    auto owned = std::make_unique<completing_backend>();
    auto& kernel = *owned;
    loop on(std::move(owned));
    std::vector<std::string> seen;

    {
        auto socket = stream::adopt(on, fd(1 << 20)).value();
        auto work = [&]() -> task<> {
            char buffer[8];
            auto [error, count] = co_await socket.recv(std::as_writable_bytes(std::span(buffer)));
            seen.push_back(std::string(buffer, count));
            auto failed = co_await socket.recv(std::as_writable_bytes(std::span(buffer)));
            seen.push_back(failed.error() == std::errc::connection_reset ? "reset" : "?");
            auto canceled = co_await socket.recv(std::as_writable_bytes(std::span(buffer)));
            seen.push_back(canceled.error() == std::errc::operation_canceled ? "canceled" : "?");
        };
        job<> running(on, work());
        on.run_once(0ns);
        REQUIRE(kernel.started.size() == 1);
        CHECK(kernel.started[0]->code == opcode::recv);
        CHECK(kernel.started[0]->size == 8);

        std::memcpy(kernel.started[0]->data, "abc", 3);
        kernel.complete(3);
        CHECK(seen.empty());  // never inline
        on.run_once(0ns);
        kernel.complete(0, ECONNRESET);
        on.run_once(0ns);
        running.cancel();
        on.run_once(0ns);
        on.run_once(0ns);

        CHECK(running.done());
    }
    CHECK(seen == std::vector<std::string>{"abc", "reset", "canceled"});
    CHECK(kernel.attached == std::vector{1 << 20});
    CHECK(kernel.closed == std::vector{1 << 20});
}

TEST_CASE("an operation begins idle and its cancel goes to its backend", "[backend]") {
    completing_backend kernel;
    op_queue ready;
    kernel.deliver_to(ready);
    io_op operation(kernel, opcode::recv, 3);

    CHECK(operation.state == io_op::phase::idle);
    CHECK(operation.error == 0);
    CHECK(operation.accepted == -1);

    kernel.start(operation);
    operation.cancel(operation);

    CHECK(operation.error == ECANCELED);
    CHECK(&ready.pop() == &operation);
}

TEST_CASE("a watched descriptor is reported for as long as it is ready", "[backend]") {
    backend_fixture with;
    pipe_ends pipe;
    int calls = 0;
    lookout readable(pipe.out.get(), direction::read, [&] { ++calls; });
    REQUIRE(!with.kernel->watch(readable));
    CHECK(with.wait() == 0);

    pipe.write();
    CHECK(with.wait() == 1);
    CHECK(with.wait() == 1);
    pipe.read();
    CHECK(with.wait() == 0);
    CHECK(calls == 2);

    pipe.write();
    with.kernel->unwatch(readable);
    CHECK(with.wait() == 0);
    CHECK(!with.spins());
}

TEST_CASE("a watcher is queued once, however often it is reported", "[backend]") {
    backend_fixture with;
    pipe_ends pipe;
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel->watch(readable));
    pipe.write();

    CHECK(!with.kernel->wait(0ns));
    with.kernel->collect();
    CHECK(!with.kernel->wait(0ns));
    with.kernel->collect();

    CHECK(&with.ready.pop() == &readable);
    CHECK(with.ready.empty());
    with.kernel->unwatch(readable);
}

TEST_CASE("a descriptor has one watcher a direction", "[backend]") {
    backend_fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    std::string seen;
    lookout readable(ours.get(), direction::read, [&] { seen += 'r'; });
    lookout writable(ours.get(), direction::write, [&] { seen += 'w'; });
    lookout another(ours.get(), direction::read, [&] { seen += '?'; });

    CHECK(!with.kernel->watch(readable));
    CHECK(!with.kernel->watch(writable));
    CHECK(with.kernel->watch(another) == std::errc::device_or_resource_busy);
    CHECK(with.wait() == 1);
    CHECK(seen == "w");

    CHECK(::send(peer.get(), "x", 1, 0) == 1);
    seen.clear();
    CHECK(with.wait() == 2);
    CHECK((seen == "rw" || seen == "wr"));

    seen.clear();
    with.kernel->unwatch(writable);
    CHECK(with.wait() == 1);
    CHECK(seen == "r");

    with.kernel->unwatch(readable);
    CHECK(!with.kernel->watch(another));
    CHECK(with.wait() == 1);
    with.kernel->unwatch(another);
    CHECK(seen == "r?");
}

TEST_CASE("a hang-up is told to readers and to writers", "[backend]") {
    backend_fixture with;
    std::string seen;
    {
        pipe_ends pipe;
        lookout readable(pipe.out.get(), direction::read, [&] { seen += 'r'; });
        REQUIRE(!with.kernel->watch(readable));
        pipe.in.reset();
        CHECK(with.wait() == 1);
        with.kernel->unwatch(readable);
    }
    {
        pipe_ends pipe;
        while (::write(pipe.in.get(), std::string(4096, 'x').data(), 4096) > 0) {
        }
        lookout writable(pipe.in.get(), direction::write, [&] { seen += 'w'; });
        REQUIRE(!with.kernel->watch(writable));
        CHECK(with.wait() == 0);
        pipe.out.reset();
        CHECK(with.wait() == 1);
        with.kernel->unwatch(writable);
    }
    CHECK(seen == "rw");
}

TEST_CASE("watching what is always ready, as a regular file is, fails with EPERM", "[backend]") {
    backend_fixture with;
    const char* const path = GENERATE(values<const char*>({"/proc/self/exe", "/", "/dev/null"}));
    const fd file(::open(path, O_RDONLY | O_CLOEXEC));
    lookout readable(file.get(), direction::read, [] {});

    CHECK(with.kernel->watch(readable) == std::errc::operation_not_permitted);
    CHECK(with.kernel->watch(readable) == std::errc::operation_not_permitted);  // and is not remembered
}

TEST_CASE("what is no open descriptor is refused", "[backend]") {
    backend_fixture with;
    const int number = GENERATE(-1, 900'000'000, 0x7fff'ffff);
    lookout readable(number, direction::read, [] {});

    CHECK(with.kernel->watch(readable) == std::errc::bad_file_descriptor);
    CHECK(with.kernel->attach(number) == std::errc::bad_file_descriptor);
}

TEST_CASE("closing a watched descriptor ends its events", "[backend]") {
    backend_fixture with;
    pipe_ends pipe;
    lookout readable(pipe.out.get(), direction::read, [] {});
    REQUIRE(!with.kernel->watch(readable));
    pipe.write();
    pipe.out.reset();

    CHECK(with.wait() == 0);
    with.kernel->unwatch(readable);
    CHECK(!with.spins());
}

TEST_CASE("a descriptor's number that is used again starts a new life", "[backend]") {
    backend_fixture with;
    pipe_ends former;
    const int number = former.out.get();
    const fd duplicate(::dup(number));
    std::string seen;
    lookout old(number, direction::read, [&] { seen += "old"; });
    REQUIRE(!with.kernel->watch(old));
    former.write();
    former.out.reset();

    SECTION("watched again") {
        with.kernel->unwatch(old);
        pipe_ends fresh;
        REQUIRE(::dup2(fresh.out.get(), number) == number);
        lookout next(number, direction::read, [&] { seen += "new"; });
        REQUIRE(!with.kernel->watch(next));

        CHECK(with.wait() == 0);
        fresh.write();
        CHECK(with.wait() == 1);
        CHECK(seen == "new");
        with.kernel->unwatch(next);
    }
    SECTION("taken into service while its former watcher still watches") {
        int both[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
        const fd ours(both[0]), peer(both[1]);
        REQUIRE(::dup2(ours.get(), number) == number);
        REQUIRE(!with.kernel->attach(number));

        CHECK(with.wait() == 0);
        CHECK(with.wait() == 0);  // the new set's first edges
        CHECK(!with.spins());
        with.kernel->unwatch(old);  // orphaned: changes nothing
        CHECK(with.kernel->watch(old) == std::errc::bad_file_descriptor);
        with.kernel->release(number);
        CHECK(seen.empty());
    }
    ::close(number);
}

TEST_CASE("a descriptor in service cannot be watched, nor be taken into service again", "[backend]") {
    backend_fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    lookout readable(ours.get(), direction::read, [] {});
    REQUIRE(!with.kernel->attach(ours.get()));

    CHECK(with.kernel->watch(readable) == std::errc::device_or_resource_busy);

    with.kernel->release(ours.get());
    CHECK(!with.kernel->watch(readable));
    with.kernel->unwatch(readable);
    CHECK(!with.kernel->attach(ours.get()));
    with.kernel->release(ours.get());
}

TEST_CASE("each attach of a number begins another life of it", "[backend]") {
    backend_fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);

    REQUIRE(!with.kernel->attach(ours.get()));
    const auto first = with.kernel->life(ours.get());
    REQUIRE(!with.kernel->attach(ours.get()));  // as after a close that we were not told of
    CHECK(with.kernel->life(ours.get()) != first);
    with.kernel->release(ours.get());
}

TEST_CASE("a released descriptor's events wake nobody", "[backend]") {
    backend_fixture with;
    int both[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, both) == 0);
    const fd ours(both[0]), peer(both[1]);
    REQUIRE(!with.kernel->attach(ours.get()));
    with.wait();

    with.kernel->release(ours.get());
    CHECK(::send(peer.get(), "x", 1, 0) == 1);

    CHECK(!with.spins());
}

TEST_CASE("wake ends a wait that sleeps", "[backend]") {
    backend_fixture with;
    std::thread waker([&] { with.kernel->wake(); });

    CHECK(with.wait(nanoseconds(-1)) == 0);  // without end, but for the wake
    waker.join();
}

TEST_CASE("a wake before the wait is remembered, and several are one", "[backend]") {
    backend_fixture with;
    for (int count = 0; count < 3; ++count) {
        with.kernel->wake();
    }

    CHECK(with.wait(1h) == 0);
    CHECK(!with.spins());
}

TEST_CASE("a wait ends not before its timeout, to the microsecond", "[backend]") {
    backend_fixture with;
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

TEST_CASE("more events than one wait takes are taken by the next", "[backend]") {
    constexpr std::size_t many = 600;
    rlimit limit{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < many + 100) {
        limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, many + 100);
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    backend_fixture with;
    pipe_ends pipe;
    pipe.write();
    std::vector<fd> copies;
    std::vector<std::unique_ptr<lookout>> watchers;
    std::size_t calls = 0;
    for (std::size_t index = 0; index < many; ++index) {
        copies.emplace_back(::fcntl(pipe.out.get(), F_DUPFD_CLOEXEC, 0));
        watchers.push_back(std::make_unique<lookout>(copies.back().get(), direction::read, [&] { ++calls; }));
        REQUIRE(!with.kernel->watch(*watchers.back()));
    }

    const int first = with.wait();
    const int second = with.wait();

    CHECK(first >= 512);  // epoll's array; a ring has all
    CHECK(first + second >= static_cast<int>(many));
    for (auto& each : watchers) {
        with.kernel->unwatch(*each);
    }
    CHECK(!with.spins());
}
