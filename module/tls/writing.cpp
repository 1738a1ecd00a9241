// module/tls/writing.cpp: what the application writes, encrypted. See transport.hpp.
//
// What is written is encrypted at once, and goes to the transport below, a write like any other. Only what is
// written before the end of the handshake waits as it is.

#include <limits>

#include <sys/uio.h>

#include "../socket/transport.hpp"
#include "transport.hpp"

namespace zl {

namespace {

constexpr const char* broken = "Fatal error on SSL protocol";
/// As much is encrypted at a time, and goes to the transport below, before the next: it is still in the cache
/// then, and no buffer is as long as what was written. Whole records, so they are those of one SSL_write of
/// all.
constexpr std::size_t one_piece = 64 * 1024;

}  // namespace

py::ref TLSTransport::write(const py::arguments& args) {
    PyObject* const data = py::only_argument(args, "_SSLProtocolTransport.write", "data");
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(data)));
        py::raise_format(PyExc_TypeError, "data: expecting a bytes-like instance, got %U", name.get());
    }
    if (PyBytes_Check(data) ? PyBytes_GET_SIZE(data) != 0 : py::truth(data)) {
        write_app_data(data);
    }
    return py::none();
}

void TLSTransport::write_app_data(PyObject* data) {
    if (counts_as_lost()) {
        return;
    }
    const py::ref alive = py::ref::borrow(self());
    try {
        const bool in_pieces =
            PyObject_Size(data) > static_cast<Py_ssize_t>(one_piece) && socket_below() != nullptr;
        if (in_pieces || state != phase::wrapped || session.in_use() || (backlog && !backlog->empty())) {
            push(data);
            if (state == phase::wrapped) {
                write_backlog();
            }
            return;
        }
        std::size_t count = 0;
        try {
            count = session.write(known(), data);
        } catch (const py::error_set&) {
            if (!take_ssl_again(known())) {
                throw;
            }
        }
        if (!PyBytes_Check(data) || count < static_cast<std::size_t>(PyBytes_GET_SIZE(data))) {
            const py::buffer view(data);
            if (count < view.size()) {
                own_backlog().push_front(
                    py::ref::steal(PyBytes_FromStringAndSize(view.data() + count,
                                                             static_cast<Py_ssize_t>(view.size() - count))),
                    0);
            }
        }
        if (backlog && !backlog->empty()) {
            write_backlog();
        } else {
            process_outgoing();
        }
    } catch (const py::error_set&) {
        fatal_error_from_indicator(broken);
    }
}

py::ref TLSTransport::writelines(const py::arguments& args) {
    PyObject* const list = py::only_argument(args, "_SSLProtocolTransport.writelines", "list_of_data");
    if (counts_as_lost()) {
        return py::none();
    }
    const py::ref alive = py::ref::borrow(self());
    const py::ref parts = py::ref::steal(PySequence_List(list));
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts.get()); ++index) {
        if (PyObject_Size(PyList_GET_ITEM(parts.get(), index)) < 0) {
            throw py::error_set{};  // the caller's; what has a size, but no bytes, ends the connection
        }
    }
    try {
        for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts.get()); ++index) {
            push(PyList_GET_ITEM(parts.get(), index));
        }
        if (state == phase::wrapped) {
            write_backlog();
        }
    } catch (const py::error_set&) {
        fatal_error_from_indicator(broken);
    }
    return py::none();
}

bool TLSTransport::counts_as_lost() {
    if (state == phase::handshake || (state == phase::wrapped && !closed)) {
        return false;
    }
    if (lost_writes >= 5) {  // asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
        py::call_method(loop, known().str_warn_lost_writes.get(), py::text("SSL connection is closed").get());
    }
    ++lost_writes;
    return true;
}

/// Keeps `data` until it can be encrypted. What is changed after write() does not change what is sent.
void TLSTransport::push(PyObject* data) {
    if (PyObject_CheckBuffer(data) == 0) {  // PyBytes_FromObject would take a list of numbers
        const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(data)));
        py::raise_format(PyExc_TypeError, "a bytes-like object is required, not '%U'", name.get());
    }
    py::ref bytes =
        PyBytes_CheckExact(data) ? py::ref::borrow(data) : py::ref::steal(PyBytes_FromObject(data));
    if (PyBytes_GET_SIZE(bytes.get()) == 0) {
        return;
    }
    own_backlog().push(std::move(bytes), 0);
}

zl::backlog& TLSTransport::own_backlog() {
    if (!backlog) {
        backlog = std::make_unique<zl::backlog>();
    }
    return *backlog;
}

py::ref TLSTransport::append_backlog(PyObject* data) {
    push(data);
    return py::none();
}

/// asyncio's _do_write. What is written in a callback of OpenSSL waits until that has returned to us. All of
/// it goes to a socket below, also when that asks for a pause by then, and nothing once it has failed: as in
/// one piece.
void TLSTransport::write_backlog() {
    if (session.in_use()) {
        return;
    }
    const bool in_pieces = !below_writing_paused && socket_below() != nullptr;
    const std::size_t most = in_pieces ? one_piece : std::numeric_limits<std::size_t>::max();
    std::size_t encrypted = 0;
    try {
        while (backlog && !backlog->empty()) {
            const py::ref kept = backlog->oldest();
            iovec part;
            backlog->peek(&part, 1);
            const std::size_t count = session.write(
                known(),
                std::span(static_cast<const std::byte*>(part.iov_base), std::min(part.iov_len, most)));
            if (backlog && !backlog->empty() && backlog->oldest().get() == kept.get()) {
                backlog->consume(count);
            }
            encrypted += count;
            if (encrypted >= most) {
                encrypted = 0;
                send_piece();
            }
        }
    } catch (const py::error_set&) {
        if (!take_ssl_again(known())) {
            throw;
        }
    }
    if (in_pieces) {
        send_below();
    }
    process_outgoing();
}

/// A part of what is in the backlog. What has failed for it would have for all.
void TLSTransport::send_piece() {
    try {
        send_below();
    } catch (const py::error_set&) {
        backlog.reset();
        throw;
    }
    const SocketTransport* const socket = socket_below();
    if (state == phase::unwrapped || socket == nullptr || socket->lost_writes != 0) {
        backlog.reset();
    }
}

void TLSTransport::process_outgoing() {
    if (!below_writing_paused) {
        send_below();
    }
    control_app_writing();
}

void TLSTransport::send_below() {
    if (below) {
        if (py::ref bytes = session.take_outgoing(known())) {
            write_below(std::move(bytes));
        }
    }
}

/// The transport below if that is a socket's, and has no write() of its user's; null else.
SocketTransport* TLSTransport::socket_below() {
    if (!below ||
        Py_TYPE(below.get()) != reinterpret_cast<PyTypeObject*>(known().socket_transport_type.get())) {
        return nullptr;
    }
    auto* const socket = reinterpret_cast<SocketTransport*>(below.get());
    return socket->dict == nullptr ? socket : nullptr;
}

void TLSTransport::write_below(py::ref bytes) {
    const py::ref carrier = below;
    if (SocketTransport* const socket = socket_below()) {
        socket->write_owned(std::move(bytes));
    } else {
        py::call_method(carrier.get(), known().str_write.get(), bytes.get());
    }
}

void TLSTransport::call_below(const py::ref& method) {
    if (const py::ref carrier = below) {
        py::call_method(carrier.get(), method.get());
    }
}

py::ref TLSTransport::write_eof() {
    PyErr_SetNone(PyExc_NotImplementedError);
    throw py::error_set{};
}

py::ref TLSTransport::can_write_eof() { return py::boolean(false); }

// Flow control.

std::size_t TLSTransport::write_size() {
    return (backlog ? backlog->bytes() : 0) + session.outgoing_bytes(known());
}

py::ref TLSTransport::get_write_buffer_size() { return py::ref::steal(PyLong_FromSize_t(write_size())); }

void TLSTransport::control_app_writing() {
    const std::size_t size = write_size();
    if (size >= high_water && !writing_paused) {
        writing_paused = true;
        tell_flow(known().str_pause_writing, "protocol.pause_writing() failed");
    } else if (size <= low_water && writing_paused) {
        writing_paused = false;
        tell_flow(known().str_resume_writing, "protocol.resume_writing() failed");
    }
}

void TLSTransport::tell_flow(const py::ref& method, const char* message) {
    const py::ref called = protocol;
    if (py::try_call_method(called.get(), method.get())) {
        return;
    }
    if (py::error_is_fatal()) {
        throw py::error_set{};
    }
    const py::ref failure = py::take_error();
    py::call_method(loop, known().str_tls_failed.get(), self(), self(), failure.get(),
                    py::text(message).get());
}

py::ref TLSTransport::pause_writing() {
    below_writing_paused = true;
    return py::none();
}

py::ref TLSTransport::resume_writing() {
    const py::ref alive = py::ref::borrow(self());
    below_writing_paused = false;
    process_outgoing();
    return py::none();
}

}  // namespace zl
