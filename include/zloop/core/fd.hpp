// zloop/core/fd.hpp: a file descriptor with one owner, who closes it.
#pragma once

#include <zloop/config.hpp>

#include <utility>

#include <unistd.h>

namespace zloop {

/// Owns a descriptor that no loop has in service (those belong to a socket), and closes it.
/// Example: examples/cpp/watch.cpp
class fd {
public:
    /// No descriptor.
    fd() noexcept = default;
    /// Owns `number`; a negative one is none.
    explicit fd(int number) noexcept : number_(number) {}
    /// Takes the descriptor of `other`, which has none then.
    fd(fd&& other) noexcept : number_(other.release()) {}
    /// Closes the descriptor, and takes that of `other`.
    fd& operator=(fd&& other) noexcept {
        reset(other.release());
        return *this;
    }
    /// Closes the descriptor.
    ~fd() { reset(); }

    /// Whether there is a descriptor.
    explicit operator bool() const noexcept { return number_ >= 0; }
    /// The descriptor's number, which stays owned; negative: none.
    int get() const noexcept { return number_; }

    /// Gives the descriptor away, open; negative: there was none.
    [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }

    /// Closes the descriptor and owns `number` instead.
    void reset(int number = -1) noexcept {
        if (number_ >= 0) {
            ::close(number_);  // not repeated on EINTR: on Linux the number is free by then
        }
        number_ = number;
    }

private:
    int number_ = -1;
};

}  // namespace zloop
