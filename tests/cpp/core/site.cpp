#include <zloop/core/site.hpp>

#include <string>

#include "catch.hpp"

namespace {

zloop::site here(zloop::site place = zloop::site::current()) { return place; }

}  // namespace

TEST_CASE("a site is the place where the default argument was asked for", "[site]") {
    const unsigned line = __LINE__ + 1;
    const zloop::site place = here();

    CHECK(place.line() == line);
    CHECK(place.file_name() == std::string(__FILE__));
    CHECK(std::string(place.function_name()) != "");
}

TEST_CASE("a site of nowhere is empty", "[site]") {
    const zloop::site nowhere{};

    CHECK(nowhere.line() == 0);
    CHECK(nowhere.file_name() == std::string());
    CHECK(nowhere.function_name() == std::string());
}
