// module/state.hpp: what one import of the module owns: its types, and what it looked up in asyncio.
//
// One per interpreter; nothing here or elsewhere in the module is a static PyObject*.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <span>

#include <zloop/python/capsule.hpp>

#include "as_made.hpp"
#include "py.hpp"

namespace zl {

struct module_state;

/// What the capsule of the module points to.
struct bridge : zloop::python::detail::core {
    explicit bridge(module_state& owner) noexcept;

    module_state& state;
};

/// Attributes of asyncio's streams, which lie in their dicts, in the order of __init__(); and methods that
/// may lie there as well.
struct stream_names {
    enum : std::size_t { limit, loop, buffer, eof, waiter, exception, transport, paused, parts_of_reader };
    std::array<py::ref, parts_of_reader> reader;
    std::array<py::ref, 6> reader_methods;
    py::ref writer_transport, writer_protocol, writer_reader;
    py::ref client_connected_cb, connection_lost, data_received, drain_helper, stream_reader_wr;
};

struct module_state {
    bridge to_extensions{*this};

    // Our types.
    py::ref loop_core_type;
    py::ref handle_type;
    py::ref timer_handle_type;
    py::ref threadsafe_handle_type;  // from 3.14 on
    py::ref socket_transport_type;
    py::ref datagram_transport_type;
    py::ref read_pipe_transport_type;
    py::ref write_pipe_transport_type;
    py::ref sock_operation_type;
    py::ref stream_reader_type, stream_writer_type, stream_operation_type;
    py::ref tls_transport_type, tls_window_type;  // none without an ssl module

    // asyncio's.
    py::ref stock_loop;         // asyncio.SelectorEventLoop
    py::ref stock_reader;       // asyncio.StreamReader
    py::ref stock_writer;       // asyncio.StreamWriter
    py::ref futures;            // the module: its Future may be replaced
    py::ref stock_future;       // asyncio.Future
    py::ref tasks;              // likewise its Task
    py::ref buffered_protocol;  // asyncio.BufferedProtocol
    py::ref extract_stack;      // asyncio.format_helpers.extract_stack
    py::ref set_result_unless_cancelled;
    py::ref transport_socket;             // asyncio.trsock.TransportSocket
    py::ref invalid_state_error;          // asyncio.InvalidStateError
    py::ref socket_type;                  // socket.socket
    py::ref socket_family, socket_kind;   // its base's members, as numbers
    py::ref socket_base;                  // _socket.socket
    PyCFunction socket_fileno = nullptr;  // its methods: a call costs 8 ns, by the name 45
    PyCFunction socket_detach = nullptr;
    py::ref cancelled_error;  // asyncio.CancelledError
    py::ref loop_keyword;     // ("loop",)
    py::ref no_arguments;     // ()
    py::ref future_keywords;  // {"loop": …} while a future is made
    bool future_keywords_in_use = false;
    // Methods that stock's classes inherit and ours have: where they were replaced, ours step back.
    py::ref stock_create_task, stock_get_extra_info, stock_getaddrinfo;
    class_as_made stock_handle;                  // asyncio.Handle
    class_as_made stock_stream_protocol;         // asyncio.StreamReaderProtocol
    class_as_made stream_reader, stream_writer;  // ours, with what they have of asyncio's
    class_as_made socket_transport;              // ours
    py::ref way_type;

    // ssl's, as asyncio.sslproto uses it.
    py::ref memory_bio_type;  // ssl.MemoryBIO
    py::ref ssl_error, ssl_want_read_error, ssl_syscall_error, ssl_certificate_error;
    py::ref ssl_do_handshake, ssl_getpeercert, ssl_read, ssl_write, ssl_pending;  // of _ssl._SSLSocket
    py::ref bio_read, bio_write;                                                  // and of ssl.MemoryBIO
    py::ref tls_limits;                     // asyncio.sslproto.add_flowcontrol_defaults
    bool tls_asks_below = false;            // is_closing() of this version does
    bool tls_keeps_shutdown_timer = false;  // until the connection is lost
    /// For who finds a TLSTransport as a protocol: hands it bytes where they are. Throws.
    void (*tls_received)(PyObject* protocol, std::span<const std::byte> data) = nullptr;
    /// Likewise: whether nobody knows of it yet, as it was accepted and its handshake goes on. Then it is
    /// over.
    bool (*tls_ends_unknown)(PyObject* protocol) noexcept = nullptr;
    /// For who finds a SocketTransport as made: its write(). Throws.
    py::ref (*socket_write)(PyObject* transport, const py::arguments& args) = nullptr;

    // Names that are looked up while the loop runs.
    py::ref str_Future, str_Task, str_accept, str_accept_failed, str_accepts_tls, str_add_reader,
        str_add_writer, str_attach, str_birth_failed, str_buffer_updated, str_call_connection_lost,
        str_call_later, str_callback_failed, str_cancel, str_cancelled, str_check_callback, str_check_thread,
        str_close, str_connect, str_connection_lost, str_connection_made, str_context, str_create_future,
        str_create_task, str_data_received, str_datagram_received, str_detach, str_ensure_fd_no_transport,
        str_eof_received, str_error_received, str_fileno, str_force_close, str_future_blocking,
        str_get_buffer, str_get_extra_info, str_gettimeout, str_is_closing, str_log_debug, str_log_failure,
        str_log_handshake, str_log_info, str_pause_reading, str_pause_writing, str_pending,
        str_protocol_raised, str_read_ready, str_recv_into, str_recvfrom, str_recvfrom_into,
        str_remove_reader, str_remove_writer, str_resume_reading, str_resume_writing, str_run,
        str_run_forever, str_run_in_debug, str_send, str_sendto, str_sendto_ready, str_set_exception,
        str_set_result, str_setblocking, str_throw, str_time, str_tls_failed, str_transport_failed,
        str_unwrap, str_warn_lost_writes, str_write;

    stream_names streams;

    using owned = py::owned<
        &module_state::loop_core_type, &module_state::handle_type, &module_state::timer_handle_type,
        &module_state::threadsafe_handle_type, &module_state::socket_transport_type,
        &module_state::datagram_transport_type, &module_state::read_pipe_transport_type,
        &module_state::write_pipe_transport_type, &module_state::sock_operation_type,
        &module_state::stock_loop, &module_state::futures, &module_state::tasks,
        &module_state::buffered_protocol, &module_state::extract_stack,
        &module_state::set_result_unless_cancelled, &module_state::transport_socket,
        &module_state::invalid_state_error, &module_state::socket_type, &module_state::socket_family,
        &module_state::socket_kind, &module_state::socket_base, &module_state::cancelled_error,
        &module_state::loop_keyword, &module_state::future_keywords, &module_state::stock_create_task,
        &module_state::stock_get_extra_info, &module_state::stock_getaddrinfo, &module_state::stock_handle,
        &module_state::stock_stream_protocol, &module_state::stream_reader, &module_state::stream_writer,
        &module_state::socket_transport, &module_state::stock_future, &module_state::stock_reader,
        &module_state::stock_writer, &module_state::stream_reader_type, &module_state::stream_writer_type,
        &module_state::stream_operation_type, &module_state::tls_transport_type,
        &module_state::tls_window_type, &module_state::memory_bio_type, &module_state::ssl_error,
        &module_state::ssl_want_read_error, &module_state::ssl_syscall_error,
        &module_state::ssl_certificate_error, &module_state::ssl_do_handshake, &module_state::ssl_getpeercert,
        &module_state::ssl_read, &module_state::ssl_write, &module_state::ssl_pending,
        &module_state::bio_read, &module_state::bio_write, &module_state::tls_limits,
        &module_state::way_type>;

    /// Set at exit, to the thread that ends the interpreter: loops of daemon threads then stay asleep.
    std::atomic<unsigned long> ended_by = 0;
    std::atomic<int> awake = 0;  // loops that run and are not asleep in the kernel

    // Handles that were dropped, kept for the next ones, linked through their callback slot; and operations.
    struct free_list {
        PyObject* first = nullptr;
        int length = 0;
    };
    free_list free_handles, free_timer_handles, free_threadsafe_handles, free_stream_operations;
    bool keeps_free_handles = true;  // until the module goes
};

extern PyModuleDef module_definition;

/// The state of the module that `type`, or a base of it, belongs to. Throws.
inline module_state& state_of(PyTypeObject* type) {
    PyObject* module = PyType_GetModuleByDef(type, &module_definition);
    if (module == nullptr) {
        throw py::error_set{};
    }
    return *static_cast<module_state*>(PyModule_GetState(module));
}

}  // namespace zl
