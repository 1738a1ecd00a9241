// module/pipe/transport.hpp: the ends of pipes as asyncio.ReadTransport and asyncio.WriteTransport.
//
//     class ReadPipeTransport(asyncio.ReadTransport): ...
//     class WritePipeTransport(asyncio.WriteTransport): ...
//
// Also sockets, terminals and other character devices. The loop's add_reader() and add_writer() watch
// them; they are not in service as sockets are: a terminal may have a transport for each direction, and
// a writing end is watched for reading, which tells that its readers are gone. What is written leaves
// at once, unjoined: with several writers on a pipe, each write() up to PIPE_BUF is kept together.
//
// The Python file object owns the descriptor. The loop keeps what it watches; a transport that is neither
// watched nor held is collected, as asyncio's is.
#pragma once

#include "../backlog.hpp"
#include "../transport.hpp"

namespace zl {

struct pipe_fields {
    py::ref pipe;              // the file object; none once closed
    py::ref reading, writing;  // the handles that wait for the descriptor, or waited last
    zl::backlog backlog;

    using owned = py::owned<&pipe_fields::pipe, &pipe_fields::reading, &pipe_fields::writing>;
    void clear() noexcept {
        reading.reset();
        writing.reset();
    }
};

struct pipe_transport : transport, pipe_fields {
    using fields = pipe_fields;

protected:
    /// set_protocol(), which asyncio calls `name`.
    py::ref replace_protocol(const py::arguments& args, const char* name);

    /// Schedules connection_made() and the rest of the birth. Throws.
    void connect(PyObject* file, int number, PyObject* protocol, PyObject* waiter, PyObject* extra,
                 bool reads);

    /// Whether the file object still has our number. Closed behind our back, it may be another's.
    bool has_number() noexcept;

    /// A system call on the descriptor; EBADF when it is closed.
    template <class F>
    ssize_t attempt(F&& call) noexcept;

    bool is_watched(const py::ref& handle) const noexcept;
    void start_reading();
    void stop_reading();
    void start_writing();
    void stop_writing();

    void end_service() noexcept;
    void close_pipe() noexcept;
    py::ref describe(bool polling, const char* size);

private:
    void watch(py::ref& handle, const py::ref& add, const char* ready);
    void unwatch(py::ref& handle, const py::ref& remove);
};

struct ReadPipeTransport : pipe_transport {
    static const transport_kind own_kind;

    /// All after `protocol` may be None.
    static py::ref make(loop_state& core, PyObject* pipe, PyObject* protocol, PyObject* waiter,
                        PyObject* extra);

    py::ref begin_reading();
    py::ref read_ready();
    py::ref is_reading() { return py::boolean(wants_to_read()); }
    py::ref pause_reading();
    py::ref resume_reading();
    py::ref set_protocol(const py::arguments& args);
    py::ref close();
    py::ref repr() { return describe(is_watched(reading), ""); }

private:
    bool wants_to_read() const noexcept { return !paused && !closing; }
    void read_failed(int number) noexcept;
    void end(PyObject* error);
};

struct WritePipeTransport : pipe_transport {
    static const transport_kind own_kind;

    /// All after `protocol` may be None.
    static py::ref make(loop_state& core, PyObject* pipe, PyObject* protocol, PyObject* waiter,
                        PyObject* extra);

    py::ref begin_reading();
    py::ref read_ready();
    py::ref write_ready();
    py::ref write(const py::arguments& args);
    py::ref write_eof();
    py::ref can_write_eof() { return py::boolean(true); }
    py::ref set_protocol(const py::arguments& args);
    py::ref close();
    py::ref abort();
    py::ref get_write_buffer_size();
    py::ref maybe_pause_protocol();
    py::ref repr();

private:
    void write_failed(int number) noexcept;
    void end(PyObject* error);
};

void add_pipe_transport_types(PyObject* module, module_state& state);

}  // namespace zl
