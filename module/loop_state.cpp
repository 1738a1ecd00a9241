// module/loop_state.cpp: errors that leave the loop. See loop_state.hpp.

#include "loop_state.hpp"

namespace zl {

void loop_state::fail() noexcept {
    py::ref raised = py::take_error();
    if (!failure) {  // the first one counts
        failure = std::move(raised);
    }
    if (loop) {
        loop->interrupt();
    }
}

void loop_state::raise_failure() {
    if (failure) {
        py::restore_error(std::exchange(failure, nullptr));
        throw py::error_set{};
    }
}

void loop_state::report_unraisable(PyObject* where) noexcept {
    if (py::error_is_fatal()) {
        fail();
    } else {
        PyErr_WriteUnraisable(where);
    }
}

void loop_state::report_callback(PyObject* handle) noexcept {
    if (py::error_is_fatal()) {
        fail();
        return;
    }
    const py::ref error = py::take_error();
    if (!py::try_call_method(self(), state->str_callback_failed.get(), handle, error.get())) {
        fail();
    }
}

void loop_state::look_at_run() noexcept { calls_run = debug || !state->stock_handle.holds(); }

void loop_state::check_closed() const {
    if (closed || !loop) {
        py::raise(PyExc_RuntimeError, "Event loop is closed");
    }
}

}  // namespace zl
