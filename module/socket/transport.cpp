// module/socket/transport.cpp: birth, names and end of a connection. See transport.hpp.

#include "transport.hpp"

#include <cstring>

#include "../sockets.hpp"
#include "../streams/streams.hpp"

namespace zl {

const transport_kind SocketTransport::own_kind = {
    [](transport& self, PyObject* error) noexcept { static_cast<SocketTransport&>(self).force_close(error); },
    [](transport& self) noexcept { static_cast<SocketTransport&>(self).close_socket(); },
    [](transport& self) noexcept { static_cast<SocketTransport&>(self).leave_service(); },
    [](transport& self) { static_cast<SocketTransport&>(self).fill_extra(); },
};

// Birth.

bool is_tcp_socket(PyObject* sock) {
    const auto number = [sock](const char* name) {
        const py::ref value = py::attribute(sock, name);
        return PyLong_AsLong(value.get());
    };
    const long family = number("family");
    const bool wanted = (family == AF_INET || family == AF_INET6) && number("type") == SOCK_STREAM &&
                        number("proto") == IPPROTO_TCP;
    if (PyErr_Occurred()) {
        throw py::error_set{};
    }
    return wanted;
}

/// From here on there is something to close, and the loop knows. Its number is reserved.
void SocketTransport::own(zloop::stream connected) noexcept {
    fd = connected.native_handle();
    socket = std::move(connected);
    lost = false;
    take_number();
    enlist();
}

py::ref SocketTransport::from_python(loop_state& core, PyObject* sock, PyObject* protocol, PyObject* waiter,
                                     PyObject* extra, PyObject* server, PyObject* context) {
    static_cast<void>(socket_number(*core.state, sock));
    if (context != Py_None && !PyContext_CheckExact(context)) {
        py::raise(PyExc_TypeError, "context: a contextvars.Context is required");
    }
    if (extra != Py_None && !PyDict_Check(extra)) {
        py::raise(PyExc_TypeError, "extra: a dict is required");
    }
    const bool is_tcp = is_tcp_socket(sock);
    py::ref object = new_transport<SocketTransport>(
        core.state->socket_transport_type.get(), core,
        context != Py_None ? py::ref::borrow(context) : py::ref::steal(PyContext_CopyCurrent()));
    auto& self = *reinterpret_cast<SocketTransport*>(object.get());
    self.set_protocol_of(protocol);

    // All of this may have called Python. Nothing does from here until the loop knows of us.
    core.check_closed();
    const int number = known_socket_number(*core.state, sock);
    if (number < 0) {
        py::raise_format(PyExc_ValueError, "file descriptor cannot be a negative integer (%i)", number);
    }
    reserve_number(core, number);
    zloop::fd descriptor(number);
    auto adopted = zloop::stream::adopt(*core.loop, std::move(descriptor));
    if (!adopted) {
        static_cast<void>(descriptor.release());  // the Python socket's
        py::raise_os_error(adopted.error());
    }
    if (is_tcp) {
        static_cast<void>(adopted->set_option(IPPROTO_TCP, TCP_NODELAY, 1));
    }
    self.is_tcp = is_tcp;
    self.sock = py::ref::borrow(sock);
    self.options_unknown = true;
    self.own(std::move(*adopted));
    self.extra = extra != Py_None ? py::ref::borrow(extra) : nullptr;
    self.connected(self.socket.peer_address(), server, waiter);
    return object;
}

py::ref SocketTransport::from_connected(loop_state& core, zloop::fd socket, const zloop::address& peer,
                                        PyObject* protocol, PyObject* waiter) {
    py::ref object = new_transport<SocketTransport>(core.state->socket_transport_type.get(), core,
                                                    py::ref::steal(PyContext_CopyCurrent()));
    auto& self = *reinterpret_cast<SocketTransport*>(object.get());
    self.set_protocol_of(protocol);
    core.check_closed();
    reserve_number(core, socket.get());
    auto adopted = zloop::stream::adopt(*core.loop, std::move(socket));
    if (!adopted) {
        py::raise_os_error(adopted.error());
    }
    static_cast<void>(adopted->set_option(IPPROTO_TCP, TCP_NODELAY, 1));
    self.is_tcp = true;
    self.own(std::move(*adopted));
    self.connected(peer.is_any() ? self.socket.peer_address() : peer, Py_None, waiter);
    return object;
}

void SocketTransport::from_accepted(loop_state& core, zloop::stream socket, const zloop::address& peer,
                                    bool is_tcp, PyObject* protocol, PyObject* server, py::ref context) {
    const py::ref object =
        new_transport<SocketTransport>(core.state->socket_transport_type.get(), core, std::move(context));
    auto& self = *reinterpret_cast<SocketTransport*>(object.get());
    self.is_tcp = is_tcp;
    self.set_protocol_of(protocol);
    reserve_number(core, socket.native_handle());
    self.own(std::move(socket));
    self.connected(peer, server, Py_None);
}

void SocketTransport::remember_peer(const zloop::address& address) {
    if (address.family() == AF_INET || address.family() == AF_INET6) {
        std::memcpy(&peer, address.data(), address.size());
        peer_is_here = address.is_loopback();
    } else {
        peername = name_of(address);
    }
}

zloop::address SocketTransport::remembered_peer() const noexcept {
    const bool is_v6 = peer.any.sa_family == AF_INET6;
    return {&peer.any, static_cast<socklen_t>(is_v6 ? sizeof peer.v6 : sizeof peer.v4)};
}

void SocketTransport::connected(const zloop::address& name, PyObject* owner, PyObject* waiter) {
    try {
        remember_peer(name);
        if (owner != Py_None) {
#if PY_VERSION_HEX >= 0x030D0000
            py::call_method(owner, core->state->str_attach.get(), self());
#else
            py::call_method(owner, core->state->str_attach.get());
#endif
            server = py::ref::borrow(owner);
        }
        adopt_streams(*core, protocol.get());
        introduce(true, waiter);
    } catch (...) {
        orphan();
        throw;
    }
}

// The end.

py::ref SocketTransport::close() {
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

py::ref SocketTransport::abort() { return force_close_with(Py_None); }

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
    cut_deferred();
    writer.cancel();  // drops the backlog at its end
    fail_file(error);
    if (!closing) {
        closing = true;
        stop_reading();
    }
    if (!py::attempt([&] { schedule_lost(error); })) {
        core->report_callback(Py_None);
    }
}

/// From here on the number may be another's.
void SocketTransport::close_socket() noexcept {
    core->held.forget(*this);  // its end pushes
    if (socket) {
        capture_names();
        forget_number();
    }
    if (sock) {
        static_cast<void>(socket.release());
        if (!py::try_call_method(sock.get(), core->state->str_close.get())) {
            core->report_unraisable(sock.get());
        }
    } else if (socket) {
        socket.close();
    } else if (orphaned) {
        ::close(fd);
    }
    detach_from_server();
}

void SocketTransport::leave_service() noexcept {
    if (!socket) {
        return;
    }
    if (held && !core->loop->is_inherited()) {
        push();
    }
    core->held.forget(*this);
    capture_names();
    forget_number();
    if (under_tls && !sock && is_tls(protocol.get()) && core->state->tls_ends_unknown(protocol.get())) {
        lost = true;
        socket.close();
    } else {
        static_cast<void>(socket.release());
    }
}

void SocketTransport::capture_names() noexcept {
    if (sockname) {
        return;
    }
    if (!py::attempt([&] { sockname = name_of(socket.local_address()); })) {
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

// The rest of the interface.

py::ref SocketTransport::set_protocol(const py::arguments& args) {
    PyObject* const given = py::only_argument(args, "_SelectorSocketTransport.set_protocol", "protocol");
    set_protocol_of(given);
    adopt_streams(*core, given);
    return py::none();
}

PyObject* SocketTransport::python_socket() {
    const module_state& state = *core->state;
    const auto is_alive = [this] { return socket || (orphaned && !lost); };
    while (!sock && is_alive()) {
        py::ref fresh = socket_object(state, fd);
        if (!sock && is_alive()) {
            sock = std::move(fresh);
        } else {
            take_number_from(state, fresh.get());  // meanwhile there is another, or nothing to own
        }
    }
    if (!sock) {
        const py::ref closed = py::call(state.socket_type.get());
        py::call_method(closed.get(), state.str_close.get());
        sock = closed;
    }
    return sock.get();
}

/// Whether a program has our Python socket, and can set what it likes on it. Of one that it has duplicated,
/// we do not know.
bool SocketTransport::is_out() const noexcept {
    const Py_ssize_t own_wrapped = 2, own_sock = wrapped ? 2 : 1;  // with those in `extra`, and in `wrapped`
    return sock && (knows_extra || Py_REFCNT(sock.get()) > own_sock ||
                    (wrapped && Py_REFCNT(wrapped.get()) > own_wrapped));
}

/// Whether the program has set TCP_CORK, as far as it can have.
bool SocketTransport::is_corked() noexcept {
    const bool out = is_out(), corked = socket.is_corked();
    options_unknown = out || corked;
    return corked;
}

py::ref SocketTransport::get_sock() {
    if (lost) {
        return py::none();
    }
    options_unknown = true;
    return py::ref::borrow(python_socket());
}

py::ref SocketTransport::get_extra_info(const py::arguments& args) {
    PyObject* const base = reinterpret_cast<PyObject*>(Py_TYPE(self())->tp_base);
    const py::ref inherited = py::ref::steal(PyObject_GetAttr(base, core->state->str_get_extra_info.get()));
    if (inherited.get() != core->state->stock_get_extra_info.get()) {
        // Replaced, for a test: as asyncio's transports, which have none of their own.
        const py::ref method = py::attribute(py::call(reinterpret_cast<PyObject*>(&PySuper_Type),
                                                      reinterpret_cast<PyObject*>(Py_TYPE(self())), self())
                                                 .get(),
                                             "get_extra_info");
        return py::ref::steal(PyObject_Vectorcall(method.get(), args.values,
                                                  static_cast<std::size_t>(args.count), args.keywords));
    }
    // What we know first; asyncio's own method looks into `_extra`, and refuses bad arguments.
    const bool plain = args.keyword_count() == 0 && (args.count == 1 || args.count == 2);
    if (plain && PyUnicode_Check(args.values[0])) {
        if (py::ref found = known_extra_info(args.values[0])) {
            return found;
        }
    }
    std::vector<PyObject*> all{self()};
    all.insert(all.end(), args.values, args.values + args.count + args.keyword_count());
    return py::ref::steal(PyObject_Vectorcall(inherited.get(), all.data(),
                                              static_cast<std::size_t>(args.count) + 1, args.keywords));
}

/// `_extra` as asyncio's is from the start.
void SocketTransport::fill_extra() {
    for (const char* name : {"peername", "sockname", "socket"}) {
        const py::ref key = py::text(name);
        const py::ref known = known_extra_info(key.get());
        if (knows_extra) {
            return;  // a program has put its own there, meanwhile
        }
        if (!extra) {
            extra = py::ref::steal(PyDict_New());
        }
        const py::ref into = extra;
        if (known && PyDict_SetItem(into.get(), key.get(), known.get()) != 0) {
            throw py::error_set{};
        }
    }
}

/// What an _extra dict of asyncio's holds from the start; ours is made when somebody asks. None, when it is
/// to be looked for in `_extra`.
py::ref SocketTransport::known_extra_info(PyObject* name) {
    if (knows_extra) {
        return nullptr;
    }
    if (const py::ref given = extra) {  // a dict
        options_unknown = true;         // it may be the socket
        py::ref found = py::ref::borrow(PyDict_GetItemWithError(given.get(), name));
        if (found || PyErr_Occurred()) {
            return py::ref::steal(found.release());
        }
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
        options_unknown = true;
        const py::ref python = py::ref::borrow(python_socket());
        py::ref fresh = py::call(core->state->transport_socket.get(), python.get());
        if (knows_extra) {
            return nullptr;
        }
        wrapped = fresh;
        if (!extra) {
            extra = py::ref::steal(PyDict_New());
        }
        const py::ref into = extra;
        if (PyDict_SetItem(into.get(), name, fresh.get()) != 0) {
            throw py::error_set{};
        }
        return fresh;
    }
    return nullptr;
}

py::ref SocketTransport::repr() {
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

void add_socket_transport_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&SocketTransport::write>("write",
                                            "write($self, data)\n--\n\nasyncio.WriteTransport.write"),
        py::method<&SocketTransport::writelines>(
            "writelines", "writelines($self, list_of_data)\n--\n\nasyncio.WriteTransport.writelines"),
        py::method<&SocketTransport::write_eof>("write_eof",
                                                "write_eof($self)\n--\n\nasyncio.WriteTransport.write_eof"),
        py::method<&SocketTransport::can_write_eof>(
            "can_write_eof", "can_write_eof($self)\n--\n\nasyncio.WriteTransport.can_write_eof"),
        py::method<&SocketTransport::close>("close", "close($self)\n--\n\nasyncio.BaseTransport.close"),
        py::method<&SocketTransport::abort>("abort", "abort($self)\n--\n\nasyncio.WriteTransport.abort"),
        py::method<&SocketTransport::begin_sendfile>(
            "_begin_sendfile",
            "Send (descriptor, offset, count) of a file, behind what is "
            "written; returns a future."),
        py::method<&SocketTransport::end_sendfile>("_end_sendfile",
                                                   "Send no more of it; returns how much was sent."),
        py::method<&transport::is_closing>("is_closing",
                                           "is_closing($self)\n--\n\nasyncio.BaseTransport.is_closing"),
        py::method<&SocketTransport::is_reading>("is_reading",
                                                 "is_reading($self)\n--\n\nasyncio.ReadTransport.is_reading"),
        py::method<&SocketTransport::pause_reading>(
            "pause_reading", "pause_reading($self)\n--\n\nasyncio.ReadTransport.pause_reading"),
        py::method<&SocketTransport::resume_reading>(
            "resume_reading", "resume_reading($self)\n--\n\nasyncio.ReadTransport.resume_reading"),
        py::method<&transport::get_protocol>("get_protocol",
                                             "get_protocol($self)\n--\n\nasyncio.BaseTransport.get_protocol"),
        py::method<&SocketTransport::set_protocol>(
            "set_protocol", "set_protocol($self, protocol)\n--\n\nasyncio.BaseTransport.set_protocol"),
        py::method<&SocketTransport::get_extra_info>(
            "get_extra_info",
            "get_extra_info($self, name, default=None)\n--\n\nasyncio.BaseTransport.get_extra_info"),
        py::method<&SocketTransport::get_write_buffer_size>(
            "get_write_buffer_size",
            "get_write_buffer_size($self)\n--\n\nasyncio.WriteTransport.get_write_buffer_size"),
        py::method<&SocketTransport::begin_reading>("_begin_reading",
                                                    "Start to read; connection_made was called."),
        py::method<&transport::call_connection_lost>("_call_connection_lost", "asyncio's."),
        py::method<&SocketTransport::maybe_pause_protocol>("_maybe_pause_protocol", "asyncio's."),
        py::method<&SocketTransport::force_close_with>("_force_close", "asyncio's."),
        {},
    };
    static auto properties = with_transport_properties({
        py::property<&transport::get_fd>("_sock_fd", "The descriptor's number, also once it is closed."),
        py::property<&SocketTransport::get_sock>("_sock", "The socket, until it is closed."),
    });
    const py::ref transports = py::import("asyncio.transports");
    const py::ref base = py::attribute(transports.get(), "_FlowControlMixin");
    const py::ref bases = py::ref::steal(PyTuple_Pack(1, base.get()));
    state.socket_transport_type = make_transport_type<SocketTransport>(
        module, "zloop._zloop.SocketTransport", "A stream socket as an asyncio.Transport.", methods,
        properties.data(), bases.get());

    state.socket_write = [](PyObject* transport, const py::arguments& args) {
        return reinterpret_cast<SocketTransport*>(transport)->write(args);
    };
    PyObject* type = state.socket_transport_type.get();
    const py::ref constants = py::import("asyncio.constants");
    const py::ref modes = py::attribute(constants.get(), "_SendfileMode");
    const py::ref native = py::attribute(modes.get(), "TRY_NATIVE");
    if (PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) != 0 ||
        PyObject_SetAttrString(type, "_sendfile_compatible", native.get()) != 0) {
        throw py::error_set{};
    }
}

}  // namespace zl
