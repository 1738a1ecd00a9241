// module/tls/reading.cpp: what comes from the peer, decrypted. See transport.hpp.

#include "../streams/streams.hpp"
#include "transport.hpp"

namespace zl {

namespace {

constexpr const char* broken = "Fatal error on SSL protocol";

}  // namespace

void TLSTransport::received(std::span<const std::byte> data) {
    const py::ref alive = py::ref::borrow(self());
    if (state == phase::unwrapped || data.empty()) {
        return;
    }
    session.feed(known(), data);
    switch (state) {
        case phase::handshake:
            if (session.has_message()) {  // else a part of a record
                handshake();
            }
            break;
        case phase::wrapped: read(); break;
        case phase::flushing: flush(); break;
        case phase::shutdown: shut_down(); break;
        case phase::unwrapped: break;
    }
}

py::ref TLSTransport::data_received(PyObject* data) {
    const py::buffer view(data);
    received({reinterpret_cast<const std::byte*>(view.data()), view.size()});
    return py::none();
}

/// asyncio's _do_read: hands over all that is there, and sends what that has caused.
void TLSTransport::read() {
    if (state != phase::wrapped && state != phase::flushing) {
        return;
    }
    try {
        if (!reading_paused) {
            if (session.has_message()) {
                buffered ? read_buffered() : read_plain();
            } else {
                session.withhold();  // else a part of a record could pause the transport that brings the rest
            }
        }
        if (backlog && !backlog->empty()) {
            write_backlog();
        } else if (!reading_paused) {
            process_outgoing();
        } else if (!below_writing_paused) {
            send_below();  // who reads nothing yet still owes the end of the handshake
        }
        control_reading();
    } catch (const py::error_set&) {
        fatal_error_from_indicator(broken);
    }
}

py::ref TLSTransport::read_on() {
    const py::ref alive = py::ref::borrow(self());
    read();
    return py::none();
}

void TLSTransport::read_plain() {
    const auto [bytes, ended] = session.read(known());
    if (bytes) {
        const py::ref called = protocol;
        const auto* const begin = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(bytes.get()));
        if (!feed_stream(*core, called.get(),
                         {begin, static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()))})) {
            py::call_method(called.get(), known().str_data_received.get(), bytes.get());
        }
    }
    if (ended) {
        call_eof_received();
        start_shutdown();
    }
}

void TLSTransport::read_buffered() {
    const py::ref called = protocol;
    const py::ref hint = py::ref::steal(PyLong_FromSize_t(session.unread()));
    const py::ref target = py::call_method(called.get(), known().str_get_buffer.get(), hint.get());
    const Py_ssize_t size = PyObject_Size(target.get());
    if (size < 0) {
        throw py::error_set{};
    }
    const auto wanted = static_cast<std::size_t>(size);
    const auto [count, ended] = session.read_into(known(), target.get(), wanted);
    if (count == wanted && !ended && session.has_message()) {
        schedule(*core, py::attribute(self(), "_do_read").get(), {}, nullptr);
    }
    if (count > 0) {
        const py::ref filled = py::ref::steal(PyLong_FromSize_t(count));
        const py::ref told_now = buffered ? protocol : called;  // it may have been replaced in get_buffer()
        py::call_method(told_now.get(), known().str_buffer_updated.get(), filled.get());
    }
    if (ended) {
        call_eof_received();
        start_shutdown();
    }
}

// Flow control.

py::ref TLSTransport::is_reading() { return py::boolean(!reading_paused); }

py::ref TLSTransport::pause_reading() {
    reading_paused = true;
    return py::none();
}

py::ref TLSTransport::resume_reading() {
    if (reading_paused) {
        reading_paused = false;
        schedule(*core, py::attribute(self(), "_proceed").get(), {}, nullptr);
    }
    return py::none();
}

/// Lets the transport below wait while the application does not take what came.
void TLSTransport::control_reading() {
    const std::size_t size = session.unread();
    if (size >= read_high_water && !below_reading_paused) {
        below_reading_paused = true;
        call_below(known().str_pause_reading);
    } else if (size <= read_low_water && below_reading_paused) {
        below_reading_paused = false;
        call_below(known().str_resume_reading);
    }
}

py::ref TLSTransport::get_read_buffer_size() { return py::ref::steal(PyLong_FromSize_t(session.unread())); }

}  // namespace zl
