// zloop/core/fd.hpp: a file descriptor with one owner, who closes it.
#pragma once

#include <zloop/config.hpp>

#include <utility>

#include <unistd.h>

namespace zloop {

/// Owns a descriptor that no loop has in service (those belong to a socket).
class fd {
public:
    fd() noexcept = default;
    explicit fd(int number) noexcept : number_(number) {}
    fd(fd&& other) noexcept : number_(other.release()) {}
    fd& operator=(fd&& other) noexcept {
        reset(other.release());
        return *this;
    }
    ~fd() { reset(); }

    explicit operator bool() const noexcept { return number_ >= 0; }
    int get() const noexcept { return number_; }

    /// Gives the descriptor away.
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
