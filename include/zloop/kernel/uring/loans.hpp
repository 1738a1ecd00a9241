// zloop/kernel/uring/loans.hpp: what the io_uring backend's receive() lends, and for how long.
//
// A buffer is lent for as long as the coroutine runs that has received it, and then for as long as a send of
// it takes, and what runs after that. Who takes bytes without waiting for them has them until the next wait.
// What receive() gets from a datagram socket, a pipe or a terminal lies in one scratch buffer that serves
// them all, in turn; a send that still has it keeps it, and the next one gets another.
//
// Nothing in it is for users.
#pragma once

#include <zloop/kernel/uring/buffers.hpp>

#if ZLOOP_HAS_URING

#include <sys/uio.h>

#include <zloop/kernel/backend.hpp>

namespace zloop::detail::uring {

class loans {
public:
    explicit loans(buffer_ring& buffers) noexcept : buffers_(buffers) {}
    loans(const loans&) = delete;
    loans& operator=(const loans&) = delete;
    ~loans() {
        end_of_turn();
        if (scratch_ != nullptr) {
            buffers_.drop(*scratch_);
        }
    }

    /// Gives a receive() the scratch buffer to fill. False: no memory.
    bool offer_scratch(io_op& operation) noexcept {
        if (scratch_ != nullptr && scratch_->users > 1) {  // a send still has it
            buffers_.drop(*std::exchange(scratch_, nullptr));
        }
        if (scratch_ == nullptr) {
            scratch_ = buffer::make(scratch_bytes);
            if (scratch_ == nullptr) {
                operation.error = ENOMEM;
                return false;
            }
            scratch_->users = 1;
        }
        operation.data = scratch_->bytes();
        operation.size = scratch_bytes;
        return true;
    }

    /// Lends what a receive() has filled there to whoever it resumes.
    void lend_scratch(io_op& operation) noexcept {
        ++scratch_->users;
        operation.lease = scratch_;
    }

    /// An operation that sends what is lent keeps it while it waits.
    void keep(io_op& operation) noexcept {
        if (lent_ == nullptr || operation.lease != nullptr) {
            return;
        }
        for (unsigned index = 0; index < operation.part_count; ++index) {
            if (lent_->contains(operation.parts[index].iov_base)) {
                ++lent_->users;
                operation.lease = lent_;
                return;
            }
        }
    }

    /// Such an operation did not have to wait.
    void let_go(io_op& operation) noexcept {
        if (auto* const held = static_cast<buffer*>(std::exchange(operation.lease, nullptr))) {
            buffers_.drop(*held);
        }
    }

    /// Resumes an operation's coroutine, and lends it what the operation has. The frame may be gone then.
    void resume(io_op& operation) noexcept {
        auto* const held = static_cast<buffer*>(std::exchange(operation.lease, nullptr));
        if (held == nullptr) {
            operation.waiter.resume();
            return;
        }
        lent_ = held;
        operation.waiter.resume();
        lent_ = nullptr;
        buffers_.drop(*held);
    }

    /// Lends what an operation has until the next wait.
    void lend_until_wait(io_op& operation) noexcept {
        if (auto* const held = static_cast<buffer*>(std::exchange(operation.lease, nullptr))) {
            until_wait_.push(*held);
        }
    }
    void end_of_turn() noexcept {
        while (!until_wait_.empty()) {
            buffers_.drop(until_wait_.pop());
        }
    }

private:
    /// Holds the largest datagram.
    static constexpr std::uint32_t scratch_bytes = 64 * 1024;

    buffer_ring& buffers_;
    buffer* lent_ = nullptr;  // to the coroutine that runs
    buffer* scratch_ = nullptr;
    buffer_queue until_wait_;
};

}  // namespace zloop::detail::uring

#endif
