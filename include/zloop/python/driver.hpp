// zloop/python/driver.hpp: a C++ task inside of a Python awaitable, and what it awaits in Python.
//
// Delegate, do not schedule. A step of the awaiting asyncio.Task runs the C++ task right there. Where that
// awaits a Python object, the object becomes the inner iterator, as in `yield from`, and the Task gets what
// it yields: so contextvars, current_task, timeouts and cancellation are asyncio's own. Where it waits in
// C++, the Task gets a future; the loop resumes the C++ task without Python, as often as that waits, and the
// future is set once: at its end, or when it wants Python again. That is the crossing (`cross()`), the only
// place where a turn of C++ touches Python, and so the one to take the GIL in, should turns ever run without
// it.
//
// Who owns it: until it has begun, who has the awaitable. While it waits in C++, or goes on alone after a
// close(), also the loop, by a reference. While it waits for Python, not the loop: what nobody can wake, the
// collector finds, and ends it.
//
// What a call into Python may do: raise; drop the last reference that others have (a step holds one of its
// own); call send, throw or close of this object (refused: it is `stepping`); run other threads.
//
// Nothing in it is for users.
#pragma once

#include <zloop/python/guest.hpp>

#include <frameobject.h>

#include <cassert>
#include <optional>

#include <zloop/backtrace.hpp>
#include <zloop/task.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

class driver;

/// Whether this thread runs `asyncio_loop`. Keeps the error indicator.
inline bool is_running_here(interpreter& home, PyObject* asyncio_loop) noexcept {
    const error_kept kept;
    try {
        return home.running().get() == asyncio_loop;
    } catch (const raised&) {
        return false;
    }
}

/// C++ has run outside of the loop's turns and of an awaitable's step: a host that is not zloop's has to
/// know.
inline void touch_running() noexcept {
    try {
        interpreter& home = interpreter::here();
        if (const object asyncio_loop = home.running()) {
            if (guest* const host = place_in(home, asyncio_loop.get()).host) {
                host->touched();
            }
        }
    } catch (const std::exception&) {
        // No memory, or a loop that is closed: then nothing waits there.
    }
}

/// The context that this thread has entered; null: none. A copy of it, which is all that contextvars' own
/// functions give, costs a wait 60 ns.
inline object entered_context() noexcept { return object::borrow(PyThreadState_Get()->context); }

/// What GET_AWAITABLE does: an iterator; null, and the error is set.
inline object iterator_of(PyObject* awaitable) noexcept {
    if (PyCoro_CheckExact(awaitable)) {
        return object::borrow(awaitable);
    }
    if (PyGen_CheckExact(awaitable)) {
        const object code = object::steal(PyObject_GetAttrString(awaitable, "gi_code"));
        constexpr int iterable_coroutine = 0x0100;  // CO_ITERABLE_COROUTINE: of types.coroutine()
        if (code && (reinterpret_cast<PyCodeObject*>(code.get())->co_flags & iterable_coroutine) != 0) {
            return object::borrow(awaitable);
        }
        PyErr_Clear();
    }
    const PyAsyncMethods* const slots = Py_TYPE(awaitable)->tp_as_async;
    if (slots == nullptr || slots->am_await == nullptr) {
        PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression",
                     Py_TYPE(awaitable)->tp_name);
        return object();
    }
    object iterator = object::steal(slots->am_await(awaitable));
    if (iterator && (PyCoro_CheckExact(iterator.get()) || !PyIter_Check(iterator.get()))) {
        PyErr_Format(PyExc_TypeError, "__await__() returned %.100s, which is no iterator",
                     Py_TYPE(iterator.get())->tp_name);
        iterator.reset();
    }
    return iterator;
}

/// A C++ coroutine that waits for a Python awaitable. Lives in its frame.
///
/// In the chain of tasks that a step runs, it delegates. Elsewhere - in a task that was started beside that
/// chain, or on the loop by nobody's awaitable - the awaitable becomes an asyncio.Task of its own.
class waiter : op, cancellable {
public:
    explicit waiter(object what) noexcept
        : op(&waiter::go_on), cancellable(&waiter::stop), what_(std::move(what)) {}
    waiter(const waiter&) = delete;
    waiter& operator=(const waiter&) = delete;

    /// From await_suspend. False: it goes on at once.
    bool begin(std::coroutine_handle<> caller, const context& around) noexcept;

    /// What the awaitable gave; throws what it raised.
    object take(interpreter& home) {
        if (failure_) {
            throw_raised(std::move(failure_), home.cancelled_error.get());
        }
        if (is_canceled_) {
            throw std::system_error(std::make_error_code(std::errc::operation_canceled));
        }
        return std::move(got_);
    }

protected:
    ~waiter() { assert(phase_ == phase::idle || phase_ == phase::over); }

private:
    friend driver;

    enum class phase : std::uint8_t { idle, sending, delegated, asking, scheduled, over };

    /// Makes the awaitable a driver's inner iterator. True: it has to be waited for.
    bool delegate(driver& to) noexcept;
    bool schedule() noexcept;
    object schedule_task(interpreter& home);
    static PyObject* task_ended(PyObject* token, PyObject* task) noexcept;
    void take_outcome(interpreter& home, PyObject* task) noexcept;

    /// Ends, and resumes nobody.
    void end() noexcept {
        phase_ = phase::over;
        around_.within->leave(is_canceled_ || was_canceled_);
        what_.reset();
    }

    /// Ends, and goes on at once.
    void resume() noexcept {
        end();
        caller_.resume();
    }

    /// The awaitable is not awaited any more, and will not be: a coroutine need not warn of that.
    void spare() noexcept {
        const error_kept kept;
        if (what_ && (PyCoro_CheckExact(what_.get()) || PyGen_CheckExact(what_.get()))) {
            object::steal(PyObject_CallMethod(what_.get(), "close", nullptr));
            PyErr_Clear();
        }
    }

    /// Ends as cancelled, and goes on in its turn.
    void desert() noexcept {
        is_canceled_ = true;
        spare();
        end();
        around_.on->push(*this);
    }

    static void go_on(op& node) noexcept { static_cast<waiter&>(node).caller_.resume(); }
    static void stop(cancellable& leaf) noexcept;

    object what_, got_, failure_;
    object task_, token_;  // where it is scheduled
    std::coroutine_handle<> caller_;
    context around_;
    driver* driver_ = nullptr;
    phase phase_ = phase::idle;
    bool is_canceled_ = false;   // ended by its scope, without an answer from Python
    bool was_canceled_ = false;  // Python has answered by a CancelledError
    bool wants_cancel_ = false;  // its scope was cancelled; the awaitable is to be told
};

/// What a driver has to know of a type of task.
struct kind_of_work {
    void (*begin)(void* frame, const context& around, zloop::detail::completion& notified) noexcept;
    /// The result of a task that has ended, as an object; null, and the error is set.
    PyObject* (*take)(void* frame, PyObject* cancelled_error, zloop::detail::failure_trail& passed) noexcept;
    const zloop::detail::task_promise_base& (*promise)(void* frame) noexcept;
};

class driver : zloop::detail::completion, zloop::detail::live_task {
public:
    driver(interpreter& home, const kind_of_work& kind, std::coroutine_handle<> frame, object name,
           object keeps) noexcept
        : completion(&driver::ended),
          home_(home),
          kind_(kind),
          frame_(frame),
          name_(std::move(name)),
          keeps_(std::move(keeps)),
          home_alive_(home.alive()) {}
    driver(const driver&) = delete;
    driver& operator=(const driver&) = delete;
    ~driver() {
        if (frame_) {
            const error_kept kept;
            frame_.destroy();
        }
    }

    /// The object that this is in.
    inline PyObject* self() noexcept;

    // The slots of the type.
    PySendResult send(PyObject* value, PyObject** result) noexcept;
    PySendResult throw_in(object exception, PyObject** result) noexcept;
    bool close() noexcept;
    void finalize() noexcept;
    int traverse(visitproc visit, void* arg) noexcept;
    void clear() noexcept { drop(); }

    bool is_created() const noexcept { return phase_ == phase::created; }
    bool is_running() const noexcept { return phase_ == phase::stepping; }
    bool is_finished() const noexcept { return phase_ == phase::finished; }
    bool is_suspended() const noexcept { return !is_created() && !is_running() && !is_finished(); }
    const object& name() const noexcept { return name_; }
    /// What it waits for: an awaitable, or the future of a wait in C++; null.
    PyObject* awaits() const noexcept { return inner_ ? inner_.get() : wake_.get(); }
    site where() const noexcept {
        return frame_ ? kind_.promise(frame_.address()).waiting_for().where : site();
    }

    // For waiters.

    /// The driver whose task the scope is in; null: none of this extension's.
    static driver* above(scope& within) noexcept {
        const scope* found = &within;
        while (found != nullptr &&
               !(found->is_extended() && static_cast<const own_scope*>(found)->mark == &mark_of_scopes)) {
            found = found->parent();
        }
        return found != nullptr ? static_cast<const own_scope*>(found)->of : nullptr;
    }

    /// In a step, and nothing else is delegated to.
    bool may_delegate() const noexcept { return phase_ == phase::stepping && leaf_ == nullptr; }
    /// Waits for nothing but C++, so that a step can be had.
    bool may_ask() const noexcept { return phase_ == phase::waiting && asks_ == nullptr && leaf_ == nullptr; }
    void ask(waiter& asking) noexcept {
        asks_ = &asking;
        if (!is_woken_) {
            cross();
        }
    }

private:
    friend waiter;

    enum class phase : std::uint8_t {
        created,
        stepping,    // a step is in it, or a close
        delegating,  // waits for what `inner_` has yielded
        waiting,     // for C++, or, woken, for its next step
        alone,       // after a close: for C++, and nobody waits for it
        finished,
    };

    /// What all extensions have alike, and all that says whose it is.
    struct own_scope : scope {
        own_scope(scope& above, driver& mine) noexcept
            : scope(&above, extended()), mark(&mark_of_scopes), of(&mine) {}
        const void* mark;
        driver* of;
    };
    static inline constinit char mark_of_scopes = 0;  // each extension has its own

    bool begin() noexcept;
    bool is_steppable() noexcept;
    void resume_inner(PyObject* value) noexcept;
    void throw_into_inner(const object& exception) noexcept;
    void drive(PySendResult outcome, PyObject* value) noexcept;
    void interrupt() noexcept;
    void forget_inner() noexcept;
    PySendResult settle(PyObject** result) noexcept;
    bool park(PyObject** result) noexcept;
    PySendResult finish(PyObject** result) noexcept;
    void cross() noexcept;
    void leave() noexcept;
    void serve_alone() noexcept;
    void cancel() noexcept;
    long cancelling() noexcept;
    void drop() noexcept;

    static void ended(zloop::detail::completion& notified) noexcept;

    void own() noexcept {
        if (!std::exchange(is_owned_, true)) {
            Py_INCREF(self());
        }
    }
    /// The loop's reference, if it has one.
    object disown() noexcept { return std::exchange(is_owned_, false) ? object::steal(self()) : object(); }

    interpreter& home_;
    const kind_of_work& kind_;
    std::coroutine_handle<> frame_;
    object name_;
    object keeps_;  // what the task uses: of a method, its object
    object home_alive_;
    object asyncio_;         // the loop of the first step
    loop* on_ = nullptr;     // below it; null before it has begun, and once it has ended
    guest* host_ = nullptr;  // where that is another's; lives as long as `asyncio_`
    std::optional<own_scope> within_;
    object wake_;             // the future of a wait in C++
    object inner_, yielded_;  // what is delegated to, and what it gave for the Task to wait for
    object context_;          // of the last step: for Tasks that are made in a turn
    object task_;             // who steps it, once it has delegated
    object thrown_;           // how Python has cancelled the task
    waiter* leaf_ = nullptr;  // who has delegated
    waiter* asks_ = nullptr;  // who would like to
    phase phase_ = phase::created;
    bool is_done_ = false;      // the task has ended, and its result is to be taken
    bool is_woken_ = false;     // the future of a wait is set
    bool is_owned_ = false;     // by the loop
    unsigned long thread_ = 0;  // that has stepped it
    long cancelling_ = 0;       // of `task_`, when C++ cancelled `inner_`
    bool is_told_ = false;      // the cancellation comes from Python's side, which tells `inner_` itself
};

/// The object: a Python awaitable.
struct object_head {
    PyObject_HEAD
};
struct awaitable_object : object_head, driver {};

inline PyObject* driver::self() noexcept {
    return reinterpret_cast<PyObject*>(static_cast<object_head*>(static_cast<awaitable_object*>(this)));
}
inline driver& driver_of(PyObject* object) noexcept {
    return *static_cast<awaitable_object*>(reinterpret_cast<object_head*>(object));
}

/// A frame object that stands at `where`, of a function called `name`; null, with the error set.
inline PyFrameObject* made_frame(const site& where, PyObject* name) noexcept {
    const char* const function = PyUnicode_AsUTF8(name);
    if (function == nullptr) {
        return nullptr;
    }
    const object code = object::steal(reinterpret_cast<PyObject*>(PyCode_NewEmpty(
        where.line() != 0 ? where.file_name() : "<C++>", function, static_cast<int>(where.line()))));
    const object globals = object::steal(code ? PyDict_New() : nullptr);
    return globals ? PyFrame_New(PyThreadState_Get(), reinterpret_cast<PyCodeObject*>(code.get()),
                                 globals.get(), nullptr)
                   : nullptr;
}

/// The C++ functions that the error which is set has passed, as frames of its traceback: where each has
/// awaited the next, as far as that is known.
inline void add_traceback(const zloop::detail::failure_trail& trail,
                          const zloop::detail::task_promise_base& outermost, PyObject* name) noexcept {
    const auto add = [](const site& where, PyObject* function) {
        object exception = take_error();
        object frame = object::steal(reinterpret_cast<PyObject*>(made_frame(where, function)));
        PyErr_Clear();
        restore_error(std::move(exception));
        if (frame) {
            PyTraceBack_Here(reinterpret_cast<PyFrameObject*>(frame.get()));
        }
    };
    for (std::size_t index = 0; index + 1 < trail.size; ++index) {
        if (trail.sites[index].line() == 0) {
            continue;  // it had awaited nothing
        }
        const std::string spelled = frame_trace{"", trail.sites[index]}.function();
        const object function = object::steal(
            PyUnicode_DecodeUTF8(spelled.data(), static_cast<Py_ssize_t>(spelled.size()), "replace"));
        if (function) {
            add(trail.sites[index], function.get());
        } else {
            PyErr_Clear();
        }
    }
    add(outermost.waiting_for().where, name);
}

// Steps.

inline PySendResult driver::send(PyObject* value, PyObject** result) noexcept {
    *result = nullptr;
    if (phase_ == phase::stepping) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    }
    if (phase_ == phase::finished || phase_ == phase::alone) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (phase_ == phase::created && value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine");
        return PYGEN_ERROR;
    }
    if (phase_ != phase::created && !is_steppable()) {
        return PYGEN_ERROR;
    }
    if (phase_ == phase::waiting && !is_woken_) {  // two tasks step it, or who does so did not wait
        PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
        leave();
        return PYGEN_ERROR;
    }
    const object alive = object::borrow(self());
    switch (std::exchange(phase_, phase::stepping)) {
        case phase::created:
            if (!begin()) {
                static_cast<void>(finish(nullptr));
                return PYGEN_ERROR;
            }
            break;
        case phase::delegating: resume_inner(value); break;
        default:
            is_woken_ = false;
            wake_.reset();
            if (waiter* const asking = std::exchange(asks_, nullptr)) {
                if (!asking->delegate(*this)) {
                    asking->resume();
                }
            }
    }
    return settle(result);
}

/// Runs the task to its first wait. False: it cannot; the error is set.
inline bool driver::begin() noexcept {
    try {
        asyncio_ = home_.running();
        if (!asyncio_) {
            PyErr_SetString(PyExc_RuntimeError, "no running event loop");
            return false;
        }
        const place here = place_in(home_, asyncio_.get());
        on_ = here.on;
        host_ = here.host;
        thread_ = PyThread_get_thread_ident();
        within_.emplace(*here.within, *this);
    } catch (...) {
        set_error(std::current_exception(), home_.cancelled_error.get());
        return false;
    }
    bottom = &kind_.promise(frame_.address());
    on_->enlist(*this);
    kind_.begin(frame_.address(), {on_, &*within_}, *this);
    frame_.resume();
    return true;
}

/// Whether the loop is not another thread's, which may be in it without the GIL. False: the error is set.
inline bool driver::is_steppable() noexcept {
    const unsigned long thread = PyThread_get_thread_ident();
    if (thread != thread_) {
        if (!is_running_here(home_, asyncio_.get())) {
            PyErr_SetString(PyExc_RuntimeError, "a coroutine of C++ goes on only where its event loop runs");
            return false;
        }
        thread_ = thread;
    }
    return true;
}

/// After C++ has had its say: what the Task gets.
inline PySendResult driver::settle(PyObject** result) noexcept {
    for (;;) {
        if (is_done_) {
            const object host_lives = host_ != nullptr ? asyncio_ : object();
            const PySendResult outcome = finish(result);
            if (host_ != nullptr) {  // its last words may have woken others
                const error_kept kept;
                host_->touched();
            }
            return outcome;
        }
        if (leaf_ != nullptr) {
            phase_ = phase::delegating;
            *result = Py_NewRef(yielded_.get());
            context_ = entered_context();
            if (!task_) {
                task_ = object::steal(call(home_.current_task.get()));
            }
            PyErr_Clear();
            if (host_ != nullptr) {
                host_->touched();  // what else it has may wait in C++
            }
            if (PyObject_GC_IsTracked(self()) == 0) {
                PyObject_GC_Track(self());
            }
            return PYGEN_NEXT;
        }
        if (!park(result)) {
            leave();
            return PYGEN_ERROR;
        }
        if (!is_done_ && asks_ == nullptr) {
            return PYGEN_NEXT;
        }
        // Making the future has let the loop turn: no need to wait any more.
        Py_CLEAR(*result);
        phase_ = phase::stepping;
        wake_.reset();
        is_woken_ = false;
        const object owned = disown();
        if (waiter* const asking = std::exchange(asks_, nullptr)) {
            if (!asking->delegate(*this)) {
                asking->resume();
            }
        }
    }
}

/// Gives the Task a future to wait for. False: the error is set.
inline bool driver::park(PyObject** result) noexcept {
    object future = object::steal(call_method(asyncio_.get(), home_.str_create_future.get()));
    if (!future || PyObject_SetAttr(future.get(), home_.str_future_blocking.get(), Py_True) != 0) {
        return false;
    }
    *result = Py_NewRef(future.get());
    wake_ = std::move(future);
    is_woken_ = false;
    phase_ = phase::waiting;
    context_ = entered_context();
    own();
    if (PyObject_GC_IsTracked(self()) == 0) {
        PyObject_GC_Track(self());
    }
    if (host_ != nullptr) {
        host_->touched();
    }
    return true;
}

/// The end: gives the result, and lets go of everything.
inline PySendResult driver::finish(PyObject** result) noexcept {
    phase_ = phase::finished;
    const object alive = disown();
    const std::coroutine_handle<> frame = std::exchange(frame_, {});
    object value;
    if (is_done_) {
        zloop::detail::failure_trail passed;
        value = object::steal(kind_.take(frame.address(), home_.cancelled_error.get(), passed));
        if (thrown_ && (value ? PyErr_GivenExceptionMatches(thrown_.get(), home_.cancelled_error.get()) == 0
                              : PyErr_ExceptionMatches(home_.cancelled_error.get()) != 0)) {
            value.reset();
            PyErr_Clear();
            restore_error(thrown_);
        }
        if (!value && PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_StopIteration) != 0) {
            object cause = take_error();  // PEP 479: it would be taken for a result
            PyErr_SetString(PyExc_RuntimeError, "coroutine raised StopIteration");
            object made = take_error();
            PyException_SetContext(made.get(), object(cause).release());
            PyException_SetCause(made.get(), cause.release());
            restore_error(std::move(made));
        }
        if (!value && PyErr_Occurred() == nullptr) {
            PyErr_SetString(PyExc_SystemError, "a converter returned NULL without setting an exception");
        }
        if (!value) {
            add_traceback(passed, kind_.promise(frame.address()), name_.get());
        }
    }
    {
        const error_kept kept;
        frame.destroy();
        drop();
    }
    if (result != nullptr) {
        *result = value.release();
        return *result != nullptr ? PYGEN_RETURN : PYGEN_ERROR;
    }
    return PYGEN_ERROR;
}

inline void driver::drop() noexcept {
    for (object* each : {&wake_, &inner_, &yielded_, &thrown_, &asyncio_, &keeps_, &context_, &task_}) {
        each->reset();
    }
}

/// The task has ended, on its own stack, suspended for good.
inline void driver::ended(zloop::detail::completion& notified) noexcept {
    auto& self = static_cast<driver&>(notified);
    self.is_done_ = true;
    self.on_->strike(self);
    self.within_.reset();
    self.on_ = nullptr;
    if (self.phase_ == phase::waiting) {
        if (!self.is_woken_) {
            self.cross();
        }
    } else if (self.phase_ == phase::alone) {
        const object alive = object::borrow(self.self());
        PyObject* value = nullptr;
        const error_kept kept;
        if (self.finish(&value) == PYGEN_ERROR) {
            if (PyErr_ExceptionMatches(self.home_.cancelled_error.get()) != 0) {
                PyErr_Clear();
            } else {
                PyErr_WriteUnraisable(alive.get());
            }
        }
        Py_XDECREF(value);
    }
}

/// Has the Task make a step: from the loop's turn into Python.
inline void driver::cross() noexcept {
    is_woken_ = true;
    const object alive = disown();
    const object future = wake_;
    const error_kept kept;
    // A future of another kind may call back at once; but C++ is on the stack, and not suspended yet.
    const phase before = std::exchange(phase_, phase::stepping);
    const bool is_set =
        static_cast<bool>(object::steal(call_method(future.get(), home_.str_set_result.get(), Py_None)));
    phase_ = before;
    if (!is_set) {
        // It is cancelled, and its task is about to tell us; or the loop is closed, and nobody ever steps.
        if (PyErr_ExceptionMatches(home_.invalid_state_error.get()) != 0 || is_done_) {
            PyErr_Clear();
        } else {
            PyErr_WriteUnraisable(future.get());
        }
    }
}

// What is delegated to.

inline void driver::resume_inner(PyObject* value) noexcept {
    if (leaf_->wants_cancel_) {
        leaf_->wants_cancel_ = false;
        throw_into_inner(object::steal(call(home_.cancelled_error.get())));
        return;
    }
    const object inner = inner_;
    PyObject* given = nullptr;
    leaf_->phase_ = waiter::phase::sending;
    const PySendResult outcome = PyIter_Send(inner.get(), value, &given);
    drive(outcome, given);
}

inline void driver::throw_into_inner(const object& exception) noexcept {
    const object inner = inner_;
    leaf_->phase_ = waiter::phase::sending;
    PyObject* given = nullptr;
    if (!exception) {
        drive(PYGEN_ERROR, nullptr);  // no memory for it; that is set
        return;
    }
    const object method = object::steal(PyObject_GetAttr(inner.get(), home_.str_throw.get()));
    if (method) {
        given = call(method.get(), exception.get());
        if (given == nullptr && PyErr_ExceptionMatches(PyExc_StopIteration) != 0) {
            const object stop = take_error();
            given = PyObject_GetAttrString(stop.get(), "value");
            drive(given != nullptr ? PYGEN_RETURN : PYGEN_ERROR, given);
            return;
        }
    } else {  // as `yield from` does
        PyErr_Clear();
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.get())), exception.get());
    }
    drive(given != nullptr ? PYGEN_NEXT : PYGEN_ERROR, given);
}

/// The inner iterator has yielded, or ended; then C++ goes on.
inline void driver::drive(PySendResult outcome, PyObject* value) noexcept {
    waiter& leaf = *leaf_;
    if (outcome == PYGEN_NEXT) {
        leaf.phase_ = waiter::phase::delegated;
        yielded_ = object::steal(value);
        if (leaf.wants_cancel_) {
            interrupt();
        }
        return;
    }
    if (outcome == PYGEN_RETURN) {
        leaf.got_ = object::steal(value);
    } else {
        leaf.failure_ = take_error();
        leaf.was_canceled_ =
            PyErr_GivenExceptionMatches(leaf.failure_.get(), home_.cancelled_error.get()) != 0;
    }
    leaf_ = nullptr;
    inner_.reset();
    yielded_.reset();
    if (leaf.caller_ && leaf.phase_ == waiter::phase::sending) {
        leaf.resume();
    }
}

/// Has the inner awaitable cancelled from C++: as Task.cancel() does it, by way of what it waits for.
inline void driver::interrupt() noexcept {
    const error_kept kept;
    object alive = object::borrow(self());
    const object future = yielded_;
    cancelling_ = cancelling();
    // As in cross(): a scope is being cancelled, and nothing in it may go on and end meanwhile.
    const phase before = std::exchange(phase_, phase::stepping);
    if (future.get() != Py_None) {
        if (!object::steal(call_method(future.get(), home_.str_cancel.get()))) {
            PyErr_WriteUnraisable(future.get());
        }
    }
    phase_ = before;
    if (Py_REFCNT(alive.get()) == 1) {  // the last one: not within the scope's cancel()
        struct farewell final : op {
            explicit farewell(object last) noexcept
                : op([](op& node) noexcept { delete &static_cast<farewell&>(node); }),
                  held(std::move(last)) {}
            object held;
        };
        PyObject* const last = alive.release();
        if (auto* const later = new (std::nothrow) farewell(object::steal(last))) {
            on_->push(*later);
        }
    }
}

/// Python will not answer any more: the loop ends.
inline void driver::forget_inner() noexcept {
    leaf_ = nullptr;
    phase_ = phase::waiting;
    is_woken_ = true;  // no future waits for the end
}

// Cancelling, closing.

inline void driver::cancel() noexcept {
    if (on_ == nullptr) {
        return;  // it has ended
    }
    if (is_running_here(home_, asyncio_.get())) {
        within_->cancel();
        if (host_ != nullptr) {
            host_->touched();
        }
        return;
    }
    // Another thread may be in the loop, or none.
    struct order final : op {
        explicit order(driver& to) noexcept
            : op([](op& node) noexcept {
                  auto& given = static_cast<order&>(node);
                  if (given.target.within_) {
                      given.target.within_->cancel();
                      given.target.serve_alone();
                  }
                  Py_DECREF(given.target.self());
                  delete &given;
              }),
              target(to) {}
        driver& target;
    };
    if (auto* const given = new (std::nothrow) order(*this)) {
        Py_INCREF(self());
        on_->post(*given);
    }
}

/// Cancels the task, and lets it end alone: who has awaited it does so no more. Keeps the error indicator.
inline void driver::leave() noexcept {
    const error_kept kept;
    phase_ = phase::alone;
    own();
    const object future = std::move(wake_);
    if (future && !std::exchange(is_woken_, true) && is_running_here(home_, asyncio_.get())) {
        // A task that waits for it is not left hanging: its next step is refused.
        object::steal(call_method(future.get(), home_.str_set_result.get(), Py_None));
        PyErr_Clear();
    }
    if (is_done_) {  // on the way to who does not want it
        PyObject* value = nullptr;
        static_cast<void>(finish(&value));
        Py_XDECREF(value);
        PyErr_Clear();
        return;
    }
    cancel();
    if (is_running_here(home_, asyncio_.get())) {
        serve_alone();
    }
}

/// Nobody steps any more: what is shielded and has asked for a step gets a Task of its own.
inline void driver::serve_alone() noexcept {
    if (waiter* const asking = phase_ == phase::alone ? std::exchange(asks_, nullptr) : nullptr) {
        asking->around_.within->leave(false);
        if (!asking->schedule()) {
            asking->around_.on->push(*asking);
        }
    }
}

inline long driver::cancelling() noexcept {
    const error_kept kept;
    const object count = task_ && task_.get() != Py_None
                             ? object::steal(call_method(task_.get(), home_.str_cancelling.get()))
                             : object();
    const long times = count && PyLong_Check(count.get()) ? PyLong_AsLong(count.get()) : 0;
    PyErr_Clear();
    return times;
}

inline PySendResult driver::throw_in(object exception, PyObject** result) noexcept {
    *result = nullptr;
    if (phase_ == phase::stepping) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    }
    if (phase_ == phase::finished || phase_ == phase::alone) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    const object alive = object::borrow(self());
    const auto raise = [&] {
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.get())), exception.get());
        return PYGEN_ERROR;
    };
    if (phase_ == phase::created) {
        static_cast<void>(finish(nullptr));
        return raise();
    }
    if (!is_steppable()) {
        return PYGEN_ERROR;
    }
    if (PyErr_GivenExceptionMatches(exception.get(), PyExc_GeneratorExit) != 0) {
        return close() ? raise() : PYGEN_ERROR;
    }
    const bool is_cancel = PyErr_GivenExceptionMatches(exception.get(), home_.cancelled_error.get()) != 0;
    if (phase_ == phase::waiting) {
        if (!is_cancel && !is_done_) {
            leave();
            return raise();
        }
        phase_ = phase::stepping;
        wake_.reset();
        is_woken_ = false;
        thrown_ = std::move(exception);
        is_told_ = true;
        cancel();
        is_told_ = false;
        return settle(result);
    }
    // Delegating. A cancel that C++ has asked for is for the inner awaitable alone.
    phase_ = phase::stepping;
    const bool is_ours = std::exchange(leaf_->wants_cancel_, false) && cancelling() <= cancelling_;
    if (is_cancel && !is_ours) {
        thrown_ = exception;
        is_told_ = true;
        cancel();
        is_told_ = false;
    }
    throw_into_inner(exception);
    return settle(result);
}

/// As a coroutine's. False: the error is set.
inline bool driver::close() noexcept {
    if (phase_ == phase::stepping) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return false;
    }
    if (phase_ == phase::finished || phase_ == phase::alone) {
        return true;
    }
    const object alive = object::borrow(self());
    if (phase_ == phase::created) {
        static_cast<void>(finish(nullptr));
        return true;
    }
    if (leaf_ == nullptr) {
        leave();
        return true;
    }
    // Delegating: the inner awaitable is closed, and C++ goes on from there, for as long as it needs.
    phase_ = phase::stepping;
    const object host_lives = asyncio_;
    const object inner = inner_;
    waiter& leaf = *leaf_;
    leaf.phase_ = waiter::phase::sending;
    const object method = object::steal(PyObject_GetAttr(inner.get(), home_.str_close.get()));
    object failure;
    if (!method) {
        PyErr_Clear();  // a future's iterator before 3.12, any iterator
    } else if (!object::steal(call(method.get()))) {
        failure = take_error();
    }
    leaf_ = nullptr;
    inner_.reset();
    yielded_.reset();
    leaf.failure_ = failure;
    leaf.is_canceled_ = true;
    phase_ = phase::alone;
    own();
    is_told_ = true;
    const bool is_here = is_running_here(home_, asyncio_.get());
    cancel();
    is_told_ = false;
    leaf.end();
    if (is_here) {
        leaf.caller_.resume();
        if (host_ != nullptr) {
            const error_kept kept;
            host_->touched();
        }
    } else {
        on_->post(leaf);
    }
    return true;
}

inline void driver::finalize() noexcept {
    const error_kept kept;
    if (phase_ == phase::created) {
        if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%U' was never awaited", name_.get()) != 0) {
            PyErr_WriteUnraisable(self());
        }
        if (phase_ == phase::created) {  // whoever has it again now cannot await it: this is called once
            static_cast<void>(finish(nullptr));
        }
        return;
    }
    if (!close()) {
        PyErr_WriteUnraisable(self());
    }
}

inline int driver::traverse(visitproc visit, void* arg) noexcept {
    for (const object* each : {&asyncio_, &wake_, &inner_, &yielded_, &thrown_, &keeps_, &context_, &task_}) {
        if (*each) {
            if (const int stopped = visit(each->get(), arg)) {
                return stopped;
            }
        }
    }
    return 0;
}

// Waiters.

inline bool waiter::begin(std::coroutine_handle<> caller, const context& around) noexcept {
    around_ = around;
    if (around.within->refuses()) {
        is_canceled_ = true;
        phase_ = phase::over;
        spare();
        return false;
    }
    driver* const found = driver::above(*around.within);
    if (found != nullptr && found->may_delegate()) {
        phase_ = phase::sending;
        around.within->enter(*this);
        if (delegate(*found)) {
            caller_ = caller;
            return true;
        }
        end();
        return false;
    }
    caller_ = caller;
    if (found != nullptr && found->may_ask()) {
        driver_ = found;
        phase_ = phase::asking;
        around.within->enter(*this);
        found->ask(*this);
        return true;
    }
    return schedule();
}

inline bool waiter::delegate(driver& to) noexcept {
    driver_ = &to;
    phase_ = phase::sending;
    object iterator = iterator_of(what_.get());
    if (!iterator) {
        failure_ = take_error();
        return false;
    }
    what_.reset();
    to.leaf_ = this;
    to.inner_ = iterator;
    PyObject* given = nullptr;
    const std::coroutine_handle<> caller = std::exchange(caller_, {});  // who called us resumes it
    const PySendResult outcome = PyIter_Send(iterator.get(), Py_None, &given);
    to.drive(outcome, given);
    caller_ = caller;
    return outcome == PYGEN_NEXT;
}

/// Makes the awaitable a Task. False: it goes on at once, with what was raised.
inline bool waiter::schedule() noexcept {
    object callback;
    try {
        callback = schedule_task(interpreter::here());
    } catch (const raised& failure) {
        failure_ = failure.instance();
    } catch (const std::bad_alloc&) {
        failure_ = object::borrow(PyExc_MemoryError);
    }
    if (failure_) {
        phase_ = phase::over;
        token_.reset();
        return false;
    }
    phase_ = phase::scheduled;
    around_.within->enter(*this);
    if (phase_ == phase::scheduled) {
        interpreter& home = interpreter::here();
        const object task = task_;  // a future of another kind may call back at once
        if (!object::steal(call_method(task.get(), home.str_add_done_callback.get(), callback.get()))) {
            if (phase_ == phase::scheduled) {
                failure_ = take_error();
                end();
                return false;
            }
            PyErr_Clear();
        }
    }
    return true;
}

inline object waiter::schedule_task(interpreter& home) {
    static PyMethodDef definition = {"zloop_resume", &waiter::task_ended, METH_O, nullptr};
    const auto check = [&](PyObject* done) { return checked(done, home.cancelled_error.get()); };
    token_ = check(PyCapsule_New(this, nullptr, nullptr));
    object callback = check(PyCFunction_New(&definition, token_.get()));
    const object asyncio = home.running();
    if (!asyncio) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        throw_error_set(home.cancelled_error.get());
    }
    PyObject* arguments[] = {nullptr, what_.get(), asyncio.get()};
    // In a turn the context is nobody's: then it is that of the driver's last step.
    driver* const around = driver::above(*around_.within);
    object context;
    if (around == nullptr || around->phase_ != driver::phase::stepping) {
        context = check(PyContext_Copy(around != nullptr && around->context_ ? around->context_.get()
                                                                             : home.empty_context.get()));
        if (PyContext_Enter(context.get()) != 0) {
            throw_error_set(home.cancelled_error.get());
        }
    }
    object made =
        object::steal(PyObject_Vectorcall(home.ensure_future.get(), arguments + 1,
                                          1 | PY_VECTORCALL_ARGUMENTS_OFFSET, home.loop_keyword.get()));
    if (context) {
        const error_kept kept;
        PyContext_Exit(context.get());
    }
    task_ = check(made.release());
    what_.reset();
    return callback;
}

inline constexpr const char* waiter_gone = "gone";  // a token's context

inline PyObject* waiter::task_ended(PyObject* token, PyObject* task) noexcept {
    if (PyCapsule_GetContext(token) != waiter_gone) {
        auto& self = *static_cast<waiter*>(PyCapsule_GetPointer(token, nullptr));
        PyCapsule_SetContext(token, const_cast<char*>(waiter_gone));
        self.take_outcome(interpreter::here(), task);
        const object ended = std::move(self.task_);
        self.end();
        self.around_.on->push(
            self);  // not at once: a Task of another kind may call us inside of its cancel()
        touch_running();
    }
    Py_RETURN_NONE;
}

inline void waiter::take_outcome(interpreter& home, PyObject* task) noexcept {
    got_ = object::steal(call_method(task, home.str_result.get()));
    if (!got_) {
        failure_ = take_error();
        was_canceled_ = PyErr_GivenExceptionMatches(failure_.get(), home.cancelled_error.get()) != 0;
    }
}

/// The scope is cancelled, in a turn of C++ or in a step: the awaitable is told, and answers in its time.
inline void waiter::stop(cancellable& leaf) noexcept {
    auto& self = static_cast<waiter&>(leaf);
    const bool is_end = self.around_.within->is_over();
    switch (self.phase_) {
        case phase::sending: self.wants_cancel_ = !self.driver_->is_told_; break;
        case phase::delegated:
            if (self.driver_->is_told_) {
                break;
            }
            if (is_end) {
                self.driver_->forget_inner();
                self.desert();
            } else if (!std::exchange(self.wants_cancel_, true)) {
                self.driver_->interrupt();
            }
            break;
        case phase::asking:
            self.driver_->asks_ = nullptr;
            self.desert();
            break;
        case phase::scheduled: {
            const error_kept kept;
            const object task = self.task_;
            if (is_end) {
                PyCapsule_SetContext(self.token_.get(), const_cast<char*>(waiter_gone));
                self.task_.reset();
                self.desert();
            } else if (!object::steal(PyObject_CallMethod(task.get(), "cancel", nullptr))) {
                PyErr_WriteUnraisable(task.get());
            }
            break;
        }
        default: break;
    }
}

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python
