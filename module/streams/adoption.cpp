// module/streams/adoption.cpp: asyncio's streams get our classes. See streams.hpp.
//
// The reader does when a transport learns of its protocol. A server's writer is made by connection_made(),
// and shown to nobody but the protocol's callback; so that is ours for as long, and hands on. Who connects
// makes the writer after all that, out of our sight: it stays asyncio's, over a reader and a transport of
// ours.

#include "operation.hpp"

namespace zl {

namespace {

/// Changes the class of what is exactly a `stock`. An auditor may refuse. Throws.
void give_class(PyObject* object, const py::ref& stock, class_as_made& ours, const py::ref& type) {
    if (Py_TYPE(object) == reinterpret_cast<PyTypeObject*>(stock.get()) && ours.holds() &&
        PyObject_SetAttrString(object, "__class__", type.get()) != 0) {
        throw py::error_set{};
    }
}

PyObject* introduce(PyObject* callback, PyObject* const* values, Py_ssize_t count, PyObject* keywords);

PyMethodDef introduction = {
    "client_connected_cb", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&introduce)),
    METH_FASTCALL | METH_KEYWORDS, "Gives the writer our class, and calls the one that it stands for."};

bool introduces(PyObject* value) noexcept {
    return PyCFunction_CheckExact(value) && PyCFunction_GET_FUNCTION(value) == introduction.ml_meth;
}

/// `writer` is new, and the protocol's callback for it is `callback` again. Throws.
void adopt_writer(PyObject* callback, PyObject* writer) {
    const py::ref transport = py::attribute(writer, "_transport");
    module_state& state = state_of(Py_TYPE(transport.get()));
    const auto& names = state.streams;
    const py::ref protocol = py::attribute(writer, "_protocol");
    const attributes own(protocol.get());
    PyObject* const kept = own.get(names.client_connected_cb);
    if (kept != nullptr && introduces(kept) && PyCFunction_GET_SELF(kept) == callback) {
        own.set(names.client_connected_cb, callback);
    }
    give_class(writer, state.stock_writer, state.stream_writer, state.stream_writer_type);
}

PyObject* introduce(PyObject* callback, PyObject* const* values, Py_ssize_t count, PyObject* keywords) {
    const py::ref called = py::ref::borrow(callback);
    if (count == 2 && !py::attempt([&] { adopt_writer(called.get(), values[1]); })) {
        if (py::error_is_fatal()) {
            return nullptr;
        }
        PyErr_Clear();
    }
    return PyObject_Vectorcall(called.get(), values, static_cast<std::size_t>(count), keywords);
}

}  // namespace

void adopt_streams(loop_state& core, PyObject* protocol) noexcept {
    module_state& state = *core.state;
    if (core.debug || !state.stock_stream_protocol.holds_for(protocol)) {
        return;
    }
    const bool done = py::attempt([&] {
        const auto& names = state.streams;
        const attributes own(protocol);
        const py::ref reader = reader_of(state, own);
        if (!reader || own.get(names.reader[stream_names::loop]) != core.self()) {
            return;
        }
        give_class(reader.get(), state.stock_reader, state.stream_reader, state.stream_reader_type);
        const py::ref callback = py::ref::borrow(own.get(names.client_connected_cb));
        if (callback && callback.get() != Py_None && !introduces(callback.get()) &&
            own.get(names.reader[stream_names::transport]) == Py_None) {
            own.set(names.client_connected_cb,
                    py::ref::steal(PyCFunction_New(&introduction, callback.get())).get());
        }
    });
    if (!done) {
        py::error_is_fatal() ? core.fail() : PyErr_Clear();
    }
}

void add_stream_types(PyObject* module, module_state& state) {
    const py::ref streams = py::import("asyncio.streams");
    state.stock_reader = py::attribute(streams.get(), "StreamReader");
    state.stock_writer = py::attribute(streams.get(), "StreamWriter");
    add_stream_operation_type(module, state);
    state.stream_reader_type = make_stream_reader_type(module, state);
    state.stream_writer_type = make_stream_writer_type(module, state);

    auto& names = state.streams;
    const auto intern = [](py::ref& into, const char* name) {
        into = py::ref::steal(PyUnicode_InternFromString(name));
    };
    const auto intern_all = [&](auto& into, auto... all) {
        std::size_t index = 0;
        (intern(into[index++], all), ...);
    };
    intern_all(names.reader, "_limit", "_loop", "_buffer", "_eof", "_waiter", "_exception", "_transport",
               "_paused");
    intern_all(names.reader_methods, "exception", "feed_data", "readuntil", "_maybe_resume_transport",
               "_wait_for_data", "_wakeup_waiter");
    intern(names.writer_transport, "_transport");
    intern(names.writer_protocol, "_protocol");
    intern(names.writer_reader, "_reader");
    intern(names.client_connected_cb, "_client_connected_cb");
    intern(names.connection_lost, "_connection_lost");
    intern(names.data_received, "data_received");
    intern(names.drain_helper, "_drain_helper");
    intern(names.stream_reader_wr, "_stream_reader_wr");

    // What ours do instead of asyncio's, and what must not stand between a name and its place in the dict.
    const auto watch = [&](class_as_made& watched, const py::ref& type, const char* const* parts) {
        watched.watch(type.get());
        watched.remember(type.get(), streams.get(), parts);
    };
    constexpr const char* of_reader[] = {"read",           "readexactly",
                                         "readline",       "readuntil",
                                         "feed_data",      "_wakeup_waiter",
                                         "_wait_for_data", "_maybe_resume_transport",
                                         "exception",      "_buffer",
                                         "_eof",           "_exception",
                                         "_limit",         "_loop",
                                         "_paused",        "_transport",
                                         "_waiter",        "__getattribute__",
                                         "__getattr__",    "__setattr__",
                                         nullptr};
    watch(state.stream_reader, state.stream_reader_type, of_reader);
    state.stream_reader.remember(state.stock_reader.get(), streams.get(), of_reader);
    constexpr const char* of_writer[] = {"write",       "drain",       "_transport",
                                         "_protocol",   "_reader",     "__getattribute__",
                                         "__getattr__", "__setattr__", nullptr};
    watch(state.stream_writer, state.stream_writer_type, of_writer);
    state.stream_writer.remember(state.stock_writer.get(), streams.get(), of_writer);
    constexpr const char* of_protocol[] = {
        "connection_made",      "data_received",    "_drain_helper", "_stream_reader", "_stream_reader_wr",
        "_client_connected_cb", "_connection_lost", "_paused",       "_transport",     "_loop",
        "__getattribute__",     "__getattr__",      "__setattr__",   nullptr};
    watch(state.stock_stream_protocol, py::attribute(streams.get(), "StreamReaderProtocol"), of_protocol);
    constexpr const char* of_transport[] = {"write", "is_closing", "__getattribute__", "__getattr__",
                                            nullptr};
    watch(state.socket_transport, state.socket_transport_type, of_transport);
}

}  // namespace zl
