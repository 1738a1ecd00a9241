// module/backlog.hpp: what was written and not yet taken by the kernel.
//
// Parts are the bytes objects themselves, with an offset into the oldest: sent bytes are never moved.
// Behind them there may be a file, for as long as loop.sendfile() takes; then nothing is written.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "py.hpp"

struct iovec;

namespace zl {

/// A part of a file, on its way to a socket.
struct file_part {
    int descriptor;  // the caller's
    std::int64_t offset;
    std::size_t left;  // at most
    std::size_t sent = 0;
    py::ref future;  // of who waits for the end; none once it is there

    /// From Python's numbers; `count` may be None. Throws.
    static file_part from(PyObject* descriptor, PyObject* offset, PyObject* count);
};

/// What asyncio raises where sendfile(2) fails after `sent` bytes: at once it may be no file, and there is
/// another way to send it.
py::ref sendfile_failure(int error, std::size_t sent) noexcept;

class backlog {
public:
    ~backlog() { clear(); }

    bool empty() const noexcept { return first_ == parts_.size(); }
    std::size_t bytes() const noexcept { return bytes_; }

    /// Appends a bytes object from `offset` on.
    void push(py::ref bytes, std::size_t offset);

    /// Puts one before all others.
    void push_front(py::ref bytes, std::size_t offset);

    /// The object that holds the oldest bytes; who sends them keeps it.
    py::ref oldest() const noexcept { return parts_[first_].bytes; }

    /// Points `views` at the oldest parts; returns how many.
    std::size_t peek(iovec* views, std::size_t most) const noexcept;

    /// Drops the oldest `count` bytes.
    void consume(std::size_t count) noexcept;

    void clear() noexcept;

    std::unique_ptr<file_part> file;

private:
    struct part {
        py::ref bytes;
        std::size_t offset;
    };

    std::vector<part> parts_;
    std::size_t first_ = 0;  // parts before it are sent; they leave the vector in batches
    std::size_t bytes_ = 0;
};

}  // namespace zl
