// module/socket/operation.cpp: awaiting, waiting in line, being cancelled. See operation.hpp.

#include "operation.hpp"

#include "../acceptor.hpp"
#include "../sockets.hpp"

namespace zl {

sock_operation_fields::sock_operation_fields(LoopCore& owner, const sock_call& what,
                                             PyObject* socket) noexcept
    : watcher(&SockOperation::run_in_turn, -1, what.toward),
      core(&owner),
      call(&what),
      loop(py::ref::borrow(owner.self())),
      sock(py::ref::borrow(socket)) {
    once = true;
}

py::ref SockOperation::make(LoopCore& core, const sock_call& call, PyObject* sock, PyObject* argument,
                            PyObject* other_argument, std::size_t size) {
    auto* type = reinterpret_cast<PyTypeObject*>(core.state->sock_operation_type.get());
    py::ref object = py::ref::steal(type->tp_alloc(type, 0));
    auto& self = *reinterpret_cast<SockOperation*>(object.get());
    ::new (static_cast<sock_operation_fields*>(&self)) sock_operation_fields(core, call, sock);
    self.argument = py::ref::borrow(argument);
    self.other_argument = py::ref::borrow(other_argument);
    self.size = size;
    return object;
}

// Awaiting.

PySendResult SockOperation::step(PyObject* value, PyObject** result) noexcept {
    *result = nullptr;
    if (!can_be_sent_to(at, value)) {
        return PYGEN_ERROR;
    }
    const bool begins = at == phase::created;
    bool waits = false;
    at = phase::running;
    *result = py::detail::guarded([&] {
        begins ? check_socket() : resume();
        if (toward == zloop::direction::write) {
            core->held.push_all();  // what was written before, leaves before
        }
        const bool has_turn = !begins || core->take_sock_turn();
        py::ref outcome = has_turn ? call->attempt(*this) : nullptr;
        waits = !outcome;
        return waits ? park(has_turn) : outcome;
    });
    if (*result != nullptr && waits) {
        at = phase::waiting;
        return PYGEN_NEXT;
    }
    finish();
    return *result != nullptr ? PYGEN_RETURN : PYGEN_ERROR;
}

/// asyncio looks for sockets that would block the loop in debug mode only; ours never do.
void SockOperation::check_socket() {
    if (core->debug && sock.get() != Py_None) {
        const py::ref timeout = py::call_method(sock.get(), core->state->str_gettimeout.get());
        if (timeout.get() == Py_None || PyFloat_AsDouble(timeout.get()) != 0) {
            py::raise(PyExc_ValueError, "the socket must be non-blocking");
        }
    }
}

void SockOperation::resume() {
    const py::ref waited_for = std::move(future);
    if (std::exchange(woken, false)) {
        return;
    }
    // Whoever drives us did not wait for the future; or it was cancelled, and its result() says so.
    static_cast<void>(unlist());
    if (!py::truth(py::ref::steal(PyObject_CallMethod(waited_for.get(), "done", nullptr)).get())) {
        py::raise(PyExc_RuntimeError, "await wasn't used with future");
    }
    py::ref::steal(PyObject_CallMethod(waited_for.get(), "result", nullptr));
}

int SockOperation::descriptor() { return own ? own.get() : known_socket_number(*core->state, sock.get()); }

/// The end, of whatever kind. Keeps the error indicator.
void SockOperation::finish() noexcept {
    static_cast<void>(unlist());
    at = phase::finished;
    drop();
}

void SockOperation::drop() noexcept {
    let_go_of_data();
    own.reset();
    for (py::ref* each : {&sock, &argument, &other_argument, &future}) {
        each->reset();
    }
}

// Waiting.

/// Until the descriptor is ready, or, where it may be so already, until the next turn.
py::ref SockOperation::park(bool until_ready) {
    core->check_closed();
    py::ref waits_for = core->create_future();
    if (PyObject_SetAttr(waits_for.get(), core->state->str_future_blocking.get(), Py_True) != 0) {
        throw py::error_set{};
    }
    core->check_closed();  // again: a program may have its own Future
    if (until_ready) {
        fd = descriptor();
        watch();
    } else {
        wake();
    }
    future = waits_for;
    Py_INCREF(self());  // the list's
    listed = true;
    previous = nullptr;
    next = core->sock_operations;
    if (next != nullptr) {
        next->previous = this;
    }
    core->sock_operations = this;
    return waits_for;
}

void SockOperation::watch() {
    std::error_code error = core->loop->kernel().watch(*this);
    if (error == std::errc::device_or_resource_busy) {
        acceptor::forget_closed(*core, fd);
        core->check_closed();
        error = core->loop->kernel().watch(*this);
    }
    if (error == std::errc::device_or_resource_busy) {
        // A transport's, asyncio's words say; or another operation's; or that of a callback, which goes, as
        // it does in asyncio.
        const py::ref number = py::integer(fd);
        py::call_method(core->self(), core->state->str_ensure_fd_no_transport.get(), number.get());
        if (SockOperation* const other = on(*core, fd, toward)) {
            if (!other->is_stale()) {
                in_line = true;
                ++core->sock_operations_in_line;
                return;
            }
            other->wake();
        } else {
            toward == zloop::direction::read ? core->remove_reader(number.get())
                                             : core->remove_writer(number.get());
        }
        core->check_closed();  // what was just removed may have done anything
        error = core->loop->kernel().watch(*this);
    }
    if (error) {
        py::raise_os_error(error);
    }
    watching = true;
}

void SockOperation::unwatch() noexcept {
    if (std::exchange(in_line, false)) {
        --core->sock_operations_in_line;
    }
    if (std::exchange(watching, false)) {
        core->loop->kernel().unwatch(*this);
        next_in_line(*core, fd, toward);
    }
}

/// Whether the socket was closed while this waits: its descriptor's number may be another's.
bool SockOperation::is_stale() noexcept {
    try {
        return descriptor() != fd;
    } catch (const py::error_set&) {
        PyErr_Clear();
        return true;
    }
}

/// Lets the task try now.
void SockOperation::wake() noexcept {
    unwatch();
    if (!std::exchange(queued, true)) {
        core->loop->push(*this);
    }
}

void SockOperation::give_way() noexcept {
    if (is_stale()) {
        wake();
    } else if (std::exchange(watching, false)) {
        core->loop->kernel().unwatch(*this);
        in_line = true;
        ++core->sock_operations_in_line;
    }
}

SockOperation* SockOperation::on(LoopCore& core, int descriptor, zloop::direction way) noexcept {
    SockOperation* each = core.sock_operations;
    while (each != nullptr && !(each->watching && each->fd == descriptor && each->toward == way)) {
        each = each->next;
    }
    return each;
}

void SockOperation::next_in_line(LoopCore& core, int descriptor, zloop::direction way) noexcept {
    if (core.sock_operations_in_line == 0 || core.dropping) {
        return;
    }
    SockOperation* first = nullptr;
    for (SockOperation* each = core.sock_operations; each != nullptr; each = each->next) {
        if (each->in_line && each->fd == descriptor && each->toward == way) {
            first = each;  // the list begins with the newest
        }
    }
    if (first == nullptr) {
        return;
    }
    first->in_line = false;
    --core.sock_operations_in_line;
    first->watching = !core.loop->kernel().watch(*first);
    if (!first->watching) {
        first->wake();  // its own call says what is wrong
    }
}

/// Out of the list, unless it is queued: then its turn does that. Gives the list's reference back.
py::ref SockOperation::unlist() noexcept {
    if (!listed) {
        return nullptr;
    }
    unwatch();
    if (queued) {
        return nullptr;
    }
    (previous != nullptr ? previous->next : core->sock_operations) = next;
    if (next != nullptr) {
        next->previous = previous;
    }
    listed = false;
    return py::ref::adopt(self());
}

void SockOperation::abandon() noexcept { static_cast<void>(unlist()); }

/// The descriptor is ready.
void SockOperation::run_in_turn(zloop::op& node) noexcept {
    auto& self = static_cast<SockOperation&>(static_cast<zloop::watcher&>(node));
    self.queued = false;
    const py::ref alive = self.unlist();
    LoopCore& core = *self.core;
    if (!self.future || core.dropping) {
        return;  // it was cancelled on the way
    }
    self.woken = true;
    const callback_scope running(core);
    const py::ref waits_for = self.future;
    if (py::try_call_method(waits_for.get(), core.state->str_set_result.get(), Py_None)) {
        return;
    }
    if (PyErr_ExceptionMatches(core.state->invalid_state_error.get())) {
        PyErr_Clear();  // the future is cancelled, and its task is about to tell us
    } else {
        core.report_unraisable(waits_for.get());
    }
}

// The coroutine's interface.

py::ref SockOperation::throw_into(const py::arguments& args) {
    py::ref error = exception_of(args);
    check_idle(at);
    if (at == phase::finished) {
        py::raise(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    finish();
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
    throw py::error_set{};
}

py::ref SockOperation::close() {
    check_idle(at);
    finish();
    return py::none();
}

namespace {

SockOperation& operation(PyObject* object) noexcept { return *reinterpret_cast<SockOperation*>(object); }

int traverse(PyObject* object, visitproc visit, void* arg) {
    SockOperation& self = operation(object);
    Py_VISIT(Py_TYPE(object));
    if (self.holds_data) {
        Py_VISIT(self.data.obj);
    }
    return sock_operation_fields::owned::visit(static_cast<sock_operation_fields&>(self), visit, arg);
}

/// Leaves `loop`: while it waits, it is in that one's list.
int clear(PyObject* object) {
    operation(object).drop();
    return 0;
}

void destroy(PyObject* object) {
    SockOperation& self = operation(object);
    PyTypeObject* type = Py_TYPE(object);
    if (self.core != nullptr) {
        if (self.at == SockOperation::phase::created) {
            warn_of_never_awaited(self.owner(), self.name());
        }
        static_cast<sock_operation_fields&>(self).~sock_operation_fields();
    }
    type->tp_free(object);
    Py_DECREF(type);
}

}  // namespace

void add_sock_operation_type(PyObject* module, module_state& state) {
    state.sock_operation_type = make_coroutine_type<SockOperation, traverse, clear, destroy>(
        module, "zloop._zloop.SockOperation",
        "A call on a socket, to be awaited: what loop.sock_recv() and its sisters return.",
        "As a coroutine's: it ends, and leaves its socket alone.",
        py::property<&SockOperation::get_done>("_done",
                                               "How many bytes sock_sendall or sock_sendfile has sent."));
}

}  // namespace zl
