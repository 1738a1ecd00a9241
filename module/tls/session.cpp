// module/tls/session.cpp: feed, read, write. See session.hpp.

#include "session.hpp"

#include <algorithm>

namespace zl {

namespace {

/// Memory of ours as a buffer, for the time of one call.
struct window : py::object {
    void* data;
    std::size_t size;
    bool readonly;
};

int window_buffer(PyObject* object, Py_buffer* view, int flags) {
    auto& self = *reinterpret_cast<window*>(object);
    return PyBuffer_FillInfo(view, object, self.data, static_cast<Py_ssize_t>(self.size),
                             self.readonly ? 1 : 0, flags);
}

void window_dealloc(PyObject* object) {
    PyTypeObject* const type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

py::ref window_on(module_state& state, const void* data, std::size_t size, bool readonly) {
    auto* const type = reinterpret_cast<PyTypeObject*>(state.tls_window_type.get());
    py::ref made = py::ref::steal(type->tp_alloc(type, 0));
    auto& self = *reinterpret_cast<window*>(made.get());
    self.data = const_cast<void*>(data);
    self.size = size;
    self.readonly = readonly;
    return made;
}

std::size_t size_from(const py::ref& number) {
    const Py_ssize_t size = PyLong_AsSsize_t(number.get());
    if (size < 0) {
        throw py::error_set{};
    }
    return static_cast<std::size_t>(size);
}

/// Room for a record of which only a part was fed since the last look.
constexpr std::size_t one_record = 18 * 1024;

}  // namespace

bool take_ssl_again(module_state& state) noexcept {
    if (PyErr_ExceptionMatches(state.ssl_want_read_error.get()) ||
        PyErr_ExceptionMatches(state.ssl_syscall_error.get())) {
        PyErr_Clear();
        return true;
    }
    return false;
}

void tls_session::begin(module_state& state, PyObject* context, PyObject* server_side,
                        PyObject* server_hostname) {
    incoming_ = py::call(state.memory_bio_type.get());
    outgoing_ = py::call(state.memory_bio_type.get());
    const py::ref wrap = py::attribute(context, "wrap_bio");
    PyObject* arguments[] = {nullptr, incoming_.get(), outgoing_.get(), server_side, server_hostname};
    object_ = py::ref::steal(
        PyObject_Vectorcall(wrap.get(), arguments + 1, 4 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
    inner_ = py::attribute(object_.get(), "_sslobj");
}

py::ref tls_session::shake_hands(module_state& state) {
    const use now(*this);
    written_ = true;
    const py::ref inner = inner_;
    return py::try_call(state.ssl_do_handshake.get(), inner.get());
}

py::ref tls_session::unwrap(module_state& state) {
    const use now(*this);
    written_ = true;
    const py::ref object = object_;
    return py::try_call_method(object.get(), state.str_unwrap.get());
}

py::ref tls_session::peer_certificate(module_state& state) const {
    const py::ref inner = inner_;
    return py::call(state.ssl_getpeercert.get(), inner.get());
}

tls_session::use::use(tls_session& session) : session_(session) {
    if (session.in_use_ || !session.begun()) {
        py::raise(PyExc_RuntimeError, "TLS is at work for this connection, and has called back");
    }
    session.in_use_ = true;
}

void tls_session::feed(module_state& state, std::span<const std::byte> data) {
    const py::ref lent = window_on(state, data.data(), data.size(), true);
    const py::ref bio = incoming_;
    py::call(state.bio_write.get(), bio.get(), lent.get());
    records_.follow(data);
    unread_ += data.size();
}

void tls_session::look_at_unread(module_state& state) {
    unread_ = size_from(py::ref::steal(PyObject_GetAttr(incoming_.get(), state.str_pending.get())));
    withheld_ = 0;
    if (unread_ <= records_.tail() && !inside_) {
        drained();
    }
}

void tls_session::drained() noexcept {
    inside_ = false;
    unread_ = std::min(unread_, records_.tail());
    withheld_ = unread_;
    records_.forget_complete();
}

/// One message, or a part, or 0: there will be no more. Throws.
std::size_t tls_session::read_at(module_state& state, std::byte* data, std::size_t size) {
    const py::ref count = py::integer(static_cast<long long>(size));
    const py::ref lent = window_on(state, data, size, false);
    const py::ref inner = inner_;  // ssl calls Python, of whoever watches messages
    return size_from(py::call(state.ssl_read.get(), inner.get(), count.get(), lent.get()));
}

tls_session::plaintext tls_session::read(module_state& state) {
    const use now(*this);
    written_ = true;  // an alert, perhaps, or a new key
    const bool single = records_.complete() == 1 && !records_.odd();
    const std::size_t room = records_.odd() ? unread_ + one_record : records_.complete_bytes();
    if (single) {
        const py::ref most = py::integer(static_cast<long long>(room));
        const py::ref inner = inner_;
        py::ref bytes = py::try_call(state.ssl_read.get(), inner.get(), most.get());
        if (!bytes) {
            if (!take_ssl_again(state)) {
                throw py::error_set{};
            }
            unread_ = 0;
            drained();
            return {};
        }
        drained();
        if (PyBytes_GET_SIZE(bytes.get()) == 0) {
            return {nullptr, true};
        }
        return {std::move(bytes), false};
    }
    PyObject* bytes =
        py::ref::steal(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(room))).release();
    auto* const data = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes));
    std::size_t filled = 0;
    bool ended = false;
    try {
        while (filled < room && has_message()) {
            const std::size_t count = read_at(state, data + filled, room - filled);
            if (count == 0) {
                ended = true;
                break;
            }
            filled += count;
            unread_ = size_from(py::ref::steal(PyObject_GetAttr(incoming_.get(), state.str_pending.get())));
            inside_ = records_.odd();  // ask until it says that there is no more
        }
    } catch (const py::error_set&) {
        if (!take_ssl_again(state)) {
            Py_DECREF(bytes);
            throw;
        }
        unread_ = 0;
    }
    drained();
    if (filled == 0) {
        Py_DECREF(bytes);
        return {nullptr, ended};
    }
    if (_PyBytes_Resize(&bytes, static_cast<Py_ssize_t>(filled)) != 0) {
        throw py::error_set{};
    }
    return {py::ref::adopt(bytes), ended};
}

tls_session::amount tls_session::read_into(module_state& state, PyObject* buffer, std::size_t size) {
    const use now(*this);
    amount got;
    written_ = true;
    try {
        const py::ref most = py::integer(static_cast<long long>(size));
        // The first read takes the object as it is, and refuses it in its own words.
        std::size_t asked = size;
        const py::ref inner = inner_;
        std::size_t count = size_from(py::call(state.ssl_read.get(), inner.get(), most.get(), buffer));
        const py::buffer view(buffer, PyBUF_WRITABLE);
        size = std::min(size, view.size());
        for (;;) {
            got.count += count;
            if (count == 0) {
                got.ended = true;
                look_at_unread(state);
                return got;
            }
            const bool full = got.count >= size;
            inside_ = (count == asked && size_from(py::call(state.ssl_pending.get(), inner.get())) != 0) ||
                      (full && records_.odd());
            look_at_unread(state);
            if (full || !(has_message() || records_.odd())) {
                return got;
            }
            asked = size - got.count;
            count = read_at(state, reinterpret_cast<std::byte*>(view.data()) + got.count, asked);
        }
    } catch (const py::error_set&) {
        if (!take_ssl_again(state)) {
            throw;
        }
        unread_ = 0;
        drained();
    }
    return got;
}

std::size_t tls_session::write(module_state& state, PyObject* data) {
    const use now(*this);
    const py::ref inner = inner_;
    written_ = true;
    return size_from(py::call(state.ssl_write.get(), inner.get(), data));
}

std::size_t tls_session::write(module_state& state, std::span<const std::byte> data) {
    return write(state, window_on(state, data.data(), data.size(), true).get());
}

std::size_t tls_session::outgoing_bytes(module_state& state) const {
    return outgoing_ && written_
               ? size_from(py::ref::steal(PyObject_GetAttr(outgoing_.get(), state.str_pending.get())))
               : 0;
}

py::ref tls_session::take_outgoing(module_state& state) {
    if (!std::exchange(written_, false)) {
        return nullptr;
    }
    py::ref bytes = py::call(state.bio_read.get(), outgoing_.get());
    return PyBytes_GET_SIZE(bytes.get()) != 0 ? std::move(bytes) : py::ref();
}

int tls_session::visit(visitproc visit, void* arg) const {
    Py_VISIT(object_.get());
    Py_VISIT(inner_.get());
    return 0;
}

void tls_session::clear() noexcept {
    object_.reset();
    inner_.reset();
}

void look_up_ssl(PyObject* module, module_state& state) {
    const py::ref ssl = py::ref::adopt(PyImport_ImportModule("ssl"));
    if (!ssl) {
        if (!PyErr_ExceptionMatches(PyExc_ImportError)) {
            throw py::error_set{};
        }
        PyErr_Clear();
        return;
    }
    state.memory_bio_type = py::attribute(ssl.get(), "MemoryBIO");
    state.ssl_error = py::attribute(ssl.get(), "SSLError");
    state.ssl_want_read_error = py::attribute(ssl.get(), "SSLWantReadError");
    state.ssl_syscall_error = py::attribute(ssl.get(), "SSLSyscallError");
    state.ssl_certificate_error = py::attribute(ssl.get(), "CertificateError");
    const py::ref native = py::attribute(py::import("_ssl").get(), "_SSLSocket");
    state.ssl_do_handshake = py::attribute(native.get(), "do_handshake");
    state.ssl_getpeercert = py::attribute(native.get(), "getpeercert");
    state.ssl_read = py::attribute(native.get(), "read");
    state.ssl_write = py::attribute(native.get(), "write");
    state.ssl_pending = py::attribute(native.get(), "pending");
    state.bio_read = py::attribute(state.memory_bio_type.get(), "read");
    state.bio_write = py::attribute(state.memory_bio_type.get(), "write");

    PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("Memory that is lent for the time of a call.")},
        {Py_tp_dealloc, reinterpret_cast<void*>(&window_dealloc)},
        {Py_bf_getbuffer, reinterpret_cast<void*>(&window_buffer)},
        {0, nullptr},
    };
    PyType_Spec spec = {"zloop._zloop._Window", sizeof(window), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    state.tls_window_type = py::ref::steal(PyType_FromModuleAndSpec(module, &spec, nullptr));
}

}  // namespace zl
