// module/socket/transport.hpp: a stream socket as an asyncio.Transport.
//
//     class SocketTransport(asyncio.Transport):
//         def write(self, data): ...
//         def pause_reading(self): ...
//
// Reading (reading.cpp) is a coroutine: receive, deliver, repeat; one frame a connection, and
// nothing allocated per message but the bytes. It ends when reading is paused and starts anew when it is
// resumed. Writing (writing.cpp) tries at once, and may tell the kernel to wait for more (../hold.hpp); only
// what it does not take becomes a backlog, with a coroutine to send it. Files (sendfile.cpp) take the same
// way. transport.cpp has birth, names and end.
//
// The descriptor is ours, or that of a Python socket once there is one: then `sock` closes it.
#pragma once

#include <zloop/socket.hpp>

#include "../backlog.hpp"
#include "../names.hpp"
#include "../transport.hpp"

namespace zl {

struct socket_transport_fields {
    py::ref server;
    py::ref sock;      // a socket.socket that owns the descriptor, or none
    py::ref wrapped;   // the asyncio.TransportSocket of it that is in `extra`
    py::ref sockname;  // as Python writes it, once somebody asked, or the socket is closed
    py::ref peername;  // as Python writes it, once somebody asked
    zloop::stream socket;
    std::unique_ptr<zl::backlog> backlog;
    writing_habit habit;
    int send_error = 0;  // that the turn's end has met; the write loop tells it
    ip_address peer;     // what `peername` is made of: an idle connection keeps no Python object for it

    bool at_eof : 1 = false;       // the peer has ended, the protocol keeps us open
    bool eof_written : 1 = false;  // by write_eof()
    bool buffered : 1 = false;     // the protocol is a BufferedProtocol
    bool under_tls : 1 = false;    // the protocol is a TLSTransport
    bool is_tcp : 1 = false;
    bool held : 1 = false;               // held_sockets': it has us
    bool held_to_turns_end : 1 = false;  // the same
    bool deferred : 1 = false;           // the backlog waits for the turn's end, and `writer` does not run
    bool peer_is_here : 1 = false;       // on this machine
    bool options_unknown : 1 = false;    // of the socket: a program had it since we looked

    /// From _begin_sendfile() to _end_sendfile(); nothing can be written meanwhile.
    bool sends_file() const noexcept { return backlog != nullptr && backlog->file != nullptr; }

    struct owned {
        static int visit(socket_transport_fields& self, visitproc visit, void* arg) {
            if (self.sends_file()) {
                Py_VISIT(self.backlog->file->future.get());
            }
            return py::owned<&socket_transport_fields::server, &socket_transport_fields::sock,
                             &socket_transport_fields::wrapped, &socket_transport_fields::peername,
                             &socket_transport_fields::sockname>::visit(self, visit, arg);
        }
    };
    void clear() noexcept {
        server.reset();
        if (sends_file()) {
            backlog->file->future.reset();
        }
    }
};

struct SocketTransport : socket_reader<SocketTransport>, socket_transport_fields {
    friend class recv_into_protocol;
    using fields = socket_transport_fields;
    static const transport_kind own_kind;

    /// On a Python socket, which goes on to own the descriptor. All after `protocol` may be None; without
    /// `context` the protocol runs in a copy of the current one.
    static py::ref from_python(loop_state& core, PyObject* sock, PyObject* protocol, PyObject* waiter,
                               PyObject* extra, PyObject* server, PyObject* context);

    /// On a connection that we made ourselves, to `peer`; it runs in a copy of the current context. Throws,
    /// and then the socket is the caller's as before, or closed.
    static py::ref from_connected(loop_state& core, zloop::fd socket, const zloop::address& peer,
                                  PyObject* protocol, PyObject* waiter);

    /// On a connection that we accepted ourselves, in a context of its own.
    static void from_accepted(loop_state& core, zloop::stream socket, const zloop::address& peer, bool is_tcp,
                              PyObject* protocol, PyObject* server, py::ref context);

    py::ref write(const py::arguments& args);
    py::ref writelines(const py::arguments& args);
    py::ref write_eof();
    py::ref can_write_eof();
    py::ref close();
    py::ref abort();
    py::ref set_protocol(const py::arguments& args);
    py::ref get_extra_info(const py::arguments& args);
    py::ref get_sock();
    py::ref get_write_buffer_size();
    py::ref maybe_pause_protocol();
    py::ref begin_sendfile(const py::arguments& args);
    py::ref end_sendfile();
    py::ref begin_reading();
    py::ref force_close_with(PyObject* error);
    py::ref repr();

    /// write(), from who owns the bytes. Throws.
    void write_owned(py::ref bytes);

    /// Lets the kernel send what it holds back, unless the program has said that it will; or sends what the
    /// turn's end was waited for with. Calls no Python.
    void push() noexcept {
        if (deferred) {
            send_deferred();
        } else if (!options_unknown || !is_corked()) {
            socket.push();
        }
    }

private:
    friend socket_reader;
    void own(zloop::stream connected) noexcept;
    void connected(const zloop::address& peer, PyObject* server, PyObject* waiter);
    void remember_peer(const zloop::address& address);
    zloop::address remembered_peer() const noexcept;

    void set_protocol_of(PyObject* protocol);
    bool wants_to_read() const noexcept {
        return made && !closing && !paused && !at_eof && !orphaned && !core->dropping;
    }
    void start_reading() noexcept;
    fiber read_loop(fiber::place& kept);
    bool took(const zloop::result<std::span<const std::byte>>& got) noexcept;
    fiber read_buffered_loop(fiber::place& kept);
    void reader_ended(fiber::place& kept) noexcept;
    void deliver(std::span<const std::byte> data) noexcept;
    void deliver_to_tls(std::span<const std::byte> data) noexcept;
    void deliver_eof() noexcept;
    void deliver_buffered(std::size_t count) noexcept;
    void read_failed(std::error_code error) noexcept;

    void check_writable() const;
    void write_bytes(py::ref bytes);
    bool can_be_sent();
    enum class following : std::uint8_t { nothing, parts, callbacks };
    following what_follows(std::size_t size) noexcept;
    bool is_to_wait(std::size_t size) const noexcept;
    void defer(std::span<PyObject* const> parts);
    void send_deferred() noexcept;
    int try_backlog() noexcept;
    void cut_deferred() noexcept;
    void send_now(std::span<PyObject* const> parts, std::size_t size) noexcept;
    void keep(std::span<PyObject* const> parts, std::size_t sent) noexcept;
    void append(py::ref bytes, std::size_t offset);
    zl::backlog& some_backlog();
    bool has_backlog() const noexcept {
        return backlog != nullptr && (!backlog->empty() || is_sending_file());
    }
    bool is_sending_file() const noexcept { return sends_file() && backlog->file->future; }
    std::size_t buffer_size() const noexcept;
    void begin_writing() noexcept;
    fiber write_loop(fiber::place& kept);
    void written_out() noexcept;
    void file_moved(std::error_code error, std::size_t count) noexcept;
    void file_ended(const py::ref& error) noexcept;
    void fail_file(PyObject* error) noexcept;

    void force_close(PyObject* error) noexcept;
    void leave_service() noexcept;
    void close_socket() noexcept;
    void detach_from_server() noexcept;

    bool is_corked() noexcept;
    bool is_out() const noexcept;
    void capture_names() noexcept;
    PyObject* python_socket();
    py::ref known_extra_info(PyObject* name);
    void fill_extra();
    bool is_tls(PyObject* given) const noexcept;
};

/// Whether this Python socket is TCP: asyncio disables Nagle's algorithm on these.
bool is_tcp_socket(PyObject* sock);

void add_socket_transport_type(PyObject* module, module_state& state);

}  // namespace zl
