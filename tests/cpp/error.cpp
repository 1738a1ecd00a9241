#include <zloop/error.hpp>

#include <memory>

#include "catch.hpp"

using namespace zloop;

namespace {

template <class T>
concept has_parts = requires { std::tuple_size<T>::value; };

}  // namespace

TEST_CASE("a result holds a value", "[error]") {
    result<int> made = 7;

    CHECK(made);
    CHECK(!made.error());
    CHECK(made.value() == 7);
    CHECK(*made == 7);
}

TEST_CASE("a result holds an error", "[error]") {
    const result<int> made = std::errc::connection_reset;

    CHECK(!made);
    CHECK(made.error() == std::errc::connection_reset);
}

TEST_CASE("who reaches into a failed result is told what went wrong", "[error]") {
    result<std::string> failed = system_error_code(ECONNREFUSED);
    const result<std::string>& fixed = failed;
    const auto told_by = [](auto look) {
        try {
            static_cast<void>(look());
        } catch (const std::system_error& error) {
            return error.code() == std::errc::connection_refused;
        }
        return false;
    };

    CHECK(told_by([&] { return (*failed).size(); }));
    CHECK(told_by([&] { return (*fixed).size(); }));
    CHECK(told_by([&] { return failed->size(); }));
    CHECK(told_by([&] { return fixed->size(); }));
    CHECK(told_by([&] { return std::string(*std::move(failed)).size(); }));
}

TEST_CASE("value_or is the value, or else what the caller has instead", "[error]") {
    const result<std::size_t> moved = 7;
    const result<std::size_t> failed = std::errc::resource_unavailable_try_again;

    CHECK(moved.value_or(0) == 7);
    CHECK(failed.value_or(0) == 0);
    CHECK(result<std::string>(errc::closed).value_or("none") == "none");
    const auto owner = result<std::unique_ptr<int>>(std::make_unique<int>(5)).value_or(nullptr);
    REQUIRE(owner);
    CHECK(*owner == 5);
    CHECK(result<std::unique_ptr<int>>(errc::closed).value_or(nullptr) == nullptr);
}

TEST_CASE("value() throws what went wrong", "[error]") {
    const result<int> failed = system_error_code(ECONNREFUSED);

    CHECK_THROWS_AS(failed.value(), std::system_error);
    try {
        failed.value();
    } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::connection_refused);
        CHECK(error.code().value() == ECONNREFUSED);
    }
    CHECK_THROWS_AS(result<void>(std::errc::timed_out).value(), std::system_error);
    CHECK_NOTHROW(result<void>().value());
}

TEST_CASE("a result comes apart into error and value", "[error]") {
    auto [error, value] = result<std::string>("text");
    CHECK(!error);
    CHECK(value == "text");

    const auto [failure, nothing] = result<std::string>(errc::end_of_stream);
    CHECK(failure == errc::end_of_stream);
    CHECK(nothing.empty());

    result<int> whole = 1;
    auto& [whole_error, part] = whole;
    part = 2;
    CHECK(!whole_error);
    CHECK(*whole == 2);

    const result<int>& fixed = whole;
    const auto& [fixed_error, fixed_part] = fixed;
    CHECK(!fixed_error);
    CHECK(&fixed_part == &*fixed);
}

TEST_CASE("a result of what only moves is moved apart", "[error]") {
    auto [error, owner] = result<std::unique_ptr<int>>(std::make_unique<int>(5));
    CHECK(!error);
    REQUIRE(owner);
    CHECK(*owner == 5);

    const std::unique_ptr<int> taken = result<std::unique_ptr<int>>(std::make_unique<int>(6)).value();
    CHECK(*taken == 6);
}

TEST_CASE("a result is reached through as a pointer is", "[error]") {
    const result<std::string> made = std::string("four");

    CHECK(made->size() == 4);
    CHECK((*made)[0] == 'f');
}

TEST_CASE("a result holds what has no default, and cannot be taken apart then", "[error]") {
    struct tough {
        explicit tough(int number) : value(number) {}
        int value;
    };
    result<tough> made = tough(4);
    const result<tough>& fixed = made;
    const result<tough> failed = errc::closed;

    CHECK(made->value == 4);
    CHECK((*fixed).value == 4);
    CHECK(fixed.value().value == 4);
    CHECK(std::move(made).value().value == 4);
    CHECK(!failed);
    CHECK(failed.error() == errc::closed);
    CHECK_THROWS_AS(failed.value(), std::system_error);
    CHECK_THROWS_AS(failed->value, std::system_error);
    CHECK(has_parts<result<int>>);
    CHECK(!has_parts<result<tough>>);  // there is no value to take when it failed
}

TEST_CASE("kernel errors compare as errno does", "[error]") {
    CHECK(system_error_code(ECANCELED) == std::errc::operation_canceled);
    CHECK(system_error_code(EAGAIN) == std::errc::resource_unavailable_try_again);
    CHECK(!system_error_code(0));
}

TEST_CASE("our own errors have a category, a name and words", "[error]") {
    const std::error_code ended = errc::end_of_stream;

    CHECK(ended.category() == category());
    CHECK(std::string(ended.category().name()) == "zloop");
    CHECK(ended.message() == "end of stream");
    CHECK(std::error_code(errc::limit_exceeded).message() == "limit exceeded");
    CHECK(std::error_code(99, category()).message() == "unknown zloop error");
    CHECK(ended != errc::limit_exceeded);
    CHECK(ended != system_error_code(1));
}

TEST_CASE("value_of is value(), for where that does not compile", "[error]") {
    const result<std::string> none(std::errc::connection_refused);
    CHECK_THROWS_AS(value_of(none), std::system_error);
    CHECK(value_of(result<int>(3)) == 3);
    CHECK_THROWS_AS(value_of(result<void>(std::errc::connection_refused)), std::system_error);
}
