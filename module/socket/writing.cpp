// module/socket/writing.cpp: send at once, or keep and send later. See transport.hpp.
//
// Whatever sends may find the connection broken, and then ends it; or call the protocol's flow control,
// which may do anything. So state is looked at again after each.

#include <algorithm>
#include <array>

#include <zloop/core/platform.hpp>  // expect_more

#include "transport.hpp"

namespace zl {

namespace {

constexpr std::size_t most_of_file = 256 * 1024;  // at once, so that a fast peer starves nobody
constexpr std::size_t most_deferred = 64 * 1024;  // of a connection, to the turn's end

}  // namespace

py::ref SocketTransport::write(const py::arguments& args) {
    PyObject* const data = py::only_argument(args, "_SelectorSocketTransport.write", "data");
    py::ref bytes;
    if (PyBytes_CheckExact(data)) {
        bytes = py::ref::borrow(data);
    } else if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
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

/// Whether anything can still be sent. False: the connection is over, the bytes go nowhere, and are counted.
bool SocketTransport::can_be_sent() {
    if (lost_writes != 0) {
        count_lost_write("socket.send() raised exception.");
        return false;
    }
    if (orphaned && !has_backlog()) {
        core->check_closed();
    }
    return true;
}

/// Sends or appends.
void SocketTransport::write_bytes(py::ref bytes) {
    const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()));
    if (size == 0 || !can_be_sent()) {
        return;
    }
    PyObject* const part = bytes.get();
    if (has_backlog() || is_to_wait(size)) {
        defer({&part, 1});
    } else {
        send_now({&part, 1}, size);
    }
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
    const py::ref given = py::ref::steal(PySequence_List(list));
    std::vector<PyObject*> parts;  // the list's, but the empty ones
    std::size_t size = 0;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(given.get()); ++index) {
        PyObject* part = PyList_GET_ITEM(given.get(), index);
        if (!PyBytes_CheckExact(part)) {
            const py::ref view = py::ref::steal(PyMemoryView_FromObject(part));
            part = PyBytes_FromObject(view.get());
            if (PyList_SetItem(given.get(), index, part) != 0 || PyErr_Occurred()) {
                throw py::error_set{};
            }
        }
        if (PyBytes_GET_SIZE(part) != 0) {
            parts.push_back(part);
            size += static_cast<std::size_t>(PyBytes_GET_SIZE(part));
        }
    }
    if (size == 0 || !can_be_sent()) {  // one lost write, however many parts
        return py::none();
    }
    if (has_backlog() || is_to_wait(size)) {
        defer(parts);
    } else {
        send_now(parts, size);
    }
    core->raise_failure();
    return py::none();
}

/// Whether the program wants it sent at the turn's end: `writes="turn"`. What fills segments is not worth
/// that.
bool SocketTransport::is_to_wait(std::size_t size) const noexcept {
    return core->writes_wait && core->turning && core->in_callback && size <= held_sockets::most_bytes;
}

/// Puts `parts` behind the backlog; one that nobody sends yet is sent with what else the turn leaves.
void SocketTransport::defer(std::span<PyObject* const> parts) {
    const bool first = !has_backlog();
    if (first) {  // before there is anything: of many parts there may be memory for some
        static_cast<void>(some_backlog());
        deferred = true;
        core->held.add(*this, true);
    }
    for (PyObject* const part : parts) {
        append(py::ref::borrow(part), 0);
    }
    if (first && !deferred) {  // no room in that list
        begin_writing();
    } else if (deferred && backlog->bytes() > most_deferred) {
        core->held.push_all();
    }
    maybe_pause_writing(buffer_size());
}

/// What is left then, or has to be told, is the write loop's.
void SocketTransport::send_deferred() noexcept {
    deferred = false;
    if (writer.running()) {  // a file came behind it
        return;
    }
    send_error = try_backlog();
    core->has_sent();
    if (!orphaned && (!backlog->empty() || writing_paused || closing || eof_written)) {
        begin_writing();
    }
}

/// Sends of the backlog what the kernel takes at once. Gives the number of the error, once told by the
/// kernel.
int SocketTransport::try_backlog() noexcept {
    std::array<iovec, 64> views;
    while (!backlog->empty()) {
        const std::size_t count = backlog->peek(views.data(), views.size());
        std::size_t size = 0;
        for (const iovec& view : std::span(views.data(), count)) {
            size += view.iov_len;
        }
        const auto attempt = socket.try_send({views.data(), count}, size < backlog->bytes());
        if (attempt.error()) {
            return attempt.error() == std::errc::resource_unavailable_try_again ? 0 : attempt.error().value();
        }
        backlog->consume(attempt.value());
        if (attempt.value() < size) {
            return 0;
        }
    }
    return 0;
}

/// The connection is to end now. What would have been sent at once is sent as far as it can be.
void SocketTransport::cut_deferred() noexcept {
    if (deferred) {
        deferred = false;
        core->held.forget(*this);
        if (!writer.running()) {
            static_cast<void>(try_backlog());
            sends_file() ? backlog->clear() : backlog.reset();
        }
    }
}

/// What the kernel had better wait for before it sends. See ../hold.hpp.
SocketTransport::following SocketTransport::what_follows(std::size_t size) noexcept {
    constexpr bool kernel_waits = zloop::detail::expect_more != 0;
    if (!kernel_waits || !core->in_callback || !is_tcp || size > held_sockets::most_bytes) {
        return following::nothing;
    }
    const bool parts = habit.note(core->callback);
    if (core->turning && peer_is_here) {
        core->held.trial.note(core->callback);
        if (!core->loop->ready().empty() && core->held.trial.holds()) {
            return following::callbacks;
        }
    }
    return parts ? following::parts : following::nothing;
}

void SocketTransport::send_now(std::span<PyObject* const> parts, std::size_t size) noexcept {
    std::array<iovec, 64> views;
    const following follow = what_follows(size);
    const bool more = follow != following::nothing;
    if (!more) {
        core->held.push_others(*this, held);  // what was written before
    }
    std::size_t sent = 0, sent_parts = 0, rest = 0;
    while (sent_parts < parts.size() && rest == 0) {  // once, but for very many parts
        const auto some = parts.subspan(sent_parts, std::min(parts.size() - sent_parts, views.size()));
        for (std::size_t index = 0; index < some.size(); ++index) {
            views[index] = {PyBytes_AS_STRING(some[index]),
                            static_cast<std::size_t>(PyBytes_GET_SIZE(some[index]))};
            rest += views[index].iov_len;
        }
        const bool last = sent_parts + some.size() == parts.size();
        const auto attempt = socket.try_send({views.data(), some.size()}, more || !last);
        if (attempt.error() && attempt.error() != std::errc::resource_unavailable_try_again) {
            fatal_error(py::os_error(attempt.error().value()), "Fatal write error on socket transport");
            return;
        }
        const std::size_t taken = attempt.value_or(0);
        sent += taken;
        rest -= taken;
        sent_parts += some.size();
    }
    more ? core->held.add(*this, follow == following::callbacks) : core->held.forget(*this);
    core->has_sent();
    if (sent < size) {
        keep(parts, sent);
    }
}

/// What the kernel has not taken of `parts`.
void SocketTransport::keep(std::span<PyObject* const> parts, std::size_t sent) noexcept {
    try {
        for (PyObject* const part : parts) {
            const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(part));
            if (sent >= size) {
                sent -= size;
            } else {
                append(py::ref::borrow(part), std::exchange(sent, 0));
            }
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        fatal_error_from_indicator("Fatal write error on socket transport");
        return;
    }
    begin_writing();
    maybe_pause_writing(buffer_size());
}

void SocketTransport::begin_writing() noexcept {
    if (!writer.running() && !write_loop(writer).begun()) {
        no_memory();
    }
}

void SocketTransport::append(py::ref bytes, std::size_t offset) {
    some_backlog().push(std::move(bytes), offset);
}

/// The backlog, which an idle connection has not.
zl::backlog& SocketTransport::some_backlog() {
    if (backlog == nullptr) {
        backlog = std::make_unique<zl::backlog>();
    }
    return *backlog;
}

fiber SocketTransport::write_loop(fiber::place& kept) {
    // Not within the write() that starts it: that may be in a callback of this connection, whose context
    // is entered already; and what goes wrong is told later, as in asyncio.
    co_await next_turn(event_loop());
    if (const int error = std::exchange(send_error, 0); error != 0 && lost_writes == 0 && !orphaned) {
        const connection_scope running(*this);
        fatal_error(py::os_error(error), "Fatal write error on socket transport");
    }
    std::array<iovec, 64> views;
    while (lost_writes == 0 && !orphaned && has_backlog()) {
        if (backlog->empty()) {
            file_part& file = *backlog->file;
            core->held.push_all();
            auto [error, sent] =
                co_await socket.sendfile(file.descriptor, file.offset, std::min(file.left, most_of_file));
            if (error == std::errc::operation_canceled) {
                break;
            }
            const connection_scope running(*this);
            file_moved(error, sent);
            continue;
        }
        core->held.push_all();
        const std::size_t count = backlog->peek(views.data(), views.size());
        auto [error, sent] = co_await socket.send(std::span<const iovec>(views.data(), count));
        core->has_sent();
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
        begin_writing();  // it was a file that was cancelled, and others have written since
        co_return;
    } else if (!orphaned && !core->dropping) {
        const connection_scope running(*this);
        written_out();
    }
    release_if_over();
}

/// The backlog is sent; what waited for that can happen.
void SocketTransport::written_out() noexcept {
    maybe_resume_writing(0);
    if (has_backlog() || lost_writes != 0) {  // by resume_writing()
        return;
    }
    try {
        if (closing) {
            ++lost_writes;
            schedule_lost(Py_None);
        } else if (eof_written) {
            socket.shutdown(SHUT_WR).value();
            core->has_sent();
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
    if (!has_backlog() && !writer.running() && lost_writes == 0 && socket) {
        core->held.push_others(*this, held);
        socket.shutdown(SHUT_WR).value();
        core->has_sent();
    }
    return py::none();
}

py::ref SocketTransport::can_write_eof() { return py::boolean(true); }

py::ref SocketTransport::get_write_buffer_size() { return py::ref::steal(PyLong_FromSize_t(buffer_size())); }

py::ref SocketTransport::maybe_pause_protocol() {
    maybe_pause_writing(buffer_size());
    core->raise_failure();
    return py::none();
}

}  // namespace zl
