// module/datagram/transport.cpp: birth and end of a socket of messages. See transport.hpp.

#include "transport.hpp"

#include "../sockets.hpp"

namespace zl {

const transport_kind DatagramTransport::own_kind = {
    [](transport& self, PyObject* error) noexcept {
        static_cast<DatagramTransport&>(self).force_close(error);
    },
    [](transport& self) noexcept { static_cast<DatagramTransport&>(self).close_socket(); },
    [](transport& self) noexcept { static_cast<DatagramTransport&>(self).leave_service(); },
    nullptr,  // it was given
};

namespace {

/// What a transport of asyncio's has in `_extra` from the start. Where there is no name, None.
void set_name(PyObject* extra, const char* name, PyObject* sock, const char* method) {
    py::ref value = py::ref::adopt(PyObject_CallMethod(sock, method, nullptr));
    if (!value) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
        value = py::none();
    }
    if (PyDict_SetItemString(extra, name, value.get()) != 0) {
        throw py::error_set{};
    }
}

}  // namespace

// Birth.

py::ref DatagramTransport::from_python(loop_state& core, PyObject* sock, PyObject* protocol,
                                       PyObject* address, PyObject* waiter, PyObject* extra) {
    static_cast<void>(socket_number(*core.state, sock));
    if (extra != Py_None && !PyDict_Check(extra)) {
        py::raise(PyExc_TypeError, "extra: a dict is required");
    }
    const py::ref family = py::attribute(sock, "family");
    const long family_number = PyLong_AsLong(family.get());
    if (PyErr_Occurred()) {
        throw py::error_set{};
    }
    py::ref object = new_transport<DatagramTransport>(core.state->datagram_transport_type.get(), core,
                                                      py::ref::steal(PyContext_CopyCurrent()));
    auto& self = *reinterpret_cast<DatagramTransport*>(object.get());
    const py::ref known = extra != Py_None ? py::ref::borrow(extra) : py::ref::steal(PyDict_New());
    const py::ref wrapped = py::call(core.state->transport_socket.get(), sock);
    if (PyDict_SetItemString(known.get(), "socket", wrapped.get()) != 0) {
        throw py::error_set{};
    }
    set_name(known.get(), "sockname", sock, "getsockname");
    py::ref peername = py::ref::borrow(PyDict_GetItemString(known.get(), "peername"));
    if (!peername) {
        set_name(known.get(), "peername", sock, "getpeername");
        peername = py::ref::borrow(PyDict_GetItemString(known.get(), "peername"));
    }
    self.extra = known;
    self.family = static_cast<int>(family_number);
    self.connected = py::truth(peername.get());
    self.remote = py::ref::borrow(address);
    self.addressed = py::truth(address);
    self.protocol = py::ref::borrow(protocol);
    self.arrived = std::make_unique<arrivals>();
    if (core.datagram_room == nullptr) {
        core.datagram_room.reset(new std::byte[arrivals::room_bytes]);
    }

    // All of this may have called Python. Nothing does from here until the loop knows of us.
    core.check_closed();
    const int number = known_socket_number(*core.state, sock);
    if (number < 0) {
        py::raise_format(PyExc_ValueError, "file descriptor cannot be a negative integer (%i)", number);
    }
    reserve_number(core, number);
    zloop::fd descriptor(number);
    auto adopted = zloop::datagram_socket::adopt(*core.loop, std::move(descriptor));
    if (!adopted) {
        static_cast<void>(descriptor.release());  // the Python socket's
        py::raise_os_error(adopted.error());
    }
    // From here on there is something to close.
    self.sock = py::ref::borrow(sock);
    self.socket = std::move(*adopted);
    self.fd = number;
    self.lost = false;
    self.take_number();
    self.enlist();
    self.begin(waiter);
    return object;
}

/// The socket may be closed behind our back; then the number is nobody's, or another's.
bool DatagramTransport::still_has_descriptor() noexcept {
    const py::ref number = py::ref::adopt(core->state->socket_fileno(sock.get(), nullptr));
    const bool same = number && PyLong_AsLong(number.get()) == fd;
    PyErr_Clear();
    return same && !socket.is_stale();
}

// The end.

py::ref DatagramTransport::close() {
    if (closing) {
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

py::ref DatagramTransport::abort() { return force_close_with(Py_None); }

py::ref DatagramTransport::force_close_with(PyObject* error) {
    if (lost_writes == 0 && !lost) {
        core->check_closed();
        force_close(error);
    }
    return py::none();
}

void DatagramTransport::force_close(PyObject* error) noexcept {
    if (lost_writes != 0 || lost) {
        return;
    }
    ++lost_writes;
    writer.cancel();  // drops the backlog at its end
    if (!closing) {
        closing = true;
        stop_reading();
    }
    if (!py::attempt([&] { schedule_lost(error); })) {
        core->report_callback(Py_None);
    }
}

void DatagramTransport::close_socket() noexcept {
    leave_service();
    reader.cancel();
    writer.cancel();
    if (!py::try_call_method(sock.get(), core->state->str_close.get())) {
        core->report_unraisable(sock.get());
    }
}

void DatagramTransport::leave_service() noexcept {
    if (socket) {
        forget_number();
        static_cast<void>(socket.release());  // the Python socket closes it
    }
}

// The rest of the interface.

py::ref DatagramTransport::set_protocol(const py::arguments& args) {
    protocol =
        py::ref::borrow(py::only_argument(args, "_SelectorDatagramTransport.set_protocol", "protocol"));
    return py::none();
}

py::ref DatagramTransport::repr() {
    const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(self())));
    const char* state = lost ? " closed" : closing ? " closing" : "";
    if (lost || orphaned) {
        return py::ref::steal(PyUnicode_FromFormat("<%U%s fd=%d>", name.get(), state, fd));
    }
    return py::ref::steal(PyUnicode_FromFormat("<%U%s fd=%d read=%s write=<%s, bufsize=%zu>>", name.get(),
                                               state, fd, wants_to_read() ? "polling" : "idle",
                                               has_backlog() ? "polling" : "idle", buffer_size()));
}

// The type.

void add_datagram_transport_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&DatagramTransport::sendto>(
            "sendto", "sendto($self, data, addr=None)\n--\n\nasyncio.DatagramTransport.sendto"),
        py::method<&DatagramTransport::close>("close", "close($self)\n--\n\nasyncio.BaseTransport.close"),
        py::method<&DatagramTransport::abort>("abort", "abort($self)\n--\n\nasyncio.DatagramTransport.abort"),
        py::method<&transport::is_closing>("is_closing",
                                           "is_closing($self)\n--\n\nasyncio.BaseTransport.is_closing"),
        py::method<&DatagramTransport::is_reading>(
            "is_reading", "is_reading($self)\n--\n\nasyncio.ReadTransport.is_reading"),
        py::method<&DatagramTransport::pause_reading>(
            "pause_reading", "pause_reading($self)\n--\n\nasyncio.ReadTransport.pause_reading"),
        py::method<&DatagramTransport::resume_reading>(
            "resume_reading", "resume_reading($self)\n--\n\nasyncio.ReadTransport.resume_reading"),
        py::method<&transport::get_protocol>("get_protocol",
                                             "get_protocol($self)\n--\n\nasyncio.BaseTransport.get_protocol"),
        py::method<&DatagramTransport::set_protocol>(
            "set_protocol", "set_protocol($self, protocol)\n--\n\nasyncio.BaseTransport.set_protocol"),
        py::method<&DatagramTransport::get_write_buffer_size>(
            "get_write_buffer_size",
            "get_write_buffer_size($self)\n--\n\nasyncio.WriteTransport.get_write_buffer_size"),
        py::method<&DatagramTransport::begin_reading>("_begin_reading",
                                                      "Start to read; connection_made was called."),
        // Named in reports of what a protocol has raised.
        py::method<&DatagramTransport::begin_reading>("_read_ready", "asyncio's."),
        py::method<&DatagramTransport::begin_sending>("_sendto_ready", "asyncio's."),
        py::method<&transport::call_connection_lost>("_call_connection_lost", "asyncio's."),
        py::method<&DatagramTransport::maybe_pause_protocol>("_maybe_pause_protocol", "asyncio's."),
        py::method<&DatagramTransport::force_close_with>("_force_close", "asyncio's."),
        {},
    };
    static auto properties = with_transport_properties({
        py::property<&transport::get_fd>("_sock_fd", "The descriptor's number, also once it is closed."),
        py::property<&DatagramTransport::get_sock>("_sock", "The socket, until it is closed."),
        py::property<&DatagramTransport::get_remote>("_address", "The address that sendto() is bound to."),
    });
    const py::ref transports = py::import("asyncio.transports");
    const py::ref base = py::attribute(transports.get(), "_FlowControlMixin");
    const py::ref interface = py::attribute(transports.get(), "DatagramTransport");
    const py::ref bases = py::ref::steal(PyTuple_Pack(2, base.get(), interface.get()));
    state.datagram_transport_type = make_transport_type<DatagramTransport>(
        module, "zloop._zloop.DatagramTransport", "A socket of messages as an asyncio.DatagramTransport.",
        methods, properties.data(), bases.get());
}

}  // namespace zl
