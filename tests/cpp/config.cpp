#include <zloop/config.hpp>

#include <string_view>

#include "catch.hpp"

TEST_CASE("the headers and the build agree on the version", "[config]") {
    CHECK(std::string_view(ZLOOP_VERSION) == PROJECT_VERSION);
    CHECK(std::string_view(zloop::version) == ZLOOP_VERSION);
}

TEST_CASE("the platform's macros are 0 or 1", "[config]") {
    CHECK((ZLOOP_HAS_EPOLL == 0 || ZLOOP_HAS_EPOLL == 1));
    CHECK((ZLOOP_ASAN == 0 || ZLOOP_ASAN == 1));
}
