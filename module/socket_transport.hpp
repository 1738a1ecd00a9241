// module/socket_transport.hpp: a stream socket as an asyncio.Transport.
//
//     class SocketTransport(asyncio.Transport):
//         def write(self, data): ...
//         def pause_reading(self): ...
//
// Reading is a coroutine: receive, deliver, repeat; one frame a connection, and nothing allocated per
// message but the bytes. It ends when reading is paused and starts anew when it is resumed. Writing
// tries at once; only what the kernel does not take becomes a backlog, with a coroutine to send it.
//
// From its birth until connection_lost() and the end of both coroutines, the loop owns a reference.
// The descriptor is ours, or that of a Python socket once there is one: then `sock` closes it.
#pragma once

#include <vector>

#include <zloop/socket.hpp>

#include "fiber.hpp"
#include "loop_core.hpp"

namespace zl {

/// What was written and not yet taken by the kernel, in order.
class backlog {
public:
    ~backlog() { clear(); }

    bool empty() const noexcept { return first_ == parts_.size(); }
    std::size_t bytes() const noexcept { return bytes_; }

    /// Appends a bytes object from `offset` on.
    void push(py::ref bytes, std::size_t offset);

    /// Points `views` at the oldest parts; returns how many.
    std::size_t peek(iovec* views, std::size_t most) const noexcept;

    /// Drops the oldest `count` bytes.
    void consume(std::size_t count) noexcept;

    void clear() noexcept;

private:
    struct part {
        py::ref bytes;
        std::size_t offset;
    };

    std::vector<part> parts_;
    std::size_t first_ = 0;  // parts before it are sent; they leave the vector in batches
    std::size_t bytes_ = 0;
};

/// An IPv4 or IPv6 address in 28 bytes: an idle connection keeps no Python object for its peer.
union ip_address {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
};

/// What asyncio's transports begin with. Their base here is _FlowControlMixin, as stock's: its Python code
/// sets the limits, and sendfile's fallback asks for it.
struct transport_slots : py::object {
    PyObject* extra;
    PyObject* mixin[4];  // unused: high and low water, loop and pause are below
    PyObject* dict;
    PyObject* weak_references;
};

struct socket_transport_fields {
    explicit socket_transport_fields(LoopCore& owner) noexcept : core(&owner), loop(py::ref::borrow(owner.self())) {}

    LoopCore* core;  // `loop`'s
    py::ref loop, protocol, server, context;
    py::ref sock;      // a socket.socket that owns the descriptor, or none
    py::ref sockname;  // as Python writes it, once somebody asked, or the socket is closed
    py::ref peername;  // as Python writes it, once somebody asked
    ip_address peer;   // what `peername` is made of
    zloop::stream socket;
    SocketTransport* next = nullptr;  // in the loop's list of open transports
    SocketTransport* previous = nullptr;
    fiber::place reader, writer;
    std::unique_ptr<zl::backlog> backlog;
    std::size_t high_water = 64 * 1024, low_water = 16 * 1024;
    int fd = -1;           // the number, also after it was closed
    int lost_writes = 0;   // asyncio's _conn_lost: not 0 once connection_lost is scheduled

    bool open : 1 = false;        // in the loop's list
    bool made : 1 = false;        // reading may begin: connection_made was called
    bool closing : 1 = false;     // close() or abort() was called, or the connection failed
    bool paused : 1 = false;      // by pause_reading()
    bool at_eof : 1 = false;      // the peer has ended, the protocol keeps us open
    bool eof_written : 1 = false; // by write_eof()
    bool delivering : 1 = false;  // the reader calls the protocol
    bool buffered : 1 = false;    // the protocol is a BufferedProtocol
    bool writing_paused : 1 = false;  // the protocol was told
    bool lost : 1 = true;         // connection_lost was called; or there was no connection yet
    bool orphaned : 1 = false;    // the loop is gone

    using owned = py::owned<&socket_transport_fields::loop, &socket_transport_fields::protocol,
                            &socket_transport_fields::server, &socket_transport_fields::context,
                            &socket_transport_fields::sock, &socket_transport_fields::peername,
                            &socket_transport_fields::sockname>;
};

struct SocketTransport : transport_slots, socket_transport_fields {
    friend class recv_into_protocol;

    /// On a Python socket, which goes on to own the descriptor. All after `protocol` may be None; without
    /// `context` the protocol runs in a copy of the current one.
    static py::ref from_python(LoopCore& core, PyObject* sock, PyObject* protocol, PyObject* waiter,
                               PyObject* extra, PyObject* server, PyObject* context);

    /// On a connection that we accepted ourselves, in a context of its own.
    static void from_accepted(LoopCore& core, zloop::stream socket, const zloop::address& peer, PyObject* protocol,
                              PyObject* server, py::ref context);

    py::ref write(const py::arguments& args);
    py::ref writelines(const py::arguments& args);
    py::ref write_eof();
    py::ref can_write_eof();
    py::ref close();
    py::ref abort();
    py::ref is_closing();
    py::ref is_reading();
    py::ref pause_reading();
    py::ref resume_reading();
    py::ref get_protocol();
    py::ref set_protocol(const py::arguments& args);
    py::ref get_extra_info(const py::arguments& args);
    py::ref get_write_buffer_size();
    py::ref maybe_pause_protocol();
    py::ref get_protocol_paused();
    py::ref get_high_water();
    void set_high_water(PyObject* value);
    py::ref get_low_water();
    void set_low_water(PyObject* value);
    py::ref begin_reading();
    py::ref call_connection_lost(PyObject* error);
    py::ref force_close_with(PyObject* error);
    py::ref get_fd();
    py::ref get_loop();
    py::ref repr();
    void finalize() noexcept;

    // For the loop.

    /// Sends what is corked; may call the protocol, the exception handler.
    void send_corked(cork& parts) noexcept;

    /// The loop is closed or collected: leaves its service and its list.
    void orphan() noexcept;

private:
    static py::ref create(LoopCore& core, py::ref context);
    void own(zloop::stream connected) noexcept;
    void begin(PyObject* protocol, PyObject* server, PyObject* waiter);
    void set_protocol_of(PyObject* protocol);

    bool wants_to_read() const noexcept {
        return made && !closing && !paused && !at_eof && !orphaned && !core->dropping;
    }
    void start_reading() noexcept;
    void stop_reading() noexcept;
    fiber read_loop(zloop::loop& on, fiber::place& kept);
    fiber read_buffered_loop(zloop::loop& on, fiber::place& kept);
    void reader_ended(fiber::place& kept) noexcept;
    void remember_peer(const zloop::address& address);
    zloop::address remembered_peer() const noexcept;
    void deliver(std::span<const std::byte> data) noexcept;
    void deliver_eof() noexcept;
    void deliver_buffered(std::size_t count) noexcept;
    void read_failed(std::error_code error) noexcept;

    /// `protocol.name(values...)`; null with the error set when it raises.
    template <class... Values>
    py::ref call_protocol(const py::ref& name, Values... values) noexcept;

    void send_now(PyObject* const* parts, unsigned count, std::size_t bytes) noexcept;
    void append(py::ref bytes, std::size_t offset);
    bool has_backlog() const noexcept { return backlog != nullptr && !backlog->empty(); }
    bool write_bytes(py::ref bytes);
    void flush_own_cork() noexcept;
    fiber write_loop(zloop::loop& on, fiber::place& kept);
    void written_out() noexcept;
    std::size_t buffer_size() const noexcept;
    void maybe_pause_writing() noexcept;
    void maybe_resume_writing() noexcept;
    void tell_flow(PyObject* method, const char* message) noexcept;

    void fatal_error(py::ref error, const char* message) noexcept;
    void fatal_error_from_indicator(const char* message) noexcept;
    void force_close(PyObject* error) noexcept;
    void schedule_lost(PyObject* error);
    void close_socket() noexcept;
    void capture_names() noexcept;
    void detach_from_server() noexcept;
    void release_if_over() noexcept;
    PyObject* python_socket();
    py::ref known_extra_info(PyObject* name);
};

/// Whether asyncio disables Nagle's algorithm on this Python socket: on every TCP one.
bool wants_no_delay(PyObject* sock);

/// Sends what is corked on `core`'s loop.
void flush_cork(LoopCore& core) noexcept;

void add_socket_transport_type(PyObject* module, module_state& state);

}  // namespace zl
