#include <zloop/core/op.hpp>

#include <vector>

#include "catch.hpp"

using namespace zloop;

namespace {

struct node : op {
    explicit node(int number) : op([](op&) noexcept {}), value(number) {}
    int value;
};

std::vector<int> drain(op_queue& queue) {
    std::vector<int> values;
    while (!queue.empty()) {
        values.push_back(static_cast<node&>(queue.pop()).value);
    }
    return values;
}

}  // namespace

TEST_CASE("an op is two words", "[op]") { CHECK(sizeof(op) == 2 * sizeof(void*)); }

TEST_CASE("what was pushed first is popped first", "[op]") {
    node a(1), b(2), c(3);
    op_queue queue;
    queue.push(a);
    queue.push(b);
    queue.push(c);

    CHECK(queue.front() == &a);
    CHECK(queue.back() == &c);
    CHECK(drain(queue) == std::vector{1, 2, 3});
}

TEST_CASE("an empty queue has neither front nor back, also after use", "[op]") {
    node a(1);
    op_queue queue;
    CHECK(queue.empty());
    CHECK(queue.front() == nullptr);
    CHECK(queue.back() == nullptr);

    queue.push(a);
    queue.pop();

    CHECK(queue.empty());
    CHECK(queue.front() == nullptr);
    CHECK(queue.back() == nullptr);
}

TEST_CASE("a popped op can be pushed again", "[op]") {
    node a(1), b(2);
    op_queue queue;
    queue.push(a);
    queue.push(b);

    queue.push(queue.pop());

    CHECK(drain(queue) == std::vector{2, 1});
}

TEST_CASE("splice moves a queue behind another, in order", "[op]") {
    node a(1), b(2), c(3), d(4), e(5);
    op_queue queue, other;
    queue.push(a);
    queue.push(b);
    other.push(c);
    other.push(d);

    queue.splice(other);
    CHECK(other.empty());
    CHECK(other.back() == nullptr);
    queue.push(e);

    CHECK(drain(queue) == std::vector{1, 2, 3, 4, 5});
}

TEST_CASE("splice with an empty queue on either side loses nothing", "[op]") {
    node a(1), b(2);
    op_queue queue, other;

    queue.splice(other);
    CHECK(queue.empty());

    other.push(a);
    queue.splice(other);
    CHECK(queue.back() == &a);
    queue.splice(other);
    other.push(b);
    queue.splice(other);

    CHECK(drain(queue) == std::vector{1, 2});
}

TEST_CASE("running an op calls its function with the op", "[op]") {
    struct counter : op {
        counter() : op([](op& self) noexcept { ++static_cast<counter&>(self).calls; }) {}
        int calls = 0;
    } counted;

    counted.run(counted);
    counted.run(counted);

    CHECK(counted.calls == 2);
}
