// module/acceptor.cpp: accepting, and what may go wrong in it. See acceptor.hpp.

#include "acceptor.hpp"

#include <zloop/sleep.hpp>

#include "loop_core.hpp"
#include "names.hpp"
#include "socket/transport.hpp"
#include "sockets.hpp"
#include "tls/transport.hpp"

namespace zl {

namespace {

// asyncio.constants.ACCEPT_RETRY_DELAY: after EMFILE and its like the backlog can wait for a descriptor.
constexpr std::chrono::seconds retry_delay{1};

}  // namespace

/// accept(2) on the number, while it is the socket's. Where that was closed and a duplicate keeps the file
/// open, the kernel tells of the file's connections under a number that may be another listener's by now.
class acceptor::accept_if_served : public zloop::detail::accept_awaiter {
public:
    explicit accept_if_served(acceptor& on) noexcept
        : accept_awaiter(*on.core.loop, on.listening.self()), on_(on) {
        provide = [](zloop::io_op& self) noexcept {
            auto& asking = static_cast<accept_if_served&>(self);
            if (!asking.on_.is_served(0)) {
                asking.error = EBADF;
            }
        };
    }

private:
    acceptor& on_;
};

acceptor::acceptor(loop_state& owner, PyObject* socket, PyObject* protocol_factory, PyObject* owner_server,
                   PyObject* tls_terms, PyObject* hand_over_to, PyObject* context_of_server)
    : core(owner),
      sock(py::ref::borrow(socket)),
      factory(py::ref::borrow(protocol_factory)),
      server(py::ref::borrow(owner_server)),
      tls(py::ref::borrow(tls_terms)),
      hand_over(py::ref::borrow(hand_over_to)),
      context(context_of_server != Py_None ? py::ref::borrow(context_of_server)
                                           : py::ref::steal(PyContext_CopyCurrent())) {
    is_tcp_ = is_tcp_socket(socket);
}

void acceptor::adopt(int descriptor) {
    zloop::fd number(descriptor);
    auto adopted = zloop::listener::adopt(*core.loop, std::move(number));
    if (!adopted) {
        static_cast<void>(number.release());  // the Python socket's
        py::raise_os_error(adopted.error());
    }
    listening = module_listener(std::move(*adopted));
}

zloop::loop& acceptor::event_loop() const noexcept { return *core.loop; }
zloop::scope& acceptor::scope_above() const noexcept { return *core.within; }

bool acceptor::start() noexcept { return accept_loop(running_).begun(); }

void acceptor::stop() noexcept {
    stopped_ = true;
    static_cast<void>(listening.release());
    // Dropped at the very end: what has a destructor may close the loop, and that ends us.
    const py::ref dropped[] = {std::move(sock), std::move(factory),   std::move(server),
                               std::move(tls),  std::move(hand_over), std::move(context)};
    running_.cancel();
}

int acceptor::visit_all(visitproc visit, void* arg) const {
    for (const py::ref* each : {&sock, &factory, &server, &tls, &hand_over, &context}) {
        Py_VISIT(each->get());
    }
    return 0;
}

fiber acceptor::accept_loop(fiber::place& kept) {
    while (!stopped_) {
        auto [error, connection] = co_await accept_if_served(*this);
        if (stopped_) {
            break;
        }
        if (!error) {
            serve(std::move(connection));
            continue;
        }
        if (!is_served(error.value())) {
            leave();
            break;
        }
        report(error.value());
        try {
            if (!stopped_) {
                static_cast<void>(co_await zloop::sleep_for(retry_delay));
            }
        } catch (const std::bad_alloc&) {  // not even for a timer
            continue;
        }
        if (!stopped_ && !is_served(0)) {
            leave();
            break;
        }
    }
    kept.end();
    delete this;
}

/// Whether the socket still is what we accept from, after `error`. Its owner may have closed it: asyncio's
/// selector has forgotten it then, and tells nobody.
bool acceptor::is_served(int error) noexcept {
    if (error == EBADF || error == ECANCELED) {
        return false;  // the number is in another's service, or nobody's
    }
    const py::ref number = py::try_call_method(sock.get(), core.state->str_fileno.get());
    const long now = number ? PyLong_AsLong(number.get()) : -1;
    PyErr_Clear();
    return now == listening.native_handle();
}

void acceptor::forget_closed(LoopCore& core, int descriptor) noexcept {
    const auto found = core.acceptors.find(descriptor);
    if (found != core.acceptors.end() && !found->second->is_served(0)) {
        acceptor& closed = *found->second;
        core.acceptors.erase(found);
        closed.stop();
    }
}

/// Ends by itself, as stop() would. What we hold goes with us, from our coroutine.
void acceptor::leave() noexcept {
    stopped_ = true;
    auto& known = loop_core(core.self()).acceptors;
    for (auto each = known.begin(); each != known.end(); ++each) {
        if (each->second == this) {
            known.erase(each);
            break;
        }
    }
}

void acceptor::serve(zloop::accepted connection) noexcept {
    const callback_scope running(core);
    // Ours while Python runs: the factory may stop the server.
    const py::ref make = factory, owner = server, terms = tls, over = hand_over;
    loop_state& on = core;
    py::ref protocol;
    try {
        py::ref own_context = py::ref::steal(PyContext_Copy(context.get()));
        const bool ours = is_ours(on, terms, over);
        const py::ref peername = ours && !on.debug ? nullptr : name_of(connection.peer);
        if (on.debug) {
            const py::ref what = py::ref::steal(PyUnicode_FromFormat(
                "got a new connection from %R: fd=%d", peername.get(), connection.socket.native_handle()));
            py::call_method(on.self(), on.state->str_log_debug.get(), owner.get(), what.get());
        }
        if (PyContext_Enter(own_context.get()) != 0) {
            throw py::error_set{};
        }
        py::ref made;
        if (ours) {
            made = py::try_call(make.get());
        } else {
            const py::ref python = socket_object(*on.state, connection.socket.native_handle());
            static_cast<void>(connection.socket.release());
            made = py::try_call(over.get(), python.get(), peername.get());
        }
        if (PyContext_Exit(own_context.get()) != 0 || !made) {
            throw py::error_set{};
        }
        if (ours) {
            protocol = std::move(made);
            if (is_tcp_) {
                static_cast<void>(connection.socket.set_option(IPPROTO_TCP, TCP_NODELAY, 1));
            }
            const py::ref first =
                terms.get() == Py_None ? protocol : TLSTransport::accept(on, protocol.get(), terms.get());
            SocketTransport::from_accepted(on, std::move(connection.socket), connection.peer, is_tcp_,
                                           first.get(), owner.get(), std::move(own_context));
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        report_birth(on, protocol);
    } catch (const py::error_set&) {
        report_birth(on, protocol);
    }
}

/// With TLS only while nothing was replaced that we reach around. Throws.
bool acceptor::is_ours(loop_state& on, const py::ref& tls, const py::ref& hand_over) {
    if (hand_over.get() == Py_None) {
        return true;
    }
    return tls.get() != Py_None &&
           py::truth(py::call_method(on.self(), on.state->str_accepts_tls.get(), tls.get()).get());
}

/// Ends one connection's birth; the listener goes on in any case. The indicator is set.
void acceptor::report_birth(loop_state& on, const py::ref& protocol) noexcept {
    if (py::error_is_fatal()) {
        on.fail();
        return;
    }
    const py::ref failure = py::take_error();
    PyObject* const made = protocol ? protocol.get() : Py_None;
    // asyncio tells of it in debug mode only.
    if (on.debug &&
        !py::try_call_method(on.self(), on.state->str_birth_failed.get(), failure.get(), made, Py_None)) {
        on.fail();
    }
}

void acceptor::report(int error) noexcept {
    const callback_scope running(core);
    const py::ref failure = py::os_error(error);
    if (!py::try_call_method(core.self(), core.state->str_accept_failed.get(), failure.get(), sock.get())) {
        core.fail();
    }
}

}  // namespace zl
