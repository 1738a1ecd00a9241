// module/pipe/transport.cpp: see transport.hpp. The order of steps is that of asyncio.unix_events.

#include "transport.hpp"

#include <array>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <zloop/kernel/attempt.hpp>

namespace zl {

namespace {

// What asyncio reads at a time. The buffer is the loop's; pages that no message fills cost nothing.
constexpr std::size_t most_read = 256 * 1024;

char* read_buffer(loop_state& core) {
    if (core.pipe_buffer == nullptr) {
        core.pipe_buffer.reset(new char[most_read]);
    }
    return core.pipe_buffer.get();
}

struct opened {
    int number;
    mode_t kind;
    bool named;
};

/// What `pipe` is.
opened look_at(PyObject* pipe, module_state& state) {
    const py::ref fileno = py::call_method(pipe, state.str_fileno.get());
    const long number = PyLong_AsLong(fileno.get());
    if (number == -1 && PyErr_Occurred()) {
        throw py::error_set{};
    }
    if (number != static_cast<int>(number)) {
        py::raise(PyExc_OverflowError, "fd is out of range");
    }
    struct stat about {};
    if (::fstat(static_cast<int>(number), &about) != 0) {
        py::raise_os_error(zloop::system_error_code(errno));
    }
    return {static_cast<int>(number), static_cast<mode_t>(about.st_mode & S_IFMT), about.st_nlink != 0};
}

/// For all who share the open file: so does asyncio.
void make_non_blocking(int number) {
    const int flags = ::fcntl(number, F_GETFL);
    if (flags < 0 || ((flags & O_NONBLOCK) == 0 && ::fcntl(number, F_SETFL, flags | O_NONBLOCK) != 0)) {
        py::raise_os_error(zloop::system_error_code(errno));
    }
}

/// Whether the kernel tells a writer that is watched for reading that its readers are gone, and nothing else.
bool tells_of_readers(const opened& file) noexcept {
#if defined(__APPLE__)
    if (file.kind == S_IFIFO && file.named) {  // readable while there is something to read, for others
        return false;
    }
#endif
    return file.kind == S_IFIFO || file.kind == S_IFSOCK;
}

/// Calls `body` where nothing may be thrown: what Python raises is told as a callback's.
template <class F>
void reporting(loop_state& core, F&& body) noexcept {
    if (!py::attempt(body)) {
        core.report_callback(Py_None);
    }
}

}  // namespace

// What both ends share.

void pipe_transport::connect(PyObject* file, int number, PyObject* first_protocol, PyObject* waiter,
                             PyObject* given_extra, bool reads) {
    py::ref all = given_extra != Py_None && py::truth(given_extra) ? py::ref::borrow(given_extra)
                                                                   : py::ref::steal(PyDict_New());
    if (PyObject_SetItem(all.get(), py::text("pipe").get(), file) != 0) {
        throw py::error_set{};
    }
    make_non_blocking(number);
    extra = std::move(all);
    pipe = py::ref::borrow(file);
    fd = number;
    protocol = py::ref::borrow(first_protocol);
    lost = false;
    introduce(reads, waiter);
}

py::ref pipe_transport::replace_protocol(const py::arguments& args, const char* name) {
    protocol = py::ref::borrow(py::only_argument(args, name, "protocol"));
    return py::none();
}

bool pipe_transport::has_number() noexcept {
    if (!pipe) {
        return false;
    }
    const py::ref file = pipe;
    const py::ref fileno = py::try_call_method(file.get(), core->state->str_fileno.get());
    if (fileno && PyLong_Check(fileno.get()) && PyLong_AsLong(fileno.get()) == fd) {
        return true;
    }
    PyErr_Clear();
    return false;
}

template <class F>
ssize_t pipe_transport::attempt(F&& call) noexcept {
    if (!has_number()) {
        errno = EBADF;
        return -1;
    }
    return zloop::detail::uninterrupted(call);
}

bool pipe_transport::is_watched(const py::ref& handle) const noexcept {
    // Whoever takes a watch away, or puts another in its place, cancels its handle.
    return handle && !reinterpret_cast<Handle*>(handle.get())->is_cancelled;
}

void pipe_transport::watch(py::ref& handle, const py::ref& add, const char* ready) {
    if (is_watched(handle)) {
        return;
    }
    if (!has_number()) {
        py::raise_os_error(std::make_error_code(std::errc::bad_file_descriptor));
    }
    const py::ref callback = py::attribute(self(), ready);
    py::ref left = py::call_method(core->self(), add.get(), py::integer(fd).get(), callback.get());
    if (Py_TYPE(left.get()) == reinterpret_cast<PyTypeObject*>(core->state->handle_type.get())) {
        handle = std::move(left);
    }
}

void pipe_transport::unwatch(py::ref& handle, const py::ref& remove) {
    const py::ref watching = std::move(handle);
    if (is_watched(watching)) {  // else the number may be watched for another
        py::call_method(core->self(), remove.get(), py::integer(fd).get());
    }
}

void pipe_transport::start_reading() { watch(reading, core->state->str_add_reader, "_read_ready"); }
void pipe_transport::stop_reading() { unwatch(reading, core->state->str_remove_reader); }
void pipe_transport::start_writing() { watch(writing, core->state->str_add_writer, "_write_ready"); }
void pipe_transport::stop_writing() { unwatch(writing, core->state->str_remove_writer); }

/// The watches go with the transport, also where nobody has closed it before.
void pipe_transport::end_service() noexcept {
    if (!py::attempt([&] {
            stop_writing();
            stop_reading();
        })) {
        core->report_callback(Py_None);
    }
    close_pipe();
}

void pipe_transport::close_pipe() noexcept {
    const py::ref file = std::move(pipe);
    if (file && !py::try_call_method(file.get(), core->state->str_close.get())) {
        core->report_callback(Py_None);
    }
}

py::ref pipe_transport::describe(bool polling, const char* size) {
    const py::ref name = py::ref::steal(PyType_GetName(Py_TYPE(self())));
    if (lost) {
        return py::ref::steal(PyUnicode_FromFormat("<%U closed fd=%d closed>", name.get(), fd));
    }
    const char* const state = closing ? " closing" : "";
    if (!core->loop) {
        return py::ref::steal(PyUnicode_FromFormat("<%U%s fd=%d open>", name.get(), state, fd));
    }
    return py::ref::steal(
        PyUnicode_FromFormat("<%U%s fd=%d %s%s>", name.get(), state, fd, polling ? "polling" : "idle", size));
}

// Reading.

const transport_kind ReadPipeTransport::own_kind = {
    [](transport& self, PyObject* error) noexcept {
        reporting(*self.core, [&] { static_cast<ReadPipeTransport&>(self).end(error); });
    },
    [](transport& self) noexcept { static_cast<ReadPipeTransport&>(self).end_service(); },
    nullptr,  // it is in no list
    nullptr,  // it was given
};

py::ref ReadPipeTransport::make(loop_state& core, PyObject* pipe, PyObject* protocol, PyObject* waiter,
                                PyObject* extra) {
    const opened file = look_at(pipe, *core.state);
    if (file.kind != S_IFIFO && file.kind != S_IFSOCK && file.kind != S_IFCHR) {
        py::raise(PyExc_ValueError, "Pipe transport is for pipes/sockets only.");
    }
    py::ref object =
        new_transport<ReadPipeTransport>(core.state->read_pipe_transport_type.get(), core, nullptr);
    reinterpret_cast<ReadPipeTransport*>(object.get())
        ->connect(pipe, file.number, protocol, waiter, extra, true);
    return object;
}

py::ref ReadPipeTransport::begin_reading() {
    if (wants_to_read()) {
        start_reading();
    }
    return py::none();
}

py::ref ReadPipeTransport::read_ready() {
    char* const buffer = read_buffer(*core);
    const ssize_t count = attempt([&] { return ::read(fd, buffer, most_read); });
    if (count < 0) {
        if (!zloop::detail::would_block(errno)) {
            read_failed(errno);
        }
        return py::none();
    }
    if (count > 0) {
        const py::ref bytes = py::ref::steal(PyBytes_FromStringAndSize(buffer, count));
        return py::checked(call_protocol(core->state->str_data_received, bytes.get()));
    }
    log_in_debug(core->state->str_log_info, "was closed by peer");
    closing = true;
    stop_reading();
    const py::ref eof_received =
        py::ref::steal(PyObject_GetAttr(protocol.get(), core->state->str_eof_received.get()));
    schedule(*core, eof_received.get(), {}, nullptr);
    schedule_lost(Py_None);
    return py::none();
}

void ReadPipeTransport::read_failed(int number) noexcept {
    // A terminal whose other side is closed fails with EIO; the rest is worth a word.
    fatal_error(py::os_error(number), "Fatal read error on pipe transport", number == EIO);
}

py::ref ReadPipeTransport::pause_reading() {
    if (wants_to_read()) {
        paused = true;
        stop_reading();
        log_in_debug("pauses reading");
    }
    return py::none();
}

py::ref ReadPipeTransport::resume_reading() {
    if (!closing && paused) {
        paused = false;
        start_reading();
        log_in_debug("resumes reading");
    }
    return py::none();
}

py::ref ReadPipeTransport::set_protocol(const py::arguments& args) {
    return replace_protocol(args, "_UnixReadPipeTransport.set_protocol");
}

py::ref ReadPipeTransport::close() {
    if (!closing) {
        end(Py_None);
    }
    return py::none();
}

void ReadPipeTransport::end(PyObject* error) {
    closing = true;
    stop_reading();
    schedule_lost(error);
}

// Writing.

const transport_kind WritePipeTransport::own_kind = {
    [](transport& self, PyObject* error) noexcept {
        reporting(*self.core, [&] { static_cast<WritePipeTransport&>(self).end(error); });
    },
    [](transport& self) noexcept { static_cast<WritePipeTransport&>(self).end_service(); },
    nullptr,  // it is in no list
    nullptr,  // it was given
};

py::ref WritePipeTransport::make(loop_state& core, PyObject* pipe, PyObject* protocol, PyObject* waiter,
                                 PyObject* extra) {
    const opened file = look_at(pipe, *core.state);
    if (file.kind != S_IFIFO && file.kind != S_IFSOCK && file.kind != S_IFCHR) {
        py::raise(PyExc_ValueError, "Pipe transport is only for pipes, sockets and character devices");
    }
    py::ref object =
        new_transport<WritePipeTransport>(core.state->write_pipe_transport_type.get(), core, nullptr);
    reinterpret_cast<WritePipeTransport*>(object.get())
        ->connect(pipe, file.number, protocol, waiter, extra, tells_of_readers(file));
    return object;
}

py::ref WritePipeTransport::begin_reading() {
    if (!closing) {
        start_reading();
    }
    return py::none();
}

/// The readers are gone; or the peer of a socket has written, which asyncio takes for the same.
py::ref WritePipeTransport::read_ready() {
    log_in_debug(core->state->str_log_info, "was closed by peer");
    const py::ref error =
        backlog.empty() ? py::none() : py::ref::steal(PyObject_CallNoArgs(PyExc_BrokenPipeError));
    end(error.get());
    return py::none();
}

py::ref WritePipeTransport::write(const py::arguments& args) {
    PyObject* const data = py::only_argument(args, "_UnixWritePipeTransport.write", "data");
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        const py::ref words = py::ref::steal(PyObject_Repr(data));
        PyErr_SetObject(PyExc_AssertionError, words.get());
        throw py::error_set{};
    }
    // What is changed after write() does not change what is written.
    py::ref bytes =
        PyBytes_CheckExact(data) ? py::ref::borrow(data) : py::ref::steal(PyBytes_FromObject(data));
    const auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()));
    if (size == 0) {
        return py::none();
    }
    if (lost_writes != 0 || closing) {
        count_lost_write("pipe closed by peer or os.write(pipe, data) raised exception.");
        return py::none();
    }
    std::size_t sent = 0;
    if (backlog.empty()) {
        core->held.push_all();  // what was written before, leaves before
        const ssize_t count = attempt([&] { return ::write(fd, PyBytes_AS_STRING(bytes.get()), size); });
        if (count < 0 && !zloop::detail::would_block(errno)) {
            write_failed(errno);
            return py::none();
        }
        core->has_sent();
        sent = count > 0 ? static_cast<std::size_t>(count) : 0;
        if (sent == size) {
            return py::none();
        }
        start_writing();
        if (lost_writes != 0 || closing) {  // the file's fileno() has done that
            return py::none();
        }
    }
    backlog.push(std::move(bytes), sent);
    return maybe_pause_protocol();
}

py::ref WritePipeTransport::write_ready() {
    if (backlog.empty()) {
        stop_writing();
        return py::none();
    }
    core->held.push_all();
    const ssize_t count = attempt([&] {  // only now: has_number() may have called who clears the backlog
        std::array<iovec, 64> views;
        const auto parts = static_cast<int>(backlog.peek(views.data(), views.size()));
        return ::writev(fd, views.data(), parts);
    });
    if (count < 0) {
        if (!zloop::detail::would_block(errno)) {
            write_failed(errno);
        }
        return py::none();
    }
    backlog.consume(static_cast<std::size_t>(count));
    if (!backlog.empty()) {
        return py::none();  // asyncio's: writing is resumed once all is sent
    }
    stop_writing();
    maybe_resume_writing(0);
    if (closing) {
        stop_reading();
        return call_connection_lost(Py_None);
    }
    return py::none();
}

void WritePipeTransport::write_failed(int number) noexcept {
    ++lost_writes;
    fatal_error(py::os_error(number), "Fatal write error on pipe transport");
}

py::ref WritePipeTransport::set_protocol(const py::arguments& args) {
    return replace_protocol(args, "_UnixWritePipeTransport.set_protocol");
}

py::ref WritePipeTransport::write_eof() {
    if (closing) {
        return py::none();
    }
    closing = true;
    if (backlog.empty()) {
        stop_reading();
        schedule_lost(Py_None);
    }
    return py::none();
}

py::ref WritePipeTransport::close() { return write_eof(); }

py::ref WritePipeTransport::abort() {
    if (!lost) {
        end(Py_None);
    }
    return py::none();
}

void WritePipeTransport::end(PyObject* error) {
    closing = true;
    backlog.clear();
    stop_writing();
    stop_reading();
    schedule_lost(error);
}

py::ref WritePipeTransport::get_write_buffer_size() {
    return py::ref::steal(PyLong_FromSize_t(backlog.bytes()));
}

py::ref WritePipeTransport::maybe_pause_protocol() {
    maybe_pause_writing(backlog.bytes());
    core->raise_failure();
    return py::none();
}

py::ref WritePipeTransport::repr() {
    char size[40];
    std::snprintf(size, sizeof size, " bufsize=%zu", backlog.bytes());
    return describe(is_watched(writing), size);
}

// The types.

void add_pipe_transport_types(PyObject* module, module_state& state) {
    static PyMethodDef reading[] = {
        py::method<&transport::is_closing>("is_closing",
                                           "is_closing($self)\n--\n\nasyncio.BaseTransport.is_closing"),
        py::method<&transport::get_protocol>("get_protocol",
                                             "get_protocol($self)\n--\n\nasyncio.BaseTransport.get_protocol"),
        py::method<&ReadPipeTransport::set_protocol>(
            "set_protocol", "set_protocol($self, protocol)\n--\n\nasyncio.BaseTransport.set_protocol"),
        py::method<&ReadPipeTransport::close>("close", "close($self)\n--\n\nasyncio.BaseTransport.close"),
        py::method<&ReadPipeTransport::is_reading>(
            "is_reading", "is_reading($self)\n--\n\nasyncio.ReadTransport.is_reading"),
        py::method<&ReadPipeTransport::pause_reading>(
            "pause_reading", "pause_reading($self)\n--\n\nasyncio.ReadTransport.pause_reading"),
        py::method<&ReadPipeTransport::resume_reading>(
            "resume_reading", "resume_reading($self)\n--\n\nasyncio.ReadTransport.resume_reading"),
        py::method<&ReadPipeTransport::begin_reading>("_begin_reading",
                                                      "Start to read; connection_made was called."),
        py::method<&ReadPipeTransport::read_ready>("_read_ready", "There is something to read."),
        py::method<&transport::call_connection_lost>("_call_connection_lost", "asyncio's."),
        {},
    };
    static PyMethodDef writing[] = {
        py::method<&transport::is_closing>("is_closing",
                                           "is_closing($self)\n--\n\nasyncio.BaseTransport.is_closing"),
        py::method<&transport::get_protocol>("get_protocol",
                                             "get_protocol($self)\n--\n\nasyncio.BaseTransport.get_protocol"),
        py::method<&WritePipeTransport::set_protocol>(
            "set_protocol", "set_protocol($self, protocol)\n--\n\nasyncio.BaseTransport.set_protocol"),
        py::method<&WritePipeTransport::write>("write",
                                               "write($self, data)\n--\n\nasyncio.WriteTransport.write"),
        py::method<&WritePipeTransport::write_eof>(
            "write_eof", "write_eof($self)\n--\n\nasyncio.WriteTransport.write_eof"),
        py::method<&WritePipeTransport::can_write_eof>(
            "can_write_eof", "can_write_eof($self)\n--\n\nasyncio.WriteTransport.can_write_eof"),
        py::method<&WritePipeTransport::close>("close", "close($self)\n--\n\nasyncio.BaseTransport.close"),
        py::method<&WritePipeTransport::abort>("abort", "abort($self)\n--\n\nasyncio.WriteTransport.abort"),
        py::method<&WritePipeTransport::get_write_buffer_size>(
            "get_write_buffer_size",
            "get_write_buffer_size($self)\n--\n\nasyncio.WriteTransport.get_write_buffer_size"),
        py::method<&WritePipeTransport::begin_reading>(
            "_begin_reading", "Look out for the end of the readers; connection_made was called."),
        py::method<&WritePipeTransport::read_ready>("_read_ready", "The readers are gone."),
        py::method<&WritePipeTransport::write_ready>("_write_ready", "There is room to write."),
        py::method<&transport::call_connection_lost>("_call_connection_lost", "asyncio's."),
        py::method<&WritePipeTransport::maybe_pause_protocol>("_maybe_pause_protocol", "asyncio's."),
        {},
    };
    static auto properties = with_transport_properties({
        py::property<&transport::get_fd>("_fileno", "The descriptor's number, also once it is closed."),
    });
    const py::ref transports = py::import("asyncio.transports");
    const py::ref read = py::attribute(transports.get(), "ReadTransport");
    const py::ref read_bases = py::ref::steal(PyTuple_Pack(1, read.get()));
    state.read_pipe_transport_type = make_transport_type<ReadPipeTransport>(
        module, "zloop._zloop.ReadPipeTransport", "What a pipe's reading end is to asyncio.", reading,
        properties.data(), read_bases.get());

    const py::ref mixin = py::attribute(transports.get(), "_FlowControlMixin");
    const py::ref write = py::attribute(transports.get(), "WriteTransport");
    const py::ref write_bases = py::ref::steal(PyTuple_Pack(2, mixin.get(), write.get()));
    state.write_pipe_transport_type = make_transport_type<WritePipeTransport>(
        module, "zloop._zloop.WritePipeTransport", "What a pipe's writing end is to asyncio.", writing,
        properties.data(), write_bases.get());
}

}  // namespace zl
