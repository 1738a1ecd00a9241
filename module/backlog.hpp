// module/backlog.hpp: what was written and not yet taken by the kernel.
//
// Parts are the bytes objects themselves, with an offset into the oldest: sent bytes are never moved.
#pragma once

#include <vector>

#include "py.hpp"

struct iovec;

namespace zl {

class backlog {
public:
    ~backlog() { clear(); }

    bool empty() const noexcept { return first_ == parts_.size(); }
    std::size_t bytes() const noexcept { return bytes_; }

    /// Appends a bytes object from `offset` on.
    void push(py::ref bytes, std::size_t offset);

    /// Points `views` at the oldest parts; returns how many.
    std::size_t peek(iovec* views, std::size_t most) const noexcept;

    /// Drops the oldest `count` bytes.
    void consume(std::size_t count) noexcept;

    void clear() noexcept;

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
