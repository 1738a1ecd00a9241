// zloop/wait/io_awaiter.hpp: what every I/O awaitable shares: start the operation, or wait as a leaf.
//
// The awaiter is the operation: it lives in the awaiting coroutine's frame and allocates nothing. What
// completes at once never suspends; the others are the leaf of their scope until their outcome is there.
// Until it begins it can be moved, into what awaits it.
//
// Nothing in it is for users.
#pragma once

#include <climits>
#include <span>

#include <sys/uio.h>

#include <zloop/error.hpp>
#include <zloop/kernel/backend.hpp>
#include <zloop/task.hpp>

namespace zloop::detail {

template <class Operation = io_op>
class io_awaiter : protected Operation {
public:
    using Operation::Operation;

    bool await_ready() const noexcept { return false; }

    template <task_promise P>
    bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) noexcept {
        note(caller.promise(), name_of(this->code), where);
        scope& within = *caller.promise().surroundings().within;
        if (within.refuses()) {
            this->error = ECANCELED;
            return false;
        }
        this->waiter = caller;
        if (this->owner->start(*this)) {
            return false;
        }
        entered_ = &within;
        within.enter(*this);
        return true;
    }

protected:
    /// The operation has ended. Its errno; 0 is success.
    int finish() noexcept {
        if (entered_ != nullptr) {
            entered_->leave(this->error == ECANCELED);
        }
        return this->error;
    }

    /// The outcome of what moves bytes, or items.
    result<std::size_t> moved() noexcept {
        if (const int failure = finish()) {
            return system_error_code(failure);
        }
        return this->size;
    }

private:
    scope* entered_ = nullptr;
};

/// At most so many buffers go into one system call.
inline unsigned count_of(std::span<const iovec> buffers) noexcept {
    return static_cast<unsigned>(buffers.size() < IOV_MAX ? buffers.size() : IOV_MAX);
}

class receive_awaiter : public io_awaiter<> {
public:
    receive_awaiter(backend& kernel, descriptor on) noexcept : io_awaiter(kernel, opcode::receive, on) {}

    result<std::span<const std::byte>> await_resume() noexcept {
        if (const int failure = finish()) {
            return system_error_code(failure);
        }
        return std::span<const std::byte>(data, size);
    }
};

class recv_awaiter : public io_awaiter<> {
public:
    recv_awaiter(backend& kernel, descriptor on, std::span<std::byte> buffer) noexcept
        : io_awaiter(kernel, opcode::recv, on) {
        data = buffer.data();
        size = buffer.size();
    }

    result<std::size_t> await_resume() noexcept { return moved(); }
};

class send_awaiter : public io_awaiter<> {
public:
    send_awaiter(backend& kernel, descriptor on, std::span<const iovec> buffers) noexcept
        : io_awaiter(kernel, opcode::send, on) {
        parts = buffers.data();
        part_count = count_of(buffers);
    }

    result<std::size_t> await_resume() noexcept { return moved(); }
};

class send_one_awaiter : public send_awaiter {
public:
    send_one_awaiter(backend& kernel, descriptor on, std::span<const std::byte> buffer) noexcept
        : send_awaiter(kernel, on, {&buffer_, 1}),
          buffer_{const_cast<std::byte*>(buffer.data()), buffer.size()} {}
    send_one_awaiter(send_one_awaiter&& other) noexcept
        : send_awaiter(std::move(other)), buffer_(other.buffer_) {
        parts = &buffer_;
    }

private:
    iovec buffer_;
};

class sendfile_awaiter : public io_awaiter<sendfile_op> {
public:
    sendfile_awaiter(backend& kernel, descriptor on, int from, std::int64_t start, std::size_t count) noexcept
        : io_awaiter(kernel, opcode::sendfile, on) {
        file = from;
        offset = start;
        size = count;
    }

    result<std::size_t> await_resume() noexcept { return moved(); }
};

/// Makes an operation now or never: with EAGAIN instead of waiting. `describe` says what it moves.
template <class Operation = io_op, class F>
result<std::size_t> try_now(backend& kernel, opcode code, descriptor on, F&& describe) noexcept {
    struct immediate : Operation {
        using Operation::Operation;
    } operation(kernel, code, on);
    operation.now_or_never = true;
    describe(operation);
    kernel.start(operation);
    if (operation.error != 0) {
        return system_error_code(operation.error);
    }
    return operation.size;
}

}  // namespace zloop::detail
