#include <zloop/core/fork.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include "catch.hpp"

using zloop::detail::fork_mark;

namespace {

/// Whether `question` is answered by yes in a fork of this process.
template <class F>
bool in_fork(F question) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::_exit(question() ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return status == 0;
}

}  // namespace

TEST_CASE("what was made before a fork is inherited there, and stays its maker's here", "[fork]") {
    const fork_mark mark;

    CHECK(in_fork([&] { return mark.is_inherited(); }));
    CHECK(in_fork([&] { return in_fork([&] { return mark.is_inherited(); }); }));
    CHECK(!mark.is_inherited());
}

TEST_CASE("what a fork makes is its own", "[fork]") {
    CHECK(in_fork([] { return !fork_mark().is_inherited(); }));
    CHECK(in_fork([] {
        const fork_mark mark;
        return in_fork([&] { return mark.is_inherited(); }) && !mark.is_inherited();
    }));
}
