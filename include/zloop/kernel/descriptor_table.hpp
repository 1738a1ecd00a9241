// zloop/kernel/descriptor_table.hpp: what a backend knows of each descriptor, by its number.
//
// Grows as numbers come, and never shrinks: a place stays when its descriptor is closed, so that it can tell
// one life of the number from the next. To grow is to move: no reference to a place survives reserve().
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <cerrno>
#include <cstddef>
#include <new>
#include <vector>

#include <fcntl.h>

#include <zloop/error.hpp>

namespace zloop::detail {

template <class Slot>
class descriptor_table {
public:
    /// Makes room for a number.
    /// Fails: where it is no descriptor, or there is no memory; then nothing has changed.
    std::error_code reserve(int fd) noexcept {
        if (fd < 0) {
            return std::make_error_code(std::errc::bad_file_descriptor);
        }
        if (fd >= size()) {
            if (::fcntl(fd, F_GETFD) < 0) {  // no table of gigabytes for a wild number
                return system_error_code(errno);
            }
            try {
                slots_.resize(static_cast<std::size_t>(fd) + 1);
            } catch (const std::bad_alloc&) {
                return std::make_error_code(std::errc::not_enough_memory);
            }
        }
        return {};
    }

    /// How many numbers there is room for, from 0 on.
    int size() const noexcept { return static_cast<int>(slots_.size()); }

    /// The place of a number that there is room for.
    Slot& operator[](int fd) noexcept { return slots_[static_cast<std::size_t>(fd)]; }
    const Slot& operator[](int fd) const noexcept { return slots_[static_cast<std::size_t>(fd)]; }

private:
    std::vector<Slot> slots_;
};

}  // namespace zloop::detail
