// zloop/core/op.hpp: something that runs once on a loop, and the queue it waits in.
//
// A suspended coroutine, a due timer, a callback: each embeds an `op` and is queued without an
// allocation. The queue owns nothing: whoever embeds the op keeps it alive until it ran. An op is in
// at most one queue, at most once; it never leaves a queue but by its turn, so a cancelled one runs
// too and finds out that it was cancelled.
#pragma once

#include <zloop/config.hpp>

#include <cassert>
#include <utility>

namespace zloop {

/// A node of the ready queue: what to call, and who is next. 16 bytes.
///
/// Owns:    nothing. Whoever embeds it keeps it alive until it has run.
/// Overlap: in one queue at a time, once.
/// Thread:  that of its loop; only loop::post() takes one from another.
/// Example: examples/cpp/callbacks.cpp
struct op {
    /// What an op calls in its turn, with itself. It may push the op again, or destroy it.
    using function = void (*)(op&) noexcept;

    /// An op that will call `run_function`; it is queued nowhere yet.
    explicit op(function run_function) noexcept : run(run_function) {}
    op(const op&) = delete;
    op& operator=(const op&) = delete;

    function run;        ///< called once per push, after the op left the queue
    op* next = nullptr;  ///< the queue's

protected:
    /// Not by its base: who embeds an op destroys it.
    ~op() = default;
};

/// An intrusive first-in first-out queue. Not thread-safe.
///
/// Owns:    no op.
/// Example: examples/cpp/callbacks.cpp
class op_queue {
public:
    /// An empty queue.
    op_queue() = default;
    op_queue(const op_queue&) = delete;
    op_queue& operator=(const op_queue&) = delete;

    /// Whether no op waits.
    bool empty() const noexcept { return head_ == nullptr; }
    /// The oldest op, which is next; null: none.
    op* front() const noexcept { return head_; }
    /// The newest op; null: none.
    op* back() const noexcept { return tail_; }

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdangling-pointer"  // an op on the stack leaves before its frame does
#endif
    /// Queues `node`, which is in no queue, behind all others.
    void push(op& node) noexcept {
        node.next = nullptr;
        if (head_ != nullptr) {
            tail_->next = &node;
        } else {
            head_ = &node;
        }
        tail_ = &node;
    }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

    /// Takes the oldest op out. The queue must not be empty.
    op& pop() noexcept {
        assert(head_ != nullptr);
        op& node = *head_;
        head_ = node.next;
        if (head_ == nullptr) {
            tail_ = nullptr;
        }
        return node;
    }

    /// Puts an op in front of all. Not for what has its turn in order.
    void push_front(op& node) noexcept {
        node.next = head_;
        head_ = &node;
        if (tail_ == nullptr) {
            tail_ = &node;
        }
    }

    /// Takes `node` out, if it is there: for one whose memory goes. Gives the op before it; null: it was the
    /// first, or is not there. O(n).
    op* remove(const op& node) noexcept {
        op* before = nullptr;
        for (op* each = head_; each != nullptr; before = std::exchange(each, each->next)) {
            if (each == &node) {
                (before != nullptr ? before->next : head_) = each->next;
                tail_ = tail_ == each ? before : tail_;
                return before;
            }
        }
        return nullptr;
    }

    /// Moves every op of `other` behind ours, in order.
    void splice(op_queue& other) noexcept {
        if (other.head_ == nullptr) {
            return;
        }
        if (head_ != nullptr) {
            tail_->next = other.head_;
        } else {
            head_ = other.head_;
        }
        tail_ = other.tail_;
        other.head_ = other.tail_ = nullptr;
    }

private:
    op* head_ = nullptr;
    op* tail_ = nullptr;
};

}  // namespace zloop
