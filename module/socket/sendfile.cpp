// module/socket/sendfile.cpp: files over a transport, by sendfile(2). See transport.hpp.
//
// The file stands behind what is written, and the coroutine that sends that sends it. Its descriptor and its
// position are the caller's: zloop.Loop._sendfile_native.

#include "transport.hpp"

namespace zl {

py::ref SocketTransport::begin_sendfile(const py::arguments& args) {
    if (args.count != 3) {
        py::raise(PyExc_TypeError, "_begin_sendfile(descriptor, offset, count)");
    }
    auto file = std::make_unique<file_part>(file_part::from(args.values[0], args.values[1], args.values[2]));
    py::ref future = py::ref::steal(PyObject_CallMethod(core->self(), "create_future", nullptr));
    core->check_closed();
    if (sends_file()) {
        py::raise(PyExc_RuntimeError, "sendfile is in progress already");
    }
    if (lost_writes != 0 || !socket) {
        py::raise(PyExc_ConnectionError, "Connection is closed by peer");
    }
    file->future = future;
    some_backlog().file = std::move(file);
    begin_writing();
    return future;
}

/// What the kernel did with it. In the connection's context.
void SocketTransport::file_moved(std::error_code error, std::size_t count) noexcept {
    if (!is_sending_file()) {
        return;
    }
    file_part& file = *backlog->file;
    file.offset += static_cast<std::int64_t>(count);
    file.left -= count;
    file.sent += count;
    if (error) {
        file_ended(sendfile_failure(error.value(), file.sent));
    } else if (count == 0 || file.left == 0) {
        file_ended(nullptr);
    }
}

/// With an exception, or with what was sent.
void SocketTransport::file_ended(const py::ref& error) noexcept {
    const py::ref future = std::move(backlog->file->future);
    py::ref done;
    if (error) {
        done = py::ref::adopt(PyObject_CallMethod(future.get(), "set_exception", "O", error.get()));
    } else {
        const py::ref sent = py::ref::adopt(PyLong_FromSize_t(backlog->file->sent));
        done =
            sent ? py::try_call_method(future.get(), core->state->str_set_result.get(), sent.get()) : nullptr;
    }
    if (!done && PyErr_ExceptionMatches(core->state->invalid_state_error.get())) {
        PyErr_Clear();  // it is cancelled, and _end_sendfile() about to be called
    } else if (!done) {
        core->report_unraisable(future.get());
    }
}

/// The connection is over; `error` may be None.
void SocketTransport::fail_file(PyObject* error) noexcept {
    if (!is_sending_file()) {
        return;
    }
    py::ref failure = py::ref::borrow(error);
    if (error == Py_None) {
        failure =
            py::ref::adopt(PyObject_CallFunction(PyExc_ConnectionError, "s", "Connection is closed by peer"));
        if (!failure) {
            failure = py::take_error();
        }
    }
    file_ended(failure);
}

py::ref SocketTransport::end_sendfile() {
    if (!sends_file()) {
        return py::integer(0);
    }
    if (is_sending_file()) {
        writer.cancel();  // at the end of its turn it begins anew, when there is something to send
    }
    const auto file = std::move(backlog->file);
    return py::ref::steal(PyLong_FromSize_t(file->sent));
}

}  // namespace zl
