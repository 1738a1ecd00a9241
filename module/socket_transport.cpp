// module/socket_transport.cpp: reading, writing and ending a connection. See socket_transport.hpp.
//
// Every call of the protocol may close, abort or pause this very transport, or raise. So state is
// looked at again after each, and the error ends the connection as asyncio's _fatal_error does.

#include "socket_transport.hpp"

#include <array>
#include <cstring>
#include <limits>

#include "names.hpp"

namespace zl {

namespace {

/// One of the connection's coroutines calls Python: corked, and in the connection's context.
class connection_scope {
public:
    explicit connection_scope(SocketTransport& transport) noexcept
        : running_(*transport.core), context_(transport.context), core_(*transport.core) {
        if (PyContext_Enter(context_.get()) != 0) {
            core_.fail();
            context_.reset();
        }
    }
    connection_scope(const connection_scope&) = delete;
    connection_scope& operator=(const connection_scope&) = delete;
    ~connection_scope() {
        if (context_ && PyContext_Exit(context_.get()) != 0) {
            core_.fail();
        }
    }

private:
    callback_scope running_;
    py::ref context_;
    LoopCore& core_;
};

}  // namespace

/// recv into the buffer of a BufferedProtocol, asked for once the kernel has bytes.
class recv_into_protocol : public zloop::detail::io_awaiter<> {
public:
    explicit recv_into_protocol(SocketTransport& transport) noexcept
        : io_awaiter(transport.core->loop->kernel(), zloop::opcode::recv, transport.fd), transport_(transport) {
        provide = [](zloop::io_op& self) noexcept {
            static_cast<recv_into_protocol&>(self).ask();
        };
    }
    recv_into_protocol(const recv_into_protocol&) = delete;
    recv_into_protocol& operator=(const recv_into_protocol&) = delete;
    ~recv_into_protocol() { let_go(); }

    zloop::result<std::size_t> await_resume() noexcept {
        let_go();
        if (const auto failure = finish()) {
            return failure;
        }
        return size;
    }

private:
    void ask() noexcept {
        let_go();
        const connection_scope running(transport_);
        const py::ref hint = py::ref::adopt(PyLong_FromLong(-1));
        const py::ref target =
            hint ? transport_.call_protocol(transport_.core->state->str_get_buffer, hint.get()) : nullptr;
        if (target && PyObject_GetBuffer(target.get(), &view_, PyBUF_WRITABLE) == 0) {
            held_ = true;
            data = static_cast<std::byte*>(view_.buf);
            size = static_cast<std::size_t>(view_.len);
            if (size > 0) {
                return;
            }
            PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        }
        error = ECANCELED;  // the connection ends; nothing is left to tell the reader
        transport_.fatal_error_from_indicator("Fatal error: protocol.get_buffer() call failed.");
    }

    void let_go() noexcept {
        if (std::exchange(held_, false)) {
            PyBuffer_Release(&view_);
        }
    }

    SocketTransport& transport_;
    Py_buffer view_;
    bool held_ = false;
};

namespace {

/// A limit in bytes that asyncio has checked: a number that is not negative.
std::size_t size_of(PyObject* value) {
    const double size = PyFloat_AsDouble(value);
    if (size == -1.0 && PyErr_Occurred()) {
        throw py::error_set{};
    }
    constexpr auto most = std::numeric_limits<std::ptrdiff_t>::max();
    return size < static_cast<double>(most) ? static_cast<std::size_t>(size) : static_cast<std::size_t>(most);
}

}  // namespace

// Birth.

bool wants_no_delay(PyObject* sock) {
    const auto number = [sock](const char* name) {
        const py::ref value = py::attribute(sock, name);
        return PyLong_AsLong(value.get());
    };
    const long family = number("family");
    const bool wanted =
        (family == AF_INET || family == AF_INET6) && number("type") == SOCK_STREAM && number("proto") == IPPROTO_TCP;
    if (PyErr_Occurred()) {
        throw py::error_set{};
    }
    return wanted;
}

py::ref SocketTransport::create(LoopCore& core, py::ref context) {
    auto* type = reinterpret_cast<PyTypeObject*>(core.state->socket_transport_type.get());
    py::ref object = py::ref::steal(type->tp_alloc(type, 0));
    auto& self = *reinterpret_cast<SocketTransport*>(object.get());
    ::new (static_cast<socket_transport_fields*>(&self)) socket_transport_fields(core);
    self.context = std::move(context);
    return object;
}

/// From here on there is something to close.
void SocketTransport::own(zloop::stream connected) noexcept {
    fd = connected.native_handle();
    socket = std::move(connected);
    lost = false;
}

py::ref SocketTransport::from_python(LoopCore& core, PyObject* sock, PyObject* protocol, PyObject* waiter,
                                     PyObject* extra, PyObject* server, PyObject* context) {
    const py::ref fileno = py::ref::steal(PyObject_CallMethod(sock, "fileno", nullptr));
    const int number = PyObject_AsFileDescriptor(fileno.get());
    if (number < 0) {
        throw py::error_set{};
    }
    const bool no_delay = wants_no_delay(sock);
    py::ref object = create(
        core, context != Py_None ? py::ref::borrow(context) : py::ref::steal(PyContext_CopyCurrent()));
    auto& self = *reinterpret_cast<SocketTransport*>(object.get());
    zloop::fd descriptor(number);
    auto adopted = zloop::stream::adopt(*core.loop, std::move(descriptor));
    if (!adopted) {
        static_cast<void>(descriptor.release());  // the Python socket's
        py::raise_os_error(adopted.error());
    }
    if (no_delay) {
        static_cast<void>(adopted->set_option(IPPROTO_TCP, TCP_NODELAY, 1));
    }
    self.sock = py::ref::borrow(sock);
    self.own(std::move(*adopted));
    self.remember_peer(self.socket.peer_address());
    if (extra != Py_None) {
        self.extra = Py_NewRef(extra);
    }
    self.begin(protocol, server, waiter);
    return object;
}

void SocketTransport::from_accepted(LoopCore& core, zloop::stream socket, const zloop::address& peer,
                                    PyObject* protocol, PyObject* server, py::ref context) {
    const py::ref object = create(core, std::move(context));
    auto& self = *reinterpret_cast<SocketTransport*>(object.get());
    self.own(std::move(socket));
    self.remember_peer(peer);
    self.begin(protocol, server, Py_None);
}

void SocketTransport::remember_peer(const zloop::address& address) {
    if (address.family() == AF_INET || address.family() == AF_INET6) {
        std::memcpy(&peer, address.data(), address.size());
    } else {
        peername = name_of(address);
    }
}

zloop::address SocketTransport::remembered_peer() const noexcept {
    const bool is_v6 = peer.any.sa_family == AF_INET6;
    return {&peer.any, static_cast<socklen_t>(is_v6 ? sizeof peer.v6 : sizeof peer.v4)};
}

void SocketTransport::begin(PyObject* first_protocol, PyObject* owner, PyObject* waiter) {
    module_state& state = *core->state;
    set_protocol_of(first_protocol);
    const py::ref connection_made = py::ref::steal(PyObject_GetAttr(first_protocol, state.str_connection_made.get()));
    const py::ref begin_reading_method = py::attribute(self(), "_begin_reading");
    const auto index = static_cast<std::size_t>(fd);
    if (core->transport_of.size() <= index) {
        core->transport_of.resize(index + 1);
    }
    if (owner != Py_None) {
#if PY_VERSION_HEX >= 0x030D0000
        py::call_method(owner, state.str_attach.get(), self());
#else
        py::call_method(owner, state.str_attach.get());
#endif
        server = py::ref::borrow(owner);
    }

    core->transport_of[index] = this;
    next = core->transports;
    if (next != nullptr) {
        next->previous = this;
    }
    core->transports = this;
    open = true;
    Py_INCREF(self());  // the list's

    try {
        core->schedule(connection_made.get(), {self()}, context.get());
        core->schedule(begin_reading_method.get(), {}, context.get());
        if (waiter != Py_None) {
            core->schedule(state.set_result_unless_cancelled.get(), {waiter, Py_None}, context.get());
        }
    } catch (...) {
        orphan();
        throw;
    }
}

// The protocol.

template <class... Values>
py::ref SocketTransport::call_protocol(const py::ref& name, Values... values) noexcept {
    const py::ref called = protocol;
    return py::try_call_method(called.get(), name.get(), values...);
}

void SocketTransport::set_protocol_of(PyObject* given) {
    const int is_buffered = PyObject_IsInstance(given, core->state->buffered_protocol.get());
    if (is_buffered < 0) {
        throw py::error_set{};
    }
    protocol = py::ref::borrow(given);
    if (buffered != (is_buffered != 0)) {
        buffered = is_buffered != 0;
        stop_reading();  // the reader waits in the old protocol's way; it starts again in the new one's
    }
}

// Reading.

py::ref SocketTransport::begin_reading() {
    made = true;
    start_reading();
    return py::none();
}

void SocketTransport::start_reading() noexcept {
    if (wants_to_read() && !reader.running() && !socket.is_stale()) {
        buffered ? read_buffered_loop(*core->loop, reader) : read_loop(*core->loop, reader);
    }
}

void SocketTransport::stop_reading() noexcept {
    if (!delivering) {  // else the reader looks for itself, right after
        reader.cancel();
    }
}

fiber SocketTransport::read_loop(zloop::loop&, fiber::place& kept) {
    while (wants_to_read() && !buffered) {
        auto [error, data] = co_await socket.receive();
        if (error) {
            read_failed(error);
            break;
        }
        data.empty() ? deliver_eof() : deliver(data);
    }
    reader_ended(kept);
}

fiber SocketTransport::read_buffered_loop(zloop::loop&, fiber::place& kept) {
    while (wants_to_read() && buffered) {
        auto [error, count] = co_await recv_into_protocol(*this);
        if (error) {
            read_failed(error);
            break;
        }
        count == 0 ? deliver_eof() : deliver_buffered(count);
    }
    reader_ended(kept);
}

void SocketTransport::reader_ended(fiber::place& kept) noexcept {
    kept.end();
    if (socket.is_stale() && !closing && !core->dropping) {
        const connection_scope running(*this);
        fatal_error(py::os_error(EBADF), "Fatal read error on socket transport");
    }
    start_reading();  // resumed while it was being cancelled, or the protocol is of the other kind now
    release_if_over();
}

void SocketTransport::deliver(std::span<const std::byte> data) noexcept {
    const connection_scope running(*this);
    const py::ref bytes = py::ref::adopt(
        PyBytes_FromStringAndSize(reinterpret_cast<const char*>(data.data()), static_cast<Py_ssize_t>(data.size())));
    delivering = true;
    const py::ref done = bytes ? call_protocol(core->state->str_data_received, bytes.get()) : nullptr;
    delivering = false;
    if (!done) {
        fatal_error_from_indicator("Fatal error: protocol.data_received() call failed.");
    }
}

void SocketTransport::deliver_buffered(std::size_t count) noexcept {
    const connection_scope running(*this);
    const py::ref size = py::ref::adopt(PyLong_FromSize_t(count));
    delivering = true;
    const py::ref done = size ? call_protocol(core->state->str_buffer_updated, size.get()) : nullptr;
    delivering = false;
    if (!done) {
        fatal_error_from_indicator("Fatal error: protocol.buffer_updated() call failed.");
    }
}

void SocketTransport::deliver_eof() noexcept {
    const connection_scope running(*this);
    const py::ref words = py::ref::adopt(PyUnicode_FromString("received EOF"));
    if (!words || (core->debug &&
                   !py::try_call_method(core->self(), core->state->str_log_debug.get(), self(), words.get()))) {
        core->report_unraisable(self());
    }
    delivering = true;
    const py::ref keep_open = call_protocol(core->state->str_eof_received);
    delivering = false;
    const int kept = keep_open ? PyObject_IsTrue(keep_open.get()) : -1;
    if (kept < 0) {
        fatal_error_from_indicator("Fatal error: protocol.eof_received() call failed.");
        return;
    }
    at_eof = true;
    if (kept == 0) {
        try {
            close();
        } catch (const py::error_set&) {
            core->report_callback(Py_None);
        }
    }
}

void SocketTransport::read_failed(std::error_code error) noexcept {
    if (error == std::errc::operation_canceled) {
        return;  // paused, closed, or ended by the protocol: whoever did it knows
    }
    const connection_scope running(*this);
    fatal_error(py::os_error(error.value()), "Fatal read error on socket transport");
}

py::ref SocketTransport::pause_reading() {
    if (closing || paused) {
        return py::none();
    }
    paused = true;
    stop_reading();
    if (core->debug) {
        py::call_method(core->self(), core->state->str_log_debug.get(), self(), py::text("pauses reading").get());
    }
    return py::none();
}

py::ref SocketTransport::resume_reading() {
    if (closing || !paused) {
        return py::none();
    }
    core->check_closed();
    paused = false;
    start_reading();
    if (core->debug) {
        py::call_method(core->self(), core->state->str_log_debug.get(), self(), py::text("resumes reading").get());
    }
    return py::none();
}

// Writing.

py::ref SocketTransport::write(const py::arguments& args) {
    PyObject* const data = py::only_argument(args, "_SelectorSocketTransport.write", "data");
    py::ref bytes;
    if (PyBytes_Check(data)) {
        bytes = py::ref::borrow(data);
    } else if (!PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(data)));
#if PY_VERSION_HEX >= 0x030E0000
        constexpr const char* words = "data argument must be a bytes, bytearray, or memoryview object, not %R";
#else
        constexpr const char* words = "data argument must be a bytes-like object, not %R";
#endif
        py::raise_format(PyExc_TypeError, words, name.get());
    }
    if (eof_written) {
        py::raise(PyExc_RuntimeError, "Cannot call write() after write_eof()");
    }
    if (!bytes) {  // what is changed after write() does not change what is sent
        bytes = py::ref::steal(PyBytes_FromObject(data));
    }
    write_bytes(std::move(bytes));
    core->raise_failure();  // pause_writing() may have been left by KeyboardInterrupt
    return py::none();
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
        if (lost_writes >= 5) {  // asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
            py::call_method(core->self(), core->state->str_warn_lost_writes.get());
        }
        ++lost_writes;
        return false;
    }
    if (has_backlog()) {
        append(std::move(bytes), 0);
        maybe_pause_writing();
        return true;
    }
    if (orphaned) {
        core->check_closed();
    }
    if (core->in_callback && size <= cap) {
        if (corked.owner == nullptr) {
            corked.owner = this;
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
    if (eof_written) {
        py::raise(PyExc_RuntimeError, "Cannot call writelines() after write_eof()");
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
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts.get()); ++index) {
        if (!write_bytes(py::ref::borrow(PyList_GET_ITEM(parts.get(), index)))) {
            break;  // one lost write, however many parts
        }
    }
    core->raise_failure();
    return py::none();
}

void flush_cork(LoopCore& core) noexcept {
    if (core.cork.owner == nullptr) {
        return;
    }
    cork taken = core.cork;
    core.cork.owner = nullptr;
    core.cork.count = 0;
    core.cork.bytes = 0;
    const py::ref owner = py::ref::adopt(taken.owner->self());
    taken.owner->send_corked(taken);
}

void SocketTransport::send_corked(cork& parts) noexcept {
    const bool parents = core->loop && core->loop->is_inherited();  // in a fork: the parent sends them
    if (lost_writes == 0 && !orphaned && !parents) {
        send_now(parts.parts, parts.count, parts.bytes);
    }
    for (unsigned index = 0; index < parts.count; ++index) {
        Py_DECREF(parts.parts[index]);
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
        views[index] = {PyBytes_AS_STRING(parts[index]), static_cast<std::size_t>(PyBytes_GET_SIZE(parts[index]))};
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
        write_loop(*core->loop, writer);
    }
    maybe_pause_writing();
}

void SocketTransport::append(py::ref bytes, std::size_t offset) {
    if (backlog == nullptr) {
        backlog = std::make_unique<zl::backlog>();
    }
    backlog->push(std::move(bytes), offset);
}

fiber SocketTransport::write_loop(zloop::loop&, fiber::place& kept) {
    std::array<iovec, 64> views;
    while (lost_writes == 0 && !orphaned && has_backlog()) {
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
        maybe_resume_writing();
    }
    kept.end();
    if (lost_writes != 0) {
        backlog.reset();  // only now: until the end the kernel may have been reading it
    } else if (!orphaned && !core->dropping && !has_backlog()) {
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

void SocketTransport::maybe_pause_writing() noexcept {
    if (!writing_paused && buffer_size() > high_water) {
        writing_paused = true;
        tell_flow(core->state->str_pause_writing.get(), "protocol.pause_writing() failed");
    }
}

void SocketTransport::maybe_resume_writing() noexcept {
    if (writing_paused && buffer_size() <= low_water) {
        writing_paused = false;
        tell_flow(core->state->str_resume_writing.get(), "protocol.resume_writing() failed");
    }
}

void SocketTransport::tell_flow(PyObject* method, const char* message) noexcept {
    const py::ref called = protocol;
    if (py::try_call_method(called.get(), method)) {
        return;
    }
    if (py::error_is_fatal()) {
        core->fail();
        return;
    }
    const py::ref error = py::take_error();
    const py::ref words = py::ref::adopt(PyUnicode_FromString(message));
    if (!words ||
        !py::try_call_method(core->self(), core->state->str_flow_failed.get(), self(), error.get(), words.get())) {
        core->fail();
    }
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
    maybe_pause_writing();
    core->raise_failure();
    return py::none();
}

py::ref SocketTransport::get_protocol_paused() { return py::boolean(writing_paused); }
py::ref SocketTransport::get_high_water() { return py::ref::steal(PyLong_FromSize_t(high_water)); }
py::ref SocketTransport::get_low_water() { return py::ref::steal(PyLong_FromSize_t(low_water)); }
void SocketTransport::set_high_water(PyObject* value) { high_water = size_of(value); }
void SocketTransport::set_low_water(PyObject* value) { low_water = size_of(value); }

// The end.

py::ref SocketTransport::close() {
    if (closing) {
        return py::none();
    }
    flush_own_cork();
    if (closing) {  // the flush has failed
        return py::none();
    }
    core->check_closed();
    closing = true;
    stop_reading();
    if (!has_backlog()) {
        ++lost_writes;
        schedule_lost(Py_None);
    }
    return py::none();
}

py::ref SocketTransport::abort() {
    flush_own_cork();
    return force_close_with(Py_None);
}

py::ref SocketTransport::force_close_with(PyObject* error) {
    if (lost_writes == 0) {
        core->check_closed();
        force_close(error);
    }
    return py::none();
}

void SocketTransport::force_close(PyObject* error) noexcept {
    if (lost_writes != 0) {
        return;
    }
    ++lost_writes;
    writer.cancel();  // drops the backlog at its end
    if (!closing) {
        closing = true;
        stop_reading();
    }
    try {
        schedule_lost(error);
    } catch (const py::error_set&) {
        core->report_callback(Py_None);
    }
}

void SocketTransport::schedule_lost(PyObject* error) {
    const py::ref method = py::ref::steal(PyObject_GetAttr(self(), core->state->str_call_connection_lost.get()));
    core->schedule(method.get(), {error}, context.get());
}

py::ref SocketTransport::call_connection_lost(PyObject* error) {
    if (lost) {
        return py::none();
    }
    lost = true;
    const py::ref alive = py::ref::borrow(self());
    const py::ref called = std::exchange(protocol, py::none());
    py::ref done = py::try_call_method(called.get(), core->state->str_connection_lost.get(), error);
    py::ref failure = done ? nullptr : py::take_error();
    close_socket();
    detach_from_server();
    release_if_over();
    if (failure) {
        py::restore_error(std::move(failure));
        throw py::error_set{};
    }
    return py::none();
}

void SocketTransport::close_socket() noexcept {
    if (!socket) {
        return;
    }
    capture_names();
    const auto index = static_cast<std::size_t>(fd);
    if (core->transport_of[index] == this) {
        core->transport_of[index] = nullptr;
    }
    if (!sock) {
        socket.close();
        return;
    }
    static_cast<void>(socket.release());
    if (!py::try_call_method(sock.get(), core->state->str_close.get())) {
        core->report_unraisable(sock.get());
    }
}

void SocketTransport::capture_names() noexcept {
    if (sockname) {
        return;
    }
    try {
        sockname = name_of(socket.local_address());
    } catch (const py::error_set&) {
        PyErr_Clear();
        sockname = py::none();
    }
}

void SocketTransport::detach_from_server() noexcept {
    const py::ref owner = std::move(server);
    if (!owner) {
        return;
    }
#if PY_VERSION_HEX >= 0x030D0000
    const py::ref done = py::try_call_method(owner.get(), core->state->str_detach.get(), self());
#else
    const py::ref done = py::try_call_method(owner.get(), core->state->str_detach.get());
#endif
    if (!done) {
        core->report_unraisable(owner.get());
    }
}

void SocketTransport::release_if_over() noexcept {
    if (!open || !(lost || orphaned) || reader.running() || writer.running()) {
        return;
    }
    (previous != nullptr ? previous->next : core->transports) = next;
    if (next != nullptr) {
        next->previous = previous;
    }
    open = false;
    Py_DECREF(self());
}

void SocketTransport::orphan() noexcept {
    orphaned = true;
    if (socket) {
        capture_names();
        const auto index = static_cast<std::size_t>(fd);
        core->transport_of[index] = nullptr;
        static_cast<void>(socket.release());  // finalize() closes it
    }
    release_if_over();
}

void SocketTransport::finalize() noexcept {
    if (lost || core == nullptr) {
        return;
    }
    py::ref pending = PyErr_Occurred() ? py::take_error() : nullptr;
    if (PyErr_ResourceWarning(self(), 1, "unclosed transport %R", self()) != 0) {
        PyErr_WriteUnraisable(self());
    }
    lost = true;
    if (sock) {
        static_cast<void>(socket.release());
        if (!py::try_call_method(sock.get(), core->state->str_close.get())) {
            PyErr_WriteUnraisable(sock.get());
        }
    } else if (orphaned) {
        ::close(fd);
    } else {
        socket.close();
    }
    detach_from_server();
    if (pending) {
        py::restore_error(std::move(pending));
    }
}

void SocketTransport::fatal_error(py::ref error, const char* message) noexcept {
    if (core->debug || !PyErr_GivenExceptionMatches(error.get(), PyExc_OSError)) {
        const py::ref words = py::ref::adopt(PyUnicode_FromString(message));
        if (!words || !py::try_call_method(core->self(), core->state->str_fatal_error.get(), self(), error.get(),
                                           words.get())) {
            core->fail();
        }
    }
    force_close(error.get());
}

void SocketTransport::fatal_error_from_indicator(const char* message) noexcept {
    if (py::error_is_fatal()) {
        core->fail();
    } else {
        fatal_error(py::take_error(), message);
    }
}

// The rest of the interface.

py::ref SocketTransport::is_closing() { return py::boolean(closing); }
py::ref SocketTransport::is_reading() { return py::boolean(!closing && !paused); }
py::ref SocketTransport::get_protocol() { return protocol; }
py::ref SocketTransport::get_fd() { return py::integer(fd); }
py::ref SocketTransport::get_loop() { return loop; }

py::ref SocketTransport::set_protocol(const py::arguments& args) {
    set_protocol_of(py::only_argument(args, "_SelectorSocketTransport.set_protocol", "protocol"));
    return py::none();
}

PyObject* SocketTransport::python_socket() {
    if (!sock) {
        const bool alive = socket || (orphaned && !lost);
        const py::ref no_arguments = py::ref::steal(PyTuple_New(0));
        const py::ref keywords = py::ref::steal(alive ? Py_BuildValue("{s:i}", "fileno", fd) : PyDict_New());
        py::ref fresh =
            py::ref::steal(PyObject_Call(core->state->socket_type.get(), no_arguments.get(), keywords.get()));
        py::ref::steal(PyObject_CallMethod(fresh.get(), alive ? "setblocking" : "close", alive ? "i" : nullptr, 0));
        sock = std::move(fresh);
    }
    return sock.get();
}

py::ref SocketTransport::get_extra_info(const py::arguments& args) {
    // Known names first; asyncio's own method looks into `_extra`, and refuses bad arguments.
    const bool plain = args.keyword_count() == 0 && (args.count == 1 || args.count == 2);
    if (plain && PyUnicode_Check(args.values[0])) {
        if (py::ref found = known_extra_info(args.values[0])) {
            return found;
        }
    }
    if (extra == nullptr) {
        extra = py::ref::steal(PyDict_New()).release();
    }
    for (const char* name : {"peername", "sockname", "socket"}) {
        const py::ref key = py::text(name);
        const py::ref known = plain ? nullptr : known_extra_info(key.get());
        if (known && PyDict_SetItem(extra, key.get(), known.get()) != 0) {
            throw py::error_set{};
        }
    }
    const py::ref function = py::attribute(reinterpret_cast<PyObject*>(Py_TYPE(self())->tp_base), "get_extra_info");
    std::vector<PyObject*> all{self()};
    all.insert(all.end(), args.values, args.values + args.count + args.keyword_count());
    return py::ref::steal(
        PyObject_Vectorcall(function.get(), all.data(), static_cast<std::size_t>(args.count) + 1, args.keywords));
}

/// What an _extra dict of asyncio's holds from the start; ours is made when somebody asks.
py::ref SocketTransport::known_extra_info(PyObject* name) {
    if (const int there = extra != nullptr ? PyDict_Contains(extra, name) : 0; there != 0) {
        if (there < 0) {
            throw py::error_set{};
        }
        return nullptr;
    }
    if (PyUnicode_CompareWithASCIIString(name, "peername") == 0) {
        if (!peername) {
            peername = name_of(remembered_peer());
        }
        return peername;
    }
    if (PyUnicode_CompareWithASCIIString(name, "sockname") == 0) {
        if (!sockname) {
            sockname = name_of(socket.local_address());
        }
        return sockname;
    }
    if (PyUnicode_CompareWithASCIIString(name, "socket") == 0) {
        flush_own_cork();
        py::ref wrapped = py::call(core->state->transport_socket.get(), python_socket());
        if (extra == nullptr) {
            extra = py::ref::steal(PyDict_New()).release();
        }
        if (PyDict_SetItem(extra, name, wrapped.get()) != 0) {
            throw py::error_set{};
        }
        return wrapped;
    }
    return nullptr;
}

py::ref SocketTransport::repr() {
    const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(self())));
    const char* state = lost ? " closed" : closing ? " closing" : "";
    if (lost || orphaned) {
        return py::ref::steal(PyUnicode_FromFormat("<%U%s fd=%d>", name.get(), state, fd));
    }
    return py::ref::steal(PyUnicode_FromFormat("<%U%s fd=%d read=%s write=<%s, bufsize=%zu>>", name.get(), state, fd,
                                               wants_to_read() ? "polling" : "idle", has_backlog() ? "polling" : "idle",
                                               buffer_size()));
}

// The type.

namespace {

SocketTransport& transport(PyObject* object) noexcept { return *reinterpret_cast<SocketTransport*>(object); }

int traverse(PyObject* object, visitproc visit, void* arg) {
    SocketTransport& self = transport(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self.extra);
    Py_VISIT(self.dict);
    return socket_transport_fields::owned::visit(static_cast<socket_transport_fields&>(self), visit, arg);
}

/// Leaves `loop`, which what is left of the transport's life needs; the loop breaks its own cycles.
int clear(PyObject* object) {
    SocketTransport& self = transport(object);
    Py_CLEAR(self.extra);
    Py_CLEAR(self.dict);
    self.protocol = py::none();
    self.server.reset();
    self.context.reset();
    return 0;
}

void finalize(PyObject* object) { transport(object).finalize(); }

void dealloc(PyObject* object) {
    if (PyObject_CallFinalizerFromDealloc(object) != 0) {
        return;
    }
    SocketTransport& self = transport(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self.weak_references != nullptr) {
        PyObject_ClearWeakRefs(object);
    }
    Py_CLEAR(self.extra);
    Py_CLEAR(self.dict);
    if (self.core != nullptr) {
        static_cast<socket_transport_fields&>(self).~socket_transport_fields();
    }
    type->tp_free(object);
    Py_DECREF(type);
}

PyObject* repr(PyObject* object) {
    return py::detail::guarded([&] { return transport(object).repr(); });
}

}  // namespace

void add_socket_transport_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&SocketTransport::write>("write", "write($self, data)\n--\n\nasyncio.WriteTransport.write"),
        py::method<&SocketTransport::writelines>("writelines", "writelines($self, list_of_data)\n--\n\nasyncio.WriteTransport.writelines"),
        py::method<&SocketTransport::write_eof>("write_eof", "write_eof($self)\n--\n\nasyncio.WriteTransport.write_eof"),
        py::method<&SocketTransport::can_write_eof>("can_write_eof", "can_write_eof($self)\n--\n\nasyncio.WriteTransport.can_write_eof"),
        py::method<&SocketTransport::close>("close", "close($self)\n--\n\nasyncio.BaseTransport.close"),
        py::method<&SocketTransport::abort>("abort", "abort($self)\n--\n\nasyncio.WriteTransport.abort"),
        py::method<&SocketTransport::is_closing>("is_closing", "is_closing($self)\n--\n\nasyncio.BaseTransport.is_closing"),
        py::method<&SocketTransport::is_reading>("is_reading", "is_reading($self)\n--\n\nasyncio.ReadTransport.is_reading"),
        py::method<&SocketTransport::pause_reading>("pause_reading", "pause_reading($self)\n--\n\nasyncio.ReadTransport.pause_reading"),
        py::method<&SocketTransport::resume_reading>("resume_reading", "resume_reading($self)\n--\n\nasyncio.ReadTransport.resume_reading"),
        py::method<&SocketTransport::get_protocol>("get_protocol", "get_protocol($self)\n--\n\nasyncio.BaseTransport.get_protocol"),
        py::method<&SocketTransport::set_protocol>("set_protocol", "set_protocol($self, protocol)\n--\n\nasyncio.BaseTransport.set_protocol"),
        py::method<&SocketTransport::get_extra_info>("get_extra_info", "get_extra_info($self, name, default=None)\n--\n\nasyncio.BaseTransport.get_extra_info"),
        py::method<&SocketTransport::get_write_buffer_size>("get_write_buffer_size",
                                                            "get_write_buffer_size($self)\n--\n\nasyncio.WriteTransport.get_write_buffer_size"),
        py::method<&SocketTransport::begin_reading>("_begin_reading", "Start to read; connection_made was called."),
        py::method<&SocketTransport::call_connection_lost>("_call_connection_lost", "asyncio's."),
        py::method<&SocketTransport::maybe_pause_protocol>("_maybe_pause_protocol", "asyncio's."),
        py::method<&SocketTransport::force_close_with>("_force_close", "asyncio's."),
        {},
    };
    static PyGetSetDef properties[] = {
        py::property<&SocketTransport::get_fd>("_sock_fd", "The descriptor's number, also once it is closed."),
        py::property<&SocketTransport::get_loop>("_loop", "The loop."),
        py::property<&SocketTransport::get_protocol_paused>("_protocol_paused", "Whether pause_writing() was called last."),
        py::property<&SocketTransport::get_high_water, &SocketTransport::set_high_water>("_high_water", "asyncio's."),
        py::property<&SocketTransport::get_low_water, &SocketTransport::set_low_water>("_low_water", "asyncio's."),
        {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, "Attributes of its user.", nullptr},
        {},
    };
    static PyMemberDef members[] = {
        {"__dictoffset__", T_PYSSIZET, offsetof(transport_slots, dict), READONLY, nullptr},
        {"__weaklistoffset__", T_PYSSIZET, offsetof(transport_slots, weak_references), READONLY, nullptr},
        {nullptr, 0, 0, 0, nullptr},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("A stream socket as an asyncio.Transport.")},
        {Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(&clear)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&dealloc)},
        {Py_tp_finalize, reinterpret_cast<void*>(&finalize)},
        {Py_tp_repr, reinterpret_cast<void*>(&repr)},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {Py_tp_members, members},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop.SocketTransport", sizeof(SocketTransport), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    const py::ref transports = py::import("asyncio.transports");
    const py::ref base = py::attribute(transports.get(), "_FlowControlMixin");
    if (reinterpret_cast<PyTypeObject*>(base.get())->tp_basicsize != offsetof(transport_slots, dict)) {
        py::raise(PyExc_ImportError, "zloop does not know this asyncio: its transports have other slots");
    }
    const py::ref bases = py::ref::steal(PyTuple_Pack(1, base.get()));
    state.socket_transport_type = py::ref::steal(PyType_FromModuleAndSpec(module, &spec, bases.get()));

    PyObject* type = state.socket_transport_type.get();
    const py::ref constants = py::import("asyncio.constants");
    const py::ref modes = py::attribute(constants.get(), "_SendfileMode");
    const py::ref fallback = py::attribute(modes.get(), "FALLBACK");
    if (PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) != 0 ||
        PyObject_SetAttrString(type, "_sendfile_compatible", fallback.get()) != 0) {
        throw py::error_set{};
    }
}

}  // namespace zl
