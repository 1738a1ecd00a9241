// module/socket/writing.cpp: cork, send at once, or keep and send later. See transport.hpp.
//
// Whatever sends may find the connection broken, and then ends it; or call the protocol's flow control,
// which may do anything. So state is looked at again after each.

#include <algorithm>
#include <array>

#include "transport.hpp"

namespace zl {

namespace {

constexpr std::size_t most_of_file = 256 * 1024;  // at once, so that a fast peer starves nobody

}  // namespace

py::ref SocketTransport::write(const py::arguments& args) {
    PyObject* const data = py::only_argument(args, "_SelectorSocketTransport.write", "data");
    py::ref bytes;
    if (PyBytes_Check(data)) {
        bytes = py::ref::borrow(data);
    } else if (!PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(data)));
#if PY_VERSION_HEX >= 0x030E0000
        constexpr const char* words =
            "data argument must be a bytes, bytearray, or memoryview object, not %R";
#else
        constexpr const char* words = "data argument must be a bytes-like object, not %R";
#endif
        py::raise_format(PyExc_TypeError, words, name.get());
    }
    check_writable();
    if (!bytes) {  // what is changed after write() does not change what is sent
        bytes = py::ref::steal(PyBytes_FromObject(data));
    }
    write_bytes(std::move(bytes));
    core->raise_failure();  // pause_writing() may have been left by KeyboardInterrupt
    return py::none();
}

void SocketTransport::write_owned(py::ref bytes) {
    check_writable();
    write_bytes(std::move(bytes));
    core->raise_failure();
}

void SocketTransport::check_writable() const {
    if (eof_written) {
        py::raise(PyExc_RuntimeError, "Cannot call write() after write_eof()");
    }
    if (sends_file()) {
        py::raise(PyExc_RuntimeError, "unable to write; sendfile is in progress");
    }
}

/// Corks, sends or appends. False: the connection is over, the bytes go nowhere.
bool SocketTransport::write_bytes(py::ref bytes) {
    const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()));
    if (size == 0) {
        return true;
    }
    cork& corked = core->cork;
    const std::size_t cap = high_water < cork::most_bytes ? high_water : cork::most_bytes;
    if (corked.owner != nullptr &&
        (corked.owner != this || corked.count == cork::most_parts || corked.bytes + size > cap)) {
        flush_cork(*core);  // may end this connection, too
    }
    if (lost_writes != 0) {
        count_lost_write("socket.send() raised exception.");
        return false;
    }
    if (has_backlog()) {
        append(std::move(bytes), 0);
        backlog_has_grown();
        return true;
    }
    if (orphaned) {
        core->check_closed();
    }
    if (core->in_callback && size <= cap) {
        if (corked.owner == nullptr) {
            corked.owner = this;
            corked.send = &SocketTransport::send_corked;
            Py_INCREF(self());
        }
        corked.bytes += size;
        corked.parts[corked.count++] = bytes.release();
        return true;
    }
    PyObject* const part = bytes.get();
    send_now(&part, 1, size);
    return true;
}

py::ref SocketTransport::writelines(const py::arguments& args) {
    PyObject* const list = py::only_argument(args, "_SelectorSocketTransport.writelines", "list_of_data");
#if PY_VERSION_HEX >= 0x030C0000
    constexpr const char* after_eof = "Cannot call writelines() after write_eof()";
    constexpr const char* behind_file = "unable to writelines; sendfile is in progress";
#else
    constexpr const char* after_eof = "Cannot call write() after write_eof()";
    constexpr const char* behind_file = "unable to write; sendfile is in progress";
#endif
    if (eof_written) {
        py::raise(PyExc_RuntimeError, after_eof);
    }
    if (sends_file()) {
        py::raise(PyExc_RuntimeError, behind_file);
    }
    // All of them first: a bad part leaves nothing written.
    const py::ref parts = py::ref::steal(PySequence_List(list));
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts.get()); ++index) {
        PyObject* const part = PyList_GET_ITEM(parts.get(), index);
        if (!PyBytes_Check(part)) {
            const py::ref view = py::ref::steal(PyMemoryView_FromObject(part));
            if (PyList_SetItem(parts.get(), index, PyBytes_FromObject(view.get())) != 0 || PyErr_Occurred()) {
                throw py::error_set{};
            }
        }
    }
    in_writelines = true;  // pause_writing() may write: behind all of these
    try {
        for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts.get()); ++index) {
            if (!write_bytes(py::ref::borrow(PyList_GET_ITEM(parts.get(), index)))) {
                break;  // one lost write, however many parts
            }
        }
    } catch (...) {
        in_writelines = false;
        throw;
    }
    in_writelines = false;
    backlog_has_grown();
    core->raise_failure();
    return py::none();
}

/// Takes what is corked, and its owner's reference; may call the protocol, the exception handler.
void SocketTransport::send_corked(cork& taken) noexcept {
    auto& self = static_cast<SocketTransport&>(*taken.owner);
    const py::ref alive = py::ref::adopt(self.self());
    const bool parents =
        self.core->loop && self.core->loop->is_inherited();  // in a fork: the parent sends them
    if (self.lost_writes == 0 && !self.orphaned && !parents) {
        self.send_now(taken.parts, taken.count, taken.bytes);
    }
    for (unsigned index = 0; index < taken.count; ++index) {
        Py_DECREF(taken.parts[index]);
    }
}

void SocketTransport::flush_own_cork() noexcept {
    if (core->cork.owner == this) {
        flush_cork(*core);
    }
}

void SocketTransport::send_now(PyObject* const* parts, unsigned count, std::size_t bytes) noexcept {
    iovec views[cork::most_parts];
    for (unsigned index = 0; index < count; ++index) {
        views[index] = {PyBytes_AS_STRING(parts[index]),
                        static_cast<std::size_t>(PyBytes_GET_SIZE(parts[index]))};
    }
    const auto attempt = socket.try_send({views, count});
    if (attempt.error() && attempt.error() != std::errc::resource_unavailable_try_again) {
        fatal_error(py::os_error(attempt.error().value()), "Fatal write error on socket transport");
        return;
    }
    std::size_t sent = *attempt;
    if (sent == bytes) {
        return;
    }
    try {
        for (unsigned index = 0; index < count; ++index) {
            if (sent >= views[index].iov_len) {
                sent -= views[index].iov_len;
            } else {
                append(py::ref::borrow(parts[index]), std::exchange(sent, 0));
            }
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        fatal_error_from_indicator("Fatal write error on socket transport");
        return;
    }
    if (!writer.running()) {
        write_loop(writer);
    }
    backlog_has_grown();
}

void SocketTransport::backlog_has_grown() noexcept {
    if (!in_writelines) {
        maybe_pause_writing(buffer_size());
    }
}

void SocketTransport::append(py::ref bytes, std::size_t offset) {
    if (backlog == nullptr) {
        backlog = std::make_unique<zl::backlog>();
    }
    backlog->push(std::move(bytes), offset);
}

fiber SocketTransport::write_loop(fiber::place& kept) {
    // Not within the write() that starts it: that may be in a callback of this connection, whose context
    // is entered already; and what goes wrong is told later, as in asyncio.
    co_await next_turn(event_loop());
    std::array<iovec, 64> views;
    while (lost_writes == 0 && !orphaned && has_backlog()) {
        if (backlog->empty()) {
            file_part& file = *backlog->file;
            auto [error, sent] =
                co_await socket.sendfile(file.descriptor, file.offset, std::min(file.left, most_of_file));
            if (error == std::errc::operation_canceled) {
                break;
            }
            const connection_scope running(*this);
            file_moved(error, sent);
            continue;
        }
        const std::size_t count = backlog->peek(views.data(), views.size());
        auto [error, sent] = co_await socket.send(std::span<const iovec>(views.data(), count));
        if (error == std::errc::operation_canceled) {
            break;
        }
        const connection_scope running(*this);
        if (error) {
            fatal_error(py::os_error(error.value()), "Fatal write error on socket transport");
            break;
        }
        backlog->consume(sent);
        maybe_resume_writing(buffer_size());
    }
    kept.end();
    if (lost_writes != 0) {
        // Only now: until the end the kernel may have been reading it.
        sends_file() ? backlog->clear() : backlog.reset();
    } else if (!orphaned && !core->dropping && has_backlog()) {
        write_loop(kept);  // it was a file that was cancelled, and others have written since
        co_return;
    } else if (!orphaned && !core->dropping) {
        const connection_scope running(*this);
        written_out();
    }
    release_if_over();
}

/// The backlog is sent; what waited for that can happen.
void SocketTransport::written_out() noexcept {
    try {
        if (closing) {
            ++lost_writes;
            schedule_lost(Py_None);
        } else if (eof_written) {
            socket.shutdown(SHUT_WR).value();
        }
    } catch (const py::error_set&) {
        core->report_callback(Py_None);
    } catch (const std::system_error& error) {
        fatal_error(py::os_error(error.code().value()), "Fatal write error on socket transport");
    }
}

std::size_t SocketTransport::buffer_size() const noexcept {
    return backlog != nullptr && lost_writes == 0 ? backlog->bytes() : 0;
}

py::ref SocketTransport::write_eof() {
    if (closing || eof_written) {
        return py::none();
    }
    eof_written = true;
    flush_own_cork();
    if (!has_backlog() && lost_writes == 0 && socket) {
        socket.shutdown(SHUT_WR).value();
    }
    return py::none();
}

py::ref SocketTransport::can_write_eof() { return py::boolean(true); }

py::ref SocketTransport::get_write_buffer_size() {
    flush_own_cork();
    return py::ref::steal(PyLong_FromSize_t(buffer_size()));
}

py::ref SocketTransport::maybe_pause_protocol() {
    flush_own_cork();
    maybe_pause_writing(buffer_size());
    core->raise_failure();
    return py::none();
}

}  // namespace zl
