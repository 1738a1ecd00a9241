#include <zloop/wait/parked.hpp>

#include <vector>

#include <zloop/testing.hpp>

#include "catch.hpp"

using namespace zloop;
using zloop::testing::virtual_loop;

namespace {

/// What a user may write: suspends until told a number.
class told : parked {
public:
    explicit told(told*& slot) noexcept : parked(&told::forget), slot_(slot) {}

    bool await_ready() const noexcept { return false; }
    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        if (!park(caller, "to be told", where)) {
            return false;
        }
        slot_ = this;
        return true;
    }
    result<int> await_resume() const noexcept {
        if (const auto waited = outcome(); !waited) {
            return waited.error();
        }
        return number_;
    }

    void tell(int number) noexcept {
        number_ = number;
        slot_ = nullptr;
        wake();
    }
    loop& where() const noexcept { return home(); }

private:
    static void forget(parked& self) noexcept { static_cast<told&>(self).slot_ = nullptr; }

    told*& slot_;
    int number_ = 0;
};

class queued : wait_queue::waiter {
public:
    explicit queued(wait_queue& line) noexcept : waiter(line), line_(line) {}

    bool await_ready() const noexcept { return false; }
    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        const bool waits = park(caller, "a queue", where);
        if (waits) {
            line_.push(*this);
        }
        return waits;
    }
    result<void> await_resume() const noexcept { return outcome(); }

private:
    wait_queue& line_;
};

task<result<int>> ask(told*& slot) { co_return co_await told(slot); }

}  // namespace

TEST_CASE("a parked task goes on in its turn, with what it was given", "[parked]") {
    virtual_loop on;
    told* slot = nullptr;
    auto asking = on.start(ask(slot));
    on.settle();
    REQUIRE(slot != nullptr);
    CHECK(&slot->where() == &on);

    slot->tell(5);
    CHECK(!asking.done());  // never inline

    CHECK(on.join(asking).value() == 5);
}

TEST_CASE("a parked task that is cancelled is withdrawn at once, and goes on in its turn", "[parked]") {
    virtual_loop on;
    told* slot = nullptr;
    auto asking = on.start(ask(slot));
    on.settle();

    asking.cancel();
    CHECK(slot == nullptr);
    CHECK(!asking.done());

    CHECK(on.join(asking).error() == std::errc::operation_canceled);
}

TEST_CASE("what a parked task was given wins over a cancel", "[parked]") {
    virtual_loop on;
    told* slot = nullptr;
    auto asking = on.start(ask(slot));
    on.settle();

    slot->tell(5);
    asking.cancel();

    CHECK(on.join(asking).value() == 5);
}

TEST_CASE("a task that was cancelled before does not park", "[parked]") {
    virtual_loop on;
    told* slot = nullptr;
    auto asking = on.start(ask(slot));
    asking.cancel();

    CHECK(on.join(asking).error() == std::errc::operation_canceled);
    CHECK(slot == nullptr);
}

TEST_CASE("a queue of waiters is first in, first out, and gives up any of them", "[parked]") {
    virtual_loop on;
    wait_queue line;
    std::vector<int> seen;
    auto waits = [&](int number) -> task<> {
        if (co_await queued(line)) {
            seen.push_back(number);
        }
    };
    CHECK(line.empty());
    job<> first(on, waits(1)), second(on, waits(2)), third(on, waits(3)), fourth(on, waits(4));
    on.settle();
    CHECK(!line.empty());

    second.cancel();
    line.pop().wake();
    line.wake_all();
    CHECK(line.empty());
    on.settle();

    CHECK(seen == std::vector{1, 3, 4});
}
