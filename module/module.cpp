// module/module.cpp: zloop._zloop itself: multi-phase initialisation, one state an interpreter.

#include <chrono>
#include <thread>

#include <zloop/config.hpp>

#include "datagram/transport.hpp"
#include "loop_core.hpp"
#include "pipe/transport.hpp"
#include "socket/operation.hpp"
#include "socket/transport.hpp"
#include "streams/streams.hpp"
#include "tls/transport.hpp"
#include "way.hpp"

namespace zl {

namespace {

module_state& state_of_module(PyObject* module) noexcept {
    return *static_cast<module_state*>(PyModule_GetState(module));
}

void look_up_names(module_state& state) {
    const auto intern = [](py::ref& into, const char* name) {
        into = py::ref::steal(PyUnicode_InternFromString(name));
    };
    intern(state.str_Future, "Future");
    intern(state.str_Task, "Task");
    intern(state.str_accept, "accept");
    intern(state.str_accept_failed, "_accept_failed");
    intern(state.str_accepts_tls, "_accepts_tls");
    intern(state.str_add_reader, "_add_reader");
    intern(state.str_add_writer, "_add_writer");
    intern(state.str_attach, "_attach");
    intern(state.str_buffer_updated, "buffer_updated");
    intern(state.str_birth_failed, "_birth_failed");
    intern(state.str_call_connection_lost, "_call_connection_lost");
    intern(state.str_call_later, "call_later");
    intern(state.str_callback_failed, "_callback_failed");
    intern(state.str_cancel, "cancel");
    intern(state.str_cancelled, "cancelled");
    intern(state.str_check_callback, "_check_callback");
    intern(state.str_check_thread, "_check_thread");
    intern(state.str_close, "close");
    intern(state.str_connect, "connect");
    intern(state.str_connection_lost, "connection_lost");
    intern(state.str_connection_made, "connection_made");
    intern(state.str_context, "context");
    intern(state.str_create_future, "create_future");
    intern(state.str_create_task, "create_task");
    intern(state.str_data_received, "data_received");
    intern(state.str_datagram_received, "datagram_received");
    intern(state.str_detach, "_detach");
    intern(state.str_ensure_fd_no_transport, "_ensure_fd_no_transport");
    intern(state.str_eof_received, "eof_received");
    intern(state.str_error_received, "error_received");
    intern(state.str_fileno, "fileno");
    intern(state.str_force_close, "_force_close");
    intern(state.str_future_blocking, "_asyncio_future_blocking");
    intern(state.str_get_buffer, "get_buffer");
    intern(state.str_get_extra_info, "get_extra_info");
    intern(state.str_gettimeout, "gettimeout");
    intern(state.str_is_closing, "is_closing");
    intern(state.str_log_debug, "_log_debug");
    intern(state.str_log_failure, "_log_failure");
    intern(state.str_log_handshake, "_log_handshake");
    intern(state.str_log_info, "_log_info");
    intern(state.str_pause_reading, "pause_reading");
    intern(state.str_pause_writing, "pause_writing");
    intern(state.str_pending, "pending");
    intern(state.str_protocol_raised, "_protocol_raised");
    intern(state.str_read_ready, "_read_ready");
    intern(state.str_recv_into, "recv_into");
    intern(state.str_recvfrom, "recvfrom");
    intern(state.str_recvfrom_into, "recvfrom_into");
    intern(state.str_remove_reader, "_remove_reader");
    intern(state.str_remove_writer, "_remove_writer");
    intern(state.str_resume_reading, "resume_reading");
    intern(state.str_resume_writing, "resume_writing");
    intern(state.str_run, "_run");
    intern(state.str_run_forever, "run_forever");
    intern(state.str_run_in_debug, "_run_in_debug");
    intern(state.str_send, "send");
    intern(state.str_sendto, "sendto");
    intern(state.str_sendto_ready, "_sendto_ready");
    intern(state.str_set_exception, "set_exception");
    intern(state.str_set_result, "set_result");
    intern(state.str_setblocking, "setblocking");
    intern(state.str_throw, "throw");
    intern(state.str_time, "time");
    intern(state.str_tls_failed, "_tls_failed");
    intern(state.str_transport_failed, "_transport_failed");
    intern(state.str_unwrap, "unwrap");
    intern(state.str_warn_lost_writes, "_warn_lost_writes");
    intern(state.str_write, "write");
}

void look_up_asyncio(module_state& state) {
    const auto get = [](const char* module, const char* name) {
        return py::attribute(py::import(module).get(), name);
    };
    state.stock_loop = get("asyncio", "SelectorEventLoop");
    state.stock_create_task = py::attribute(state.stock_loop.get(), "create_task");
    state.stock_get_extra_info = py::attribute(get("asyncio", "Transport").get(), "get_extra_info");
    state.stock_getaddrinfo = get("socket", "getaddrinfo");
    state.futures = py::import("asyncio.futures");
    state.stock_future = get("asyncio", "Future");
    state.tasks = py::import("asyncio.tasks");
    state.buffered_protocol = get("asyncio.protocols", "BufferedProtocol");
    state.extract_stack = get("asyncio.format_helpers", "extract_stack");
    state.set_result_unless_cancelled = get("asyncio.futures", "_set_result_unless_cancelled");
    state.transport_socket = get("asyncio.trsock", "TransportSocket");
    state.invalid_state_error = get("asyncio.exceptions", "InvalidStateError");
    state.cancelled_error = get("asyncio.exceptions", "CancelledError");
    state.socket_type = get("socket", "socket");
    state.socket_base = get("_socket", "socket");
    state.socket_family = py::attribute(state.socket_base.get(), "family");
    state.socket_kind = py::attribute(state.socket_base.get(), "type");
    const auto method_of_socket = [&](const char* name) {
        const py::ref found = py::attribute(state.socket_base.get(), name);
        if (Py_TYPE(found.get()) != &PyMethodDescr_Type) {
            py::raise_format(PyExc_ImportError, "zloop does not know this _socket: %s() is no method of C",
                             name);
        }
        return reinterpret_cast<PyMethodDescrObject*>(found.get())->d_method->ml_meth;
    };
    state.socket_fileno = method_of_socket("fileno");
    state.socket_detach = method_of_socket("detach");
    state.loop_keyword = py::ref::steal(Py_BuildValue("(s)", "loop"));
    state.no_arguments = py::ref::steal(PyTuple_New(0));
    state.future_keywords = py::ref::steal(PyDict_New());
    if (PyDict_SetItemString(state.future_keywords.get(), "loop", Py_None) != 0) {
        throw py::error_set{};
    }
}

int execute(PyObject* module) noexcept {
    const py::ref done = py::ref::adopt(py::detail::guarded([&] {
        module_state& state = *::new (PyModule_GetState(module)) module_state;
        look_up_names(state);
        look_up_asyncio(state);
        add_handle_types(module, state);
        add_loop_core_type(module, state);
        add_socket_transport_type(module, state);
        add_datagram_transport_type(module, state);
        add_pipe_transport_types(module, state);
        add_sock_operation_type(module, state);
        add_stream_types(module, state);
        add_tls_transport_type(module, state);
        add_way_type(module, state);
        for (const py::ref* type :
             {&state.loop_core_type, &state.handle_type, &state.timer_handle_type,
              &state.threadsafe_handle_type, &state.socket_transport_type, &state.datagram_transport_type,
              &state.read_pipe_transport_type, &state.write_pipe_transport_type, &state.sock_operation_type,
              &state.stream_operation_type, &state.stream_reader_type, &state.stream_writer_type,
              &state.tls_transport_type, &state.way_type}) {
            if (*type && PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type->get())) != 0) {
                throw py::error_set{};
            }
        }
        if (PyModule_AddStringConstant(module, "__version__", zloop::version) != 0) {
            throw py::error_set{};
        }
        namespace names = zloop::python::detail;
        const py::ref capsule =
            py::ref::steal(PyCapsule_New(&state.to_extensions, names::capsule_name, nullptr));
        if (PyModule_AddObjectRef(module, names::capsule_attribute, capsule.get()) != 0) {
            throw py::error_set{};
        }
        return py::none();
    }));
    return done ? 0 : -1;
}

int traverse(PyObject* module, visitproc visit, void* arg) {
    return module_state::owned::visit(state_of_module(module), visit, arg);
}

int clear(PyObject* module) {
    module_state& state = state_of_module(module);
    drop_free_handles(state);  // first: to be freed, an object needs its type
    drop_free_stream_operations(state);
    module_state::owned::clear(state);
    return 0;
}

void free_module(void* module) {
    clear(static_cast<PyObject*>(module));
    state_of_module(static_cast<PyObject*>(module)).~module_state();
}

PyObject* end_interpreter(PyObject* module, PyObject*) {
    module_state& state = state_of_module(module);
    state.ended_by = PyThread_get_thread_ident();
    // A loop that is in the middle of a turn gets the time to come to its end.
    for (int millisecond = 0; millisecond < 100 && state.awake > 0; ++millisecond) {
        Py_BEGIN_ALLOW_THREADS
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

zloop::python::detail::loop_below loop_below_of(const zloop::python::detail::core& self,
                                                PyObject* asyncio_loop) noexcept {
    const module_state& state = static_cast<const bridge&>(self).state;
    auto* const type = reinterpret_cast<PyTypeObject*>(state.loop_core_type.get());
    if (type == nullptr || !PyObject_TypeCheck(asyncio_loop, type)) {
        return {};
    }
    LoopCore& found = loop_core(asyncio_loop);
    if (!found.loop) {
        return {};
    }
    return {found.loop.get(), &*found.within};
}

PyObject* running_here(const zloop::python::detail::core& self) noexcept {
    LoopCore* const found = turning_here(static_cast<const bridge&>(self).state);
    return found != nullptr ? found->self() : nullptr;
}

PyObject* make_on_lent(const zloop::python::detail::core&, zloop::loop& lent) noexcept {
    return py::detail::guarded([&] { return make_on(lent); });
}

bool run_lent(const zloop::python::detail::core&, PyObject* asyncio_loop, bool (*is_over)(const void*),
              const void* what, zloop::nanoseconds limit) noexcept {
    return static_cast<bool>(py::ref::adopt(py::detail::guarded([&] {
        run_for_owner(loop_core(asyncio_loop), {is_over, what, limit});
        return py::none();
    })));
}

PyMethodDef functions[] = {
    {"_end_interpreter", end_interpreter, METH_NOARGS,
     "Called at exit: loops of daemon threads stay asleep."},
    {},
};

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(&execute)},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, nullptr},
};

}  // namespace

bridge::bridge(module_state& owner) noexcept
    : core{core::current,  zloop::python::detail::layout(),
           zloop::version, &loop_below_of,
           &running_here,  &make_on_lent,
           &run_lent},
      state(owner) {}

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    "_zloop",
    "zloop's C++ event loop behind asyncio's interface; zloop.Loop is what to use.",
    sizeof(module_state),
    functions,
    slots,
    traverse,
    clear,
    free_module,
};

}  // namespace zl

PyMODINIT_FUNC PyInit__zloop() { return PyModuleDef_Init(&zl::module_definition); }
