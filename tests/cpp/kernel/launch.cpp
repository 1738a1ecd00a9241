#include <zloop/kernel/launch.hpp>

#include <string>

#include "catch.hpp"

using namespace zloop;

// What starts, and what does not: process.cpp.

TEST_CASE("where a program may be is what PATH says", "[launch]") {
    const auto files_of = [](const command& what) {
        const detail::wording words(what);
        std::string all;
        for (const char* const* each = words.files(); *each != nullptr; ++each) {
            all += std::string(*each) + ' ';
        }
        return all;
    };
    const auto with_path = [](const char* path) {
        command what{.argv = {"p"}};
        what.env = {"OTHER=x", path};
        return what;
    };

    CHECK(files_of(with_path("PATH=/a:/b/c")) == "/a/p /b/c/p ");
    CHECK(files_of(with_path("PATH=:/a::/b:")) == "./p /a/p ./p /b/p ./p ");
    CHECK(files_of(with_path("PATH=")) == "./p ");
    CHECK(files_of(with_path("PATHS=/a")) == "/bin/p /usr/bin/p ");
    CHECK(files_of({.argv = {"a/p"}, .add_env = {"PATH=/a"}}) == "a/p ");
    CHECK(files_of({.argv = {"x"}, .program = "y", .add_env = {"PATH=/a"}}) == "/a/y ");
}

TEST_CASE("what is moved, and where to", "[launch]") {
    detail::plumbing pipes;
    SECTION("nothing, where all is inherited") {
        REQUIRE_FALSE(pipes.lay({.argv = {"p"}, .in = redirect::inherit}));
        CHECK(pipes.moves.empty());
    }
    SECTION("the error to where the output leads, even when that is its own place") {
        REQUIRE_FALSE(pipes.lay({.argv = {"p"}, .out = redirect::to(2), .err = redirect::output}));
        REQUIRE(pipes.moves.size() == 2);
        CHECK(pipes.moves[1].ours == 2);
        CHECK(pipes.moves[1].number == 2);
    }
    SECTION("the error to an inherited output") {
        REQUIRE_FALSE(pipes.lay({.argv = {"p"}, .err = redirect::output}));
        REQUIRE(pipes.moves.size() == 1);
        CHECK(pipes.moves[0].ours == 1);
        CHECK(pipes.moves[0].number == 2);
    }
}
