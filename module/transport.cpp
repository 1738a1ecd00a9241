// module/transport.cpp: birth, flow control and end of any transport. See transport.hpp.

#include "transport.hpp"

#include <limits>

namespace zl {

std::size_t limit_from(PyObject* value) {
    const double size = PyFloat_AsDouble(value);
    if (size == -1.0 && PyErr_Occurred()) {
        throw py::error_set{};
    }
    constexpr auto most = std::numeric_limits<std::ptrdiff_t>::max();
    if (size < 0) {  // asyncio compares: always more than that, or never so little
        return 0;
    }
    return size < static_cast<double>(most) ? static_cast<std::size_t>(size) : static_cast<std::size_t>(most);
}

void transport::set_high_water(PyObject* value) { high_water = limit_from(value); }
void transport::set_low_water(PyObject* value) { low_water = limit_from(value); }

/// Tests, and proxies, put another one in an open transport's place: as set_protocol(), whatever kind it is.
void transport::assign_protocol(PyObject* value) {
    py::call_method(self(), py::text("set_protocol").get(), value);
}

// Birth.

void transport::enlist() noexcept {
    next = core->transports;
    if (next != nullptr) {
        next->previous = this;
    }
    core->transports = this;
    open = true;
    Py_INCREF(self());  // the list's
}

void transport::begin(PyObject* waiter) {
    try {
        introduce(true, waiter);
    } catch (...) {
        orphan();
        throw;
    }
}

void transport::introduce(bool reads, PyObject* waiter) {
    module_state& state = *core->state;
    const py::ref connection_made =
        py::ref::steal(PyObject_GetAttr(protocol.get(), state.str_connection_made.get()));
    const py::ref begin_reading = reads ? py::attribute(self(), "_begin_reading") : nullptr;
    // All of them, or none.
    new_handles all(*core, context.get());
    all.add(connection_made.get(), {self()});
    if (reads) {
        all.add(begin_reading.get(), {});
    }
    if (waiter != Py_None) {
        all.add(state.set_result_unless_cancelled.get(), {waiter, Py_None});
    }
    all.queue();
}

py::ref transport::get_extra() {
    if (!knows_extra && kind->fill_extra != nullptr) {
        kind->fill_extra(*this);
    }
    knows_extra = true;
    if (!extra) {
        extra = py::ref::steal(PyDict_New());
    }
    return extra;
}

void transport::reserve_number(loop_state& core, int number) {
    const auto index = static_cast<std::size_t>(number);
    if (core.transport_of.size() <= index) {
        core.transport_of.resize(index + 1);
    }
}

void transport::take_number() noexcept { core->transport_of[static_cast<std::size_t>(fd)] = this; }

void transport::forget_number() noexcept {
    const auto index = static_cast<std::size_t>(fd);
    if (index < core->transport_of.size() && core->transport_of[index] == this) {  // else it was never taken
        core->transport_of[index] = nullptr;
    }
}

// Flow control.

void transport::tell_flow(PyObject* method, const char* message) noexcept {
    const py::ref called = protocol;
    if (py::try_call_method(called.get(), method)) {
        return;
    }
    if (py::error_is_fatal()) {
        core->fail();
        return;
    }
    tell(core->state->str_transport_failed, py::take_error(), message);
}

/// `method(self, error, message)` of the loop, whose Python tells the user.
void transport::tell(const py::ref& method, const py::ref& error, const char* message) noexcept {
    const py::ref words = py::ref::adopt(PyUnicode_FromString(message));
    if (!words || !py::try_call_method(core->self(), method.get(), self(), error.get(), words.get())) {
        core->fail();
    }
}

// The end.

void transport::schedule_lost(PyObject* error) {
    const py::ref method =
        py::ref::steal(PyObject_GetAttr(self(), core->state->str_call_connection_lost.get()));
    schedule(*core, method.get(), {error}, context.get());
}

void transport::count_lost_write(const char* words) {
    if (lost_writes >= 5) {  // asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
        py::call_method(core->self(), core->state->str_warn_lost_writes.get(), py::text(words).get());
    }
    ++lost_writes;
}

py::ref transport::call_connection_lost(PyObject* error) {
    if (lost) {
        return py::none();
    }
    lost = true;
    if (!closing) {  // nobody has closed it: who calls this is not the loop
        closing = true;
        ++lost_writes;
        reader.cancel();
        writer.cancel();
    }
    const py::ref alive = py::ref::borrow(self());
    py::ref done = call_protocol(core->state->str_connection_lost, error);
    py::ref failure = done ? nullptr : py::take_error();
    protocol = py::none();  // only now: connection_lost() may ask for it
    kind->close_descriptor(*this);
    core->has_sent();
    release_if_over();
    if (failure) {
        py::restore_error(std::move(failure));
        throw py::error_set{};
    }
    return py::none();
}

void transport::release_if_over() noexcept {
    if (!open || !(lost || orphaned) || reader.running() || writer.running()) {
        return;
    }
    (previous != nullptr ? previous->next : core->transports) = next;
    if (next != nullptr) {
        next->previous = previous;
    }
    open = false;
    Py_DECREF(self());
}

void transport::orphan() noexcept {
    if (orphaned) {
        return;
    }
    orphaned = true;
    kind->leave_service(*this);
    release_if_over();
}

void transport::finalize() noexcept {
    if (lost || core == nullptr) {
        return;
    }
    const py::error_kept kept;
    if (PyErr_ResourceWarning(self(), 1, "unclosed transport %R", self()) != 0) {
        PyErr_WriteUnraisable(self());
    }
    lost = true;
    kind->close_descriptor(*this);
}

void transport::fatal_error(py::ref error, const char* message, bool quietly) noexcept {
    if (!quietly) {
        tell(core->state->str_transport_failed, error, message);
    } else if (core->debug) {
        tell(core->state->str_log_failure, error, message);
    }
    kind->force_close(*this, error.get());
}

void transport::fatal_error_from_indicator(const char* message) noexcept {
    if (py::error_is_fatal()) {
        core->fail();
    } else {
        fatal_error(py::take_error(), message);
    }
}

void transport::no_memory() noexcept {
    PyErr_NoMemory();
    fatal_error_from_indicator("Fatal error on transport");
}

void transport::log_in_debug(const py::ref& log, const char* what) noexcept {
    if (!core->debug) {
        return;
    }
    const py::ref words = py::ref::adopt(PyUnicode_FromString(what));
    if (!words || !py::try_call_method(core->self(), log.get(), self(), words.get())) {
        core->report_unraisable(self());
    }
}

// The type.

py::ref detail::make_transport_type(PyObject* module, PyType_Spec& spec, PyObject* bases) {
    const py::ref transports = py::import("asyncio.transports");
    const py::ref mixin = py::attribute(transports.get(), "_FlowControlMixin");
    py::check_slot(mixin.get(), "_extra", offsetof(transport_slots, unused_extra));
    py::check_slot(mixin.get(), "_high_water", offsetof(transport_slots, unused_high_water));
    py::check_slot(mixin.get(), "_loop", offsetof(transport_slots, unused_loop));
    py::check_slot(mixin.get(), "_low_water", offsetof(transport_slots, unused_low_water));
    py::check_slot(mixin.get(), "_protocol_paused", offsetof(transport_slots, unused_protocol_paused));
    if (reinterpret_cast<PyTypeObject*>(mixin.get())->tp_basicsize != offsetof(transport_slots, dict)) {
        py::raise(PyExc_ImportError, "zloop does not know this asyncio: its transports have other slots");
    }
    return py::ref::steal(PyType_FromModuleAndSpec(module, &spec, bases));
}

}  // namespace zl
