#include <zloop/kernel/descriptor_table.hpp>

#include <algorithm>
#include <limits>

#include "catch.hpp"
#include "support.hpp"

using namespace support;
using zloop::detail::descriptor_table;

TEST_CASE("a table has a place for each number up to the largest that was asked for", "[descriptor_table]") {
    pipe_ends pipe;
    const int larger = std::max(pipe.in.get(), pipe.out.get());
    const int smaller = std::min(pipe.in.get(), pipe.out.get());
    descriptor_table<int> table;
    CHECK(table.size() == 0);

    REQUIRE(!table.reserve(larger));
    CHECK(table.size() == larger + 1);
    table[smaller] = 7;
    REQUIRE(!table.reserve(smaller));

    CHECK(table.size() == larger + 1);
    CHECK(table[smaller] == 7);
    CHECK(table[larger] == 0);
}

TEST_CASE("a place outlives its descriptor", "[descriptor_table]") {
    pipe_ends pipe;
    const int number = pipe.out.get();
    descriptor_table<int> table;
    REQUIRE(!table.reserve(number));
    table[number] = 7;

    pipe.out.reset();

    CHECK(!table.reserve(number));
    CHECK(table[number] == 7);
}

TEST_CASE("there is no place for a number that is no descriptor", "[descriptor_table]") {
    descriptor_table<int> table;

    CHECK(table.reserve(-1) == std::errc::bad_file_descriptor);
    CHECK(table.reserve(std::numeric_limits<int>::max()) == std::errc::bad_file_descriptor);
    CHECK(table.size() == 0);
}
