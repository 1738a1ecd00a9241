// Looks at what the library asks of the system: allocations are counted, and system calls as
// testing/faults.hpp does it, which can make them fail. For names to look up the linker puts a probe in the
// call's place (--wrap).
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <zloop/testing/faults.hpp>

namespace probes {

// Sanitizers bring their own operator new, which checks more than we count.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PROBES_COUNT_ALLOCATIONS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PROBES_COUNT_ALLOCATIONS 0
#endif
#endif
#ifndef PROBES_COUNT_ALLOCATIONS
#define PROBES_COUNT_ALLOCATIONS 1
#endif

inline constexpr bool counts_allocations = PROBES_COUNT_ALLOCATIONS;

#if defined(__SANITIZE_THREAD__)
inline constexpr bool under_tsan = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool under_tsan = true;
#else
inline constexpr bool under_tsan = false;
#endif
#else
inline constexpr bool under_tsan = false;
#endif

/// Calls of operator new so far, by any thread.
std::size_t allocations() noexcept;

/// While it lives there is no memory for blocks of this size or more. Only where allocations are counted.
class no_memory_for {
public:
    explicit no_memory_for(std::size_t size_bytes) noexcept { limit = size_bytes; }
    no_memory_for(const no_memory_for&) = delete;
    no_memory_for& operator=(const no_memory_for&) = delete;
    ~no_memory_for() { limit = ~std::size_t{0}; }

    static inline std::atomic<std::size_t> limit = ~std::size_t{0};
};

/// Bytes of stack between this call's frame and `base`'s.
std::size_t stack_depth(const void* base) noexcept;

// One of the calls by name, `probes::recv`; and `probes::failing`, which makes it fail.
using namespace zloop::testing::system_calls;
using zloop::testing::failing;

/// Plays the name server while it lives: is asked for each name, on the thread that asks, for an EAI_ code
/// or for numeric addresses.
class name_server {
public:
    using answer = std::function<int(const std::string& host, std::vector<std::string>& numeric)>;

    explicit name_server(answer answers) : answers_(std::move(answers)) { active = this; }
    name_server(const name_server&) = delete;
    name_server& operator=(const name_server&) = delete;
    ~name_server() { active = nullptr; }

    int ask(const std::string& host, std::vector<std::string>& numeric) const {
        return answers_(host, numeric);
    }

    static inline std::atomic<const name_server*> active = nullptr;

private:
    answer answers_;
};

}  // namespace probes
