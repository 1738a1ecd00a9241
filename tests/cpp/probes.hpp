// Looks at what the library asks of the system: allocations and system calls are counted, and a
// system call can be made to fail. The linker puts the probes in the calls' place (--wrap).
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

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

/// Bytes of stack between this call's frame and `base`'s.
std::size_t stack_depth(const void* base) noexcept;

/// One wrapped system call.
struct system_call {
    std::atomic<std::size_t> count = 0;

    /// Counts a call. True: it fails, and errno is set.
    bool intercept() noexcept;

private:
    friend class failing;
    std::atomic<int> error_ = 0;
    std::atomic<int> failures_ = 0;
};

/// While it lives, the next `times` calls fail with `error` and reach no kernel.
class failing {
public:
    failing(system_call& call, int error, int times = 1) noexcept : call_(call) {
        call_.error_ = error;
        call_.failures_ = times;
    }
    failing(const failing&) = delete;
    failing& operator=(const failing&) = delete;
    ~failing() { call_.failures_ = 0; }

private:
    system_call& call_;
};

inline system_call recv, send, sendmsg, accept4, epoll_ctl, epoll_create1, epoll_wait, epoll_pwait2, eventfd,
    pthread_create;

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
