// module/tls/transport.hpp: TLS, between a stream transport of ours and an application's protocol.
//
//     class SSLTransport(asyncio.transports._FlowControlMixin):
//         def write(self, data): ...            # what the application calls
//         def data_received(self, data): ...    # what the transport below calls
//
// Python sees a name with "SSL" in it: there are programs, CPython's tests among them, that look for that.
//
// asyncio has two objects for this, a protocol and a transport that hands over to it; here it is one, and
// states, order of calls and words are those of asyncio.sslproto. tls_session drives ssl's objects;
// states.cpp has handshake and shutdown, reading.cpp and writing.cpp the bytes between them,
// transport.cpp birth, names and the type.
//
// The transport below keeps this one alive as its protocol, until connection_lost(). Every call into Python
// may close or abort this transport, or raise: state is looked at again after each. Python's errors travel
// as py::error_set to whom asyncio's would.
#pragma once

#include <memory>

#include "../backlog.hpp"
#include "../transport.hpp"
#include "session.hpp"

namespace zl {

struct SocketTransport;

struct tls_transport_fields {
    /// asyncio.sslproto.SSLProtocolState.
    enum class phase : unsigned char { unwrapped, handshake, wrapped, flushing, shutdown };
    /// asyncio.sslproto.AppProtocolState: what the application was told.
    enum class told : unsigned char { nothing, made, eof, lost };

    loop_state* core = nullptr;
    PyObject* loop = nullptr;                     // `core`; a reference
    py::ref protocol;                             // the application's, or None
    py::ref below;                                // the transport that carries us, while there is one
    py::ref context;                              // the ssl.SSLContext
    py::ref waiter;                               // for the end of the handshake; none once it knows
    py::ref peercert;                             // as of the handshake's end
    py::ref handshake_timeout, shutdown_timeout;  // numbers, as they were given
    py::ref timer;                                // of the handshake, then of the shutdown
    tls_session session;
    std::unique_ptr<zl::backlog> backlog;                                  // written, and not encrypted yet
    std::size_t high_water = 512 * 1024, low_water = 128 * 1024;           // of what is written
    std::size_t read_high_water = 256 * 1024, read_low_water = 64 * 1024;  // of what came and is not read
    zloop::time_point handshake_began;
    int lost_writes = 0;  // asyncio's _conn_lost

    phase state = phase::unwrapped;
    told app = told::nothing;
    bool server_side : 1 = false;
    bool closed : 1 = false;                // asyncio's _closed
    bool buffered : 1 = false;              // the protocol is a BufferedProtocol
    bool eof_seen : 1 = false;              // the transport below has ended
    bool reading_paused : 1 = false;        // by the application
    bool writing_paused : 1 = false;        // the application was told
    bool below_reading_paused : 1 = false;  // by us
    bool below_writing_paused : 1 = false;  // we were told
    bool has_info : 1 = false;              // the handshake has ended, get_extra_info() knows
    bool closed_again : 1 = false;          // its user is through with it
    bool over : 1 = false;                  // connection_lost() was called
    bool accepted : 1 = false;  // nobody waits: what goes wrong before `told::made` is ours to tell

    using owned = py::owned<&tls_transport_fields::protocol, &tls_transport_fields::below,
                            &tls_transport_fields::context, &tls_transport_fields::waiter,
                            &tls_transport_fields::peercert, &tls_transport_fields::timer>;
};

struct TLSTransport : transport_slots, tls_transport_fields {
    // What the application calls.
    py::ref write(const py::arguments& args);
    py::ref writelines(const py::arguments& args);
    py::ref write_eof();
    py::ref can_write_eof();
    py::ref close();
    py::ref abort();
    py::ref force_close(PyObject* error);
    py::ref is_closing();
    py::ref is_reading();
    py::ref pause_reading();
    py::ref resume_reading();
    py::ref get_protocol();
    py::ref set_protocol(const py::arguments& args);
    py::ref get_extra_info(const py::arguments& args);
    py::ref set_write_buffer_limits(const py::arguments& args);
    py::ref get_write_buffer_limits();
    py::ref get_write_buffer_size();
    py::ref set_read_buffer_limits(const py::arguments& args);
    py::ref get_read_buffer_limits();
    py::ref get_read_buffer_size();

    // What the transport below calls.
    py::ref connection_made(PyObject* transport);
    py::ref connection_lost(PyObject* error);
    py::ref data_received(PyObject* data);
    py::ref eof_received();
    py::ref pause_writing();
    py::ref resume_writing();

    // What the loop calls.
    py::ref begin_with(PyObject* data);
    py::ref begin_paused();
    py::ref proceed();
    py::ref read_on();
    py::ref handshake_timed_out();
    py::ref shutdown_timed_out();
    py::ref birth_failed(const py::arguments& args);
    py::ref start_shutdown_now();

    // What asyncio's tests, and debuggers, look at.
    py::ref get_ssl_protocol() { return py::ref::borrow(self()); }
    py::ref get_below() { return below ? below : py::none(); }
    py::ref get_context() { return context ? context : py::none(); }
    py::ref get_ssl_object();
    py::ref get_server_side() { return py::boolean(server_side); }
    py::ref get_server_hostname();
    py::ref get_handshake_timeout() { return handshake_timeout; }
    py::ref get_shutdown_timeout() { return shutdown_timeout; }
    py::ref get_closed() { return py::boolean(closed); }
    py::ref get_lost_writes() { return py::integer(lost_writes); }
    void assign_protocol(PyObject* value) { set_app_protocol(value); }
    py::ref get_loop() { return py::ref::borrow(loop); }
    py::ref get_reading_paused() { return py::boolean(reading_paused); }
    py::ref get_protocol_paused() { return py::boolean(writing_paused); }
    py::ref append_backlog(PyObject* data);

    /// What came from the peer, wherever it lies. Throws.
    void received(std::span<const std::byte> data);

    /// A new one, which waits for connection_made(). Throws.
    static py::ref make(loop_state& core, const py::arguments& args);

    /// The same for a connection that was accepted; `terms` is (sslcontext, handshake_timeout,
    /// shutdown_timeout).
    static py::ref accept(loop_state& core, PyObject* protocol, PyObject* terms);

    /// The loop is closed: true for who was accepted and has not shaken hands, and then it is over.
    bool end_unknown() noexcept;

private:
    friend void add_tls_transport_type(PyObject* module, module_state& state);

    module_state& known() const noexcept { return *core->state; }
    void set_app_protocol(PyObject* given);
    py::ref known_extra_info(PyObject* name);

    // States.
    void switch_to(phase next);
    void handshake();
    void handshake_ended(py::ref error);
    void start_shutdown();
    void flush();
    void shut_down();
    void shutdown_ended(py::ref error);
    void end(PyObject* error);
    void start_timer(const py::ref& seconds, const py::ref& method);
    void stop_timer();
    void let_go() noexcept;
    void wake_waiter(PyObject* error);
    void call_eof_received();

    /// asyncio's _fatal_error: ends the connection, and tells of it when that is not the peer's doing.
    void fatal_error(const py::ref& error, const char* message);
    /// As of the error in the indicator, when it is an Exception; any other is thrown again.
    void fatal_error_from_indicator(const char* message);

    // Bytes.
    void read();
    void read_buffered();
    void read_plain();
    void write_app_data(PyObject* data);
    bool counts_as_lost();
    void push(PyObject* data);
    void write_backlog();
    zl::backlog& own_backlog();
    void process_outgoing();
    void send_below();
    void send_piece();
    void write_below(py::ref bytes);
    SocketTransport* socket_below();
    void call_below(const py::ref& method);
    std::size_t write_size();
    void control_app_writing();
    void tell_flow(const py::ref& method, const char* message);
    void control_reading();
};

void add_tls_transport_type(PyObject* module, module_state& state);

}  // namespace zl
