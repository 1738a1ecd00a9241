// module/acceptor.hpp: a listening socket that makes a transport of each connection.
//
// What asyncio's _start_serving does, as a coroutine. The Python socket stays the owner of the
// descriptor; we only have it in service. The loop finds acceptors by descriptor; a stopped one lets
// go of everything at once and deletes itself when its coroutine has ended. So does one whose socket was
// closed behind its back: the number may be another's by now.
#pragma once

#include <zloop/listener.hpp>

#include "fiber.hpp"
#include "loop_state.hpp"

namespace zl {

struct LoopCore;

/// A listener whose accept() is ours: see accept_if_served.
struct module_listener : zloop::listener {
    module_listener() = default;
    explicit module_listener(zloop::listener&& made) noexcept : listener(std::move(made)) {}
    using listener::self;
};

struct acceptor {
    /// Without TLS both `tls_terms` and `hand_over_to` are None. With it the former is what
    /// TLSTransport::accept() takes, or None, and the latter takes (socket, peername) of each connection
    /// that asyncio's own code has to serve. Each connection has a copy of `context`, or, where that is None,
    /// of the current one.
    acceptor(loop_state& owner, PyObject* socket, PyObject* protocol_factory, PyObject* owner_server,
             PyObject* tls_terms, PyObject* hand_over_to, PyObject* context_of_server);

    ~acceptor() { static_cast<void>(listening.release()); }  // the Python socket's to close

    /// Takes the socket's descriptor into service. Throws; calls no Python.
    void adopt(int descriptor);

    /// Accepts. False: there is no memory for it, and nothing has begun. May call Python, as each connection.
    bool start() noexcept;

    /// From here on it is on its own: it may be gone at the end.
    void stop() noexcept;

    /// For who wants a descriptor for himself: ends the acceptor there if its socket was closed.
    static void forget_closed(LoopCore& core, int descriptor) noexcept;
    zloop::loop& event_loop() const noexcept;
    zloop::scope& scope_above() const noexcept;
    int visit_all(visitproc visit, void* arg) const;

    loop_state& core;
    module_listener listening;
    py::ref sock, factory, server, tls, hand_over, context;

private:
    class accept_if_served;

    fiber accept_loop(fiber::place& kept);
    void serve(zloop::accepted connection) noexcept;
    static bool is_ours(loop_state& on, const py::ref& tls, const py::ref& hand_over);
    static void report_birth(loop_state& on, const py::ref& protocol) noexcept;
    void report(int error) noexcept;
    bool is_served(int error) noexcept;
    void leave() noexcept;

    fiber::place running_;
    bool stopped_ = false;
    bool is_tcp_ = false;
};

}  // namespace zl
