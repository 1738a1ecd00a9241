// module/streams/operation.cpp: awaiting, waiting, handing over to asyncio's. See operation.hpp.

#include <memory>

#include "operation.hpp"

namespace zl {

namespace {

constexpr int most_free = 64;

/// What `await` sends to.
py::ref iterator_of(PyObject* awaitable) {
    if (PyCoro_CheckExact(awaitable)) {
        return py::ref::borrow(awaitable);
    }
    const PyAsyncMethods* const methods = Py_TYPE(awaitable)->tp_as_async;
    if (methods == nullptr || methods->am_await == nullptr) {
        py::raise_format(PyExc_TypeError, "object %.100s can't be used in 'await' expression",
                         Py_TYPE(awaitable)->tp_name);
    }
    return py::ref::steal(methods->am_await(awaitable));
}

/// The value of the StopIteration in the indicator. Throws.
py::ref take_stop_value() {
    const py::ref stop = py::take_error();
    return py::attribute(stop.get(), "value");
}

}  // namespace

py::ref StreamOperation::make(module_state& state, const stream_call& call, PyObject* stream,
                              PyObject* argument, Py_ssize_t count) {
    auto* type = reinterpret_cast<PyTypeObject*>(state.stream_operation_type.get());
    auto& free = state.free_stream_operations;
    auto* self = reinterpret_cast<StreamOperation*>(free.first);
    if (self != nullptr) {
        free.first = self->next_free;
        --free.length;
        PyObject_Init(self->self(), type);
    } else {
        self = PyObject_GC_New(StreamOperation, type);
        if (self == nullptr) {
            throw py::error_set{};
        }
    }
    ::new (static_cast<stream_operation_fields*>(self)) stream_operation_fields;
    self->call = &call;
    self->state = &state;
    self->stream = py::ref::borrow(stream);
    self->argument = py::ref::borrow(argument);
    self->count = count;
    PyObject_GC_Track(self->self());
    return py::ref::adopt(self->self());
}

// Awaiting.

PySendResult StreamOperation::step(PyObject* value, PyObject** result) noexcept {
    *result = nullptr;
    if (!can_be_sent_to(at, value)) {
        return PYGEN_ERROR;
    }
    const phase before = std::exchange(at, phase::running);
    const PySendResult came =
        before == phase::created ? PYGEN_RETURN : PyIter_Send(inner.get(), value, result);
    return go_on(before, came, result);
}

/// `inner` has come this far; when it has ended, what follows. At the beginning nothing has to end.
PySendResult StreamOperation::go_on(phase from, PySendResult came, PyObject** result) noexcept {
    for (;;) {
        if (came == PYGEN_NEXT) {
            at = from;
            return came;
        }
        if (from == phase::delegated) {
            drop();
            return came;
        }
        py::ref given;
        const bool tried = came == PYGEN_RETURN;
        const bool goes_on = py::attempt([&] {
            if (from == phase::waiting) {
                Py_CLEAR(*result);
                leave_waiter();
                resumed = true;
            }
            if (came == PYGEN_RETURN) {
                from = begin(given);
                return;
            }
            py::ref error = py::take_error();
            if (!is_readers_own_error(error.get())) {
                py::restore_error(std::move(error));
                throw py::error_set{};
            }
            from = delegate();
        });
        if (!goes_on || from == phase::finished) {
            drop();
            *result = goes_on ? given.release() : nullptr;
            return goes_on ? PYGEN_RETURN : PYGEN_ERROR;
        }
        came = from == phase::delegated && tried ? step_after_waiting(result)
                                                 : PyIter_Send(inner.get(), Py_None, result);
    }
}

/// The first step of asyncio's coroutine in the place of ours. It would look for the reader's exception
/// first, and not again when it has waited, as ours may have: then it does not find it there.
PySendResult StreamOperation::step_after_waiting(PyObject** result) noexcept {
    const py::ref reader = stream;  // its end drops ours
    py::ref hidden;
    if (resumed && !py::attempt([&] {
            const reader_attributes parts(*state, reader.get());
            hidden = parts.part(stream_names::exception);
            if (hidden && hidden.get() != Py_None) {
                parts.put(stream_names::exception, Py_None);
            } else {
                hidden.reset();
            }
        })) {
        return PYGEN_ERROR;
    }
    const PySendResult came = PyIter_Send(inner.get(), Py_None, result);
    if (hidden) {
        const py::error_kept kept;
        if (!py::attempt([&] {
                const reader_attributes parts(*state, reader.get());
                if (parts.look(stream_names::exception) == Py_None) {  // not another by now
                    parts.put(stream_names::exception, hidden.get());
                }
            })) {
            PyErr_WriteUnraisable(reader.get());
        }
    }
    return came;
}

/// The phase in which it awaits `inner`, or the end.
StreamOperation::phase StreamOperation::begin(py::ref& result) {
    switch (call->attempt(*this, result)) {
        case stream_call::outcome::done: return phase::finished;
        case stream_call::outcome::waits: return phase::waiting;
        default: return delegate();
    }
}

StreamOperation::phase StreamOperation::delegate() {
    PyObject* const value = argument.get();
    const py::ref name = py::text(call->name);
    const py::ref stock =
        call_behind(state->*call->ours, stream.get(), name, {&value, argument ? 1 : 0, nullptr});
    inner = iterator_of(stock.get());
    return phase::delegated;
}

/// Who waits is told by set_exception(), which has put it into the reader as well; there asyncio's readline()
/// finds it, and knows two that it does not raise.
bool StreamOperation::is_readers_own_error(PyObject* error) const {
    if (!PyExceptionInstance_Check(error)) {
        return false;
    }
    return reader_attributes(*state, stream.get()).look(stream_names::exception) == error;
}

// Waiting.

stream_call::outcome StreamOperation::wait_for_data(const reader_attributes& reader) {
    const py::ref loop = reader.part(stream_names::loop);
    PyObject* const paused = reader.look(stream_names::paused);
    if (!loop || reader.look(stream_names::waiter) != Py_None || (paused != Py_True && paused != Py_False)) {
        return stream_call::outcome::stock;  // RuntimeError: another coroutine waits
    }
    if (paused == Py_True) {
        const py::ref transport = reader.part(stream_names::transport);
        if (!transport) {
            return stream_call::outcome::stock;
        }
        reader.put(stream_names::paused, Py_False);
        py::call_method(transport.get(), state->str_resume_reading.get());
    }
    const py::ref future = py::call_method(loop.get(), state->str_create_future.get());
    reader.put(stream_names::waiter, future.get());
    try {
        inner = iterator_of(future.get());
    } catch (const py::error_set&) {
        leave_waiter();
        throw;
    }
    return stream_call::outcome::waits;
}

/// What stands behind asyncio's `finally`. Keeps the error indicator.
void StreamOperation::leave_waiter() noexcept {
    const py::error_kept kept;
    inner.reset();
    if (!py::attempt([&] { reader_attributes(*state, stream.get()).put(stream_names::waiter, Py_None); })) {
        PyErr_WriteUnraisable(stream.get());
    }
}

void StreamOperation::drop() noexcept {
    if (std::exchange(at, phase::finished) == phase::waiting) {
        leave_waiter();
    }
    const py::error_kept kept;
    inner.reset();
    argument.reset();
    stream.reset();
}

// The coroutine's interface.

py::ref StreamOperation::throw_into(const py::arguments& args) {
    check_idle(at);
    if (at == phase::finished) {
        exception_of(args);
        py::raise(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    const phase before = at;
    PyObject* result = nullptr;
    if (before != phase::created) {
        at = phase::running;
        const py::ref method = py::ref::adopt(PyObject_GetAttr(inner.get(), state->str_throw.get()));
        result = method ? PyObject_Vectorcall(method.get(), args.values, static_cast<std::size_t>(args.count),
                                              args.keywords)
                        : nullptr;
    } else {
        const py::ref error = exception_of(args);
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
        drop();
        throw py::error_set{};
    }
    PySendResult came = result != nullptr ? PYGEN_NEXT : PYGEN_ERROR;
    if (came == PYGEN_ERROR && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        result = take_stop_value().release();
        came = PYGEN_RETURN;
    }
    came = go_on(before, came, &result);
    return as_sent(came, result);
}

py::ref StreamOperation::close() {
    check_idle(at);
    if (at == phase::delegated) {
        at = phase::running;
        const py::ref ended = py::ref::adopt(PyObject_CallMethod(inner.get(), "close", nullptr));
        if (!ended) {
            drop();
            throw py::error_set{};
        }
    }
    drop();
    return py::none();
}

namespace {

StreamOperation& operation(PyObject* object) noexcept { return *reinterpret_cast<StreamOperation*>(object); }

int traverse(PyObject* object, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(object));
    return stream_operation_fields::owned::visit(static_cast<stream_operation_fields&>(operation(object)),
                                                 visit, arg);
}

int clear(PyObject* object) {
    operation(object).drop();
    return 0;
}

void destroy(PyObject* object) {
    StreamOperation& self = operation(object);
    PyTypeObject* type = Py_TYPE(object);
    module_state& state = *self.state;
    if (self.at == StreamOperation::phase::created) {
        warn_of_never_awaited(self.owner(), self.name());
    }
    self.drop();  // it owns nothing any more
    auto& free = state.free_stream_operations;
    if (free.length < most_free && state.keeps_free_handles) {
        self.next_free = std::exchange(free.first, object);
        ++free.length;
    } else {
        std::destroy_at(static_cast<stream_operation_fields*>(&self));
        PyObject_GC_Del(object);
    }
    Py_DECREF(type);
}

}  // namespace

void drop_free_stream_operations(module_state& state) noexcept {
    auto& free = state.free_stream_operations;
    while (free.first != nullptr) {
        PyObject* const dropped = std::exchange(free.first, operation(free.first).next_free);
        PyObject_GC_Del(dropped);
    }
    free.length = 0;
}

void add_stream_operation_type(PyObject* module, module_state& state) {
    state.stream_operation_type = make_coroutine_type<StreamOperation, traverse, clear, destroy>(
        module, "zloop._zloop.StreamOperation", "What a stream's methods return, to be awaited.",
        "As a coroutine's.");
}

}  // namespace zl
