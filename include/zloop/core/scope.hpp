// zloop/core/scope.hpp: what can be cancelled together.
//
// Scopes form a tree beside the tree of tasks. Each chain of awaiting tasks has one scope, and the
// operation at its end - the leaf - records itself there while it waits. A scope owns nothing: leaf
// and children live in coroutine frames, and take themselves out before these go.
#pragma once

#include <zloop/config.hpp>

#include <cassert>

namespace zloop {

/// Something that a scope's cancel() can end early: what a suspended coroutine waits for.
///
/// Thread:  that of its loop.
/// Example: examples/cpp/awaitable.cpp
struct cancellable {
    /// Something whose end is asked for by `cancel_function`.
    explicit cancellable(void (*cancel_function)(cancellable&) noexcept) noexcept : cancel(cancel_function) {}

    /// Asks for the end; a result that is already there wins. Never resumes anything inline.
    void (*cancel)(cancellable&) noexcept;

protected:
    /// Not by its base: who embeds it destroys it.
    ~cancellable() = default;
};

/// Whether the cancellation of the scopes above reaches a scope: yes, or only that of a loop that ends.
enum class shielding : bool { open, shielded };

/// What can be cancelled together: a node in the tree of scopes.
///
/// Owns:    nothing: what waits in it and the scopes below it live elsewhere, and end before it does.
/// Thread:  that of its loop. Another one posts an op that cancels, or asks a std::stop_source: with_stop().
/// Example: examples/cpp/cancel.cpp
class scope {
public:
    /// Makes a scope below `parent`; cancelled from the start when that is, unless it is shielded.
    explicit scope(scope* parent = nullptr, shielding kind = shielding::open) noexcept
        : parent_(parent), shielded_(kind == shielding::shielded) {
        if (parent_ != nullptr) {
            unshielded_ = parent_->unshielded_;
            cancelled_ = unshielded_ || (parent_->cancelled_ && !shielded_);
            inherited_ = cancelled_;
            next_ = parent_->first_child_;
            if (next_ != nullptr) {
                next_->previous_ = this;
            }
            parent_->first_child_ = this;
        }
    }

    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

    /// Leaves its parent. Nothing waits in it, and no scope is below it.
    ~scope() {
        assert(leaf_ == nullptr && first_child_ == nullptr);
        if (parent_ == nullptr) {
            return;
        }
        (previous_ != nullptr ? previous_->next_ : parent_->first_child_) = next_;
        if (next_ != nullptr) {
            next_->previous_ = previous_;
        }
    }

    /// Whether it was cancelled, or one above whose cancellation reaches it.
    bool cancelled() const noexcept { return cancelled_; }

    /// cancelled(), for an operation that is about to start, and fails with operation_canceled then.
    bool refuses() noexcept {
        if (cancelled_) [[unlikely]] {
            meet();
        }
        return cancelled_;
    }

    /// Whether an operation in it, or below, was ended or refused by its cancellation. One that has ended by
    /// itself in that moment has not met it, nor has what is shielded.
    bool met() const noexcept { return met_; }

    /// Marks the scope and everything below that is not shielded, and asks whatever waits there to end.
    /// Remembered: an operation that starts later in this scope ends at once. Resumes nothing inline.
    void cancel() noexcept { cancel(false, false); }

    /// cancel(), through shields as well: for a loop that ends.
    void cancel_shielded() noexcept { cancel(true, false); }

    /// Whether what it is part of has ended, by cancel_shielded(): nothing in it is to be asked for more.
    bool is_over() const noexcept { return unshielded_; }
    /// Whether nothing waits in it, and no scope is below it.
    bool is_empty() const noexcept { return leaf_ == nullptr && first_child_ == nullptr; }

    /// Records the operation that this scope's tasks wait for; the operation is under way. One that
    /// cancelled the scope while it started (a callback of its own did) is asked to end at once.
    void enter(cancellable& leaf) noexcept {
        assert(leaf_ == nullptr);
        leaf_ = &leaf;
        if (cancelled_) {
            leaf.cancel(leaf);
        }
    }

    /// Forgets the operation, which has ended; `canceled` says whether because it was asked to.
    void leave(bool canceled) noexcept {
        leaf_ = nullptr;
        if (canceled && cancelled_) [[unlikely]] {
            meet();
        }
    }
    /// The same, for who does not know: because it was asked to, if it was.
    void leave() noexcept { leave(true); }

    /// The scope above; null: none.
    const scope* parent() const noexcept { return parent_; }
    /// Whether it has more in it, of who made it: python/driver.hpp finds its own by that.
    bool is_extended() const noexcept { return extended_; }

    /// Forgets what waits in it and below, which is never resumed any more: the process ends.
    void forsake() noexcept {
        leaf_ = nullptr;
        first_child_ = nullptr;
    }

protected:
    /// Says that a scope has more in it.
    struct extended {};
    /// For who derives from it; is_extended().
    scope(scope* parent, extended) noexcept : scope(parent) { extended_ = true; }

private:
    void cancel(bool through_shields, bool from_above) noexcept {
        unshielded_ = unshielded_ || through_shields;
        if (!cancelled_) {
            cancelled_ = true;
            inherited_ = from_above;
            if (leaf_ != nullptr) {
                leaf_->cancel(*leaf_);
            }
        } else if (!through_shields) {
            return;
        }
        for (scope* child = first_child_; child != nullptr; child = child->next_) {
            if (through_shields || !child->shielded_) {
                child->cancel(through_shields, true);
            }
        }
    }

    /// Up to the scope whose cancellation it was: one that was cancelled for a reason of its own has nothing
    /// to do with what reached it later from above.
    void meet() noexcept {
        scope* at = this;
        at->met_ = true;
        while (at->inherited_) {
            at = at->parent_;
            at->met_ = true;
        }
    }

    scope* parent_;
    scope* first_child_ = nullptr;
    scope* next_ = nullptr;
    scope* previous_ = nullptr;
    cancellable* leaf_ = nullptr;
    bool cancelled_ = false;
    bool inherited_ = false;  // it was the cancellation of the scope above
    bool met_ = false;
    bool shielded_ = false;
    bool extended_ = false;
    bool unshielded_ = false;  // cancelled for good: shields below, made later too, protect from nothing
};

}  // namespace zloop
