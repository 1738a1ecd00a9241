#include <zloop/generator.hpp>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"

using namespace zloop;

namespace {

generator<int> up_to(int most) {
    for (int each = 1; each <= most; ++each) {
        co_yield each;
    }
}

}  // namespace

TEST_CASE("a generator gives its values in order, each when it is asked for", "[generator]") {
    std::vector<int> seen;
    int made = 0;
    auto numbers = [&]() -> generator<int> {
        for (;;) {
            co_yield ++made;
        }
    };

    for (const int each : numbers()) {
        seen.push_back(each);
        if (each == 3) {
            break;
        }
    }

    CHECK(seen == std::vector{1, 2, 3});
    CHECK(made == 3);
    CHECK(std::ranges::input_range<generator<int>>);
    for (const int each : up_to(0)) {
        FAIL(each);
    }
    for (const int each : generator<int>()) {
        FAIL(each);
    }
}

TEST_CASE("a generator's values move, and what it names is copied", "[generator]") {
    auto texts = []() -> generator<std::string> {
        const std::string kept(50, 'k');
        co_yield kept;
        CHECK(kept == std::string(50, 'k'));
        std::string own(50, 'o');
        co_yield own;
        CHECK(own == std::string(50, 'o'));
        co_yield "literal";
    };
    auto pointers = []() -> generator<std::unique_ptr<int>> { co_yield std::make_unique<int>(7); };
    int number = 1;
    auto references = [&]() -> generator<int&> { co_yield number; };

    std::string all;
    for (std::string each : texts()) {
        all += each.back();
    }
    for (auto&& each : pointers()) {
        const std::unique_ptr<int> taken = std::move(each);
        number += *taken;
    }
    for (int& each : references()) {
        ++each;
    }

    CHECK(all == "kol");
    CHECK(number == 9);
}

TEST_CASE("what leaves a generator arrives at who asked, and it has ended", "[generator]") {
    auto fails = []() -> generator<int> {
        co_yield 1;
        throw std::runtime_error("told");
    };
    auto values = fails();
    auto at = values.begin();
    CHECK(*at == 1);

    CHECK_THROWS_AS(++at, std::runtime_error);

    CHECK(at == values.end());
}

TEST_CASE("a generator that is left early destroys what it holds", "[generator]") {
    auto shared = std::make_shared<int>(1);
    auto holds = [](std::shared_ptr<int> held) -> generator<int> {
        co_yield 1;
        co_yield *held;
    };
    {
        auto values = holds(shared);
        CHECK(*values.begin() == 1);
        auto moved = std::move(values);
        CHECK(shared.use_count() == 2);
        CHECK(values.begin() == values.end());
    }
    CHECK(shared.use_count() == 1);
}
