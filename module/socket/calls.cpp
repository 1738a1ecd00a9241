// module/socket/calls.cpp: loop.sock_recv() and its sisters: what each of them tries. See operation.hpp.
//
// Native is what moves bytes. What happens once a connection, or has a dozen forms of address, calls the
// socket's own method. What is not exactly a socket.socket, and arguments that the method would refuse or
// convert, take asyncio's own code.

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <optional>

#include <arpa/inet.h>
#include <sys/ioctl.h>

#include <zloop/kernel/attempt.hpp>  // send_part

#include "../backlog.hpp"
#include "../sockets.hpp"
#include "operation.hpp"
#include "transport.hpp"

namespace zl {

namespace {

// As what a transport reads into: more than a message, and what is copied out of it stays below the size from
// which malloc maps pages anew.
constexpr std::size_t scratch_bytes = 120 * 1024;

std::byte* scratch_of(LoopCore& core) {
    if (!core.sock_scratch) {
        core.sock_scratch.reset(new std::byte[scratch_bytes]);
    }
    return core.sock_scratch.get();
}

py::ref integer(std::size_t value) { return py::ref::steal(PyLong_FromSize_t(value)); }
py::ref bytes_of(const std::byte* data, std::size_t size) {
    return py::ref::steal(
        PyBytes_FromStringAndSize(reinterpret_cast<const char*>(data), static_cast<Py_ssize_t>(size)));
}

py::ref os_error(int error) { return py::os_error(error); }

/// A system call on a socket; nothing when it would block. Throws what else is wrong, by default OSError.
template <class Call, class Failure = py::ref (*)(int)>
std::optional<std::size_t> try_call(Call call, Failure failure = os_error) {
    for (;;) {
        const ssize_t moved = call();
        if (moved >= 0) {
            return static_cast<std::size_t>(moved);
        }
        if (errno == EAGAIN || errno == EINPROGRESS || errno == EALREADY) {
            return std::nullopt;
        }
        if (errno != EINTR) {
            py::restore_error(failure(errno));
            throw py::error_set{};
        }
        if (PyErr_CheckSignals() != 0) {
            throw py::error_set{};
        }
    }
}

/// `sock.name(values...)`; null when it would block.
template <class... Values>
py::ref try_method(SockOperation& self, const py::ref& name, Values... values) {
    py::ref result = py::try_call_method(self.sock.get(), name.get(), values...);
    if (!result) {
        if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
            !PyErr_ExceptionMatches(PyExc_InterruptedError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
    }
    return result;
}

/// EAGAIN of connect(2) is no EINPROGRESS: nothing goes on that the kernel would tell the end of. A Unix
/// listener has no room in its backlog. asyncio waits all the same, and takes the socket for connected.
void refuse_again() {
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError)) {
        return;
    }
    py::ref error = py::take_error();
    const py::ref number = py::attribute(error.get(), "errno");
    const bool again = PyLong_Check(number.get()) && PyLong_AsLong(number.get()) == EAGAIN;
    py::restore_error(std::move(error));
    if (again) {
        throw py::error_set{};
    }
}

// What each call tries.

/// Into a bytes object of its own where the scratch is too small for what is there.
py::ref recv_large(SockOperation& self, int fd) {
    int there = 0;
    std::size_t size = self.size;
    if (::ioctl(fd, FIONREAD, &there) == 0) {
        size = std::min(size, std::max(static_cast<std::size_t>(there), scratch_bytes));
    }
    py::ref bytes = bytes_of(nullptr, size);
    const auto count =
        try_call([&] { return ::recv(fd, PyBytes_AS_STRING(bytes.get()), size, MSG_DONTWAIT); });
    if (!count) {
        return nullptr;
    }
    PyObject* shrunk = bytes.release();
    if (*count < size && _PyBytes_Resize(&shrunk, static_cast<Py_ssize_t>(*count)) != 0) {
        throw py::error_set{};
    }
    return py::ref::adopt(shrunk);
}

py::ref recv(SockOperation& self) {
    const int fd = self.descriptor();
    if (self.size > scratch_bytes) {
        return recv_large(self, fd);
    }
    std::byte* const into = scratch_of(*self.core);
    const auto count = try_call([&] { return ::recv(fd, into, self.size, MSG_DONTWAIT); });
    return count ? bytes_of(into, *count) : nullptr;
}

py::ref recv_into(SockOperation& self) {
    Py_buffer into;
    if (PyObject_GetBuffer(self.argument.get(), &into, PyBUF_WRITABLE) != 0) {
        PyErr_Clear();
        return try_method(self, self.core->state->str_recv_into, self.argument.get());  // its words
    }
    struct at_exit {
        Py_buffer& view;
        ~at_exit() { PyBuffer_Release(&view); }
    } const release{into};
    if (into.len == 0) {
        return integer(0);
    }
    const int fd = self.descriptor();
    const auto count =
        try_call([&] { return ::recv(fd, into.buf, static_cast<std::size_t>(into.len), MSG_DONTWAIT); });
    return count ? integer(*count) : nullptr;
}

py::ref recvfrom(SockOperation& self) {
    return try_method(self, self.core->state->str_recvfrom, self.argument.get());
}

py::ref recvfrom_into(SockOperation& self) {
    return try_method(self, self.core->state->str_recvfrom_into, self.argument.get(),
                      self.other_argument.get());
}

/// One call at a time: whoever writes without end has turns between.
py::ref sendall(SockOperation& self) {
    if (!self.holds_data) {
        if (PyObject_GetBuffer(self.argument.get(), &self.data, PyBUF_SIMPLE) != 0) {
            throw py::error_set{};
        }
        self.holds_data = true;
        self.size = static_cast<std::size_t>(self.data.len);
    }
    const int fd = self.descriptor();
    const auto* const bytes = static_cast<const char*>(self.data.buf);
    const auto count = try_call([&] {
        return ::send(fd, bytes + self.done, self.size - self.done, MSG_DONTWAIT | zloop::detail::quietly);
    });
    self.core->has_sent();
    self.done += count.value_or(0);
    return self.done == self.size ? py::none() : nullptr;
}

py::ref sendto(SockOperation& self) {
    py::ref sent =
        try_method(self, self.core->state->str_sendto, self.argument.get(), self.other_argument.get());
    self.core->has_sent();
    return sent;
}

py::ref try_connect(SockOperation& self) {
    py::ref done =
        py::try_call_method(self.sock.get(), self.core->state->str_connect.get(), self.argument.get());
    if (!done) {
        refuse_again();
        if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
            !PyErr_ExceptionMatches(PyExc_InterruptedError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
    }
    return done;
}

[[noreturn]] void raise_connect_failed(SockOperation& self, int error) {
    const py::ref words = py::ref::steal(PyUnicode_FromFormat("Connect call failed %S", self.argument.get()));
    const py::ref failure = py::ref::steal(PyObject_CallFunction(PyExc_OSError, "iO", error, words.get()));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(failure.get())), failure.get());
    throw py::error_set{};
}

/// The descriptor is writable: it is connected, or an error says why not.
void check_connected(SockOperation& self) {
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(self.descriptor(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
        py::raise_os_error({errno, std::system_category()});
    }
    if (error != 0) {
        raise_connect_failed(self, error);
    }
}

py::ref connect(SockOperation& self) {
    if (!self.connecting) {
        py::ref connected = try_connect(self);
        self.connecting = !connected;
        self.core->has_sent();
        return connected;
    }
    check_connected(self);
    return py::none();
}

py::ref accept(SockOperation& self) {
    const py::ref accepted = try_method(self, self.core->state->str_accept);
    if (!accepted) {
        return nullptr;
    }
    // asyncio unpacks whatever it is: where accept() is a program's own, it may be anything.
    py::ref pair = py::ref::steal(PySequence_Tuple(accepted.get()));
    if (const Py_ssize_t size = PyTuple_GET_SIZE(pair.get()); size != 2) {
        if (size < 2) {
            py::raise_format(PyExc_ValueError, "not enough values to unpack (expected 2, got %zd)", size);
        }
        py::raise(PyExc_ValueError, "too many values to unpack (expected 2)");
    }
    py::call_method(PyTuple_GET_ITEM(pair.get(), 0), self.core->state->str_setblocking.get(), Py_False);
    return pair;
}

/// One call at a time, as above. The disk may be slow: other threads run meanwhile.
py::ref sendfile(SockOperation& self) {
    constexpr std::size_t most = 1 << 20;
    const int fd = self.descriptor();
    const auto count = try_call(
        [&] {
            ssize_t moved;
            int error;
            {
                const py::without_gil others_run;
                moved = zloop::detail::send_part(fd, self.file, self.offset,
                                                 std::min(self.size - self.done, most));
                error = errno;
            }
            errno = error;
            return moved;
        },
        [&](int error) { return sendfile_failure(error, self.done); });
    if (!count) {
        return nullptr;
    }
    self.offset += static_cast<std::int64_t>(*count);
    self.core->has_sent();
    self.done += *count;
    return *count == 0 || self.done == self.size ? integer(self.done) : nullptr;
}

constexpr auto reads = zloop::direction::read;
constexpr auto writes = zloop::direction::write;

constexpr sock_call recv_call{"sock_recv", reads, recv};
constexpr sock_call recv_into_call{"sock_recv_into", reads, recv_into};
constexpr sock_call recvfrom_call{"sock_recvfrom", reads, recvfrom};
constexpr sock_call recvfrom_into_call{"sock_recvfrom_into", reads, recvfrom_into};
constexpr sock_call sendall_call{"sock_sendall", writes, sendall};
constexpr sock_call sendto_call{"sock_sendto", writes, sendto};
constexpr sock_call sendfile_call{"sock_sendfile", writes, sendfile};
constexpr sock_call connect_call{"sock_connect", writes, connect};
constexpr sock_call accept_call{"sock_accept", reads, accept};

// Which arguments are ours.

bool is_plain(const LoopCore& core, const py::arguments& args, Py_ssize_t count) noexcept {
    return args.count == count && args.keyword_count() == 0 &&
           reinterpret_cast<PyObject*>(Py_TYPE(args.values[0])) == core.state->socket_type.get();
}

/// A number of bytes that is not zero; nothing for what isn't.
std::optional<std::size_t> size_of(PyObject* object) noexcept {
    const Py_ssize_t size = PyLong_CheckExact(object) ? PyLong_AsSsize_t(object) : 0;
    if (size <= 0) {
        PyErr_Clear();
        return std::nullopt;
    }
    return static_cast<std::size_t>(size);
}

/// Whether len() counts bytes, as asyncio's code expects.
bool is_bytes(PyObject* object) noexcept {
    if (PyMemoryView_Check(object)) {
        const Py_buffer& view = *PyMemoryView_GET_BUFFER(object);
        return view.ndim == 1 && view.itemsize == 1;
    }
    return PyBytes_CheckExact(object) || PyByteArray_CheckExact(object);
}

long number_of(PyObject* sock, const py::ref& member) {
    // socket.socket hides its base's attributes behind properties that make an enum of them.
    const py::ref value = py::ref::steal(
        Py_TYPE(member.get())->tp_descr_get(member.get(), sock, reinterpret_cast<PyObject*>(Py_TYPE(sock))));
    return PyLong_AsLong(value.get());
}

/// Whether asyncio would connect to this address as it stands: one with nothing to resolve.
bool is_resolved(LoopCore& core, PyObject* sock, PyObject* address) {
    const long family = number_of(sock, core.state->socket_family);
    if (family != AF_INET && family != AF_INET6) {
        return true;
    }
    const long kind = number_of(sock, core.state->socket_kind);
    const Py_ssize_t parts = family == AF_INET ? 2 : 4;
    if ((kind != SOCK_STREAM && kind != SOCK_DGRAM) || !PyTuple_CheckExact(address) ||
        PyTuple_GET_SIZE(address) != parts) {
        return false;
    }
    PyObject* const host = PyTuple_GET_ITEM(address, 0);
    for (Py_ssize_t index = 1; index < parts; ++index) {
        if (!PyLong_CheckExact(PyTuple_GET_ITEM(address, index))) {
            return false;
        }
    }
    if (!PyUnicode_CheckExact(host) || !PyUnicode_IS_ASCII(host)) {
        return false;
    }
    const auto* const text = static_cast<const char*>(PyUnicode_DATA(host));
    in6_addr binary;
    return std::strlen(text) == static_cast<std::size_t>(PyUnicode_GET_LENGTH(host)) &&
           ::inet_pton(static_cast<int>(family), text, &binary) == 1;
}

}  // namespace

bool LoopCore::take_sock_turn() noexcept {
    constexpr unsigned most_calls = 64;  // in one callback; asyncio has no bound
    if (!loop) {
        return true;
    }
    if (const std::uint64_t running = loop->stats().ops; running != sock_turn) {
        sock_turn = running;
        sock_calls = 0;
    }
    return ++sock_calls <= most_calls;
}

py::ref LoopCore::sock_recv(const py::arguments& args) {
    if (is_plain(*this, args, 2)) {
        if (const auto size = size_of(args.values[1])) {
            return SockOperation::make(*this, recv_call, args.values[0], nullptr, nullptr, *size);
        }
    }
    return call_inherited("sock_recv", args);
}

py::ref LoopCore::sock_recv_into(const py::arguments& args) {
    if (is_plain(*this, args, 2)) {
        return SockOperation::make(*this, recv_into_call, args.values[0], args.values[1]);
    }
    return call_inherited("sock_recv_into", args);
}

py::ref LoopCore::sock_recvfrom(const py::arguments& args) {
    if (is_plain(*this, args, 2)) {
        return SockOperation::make(*this, recvfrom_call, args.values[0], args.values[1]);
    }
    return call_inherited("sock_recvfrom", args);
}

py::ref LoopCore::sock_recvfrom_into(const py::arguments& args) {
    if (is_plain(*this, args, 3) && size_of(args.values[2])) {
        return SockOperation::make(*this, recvfrom_into_call, args.values[0], args.values[1], args.values[2]);
    }
    return call_inherited("sock_recvfrom_into", args);
}

py::ref LoopCore::sock_sendall(const py::arguments& args) {
    if (is_plain(*this, args, 2) && is_bytes(args.values[1])) {
        return SockOperation::make(*this, sendall_call, args.values[0], args.values[1]);
    }
    return call_inherited("sock_sendall", args);
}

py::ref LoopCore::sock_sendto(const py::arguments& args) {
    if (is_plain(*this, args, 3)) {
        return SockOperation::make(*this, sendto_call, args.values[0], args.values[1], args.values[2]);
    }
    return call_inherited("sock_sendto", args);
}

py::ref LoopCore::begin_sock_sendfile(const py::arguments& args) {
    if (args.count != 4) {
        py::raise(PyExc_TypeError, "_sock_sendfile(sock, descriptor, offset, count)");
    }
    static_cast<void>(socket_number(*state, args.values[0]));
    py::ref made = SockOperation::make(*this, sendfile_call, args.values[0]);
    auto& operation = *reinterpret_cast<SockOperation*>(made.get());
    const file_part part = file_part::from(args.values[1], args.values[2], args.values[3]);
    operation.file = part.descriptor;
    operation.offset = part.offset;
    operation.size = part.left;
    return made;
}

py::ref LoopCore::sock_connect(const py::arguments& args) {
    if (is_plain(*this, args, 2) && is_resolved(*this, args.values[0], args.values[1])) {
        return SockOperation::make(*this, connect_call, args.values[0], args.values[1]);
    }
    return call_inherited("sock_connect", args);
}

py::ref LoopCore::sock_accept(const py::arguments& args) {
    if (is_plain(*this, args, 1)) {
        return SockOperation::make(*this, accept_call, args.values[0]);
    }
    return call_inherited("sock_accept", args);
}

// Connecting.

namespace {

/// Tells who audits, as socket.socket.connect() does. Only then there is a socket for it, that has our
/// descriptor meanwhile.
void audit_connect(SockOperation& self) {
    const auto socket_of = [](void* operation) -> PyObject* {
        auto& audited = *static_cast<SockOperation*>(operation);
        return py::detail::guarded([&]() -> py::ref {
            audited.sock = socket_object(*audited.core->state, audited.own.get());
            return audited.sock;
        });
    };
    const bool is_vetoed =
        PySys_Audit("socket.connect", "O&O", +socket_of, static_cast<void*>(&self), self.argument.get()) != 0;
    py::ref veto = is_vetoed ? py::take_error() : nullptr;
    if (self.sock.get() != Py_None) {
        take_number_from(*self.core->state, self.sock.get());
        self.sock = py::none();
    }
    if (is_vetoed) {
        py::restore_error(std::move(veto));
        throw py::error_set{};
    }
}

/// What the factory gives. As from a coroutine of Python's, StopIteration does not leave it.
py::ref new_protocol(const py::ref& factory) {
    py::ref protocol = py::ref::adopt(PyObject_CallNoArgs(factory.get()));
    if (!protocol) {
        if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
            const py::ref stop = py::take_error();
            const py::ref error =
                py::call(PyExc_RuntimeError, py::text("coroutine raised StopIteration").get());
            PyException_SetCause(error.get(), py::ref(stop).release());
            PyException_SetContext(error.get(), py::ref(stop).release());
            PyErr_SetObject(PyExc_RuntimeError, error.get());
        }
        throw py::error_set{};
    }
    return protocol;
}

/// create_connection() to a numeric address: (transport, protocol, waiter).
py::ref open_connection(SockOperation& self) {
    LoopCore& core = *self.core;
    const py::ref kept = self.argument;
    PyObject* const name = kept.get();
    zloop::address peer;
    read_literal(PyTuple_GET_ITEM(name, 0), PyTuple_GET_ITEM(name, 1), peer);
    if (!self.connecting) {
        self.own = zloop::detail::make_socket(peer.family(), SOCK_STREAM, IPPROTO_TCP);
        if (!self.own) {
            py::raise_os_error({errno, std::system_category()});
        }
        audit_connect(self);
        const auto connect = [&] {
            return ::connect(self.own.get(), peer.data(), peer.size()) == 0 ? 0 : errno;
        };
        int error = connect();
        if (error != 0 && error != EINPROGRESS && error != EINTR) {
            py::raise_os_error({error, std::system_category()});
        }
        core.has_sent();
        if (error != 0 && zloop::detail::connect_answers_again && peer.is_loopback()) {
            error = connect();
            if (error != 0 && error != EISCONN && error != EALREADY && error != EINPROGRESS &&
                error != EINTR) {
                raise_connect_failed(self, error);
            }
        }
        const bool waits = error != 0 && error != EISCONN;
        if (waits) {
            self.connecting = true;
            return nullptr;
        }
    } else {
        check_connected(self);
    }
    const py::ref protocol = new_protocol(self.other_argument);
    core.check_closed();
    const py::ref waiter = core.create_future();
    const py::ref transport =
        SocketTransport::from_connected(core, std::move(self.own), peer, protocol.get(), waiter.get());
    return py::ref::steal(PyTuple_Pack(3, transport.get(), protocol.get(), waiter.get()));
}

constexpr sock_call open_connection_call = {"create_connection", writes, open_connection};

}  // namespace

py::ref LoopCore::connect(const py::arguments& args) {
    if (args.count != 3) {
        py::raise(PyExc_TypeError, "_connect(protocol_factory, host, port)");
    }
    zloop::address peer;
    if (debug || closed || !read_literal(args.values[1], args.values[2], peer)) {
        return py::none();
    }
    // As asyncio names it in errors.
    const py::ref name = peer.family() == AF_INET
                             ? py::ref::steal(PyTuple_Pack(2, args.values[1], args.values[2]))
                             : py::ref::steal(Py_BuildValue("OOii", args.values[1], args.values[2], 0, 0));
    return SockOperation::make(*this, open_connection_call, Py_None, name.get(), args.values[0]);
}

// Names.

py::ref LoopCore::literal_info(const py::arguments& args) {
    if (args.count != 6) {
        py::raise(PyExc_TypeError, "_literal_info(host, port, family, type, proto, flags)");
    }
    std::array<int, 4> hints;
    for (std::size_t index = 0; index < hints.size(); ++index) {
        PyObject* const value = args.values[2 + index];
        int overflow = 0;
        const long number = PyLong_Check(value) ? PyLong_AsLongAndOverflow(value, &overflow) : LONG_MAX;
        if (overflow != 0 || number < INT_MIN || number > INT_MAX) {
            return py::none();  // Python's function says what is wrong
        }
        hints[index] = static_cast<int>(number);
    }
    py::ref answer = debug || closed ? nullptr
                                     : literals.find(state->stock_getaddrinfo.get(), args.values[0],
                                                     args.values[1], hints);
    return answer ? answer : py::none();
}

}  // namespace zl
