// module/moments.hpp: a loop's moments as Python's seconds, and back.
#pragma once

#include <cmath>

#include <zloop/core/timer.hpp>

#include "py.hpp"

namespace zl {

inline constexpr double nanoseconds_per_second = 1e9;

inline double seconds_of(zloop::time_point moment) noexcept {
    return static_cast<double>(moment.time_since_epoch().count()) / nanoseconds_per_second;
}

/// The first nanosecond that is not before `seconds`: nothing fires early.
inline zloop::time_point deadline_of(double seconds) noexcept {
    const double count = std::ceil(seconds * nanoseconds_per_second);
    if (!(count > 0)) {
        return zloop::time_point{};
    }
    if (count >= static_cast<double>(zloop::nanoseconds::max().count())) {
        return zloop::time_point::max();
    }
    return zloop::time_point(zloop::nanoseconds(static_cast<std::int64_t>(count)));
}

/// What CPython's conversions to double return: -1.0 may be an error.
inline double seconds_from(double converted) {
    if (converted == -1.0 && PyErr_Occurred()) {
        throw py::error_set{};
    }
    return converted;
}

}  // namespace zl
