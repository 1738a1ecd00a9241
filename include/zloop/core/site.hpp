// zloop/core/site.hpp: where in the source a coroutine waits, for the backtraces of backtrace.hpp.
//
// An awaitable's await_suspend takes a site whose default is the place of the co_await. It costs one
// pointer where the compiler knows std::source_location's layout, three words where not (clang 14).
#pragma once

#include <zloop/config.hpp>

#if ZLOOP_HAS_SOURCE_LOCATION
#include <source_location>
#endif

namespace zloop {

#if ZLOOP_HAS_SOURCE_LOCATION

/// A place in the source: std::source_location, or what stands in for it.
/// Example: examples/cpp/backtrace.cpp
using site = std::source_location;

#else

/// A place in the source: std::source_location, for compilers that lack it.
class site {
public:
    /// The place where it is called, or where the call lies that it is a default argument of.
    static constexpr site current(const char* file = __builtin_FILE(),
                                  const char* function = __builtin_FUNCTION(),
                                  int line = __builtin_LINE()) noexcept {
        site here;
        here.file_ = file;
        here.function_ = function;
        here.line_ = static_cast<unsigned>(line);
        return here;
    }
    /// The file.
    constexpr const char* file_name() const noexcept { return file_; }
    /// The function.
    constexpr const char* function_name() const noexcept { return function_; }
    /// The line in the file.
    constexpr unsigned line() const noexcept { return line_; }

private:
    const char* file_ = "";
    const char* function_ = "";
    unsigned line_ = 0;
};

#endif

}  // namespace zloop
