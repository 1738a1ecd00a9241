#include <zloop/core/fd.hpp>

#include <fcntl.h>

#include "catch.hpp"

using zloop::fd;

namespace {

bool is_open(int number) { return ::fcntl(number, F_GETFD) >= 0; }
int make() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

TEST_CASE("a descriptor is closed by its owner", "[fd]") {
    const int number = make();
    {
        const fd owner(number);
        CHECK(owner);
        CHECK(owner.get() == number);
        CHECK(is_open(number));
    }
    CHECK(!is_open(number));
}

TEST_CASE("an owner of nothing closes nothing", "[fd]") {
    fd none;
    CHECK(!none);
    CHECK(none.get() == -1);
    none.reset();
}

TEST_CASE("moving a descriptor moves the duty to close it", "[fd]") {
    const int number = make();
    fd first(number);
    fd second(std::move(first));

    CHECK(!first);
    CHECK(second.get() == number);

    const int other = make();
    fd third(other);
    third = std::move(second);

    CHECK(!is_open(other));
    CHECK(is_open(number));
    CHECK(third.get() == number);
}

TEST_CASE("assigning a descriptor to itself keeps it", "[fd]") {
    const int number = make();
    fd owner(number);
    fd& same = owner;

    owner = std::move(same);

    CHECK(owner.get() == number);
    CHECK(is_open(number));
}

TEST_CASE("a released descriptor stays open", "[fd]") {
    const int number = make();
    {
        fd owner(number);
        CHECK(owner.release() == number);
        CHECK(!owner);
    }
    CHECK(is_open(number));
    ::close(number);
}

TEST_CASE("reset closes the one and owns the other", "[fd]") {
    const int first = make();
    const int second = make();
    fd owner(first);

    owner.reset(second);

    CHECK(!is_open(first));
    CHECK(owner.get() == second);
}
