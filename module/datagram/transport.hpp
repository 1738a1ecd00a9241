// module/datagram/transport.hpp: a socket of messages, UDP or Unix, as an asyncio.DatagramTransport.
//
//     class DatagramTransport(asyncio.DatagramTransport):
//         def sendto(self, data, addr=None): ...
//
// Reading (reading.cpp) is a coroutine: what one recvmmsg brings is delivered one message a turn,
// as asyncio does it, so what a message makes ready runs before the next one. Sending
// (sending.cpp) tries at once; what the kernel does not take is kept, with a coroutine to send it.
// transport.cpp has birth and end.
//
// The descriptor stays that of the Python socket; we only have it in service.
#pragma once

#include <array>
#include <deque>

#include <zloop/datagram.hpp>

#include "../names.hpp"
#include "../transport.hpp"

namespace zl {

/// What one recvmmsg has brought, each waiting for its turn; and who sent the last one that had it.
struct arrivals {
    // One is delivered a turn, so those of a larger batch would only wait longer for theirs.
    static constexpr std::size_t most = 16;

    // A loop has one room to receive into: what comes is made bytes objects at once. What it was not used
    // for yet takes no memory. Places that are a power of two apart would share the lines of the caches.
    static constexpr std::size_t ip_bytes = 64 * 1024;  // no message of UDP is longer
    static constexpr std::size_t ip_stride = ip_bytes + 4096 + 64;
    static constexpr std::size_t unix_bytes = 256 * 1024;  // asyncio cuts what is longer: its max_size
    static constexpr std::size_t room_bytes = most * ip_stride;
    static constexpr std::size_t most_unix = room_bytes / unix_bytes;

    bool empty() const noexcept { return first == count; }

    std::array<zloop::datagram, most> items;
    std::array<py::ref, most> data, names;
    std::size_t first = 0, count = 0;
    peer_names known;
};

/// A message that the kernel had no room for.
struct unsent_datagram {
    py::ref bytes;
    py::ref to;           // where Python has to look up where that is; else none
    zloop::address peer;  // where to, else; none on a connected socket
};

struct datagram_transport_fields {
    py::ref sock;       // a socket.socket; it owns the descriptor
    py::ref remote;     // the only address that sendto() may name, or None
    py::ref last_name;  // of `last_peer`: the address that sendto() was given last
    zloop::address last_peer;
    zloop::datagram_socket socket;
    std::unique_ptr<arrivals> arrived;
    std::unique_ptr<std::deque<unsent_datagram>> backlog;
    std::size_t backlog_bytes = 0;
    int family = 0;

    bool connected : 1 = false;  // the kernel knows the peer
    bool addressed : 1 = false;  // `remote` is an address
    bool deaf : 1 = false;       // the descriptor was closed behind our back

    using owned = py::owned<&datagram_transport_fields::sock, &datagram_transport_fields::remote,
                            &datagram_transport_fields::last_name>;
    void clear() noexcept { last_name.reset(); }
};

struct DatagramTransport : socket_reader<DatagramTransport>, datagram_transport_fields {
    using fields = datagram_transport_fields;
    static const transport_kind own_kind;

    /// On a Python socket, which goes on to own the descriptor. All after `protocol` may be None.
    static py::ref from_python(loop_state& core, PyObject* sock, PyObject* protocol, PyObject* address,
                               PyObject* waiter, PyObject* extra);

    py::ref sendto(const py::arguments& args);
    py::ref close();
    py::ref abort();
    py::ref set_protocol(const py::arguments& args);
    py::ref get_write_buffer_size();
    py::ref maybe_pause_protocol();
    py::ref begin_reading();
    py::ref begin_sending();
    py::ref force_close_with(PyObject* error);
    py::ref repr();
    py::ref get_sock() { return lost ? py::none() : sock; }
    py::ref get_remote() { return remote; }

private:
    friend socket_reader;
    enum class outcome { sent, later, failed };  // failed: the error indicator is set

    bool still_has_descriptor() noexcept;
    bool wants_to_read() const noexcept {
        return made && !closing && !paused && !deaf && !lost && !orphaned && !core->dropping &&
               !socket.is_stale();
    }
    bool wants_to_send() const noexcept { return lost_writes == 0 && !lost && !orphaned && !core->dropping; }
    void start_reading() noexcept;
    fiber read_loop(fiber::place& kept);
    std::span<zloop::datagram> room();
    bool take(std::size_t count) noexcept;
    bool fatal_read_error() noexcept;
    void deliver() noexcept;
    void tell_error(const py::ref& error, PyObject* in_method) noexcept;
    void protocol_raised(PyObject* in_method) noexcept;

    bool where(PyObject* to, zloop::address& into) noexcept;
    outcome try_send(PyObject* data, PyObject* to, const zloop::address* peer);
    outcome try_send_by_python(PyObject* data, PyObject* to);
    void send_failed();
    void append(PyObject* data, PyObject* to, const zloop::address* peer);
    bool has_backlog() const noexcept { return backlog != nullptr && !backlog->empty(); }
    std::size_t buffer_size() const noexcept { return lost_writes == 0 ? backlog_bytes : 0; }
    void begin_writing() noexcept;
    fiber write_loop(fiber::place& kept);
    void unsent_failed(const py::ref& error) noexcept;

    void force_close(PyObject* error) noexcept;
    void close_socket() noexcept;
    void leave_service() noexcept;
};

void add_datagram_transport_type(PyObject* module, module_state& state);

}  // namespace zl
