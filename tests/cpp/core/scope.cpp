#include <zloop/core/scope.hpp>

#include <optional>

#include "catch.hpp"

using namespace zloop;

namespace {

struct leaf : cancellable {
    leaf() : cancellable([](cancellable& self) noexcept { ++static_cast<leaf&>(self).asked; }) {}
    int asked = 0;
};

}  // namespace

TEST_CASE("a scope begins uncancelled", "[scope]") {
    scope root;
    scope child(&root);

    CHECK(!root.cancelled());
    CHECK(!child.cancelled());
}

TEST_CASE("cancel asks the leaf to end, once", "[scope]") {
    scope root;
    leaf waiting;
    root.enter(waiting);

    root.cancel();
    root.cancel();

    CHECK(waiting.asked == 1);
    root.leave();
}

TEST_CASE("a cancellation is met by who was ended or refused by it, in the scope or below", "[scope]") {
    scope root;
    scope branch(&root);
    scope twig(&branch);
    leaf waiting;

    SECTION("ended") {
        twig.enter(waiting);
        branch.cancel();
        CHECK(!branch.met());
        twig.leave(true);
    }
    SECTION("ended, for all that its waiter knows") {
        twig.enter(waiting);
        branch.cancel();
        twig.leave();
    }
    SECTION("refused") {
        branch.cancel();
        CHECK(!branch.met());
        CHECK(twig.refuses());
    }
    SECTION("refused in a scope that was made later") {
        branch.cancel();
        scope later(&twig);
        CHECK(later.refuses());
    }
    CHECK(branch.met());
    CHECK(!root.met());
}

TEST_CASE("a cancellation is not met by who ended by itself, was shielded, or cancelled before", "[scope]") {
    scope root;
    leaf waiting;

    SECTION("by itself") {
        root.enter(waiting);
        root.cancel();
        root.leave(false);
    }
    SECTION("before the cancellation, of something else") {
        root.enter(waiting);
        root.leave();
        CHECK(!root.refuses());
        root.cancel();
    }
    SECTION("shielded") {
        scope inner(&root, shielding::shielded);
        root.cancel();
        CHECK(!inner.refuses());
    }
    SECTION("cancelled before, for another reason") {
        scope inner(&root);
        inner.enter(waiting);
        inner.cancel();
        root.cancel();
        inner.leave(true);
        CHECK(inner.met());
    }
    CHECK(root.cancelled());
    CHECK(!root.met());
}

TEST_CASE("who has left is not asked", "[scope]") {
    scope root;
    leaf waiting;
    root.enter(waiting);
    root.leave();

    root.cancel();

    CHECK(waiting.asked == 0);
}

TEST_CASE("cancel before wait is remembered", "[scope]") {
    scope root;
    root.cancel();

    CHECK(root.cancelled());
    CHECK(scope(&root).cancelled());

    leaf cancels_while_it_starts;
    root.enter(cancels_while_it_starts);
    CHECK(cancels_while_it_starts.asked == 1);
    root.leave();
}

TEST_CASE("cancel reaches everything below and nothing above or beside", "[scope]") {
    scope root;
    scope branch(&root);
    scope beside(&root);
    scope twig(&branch);
    leaf on_root, on_branch, on_beside, on_twig;
    root.enter(on_root);
    branch.enter(on_branch);
    beside.enter(on_beside);
    twig.enter(on_twig);

    branch.cancel();

    CHECK(on_branch.asked == 1);
    CHECK(on_twig.asked == 1);
    CHECK(on_root.asked == 0);
    CHECK(on_beside.asked == 0);
    CHECK(twig.cancelled());
    CHECK(!root.cancelled());
    CHECK(!beside.cancelled());

    root.cancel();

    CHECK(on_root.asked == 1);
    CHECK(on_beside.asked == 1);
    CHECK(on_branch.asked == 1);
    CHECK(on_twig.asked == 1);
    for (scope* each : {&root, &branch, &beside, &twig}) {
        each->leave();
    }
}

TEST_CASE("scopes leave their parent in any order", "[scope]") {
    const int first = GENERATE(0, 1, 2);
    const int second = GENERATE(0, 1, 2);
    scope root;
    std::optional<scope> children[3];
    leaf leaves[3];
    for (int index = 0; index < 3; ++index) {
        children[index].emplace(&root);
        children[index]->enter(leaves[index]);
    }

    for (const int gone : {first, second}) {
        if (children[gone]) {
            children[gone]->leave();
            children[gone].reset();
        }
    }
    root.cancel();

    for (int index = 0; index < 3; ++index) {
        CHECK(leaves[index].asked == (index == first || index == second ? 0 : 1));
        if (children[index]) {
            children[index]->leave();
        }
    }
}

TEST_CASE("below a scope that was cancelled for good, a shield protects from nothing", "[scope]") {
    scope root;
    root.cancel_shielded();
    scope ending(&root);
    scope shielded(&ending, shielding::shielded);
    scope other;
    other.cancel();

    CHECK(ending.cancelled());
    CHECK(shielded.cancelled());
    CHECK(shielded.is_over());
    CHECK_FALSE(other.is_over());
}

TEST_CASE("a scope is empty when nothing waits in it and none is below it", "[scope]") {
    scope root;
    {
        scope child(&root);
        CHECK(child.is_empty());
        CHECK_FALSE(root.is_empty());
    }
    CHECK(root.is_empty());
}

TEST_CASE("a shielded scope is reached by its own cancel, not by that of the scopes above", "[scope]") {
    scope root;
    scope inner(&root, shielding::shielded);
    scope below(&inner);
    leaf waiting;
    below.enter(waiting);

    root.cancel();
    CHECK(!inner.cancelled());
    CHECK(!below.cancelled());
    CHECK(!scope(&root, shielding::shielded).cancelled());

    inner.cancel();
    CHECK(waiting.asked == 1);
    CHECK(scope(&inner).cancelled());
    below.leave();
}

TEST_CASE("cancel_shielded reaches through shields, also after a cancel, and those that come later",
          "[scope]") {
    const bool cancelled_before = GENERATE(false, true);
    scope root;
    scope inner(&root, shielding::shielded);
    scope below(&inner);
    leaf waiting;
    below.enter(waiting);
    if (cancelled_before) {
        root.cancel();
        CHECK(waiting.asked == 0);
    }

    root.cancel_shielded();
    root.cancel_shielded();

    CHECK(waiting.asked == 1);
    CHECK(scope(&below, shielding::shielded).cancelled());
    below.leave();
}
