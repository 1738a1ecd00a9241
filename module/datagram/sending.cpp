// module/datagram/sending.cpp: send at once, or keep and send later. See transport.hpp.
//
// A message that fails is told to error_received() and is over; those behind it go on, in the next turn, as
// in asyncio: the protocol may send another one that fails. It may do anything then, so state is looked at
// again.

#include "transport.hpp"

#include <algorithm>

#include <zloop/sleep.hpp>

namespace zl {

namespace {

// What asyncio counts for a message beside its bytes, so that empty ones fill the buffer too; and whether
// empty ones are sent at all.
#if PY_VERSION_HEX >= 0x030D0000
constexpr std::size_t header_bytes = 8;
constexpr bool sends_empty = true;
#else
constexpr std::size_t header_bytes = 0;
constexpr bool sends_empty = false;
#endif

// Of a Unix peer's full queue the kernel tells only who is connected to it. asyncio asks in every turn.
constexpr zloop::nanoseconds shortest_pause = std::chrono::microseconds(50);
constexpr zloop::nanoseconds longest_pause = std::chrono::milliseconds(10);

constexpr int most_in_turn = 64;  // kept messages, until the rest of the loop has its turn

/// The bytes of what sendto() takes: of bytes at once, of others while this lives.
class view_of {
public:
    explicit view_of(PyObject* data) {
        if (PyBytes_Check(data)) {
            bytes_ = {reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(data)),
                      static_cast<std::size_t>(PyBytes_GET_SIZE(data))};
            return;
        }
        if (PyObject_GetBuffer(data, &view_, PyBUF_SIMPLE) != 0) {
            throw py::error_set{};
        }
        held_ = true;
        bytes_ = {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
    }
    view_of(const view_of&) = delete;
    view_of& operator=(const view_of&) = delete;
    ~view_of() {
        if (held_) {
            PyBuffer_Release(&view_);
        }
    }

    std::span<const std::byte> bytes() const noexcept { return bytes_; }

private:
    Py_buffer view_;
    std::span<const std::byte> bytes_;
    bool held_ = false;
};

void check_data(PyObject* data) {
    if (PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data)) {
        return;
    }
    const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(data)));
    py::raise_format(PyExc_TypeError, "data argument must be a bytes-like object, not %R", name.get());
}

}  // namespace

py::ref DatagramTransport::sendto(const py::arguments& args) {
    PyObject *data, *to;
    py::two_arguments(args, "_SelectorDatagramTransport.sendto", {"data", "addr"}, data, to);
    check_data(data);
    if (!sends_empty && !py::truth(data)) {
        return py::none();
    }
    if (addressed) {
        if (to != Py_None && to != remote.get()) {
            const py::ref same = py::ref::steal(PyObject_RichCompare(to, remote.get(), Py_EQ));
            if (!py::truth(same.get())) {
                py::raise_format(PyExc_ValueError, "Invalid address: must be None or %S", remote.get());
            }
        }
        to = remote.get();
    }
    core->held.push_all();  // what was written before, leaves before
    if (lost || (lost_writes != 0 && addressed)) {
        count_lost_write("socket.send() raised exception.");
        return py::none();
    }
    zloop::address to_peer;  // a copy: who is called from here on may send to others
    const zloop::address* const peer = !connected && where(to, to_peer) ? &to_peer : nullptr;
    if (!has_backlog()) {
        switch (try_send(data, to, peer)) {
            case outcome::sent: core->has_sent(); return py::none();
            case outcome::failed:
                send_failed();
                core->raise_failure();
                return py::none();
            case outcome::later: core->check_closed(); break;
        }
    }
    append(data, to, peer);
    begin_writing();
    maybe_pause_writing(buffer_size());
    core->raise_failure();  // pause_writing() may have been left by KeyboardInterrupt
    return py::none();
}

/// The address that `to` is, if that needs no look-up.
bool DatagramTransport::where(PyObject* to, zloop::address& into) noexcept {
    if (to == Py_None) {  // what a peer without a name is called too; it cannot be sent to
        return false;
    }
    if (arrived && arrived->first != 0 && arrived->names[arrived->first - 1].get() == to) {
        into = arrived->items[arrived->first - 1].peer;  // an answer
        return true;
    }
    if (to == last_name.get()) {
        into = last_peer;
        return true;
    }
    if (!read_name(to, family, into)) {
        return false;
    }
    last_peer = into;
    last_name = py::ref::borrow(to);
    return true;
}

void DatagramTransport::begin_writing() noexcept {
    if (!writer.running() && !orphaned && !write_loop(writer).begun()) {
        no_memory();
    }
}

DatagramTransport::outcome DatagramTransport::try_send(PyObject* data, PyObject* to,
                                                       const zloop::address* peer) {
    if (orphaned || (peer == nullptr && !connected)) {
        return try_send_by_python(data, to);
    }
    try {
        if (!still_has_descriptor()) {
            py::raise_os_error(std::make_error_code(std::errc::bad_file_descriptor));
        }
        if (!connected && PySys_Audit("socket.sendto", "OO", sock.get(), to) != 0) {
            return outcome::failed;
        }
        const view_of view(data);
        const auto attempt =
            peer != nullptr ? socket.try_send(view.bytes(), *peer) : socket.try_send(view.bytes());
        if (!attempt.error()) {
            return outcome::sent;
        }
        if (attempt.error() == std::errc::resource_unavailable_try_again) {
            return outcome::later;
        }
        py::raise_os_error(attempt.error());
    } catch (const py::error_set&) {
        return outcome::failed;
    }
}

/// For addresses that are looked up, or refused; and when the loop is gone.
DatagramTransport::outcome DatagramTransport::try_send_by_python(PyObject* data, PyObject* to) {
    const py::ref done = connected ? py::try_call_method(sock.get(), core->state->str_send.get(), data)
                                   : py::try_call_method(sock.get(), core->state->str_sendto.get(), data, to);
    if (done) {
        return outcome::sent;
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError) || PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear();
        return outcome::later;
    }
    return outcome::failed;
}

/// Sees to an error of sendto() itself; the indicator is set. What error_received() raises goes to its
/// caller.
void DatagramTransport::send_failed() {
    if (PyErr_ExceptionMatches(PyExc_OSError)) {
        const py::ref error = py::take_error();
        py::checked(call_protocol(core->state->str_error_received, error.get()));
    } else if (py::error_is_fatal()) {
        throw py::error_set{};
    } else {
        fatal_error(py::take_error(), "Fatal write error on datagram transport");
    }
}

void DatagramTransport::append(PyObject* data, PyObject* to, const zloop::address* peer) {
    unsent_datagram made;
    made.bytes = py::ref::steal(PyBytes_FromObject(data));  // what is changed from now on is not sent
    if (peer != nullptr) {
        made.peer = *peer;
    } else if (!connected) {
        made.to = py::ref::borrow(to);
    }
    const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(made.bytes.get()));
    if (backlog == nullptr) {
        backlog = std::make_unique<std::deque<unsent_datagram>>();
    }
    backlog->push_back(std::move(made));
    backlog_bytes += size + header_bytes;
}

fiber DatagramTransport::write_loop(fiber::place& kept) {
    zloop::nanoseconds pause = shortest_pause;
    int in_turn = 0;
    while (wants_to_send() && has_backlog()) {
        const unsent_datagram& oldest = backlog->front();  // stays where it is while others are appended
        const view_of view(oldest.bytes.get());
        std::error_code error;
        py::ref raised;
        if (oldest.to) {
            const connection_scope running(*this);
            const outcome came = try_send_by_python(oldest.bytes.get(), oldest.to.get());
            if (came == outcome::later) {
                error = std::make_error_code(std::errc::resource_unavailable_try_again);
            } else if (came == outcome::failed) {
                raised = py::take_error();
            }
        } else if (!still_has_descriptor()) {
            error = std::make_error_code(std::errc::bad_file_descriptor);
        } else if (connected) {
            error = (co_await socket.send(view.bytes())).error();
        } else {
            error = (co_await socket.send_to(view.bytes(), oldest.peer)).error();
        }
        if (error == std::errc::operation_canceled) {
            break;
        }
        if (error == std::errc::resource_unavailable_try_again) {
            bool slept = true;
            try {
                static_cast<void>(co_await zloop::sleep_for(pause));
            } catch (const std::bad_alloc&) {  // not even for a timer
                slept = false;
            }
            if (!slept) {
                co_await next_turn(event_loop());
            }
            pause = std::min(2 * pause, longest_pause);
            continue;
        }
        pause = shortest_pause;
        backlog_bytes -= view.bytes().size() + header_bytes;
        backlog->pop_front();
        if (error) {
            raised = py::os_error(error.value());
        }
        if (raised) {
            unsent_failed(raised);
        }
        // The protocol may answer each failure, and each resume_writing(), with more of the same.
        if (raised || ++in_turn == most_in_turn) {
            in_turn = 0;
            co_await next_turn(event_loop());
        }
        if (wants_to_send()) {
            const connection_scope running(*this);
            maybe_resume_writing(buffer_size());
        }
    }
    kept.end();
    if (lost_writes != 0 || lost) {
        backlog.reset();  // only now: until the end the kernel may have been reading it
        backlog_bytes = 0;
    } else if (wants_to_send() && closing && !has_backlog()) {
        const py::ref alive = py::ref::borrow(self());
        const connection_scope running(*this);
        if (!py::attempt([&] { call_connection_lost(Py_None); })) {
            protocol_raised(core->state->str_sendto_ready.get());
        }
        co_return;
    }
    release_if_over();
}

/// Sees to an error of a message that was kept.
void DatagramTransport::unsent_failed(const py::ref& error) noexcept {
    const connection_scope running(*this);
    if (PyErr_GivenExceptionMatches(error.get(), PyExc_OSError)) {
        tell_error(error, core->state->str_sendto_ready.get());
        return;
    }
    py::restore_error(error);
    fatal_error_from_indicator("Fatal write error on datagram transport");
}

py::ref DatagramTransport::begin_sending() {
    if (has_backlog()) {
        begin_writing();
    }
    return py::none();
}

py::ref DatagramTransport::get_write_buffer_size() {
    return py::ref::steal(PyLong_FromSize_t(buffer_size()));
}

py::ref DatagramTransport::maybe_pause_protocol() {
    maybe_pause_writing(buffer_size());
    core->raise_failure();
    return py::none();
}

}  // namespace zl
