// module/transport.hpp: what all transports share: their place in the loop, flow control, their end.
//
// A transport is a struct of its own that begins with this one. From its birth until connection_lost()
// and the end of its coroutines, the loop owns a reference. What each kind does in its own way is a
// table of functions: virtual functions would put a vtable where the Python object begins.
#pragma once

#include <algorithm>
#include <array>
#include <memory>

#include "fiber.hpp"
#include "handle.hpp"

namespace zl {

/// What each kind of transport does in its own way.
struct transport_kind {
    /// asyncio's _force_close: the end, now, with `error` or None for connection_lost().
    void (*force_close)(transport& self, PyObject* error) noexcept;

    /// Closes the descriptor and lets go of what belongs to it: connection_lost() was called, or nobody
    /// cared to close. Once.
    void (*close_descriptor)(transport& self) noexcept;

    /// The loop is closed or collected: takes the descriptor out of its service, open. For those in its list.
    void (*leave_service)(transport& self) noexcept;

    /// Puts what it knows into its new `_extra`. Null: nothing. Throws.
    void (*fill_extra)(transport& self);
};

/// The slots of asyncio's _FlowControlMixin, in the order in which type creation lays them out. Its
/// Python code sets the limits, and sendfile's fallback asks for it. Its descriptors can put anything into
/// them, at any time; we only keep it.
struct transport_slots : py::object {
    PyObject* unused_extra;
    PyObject* unused_high_water;
    PyObject* unused_loop;
    PyObject* unused_low_water;
    PyObject* unused_protocol_paused;
    PyObject* dict;
    PyObject* weak_references;

    int visit_slots(visitproc visit, void* arg) {
        for (PyObject* each :
             {unused_extra, unused_high_water, unused_loop, unused_low_water, unused_protocol_paused, dict}) {
            Py_VISIT(each);
        }
        return 0;
    }
    void clear_slots() noexcept {
        for (PyObject** each : {&unused_extra, &unused_high_water, &unused_loop, &unused_low_water,
                                &unused_protocol_paused, &dict}) {
            Py_CLEAR(*each);
        }
    }
};

/// A limit in bytes that asyncio has checked: a number that is not negative. Throws.
std::size_t limit_from(PyObject* value);

struct transport_fields {
    transport_fields(loop_state& owner, const transport_kind& own_kind, py::ref own_context) noexcept
        : core(&owner),
          loop(py::ref::borrow(owner.self())),
          kind(&own_kind),
          context(std::move(own_context)) {}

    loop_state* core;  // `loop`'s
    py::ref loop;
    const transport_kind* kind;
    py::ref protocol, context;
    py::ref extra;  // asyncio's `_extra`: a dict, or what a program has put there; made when it is asked for
    transport* next = nullptr;  // in the loop's list of open transports
    transport* previous = nullptr;
    fiber::place reader, writer;
    std::size_t high_water = 64 * 1024, low_water = 16 * 1024;
    int fd = -1;          // the number, also after it was closed
    int lost_writes = 0;  // asyncio's _conn_lost: not 0 once connection_lost is scheduled

    bool open : 1 = false;            // in the loop's list
    bool made : 1 = false;            // reading may begin: connection_made was called
    bool closing : 1 = false;         // close() or abort() was called, or the connection failed
    bool paused : 1 = false;          // by pause_reading()
    bool delivering : 1 = false;      // the reader calls the protocol
    bool writing_paused : 1 = false;  // the protocol was told
    bool lost : 1 = true;             // connection_lost was called; or there is nothing to close yet
    bool orphaned : 1 = false;        // the loop is gone
    bool knows_extra : 1 = false;     // `extra` is complete, or its user's

    using owned = py::owned<&transport_fields::loop, &transport_fields::protocol, &transport_fields::context,
                            &transport_fields::extra>;
};

struct transport : transport_slots, transport_fields {
    py::ref is_closing() { return py::boolean(closing); }
    py::ref get_protocol() { return protocol; }
    void assign_protocol(PyObject* value);
    py::ref get_lost_writes() { return py::integer(lost_writes); }
    py::ref get_fd() { return py::integer(fd); }
    zloop::loop& event_loop() const noexcept { return *core->loop; }
    zloop::scope& scope_above() const noexcept { return *core->within; }
    py::ref get_loop() { return loop; }
    py::ref get_extra();
    void set_extra(PyObject* value) {
        knows_extra = true;
        extra = py::ref::borrow(value);
    }
    py::ref get_paused() { return py::boolean(paused); }
    py::ref get_protocol_paused() { return py::boolean(writing_paused); }
    py::ref get_high_water() { return py::ref::steal(PyLong_FromSize_t(high_water)); }
    void set_high_water(PyObject* value);
    py::ref get_low_water() { return py::ref::steal(PyLong_FromSize_t(low_water)); }
    void set_low_water(PyObject* value);
    py::ref call_connection_lost(PyObject* error);

    /// The loop is closed or collected: leaves its service and its list.
    void orphan() noexcept;

    /// Dropped without close(): says so, and closes.
    void finalize() noexcept;

protected:
    /// Enters the loop's list: from here on the loop knows that it has a descriptor of its backend's.
    void enlist() noexcept;

    /// Introduces itself to its protocol, or leaves the loop.
    void begin(PyObject* waiter);

    /// Schedules connection_made(), `_begin_reading()` if it `reads`, and what tells `waiter` (may be None).
    void introduce(bool reads, PyObject* waiter);

    /// The loop finds sockets by descriptor: this one is at `fd`, until that may be another's.
    static void reserve_number(loop_state& core, int number);
    void take_number() noexcept;  // which is reserved
    void forget_number() noexcept;

    /// The end of whatever may have been the last that goes on: leaves the list when nothing does.
    void release_if_over() noexcept;

    /// `protocol.name(values...)`; null with the error set when it raises.
    template <class... Values>
    py::ref call_protocol(const py::ref& name, Values... values) noexcept {
        const py::ref called = protocol;
        return py::try_call_method(called.get(), name.get(), values...);
    }

    // Flow control, by what is written and not yet sent.
    void maybe_pause_writing(std::size_t bytes) noexcept {
        if (!writing_paused && bytes > high_water) {
            writing_paused = true;
            tell_flow(core->state->str_pause_writing.get(), "protocol.pause_writing() failed");
        }
    }
    void maybe_resume_writing(std::size_t bytes) noexcept {
        if (writing_paused && bytes <= low_water) {
            writing_paused = false;
            tell_flow(core->state->str_resume_writing.get(), "protocol.resume_writing() failed");
        }
    }

    /// asyncio's _fatal_error: ends the connection, and tells of it: quietly, or as of an error.
    void fatal_error(py::ref error, const char* message, bool quietly) noexcept;
    void fatal_error(py::ref error, const char* message) noexcept {
        const bool systems = PyErr_GivenExceptionMatches(error.get(), PyExc_OSError) != 0;
        fatal_error(std::move(error), message, systems);
    }
    void fatal_error_from_indicator(const char* message) noexcept;

    /// One of its coroutines could not begin.
    void no_memory() noexcept;

    void schedule_lost(PyObject* error);

    /// One more write to a connection that is over: from the sixth on, `words` are logged as a warning.
    void count_lost_write(const char* words);

    /// "<transport> `what`", to asyncio's log, in debug mode.
    void log_in_debug(const char* what) noexcept { log_in_debug(core->state->str_log_debug, what); }
    void log_in_debug(const py::ref& log, const char* what) noexcept;

private:
    void tell_flow(PyObject* method, const char* message) noexcept;
    void tell(const py::ref& method, const py::ref& error, const char* message) noexcept;
};

/// What transports of sockets share of asyncio.ReadTransport. T::start_reading() starts `reader` when it is
/// to read and does not run.
template <class T>
struct socket_reader : transport {
    py::ref is_reading() { return py::boolean(!closing && !paused); }

    py::ref pause_reading() {
        if (closing || paused) {
            return py::none();
        }
        paused = true;
        stop_reading();
        log_in_debug("pauses reading");
        return py::none();
    }

    py::ref resume_reading() {
        if (closing || !paused) {
            return py::none();
        }
        core->check_closed();
        paused = false;
        static_cast<T&>(*this).start_reading();
        log_in_debug("resumes reading");
        return py::none();
    }

protected:
    void stop_reading() noexcept {
        if (!delivering) {  // else the reader looks for itself, right after
            reader.cancel();
        }
    }
};

/// One of a transport's coroutines calls Python: a callback, and in the connection's context.
class connection_scope {
public:
    explicit connection_scope(transport& entered) noexcept
        : running_(*entered.core), context_(entered.context), core_(*entered.core) {
        if (!context_ || PyContext_Enter(context_.get()) == 0) {  // none once the collector has been there
            return;
        }
        // A callback of this connection turns the loop itself (nest_asyncio). asyncio's transports run each
        // callback in a copy; so does this one.
        PyErr_Clear();
        context_ = py::ref::adopt(PyContext_Copy(context_.get()));
        if (!context_ || PyContext_Enter(context_.get()) != 0) {
            core_.fail();
            context_.reset();
        }
    }
    connection_scope(const connection_scope&) = delete;
    connection_scope& operator=(const connection_scope&) = delete;
    ~connection_scope() {
        if (context_ && PyContext_Exit(context_.get()) != 0) {
            core_.fail();
        }
    }

private:
    callback_scope running_;
    py::ref context_;
    loop_state& core_;
};

/// A new T, which is a transport and then a T::fields: that names its references, and clear() drops
/// those that a cycle may go through. Nothing of it has begun. Throws.
template <class T>
py::ref new_transport(PyObject* type, loop_state& core, py::ref context) {
    auto* made_type = reinterpret_cast<PyTypeObject*>(type);
    py::ref object = py::ref::steal(made_type->tp_alloc(made_type, 0));
    auto& self = *reinterpret_cast<T*>(object.get());
    ::new (static_cast<transport_fields*>(&self)) transport_fields(core, T::own_kind, std::move(context));
    ::new (static_cast<typename T::fields*>(&self)) typename T::fields;
    return object;
}

namespace detail {

template <class T>
struct transport_slot_functions {
    static T& cast(PyObject* object) noexcept { return *reinterpret_cast<T*>(object); }

    static int traverse(PyObject* object, visitproc visit, void* arg) {
        T& self = cast(object);
        Py_VISIT(Py_TYPE(object));
        if (const int stopped = self.visit_slots(visit, arg)) {
            return stopped;
        }
        if (self.core == nullptr) {
            return 0;
        }
        if (const int stopped =
                transport_fields::owned::visit(static_cast<transport_fields&>(self), visit, arg)) {
            return stopped;
        }
        return T::fields::owned::visit(static_cast<typename T::fields&>(self), visit, arg);
    }

    /// Leaves `loop`, which what is left of the transport's life needs; the loop breaks its own cycles.
    static int clear(PyObject* object) {
        T& self = cast(object);
        self.clear_slots();
        self.protocol = py::none();
        self.extra.reset();
        self.context.reset();
        static_cast<typename T::fields&>(self).clear();
        return 0;
    }

    static void finalize(PyObject* object) { cast(object).finalize(); }

    static void destroy(PyObject* object) {
        if (!py::finalized(object)) {
            return;
        }
        T& self = cast(object);
        PyTypeObject* type = Py_TYPE(object);
        if (self.weak_references != nullptr) {
            PyObject_ClearWeakRefs(object);
        }
        self.clear_slots();
        if (self.core != nullptr) {
            const py::ref loop = self.loop;  // to the end: there is what the parts belong to
            std::destroy_at(static_cast<typename T::fields*>(&self));
            std::destroy_at(static_cast<transport_fields*>(&self));
        }
        type->tp_free(object);
        Py_DECREF(type);
    }

    static PyObject* repr(PyObject* object) {
        return py::detail::guarded([&] { return cast(object).repr(); });
    }
};

py::ref make_transport_type(PyObject* module, PyType_Spec& spec, PyObject* bases);

}  // namespace detail

/// A transport's type, which Python cannot make instances of. `methods` and `properties` are static and
/// end with an empty row; `bases` is a tuple of asyncio's classes. Throws.
template <class T>
py::ref make_transport_type(PyObject* module, const char* name, const char* doc, PyMethodDef* methods,
                            PyGetSetDef* properties, PyObject* bases) {
    using functions = detail::transport_slot_functions<T>;
    static PyMemberDef members[] = {
        {"__dictoffset__", T_PYSSIZET, offsetof(transport_slots, dict), READONLY, nullptr},
        {"__weaklistoffset__", T_PYSSIZET, offsetof(transport_slots, weak_references), READONLY, nullptr},
        {nullptr, 0, 0, 0, nullptr},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>(doc)},
        {Py_tp_traverse, reinterpret_cast<void*>(&functions::traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(&functions::clear)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&py::deallocated<functions::destroy>)},
        {Py_tp_finalize, reinterpret_cast<void*>(&functions::finalize)},
        {Py_tp_repr, reinterpret_cast<void*>(&functions::repr)},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {Py_tp_members, members},
        {0, nullptr},
    };
    PyType_Spec spec = {name, sizeof(T), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    return detail::make_transport_type(module, spec, bases);
}

/// What all transports have, in front of their own properties.
template <std::size_t Own>
auto with_transport_properties(const PyGetSetDef (&own)[Own]) noexcept {
    const PyGetSetDef shared[] = {
        py::property<&transport::get_loop>("_loop", "The loop."),
        py::property<&transport::get_extra, &transport::set_extra>("_extra", "What get_extra_info() knows."),
        py::property<&transport::is_closing>("_closing", "What is_closing() says."),
        py::property<&transport::get_protocol, &transport::assign_protocol>("_protocol", "set_protocol()'s."),
        py::property<&transport::get_lost_writes>("_conn_lost", "asyncio's."),
        py::property<&transport::get_paused>("_paused", "Whether pause_reading() was called last."),
        py::property<&transport::get_protocol_paused>("_protocol_paused",
                                                      "Whether pause_writing() was called last."),
        py::property<&transport::get_high_water, &transport::set_high_water>("_high_water", "asyncio's."),
        py::property<&transport::get_low_water, &transport::set_low_water>("_low_water", "asyncio's."),
        {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, "Attributes of its user.", nullptr},
    };
    std::array<PyGetSetDef, std::size(shared) + Own + 1> all{};
    std::copy(std::begin(own), std::end(own), std::copy(std::begin(shared), std::end(shared), all.begin()));
    return all;
}

}  // namespace zl
