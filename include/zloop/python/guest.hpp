// zloop/python/guest.hpp: a C++ loop in an asyncio loop of another kind: asyncio's own, uvloop's.
//
// One a loop and extension. The host watches the guest's descriptor, wakes it when its next timer is due, and
// calls it once more where something is ready: as examples/cpp/embedded_epoll.cpp does. The host owns it, in
// an attribute; closing the host ends what runs on it first.
//
// Nothing in it is for users.
#pragma once

#include <zloop/python/interpreter.hpp>

#include <algorithm>
#include <optional>

#include <zloop/loop.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

class guest {
public:
    /// That of `host`; made, if it has none.
    /// Fails: throws what the host raises, and RuntimeError for one that is closed.
    static guest& of(interpreter& home, PyObject* host) {
        const object known = object::steal(PyObject_GetAttr(host, home.str_guest.get()));
        if (known) {
            guest* const found = static_cast<guest*>(PyCapsule_GetPointer(known.get(), nullptr));
            if (found->is_closed_) {
                PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
                throw_error_set(home.cancelled_error.get());
            }
            return *found;
        }
        PyErr_Clear();
        return make(home, host);
    }

    guest(const guest&) = delete;
    guest& operator=(const guest&) = delete;
    /// Ends what runs on it.
    ~guest() {
        const error_kept kept;
        if (token_) {
            PyCapsule_SetContext(token_.get(), const_cast<char*>(gone));
        }
        if (on_) {
            on_->shut_down();
        }
    }

    loop& on() noexcept { return *on_; }

    /// Something was started on the loop, outside of its turns.
    void touched() noexcept {
        if (!is_turning_ && !is_closed_) {
            on_->kernel().submit();
            arm();
        }
    }

private:
    guest(interpreter& home, PyObject* host) : home_(home), host_(host), on_(std::in_place) {}

    static guest& make(interpreter& home, PyObject* host) {
        static PyMethodDef turning = {"zloop_turn", &guest::turn, METH_NOARGS, nullptr};
        static PyMethodDef waking = {"zloop_wake", &guest::wake, METH_NOARGS, nullptr};
        static PyMethodDef closing = {"close", &guest::close, METH_O, nullptr};
        auto* const made = new guest(home, host);
        const object owner = object::steal(PyCapsule_New(made, nullptr, [](PyObject* ended) {
            delete static_cast<guest*>(PyCapsule_GetPointer(ended, nullptr));
        }));
        if (!owner) {
            delete made;
            throw_error_set(home.cancelled_error.get());
        }
        const auto check = [&](PyObject* done) { return checked(done, home.cancelled_error.get()); };
        made->token_ = check(PyCapsule_New(made, nullptr, nullptr));
        made->turn_ = check(PyCFunction_New(&turning, made->token_.get()));
        made->wake_ = check(PyCFunction_New(&waking, made->token_.get()));
        const object function = check(PyCFunction_New(&closing, made->token_.get()));
        const object close = check(PyMethod_New(function.get(), host));
        if (made->on_->native_handle() < 0) {
            PyErr_SetString(PyExc_RuntimeError,
                            "this backend of zloop has no descriptor for another loop to watch");
            throw_error_set(home.cancelled_error.get());
        }
        const object descriptor = check(PyLong_FromLong(made->on_->native_handle()));
        made->on_->run_once(nanoseconds::zero());  // from now on a post() is seen in the descriptor
        static_cast<void>(made->on_->leave_thread());
        {  // not in the context of who is here first
            const object nobodys = check(PyContext_Copy(home.empty_context.get()));
            if (PyContext_Enter(nobodys.get()) != 0) {
                throw_error_set(home.cancelled_error.get());
            }
            const object added = object::steal(
                call_method(host, home.str_add_reader.get(), descriptor.get(), made->turn_.get()));
            {
                const error_kept kept;
                PyContext_Exit(nobodys.get());
            }
            if (!added) {
                throw_error_set(home.cancelled_error.get());
            }
        }
        // The host's own, or that of another extension's guest.
        const object former = check(PyObject_GetAttr(host, home.str_close.get()));
        if (PyObject_SetAttr(host, home.str_guest.get(), owner.get()) != 0 ||
            PyObject_SetAttr(host, home.str_former_close.get(), former.get()) != 0 ||
            PyObject_SetAttr(host, home.str_close.get(), close.get()) != 0) {
            const error_kept kept;
            object::steal(call_method(host, home.str_remove_reader.get(), descriptor.get()));
            PyErr_Clear();
            throw_error_set(home.cancelled_error.get());
        }
        return *made;
    }

    static guest* behind(PyObject* token) noexcept {
        return PyCapsule_GetContext(token) != gone ? static_cast<guest*>(PyCapsule_GetPointer(token, nullptr))
                                                   : nullptr;
    }

    static PyObject* turn(PyObject* token, PyObject*) noexcept {
        guest* self = behind(token);
        if (self == nullptr || self->is_closed_ || self->is_turning_) {
            Py_RETURN_NONE;
        }
        self->is_scheduled_ = false;
        self->is_turning_ = true;
        PyObject* result = Py_NewRef(Py_None);
        try {
            self->on_->run_once(nanoseconds::zero());
            static_cast<void>(self->on_->leave_thread());  // the host's next run may be another thread's
        } catch (...) {
            Py_CLEAR(result);
            set_error(std::current_exception(), self->home_.cancelled_error.get());
        }
        self = behind(token);  // what has run may have dropped the host
        if (self != nullptr) {
            self->is_turning_ = false;
            const error_kept kept;
            self->arm();
        }
        return result;
    }

    /// The host's timer. It may be early, by the host's clock: then turn() arms another.
    static PyObject* wake(PyObject* token, PyObject*) noexcept {
        if (guest* const self = behind(token)) {
            self->armed_for_ = time_point::max();
            self->timer_.reset();
        }
        return turn(token, nullptr);
    }

    /// The host's close(): what runs here ends before the host does, as it can tell nobody afterwards.
    static PyObject* close(PyObject* token, PyObject* host) noexcept {
        guest* const self = behind(token);
        interpreter* home = self != nullptr ? &self->home_ : nullptr;
        if (self != nullptr && !self->is_closed_) {
            const object running = object::steal(call_method(host, home->str_is_running.get()));
            const int is_running = running ? PyObject_IsTrue(running.get()) : -1;
            if (is_running < 0) {
                return nullptr;
            }
            if (is_running == 0 && behind(token) != nullptr && !self->is_turning_) {
                self->end();
            }
        }
        const object former =
            object::steal(PyObject_GetAttr(host, interpreter::here().str_former_close.get()));
        return former ? call(former.get()) : nullptr;
    }

    void end() noexcept {
        is_closed_ = true;
        on_->shut_down();
        const object descriptor = object::steal(PyLong_FromLong(on_->native_handle()));
        const object host = object::borrow(host_);
        if (descriptor) {
            object::steal(call_method(host.get(), home_.str_remove_reader.get(), descriptor.get()));
        }
        PyErr_Clear();  // closed already, by its class's own close()
        disarm();
        on_.reset();
    }

    void arm() noexcept {
        if (is_closed_ || is_scheduled_) {
            return;
        }
        const object host = object::borrow(host_);
        if (on_->has_ready()) {
            is_scheduled_ = true;
            if (!ask(home_.str_call_soon.get(), turn_.get(), home_.empty_context.get())) {
                is_scheduled_ = false;
            }
            return;
        }
        const time_point next = on_->next_deadline();
        if (next == armed_for_) {
            return;
        }
        disarm();
        if (next != time_point::max()) {
            armed_for_ = next;
            const double seconds =
                std::chrono::duration<double>(std::max(next - on_->now(), nanoseconds::zero())).count();
            const object delay = object::steal(PyFloat_FromDouble(seconds));
            if (delay) {
                timer_ = ask(home_.str_call_later.get(), delay.get(), wake_.get(), home_.empty_context.get());
            }
            if (!timer_) {
                armed_for_ = time_point::max();
            }
        }
    }

    void disarm() noexcept {
        armed_for_ = time_point::max();
        if (const object timer = std::exchange(timer_, object())) {
            if (!object::steal(call_method(timer.get(), home_.str_cancel.get()))) {
                PyErr_WriteUnraisable(timer.get());
            }
        }
    }

    /// `host.name(values…, context=…)`; the last value is the context.
    template <class... Values>
    object ask(PyObject* name, Values... values) noexcept {
        PyObject* arguments[] = {nullptr, host_, values...};
        object given = object::steal(
            PyObject_VectorcallMethod(name, arguments + 1, sizeof...(values) | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                      home_.context_keyword.get()));
        if (!given) {
            PyErr_WriteUnraisable(host_);
        }
        return given;
    }

    static constexpr const char* gone = "gone";  // a token's context: the guest is no more

    interpreter& home_;
    PyObject* host_;          // borrowed: it owns us
    std::optional<loop> on_;  // until the host is closed
    object token_, turn_, wake_, timer_;
    time_point armed_for_ = time_point::max();
    bool is_scheduled_ = false;
    bool is_turning_ = false;
    bool is_closed_ = false;
};

/// Where C++ runs in an asyncio loop.
struct place {
    loop* on = nullptr;
    scope* within = nullptr;  // what ends with the asyncio loop
    guest* host = nullptr;    // of a loop that is not zloop's
};

/// Fails: throws what package() and guest::of() do; RuntimeError for a closed loop.
inline place place_in(interpreter& home, PyObject* asyncio_loop) {
    if (const core* const package = home.package()) {
        if (const loop_below found = package->loop_of(*package, asyncio_loop); found.on != nullptr) {
            return {found.on, found.within, nullptr};
        }
    }
    guest& found = guest::of(home, asyncio_loop);
    return {&found.on(), &found.on().root_scope(), &found};
}

/// The same for the asyncio loop that runs in this thread.
/// Fails: as place_in() does; throws a RuntimeError where none runs.
inline place running_place() {
    interpreter& home = interpreter::here();
    const object running = home.running();
    if (!running) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop");
        throw_error_set(home.cancelled_error.get());
    }
    return place_in(home, running.get());
}

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python
