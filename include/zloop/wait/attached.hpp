// zloop/wait/attached.hpp: a descriptor in service of a loop's backend, with one owner, who closes it.
//
// What sockets and pipes are made of. It does not outlive its loop. The kernel gives a number that was
// closed behind our back to somebody else; from then on its former owner here touches nothing.
#pragma once

#include <cstdint>
#include <utility>

#include <zloop/core/fd.hpp>
#include <zloop/loop.hpp>

namespace zloop {

/// A descriptor in service of a loop's backend: what sockets and pipes are made of.
///
/// Owns:    the descriptor; closing or destroying it ends what waits on it with `operation_canceled`. Moves,
///          also while something waits; does not outlive its loop.
/// Thread:  that of its loop.
/// Example: examples/cpp/sockets.cpp
class attached {
public:
    /// No descriptor. Nothing is awaited on it.
    attached() noexcept = default;
    /// Takes the descriptor of `other`, which has none then.
    attached(attached&& other) noexcept
        : kernel_(std::exchange(other.kernel_, nullptr)),
          fd_(std::exchange(other.fd_, -1)),
          life_(other.life_) {}
    /// Exchanges the descriptors: that of this one goes with `other`.
    attached& operator=(attached&& other) noexcept {
        std::swap(kernel_, other.kernel_);
        std::swap(fd_, other.fd_);
        std::swap(life_, other.life_);
        return *this;
    }
    /// Closes the descriptor.
    ~attached() { close(); }

    /// Takes a non-blocking descriptor into service of `on`.
    /// Fails: when the backend does; `descriptor` then stays the caller's.
    static result<attached> adopt(loop& on, fd&& descriptor) noexcept {
        if (const auto error = on.kernel().attach(descriptor.get())) {
            return error;
        }
        return attached(on.kernel(), descriptor.release());
    }

    /// Whether there is a descriptor.
    explicit operator bool() const noexcept { return fd_ >= 0; }
    /// The descriptor's number, which stays in service; -1: none.
    int native_handle() const noexcept { return fd_; }

    /// Closes the descriptor, now. What waits on it ends with operation_canceled.
    void close() noexcept {
        if (fd_ >= 0 && !is_stale()) {
            kernel_->close(fd_);
        }
        fd_ = -1;
    }

    /// Gives the descriptor away, open and out of service; -1 when there is none. What waits on it ends with
    /// operation_canceled.
    [[nodiscard]] int release() noexcept {
        if (fd_ >= 0 && !is_stale()) {
            kernel_->release(fd_);
        }
        return std::exchange(fd_, -1);
    }

    /// Whether the descriptor was closed behind our back and its number is another's now. Then what is
    /// asked of it fails with `bad_file_descriptor`.
    bool is_stale() const noexcept { return fd_ >= 0 && kernel_->life(fd_) != life_; }

protected:
    /// What release() would lose.
    unclaimed take_unclaimed() { return live() >= 0 ? kernel_->take_unclaimed(fd_) : unclaimed{}; }

    /// Where operations go. Not for one that never was open.
    backend& kernel() const noexcept { return *kernel_; }

    /// What operations are started on.
    descriptor self() const noexcept { return {fd_, life_}; }

    /// For system calls of our own: -1 when it is closed or stale, so every use fails with EBADF.
    int live() const noexcept { return is_stale() ? -1 : fd_; }

private:
    attached(backend& kernel, int number) noexcept
        : kernel_(&kernel), fd_(number), life_(kernel.life(number)) {}

    backend* kernel_ = nullptr;
    int fd_ = -1;
    std::uint32_t life_ = 0;
};

}  // namespace zloop
