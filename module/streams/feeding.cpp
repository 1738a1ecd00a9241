// module/streams/feeding.cpp: from a transport into a reader. See streams.hpp.
//
// Who is woken may be anybody's future, and a loop's call_soon() a program's: so what is needed behind that
// is looked up again.

#include <cstring>

#include "streams.hpp"

namespace zl {

py::ref reader_of(const module_state& state, const attributes& protocol) {
    PyObject* const weak = protocol.get(state.streams.stream_reader_wr, 4);
    if (weak == nullptr || !PyWeakref_CheckRefExact(weak)) {
        return nullptr;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* target = nullptr;
    if (PyWeakref_GetRef(weak, &target) < 0) {
        throw py::error_set{};
    }
    return py::ref::adopt(target);
#else
    PyObject* const target = PyWeakref_GET_OBJECT(weak);
    return target != Py_None ? py::ref::borrow(target) : nullptr;
#endif
}

bool exceeds(Py_ssize_t count, PyObject* limit, int times) {
    if (PyLong_CheckExact(limit)) {
        int overflow = 0;
        const long long known = PyLong_AsLongLongAndOverflow(limit, &overflow);
        if (overflow == 0 && known >= 0) {
            return known < count && count - known > known * (times - 1);
        }
    }
    const py::ref factor = py::integer(times), size = py::integer(count);
    const py::ref most = py::ref::steal(PyNumber_Multiply(factor.get(), limit));
    return py::truth(py::ref::steal(PyObject_RichCompare(size.get(), most.get(), Py_GT)).get());
}

namespace {

/// StreamReader._wakeup_waiter(). Throws.
void wake(const module_state& state, const reader_attributes& reader, const py::ref& waiter) {
    reader.put(stream_names::waiter, Py_None);
    if (Py_TYPE(waiter.get()) != reinterpret_cast<PyTypeObject*>(state.stock_future.get())) {
        if (!py::truth(py::call_method(waiter.get(), state.str_cancelled.get()).get())) {
            py::call_method(waiter.get(), state.str_set_result.get(), Py_None);
        }
        return;
    }
    // The usual one refuses by itself when it is cancelled.
    if (!py::try_call_method(waiter.get(), state.str_set_result.get(), Py_None)) {
        py::ref refused = py::take_error();
        if (!py::truth(py::call_method(waiter.get(), state.str_cancelled.get()).get())) {
            py::restore_error(std::move(refused));
            throw py::error_set{};
        }
    }
}

/// Whether it keeps more than a reader should, twice its limit. Throws.
bool is_too_full(const reader_attributes& reader) {
    const py::ref buffer = reader.part(stream_names::buffer), limit = reader.part(stream_names::limit);
    if (!buffer || !limit) {
        return false;
    }
    const Py_ssize_t size = PyObject_Size(buffer.get());
    if (size < 0) {
        throw py::error_set{};
    }
    return exceeds(size, limit.get(), 2);
}

/// The end of StreamReader.feed_data(). Throws.
void maybe_pause(const module_state& state, const reader_attributes& reader) {
    if (!is_too_full(reader)) {
        return;
    }
    const py::ref transport = reader.part(stream_names::transport),
                  paused = reader.part(stream_names::paused);
    if (!transport || transport.get() == Py_None || !paused || py::truth(paused.get())) {
        return;
    }
    if (py::try_call_method(transport.get(), state.str_pause_reading.get())) {
        reader.put(stream_names::paused, Py_True);
    } else if (PyErr_ExceptionMatches(PyExc_NotImplementedError)) {
        PyErr_Clear();
        reader.put(stream_names::transport, Py_None);
    } else {
        throw py::error_set{};
    }
}

}  // namespace

bool feed_stream(const loop_state& core, PyObject* protocol, std::span<const std::byte> data) {
    module_state& state = *core.state;
    if (core.debug || data.empty() || !state.stock_stream_protocol.holds_for(protocol)) {
        return false;
    }
    const attributes own(protocol);
    const py::ref fed = reader_of(state, own);
    if (!fed || own.shadows(state.streams.data_received) || !state.stream_reader.holds_for(fed.get())) {
        return false;
    }
    const reader_attributes reader(state, fed.get());
    const py::ref buffer = reader.part(stream_names::buffer), waiter = reader.part(stream_names::waiter);
    if (!buffer || !PyByteArray_CheckExact(buffer.get()) || !waiter ||
        reader.look(stream_names::eof) != Py_False || !reader.shadow_none()) {
        return false;
    }
    const auto before = static_cast<std::size_t>(PyByteArray_GET_SIZE(buffer.get()));
    if (PyByteArray_Resize(buffer.get(), static_cast<Py_ssize_t>(before + data.size())) != 0) {
        throw py::error_set{};  // somebody has a view of it: as bytearray.extend() says
    }
    std::memcpy(PyByteArray_AS_STRING(buffer.get()) + before, data.data(), data.size());
    if (waiter.get() != Py_None) {
        wake(state, reader, waiter);
    }
    maybe_pause(state, reader);
    return true;
}

}  // namespace zl
