// What nearly every test includes, parsed once. That each header stands alone is checked without it.
#include "../catch.hpp"

#include <zloop/testing.hpp>
#include <zloop/zloop.hpp>
