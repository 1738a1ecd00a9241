// module/streams/writer.cpp: what is written to a stream. See streams.hpp.

#include "../transport.hpp"
#include "operation.hpp"

namespace zl {

namespace {

using outcome = stream_call::outcome;

/// A SocketTransport that nobody has changed, or null.
const transport* plain_socket(module_state& state, const py::ref& object) {
    if (!state.socket_transport.holds_for(object.get())) {
        return nullptr;
    }
    const auto& found = *reinterpret_cast<const transport*>(object.get());
    return found.dict == nullptr ? &found : nullptr;
}

bool is_closing(module_state& state, const py::ref& object) {
    const transport* const socket = plain_socket(state, object);
    return socket != nullptr ? socket->closing
                             : py::truth(py::call_method(object.get(), state.str_is_closing.get()).get());
}

/// Nothing has to be waited for, and nothing is to be raised; else asyncio's says which.
outcome drain(StreamOperation& self, py::ref& result) {
    module_state& state = *self.state;
    const auto& names = state.streams;
    if (!state.stream_writer.holds_for(self.stream.get())) {
        return outcome::stock;
    }
    const attributes writer(self.stream.get());
    const py::ref transport = py::ref::borrow(writer.get(names.writer_transport, 0));
    const py::ref protocol = py::ref::borrow(writer.get(names.writer_protocol, 1));
    const py::ref reader = py::ref::borrow(writer.get(names.writer_reader, 2));
    if (!transport || !protocol || !reader || !state.stock_stream_protocol.holds_for(protocol.get()) ||
        !state.stream_reader.holds_for(reader.get())) {
        return outcome::stock;
    }
    const reader_attributes read(state, reader.get());
    const attributes flow(protocol.get());
    if (read.look(stream_names::exception) != Py_None || !read.shadow_none() ||
        flow.get(names.reader[stream_names::paused], 1) != Py_False ||
        flow.get(names.connection_lost, 3) != Py_False || flow.shadows(names.drain_helper) ||
        is_closing(state, transport)) {
        return outcome::stock;
    }
    result = py::none();
    return outcome::done;
}

constexpr stream_call draining{&module_state::stream_writer_type, "StreamWriter", "drain", drain};

struct StreamWriter : py::object {
    py::ref write(const py::arguments& args) {
        module_state& state = state_of(Py_TYPE(self()));
        if (args.count == 1 && args.keyword_count() == 0 && state.stream_writer.holds_for(self())) {
            const attributes parts(self());
            if (const py::ref transport = py::ref::borrow(parts.get(state.streams.writer_transport, 0))) {
                if (plain_socket(state, transport) != nullptr) {
                    return state.socket_write(transport.get(), args);
                }
                py::call_method(transport.get(), state.str_write.get(), args.values[0]);
                return py::none();
            }
        }
        return call_behind(state.stream_writer_type, self(), state.str_write, args);
    }

    py::ref drain(const py::arguments& args) {
        module_state& state = state_of(Py_TYPE(self()));
        return args.count == 0 && args.keyword_count() == 0 && state.stream_writer.holds_for(self())
                   ? StreamOperation::make(state, draining, self())
                   : call_behind(state.stream_writer_type, self(), py::text(draining.name), args);
    }
};

}  // namespace

py::ref make_stream_writer_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&StreamWriter::write>("write", "write($self, data)\n--\n\nasyncio.StreamWriter.write"),
        py::method<&StreamWriter::drain>("drain", "drain($self)\n--\n\nasyncio.StreamWriter.drain"),
        {},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("asyncio.StreamWriter, of a transport of ours.")},
        {Py_tp_methods, methods},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop.StreamWriter", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    const py::ref bases = py::ref::steal(PyTuple_Pack(1, state.stock_writer.get()));
    return py::ref::steal(PyType_FromModuleAndSpec(module, &spec, bases.get()));
}

}  // namespace zl
