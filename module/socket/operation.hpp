// module/socket/operation.hpp: what loop.sock_recv() and its sisters return: a call, to be awaited.
//
//     class SockOperation(collections.abc.Coroutine):
//         def send(self, value): ...
//         def throw(self, exc): ...
//         def close(self): ...
//
// Awaited, it tries its call. Where that would block it gives its task a future to wait for, and tries again
// once it is resumed, not when the kernel tells: an operation that is cancelled, at whatever moment, has
// taken nothing from the socket. It is the watcher of the descriptor, for one event at a time. The socket
// stays its Python object's, which is asked for the descriptor before each call; but create_connection's is
// its own until it is a transport's.
//
// While it waits it is in the loop's list, which owns a reference. A second one for the same direction of a
// descriptor stands in line behind the first, and behind a callback of add_reader() or add_writer().
#pragma once

#include <zloop/core/fd.hpp>

#include "../coroutine.hpp"
#include "../loop_core.hpp"

namespace zl {

/// What an operation does.
struct sock_call {
    const char* name;  // asyncio's
    zloop::direction toward;

    /// Tries. The result, or null when it would block. Throws.
    py::ref (*attempt)(SockOperation& operation);
};

struct sock_operation_fields : zloop::watcher {
    using phase = coroutine_phase;

    sock_operation_fields(LoopCore& owner, const sock_call& what, PyObject* socket) noexcept;
    ~sock_operation_fields() { let_go_of_data(); }

    void let_go_of_data() noexcept {
        if (std::exchange(holds_data, false)) {
            PyBuffer_Release(&data);
        }
    }

    LoopCore* core;  // `loop`'s
    const sock_call* call;
    py::ref loop, sock;
    py::ref argument;               // the buffer, the data or the address
    py::ref other_argument;         // sock_sendto: the address
    py::ref future;                 // what the task waits for
    Py_buffer data;                 // sock_sendall: a view of the argument
    std::size_t size = 0;           // how many bytes at most
    std::size_t done = 0;           // of them
    SockOperation* next = nullptr;  // in the loop's list
    SockOperation* previous = nullptr;
    phase at = phase::created;
    bool holds_data = false;
    bool listed = false;
    bool watching = false;  // known to the backend
    bool in_line = false;   // behind somebody who is
    bool woken = false;     // the descriptor was ready
    bool connecting = false;
    zloop::fd own;            // create_connection: the socket, until it is a transport's
    int file = -1;            // sock_sendfile: the caller's
    std::int64_t offset = 0;  // in it

    using owned = py::owned<&sock_operation_fields::loop, &sock_operation_fields::sock,
                            &sock_operation_fields::argument, &sock_operation_fields::other_argument,
                            &sock_operation_fields::future>;
};

struct SockOperation : coroutine<SockOperation>, sock_operation_fields {
    static py::ref make(LoopCore& core, const sock_call& call, PyObject* sock, PyObject* argument = nullptr,
                        PyObject* other_argument = nullptr, std::size_t size = 0);

    static const char* owner() noexcept { return "Loop"; }
    const char* name() const noexcept { return call->name; }

    py::ref throw_into(const py::arguments& args);
    py::ref close();
    py::ref get_done() { return py::ref::steal(PyLong_FromSize_t(done)); }

    /// As PyIter_Send().
    PySendResult step(PyObject* value, PyObject** result) noexcept;

    /// The socket's descriptor; -1 when it is closed.
    int descriptor();

    // For the loop.

    /// Makes room for add_reader() or add_writer(): stands in line behind its callback.
    void give_way() noexcept;

    /// The loop is closed: nobody is going to wake it.
    void abandon() noexcept;

    /// The operation that is watching in that direction of a descriptor, or null.
    static SockOperation* on(LoopCore& core, int descriptor, zloop::direction way) noexcept;

    /// Whoever watched the descriptor has gone: the turn of the next in line.
    static void next_in_line(LoopCore& core, int descriptor, zloop::direction way) noexcept;

    /// Gives up what it holds, but `loop`: it is over, or garbage.
    void drop() noexcept;

private:
    static void run_in_turn(zloop::op& node) noexcept;
    friend struct sock_operation_fields;

    void check_socket();
    void resume();
    py::ref park(bool until_ready);
    void watch();
    void unwatch() noexcept;
    bool is_stale() noexcept;
    void wake() noexcept;
    py::ref unlist() noexcept;
    void finish() noexcept;
};

void add_sock_operation_type(PyObject* module, module_state& state);

}  // namespace zl
