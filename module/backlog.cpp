// module/backlog.cpp: see backlog.hpp.

#include "backlog.hpp"

#include <algorithm>
#include <cerrno>
#include <limits>

#include <sys/uio.h>

namespace zl {

file_part file_part::from(PyObject* descriptor, PyObject* offset, PyObject* count) {
    file_part part{};
    part.descriptor = PyObject_AsFileDescriptor(descriptor);
    if (part.descriptor < 0) {
        throw py::error_set{};
    }
    part.offset = PyLong_AsLongLong(offset);
    const bool bounded = count != Py_None;
    part.left = bounded ? PyLong_AsSize_t(count) : std::numeric_limits<std::size_t>::max();
    if (PyErr_Occurred()) {
        throw py::error_set{};
    }
    return part;
}

py::ref sendfile_failure(int error, std::size_t sent) noexcept {
    py::ref failure;
    if (sent == 0) {
        const py::ref asyncio = py::ref::adopt(PyImport_ImportModule("asyncio"));
        if (asyncio) {
            failure = py::ref::adopt(PyObject_CallMethod(asyncio.get(), "SendfileNotAvailableError", "s",
                                                         "os.sendfile call failed"));
        }
    } else if (error == ENOTCONN) {
        failure = py::ref::adopt(
            PyObject_CallFunction(PyExc_ConnectionError, "si", "socket is not connected", error));
    } else {
        return py::os_error(error);
    }
    return failure ? failure : py::take_error();
}

void backlog::push(py::ref bytes, std::size_t offset) {
    const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()));
    parts_.push_back({std::move(bytes), offset});
    bytes_ += size - offset;
}

void backlog::push_front(py::ref bytes, std::size_t offset) {
    bytes_ += static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get())) - offset;
    parts_.insert(parts_.begin() + static_cast<std::ptrdiff_t>(first_), {std::move(bytes), offset});
}

std::size_t backlog::peek(iovec* views, std::size_t most) const noexcept {
    const std::size_t count = std::min(parts_.size() - first_, most);
    for (std::size_t index = 0; index < count; ++index) {
        const part& each = parts_[first_ + index];
        views[index].iov_base = PyBytes_AS_STRING(each.bytes.get()) + each.offset;
        views[index].iov_len = static_cast<std::size_t>(PyBytes_GET_SIZE(each.bytes.get())) - each.offset;
    }
    return count;
}

void backlog::consume(std::size_t count) noexcept {
    bytes_ -= count;
    while (count > 0) {
        part& oldest = parts_[first_];
        const std::size_t left =
            static_cast<std::size_t>(PyBytes_GET_SIZE(oldest.bytes.get())) - oldest.offset;
        if (count < left) {
            oldest.offset += count;
            break;
        }
        count -= left;
        oldest.bytes.reset();
        ++first_;
    }
    if (first_ == parts_.size()) {
        clear();
    } else if (first_ >= 256 && first_ * 2 >= parts_.size()) {
        parts_.erase(parts_.begin(), parts_.begin() + static_cast<std::ptrdiff_t>(first_));
        first_ = 0;
    }
}

void backlog::clear() noexcept {
    parts_.clear();
    first_ = 0;
    bytes_ = 0;
}

}  // namespace zl
