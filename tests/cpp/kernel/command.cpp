#include <zloop/kernel/command.hpp>

#include "catch.hpp"
#include "support.hpp"

using namespace zloop;

TEST_CASE("a redirect leads as is usual, unless it says where", "[command]") {
    CHECK(redirect().kind() == redirect::way::usual);
    CHECK(redirect::inherit.kind() == redirect::way::inherit);
    CHECK(redirect::null.kind() == redirect::way::null);
    CHECK(redirect::pipe.kind() == redirect::way::pipe);
    CHECK(redirect::output.kind() == redirect::way::output);
    CHECK(redirect::pipe.descriptor() == -1);
}

TEST_CASE("a redirect to a descriptor names it, and leaves it to its owner", "[command]") {
    support::pipe_ends ends;
    const int number = ends.in.get();
    {
        const redirect leads = redirect::to(ends.in);
        CHECK(leads.kind() == redirect::way::descriptor);
        CHECK(leads.descriptor() == number);
    }
    CHECK(ends.in.get() == number);
    ends.write();  // it is open
    CHECK(redirect::to(2).descriptor() == 2);
}

TEST_CASE("a command that names a program alone changes nothing else", "[command]") {
    const command plain{.argv = {"true"}};

    CHECK(plain.program.empty());
    CHECK(plain.cwd.empty());
    CHECK(!plain.env);
    CHECK(plain.add_env.empty());
    CHECK(plain.pass.empty());
    for (const redirect& each : {plain.in, plain.out, plain.err}) {
        CHECK(each.kind() == redirect::way::usual);
    }
    CHECK(!plain.new_group);
    CHECK(!plain.new_session);
    CHECK(plain.join_group == 0);
}
