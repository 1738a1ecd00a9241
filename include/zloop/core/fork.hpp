// zloop/core/fork.hpp: whether this process is a fork of the one that made something.
//
// What the kernel shares with a parent process - an epoll set, a ring - must not be changed from its
// child. Asking for the process id instead costs a system call (0.17 us) each time.
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <atomic>
#include <system_error>

#include <pthread.h>

namespace zloop::detail {

/// How many forks lie between this process and the one that called fork_mark() first.
inline std::atomic<unsigned> forks = 0;

/// The process that made it. Throws std::system_error when a fork could not be noticed.
class fork_mark {
public:
    fork_mark() {
        static const int registered =
            ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
        if (registered != 0) {
            throw std::system_error(registered, std::system_category(), "pthread_atfork");
        }
        made_in_ = forks.load(std::memory_order_relaxed);
    }

    /// Whether this process is a fork of that one.
    bool is_inherited() const noexcept { return forks.load(std::memory_order_relaxed) != made_in_; }

private:
    unsigned made_in_;
};

}  // namespace zloop::detail
