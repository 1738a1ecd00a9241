// module/tls/transport.cpp: birth, names and the type. See transport.hpp.

#include "transport.hpp"
#include "../streams/streams.hpp"

#include <array>

namespace zl {

namespace {

/// The arguments of a method of two parameters, by position or by name; null for what was left out.
std::array<PyObject*, 2> two_arguments(const py::arguments& args, const char* function,
                                       const std::array<const char*, 2>& names) {
    std::array<PyObject*, 2> given{};
    if (args.count > 2) {
        py::raise_format(PyExc_TypeError, "%s() takes at most 3 positional arguments but %zd were given",
                         function, args.count + 1);
    }
    std::copy_n(args.values, args.count, given.begin());
    for (Py_ssize_t index = 0; index < args.keyword_count(); ++index) {
        const std::size_t at =
            PyUnicode_CompareWithASCIIString(args.keyword_name(index), names[0]) == 0 ? 0 : 1;
        if (PyUnicode_CompareWithASCIIString(args.keyword_name(index), names[at]) != 0) {
            py::raise_format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                             args.keyword_name(index));
        }
        if (given[at] != nullptr) {
            py::raise_format(PyExc_TypeError, "%s() got multiple values for argument '%U'", function,
                             args.keyword_name(index));
        }
        given[at] = args.keyword_value(index);
    }
    return given;
}

/// (high, low) of set_..._buffer_limits(), as asyncio completes and checks them.
std::array<std::size_t, 2> limits_from(const module_state& state, const py::arguments& args,
                                       const char* function, long default_kib) {
    const auto [high, low] = two_arguments(args, function, {"high", "low"});
    const py::ref kib = py::integer(default_kib);
    const py::ref pair = py::call(state.tls_limits.get(), high != nullptr ? high : Py_None,
                                  low != nullptr ? low : Py_None, kib.get());
    return {limit_from(PyTuple_GetItem(pair.get(), 0)), limit_from(PyTuple_GetItem(pair.get(), 1))};
}

py::ref pair_of(std::size_t low, std::size_t high) {
    return py::ref::steal(Py_BuildValue("nn", static_cast<Py_ssize_t>(low), static_cast<Py_ssize_t>(high)));
}

TLSTransport& cast(PyObject* object) noexcept { return *reinterpret_cast<TLSTransport*>(object); }

}  // namespace

// Birth.

py::ref TLSTransport::make(loop_state& core, const py::arguments& args) {
    auto* const type = reinterpret_cast<PyTypeObject*>(core.state->tls_transport_type.get());
    if (type == nullptr || args.count != 8) {
        py::raise(PyExc_TypeError,
                  "_new_tls_transport(protocol, sslcontext, waiter, server_side, server_hostname, "
                  "handshake_timeout, shutdown_timeout, call_connection_made)");
    }
    py::ref object = py::ref::steal(type->tp_alloc(type, 0));
    TLSTransport& self = cast(object.get());
    ::new (static_cast<tls_transport_fields*>(&self)) tls_transport_fields;
    self.core = &core;
    self.loop = Py_NewRef(core.self());
    self.closed = true;  // nothing is open until all is well
    self.set_app_protocol(args.values[0]);
    self.context = py::ref::borrow(args.values[1]);
    self.waiter = args.values[2] != Py_None ? py::ref::borrow(args.values[2]) : nullptr;
    self.handshake_timeout = py::ref::borrow(args.values[5]);
    self.shutdown_timeout = py::ref::borrow(args.values[6]);
    self.app = py::truth(args.values[7]) ? told::nothing : told::made;
    self.server_side = args.values[3] == Py_True;
    self.session.begin(*core.state, args.values[1], args.values[3], args.values[4]);
    self.closed = false;
    return object;
}

py::ref TLSTransport::accept(loop_state& core, PyObject* protocol, PyObject* terms) {
    const auto term = [terms](Py_ssize_t index) { return PyTuple_GET_ITEM(terms, index); };
    PyObject* const values[] = {protocol, term(0), Py_None, Py_True, Py_None, term(1), term(2), Py_True};
    py::ref object = make(core, {values, std::size(values), nullptr});
    cast(object.get()).accepted = true;
    return object;
}

void TLSTransport::set_app_protocol(PyObject* given) {
    const int is_buffered = PyObject_IsInstance(given, known().buffered_protocol.get());
    if (is_buffered < 0) {
        throw py::error_set{};
    }
    protocol = py::ref::borrow(given);
    buffered = is_buffered != 0;
}

// Names.

py::ref TLSTransport::is_closing() {
    if (!closed && known().tls_asks_below && below) {
        const py::ref carrier = below;
        return py::call_method(carrier.get(), known().str_is_closing.get());
    }
    return py::boolean(closed);
}

py::ref TLSTransport::get_protocol() { return protocol; }

py::ref TLSTransport::get_ssl_object() {
    return session.begun() ? py::ref::borrow(session.object()) : py::none();
}

py::ref TLSTransport::get_server_hostname() {
    return session.begun() ? py::attribute(session.object(), "server_hostname") : py::none();
}

py::ref TLSTransport::set_protocol(const py::arguments& args) {
    PyObject* const given = py::only_argument(args, "_SSLProtocolTransport.set_protocol", "protocol");
    set_app_protocol(given);
    adopt_streams(*core, given);
    return py::none();
}

py::ref TLSTransport::get_extra_info(const py::arguments& args) {
    const auto [name, fallback] =
        two_arguments(args, "_SSLProtocolTransport.get_extra_info", {"name", "default"});
    if (name == nullptr) {
        py::raise(PyExc_TypeError,
                  "_SSLProtocolTransport.get_extra_info() missing 1 required positional argument: "
                  "'name'");
    }
    if (py::ref found = known_extra_info(name)) {
        return found;
    }
    PyObject* const otherwise = fallback != nullptr ? fallback : Py_None;
    if (const py::ref carrier = below) {
        return py::call_method(carrier.get(), known().str_get_extra_info.get(), name, otherwise);
    }
    return py::ref::borrow(otherwise);
}

py::ref TLSTransport::known_extra_info(PyObject* name) {
    if (!PyUnicode_Check(name) || !session.begun()) {
        return nullptr;
    }
    const auto asked = [name](const char* known_name) {
        return PyUnicode_CompareWithASCIIString(name, known_name) == 0;
    };
    if (asked("sslcontext")) {
        return context;
    }
    if (!has_info) {
        return nullptr;
    }
    if (asked("ssl_object")) {
        return py::ref::borrow(session.object());
    }
    if (asked("peercert")) {
        return peercert;
    }
    if (asked("cipher") || asked("compression")) {
        return py::call_method(session.object(), name);
    }
    return nullptr;
}

py::ref TLSTransport::set_write_buffer_limits(const py::arguments& args) {
    const auto limits = limits_from(known(), args, "_SSLProtocolTransport.set_write_buffer_limits", 512);
    high_water = limits[0];
    low_water = limits[1];
    control_app_writing();
    return py::none();
}

py::ref TLSTransport::get_write_buffer_limits() { return pair_of(low_water, high_water); }

py::ref TLSTransport::set_read_buffer_limits(const py::arguments& args) {
    const auto limits = limits_from(known(), args, "_SSLProtocolTransport.set_read_buffer_limits", 256);
    read_high_water = limits[0];
    read_low_water = limits[1];
    control_reading();
    return py::none();
}

py::ref TLSTransport::get_read_buffer_limits() { return pair_of(read_low_water, read_high_water); }

// The type.

namespace {

int traverse(PyObject* object, visitproc visit, void* arg) {
    TLSTransport& self = cast(object);
    Py_VISIT(Py_TYPE(object));
    if (const int stopped = self.visit_slots(visit, arg)) {
        return stopped;
    }
    if (self.core == nullptr) {
        return 0;
    }
    Py_VISIT(self.loop);
    if (const int stopped = self.session.visit(visit, arg)) {
        return stopped;
    }
    return tls_transport_fields::owned::visit(static_cast<tls_transport_fields&>(self), visit, arg);
}

/// What is left of its life is that of a connection that is lost; `loop` stays, as for any transport.
int clear(PyObject* object) {
    TLSTransport& self = cast(object);
    self.state = tls_transport_fields::phase::unwrapped;
    self.app = tls_transport_fields::told::lost;
    self.over = true;
    self.accepted = false;
    self.protocol = py::none();  // at no time is there none at all: destructors may ask
    self.session.clear();
    for (py::ref* each : {&self.below, &self.context, &self.waiter, &self.peercert, &self.timer}) {
        each->reset();
    }
    self.clear_slots();
    return 0;
}

void finalize(PyObject* object) {
    TLSTransport& self = cast(object);
    if (self.closed || self.core == nullptr) {
        return;
    }
    self.closed = true;
    const py::error_kept kept;
    if (PyErr_WarnEx(PyExc_ResourceWarning, "unclosed transport <asyncio._SSLProtocolTransport object>", 1) !=
        0) {
        PyErr_WriteUnraisable(object);
    }
}

void destroy(PyObject* object) {
    if (!py::finalized(object)) {
        return;
    }
    TLSTransport& self = cast(object);
    PyTypeObject* const type = Py_TYPE(object);
    if (self.weak_references != nullptr) {
        PyObject_ClearWeakRefs(object);
    }
    self.clear_slots();
    if (self.core != nullptr) {
        const py::ref loop = py::ref::adopt(self.loop);  // to the end
        std::destroy_at(static_cast<tls_transport_fields*>(&self));
    }
    type->tp_free(object);
    Py_DECREF(type);
}

}  // namespace

void add_tls_transport_type(PyObject* module, module_state& state) {
    look_up_ssl(module, state);
    if (!state.ssl_error) {
        return;
    }
    const py::ref sslproto = py::import("asyncio.sslproto");
    const py::ref stock = py::attribute(sslproto.get(), "SSLProtocol");
    state.tls_limits = py::attribute(sslproto.get(), "add_flowcontrol_defaults");
    // Newer versions ask the transport below as well, and guard the end of what is written by the timeout.
    state.tls_asks_below = PyObject_HasAttrString(stock.get(), "_is_transport_closing") != 0;
    const py::ref names = py::attribute(
        py::attribute(py::attribute(stock.get(), "_on_shutdown_complete").get(), "__code__").get(),
        "co_names");
    const int keeps = PySequence_Contains(names.get(), state.str_call_later.get());
    if (keeps < 0) {
        throw py::error_set{};
    }
    state.tls_keeps_shutdown_timer = keeps != 0;

    static PyMethodDef methods[] = {
        py::method<&TLSTransport::write>("write", "write($self, data)\n--\n\nasyncio.WriteTransport.write"),
        py::method<&TLSTransport::writelines>(
            "writelines", "writelines($self, list_of_data)\n--\n\nasyncio.WriteTransport.writelines"),
        py::method<&TLSTransport::write_eof>(
            "write_eof", "write_eof($self)\n--\n\nRaises NotImplementedError, as asyncio's."),
        py::method<&TLSTransport::can_write_eof>(
            "can_write_eof", "can_write_eof($self)\n--\n\nasyncio.WriteTransport.can_write_eof"),
        py::method<&TLSTransport::close>("close", "close($self)\n--\n\nasyncio.BaseTransport.close"),
        py::method<&TLSTransport::abort>("abort", "abort($self)\n--\n\nasyncio.WriteTransport.abort"),
        py::method<&TLSTransport::is_closing>("is_closing",
                                              "is_closing($self)\n--\n\nasyncio.BaseTransport.is_closing"),
        py::method<&TLSTransport::is_reading>("is_reading",
                                              "is_reading($self)\n--\n\nasyncio.ReadTransport.is_reading"),
        py::method<&TLSTransport::pause_reading>(
            "pause_reading", "pause_reading($self)\n--\n\nasyncio.ReadTransport.pause_reading"),
        py::method<&TLSTransport::resume_reading>(
            "resume_reading", "resume_reading($self)\n--\n\nasyncio.ReadTransport.resume_reading"),
        py::method<&TLSTransport::get_protocol>(
            "get_protocol", "get_protocol($self)\n--\n\nasyncio.BaseTransport.get_protocol"),
        py::method<&TLSTransport::set_protocol>(
            "set_protocol", "set_protocol($self, protocol)\n--\n\nasyncio.BaseTransport.set_protocol"),
        py::method<&TLSTransport::get_extra_info>(
            "get_extra_info",
            "get_extra_info($self, name, default=None)\n--\n\nasyncio.BaseTransport.get_extra_info"),
        py::method<&TLSTransport::set_write_buffer_limits>(
            "set_write_buffer_limits",
            "set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
            "asyncio.WriteTransport.set_write_buffer_limits"),
        py::method<&TLSTransport::get_write_buffer_limits>(
            "get_write_buffer_limits",
            "get_write_buffer_limits($self)\n--\n\nasyncio.WriteTransport.get_write_buffer_limits"),
        py::method<&TLSTransport::get_write_buffer_size>(
            "get_write_buffer_size",
            "get_write_buffer_size($self)\n--\n\nasyncio.WriteTransport.get_write_buffer_size"),
        py::method<&TLSTransport::set_read_buffer_limits>(
            "set_read_buffer_limits",
            "set_read_buffer_limits($self, high=None, low=None)\n--\n\n"
            "As set_write_buffer_limits, of what came and is not read."),
        py::method<&TLSTransport::get_read_buffer_limits>(
            "get_read_buffer_limits", "get_read_buffer_limits($self)\n--\n\nThe low and the high limit."),
        py::method<&TLSTransport::get_read_buffer_size>(
            "get_read_buffer_size", "get_read_buffer_size($self)\n--\n\nHow much came and is not read."),
        py::method<&TLSTransport::connection_made>("connection_made", "asyncio.BaseProtocol.connection_made"),
        py::method<&TLSTransport::connection_lost>("connection_lost", "asyncio.BaseProtocol.connection_lost"),
        py::method<&TLSTransport::data_received>("data_received", "asyncio.Protocol.data_received"),
        py::method<&TLSTransport::eof_received>("eof_received", "asyncio.Protocol.eof_received"),
        py::method<&TLSTransport::pause_writing>("pause_writing", "asyncio.BaseProtocol.pause_writing"),
        py::method<&TLSTransport::resume_writing>("resume_writing", "asyncio.BaseProtocol.resume_writing"),
        py::method<&TLSTransport::begin_with>("_begin_with", "Bytes that came before connection_made."),
        py::method<&TLSTransport::begin_paused>("_begin_paused",
                                                "The transport below has called pause_writing."),
        py::method<&TLSTransport::proceed>("_proceed", "The application reads again."),
        py::method<&TLSTransport::read_on>("_do_read", "asyncio's."),
        py::method<&TLSTransport::handshake_timed_out>("_check_handshake_timeout", "asyncio's."),
        py::method<&TLSTransport::shutdown_timed_out>("_check_shutdown_timeout", "asyncio's."),
        py::method<&TLSTransport::birth_failed>("_birth_failed",
                                                "The handshake has failed, and nobody waits."),
        py::method<&TLSTransport::start_shutdown_now>("_start_shutdown", "asyncio's."),
        py::method<&TLSTransport::force_close>("_force_close", "asyncio's."),
        py::method<&TLSTransport::append_backlog>("_test__append_write_backlog", "For asyncio's tests."),
        {},
    };
    static PyGetSetDef properties[] = {
        py::property<&TLSTransport::get_loop>("_loop", "The loop."),
        py::property<&TLSTransport::get_reading_paused>("_app_reading_paused",
                                                        "Whether pause_reading() was called last."),
        py::property<&TLSTransport::get_protocol_paused>("_protocol_paused",
                                                         "Whether pause_writing() was called last."),
        py::property<&TLSTransport::get_ssl_protocol>("_ssl_protocol", "This object: it is both."),
        // Of asyncio's SSLProtocol, what programs and their tests look at and replace.
        py::property<&TLSTransport::get_context>("_sslcontext", "The ssl.SSLContext."),
        py::property<&TLSTransport::get_ssl_object>("_sslobj", "The ssl.SSLObject, or None."),
        py::property<&TLSTransport::get_ssl_protocol>("_app_transport", "This object: it is both."),
        py::property<&TLSTransport::get_protocol, &TLSTransport::assign_protocol>("_app_protocol",
                                                                                  "set_protocol()'s."),
        py::property<&TLSTransport::get_server_side>("_server_side", "Whether this is the server."),
        py::property<&TLSTransport::get_server_hostname>("_server_hostname", "Whom a client asked for."),
        py::property<&TLSTransport::get_handshake_timeout>("_ssl_handshake_timeout", "In seconds."),
        py::property<&TLSTransport::get_shutdown_timeout>("_ssl_shutdown_timeout", "In seconds."),
        py::property<&TLSTransport::get_closed>("_closed", "asyncio's."),
        py::property<&TLSTransport::get_lost_writes>("_conn_lost", "asyncio's."),
        py::property<&TLSTransport::get_below>("_transport", "The transport that carries this one, or None."),
        {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, "Attributes of its user.", nullptr},
        {},
    };
    static PyMemberDef members[] = {
        {"__dictoffset__", T_PYSSIZET, offsetof(transport_slots, dict), READONLY, nullptr},
        {"__weaklistoffset__", T_PYSSIZET, offsetof(transport_slots, weak_references), READONLY, nullptr},
        {nullptr, 0, 0, 0, nullptr},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("TLS over a stream transport, as an asyncio.Transport.")},
        {Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(&clear)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&py::deallocated<destroy>)},
        {Py_tp_finalize, reinterpret_cast<void*>(&finalize)},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {Py_tp_members, members},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop.SSLTransport", sizeof(TLSTransport), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    const py::ref mixin = py::attribute(py::import("asyncio.transports").get(), "_FlowControlMixin");
    const py::ref bases = py::ref::steal(PyTuple_Pack(1, mixin.get()));
    state.tls_transport_type = detail::make_transport_type(module, spec, bases.get());

    PyObject* const type = state.tls_transport_type.get();
    const py::ref modes = py::attribute(py::import("asyncio.constants").get(), "_SendfileMode");
    const py::ref fallback = py::attribute(modes.get(), "FALLBACK");
    if (PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) != 0 ||
        PyObject_SetAttrString(type, "_sendfile_compatible", fallback.get()) != 0) {
        throw py::error_set{};
    }
    state.tls_received = [](PyObject* protocol, std::span<const std::byte> data) {
        cast(protocol).received(data);
    };
    state.tls_ends_unknown = [](PyObject* protocol) noexcept { return cast(protocol).end_unknown(); };
}

}  // namespace zl
