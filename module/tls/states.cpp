// module/tls/states.cpp: the handshake, the shutdown, and the end of a TLS connection. See transport.hpp.

#include <chrono>

#include "../streams/streams.hpp"
#include "transport.hpp"

namespace zl {

namespace {

constexpr const char* handshake_failed = "SSL handshake failed";

const char* name_of(tls_transport_fields::phase state) noexcept {
    using phase = tls_transport_fields::phase;
    switch (state) {
        case phase::handshake: return "DO_HANDSHAKE";
        case phase::wrapped: return "WRAPPED";
        case phase::flushing: return "FLUSHING";
        case phase::shutdown: return "SHUTDOWN";
        default: return "UNWRAPPED";
    }
}

/// Takes the error out of the indicator, when it is an Exception; any other is thrown again.
py::ref take_exception() {
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        throw py::error_set{};
    }
    return py::take_error();
}

}  // namespace

void TLSTransport::switch_to(phase next) {
    const bool allowed = next == phase::unwrapped || static_cast<int>(next) == static_cast<int>(state) + 1;
    if (!allowed) {
        py::raise_format(PyExc_RuntimeError,
                         "cannot switch state from SSLProtocolState.%s to SSLProtocolState.%s",
                         name_of(state), name_of(next));
    }
    state = next;
}

// What the transport below tells.

py::ref TLSTransport::connection_made(PyObject* transport) {
    if (over) {
        return py::none();  // the session may be gone
    }
    below = py::ref::borrow(transport);
    if (core->debug) {
        py::call_method(loop, known().str_log_debug.get(), self(), py::text("starts SSL handshake").get());
    }
    handshake_began = zloop::time_point::clock::now();
    switch_to(phase::handshake);
    start_timer(handshake_timeout, py::attribute(self(), "_check_handshake_timeout"));
    if (!server_side || session.has_message()) {  // a server would only say that it waits
        handshake();
    }
    return py::none();
}

/// What came before the transport below was given to us.
py::ref TLSTransport::begin_with(PyObject* data) {
    const py::buffer view(data);
    session.feed(known(), {reinterpret_cast<const std::byte*>(view.data()), view.size()});
    return py::none();
}

/// Both transport and application wait already for what was written in the clear: we tell of its end.
py::ref TLSTransport::begin_paused() {
    below_writing_paused = true;
    writing_paused = true;
    return py::none();
}

py::ref TLSTransport::connection_lost(PyObject* error) {
    const py::ref alive = py::ref::borrow(self());
    backlog.reset();
    if (session.begun()) {
        session.take_outgoing(known());
    }
    ++lost_writes;
    closed = true;
    const py::ref told_last = protocol;
    if (state != phase::handshake && (app == told::made || app == told::eof)) {
        app = told::lost;
        schedule(*core,
                 py::ref::steal(PyObject_GetAttr(told_last.get(), known().str_connection_lost.get())).get(),
                 {error}, nullptr);
    }
    state = phase::unwrapped;
    below.reset();
    stop_timer();
    wake_waiter(error);
    protocol = py::none();
    over = true;
    let_go();
    return py::none();
}

py::ref TLSTransport::eof_received() {
    const py::ref alive = py::ref::borrow(self());
    eof_seen = true;
    try {
        if (core->debug) {
            py::call_method(loop, known().str_log_debug.get(), self(), py::text("received EOF").get());
        }
        switch (state) {
            case phase::handshake: handshake_ended(py::call(PyExc_ConnectionResetError)); break;
            case phase::wrapped:
                switch_to(phase::flushing);
                if (reading_paused) {
                    return py::boolean(true);
                }
                flush();
                break;
            case phase::flushing:
                write_backlog();
                switch_to(phase::shutdown);
                shut_down();
                break;
            case phase::shutdown: shut_down(); break;
            case phase::unwrapped: break;
        }
    } catch (const py::error_set&) {
        py::ref failure = take_exception();
        if (below) {
            call_below(known().str_close);
        }
        py::restore_error(std::move(failure));
        throw;
    }
    return py::none();
}

/// What waits until the application reads again.
py::ref TLSTransport::proceed() {
    switch (state) {
        case phase::wrapped: read(); break;
        case phase::flushing: flush(); break;
        case phase::shutdown: shut_down(); break;
        default: break;
    }
    return py::none();
}

// Handshake.

void TLSTransport::handshake() {
    if (session.shake_hands(known())) {
        session.look_at_unread(known());
        handshake_ended(nullptr);
        return;
    }
    if (take_ssl_again(known())) {
        session.look_at_unread(known());
        process_outgoing();
        return;
    }
    if (!PyErr_ExceptionMatches(known().ssl_error.get())) {
        throw py::error_set{};
    }
    handshake_ended(py::take_error());
}

void TLSTransport::handshake_ended(py::ref error) {
    stop_timer();
    try {
        if (error) {
            py::restore_error(std::move(error));
            throw py::error_set{};
        }
        switch_to(phase::wrapped);
        peercert = session.peer_certificate(known());
    } catch (const py::error_set&) {
        const py::ref failure = take_exception();
        state = phase::unwrapped;
        const bool certificate =
            PyErr_GivenExceptionMatches(failure.get(), known().ssl_certificate_error.get()) != 0;
        fatal_error(failure,
                    certificate ? "SSL handshake failed on verifying the certificate" : handshake_failed);
        wake_waiter(failure.get());
        return;
    }
    has_info = true;
    if (core->debug) {
        const std::chrono::duration<double, std::milli> took =
            zloop::time_point::clock::now() - handshake_began;
        py::call_method(loop, known().str_log_handshake.get(), self(),
                        py::ref::steal(PyFloat_FromDouble(took.count())).get());
    }
    if (app == told::nothing) {
        app = told::made;
        const py::ref called = protocol;
        adopt_streams(*core, called.get());
        py::call_method(called.get(), known().str_connection_made.get(), self());
    }
    wake_waiter(Py_None);
    read();
}

py::ref TLSTransport::handshake_timed_out() {
    if (state == phase::handshake) {
        const py::ref message = py::ref::steal(
            PyUnicode_FromFormat("SSL handshake is taking longer than %S seconds: aborting the connection",
                                 handshake_timeout.get()));
        fatal_error(py::call(PyExc_ConnectionAbortedError, message.get()), "Fatal error on transport");
    }
    return py::none();
}

void TLSTransport::wake_waiter(PyObject* error) {
    if (accepted) {
        accepted = false;
        if (error != Py_None) {  // asyncio's coroutine would be told in the next turn
            schedule(*core, py::attribute(self(), "_birth_failed").get(), {error, protocol.get()}, nullptr);
        }
        return;
    }
    const py::ref told_now = std::move(waiter);
    if (!told_now) {
        return;
    }
    const py::ref cancelled = py::call_method(told_now.get(), known().str_cancelled.get());
    if (py::truth(cancelled.get())) {
        return;
    }
    if (error != Py_None) {
        py::call_method(told_now.get(), known().str_set_exception.get(), error);
    } else {
        py::call_method(told_now.get(), known().str_set_result.get(), Py_None);
    }
}

/// The end of asyncio's coroutine for an accepted connection: (error, protocol).
py::ref TLSTransport::birth_failed(const py::arguments& args) {
    close();
    if (core->debug && args.count == 2) {
        py::call_method(loop, known().str_birth_failed.get(), args.values[0], args.values[1], self());
    }
    return py::none();
}

bool TLSTransport::end_unknown() noexcept {
    if (!accepted || app != told::nothing) {
        return false;
    }
    closed = true;
    state = phase::unwrapped;
    return true;
}

// Shutdown.

void TLSTransport::start_shutdown() {
    if (state != phase::handshake && state != phase::wrapped) {
        return;
    }
    closed = true;
    if (state == phase::handshake) {
        end(Py_None);
        return;
    }
    if (session.in_use()) {
        schedule(*core, py::attribute(self(), "_start_shutdown").get(), {}, nullptr);
        return;
    }
    switch_to(phase::flushing);
    start_timer(shutdown_timeout, py::attribute(self(), "_check_shutdown_timeout"));
    flush();
}

py::ref TLSTransport::start_shutdown_now() {
    start_shutdown();
    return py::none();
}

void TLSTransport::flush() {
    read();
    if (state != phase::flushing) {
        return;  // what was read has ended it
    }
    switch_to(phase::shutdown);
    shut_down();
}

void TLSTransport::shut_down() {
    if (!eof_seen) {
        if (!session.unwrap(known())) {
            if (take_ssl_again(known())) {
                session.look_at_unread(known());
                process_outgoing();
                return;
            }
            if (!PyErr_ExceptionMatches(known().ssl_error.get())) {
                throw py::error_set{};
            }
            shutdown_ended(py::take_error());
            return;
        }
        session.look_at_unread(known());
    }
    process_outgoing();
    call_eof_received();
    shutdown_ended(nullptr);
}

void TLSTransport::shutdown_ended(py::ref error) {
    if (!known().tls_keeps_shutdown_timer || error) {
        stop_timer();
    }
    if (error) {
        fatal_error(error, "Fatal error on transport");
        return;
    }
    if (known().tls_keeps_shutdown_timer && !timer) {
        // What is written still has to leave; a peer that does not read it may take for ever.
        start_timer(shutdown_timeout, py::attribute(self(), "_check_shutdown_timeout"));
    }
    if (below) {
        schedule(*core, py::ref::steal(PyObject_GetAttr(below.get(), known().str_close.get())).get(), {},
                 nullptr);
    }
}

py::ref TLSTransport::shutdown_timed_out() {
    if ((state == phase::flushing || state == phase::shutdown) && below) {
        const py::ref error = py::call(PyExc_TimeoutError, py::text("SSL shutdown timed out").get());
        const py::ref carrier = below;
        py::call_method(carrier.get(), known().str_force_close.get(), error.get());
    }
    return py::none();
}

void TLSTransport::call_eof_received() {
    if (app != told::made) {
        return;
    }
    app = told::eof;
    const py::ref called = protocol;
    const py::ref kept = py::try_call_method(called.get(), known().str_eof_received.get());
    const int keep_open = kept ? PyObject_IsTrue(kept.get()) : -1;
    if (keep_open < 0) {
        if (py::error_is_fatal()) {
            throw py::error_set{};
        }
        fatal_error(py::take_error(), "Error calling eof_received()");
    } else if (keep_open != 0) {
        py::call_method(loop, known().str_warn_lost_writes.get(),
                        py::text("returning true from eof_received() has no effect when using ssl").get());
    }
}

// The end.

py::ref TLSTransport::close() {
    const py::ref alive = py::ref::borrow(self());
    if (!closed) {
        closed = true;
        start_shutdown();
    } else {
        closed_again = true;
        let_go();
    }
    return py::none();
}

py::ref TLSTransport::abort() { return force_close(Py_None); }

py::ref TLSTransport::force_close(PyObject* error) {
    const py::ref alive = py::ref::borrow(self());
    closed = true;
    end(error);
    return py::none();
}

/// A transport that was closed twice knows nothing any more in asyncio, and keeps no context alive: who holds
/// on to it may count on that.
void TLSTransport::let_go() noexcept {
    if (closed_again && over && !session.in_use()) {
        session.clear();
        context.reset();
        peercert.reset();
    }
}

/// asyncio's _abort.
void TLSTransport::end(PyObject* error) {
    state = phase::unwrapped;
    if (const py::ref carrier = below) {
        py::call_method(carrier.get(), known().str_force_close.get(), error);
    }
}

void TLSTransport::fatal_error(const py::ref& error, const char* message) {
    const py::ref carrier = below ? below : py::none();
    if (below) {
        py::call_method(carrier.get(), known().str_force_close.get(), error.get());
    }
    const py::ref words = py::text(message);
    if (PyErr_GivenExceptionMatches(error.get(), PyExc_OSError) != 0) {
        if (core->debug) {
            py::call_method(loop, known().str_log_failure.get(), self(), error.get(), words.get());
        }
    } else if (PyErr_GivenExceptionMatches(error.get(), known().cancelled_error.get()) == 0) {
        py::call_method(loop, known().str_tls_failed.get(), self(), carrier.get(), error.get(), words.get());
    }
}

void TLSTransport::fatal_error_from_indicator(const char* message) {
    const py::ref failure = take_exception();
    fatal_error(failure, message);
}

// Timers.

void TLSTransport::start_timer(const py::ref& seconds, const py::ref& method) {
    timer = py::call_method(loop, known().str_call_later.get(), seconds.get(), method.get());
}

void TLSTransport::stop_timer() {
    if (const py::ref stopped = std::move(timer)) {
        py::call_method(stopped.get(), known().str_cancel.get());
    }
}

}  // namespace zl
