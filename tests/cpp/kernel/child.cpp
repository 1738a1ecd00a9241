#include <zloop/kernel/child.hpp>

#include "catch.hpp"
#include "probes.hpp"
#include "support.hpp"

using namespace zloop;

// Its end, its status and its signals, seen from a loop: process.cpp.

namespace {

/// A child that sleeps until SIGKILL: other signals are the test program's to report.
pid_t make_sleeper() {
    const pid_t made = ::fork();
    if (made == 0) {
        for (;;) {
            ::pause();
        }
    }
    return made;
}

}  // namespace

TEST_CASE("a child's end makes a descriptor readable, which stays so", "[child]") {
    const bool forbidden = GENERATE(false, true);
    const probes::failing no_pidfds(probes::pidfd_open, EPERM, forbidden ? 1 : 0);
    detail::child one(make_sleeper(), false);
    const int notice = one.exit_notice().value();
    CHECK(one.exit_notice().value() == notice);
    CHECK_FALSE(support::is_readable(notice));
    CHECK_FALSE(one.try_reap());

    CHECK(one.kill(SIGKILL));

    CHECK(support::is_readable(notice, 10'000));
    CHECK(support::is_readable(notice));
    CHECK_FALSE(one.is_over());
    CHECK(one.try_reap());
    CHECK(one.outcome().value().signal == SIGKILL);
}

TEST_CASE("a status that a signal keeps us from taking is asked for again", "[child]") {
    detail::child one(make_sleeper(), false);
    const probes::failing interrupted(probes::waitid, EINTR, 3);

    CHECK_FALSE(one.try_reap());
    CHECK(one.kill(SIGKILL));
    CHECK(support::is_readable(one.exit_notice().value(), 10'000));
    CHECK(one.try_reap());
}

TEST_CASE("no child has no status, and takes no signal", "[child]") {
    detail::child none;

    CHECK(none.is_over());
    CHECK(none.outcome().error() == std::errc::no_child_process);
    CHECK(none.kill(SIGTERM).error() == std::errc::no_such_process);
    CHECK(none.kill_group(SIGTERM).error() == std::errc::no_such_process);
    CHECK(none.release() == -1);
}

TEST_CASE("a leader that has left its group is ended all the same", "[child]") {
    const pid_t made = make_sleeper();  // never had a group of its own
    detail::child leader(made, true);

    CHECK(leader.kill_group(SIGKILL).error() == std::errc::no_such_process);
    CHECK(leader.kill_all(SIGKILL));

    CHECK(support::is_readable(leader.exit_notice().value(), 10'000));
    CHECK(leader.try_reap());
    CHECK(leader.outcome().value().signal == SIGKILL);
}
