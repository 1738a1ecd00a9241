// module/handle.cpp: making, calling and cancelling handles. See handle.hpp.

#include "handle.hpp"

#include <array>
#include <cstring>

namespace zl {

namespace {

// A burst of call_soon() keeps its memory: 0.2 MB at most. Above it a handle costs 40 ns more.
constexpr int most_free = 1024;

void track(PyObject* object) noexcept {
    if (!PyObject_GC_IsTracked(object)) {
        PyObject_GC_Track(object);
    }
}

/// Contexts are hidden, and no other kind of object.
void track_context(PyObject* context) noexcept {
    if (context != nullptr && PyContext_CheckExact(context)) {
        track(context);
    }
}

template <class H>
module_state::free_list& free_list_of(module_state& state) noexcept {
    if constexpr (std::is_same_v<H, Handle>) {
        return state.free_handles;
    } else if constexpr (std::is_same_v<H, TimerHandle>) {
        return state.free_timer_handles;
    } else {
        return state.free_threadsafe_handles;
    }
}

template <class H>
H* allocate(module_state& state, PyTypeObject* type) {
    auto& free = free_list_of<H>(state);
    if (free.first != nullptr) {
        auto* taken = reinterpret_cast<H*>(free.first);
        free.first = taken->callback;
        --free.length;
        taken->callback = nullptr;
        PyObject_Init(taken->self(), type);
        return taken;
    }
    auto* made = PyObject_GC_New(H, type);
    if (made == nullptr) {
        throw py::error_set{};
    }
    std::memset(reinterpret_cast<char*>(made) + sizeof(PyObject), 0, sizeof(H) - sizeof(PyObject));
    return made;
}

template <class H>
H* make(loop_state& core, PyTypeObject* type, PyObject* callback, PyObject* const* args, std::size_t count,
        PyObject* context) {
    py::ref own_context;
    if (context != nullptr && context != Py_None) {
        own_context = py::ref::borrow(context);
    } else {
        own_context = py::ref::steal(PyContext_CopyCurrent());
    }
    py::ref tuple;
    if (count > H::most_inline) {
        tuple = py::ref::steal(PyTuple_New(static_cast<Py_ssize_t>(count)));
        for (std::size_t index = 0; index < count; ++index) {
            PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(index), Py_NewRef(args[index]));
        }
    }
    H* self = allocate<H>(*core.state, type);
    // Nothing fails from here on, but the traceback of debug mode; and nothing but that calls Python. Whether
    // the collector sees the handle is decided when it is queued.
    if constexpr (std::is_same_v<H, TimerHandle>) {
        ::new (static_cast<zloop::timer_node*>(self)) zloop::timer_node(&H::run_in_turn);
        self->hidden = H::shown;
    } else {
        ::new (static_cast<zloop::op*>(self)) zloop::op(&H::run_in_turn);
    }
    self->callback = Py_NewRef(callback);
    if (core.turning && own_context.get() != context) {
        PyObject_GC_UnTrack(own_context.get());
    }
    self->own_context = own_context.release();
    Py_INCREF(core.self());
    self->core = &core;
    self->is_cancelled = false;
    self->running = false;
    self->awaited = false;
    self->taken = false;
    self->inline_count = 0;
    if (tuple) {
        self->args = tuple.release();
    } else {
        self->inline_count = static_cast<std::uint8_t>(count);
        for (std::size_t index = 0; index < count; ++index) {
            self->inline_args[index] = Py_NewRef(args[index]);
        }
    }
    if (core.debug) {
        py::ref owner = py::ref::adopt(self->self());
        self->source_traceback = py::call(core.state->extract_stack.get()).release();
        static_cast<void>(owner.release());
    }
    return self;
}

/// Leaves the timer to the loop, which shows it to the collector when it stops.
void hide(loop_state& core, TimerHandle& handle) noexcept {
    try {
        core.hidden_timers.push_back(&handle);
        handle.hidden = core.hidden_timers.size() - 1;
    } catch (const std::bad_alloc&) {
        handle.show();
    }
}

/// The timer is shown, or ends.
void forget_hidden(loop_state& core, TimerHandle& handle) noexcept {
    if (handle.hidden == TimerHandle::shown) {
        return;
    }
    TimerHandle* const last = core.hidden_timers.back();
    core.hidden_timers.pop_back();
    if (last != &handle) {
        core.hidden_timers[handle.hidden] = last;
        last->hidden = handle.hidden;
    }
    handle.hidden = TimerHandle::shown;
}

template <class H>
int traverse(PyObject* object, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(object));
    return reinterpret_cast<H*>(object)->visit_all(visit, arg);
}

/// Leaves `core`: dealloc finds the free list through it, and the loop breaks its own cycles.
template <class H>
int clear(PyObject* object) {
    auto* self = reinterpret_cast<H*>(object);
    handle_slots& slots = *self;  // by this name: ThreadSafeHandle has a method that is called cancelled
    self->drop_callback();
    track_context(self->own_context);  // always: CPython takes it out of the list without a look
    Py_CLEAR(self->own_context);
    Py_CLEAR(slots.cancelled);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->repr);
    Py_CLEAR(self->source_traceback);
    if constexpr (std::is_same_v<H, TimerHandle>) {
        Py_CLEAR(self->scheduled);
        Py_CLEAR(self->when);
    }
#if ZL_HAS_THREADSAFE_HANDLE
    if constexpr (std::is_same_v<H, ThreadSafeHandle>) {
        Py_CLEAR(self->lock);
    }
#endif
    return 0;
}

template <class H>
void destroy(PyObject* object) {
    auto* self = reinterpret_cast<H*>(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_ClearWeakRefs(object);
    const py::ref loop = py::ref::adopt(self->core->self());
    module_state& state = *self->core->state;
    if constexpr (std::is_same_v<H, TimerHandle>) {
        forget_hidden(*self->core, *self);
    }
    auto& free = free_list_of<H>(state);
    clear<H>(object);
    if (free.length < most_free && state.keeps_free_handles) {
        self->callback = free.first;
        free.first = object;
        ++free.length;
    } else {
        PyObject_GC_Del(object);
    }
    Py_DECREF(type);
}

/// Whether what a handle has, its last owner, may be the next link of a chain.
bool dies_with_its_handle(PyObject* object) noexcept {
    return Py_REFCNT(object) == 1 && PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HAVE_GC);
}

/// A chain of handles, each an argument of the next, goes through the trashcan. (Contexts have one of
/// their own.) Most handles are none's link, and it would cost them 3 %.
template <class H>
void dealloc(PyObject* object) noexcept {
    auto* self = reinterpret_cast<H*>(object);
    PyObject_GC_UnTrack(object);
    bool is_link =
        self->args != nullptr || (self->callback != nullptr && dies_with_its_handle(self->callback));
    for (std::size_t index = 0; index < self->inline_count; ++index) {
        is_link = is_link || dies_with_its_handle(self->inline_args[index]);
    }
    if (!is_link) {
        destroy<H>(object);
        return;
    }
    Py_TRASHCAN_BEGIN(object, &dealloc<H>) destroy<H>(object);
    Py_TRASHCAN_END
}

template <class H>
void drop_list(module_state::free_list& free) noexcept {
    while (free.first != nullptr) {
        auto* next = reinterpret_cast<H*>(free.first);
        free.first = next->callback;
        PyObject_GC_Del(next);
    }
    free.length = 0;
}

template <class H>
void run_turn(zloop::op& node) noexcept {
    auto* self = static_cast<H*>(&node);
    if (!self->is_cancelled && !self->core->dropping) {
        self->run_callback();
    }
    if (Py_REFCNT(self->self()) > 1) {  // whoever else holds it may be part of a cycle
        self->show();
    }
    Py_DECREF(self->self());
}

// The tables are made once, complete: every interpreter's types read them, and others may be imported
// meanwhile.

template <class H>
PyMethodDef* methods() noexcept {
    static auto rows = [] {
        std::array made{
            py::method<&H::cancel>("cancel", "cancel($self)\n--\n\nDrop the callback; it will not run."),
            py::method<&H::get_cancelled>("cancelled",
                                          "cancelled($self)\n--\n\nWhether cancel() was called."),
            PyMethodDef{},
            PyMethodDef{},
        };
#if ZL_HAS_THREADSAFE_HANDLE
        if constexpr (std::is_same_v<H, ThreadSafeHandle>) {
            made[1] = py::method<&H::cancelled>(
                "cancelled",
                "cancelled($self)\n--\n\nWhether cancel() was called; elsewhere, once it does not run.");
        }
#endif
        if constexpr (std::is_same_v<H, TimerHandle>) {
            made[2] = py::method<&H::get_when>("when", "when($self)\n--\n\nWhen it is due, by loop.time().");
        }
        return made;
    }();
    return rows.data();
}

template <class H>
PyGetSetDef* properties() noexcept {
    static auto rows = [] {
        std::array made{
            py::property<&H::get_args, &H::set_args>("_args",
                                                     "The callback's arguments, or None when cancelled."),
            py::property<&H::get_callback, &H::set_callback>("_callback",
                                                             "The callback, or None when cancelled."),
            py::property<&H::get_cancelled, &H::set_cancelled>("_cancelled", "Whether cancel() was called."),
            py::property<&H::get_context, &H::set_context>("_context", "What the callback runs in."),
            py::property<&H::get_loop, &H::set_loop>("_loop", "The loop."),
            py::property<&H::get_repr, &H::set_repr>("_repr",
                                                     "The repr from before cancel(), in debug mode."),
            py::property<&H::get_source_traceback, &H::set_source_traceback>(
                "_source_traceback", "Where it was made, in debug mode."),
            PyGetSetDef{},
            PyGetSetDef{},
            PyGetSetDef{},
        };
        if constexpr (std::is_same_v<H, TimerHandle>) {
            made[7] = py::property<&H::get_scheduled, &H::set_scheduled>(
                "_scheduled", "Whether it still waits for its time.");
            made[8] = py::property<&H::get_when, &H::set_when>("_when", "When it is due, by loop.time().");
        }
#if ZL_HAS_THREADSAFE_HANDLE
        if constexpr (std::is_same_v<H, ThreadSafeHandle>) {
            made[7] = py::property<&H::get_lock>("_lock", "asyncio's, for its _run().");
        }
#endif
        return made;
    }();
    return rows.data();
}

template <class H>
py::ref make_type(PyObject* module, const char* name, const char* doc, PyObject* base) {
    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>(doc)},
        {Py_tp_traverse, reinterpret_cast<void*>(&traverse<H>)},
        {Py_tp_clear, reinterpret_cast<void*>(&clear<H>)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&dealloc<H>)},
        {Py_tp_methods, methods<H>()},
        {Py_tp_getset, properties<H>()},
        {0, nullptr},
    };
    PyType_Spec spec = {name, sizeof(H), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    const py::ref bases = py::ref::steal(PyTuple_Pack(1, base));
    py::ref type = py::ref::steal(PyType_FromModuleAndSpec(module, &spec, bases.get()));
    const auto& made = *reinterpret_cast<PyTypeObject*>(type.get());
    if (made.tp_weaklistoffset != reinterpret_cast<PyTypeObject*>(base)->tp_weaklistoffset) {
        py::raise(PyExc_ImportError, "zloop does not know this asyncio: weak references lie elsewhere");
    }
    return type;
}

}  // namespace

template <class Slots, class Node>
py::ref basic_handle<Slots, Node>::invoke() noexcept {
    const py::ref entered = py::ref::borrow(own_context);  // the callback may put another one here
    if (!PyContext_CheckExact(entered.get())) {            // asyncio looks for its run()
        return py::ref::adopt(PyObject_CallMethod(self(), "_run", nullptr));
    }
    if (PyContext_Enter(entered.get()) != 0) {
        return nullptr;
    }
    // A cancelled handle that was revived has no callback: None can't be called.
    const py::ref called = py::ref::borrow(this->callback != nullptr ? this->callback : Py_None);
    py::ref result;
    if (this->args == nullptr) {
        result = py::ref::adopt(py::staying_at_exit([&] {
            return PyObject_Vectorcall(called.get(), inline_args,
                                       inline_count | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
        }));
    } else {
        const py::ref tuple = py::ref::adopt(PySequence_Tuple(this->args));
        result = py::ref::adopt(py::staying_at_exit(
            [&] { return tuple ? PyObject_Call(called.get(), tuple.get(), nullptr) : nullptr; }));
    }
    if (PyContext_Exit(entered.get()) != 0) {
        return nullptr;
    }
    return result;
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::run_callback() noexcept {
    loop_state& on = *core;
    const callback_scope scope(on);
    running = true;
    py::ref result;
    if (!on.calls_run) {
        result = invoke();
    } else if (on.debug) {
        result = py::try_call_method(on.self(), on.state->str_run_in_debug.get(), self());
    } else {
        result = py::try_call_method(self(), on.state->str_run.get());
    }
    running = false;
    if (awaited) {
        on.callback_returned.notify_all();
    }
    if (!result) {
        on.report_callback(self());
    }
    if (is_cancelled) {
        drop_callback();
    }
}

/// From 3.14 on, whoever cancels a threadsafe handle from elsewhere can rely on it: the callback does not
/// run, or it has returned. (asyncio.events._ThreadSafeHandle has a lock for it in every handle.)
template <class Slots, class Node>
void basic_handle<Slots, Node>::wait_for_callback() {
    if (core->thread == PyThread_get_thread_ident()) {
        return;
    }
    while (running) {
        awaited = true;
        {
            const py::without_gil it_may_return;
            std::unique_lock lock(core->callback_mutex);
            // The end may fall between our look at `running` and the wait: hence a limit.
            core->callback_returned.wait_for(lock, std::chrono::milliseconds(5));
        }
        if (PyErr_CheckSignals() != 0) {  // Ctrl-C ends asyncio's wait for its lock, too
            throw py::error_set{};
        }
    }
    awaited = false;
}

template <class Slots, class Node>
py::ref basic_handle<Slots, Node>::cancel() {
    const py::ref alive = py::ref::borrow(self());
    if constexpr (std::is_same_v<Slots, threadsafe_handle_slots>) {
        wait_for_callback();
    }
    if (is_cancelled) {
        return py::none();
    }
    is_cancelled = true;
    if (core->debug) {
        // Kept, so that "Executing <Handle …> took 2 seconds" can still name it.
        py::ref words = py::ref::steal(PyObject_Repr(self()));
        Py_XSETREF(this->repr, words.release());
    }
    if (!running) {  // else what it runs on is dropped after the call
        drop_callback();
    }
    return py::none();
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::forget() noexcept {
    is_cancelled = true;
    if (!running) {
        drop_callback();
    }
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::show() noexcept {
    track(self());
    track_context(own_context);
}

template <class Slots, class Node>
py::ref basic_handle<Slots, Node>::get_context() {
    track_context(own_context);  // from now on others may have it
    return own_context != nullptr ? py::ref::borrow(own_context) : py::none();
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::set_context(PyObject* value) {
    track_context(own_context);
    Py_XSETREF(own_context, Py_NewRef(value));
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::set_args(PyObject* value) {
    py::ref tuple = py::ref::steal(PySequence_Tuple(value));
    Py_XSETREF(this->args, tuple.release());
    if (!running) {  // else they are the arguments of a call
        drop_inline_args();
    }
}

template <class Slots, class Node>
py::ref basic_handle<Slots, Node>::get_args() {
    if (this->callback == nullptr) {
        return py::none();
    }
    if (this->args != nullptr) {
        return py::ref::borrow(this->args);
    }
    py::ref tuple = py::ref::steal(PyTuple_New(inline_count));
    for (Py_ssize_t position = 0; position < inline_count; ++position) {
        PyTuple_SET_ITEM(tuple.get(), position, Py_NewRef(inline_args[position]));
    }
    return tuple;
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::drop_callback() noexcept {
    Py_CLEAR(this->callback);
    Py_CLEAR(this->args);
    drop_inline_args();
}

template <class Slots, class Node>
void basic_handle<Slots, Node>::drop_inline_args() noexcept {
    while (inline_count > 0) {
        PyObject*& last = inline_args[--inline_count];  // named: the macro evaluates it more than once
        Py_CLEAR(last);
    }
}

template <class Slots, class Node>
int basic_handle<Slots, Node>::visit_all(visitproc visit, void* arg) {
    Py_VISIT(this->args);
    Py_VISIT(this->callback);
    Py_VISIT(this->cancelled);
    Py_VISIT(this->context);
    Py_VISIT(this->loop);
    Py_VISIT(this->repr);
    Py_VISIT(this->source_traceback);
    if constexpr (std::is_same_v<Slots, timer_handle_slots>) {
        Py_VISIT(this->scheduled);
        Py_VISIT(this->when);
    }
    Py_VISIT(own_context);
    if (core != nullptr) {
        Py_VISIT(core->self());
    }
    for (std::size_t position = 0; position < inline_count; ++position) {
        Py_VISIT(inline_args[position]);
    }
    return 0;
}

template struct basic_handle<handle_slots, zloop::op>;
template struct basic_handle<timer_handle_slots, zloop::timer_node>;

#if ZL_HAS_THREADSAFE_HANDLE
template struct basic_handle<threadsafe_handle_slots, zloop::op>;

void ThreadSafeHandle::run_in_turn(zloop::op& node) noexcept { run_turn<ThreadSafeHandle>(node); }

py::ref ThreadSafeHandle::cancelled() {
    const py::ref alive = py::ref::borrow(self());
    wait_for_callback();
    return get_cancelled();
}

py::ref ThreadSafeHandle::get_lock() {
    if (lock == nullptr) {
        const py::ref threading = py::import("threading");
        lock = py::call(py::attribute(threading.get(), "RLock").get()).release();
    }
    return py::ref::borrow(lock);
}
#endif

void Handle::run_in_turn(zloop::op& node) noexcept { run_turn<Handle>(node); }
void TimerHandle::run_in_turn(zloop::op& node) noexcept {
    run_turn<TimerHandle>(static_cast<zloop::timer_node&>(node));
}

py::ref TimerHandle::cancel() {
    const py::ref alive = py::ref::borrow(self());
    if (armed()) {
        core->loop->disarm(*this);
        Py_DECREF(self());  // the heap's
        show();
    }
    return basic_handle::cancel();
}

py::ref TimerHandle::get_when() {
    return when != nullptr ? py::ref::borrow(when) : py::ref::steal(PyFloat_FromDouble(when_seconds));
}

Handle* new_handle(loop_state& core, PyObject* callback, PyObject* const* args, std::size_t count,
                   PyObject* context) {
    auto* type = reinterpret_cast<PyTypeObject*>(core.state->handle_type.get());
    return make<Handle>(core, type, callback, args, count, context);
}

ThreadSafeHandle* new_threadsafe_handle(loop_state& core, PyObject* callback, PyObject* const* args,
                                        std::size_t count, PyObject* context) {
#if ZL_HAS_THREADSAFE_HANDLE
    auto* type = reinterpret_cast<PyTypeObject*>(core.state->threadsafe_handle_type.get());
    return make<ThreadSafeHandle>(core, type, callback, args, count, context);
#else
    return new_handle(core, callback, args, count, context);
#endif
}

TimerHandle* new_timer_handle(loop_state& core, PyObject* callback, PyObject* const* args, std::size_t count,
                              PyObject* context) {
    auto* type = reinterpret_cast<PyTypeObject*>(core.state->timer_handle_type.get());
    return make<TimerHandle>(core, type, callback, args, count, context);
}

template <class H>
py::ref queue(loop_state& core, H& handle, bool may_be_elsewhere) {
    py::ref owner = py::ref::adopt(handle.self());
    // While it was made Python may have run, in another thread, too: only now it is known whether the loop is
    // closed, and who runs it.
    core.check_closed();
    Py_INCREF(handle.self());  // the queue's
    if (!core.turning) {
        handle.show();
    }
    if (may_be_elsewhere && core.thread != 0 && core.thread != PyThread_get_thread_ident()) {
        core.posted = true;
        core.loop->post(handle);
    } else {
        if (std::exchange(core.posted, false) && core.loop->has_posted()) {
            core.loop->take_inbox();  // what another thread has queued before runs before
        }
        core.loop->push(handle);
    }
    return owner;
}

template py::ref queue(loop_state&, Handle&, bool);
#if ZL_HAS_THREADSAFE_HANDLE
template py::ref queue(loop_state&, ThreadSafeHandle&, bool);
#endif

py::ref arm(loop_state& core, TimerHandle& handle, zloop::time_point deadline) {
    py::ref owner = py::ref::adopt(handle.self());
    core.check_closed();  // again, as above
    core.loop->arm(handle, deadline);
    Py_INCREF(handle.self());  // the heap's
    if (core.turning) {
        hide(core, handle);
    } else {
        handle.show();
    }
    return owner;
}

void new_handles::add(PyObject* callback, std::initializer_list<PyObject*> args) {
    made_[count_++] =
        py::ref::adopt(new_handle(core_, callback, args.begin(), args.size(), context_)->self());
}

void new_handles::queue() {
    core_.check_closed();
    for (std::size_t index = 0; index < count_; ++index) {
        zl::queue(core_, *reinterpret_cast<Handle*>(made_[index].release()), false);
    }
    count_ = 0;
}

void schedule(loop_state& core, PyObject* callback, std::initializer_list<PyObject*> args,
              PyObject* context) {
    core.check_closed();
    queue(core, *new_handle(core, callback, args.begin(), args.size(), context), false);
}

PyObject* handle_of(zloop::op& node) noexcept {
    if (node.run == &Handle::run_in_turn) {
        return static_cast<Handle&>(node).self();
    }
#if ZL_HAS_THREADSAFE_HANDLE
    if (node.run == &ThreadSafeHandle::run_in_turn) {
        return static_cast<ThreadSafeHandle&>(node).self();
    }
#endif
    if (node.run == &TimerHandle::run_in_turn) {
        return static_cast<TimerHandle&>(static_cast<zloop::timer_node&>(node)).self();
    }
    return nullptr;
}

namespace {

/// Calls `visit` with the handle that `node` is.
template <class Visit>
void visit_handle(zloop::op& node, Visit visit) noexcept {
    if (node.run == &Handle::run_in_turn) {
        visit(static_cast<Handle&>(node));
    } else if (node.run == &TimerHandle::run_in_turn) {
        visit(static_cast<TimerHandle&>(static_cast<zloop::timer_node&>(node)));
    }
#if ZL_HAS_THREADSAFE_HANDLE
    if (node.run == &ThreadSafeHandle::run_in_turn) {
        visit(static_cast<ThreadSafeHandle&>(node));
    }
#endif
}

template <class H>
zloop::op* return_if_taken(const loop_state& core, PyObject* object) noexcept {
    auto& handle = *reinterpret_cast<H*>(object);
    if (handle.core != &core || !std::exchange(handle.taken, false)) {
        return nullptr;
    }
    Py_INCREF(object);
    return &handle;
}

}  // namespace

py::ref take_handle(zloop::op& node) noexcept {
    visit_handle(node, [](auto& handle) {
        handle.show();
        handle.taken = true;
    });
    return py::ref::adopt(handle_of(node));
}

zloop::op* return_handle(const loop_state& core, PyObject* object) noexcept {
    const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    if (type == core.state->handle_type.get()) {
        return return_if_taken<Handle>(core, object);
    }
    if (type == core.state->timer_handle_type.get()) {
        return return_if_taken<TimerHandle>(core, object);
    }
#if ZL_HAS_THREADSAFE_HANDLE
    if (type == core.state->threadsafe_handle_type.get()) {
        return return_if_taken<ThreadSafeHandle>(core, object);
    }
#endif
    return nullptr;
}

void add_handle_types(PyObject* module, module_state& state) {
    const py::ref events = py::import("asyncio.events");
    const py::ref handle = py::attribute(events.get(), "Handle");
    py::check_slot(handle.get(), "_args", offsetof(handle_slots, args));
    py::check_slot(handle.get(), "_callback", offsetof(handle_slots, callback));
    py::check_slot(handle.get(), "_context", offsetof(handle_slots, context));
    py::check_slot(handle.get(), "_loop", offsetof(handle_slots, loop));
    py::check_slot(handle.get(), "_repr", offsetof(handle_slots, repr));
    py::check_slot(handle.get(), "_source_traceback", offsetof(handle_slots, source_traceback));

    constexpr const char* around[] = {"_run", nullptr};
    state.stock_handle.watch(handle.get());
    state.stock_handle.remember(handle.get(), events.get(), around);
    state.handle_type = make_type<Handle>(module, "zloop._zloop.Handle",
                                          "asyncio.Handle, and its own place in the queue.", handle.get());

    const py::ref timer_handle = py::attribute(events.get(), "TimerHandle");
    py::check_slot(timer_handle.get(), "_scheduled", offsetof(timer_handle_slots, scheduled));
    py::check_slot(timer_handle.get(), "_when", offsetof(timer_handle_slots, when));
    state.timer_handle_type =
        make_type<TimerHandle>(module, "zloop._zloop.TimerHandle",
                               "asyncio.TimerHandle, and its own place in the heap.", timer_handle.get());

#if ZL_HAS_THREADSAFE_HANDLE
    const py::ref threadsafe_handle = py::attribute(events.get(), "_ThreadSafeHandle");
    py::check_slot(threadsafe_handle.get(), "_lock", offsetof(threadsafe_handle_slots, lock));
    state.threadsafe_handle_type = make_type<ThreadSafeHandle>(
        module, "zloop._zloop._ThreadSafeHandle",
        "What call_soon_threadsafe() returns: a Handle to cancel from anywhere.", threadsafe_handle.get());
#endif
}

void show_handle(zloop::op& node) noexcept {
    visit_handle(node, [](auto& handle) { handle.show(); });
}

void track_queued(loop_state& core) noexcept {
    core.loop->take_inbox();
    for (zloop::op* node = core.loop->ready().front(); node != nullptr; node = node->next) {
        show_handle(*node);
    }
    for (TimerHandle* each : core.hidden_timers) {
        each->hidden = TimerHandle::shown;
        each->show();
    }
    core.hidden_timers.clear();
}

void drop_free_handles(module_state& state) noexcept {
    state.keeps_free_handles = false;
    drop_list<Handle>(state.free_handles);
    drop_list<TimerHandle>(state.free_timer_handles);
    drop_list<ThreadSafeHandle>(state.free_threadsafe_handles);
}

}  // namespace zl
