#include <zloop/core/timer.hpp>

#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "catch.hpp"

using namespace zloop;
using namespace std::chrono_literals;

namespace {

struct armed_node : timer_node {
    armed_node() : timer_node([](op&) noexcept {}) {}
};

time_point at(nanoseconds since_start) { return time_point(since_start); }

}  // namespace

TEST_CASE("timers come out by deadline", "[timer]") {
    timer_heap heap;
    armed_node late, early, middle;
    heap.insert(late, at(3s));
    heap.insert(early, at(1s));
    heap.insert(middle, at(2s));

    CHECK(heap.next() == at(1s));
    CHECK(&heap.pop() == &early);
    CHECK(&heap.pop() == &middle);
    CHECK(&heap.pop() == &late);
    CHECK(heap.empty());
}

TEST_CASE("a timer is found by what it is", "[timer]") {
    timer_heap heap;
    armed_node one, other;
    heap.insert(one, at(1s));
    heap.insert(other, at(2s));

    CHECK(heap.find([&](timer_node& node) { return &node == &other; }) == &other);
    CHECK(heap.find([](timer_node&) { return false; }) == nullptr);
}

TEST_CASE("equal deadlines come out in the order of arming", "[timer]") {
    timer_heap heap;
    std::vector<armed_node> nodes(100);
    for (armed_node& each : nodes) {
        heap.insert(each, at(1s));
    }
    heap.remove(nodes[10]);
    heap.insert(nodes[10], at(1s));  // armed again: the last now

    for (std::size_t index = 0; index < nodes.size(); ++index) {
        if (index != 10) {
            CHECK(&heap.pop() == &nodes[index]);
        }
    }
    CHECK(&heap.pop() == &nodes[10]);
}

TEST_CASE("a removed timer leaves nothing behind", "[timer]") {
    timer_heap heap;
    auto short_lived = std::make_unique<armed_node>();
    armed_node other;
    heap.insert(*short_lived, at(1s));
    heap.insert(other, at(2s));
    CHECK(short_lived->armed());

    heap.remove(*short_lived);
    CHECK(!short_lived->armed());
    short_lived.reset();

    CHECK(heap.size() == 1);
    CHECK(heap.next() == at(2s));
    CHECK(&heap.pop() == &other);
    CHECK(!other.armed());
}

TEST_CASE("a timer that came out can be armed again", "[timer]") {
    timer_heap heap;
    armed_node again;
    for (int round = 0; round < 3; ++round) {
        heap.insert(again, at(1s));
        CHECK(&heap.pop() == &again);
    }
    CHECK(heap.empty());
}

TEST_CASE("the extremes of the clock are deadlines like others", "[timer]") {
    timer_heap heap;
    armed_node first, last, middle;
    heap.insert(last, time_point::max());
    heap.insert(middle, at(0ns));
    heap.insert(first, time_point::min());

    CHECK(&heap.pop() == &first);
    CHECK(&heap.pop() == &middle);
    CHECK(&heap.pop() == &last);
}

TEST_CASE("every armed timer is visited", "[timer]") {
    timer_heap heap;
    std::vector<armed_node> nodes(20);
    std::set<timer_node*> expected, visited;
    for (std::size_t index = 0; index < nodes.size(); ++index) {
        heap.insert(nodes[index], at(nanoseconds(20 - index)));
        expected.insert(&nodes[index]);
    }
    heap.remove(nodes[3]);
    expected.erase(&nodes[3]);

    heap.for_each([&](timer_node& each) { visited.insert(&each); });

    CHECK(visited == expected);
    while (!heap.empty()) {
        heap.pop();
    }
}

TEST_CASE("the heap agrees with a sorted set on random operations", "[timer]") {
    std::mt19937 random(20240731);
    timer_heap heap;
    std::vector<armed_node> nodes(500);
    std::vector<std::tuple<time_point, int, armed_node*>> armed(nodes.size());
    std::set<std::tuple<time_point, int, armed_node*>> model;
    int sequence = 0;
    int wrong = 0;

    for (int step = 0; step < 50'000; ++step) {
        const std::size_t chosen = random() % nodes.size();
        armed_node& each = nodes[chosen];
        if (each.armed()) {
            heap.remove(each);
            model.erase(armed[chosen]);
        } else if (random() % 3 != 0) {
            const time_point deadline = at(nanoseconds(random() % 100));  // with many ties
            heap.insert(each, deadline);
            armed[chosen] = {deadline, sequence++, &each};
            model.insert(armed[chosen]);
        } else if (!model.empty()) {
            wrong += heap.next() != std::get<0>(*model.begin());
            wrong += &heap.pop() != std::get<2>(*model.begin());
            model.erase(model.begin());
        }
        wrong += heap.size() != model.size();
    }
    CHECK(wrong == 0);

    while (!model.empty()) {
        wrong += &heap.pop() != std::get<2>(*model.begin());
        model.erase(model.begin());
    }
    CHECK(wrong == 0);
    CHECK(heap.empty());
}
