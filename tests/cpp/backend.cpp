#include <zloop/backend.hpp>

#include <vector>

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
