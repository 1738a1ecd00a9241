// Catch2, version 2 or 3, whichever is there.
//
// No co_await inside of CHECK or REQUIRE: these repeat their expression behind `false &&`, for the
// warnings it gives, and g++ 12 awaits it there nevertheless.
#pragma once

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_adapters.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#else
#include <catch2/catch.hpp>
#endif
