// module/streams/reader.cpp: what is read from a stream. See streams.hpp.

#include <algorithm>
#include <cstring>
#include <optional>

#include "operation.hpp"

namespace zl {

namespace {

using outcome = stream_call::outcome;

bool has_views(PyObject* bytearray) noexcept {
    return reinterpret_cast<PyByteArrayObject*>(bytearray)->ob_exports > 0;
}

/// A reader that one can read from as long as nothing is called.
struct readable {
    reader_attributes parts;
    py::ref buffer;  // exactly a bytearray, without views
    bool eof = false;

    Py_ssize_t size() const noexcept { return PyByteArray_GET_SIZE(buffer.get()); }
    const char* data() const noexcept { return PyByteArray_AS_STRING(buffer.get()); }
};

/// None, where asyncio's method would raise, or do something else than ours.
std::optional<readable> look_at(StreamOperation& self) {
    module_state& state = *self.state;
    if (!state.stream_reader.holds_for(self.stream.get())) {
        return std::nullopt;
    }
    readable seen{reader_attributes(state, self.stream.get()), nullptr};
    if (!seen.parts.shadow_none() || (!self.resumed && seen.parts.look(stream_names::exception) != Py_None)) {
        return std::nullopt;
    }
    PyObject* const eof = seen.parts.look(stream_names::eof);
    seen.eof = eof == Py_True;
    seen.buffer = seen.parts.part(stream_names::buffer);
    if ((!seen.eof && eof != Py_False) || !seen.buffer || !PyByteArray_CheckExact(seen.buffer.get()) ||
        has_views(seen.buffer.get())) {
        return std::nullopt;
    }
    return seen;
}

/// StreamReader._maybe_resume_transport(). Throws.
void maybe_resume(const module_state& state, const reader_attributes& reader) {
    const py::ref paused = reader.part(stream_names::paused);
    if (!paused || !py::truth(paused.get())) {
        return;
    }
    const py::ref buffer = reader.part(stream_names::buffer), limit = reader.part(stream_names::limit);
    const py::ref transport = reader.part(stream_names::transport);
    if (!buffer || !limit || !transport) {
        return;
    }
    const Py_ssize_t size = PyObject_Size(buffer.get());
    if (size < 0) {
        throw py::error_set{};
    }
    if (!exceeds(size, limit.get(), 1)) {
        reader.put(stream_names::paused, Py_False);
        py::call_method(transport.get(), state.str_resume_reading.get());
    }
}

outcome take(StreamOperation& self, const readable& from, Py_ssize_t count, py::ref& result) {
    result = py::ref::steal(PyBytes_FromStringAndSize(from.data(), count));
    const int done = count == from.size() ? PyByteArray_Resize(from.buffer.get(), 0)
                                          : PySequence_DelSlice(from.buffer.get(), 0, count);
    if (done != 0) {
        throw py::error_set{};
    }
    maybe_resume(*self.state, from.parts);
    return outcome::done;
}

outcome read(StreamOperation& self, py::ref& result) {
    const std::optional<readable> seen = look_at(self);
    if (!seen) {
        return outcome::stock;
    }
    if (seen->size() == 0 && !seen->eof && !self.resumed) {
        return self.wait_for_data(seen->parts);
    }
    return take(self, *seen, std::min(self.count, seen->size()), result);
}

outcome read_exactly(StreamOperation& self, py::ref& result) {
    const std::optional<readable> seen = look_at(self);
    if (!seen) {
        return outcome::stock;
    }
    if (seen->size() < self.count) {
        return seen->eof ? outcome::stock : self.wait_for_data(seen->parts);
    }
    return take(self, *seen, self.count, result);
}

/// Where `separator` is first, from self.offset on, or -1.
Py_ssize_t find(const StreamOperation& self, const readable& in, std::string_view separator) noexcept {
    const std::string_view all(in.data(), static_cast<std::size_t>(in.size()));
    const auto found = all.find(separator, static_cast<std::size_t>(self.offset));
    return found == std::string_view::npos ? -1 : static_cast<Py_ssize_t>(found);
}

outcome read_to(StreamOperation& self, std::string_view separator, py::ref& result) {
    const std::optional<readable> seen = look_at(self);
    const py::ref limit = seen ? seen->parts.part(stream_names::limit) : nullptr;
    if (!limit || !PyLong_CheckExact(limit.get())) {
        return outcome::stock;
    }
    const auto length = static_cast<Py_ssize_t>(separator.size());
    if (seen->size() - self.offset >= length) {
        const Py_ssize_t at = find(self, *seen, separator);
        if (at >= 0) {
            return exceeds(at, limit.get(), 1) ? outcome::stock : take(self, *seen, at + length, result);
        }
        self.offset = seen->size() + 1 - length;
        if (exceeds(self.offset, limit.get(), 1)) {
            return outcome::stock;
        }
    }
    return seen->eof ? outcome::stock : self.wait_for_data(seen->parts);
}

outcome read_until(StreamOperation& self, py::ref& result) {
    PyObject* const separator = self.argument.get();  // bytes, and not empty
    return read_to(
        self, {PyBytes_AS_STRING(separator), static_cast<std::size_t>(PyBytes_GET_SIZE(separator))}, result);
}

outcome read_line(StreamOperation& self, py::ref& result) { return read_to(self, "\n", result); }

constexpr stream_call reading{&module_state::stream_reader_type, "StreamReader", "read", read};
constexpr stream_call reading_exactly{&module_state::stream_reader_type, "StreamReader", "readexactly",
                                      read_exactly};
constexpr stream_call reading_line{&module_state::stream_reader_type, "StreamReader", "readline", read_line};
constexpr stream_call reading_until{&module_state::stream_reader_type, "StreamReader", "readuntil",
                                    read_until};

struct StreamReader : py::object {
    py::ref read(const py::arguments& args) { return counted(reading, args); }
    py::ref read_exactly(const py::arguments& args) { return counted(reading_exactly, args); }

    py::ref read_line(const py::arguments& args) {
        module_state& state = state_of(Py_TYPE(self()));
        return args.count == 0 && args.keyword_count() == 0 && state.stream_reader.holds_for(self())
                   ? StreamOperation::make(state, reading_line, self())
                   : inherited(state, reading_line, args);
    }

    py::ref read_until(const py::arguments& args) {
        module_state& state = state_of(Py_TYPE(self()));
        return args.count == 1 && args.keyword_count() == 0 && PyBytes_CheckExact(args.values[0]) &&
                       PyBytes_GET_SIZE(args.values[0]) > 0 && state.stream_reader.holds_for(self())
                   ? StreamOperation::make(state, reading_until, self(), args.values[0])
                   : inherited(state, reading_until, args);
    }

private:
    py::ref counted(const stream_call& call, const py::arguments& args) {
        module_state& state = state_of(Py_TYPE(self()));
        if (args.count == 1 && args.keyword_count() == 0 && PyLong_CheckExact(args.values[0]) &&
            state.stream_reader.holds_for(self())) {
            const Py_ssize_t count = PyLong_AsSsize_t(args.values[0]);
            if (count > 0) {
                return StreamOperation::make(state, call, self(), args.values[0], count);
            }
            PyErr_Clear();
        }
        return inherited(state, call, args);
    }

    py::ref inherited(const module_state& state, const stream_call& call, const py::arguments& args) {
        return call_behind(state.stream_reader_type, self(), py::text(call.name), args);
    }
};

}  // namespace

py::ref call_behind(const py::ref& ours, PyObject* self, const py::ref& name, const py::arguments& args) {
    const py::ref behind = py::call(reinterpret_cast<PyObject*>(&PySuper_Type), ours.get(), self);
    const py::ref method = py::ref::steal(PyObject_GetAttr(behind.get(), name.get()));
    return py::ref::steal(
        PyObject_Vectorcall(method.get(), args.values, static_cast<std::size_t>(args.count), args.keywords));
}

py::ref make_stream_reader_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&StreamReader::read>("read", "read($self, n=-1)\n--\n\nasyncio.StreamReader.read"),
        py::method<&StreamReader::read_exactly>(
            "readexactly", "readexactly($self, n)\n--\n\nasyncio.StreamReader.readexactly"),
        py::method<&StreamReader::read_line>("readline",
                                             "readline($self)\n--\n\nasyncio.StreamReader.readline"),
        py::method<&StreamReader::read_until>(
            "readuntil", "readuntil($self, separator=b'\\n')\n--\n\nasyncio.StreamReader.readuntil"),
        {},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("asyncio.StreamReader, of a transport of ours.")},
        {Py_tp_methods, methods},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop.StreamReader", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
    const py::ref bases = py::ref::steal(PyTuple_Pack(1, state.stock_reader.get()));
    return py::ref::steal(PyType_FromModuleAndSpec(module, &spec, bases.get()));
}

}  // namespace zl
