// module/streams/operation.hpp: what reader.read() and its sisters return, and writer.drain(): to be awaited.
//
//     class StreamOperation(collections.abc.Coroutine):
//         def send(self, value): ...
//         def throw(self, exc): ...
//         def close(self): ...
//
// Awaited, it takes what is there. Where that is not enough it awaits the reader's `_waiter`, as asyncio's
// does, and looks again. Where anything is not as made, or would be an error, it awaits asyncio's own
// coroutine: up to then it has changed nothing.
#pragma once

#include "../coroutine.hpp"
#include "streams.hpp"

namespace zl {

struct StreamOperation;

/// What an operation does.
struct stream_call {
    enum class outcome : std::uint8_t { done, waits, stock };

    py::ref module_state::*ours;  // the type
    const char* owner;            // its name
    const char* name;             // and that of the method

    /// Takes, where that is possible. Throws.
    outcome (*attempt)(StreamOperation& operation, py::ref& result);
};

struct stream_operation_fields {
    using phase = coroutine_phase;

    const stream_call* call = nullptr;
    module_state* state = nullptr;
    py::ref stream;         // the reader or writer
    py::ref argument;       // of the call; or none
    py::ref inner;          // what is awaited: of the waiter, or of asyncio's coroutine
    Py_ssize_t count = 0;   // how many bytes are asked for
    Py_ssize_t offset = 0;  // in the buffer: where the separator may begin
    PyObject* next_free = nullptr;
    phase at = phase::created;
    bool resumed = false;  // has waited

    using owned = py::owned<&stream_operation_fields::stream, &stream_operation_fields::argument,
                            &stream_operation_fields::inner>;
};

struct StreamOperation : coroutine<StreamOperation>, stream_operation_fields {
    static py::ref make(module_state& state, const stream_call& call, PyObject* stream,
                        PyObject* argument = nullptr, Py_ssize_t count = 0);

    const char* owner() const noexcept { return call->owner; }
    const char* name() const noexcept { return call->name; }

    py::ref throw_into(const py::arguments& args);
    py::ref close();

    /// As PyIter_Send().
    PySendResult step(PyObject* value, PyObject** result) noexcept;

    /// StreamReader._wait_for_data(), up to its await. Throws.
    stream_call::outcome wait_for_data(const reader_attributes& reader);

    /// It is over, or garbage. Keeps the error indicator.
    void drop() noexcept;

private:
    friend void add_stream_operation_type(PyObject* module, module_state& state);

    phase begin(py::ref& result);
    phase delegate();
    PySendResult step_after_waiting(PyObject** result) noexcept;
    PySendResult go_on(phase from, PySendResult came, PyObject** result) noexcept;
    bool is_readers_own_error(PyObject* error) const;
    void leave_waiter() noexcept;
};

void add_stream_operation_type(PyObject* module, module_state& state);
py::ref make_stream_reader_type(PyObject* module, module_state& state);
py::ref make_stream_writer_type(PyObject* module, module_state& state);

}  // namespace zl
