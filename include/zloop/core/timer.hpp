// zloop/core/timer.hpp: deadlines, in a heap that the loop looks at once a turn.
//
// An intrusive 4-ary heap ordered by (deadline, order of arming). Each node knows its place, so a
// cancelled timer leaves at once, O(log n), and nothing of it stays behind. The heap owns no node.
// Four children a node: half the levels of a binary heap, and siblings share a cache line.
#pragma once

#include <zloop/config.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <zloop/core/op.hpp>

namespace zloop {

/// Durations, wherever one is asked for; any std::chrono duration converts that loses nothing.
using nanoseconds = std::chrono::nanoseconds;

/// A moment on a loop's clock: nanoseconds of CLOCK_MONOTONIC, or of a virtual clock.
using time_point = std::chrono::time_point<std::chrono::steady_clock, nanoseconds>;

/// Adds `duration` to `now`; the end of time where that is later.
constexpr time_point deadline_after(time_point now, nanoseconds duration) noexcept {
    return duration < time_point::max() - now ? now + duration : time_point::max();
}

/// An op with a deadline. When it is due the loop queues it, like any other op.
///
/// Owns:    nothing. Whoever embeds it keeps it alive until it has run, or was disarmed.
/// Thread:  that of its loop.
/// Example: examples/cpp/callbacks.cpp
struct timer_node : op {
    using op::op;

    /// Whether it waits for its deadline: armed, and neither due nor disarmed since.
    bool armed() const noexcept { return index != not_armed; }

    /// The index of a node that is in no heap.
    static constexpr std::size_t not_armed = std::numeric_limits<std::size_t>::max();
    std::size_t index = not_armed;  ///< the heap's
};

/// Deadlines with their nodes, the earliest first.
///
/// Owns:    no node.
/// Thread:  that of its loop.
/// Example: examples/cpp/callbacks.cpp
class timer_heap {
public:
    /// Whether no node is armed.
    bool empty() const noexcept { return entries_.empty(); }
    /// How many nodes are armed.
    std::size_t size() const noexcept { return entries_.size(); }

    /// The earliest deadline. The heap must not be empty.
    time_point next() const noexcept { return entries_.front().deadline; }

    /// Calls `visit` with every armed node, in no order: for whoever owns them.
    template <class F>
    void for_each(F&& visit) const {
        for (const entry& each : entries_) {
            visit(*each.node);
        }
    }

    /// The first that `wanted(node)` is true of, in no order; null: none.
    template <class F>
    timer_node* find(F&& wanted) const {
        for (const entry& each : entries_) {
            if (wanted(*each.node)) {
                return each.node;
            }
        }
        return nullptr;
    }

    /// Puts `node`, not armed yet, in its place. O(log n).
    /// Fails: throws std::bad_alloc, and then changed nothing.
    void insert(timer_node& node, time_point deadline) {
        assert(!node.armed());
        entries_.push_back({deadline, sequence_++, &node});
        rise(entries_.size() - 1, entries_.back());
    }

    /// Takes `node`, which is armed, out: it will not run. O(log n).
    void remove(timer_node& node) noexcept {
        assert(node.armed());
        const std::size_t hole = node.index;
        node.index = timer_node::not_armed;
        const entry last = entries_.back();
        entries_.pop_back();
        if (hole == entries_.size()) {
            return;
        }
        if (hole > 0 && last < entries_[parent(hole)]) {
            rise(hole, last);
        } else {
            sink(hole, last);
        }
    }

    /// Takes the earliest node out. The heap must not be empty.
    timer_node& pop() noexcept {
        timer_node& node = *entries_.front().node;
        remove(node);
        return node;
    }

private:
    struct entry {
        time_point deadline;
        std::uint64_t sequence;  // equal deadlines fire in the order of arming
        timer_node* node;

        bool operator<(const entry& other) const noexcept {
            return deadline != other.deadline ? deadline < other.deadline : sequence < other.sequence;
        }
    };

    static constexpr std::size_t arity = 4;
    static std::size_t parent(std::size_t index) noexcept { return (index - 1) / arity; }

    void put(std::size_t index, const entry& moved) noexcept {
        entries_[index] = moved;
        moved.node->index = index;
    }

    void rise(std::size_t hole, const entry moved) noexcept {
        while (hole > 0 && moved < entries_[parent(hole)]) {
            put(hole, entries_[parent(hole)]);
            hole = parent(hole);
        }
        put(hole, moved);
    }

    void sink(std::size_t hole, const entry moved) noexcept {
        for (;;) {
            const std::size_t first = hole * arity + 1;
            if (first >= entries_.size()) {
                break;
            }
            const std::size_t end = first + arity < entries_.size() ? first + arity : entries_.size();
            std::size_t least = first;
            for (std::size_t child = first + 1; child < end; ++child) {
                if (entries_[child] < entries_[least]) {
                    least = child;
                }
            }
            if (!(entries_[least] < moved)) {
                break;
            }
            put(hole, entries_[least]);
            hole = least;
        }
        put(hole, moved);
    }

    std::vector<entry> entries_;
    std::uint64_t sequence_ = 0;
};

}  // namespace zloop
