// Coroutines bound by nothing but Python's own API: what python.hpp is without a binding library.

#include <zloop/python.hpp>
#include <zloop/zloop.hpp>

namespace zp = zloop::python;
using zloop::task;

namespace {

task<long> ready(long value) { co_return value; }
task<long> turn(long value) {
    co_await zloop::next_turn();
    co_return value;
}
task<long> turns(long count) {
    for (long done = 0; done < count; ++done) {
        co_await zloop::next_turn();
    }
    co_return count;
}
task<zp::object> via(zp::object what) { co_return co_await zp::await(std::move(what)); }
task<void> nap(double length) {
    const auto wait = std::chrono::duration_cast<zloop::nanoseconds>(std::chrono::duration<double>(length));
    (co_await zloop::sleep_for(wait)).value();
}
/// What a coroutine of Python costs when C++ awaits it, call included.
task<void> repeat(zp::object function, long count) {
    for (long index = 0; index < count; ++index) {
        zp::object made = zp::object::steal(PyObject_CallNoArgs(function.get()));
        if (!made) {
            PyErr_Clear();
            throw std::runtime_error("the function has failed");
        }
        static_cast<void>(co_await zp::await(std::move(made)));
    }
}

PyObject* given(task<long> work) {
    try {
        return zp::awaitable(std::move(work), [](long value) { return PyLong_FromLong(value); }).release();
    } catch (const zp::raised& failure) {
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(failure.instance().get())),
                        failure.instance().get());
        return nullptr;
    }
}

template <task<long> (*Function)(long)>
PyObject* bound(PyObject*, PyObject* const* values, Py_ssize_t count) {
    const long value = count == 1 ? PyLong_AsLong(values[0]) : -1;
    return PyErr_Occurred() != nullptr ? nullptr : given(Function(value));
}
PyObject* bound_via(PyObject*, PyObject* what) {
    return zp::awaitable(via(zp::object::borrow(what))).release();
}
PyObject* bound_nap(PyObject*, PyObject* length) {
    return zp::awaitable(nap(PyFloat_AsDouble(length))).release();
}
PyObject* bound_repeat(PyObject*, PyObject* const* values, Py_ssize_t) {
    return zp::awaitable(repeat(zp::object::borrow(values[0]), PyLong_AsLong(values[1]))).release();
}

template <class F>
PyCFunction function(F* of) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(of));
}

PyMethodDef functions[] = {
    {"ready", function(&bound<&ready>), METH_FASTCALL, nullptr},
    {"turn", function(&bound<&turn>), METH_FASTCALL, nullptr},
    {"turns", function(&bound<&turns>), METH_FASTCALL, nullptr},
    {"via", &bound_via, METH_O, nullptr},
    {"nap", &bound_nap, METH_O, nullptr},
    {"repeat", function(&bound_repeat), METH_FASTCALL, nullptr},
    {},
};

int execute(PyObject*) {
    try {
        zp::import_zloop();
        return 0;
    } catch (const zp::raised& failure) {
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(failure.instance().get())),
                        failure.instance().get());
        return -1;
    }
}

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, reinterpret_cast<void*>(&execute)},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, nullptr},
};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "bare", nullptr, 0, functions, slots, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit_bare() { return PyModuleDef_Init(&definition); }
