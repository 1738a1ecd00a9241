// module/socket/reading.cpp: receive, deliver, repeat. See transport.hpp.
//
// Every call of the protocol may close, abort or pause this very transport, or raise. So state is
// looked at again after each, and the error ends the connection as asyncio's _fatal_error does.

#include "../streams/streams.hpp"
#include "transport.hpp"

namespace zl {

/// recv into the buffer of a BufferedProtocol, asked for once the kernel has bytes.
class recv_into_protocol : public zloop::detail::io_awaiter<> {
public:
    explicit recv_into_protocol(SocketTransport& transport) noexcept
        : io_awaiter(transport.core->loop->kernel(), zloop::opcode::recv, transport.fd),
          transport_(transport) {
        provide = [](zloop::io_op& self) noexcept { static_cast<recv_into_protocol&>(self).ask(); };
    }
    recv_into_protocol(const recv_into_protocol&) = delete;
    recv_into_protocol& operator=(const recv_into_protocol&) = delete;
    ~recv_into_protocol() { let_go(); }

    zloop::result<std::size_t> await_resume() noexcept {
        let_go();
        if (const int failure = finish()) {
            return zloop::system_error_code(failure);
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

void SocketTransport::set_protocol_of(PyObject* given) {
    const int is_buffered = PyObject_IsInstance(given, core->state->buffered_protocol.get());
    if (is_buffered < 0) {
        throw py::error_set{};
    }
    protocol = py::ref::borrow(given);
    under_tls = is_tls(given);
    if (under_tls) {
        at_eof = false;  // a handshake is to learn that it will not end, not to wait for its timeout
    }
    if (buffered != (is_buffered != 0)) {
        buffered = is_buffered != 0;
        stop_reading();  // the reader waits in the old protocol's way; it starts again in the new one's
    }
}

bool SocketTransport::is_tls(PyObject* given) const noexcept {
    return Py_TYPE(given) == reinterpret_cast<PyTypeObject*>(core->state->tls_transport_type.get());
}

py::ref SocketTransport::begin_reading() {
    made = true;
    start_reading();
    return py::none();
}

void SocketTransport::start_reading() noexcept {
    if (wants_to_read() && !reader.running() && !socket.is_stale() &&
        !(buffered ? read_buffered_loop(reader) : read_loop(reader)).begun()) {
        no_memory();
    }
}

fiber SocketTransport::read_loop(fiber::place& kept) {
    while (wants_to_read() && !buffered) {
        const auto got = co_await socket.receive();  // named: g++ 12 spoils it as an argument here
        if (!took(got)) {
            break;
        }
    }
    reader_ended(kept);
}

/// Apart from the coroutine: the frame that an idle connection keeps has no place for these parts.
bool SocketTransport::took(const zloop::result<std::span<const std::byte>>& got) noexcept {
    const auto& [error, data] = got;
    if (error) {
        read_failed(error);
        return false;
    }
    data.empty() ? deliver_eof() : deliver(data);
    return true;
}

fiber SocketTransport::read_buffered_loop(fiber::place& kept) {
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
    if (under_tls && is_tls(protocol.get())) {  // it is gone once the connection is lost
        deliver_to_tls(data);
        return;
    }
    const py::ref called = protocol;
    delivering = true;
    const bool done = py::attempt([&] {
        if (!feed_stream(*core, called.get(), data)) {
            const py::ref bytes = py::ref::steal(PyBytes_FromStringAndSize(
                reinterpret_cast<const char*>(data.data()), static_cast<Py_ssize_t>(data.size())));
            py::call_method(called.get(), core->state->str_data_received.get(), bytes.get());
        }
    });
    delivering = false;
    if (!done) {
        fatal_error_from_indicator("Fatal error: protocol.data_received() call failed.");
    }
}

/// It takes them where they lie, and copies. For the words, asyncio's reads into a buffer of its own.
void SocketTransport::deliver_to_tls(std::span<const std::byte> data) noexcept {
    const py::ref called = protocol;
    delivering = true;
    const py::ref done = py::ref::adopt(py::detail::guarded([&] {
        core->state->tls_received(called.get(), data);
        return py::none();
    }));
    delivering = false;
    if (!done) {
        fatal_error_from_indicator("Fatal error: protocol.buffer_updated() call failed.");
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
    log_in_debug("received EOF");
    delivering = true;
    const py::ref keep_open = call_protocol(core->state->str_eof_received);
    delivering = false;
    const int kept = keep_open ? PyObject_IsTrue(keep_open.get()) : -1;
    if (kept < 0) {
        fatal_error_from_indicator("Fatal error: protocol.eof_received() call failed.");
        return;
    }
    at_eof = true;
    if (kept == 0 && !py::attempt([&] { close(); })) {
        core->report_callback(Py_None);
    }
}

void SocketTransport::read_failed(std::error_code error) noexcept {
    if (error == std::errc::operation_canceled) {
        return;  // paused, closed, or ended by the protocol: whoever did it knows
    }
    const connection_scope running(*this);
    fatal_error(py::os_error(error.value()), "Fatal read error on socket transport");
}

}  // namespace zl
