#include <zloop/core/frame_allocator.hpp>

#include <memory_resource>
#include <string>

#include <zloop/cancel.hpp>
#include <zloop/job.hpp>
#include <zloop/sleep.hpp>
#include <zloop/testing.hpp>

#include "../catch.hpp"

using namespace zloop;
using namespace std::chrono_literals;

namespace {

/// Counts what is taken out of it and given back.
struct counting final : std::pmr::memory_resource {
    std::size_t taken = 0;
    std::size_t bytes = 0;

private:
    void* do_allocate(std::size_t size, std::size_t alignment) override {
        ++taken;
        bytes += size;
        return std::pmr::new_delete_resource()->allocate(size, alignment);
    }
    void do_deallocate(void* memory, std::size_t size, std::size_t alignment) override {
        bytes -= size;
        std::pmr::new_delete_resource()->deallocate(memory, size, alignment);
    }
    bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

using allocator = std::pmr::polymorphic_allocator<>;

task<std::string> greets(std::allocator_arg_t, allocator, std::string name) {
    static_cast<void>(co_await sleep_for(1s));
    co_return "hello " + name;
}
task<> nothing(std::allocator_arg_t, const allocator&) { co_return; }

struct host {
    int number = 3;
    task<int> asked(std::allocator_arg_t, std::allocator<char>, int more) const { co_return number + more; }
    task<int> told(std::allocator_arg_t, allocator& from) {
        static_cast<void>(from);
        co_await next_turn();
        co_return number;
    }
};

}  // namespace

TEST_CASE("a task's frame is a user's allocator's, and goes back to it", "[frame_allocator]") {
    testing::virtual_loop on;
    counting memory;
    allocator from(&memory);
    auto closure = [](std::allocator_arg_t, allocator, int value) -> task<int> { co_return value; };
    host object;

    CHECK(run(on, greets(std::allocator_arg, &memory, "there")) == "hello there");
    CHECK(memory.taken == 1);
    run(on, nothing(std::allocator_arg, from));
    CHECK(run(on, closure(std::allocator_arg, from, 5)) == 5);
    CHECK(run(on, object.told(std::allocator_arg, from)) == 3);
    CHECK(memory.taken == 4);
    CHECK(run(on, object.asked(std::allocator_arg, {}, 4)) == 7);
    {
        const auto never_runs = greets(std::allocator_arg, from, "nobody");
        CHECK(memory.bytes != 0);
    }
    CHECK(memory.bytes == 0);
}

TEST_CASE("an allocator without memory is told by who calls the coroutine", "[frame_allocator]") {
    const auto call = [] {
        static_cast<void>(nothing(std::allocator_arg, std::pmr::null_memory_resource()));
    };

    CHECK_THROWS_AS(call(), std::bad_alloc);
}
