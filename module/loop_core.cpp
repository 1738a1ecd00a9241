// module/loop_core.cpp: scheduling and running, watched descriptors, serving. See loop_core.hpp.

#include "loop_core.hpp"

#include "acceptor.hpp"
#include "datagram/transport.hpp"
#include "moments.hpp"
#include "pipe/transport.hpp"
#include "socket/operation.hpp"
#include "socket/transport.hpp"
#include "sockets.hpp"
#include "tls/transport.hpp"

namespace zl {

namespace {

int descriptor_of(PyObject* object) {
    py::ref number = py::ref::borrow(object);
    if (!PyLong_Check(object)) {  // as selectors: int(object.fileno()), and its words
        const py::ref given = py::ref::adopt(PyObject_CallMethod(object, "fileno", nullptr));
        number = py::ref::adopt(given ? PyNumber_Long(given.get()) : nullptr);
        if (!number) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError) || PyErr_ExceptionMatches(PyExc_TypeError) ||
                PyErr_ExceptionMatches(PyExc_ValueError)) {
                PyErr_Clear();
                py::raise_format(PyExc_ValueError, "Invalid file object: %R", object);
            }
            throw py::error_set{};
        }
    }
    const int descriptor = PyObject_AsFileDescriptor(number.get());
    if (descriptor < 0) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
        py::raise_format(PyExc_ValueError, "Invalid file descriptor: %S", number.get());
    }
    return descriptor;
}

/// As above for whom may be unknown: -1 for a number that no descriptor has.
int known_descriptor_of(PyObject* object) {
    try {
        return descriptor_of(object);
    } catch (const py::error_set&) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            throw;
        }
        PyErr_Clear();
        return -1;
    }
}

/// What call_soon and its sisters are called with: a time or a descriptor first, or not, the callback,
/// its arguments. Borrowed.
struct callback_arguments {
    PyObject* lead = nullptr;
    PyObject* callback = nullptr;
    PyObject* context = nullptr;
    PyObject* const* rest;
    std::size_t rest_count = 0;
    bool understood = true;  // else nothing that asyncio would accept either

    /// `lead_name`: the first parameter's name, or null when the callback comes first.
    callback_arguments(const py::arguments& args, const char* lead_name, const module_state& state) noexcept
        : rest(args.values) {
        Py_ssize_t taken = 0;
        if (lead_name != nullptr && taken < args.count) {
            lead = args.values[taken++];
        }
        if (taken < args.count) {
            callback = args.values[taken++];
        }
        rest += taken;
        rest_count = static_cast<std::size_t>(args.count - taken);
        for (Py_ssize_t index = 0; index < args.keyword_count(); ++index) {
            PyObject* const name = args.keyword_name(index);
            PyObject** into = nullptr;
            if (PyUnicode_Compare(name, state.str_context.get()) == 0) {
                into = &context;
            } else if (PyUnicode_CompareWithASCIIString(name, "callback") == 0) {
                into = &callback;
            } else if (lead_name != nullptr && PyUnicode_CompareWithASCIIString(name, lead_name) == 0) {
                into = &lead;
            }
            if (into == nullptr || *into != nullptr) {
                understood = false;
                return;
            }
            *into = args.keyword_value(index);
        }
        understood = callback != nullptr && (lead_name == nullptr || lead != nullptr);
    }
};

void check_in_debug_mode(LoopCore& core, PyObject* callback, const char* method, bool any_thread) {
    if (!any_thread) {
        py::call_method(core.self(), core.state->str_check_thread.get());
    }
    py::call_method(core.self(), core.state->str_check_callback.get(), callback, py::text(method).get());
}

using watch_map = std::unordered_map<int, std::unique_ptr<descriptor_watch>>;

/// What is left of a watch: to be dropped, which may do anything, once all else is done.
struct ended_watch {
    py::ref handle, object, former;
    explicit operator bool() const noexcept { return static_cast<bool>(handle); }
};

/// Ends a watch. Calls no Python.
ended_watch end_watch(LoopCore& core, std::unique_ptr<descriptor_watch> watch) noexcept {
    core.loop->kernel().unwatch(*watch);
    ended_watch left{py::ref::borrow(watch->handle->self()), std::move(watch->object),
                     std::move(watch->former)};
    if (watch->queued) {
        watch->removed = true;
        static_cast<void>(watch.release());  // its turn frees it
    }
    return left;
}

/// Takes a watch away; its handle is left, or none. Calls no Python: what is to be done with the handle may,
/// and do anything.
ended_watch take_watch(LoopCore& core, watch_map& watches, int descriptor) noexcept {
    const auto found = watches.find(descriptor);
    if (found == watches.end()) {
        return {};
    }
    std::unique_ptr<descriptor_watch> watch = std::move(found->second);
    watches.erase(found);
    const zloop::direction toward = watch->toward;
    ended_watch left = end_watch(core, std::move(watch));
    SockOperation::next_in_line(core, descriptor, toward);
    return left;
}

void cancel(const py::ref& handle) { reinterpret_cast<Handle*>(handle.get())->cancel(); }

bool remove_watch(LoopCore& core, watch_map& watches, int descriptor) {
    const ended_watch left = take_watch(core, watches, descriptor);
    if (left) {
        cancel(left.handle);
    }
    return static_cast<bool>(left);
}

// As whom a descriptor is watched. asyncio's selector keeps the object that it was given, and finds by it
// what was closed before it was removed; so do we. What was closed and never removed has no claim to the next
// one with its number: remove_reader() of it finds nothing.

struct watched_object {
    int descriptor = -1;  // -1: nobody's
    bool closed = false;  // it has no number any more
    bool former = false;  // and another one is watched under that which it had
};

watched_object find_watched(const LoopCore& core, PyObject* object) noexcept {
    watched_object found;
    for (const watch_map* watches : {&core.readers, &core.writers}) {
        for (const auto& [descriptor, watch] : *watches) {
            if (watch->object.get() == object) {
                return {descriptor, true, false};
            }
            if (watch->former.get() == object) {
                found = {descriptor, true, true};
            }
        }
    }
    return found;
}

/// Whose descriptor `object` is, or was when it was watched. Throws what descriptor_of() does of a stranger.
watched_object watched_object_of(const LoopCore& core, PyObject* object, int (*number_of)(PyObject*)) {
    try {
        return {number_of(object), false, false};
    } catch (const py::error_set&) {
        if (PyLong_Check(object) || !PyErr_ExceptionMatches(PyExc_ValueError)) {
            throw;
        }
        const watched_object found = find_watched(core, object);
        if (found.descriptor < 0) {
            throw;
        }
        PyErr_Clear();
        return found;
    }
}

/// Whether `object` still has that number. Calls Python.
bool has_descriptor(PyObject* object, int descriptor) {
    try {
        return descriptor_of(object) == descriptor;
    } catch (const py::error_set&) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            throw;
        }
        PyErr_Clear();
        return false;
    }
}

struct watched_as {
    py::ref object, former;
};

/// As whom `descriptor` is watched from now on. As the selector's, a key belongs to who came first, for both
/// directions, until it is closed. Calls Python.
watched_as name_watch(const LoopCore& core, const watch_map& watches, int descriptor, PyObject* given) {
    const descriptor_watch* known = nullptr;
    for (const watch_map* each : {&watches, &core.readers, &core.writers}) {
        const auto found = known == nullptr ? each->find(descriptor) : each->end();
        known = found != each->end() ? found->second.get() : known;
    }
    watched_as named{PyLong_Check(given) ? nullptr : py::ref::borrow(given), nullptr};
    const py::ref first = known != nullptr ? known->object : nullptr;
    if (first && first.get() != given) {
        (has_descriptor(first.get(), descriptor) ? named.object : named.former) = first;
    }
    return named;
}

/// The callback of a descriptor that is closed already is another one: it is not the kernel's business.
void replace_callback(const watch_map& watches, int descriptor, Handle& handle) {
    const auto found = watches.find(descriptor);
    if (found == watches.end()) {
        py::raise_os_error(std::make_error_code(std::errc::bad_file_descriptor));
    }
    Py_INCREF(handle.self());
    const py::ref before = py::ref::adopt(std::exchange(found->second->handle, &handle)->self());
    handle.show();
    cancel(before);  // last: what it drops may do anything
}

py::ref add_watch(LoopCore& core, watch_map& watches, zloop::direction toward, const py::arguments& args) {
    const callback_arguments given(args, "fd", *core.state);
    if (!given.understood) {
        py::raise(PyExc_TypeError, "a descriptor and a callback are required");
    }
    core.check_closed();
    const auto [descriptor, closed, former] = watched_object_of(core, given.lead, descriptor_of);
    if (former) {
        py::raise(PyExc_ValueError, "Invalid file descriptor: -1");
    }
    Handle* handle = new_handle(core, given.callback, given.rest, given.rest_count, given.context);
    const py::ref owner = py::ref::adopt(handle->self());
    acceptor::forget_closed(core, descriptor);
    watched_as named = name_watch(core, watches, descriptor, given.lead);
    core.check_closed();  // again, as in call_soon
    if (closed) {
        replace_callback(watches, descriptor, *handle);
        return owner;
    }
    auto watch = std::make_unique<descriptor_watch>(core, descriptor, toward, handle);
    watch->object = named.object;
    watch->former = named.former;
    std::unique_ptr<descriptor_watch>& place = watches[descriptor];  // from here on nothing throws
    const ended_watch before = place ? end_watch(core, std::move(place)) : ended_watch{};
    std::error_code error = core.loop->kernel().watch(*watch);
    if (SockOperation* const other = error ? SockOperation::on(core, descriptor, toward) : nullptr) {
        other->give_way();
        error = core.loop->kernel().watch(*watch);
    }
    if (!error) {
        place = std::move(watch);
        handle->show();  // it stays: the collector finds the loop through it
    } else {
        watches.erase(descriptor);
        SockOperation::next_in_line(core, descriptor, toward);
    }
    if (before) {
        cancel(before.handle);  // last: what it drops may do anything
    }
    if (error) {
        py::raise_os_error(error);
    }
    return owner;
}

py::ref remove_watched(LoopCore& core, watch_map& watches, PyObject* object) {
    if (!core.loop || core.closed) {
        return py::boolean(false);
    }
    const auto [descriptor, closed, former] = watched_object_of(core, object, known_descriptor_of);
    return py::boolean(!former && remove_watch(core, watches, descriptor));
}

/// False: there is none on that descriptor.
bool stop_acceptor(LoopCore& core, int descriptor) noexcept {
    const auto found = core.acceptors.find(descriptor);
    if (found == core.acceptors.end()) {
        return false;
    }
    acceptor& stopped = *found->second;
    core.acceptors.erase(found);
    stopped.stop();
    return true;
}

template <class F>
void for_each_queued(LoopCore& core, F&& visit) {
    for (zloop::op* node = core.loop->ready().front(); node != nullptr; node = node->next) {
        visit(*node);
    }
    core.loop->timers().for_each(visit);
}

// The type.

/// The loop of a capsule that only C++ can make; null: another argument, or none.
zloop::loop* lent_by(PyObject* args) noexcept {
    constexpr const char* name = zloop::python::detail::lent_name;
    PyObject* const first = PyTuple_GET_SIZE(args) == 1 ? PyTuple_GET_ITEM(args, 0) : nullptr;
    return first != nullptr && PyCapsule_IsValid(first, name) != 0
               ? static_cast<zloop::loop*>(PyCapsule_GetPointer(first, name))
               : nullptr;
}

PyObject* create(PyTypeObject* type, PyObject* args, PyObject*) noexcept {
    return py::detail::guarded([&] {
        module_state& state = state_of(type);
        py::ref object = py::ref::steal(type->tp_alloc(type, 0));
        LoopCore& core = loop_core(object.get());
        ::new (static_cast<loop_state_fields*>(&core)) loop_state_fields;
        ::new (static_cast<loop_core_fields*>(&core)) loop_core_fields(static_cast<loop_state&>(core));
        core.state = &state;
        core.module = py::ref::borrow(PyType_GetModuleByDef(type, &module_definition));
        core.task_factory = py::none();
        core.thread_id = py::none();
        core.closed = true;  // until __init__ says otherwise: one that never ran has nothing to warn of
        zloop::loop* const lent = lent_by(args);
        core.loop = {lent != nullptr ? lent : new zloop::loop, loop_end{lent != nullptr}};
        core.within.emplace(&core.loop->root_scope());
        core.hooks.outer = core.loop->use_wait_hook(&core.hooks);

        const py::ref time = py::attribute(reinterpret_cast<PyObject*>(type), "time");
        const py::ref own = py::attribute(state.loop_core_type.get(), "time");
        core.own_time = time.get() != own.get();
        if (core.own_time) {
            core.loop->use_clock(&core.hooks);
        }
        return object;
    });
}

/// Attributes are asyncio's, in the instance's dict; but a patched time() moves the timers.
int set_attribute(PyObject* object, PyObject* name, PyObject* value) noexcept {
    LoopCore& core = loop_core(object);
    if (PyUnicode_Check(name) && PyUnicode_Compare(name, core.state->str_time.get()) == 0) {
        if (core.is_lent()) {
            PyErr_SetString(PyExc_AttributeError, "the clock of this loop is its owner's, in C++");
            return -1;
        }
        core.own_time = true;
        if (core.loop) {
            core.loop->use_clock(&core.hooks);
        }
    }
    return PyObject_GenericSetAttr(object, name, value);
}

int traverse(PyObject* object, visitproc visit, void* arg) {
    LoopCore& core = loop_core(object);
    Py_VISIT(Py_TYPE(object));
    if (core.state == nullptr) {
        return 0;
    }
    if (const int stopped =
            loop_state_fields::owned::visit(static_cast<loop_state_fields&>(core), visit, arg)) {
        return stopped;
    }
    if (const int stopped =
            loop_core_fields::owned::visit(static_cast<loop_core_fields&>(core), visit, arg)) {
        return stopped;
    }
    int stopped = 0;
    const auto visit_once = [&](PyObject* each) {
        if (stopped == 0 && each != nullptr) {
            stopped = visit(each, arg);
        }
    };
    if (core.loop) {
        for_each_queued(core, [&](zloop::op& node) { visit_once(handle_of(node)); });
    }
    for (const watch_map* watches : {&core.readers, &core.writers}) {
        for (const auto& [descriptor, watch] : *watches) {
            visit_once(watch->handle->self());
            visit_once(watch->object.get());
            visit_once(watch->former.get());
        }
    }
    for (transport* each = core.transports; each != nullptr; each = each->next) {
        visit_once(each->self());
    }
    for (SockOperation* each = core.sock_operations; each != nullptr; each = each->next) {
        visit_once(each->self());
    }
    for (const auto& [descriptor, each] : core.acceptors) {
        if (stopped == 0) {
            stopped = each->visit_all(visit, arg);
        }
    }
    return stopped;
}

/// Has all that we have on the C++ loop end, as drop_everything() wants it. One that is lent goes on: it
/// turns, with what else is on it, until nothing of ours is left there.
void end_below(LoopCore& core) noexcept {
    zloop::loop& loop = *core.loop;
    if (!core.is_lent() || loop.is_inherited()) {
        loop.shut_down();
        return;
    }
    constexpr int most_failed_turns = 64;  // as zloop::loop::shut_down()
    int failures = 0;
    const auto turn = [&] {
        try {
            loop.turn();
            failures = 0;
        } catch (const std::exception&) {
            ++failures;
        }
        return failures < most_failed_turns;
    };
    core.within->cancel_shielded();
    while (!core.within->is_empty() && turn()) {
    }
    loop.take_inbox();
    std::uint64_t last = loop.stats().ops;  // of what is queued now
    for (const zloop::op_queue* queue : {&loop.ready(), &loop.behind()}) {
        for (const zloop::op* node = queue->front(); node != nullptr; node = node->next) {
            ++last;
        }
    }
    while (loop.stats().ops < last && loop.has_ready() && turn()) {  // some may be withdrawn
    }
}

/// Ends all that is queued, watched and open, without calling Python back. But what is dropped has
/// destructors, which may do anything: they find the loop closed and its transports orphaned, so that nothing
/// begins any more.
void drop_everything(LoopCore& core) noexcept {
    if (!core.loop || core.dropping) {  // what is dropped may call close() again
        return;
    }
    core.dropping = true;
    core.closed = true;
    if (core.is_lent()) {
        core.loop->use_turner(nullptr);
        core.loop->use_wait_hook(core.hooks.outer);
    }
    core.loop->abandon_if_inherited();
    for (transport* each = core.transports; each != nullptr;) {
        const py::ref alive = py::ref::borrow(each->self());
        each->orphan();
        // Out of the list by now, perhaps; then those behind it have to be looked for.
        each = each->open ? each->next : core.transports;
        while (each != nullptr && each->orphaned) {
            each = each->next;
        }
    }
    while (!core.acceptors.empty()) {
        stop_acceptor(core, core.acceptors.begin()->first);
    }
    for (watch_map* watches : {&core.readers, &core.writers}) {
        while (!watches->empty()) {
            const ended_watch left = take_watch(core, *watches, watches->begin()->first);
            reinterpret_cast<Handle*>(left.handle.get())->forget();
        }
    }
    end_below(core);  // C++ tasks leave the timers and the descriptors by themselves
    while (core.sock_operations != nullptr) {
        core.sock_operations->abandon();  // those that were queued have had their turn
    }
    zloop::timer_heap& timers = core.loop->timers();
    const auto is_ours = [](zloop::timer_node& node) { return handle_of(node) != nullptr; };
    while (zloop::timer_node* const node = timers.find(is_ours)) {
        timers.remove(*node);
        Py_DECREF(handle_of(*node));
        end_below(core);
    }
    core.within.reset();
    core.loop.reset();
}

int clear(PyObject* object) {
    LoopCore& core = loop_core(object);
    drop_everything(core);
    core.task_factory = py::none();
    core.thread_id = py::none();
    core.failure.reset();
    return 0;
}

void dealloc(PyObject* object) {
    LoopCore& core = loop_core(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (core.state != nullptr) {
        drop_everything(core);
        static_cast<loop_core_fields&>(core).~loop_core_fields();
        static_cast<loop_state_fields&>(core).~loop_state_fields();
    }
    type->tp_free(object);
    Py_DECREF(type);
}

}  // namespace

// What the C++ loop asks of us.

void loop_hooks::before_wait() noexcept {
    look_at_signals();
    thread = PyEval_SaveThread();
    --core.state->awake;
    if (outer != nullptr) {
        outer->before_wait();
    }
}

/// Calls the handlers of signals that came since the last bytecode: the wait may be long. What they ask for,
/// the loop has not seen when it decided how long. (So may the collector, which newer versions run here.)
/// A signal that comes from here on ends the wait, or in the few instructions before it is left to asyncio's
/// wakeup descriptor, which the loop watches, where there is one.
void loop_hooks::look_at_signals() noexcept {
    LoopCore& whole = static_cast<LoopCore&>(core);
    zloop::loop& loop = *core.loop;
    const auto next_timer = [&] {
        return loop.timers().empty() ? zloop::time_point::max() : loop.timers().next();
    };
    const bool was_ready = loop.has_ready(), was_stopping = whole.stopping;
    const zloop::time_point next = next_timer();
    const bool failed = PyErr_CheckSignals() != 0;
    if (failed) {
        core.fail();
    }
    if (failed || loop.has_ready() != was_ready || whole.stopping != was_stopping || next_timer() < next) {
        loop.kernel().wake();
    }
}

void loop_hooks::after_wait() noexcept {
    if (outer != nullptr) {
        outer->after_wait();
    }
    ++core.state->awake;  // before the look: who ends the interpreter sees us, or we see that it ends
    const unsigned long ender = core.state->ended_by;
    if (ender != 0 && ender != PyThread_get_thread_ident()) {
        --core.state->awake;
        // A daemon thread at exit. Before 3.14 the call below would end it by unwinding the stack, through
        // frames of ours that can't be unwound.
        for (;;) {
            ::pause();
        }
    }
    py::without_gil::take_again(thread);
    core.look_at_run();
    if (PyErr_CheckSignals() != 0) {
        core.fail();
    }
}

zloop::time_point loop_hooks::now() noexcept {
    const bool was_stopping = static_cast<LoopCore&>(core).stopping;
    const py::ref seconds = py::try_call_method(core.self(), core.state->str_time.get());
    if (static_cast<LoopCore&>(core).stopping != was_stopping) {
        core.loop->kernel().wake();  // this turn is the last: it does not wait
    }
    const double value = seconds ? PyFloat_AsDouble(seconds.get()) : -1.0;
    if (PyErr_Occurred()) {
        core.fail();
        return zloop::time_point{};
    }
    return deadline_of(value);
}

descriptor_watch::descriptor_watch(loop_state& owner, int descriptor, zloop::direction way,
                                   Handle* registered) noexcept
    : watcher(&descriptor_watch::run_in_turn, descriptor, way), core(owner), handle(registered) {
    Py_INCREF(handle->self());
}

void descriptor_watch::run_in_turn(zloop::op& node) noexcept {
    auto& self = static_cast<descriptor_watch&>(node);
    self.queued = false;
    if (self.removed) {
        delete &self;
        return;
    }
    const py::ref alive = py::ref::borrow(self.handle->self());
    Handle& handle = *self.handle;
    loop_state& core = self.core;
    if (!core.dropping && !handle.is_cancelled) {
        handle.run_callback();  // may remove the watch, and free `self`
    }
}

py::ref LoopCore::call_inherited(const char* name, const py::arguments& args) {
    const py::ref function = py::attribute(state->stock_loop.get(), name);
    std::vector<PyObject*> all{self()};
    all.insert(all.end(), args.values, args.values + args.count + args.keyword_count());
    return py::ref::steal(PyObject_Vectorcall(function.get(), all.data(),
                                              static_cast<std::size_t>(args.count) + 1, args.keywords));
}

// Scheduling.

py::ref LoopCore::call_soon(const py::arguments& args) {
    const callback_arguments given(args, nullptr, *state);
    if (!given.understood) {
        return call_inherited("call_soon", args);
    }
    check_closed();
    if (debug) {
        check_in_debug_mode(*this, given.callback, "call_soon", false);
    }
    return queue(*this, *new_handle(*this, given.callback, given.rest, given.rest_count, given.context),
                 false);
}

py::ref LoopCore::call_soon_threadsafe(const py::arguments& args) {
    const callback_arguments given(args, nullptr, *state);
    if (!given.understood) {
        return call_inherited("call_soon_threadsafe", args);
    }
    check_closed();
    if (debug) {
        check_in_debug_mode(*this, given.callback, "call_soon_threadsafe", true);
    }
    return queue(*this,
                 *new_threadsafe_handle(*this, given.callback, given.rest, given.rest_count, given.context),
                 true);
}

py::ref LoopCore::call_later(const py::arguments& args) {
    const callback_arguments given(args, "delay", *state);
    if (!given.understood) {
        return call_inherited("call_later", args);
    }
    if (given.lead == Py_None) {
        py::raise(PyExc_TypeError, "delay must not be None");
    }
    check_closed();
    double when;
    if (!own_time && PyFloat_CheckExact(given.lead)) {
        when = seconds_of(loop->now()) + PyFloat_AS_DOUBLE(given.lead);
    } else if (!own_time && PyLong_CheckExact(given.lead)) {
        when = seconds_of(loop->now()) + seconds_from(PyLong_AsDouble(given.lead));
    } else {
        const py::ref now = py::call_method(self(), state->str_time.get());
        const py::ref sum = py::ref::steal(PyNumber_Add(now.get(), given.lead));
        when = seconds_from(PyFloat_AsDouble(sum.get()));
    }
    if (debug) {
        check_in_debug_mode(*this, given.callback, "call_at", false);
    }
    TimerHandle* handle =
        new_timer_handle(*this, given.callback, given.rest, given.rest_count, given.context);
    handle->when_seconds = when;
    return arm(*this, *handle, deadline_of(handle->when_seconds));
}

py::ref LoopCore::call_at(const py::arguments& args) {
    const callback_arguments given(args, "when", *state);
    if (!given.understood) {
        return call_inherited("call_at", args);
    }
    if (given.lead == Py_None) {
        py::raise(PyExc_TypeError, "when cannot be None");
    }
    check_closed();
    const double when = seconds_from(PyFloat_AsDouble(given.lead));
    if (debug) {
        check_in_debug_mode(*this, given.callback, "call_at", false);
    }
    TimerHandle* handle =
        new_timer_handle(*this, given.callback, given.rest, given.rest_count, given.context);
    handle->when_seconds = when;
    if (!PyFloat_CheckExact(given.lead)) {
        handle->when = Py_NewRef(given.lead);
    }
    return arm(*this, *handle, deadline_of(handle->when_seconds));
}

namespace {

/// Whether None says no more to a task than the keyword's absence.
bool has_none_for_default(PyObject* name) noexcept {
    return PyUnicode_CompareWithASCIIString(name, "name") == 0 ||
           PyUnicode_CompareWithASCIIString(name, "context") == 0;
}

/// Whether asyncio's create_task() hands a keyword on to the task.
bool is_task_keyword(PyObject* name) noexcept {
#if PY_VERSION_HEX >= 0x030E0000
    return PyUnicode_CompareWithASCIIString(name, "loop") != 0;  // any but its own
#else
    return has_none_for_default(name);
#endif
}

}  // namespace

py::ref LoopCore::create_future() {
    const py::ref future = py::ref::steal(PyObject_GetAttr(state->futures.get(), state->str_Future.get()));
    if (future.get() == state->stock_future.get() && !state->future_keywords_in_use) {
        // A type takes its keywords as a dict, which would be made for each.
        state->future_keywords_in_use = true;
        PyObject* const keywords = state->future_keywords.get();
        PyObject* const name = PyTuple_GET_ITEM(state->loop_keyword.get(), 0);
        const bool set = PyDict_SetItem(keywords, name, self()) == 0;
        py::ref made =
            py::ref::adopt(set ? PyObject_Call(future.get(), state->no_arguments.get(), keywords) : nullptr);
        PyDict_SetItem(keywords, name, Py_None);  // its place is there
        state->future_keywords_in_use = false;
        return py::checked(std::move(made));
    }
    PyObject* arguments[] = {nullptr, self()};
    return py::ref::steal(PyObject_Vectorcall(future.get(), arguments + 1, 0 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                              state->loop_keyword.get()));
}

py::ref LoopCore::create_task(const py::arguments& args) {
    if (args.count != 1 || debug || closed || task_factory.get() != Py_None) {
        return call_inherited("create_task", args);
    }
    const py::ref inherited =
        py::ref::steal(PyObject_GetAttr(state->stock_loop.get(), state->str_create_task.get()));
    if (inherited.get() != state->stock_create_task.get()) {  // who traces tasks wraps it, on asyncio's class
        return call_inherited("create_task", args);
    }
    // Task(coro, loop=loop, …) with the keywords that are given, but those that say no more than their
    // absence.
    constexpr Py_ssize_t most_keywords = 4;
    std::array<PyObject*, 3 + most_keywords> values{nullptr, args.values[0], self()};
    std::array<PyObject*, most_keywords> names;
    Py_ssize_t count = 0;
    for (Py_ssize_t index = 0; index < args.keyword_count(); ++index) {
        PyObject* const name = args.keyword_name(index);
        if (count == most_keywords || !is_task_keyword(name)) {
            return call_inherited("create_task", args);
        }
        if (args.keyword_value(index) != Py_None || !has_none_for_default(name)) {
            values[static_cast<std::size_t>(3 + count)] = args.keyword_value(index);
            names[static_cast<std::size_t>(count++)] = name;
        }
    }
    py::ref keywords = state->loop_keyword;
    if (count != 0) {
        keywords = py::ref::steal(PyTuple_New(1 + count));
        PyTuple_SET_ITEM(keywords.get(), 0, Py_NewRef(PyTuple_GET_ITEM(state->loop_keyword.get(), 0)));
        for (Py_ssize_t index = 0; index < count; ++index) {
            PyTuple_SET_ITEM(keywords.get(), 1 + index, Py_NewRef(names[static_cast<std::size_t>(index)]));
        }
    }
    const py::ref task = py::ref::steal(PyObject_GetAttr(state->tasks.get(), state->str_Task.get()));
    return py::ref::steal(PyObject_Vectorcall(task.get(), values.data() + 1,
                                              1 | PY_VECTORCALL_ARGUMENTS_OFFSET, keywords.get()));
}

py::ref LoopCore::time() {
    const bool has_owners_clock = is_lent() && loop != nullptr;
    return py::ref::steal(
        PyFloat_FromDouble(seconds_of(has_owners_clock ? loop->now() : zloop::time_point::clock::now())));
}

// Running.

namespace {

constinit thread_local LoopCore* innermost = nullptr;

}  // namespace

LoopCore* turning_here(const module_state& state) noexcept {
    return innermost != nullptr && innermost->state == &state ? innermost : nullptr;
}

py::ref LoopCore::run_once() {
    check_closed();
    if (turning) {  // a callback asks, or another thread
        py::raise(PyExc_RuntimeError, "This event loop is already running");
    }
    loop->begin_run();
    const bool until_stop = std::exchange(turns_until_stop, false);
    look_at_run();
    turning = true;
    ++state->awake;
    const at_exit asleep{[this] {
        --state->awake;
        if (loop && !is_lent()) {
            static_cast<void>(loop->leave_thread());  // as asyncio's: each run may be another thread's
        }
    }};
    // A host that calls us says of no thread that it runs the loop: then it is ours.
    const unsigned long said = std::exchange(thread, PyThread_get_thread_ident());
    LoopCore* const outer = std::exchange(innermost, this);
    const at_exit end{[this, said, outer] {
        innermost = outer;
        thread = said;
        turning = false;
        if (loop) {
            track_queued(*this);
        }
    }};
    do {
        raise_failure();  // of a callback outside of the loop's turns
        const at_exit let_go{[this] { held.end_turn(); }};
        loop->turn(stopping ? zloop::nanoseconds::zero() : asked.limit);
        raise_failure();
        if (asked.is_over != nullptr && asked.is_over(asked.what)) {
            stopping = true;
        }
    } while (until_stop && !stopping);
    return py::none();
}

void run_for_owner(LoopCore& core, const owners_run& asked) {
    const owners_run outer = std::exchange(core.asked, asked);
    const at_exit done{[&core, outer] { core.asked = outer; }};
    py::call_method(core.self(), core.state->str_run_forever.get());
}

py::ref make_on(zloop::loop& lent) {
    const py::ref type = py::attribute(py::import("zloop").get(), "Loop");
    const py::ref capsule = py::ref::steal(PyCapsule_New(&lent, zloop::python::detail::lent_name, nullptr));
    py::ref made =
        py::ref::steal(PyObject_CallMethod(type.get(), "__new__", "OO", type.get(), capsule.get()));
    py::ref::steal(PyObject_CallMethod(made.get(), "__init__", nullptr));
    return made;
}

py::ref LoopCore::stop() {
    stopping = true;
    if (loop && is_lent()) {
        loop->stop();  // its owner's run() is this run
    }
    return py::none();
}

/// What the loop itself has called, at however many removes, cannot end it: it would come back to nothing.
py::ref LoopCore::check_idle() {
    if (turning || in_callback) {
        py::raise(PyExc_RuntimeError, "Cannot close a running event loop");
    }
    if (loop && is_lent() && !loop->is_inherited()) {
        loop->begin_run();  // where this thread may not: before anything has ended
    }
    return py::none();
}

py::ref LoopCore::drop() {
    check_idle();
    drop_everything(*this);
    return py::none();
}

py::ref LoopCore::get_backend() {
    check_closed();
    const auto name = loop->kernel().name();
    return py::ref::steal(PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size())));
}

py::ref LoopCore::get_writes() { return py::ref::steal(PyUnicode_FromString(writes_wait ? "turn" : "now")); }

void LoopCore::set_writes(PyObject* value) {
    const auto is = [value](const char* word) {
        return PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, word) == 0;
    };
    if (!is("now") && !is("turn")) {
        py::raise_format(PyExc_ValueError, "writes is %R; it can be 'now' or 'turn'", value);
    }
    writes_wait = is("turn");
}

py::ref LoopCore::get_stats() {
    check_closed();
    const auto& counted = loop->stats();
    return py::ref::steal(Py_BuildValue("{s:K,s:K,s:K,s:K}", "turns", counted.turns, "ops", counted.ops,
                                        "polls", counted.polls, "waits", counted.waits));
}

// Descriptors.

py::ref LoopCore::add_reader(const py::arguments& args) {
    return add_watch(*this, readers, zloop::direction::read, args);
}

py::ref LoopCore::add_writer(const py::arguments& args) {
    return add_watch(*this, writers, zloop::direction::write, args);
}

py::ref LoopCore::remove_reader(PyObject* descriptor) { return remove_watched(*this, readers, descriptor); }

py::ref LoopCore::remove_writer(PyObject* descriptor) { return remove_watched(*this, writers, descriptor); }

py::ref LoopCore::watched_events(PyObject* descriptor) {
    const int number = watched_object_of(*this, descriptor, descriptor_of).descriptor;
    return py::integer((readers.count(number) != 0 ? 1 : 0) | (writers.count(number) != 0 ? 2 : 0));
}

py::ref LoopCore::transport_on(PyObject* descriptor) {
    // A number that is none is no transport's; whether it is watched is for the caller to ask.
    const long number = PyLong_AsLong(descriptor);
    if (number == -1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
    }
    const auto index = static_cast<std::size_t>(number);
    transport* found = index < transport_of.size() ? transport_of[index] : nullptr;
    return found != nullptr ? py::ref::borrow(found->self()) : py::none();
}

// Transports, and serving.

py::ref LoopCore::make_socket_transport(const py::arguments& args) {
    check_closed();
    if (args.count != 6) {
        py::raise(PyExc_TypeError, "_new_socket_transport(sock, protocol, waiter, extra, server, context)");
    }
    return SocketTransport::from_python(*this, args.values[0], args.values[1], args.values[2], args.values[3],
                                        args.values[4], args.values[5]);
}

py::ref LoopCore::make_datagram_transport(const py::arguments& args) {
    check_closed();
    if (args.count != 5) {
        py::raise(PyExc_TypeError, "_new_datagram_transport(sock, protocol, address, waiter, extra)");
    }
    return DatagramTransport::from_python(*this, args.values[0], args.values[1], args.values[2],
                                          args.values[3], args.values[4]);
}

py::ref LoopCore::make_read_pipe_transport(const py::arguments& args) {
    check_closed();
    if (args.count != 4) {
        py::raise(PyExc_TypeError, "_new_read_pipe_transport(pipe, protocol, waiter, extra)");
    }
    return ReadPipeTransport::make(*this, args.values[0], args.values[1], args.values[2], args.values[3]);
}

py::ref LoopCore::make_write_pipe_transport(const py::arguments& args) {
    check_closed();
    if (args.count != 4) {
        py::raise(PyExc_TypeError, "_new_write_pipe_transport(pipe, protocol, waiter, extra)");
    }
    return WritePipeTransport::make(*this, args.values[0], args.values[1], args.values[2], args.values[3]);
}

py::ref LoopCore::make_tls_transport(const py::arguments& args) {
    check_closed();
    return TLSTransport::make(*this, args);
}

py::ref LoopCore::start_accepting(const py::arguments& args) {
    check_closed();
    if (args.count != 6) {
        py::raise(PyExc_TypeError,
                  "_start_accepting(sock, protocol_factory, server, tls, hand_over, context)");
    }
    if (args.values[3] != Py_None &&
        (!PyTuple_Check(args.values[3]) || PyTuple_GET_SIZE(args.values[3]) != 3)) {
        py::raise(PyExc_TypeError, "tls: (sslcontext, handshake_timeout, shutdown_timeout)");
    }
    if (args.values[5] != Py_None && !PyContext_CheckExact(args.values[5])) {
        py::raise(PyExc_TypeError, "context: a contextvars.Context is required");
    }
    const int descriptor = socket_number(*state, args.values[0]);
    auto made = std::make_unique<acceptor>(*this, args.values[0], args.values[1], args.values[2],
                                           args.values[3], args.values[4], args.values[5]);
    while (stop_acceptor(*this, descriptor)) {  // what it drops may begin another, or close the loop
    }
    check_closed();
    acceptor*& place = acceptors[descriptor];
    try {
        made->adopt(descriptor);
    } catch (...) {
        acceptors.erase(descriptor);
        throw;
    }
    place = made.release();
    if (!place->start()) {
        delete std::exchange(place, nullptr);
        acceptors.erase(descriptor);
        throw std::bad_alloc();
    }
    return py::none();
}

py::ref LoopCore::stop_accepting(PyObject* sock) {
    // By the object: its descriptor may be closed already.
    for (const auto& [descriptor, each] : acceptors) {
        if (each->sock.get() == sock) {
            stop_acceptor(*this, descriptor);
            break;
        }
    }
    return py::none();
}

// Attributes.

py::ref LoopCore::get_debug() { return py::boolean(debug); }
void LoopCore::set_debug(PyObject* value) {
    debug = py::truth(value);
    look_at_run();
}
py::ref LoopCore::get_closed() { return py::boolean(closed); }
void LoopCore::set_closed(PyObject* value) {
    const bool wanted = py::truth(value);
    closed = wanted || dropping || !loop;  // asyncio's __init__() does not open it again
}
py::ref LoopCore::get_stopping() { return py::boolean(stopping); }
void LoopCore::set_stopping(PyObject* value) { stopping = py::truth(value); }
void LoopCore::set_turns_until_stop(PyObject* value) { turns_until_stop = py::truth(value); }
py::ref LoopCore::get_thread_id() { return thread_id; }
void LoopCore::set_thread_id(PyObject* value) {
    const unsigned long number = value == Py_None ? 0 : PyLong_AsUnsignedLong(value);
    if (PyErr_Occurred()) {
        throw py::error_set{};
    }
    thread = number;
    thread_id = py::ref::borrow(value);
    if (thread == 0 && loop && !turning) {
        loop->take_inbox();  // the collector does not look into it
    }
}
py::ref LoopCore::get_task_factory() { return task_factory; }
void LoopCore::set_task_factory(PyObject* value) { task_factory = py::ref::borrow(value); }

void add_loop_core_type(PyObject* module, module_state& state) {
    static PyMethodDef methods[] = {
        py::method<&LoopCore::call_soon>(
            "call_soon",
            "call_soon($self, callback, *args, context=None)\n--\n\nasyncio.BaseEventLoop.call_soon"),
        py::method<&LoopCore::call_soon_threadsafe>(
            "call_soon_threadsafe",
            "call_soon_threadsafe($self, callback, *args, "
            "context=None)\n--\n\nasyncio.BaseEventLoop.call_soon_threadsafe"),
        py::method<&LoopCore::call_later>("call_later",
                                          "call_later($self, delay, callback, *args, "
                                          "context=None)\n--\n\nasyncio.BaseEventLoop.call_later"),
        py::method<&LoopCore::call_at>(
            "call_at",
            "call_at($self, when, callback, *args, context=None)\n--\n\nasyncio.BaseEventLoop.call_at"),
        py::method<&LoopCore::create_future>(
            "create_future", "create_future($self)\n--\n\nasyncio.BaseEventLoop.create_future"),
        py::method<&LoopCore::create_task>(
            "create_task", "create_task($self, coro, **kwargs)\n--\n\nasyncio.BaseEventLoop.create_task"),
        py::method<&LoopCore::get_debug>("get_debug",
                                         "get_debug($self)\n--\n\nasyncio.BaseEventLoop.get_debug"),
        py::method<&LoopCore::time>("time", "time($self)\n--\n\nasyncio.BaseEventLoop.time"),
        py::method<&LoopCore::stop>("stop", "stop($self)\n--\n\nasyncio.BaseEventLoop.stop"),
        py::method<&LoopCore::run_once>("_run_once",
                                        "asyncio's: one turn; or after _turns_until_stop all until stop()."),
        py::method<&LoopCore::gather>("_gather",
                                      "Queue what the kernel and the clock have, within a timeout."),
        py::method<&LoopCore::count_ready>("_count_ready", "How many wait for their turn."),
        py::method<&LoopCore::list_ready>("_list_ready", "The handles that wait for their turn."),
        py::method<&LoopCore::take_ready>("_take_ready",
                                          "Take the first that is ready: a handle, or None for what only "
                                          "_run_ready() can run."),
        py::method<&LoopCore::run_ready>("_run_ready", "Run the first that is ready."),
        py::method<&LoopCore::put_back>("_put_back",
                                        "Queue a handle again that was taken, (handle, in_front); False of "
                                        "any other."),
        py::method<&LoopCore::check_idle>("_check_idle", "Refuses in a turn of the loop."),
        py::method<&LoopCore::drop>("_drop", "End all that is queued, watched and open; the loop is closed."),
        py::method<&LoopCore::add_reader>("_add_reader",
                                          "Watch a descriptor for reading; returns the handle."),
        py::method<&LoopCore::add_writer>("_add_writer",
                                          "Watch a descriptor for writing; returns the handle."),
        py::method<&LoopCore::remove_reader>("_remove_reader", "Whether there was a reader to remove."),
        py::method<&LoopCore::remove_writer>("_remove_writer", "Whether there was a writer to remove."),
        py::method<&LoopCore::watched_events>("_watched_events",
                                              "What a descriptor is watched for, as selectors' mask."),
        py::method<&LoopCore::transport_on>("_transport_on", "The open transport on a descriptor, or None."),
        py::method<&LoopCore::make_socket_transport>("_new_socket_transport",
                                                     "A transport on a connected socket: "
                                                     "(sock, protocol, waiter, extra, server, context)."),
        py::method<&LoopCore::make_datagram_transport>(
            "_new_datagram_transport",
            "A transport on a datagram socket: (sock, protocol, address, waiter, extra)."),
        py::method<&LoopCore::make_read_pipe_transport>(
            "_new_read_pipe_transport",
            "A transport on a pipe's reading end: (pipe, protocol, waiter, extra)."),
        py::method<&LoopCore::make_write_pipe_transport>(
            "_new_write_pipe_transport",
            "A transport on a pipe's writing end: (pipe, protocol, waiter, extra)."),
        py::method<&LoopCore::make_tls_transport>(
            "_new_tls_transport",
            "TLS, to be the protocol of a transport: (protocol, sslcontext, waiter, server_side, "
            "server_hostname, handshake_timeout, shutdown_timeout, call_connection_made)."),
        py::method<&LoopCore::start_accepting>(
            "_start_accepting",
            "Accept connections: (sock, protocol_factory, server, tls, hand_over, context). `tls` is "
            "(sslcontext, handshake_timeout, shutdown_timeout); what is not ours goes to `hand_over`, as "
            "(socket, peername)."),
        py::method<&LoopCore::stop_accepting>("_stop_accepting", "Leave a listening socket alone again."),
        py::method<&LoopCore::sock_recv>("sock_recv",
                                         "sock_recv($self, sock, n)\n--\n\nasyncio.loop.sock_recv"),
        py::method<&LoopCore::sock_recv_into>(
            "sock_recv_into", "sock_recv_into($self, sock, buf)\n--\n\nasyncio.loop.sock_recv_into"),
        py::method<&LoopCore::sock_recvfrom>(
            "sock_recvfrom", "sock_recvfrom($self, sock, bufsize)\n--\n\nasyncio.loop.sock_recvfrom"),
        py::method<&LoopCore::sock_recvfrom_into>(
            "sock_recvfrom_into",
            "sock_recvfrom_into($self, sock, buf, nbytes=0)\n--\n\nasyncio.loop.sock_recvfrom_into"),
        py::method<&LoopCore::sock_sendall>(
            "sock_sendall", "sock_sendall($self, sock, data)\n--\n\nasyncio.loop.sock_sendall"),
        py::method<&LoopCore::sock_sendto>(
            "sock_sendto", "sock_sendto($self, sock, data, address)\n--\n\nasyncio.loop.sock_sendto"),
        py::method<&LoopCore::literal_info>(
            "_literal_info",
            "_literal_info($self, host, port, family, type, proto, flags, /)\n--\n\n"
            "What getaddrinfo() gives; None where host or port is no number, or that is to be asked."),
        py::method<&LoopCore::connect>(
            "_connect",
            "_connect($self, protocol_factory, host, port, /)\n--\n\nCoroutine that "
            "gives (transport, protocol, waiter); None where host or port is no number."),
        py::method<&LoopCore::begin_sock_sendfile>("_sock_sendfile",
                                                   "Send (sock, descriptor, offset, count) of a file."),
        py::method<&LoopCore::sock_connect>(
            "sock_connect", "sock_connect($self, sock, address)\n--\n\nasyncio.loop.sock_connect"),
        py::method<&LoopCore::sock_accept>("sock_accept",
                                           "sock_accept($self, sock)\n--\n\nasyncio.loop.sock_accept"),
        {},
    };
    static PyGetSetDef properties[] = {
        py::property<&LoopCore::get_writes, &LoopCore::set_writes>(
            "writes", "When write() sends: 'now', or 'turn', at the end of the loop's turn."),
        py::property<&LoopCore::get_backend>("backend", "The name of the kernel interface: 'epoll'."),
        py::property<&LoopCore::get_stats>("stats", "Counters: turns, ops, polls, waits."),
        py::property<&LoopCore::get_debug, &LoopCore::set_debug>("_debug", "asyncio's."),
        py::property<&LoopCore::get_closed, &LoopCore::set_closed>("_closed", "asyncio's."),
        py::property<&LoopCore::get_stopping, &LoopCore::set_stopping>("_stopping", "asyncio's."),
        py::property<&LoopCore::get_turns_until_stop, &LoopCore::set_turns_until_stop>(
            "_turns_until_stop", "Whether the next _run_once() goes on until stop()."),
        py::property<&LoopCore::get_thread_id, &LoopCore::set_thread_id>("_thread_id", "asyncio's."),
        py::property<&LoopCore::get_task_factory, &LoopCore::set_task_factory>("_task_factory", "asyncio's."),
        {},
    };
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("The native half of zloop.Loop.")},
        {Py_tp_new, reinterpret_cast<void*>(&create)},
        {Py_tp_traverse, reinterpret_cast<void*>(&traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(&clear)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&dealloc)},
        {Py_tp_setattro, reinterpret_cast<void*>(&set_attribute)},
        {Py_tp_methods, methods},
        {Py_tp_getset, properties},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop.LoopCore", sizeof(LoopCore), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, slots};
    state.loop_core_type = py::ref::steal(PyType_FromModuleAndSpec(module, &spec, nullptr));
}

}  // namespace zl
