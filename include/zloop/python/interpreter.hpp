// zloop/python/interpreter.hpp: what an extension keeps for each interpreter that it works in: names and
// functions of asyncio, its type of awaitables, the way to zloop's package.
//
// Made when it is asked for first, kept in the interpreter's own dict, gone with it. No static PyObject*: a
// process may have several interpreters, one after the other or at the same time. Each extension has its own.
//
// Nothing in it is for users.
#pragma once

#include <zloop/python/object.hpp>

#include <atomic>
#include <cstdint>
#include <cstdio>

#include <zloop/python/capsule.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

/// How many interpreters have gone: the numbers of a new runtime begin again.
inline constinit std::atomic<unsigned> interpreters_gone = 0;

class interpreter {
public:
    /// That of the calling thread, which has the GIL.
    /// Fails: throws what importing asyncio raises.
    static interpreter& here() {
        static constinit thread_local struct {
            std::int64_t number = -1;
            unsigned gone = 0;
            interpreter* found = nullptr;
        } last;
        PyInterpreterState* const running = PyInterpreterState_Get();
        const std::int64_t number = PyInterpreterState_GetID(running);
        const unsigned gone = interpreters_gone.load(std::memory_order_relaxed);
        if (number != last.number || gone != last.gone) [[unlikely]] {
            last.found = &find(running);
            last.number = number;
            last.gone = gone;
        }
        return *last.found;
    }

    interpreter(const interpreter&) = delete;
    interpreter& operator=(const interpreter&) = delete;

    /// What the package says of itself; null: it is not imported, or not installed.
    /// Fails: throws an ImportError where it was built from other headers.
    const core* package() {
        if (core_ == nullptr) {
            PyObject* const modules = PySys_GetObject("modules");  // borrowed
            const object module =
                object::borrow(modules != nullptr ? PyDict_GetItemString(modules, "zloop._zloop") : nullptr);
            if (module && module.get() != Py_None) {
                check(module);
            }
        }
        return core_;
    }

    /// Imports the package, so that what is wrong with it is told now.
    /// Fails: as package() does. One that is not installed is no failure: other loops serve as well.
    const core* import_package() {
        if (core_ == nullptr) {
            const object module = object::steal(PyImport_ImportModule("zloop._zloop"));
            if (!module) {
                if (PyErr_ExceptionMatches(PyExc_ModuleNotFoundError) == 0) {
                    throw_error_set(cancelled_error.get());
                }
                PyErr_Clear();
            }
        }
        return package();
    }

    /// The loop that runs in this thread; null: none.
    object running() const {
        if (core_ != nullptr) {
            if (PyObject* const found = core_->running(*core_)) {
                return object::borrow(found);
            }
        }
        object found = checked(call(get_running_loop.get()), cancelled_error.get());
        return found.get() != Py_None ? std::move(found) : object();
    }

    /// Keeps it, for what is freed when the interpreter has let go of everything else.
    object alive() const noexcept { return object::borrow(owner_); }

    bool is_known_to_pybind11 = false;  // its translators know our exceptions
    object get_running_loop, ensure_future, current_task;
    object cancelled_error, invalid_state_error;
    object empty_context;                                // for callbacks that are nobody's
    object awaitable_type, iteration_type, memory_type;  // made when they are needed
    object str_add_done_callback, str_add_reader, str_cancel, str_cancelling, str_call_later, str_call_soon,
        str_close, str_create_future, str_former_close, str_future_blocking, str_guest, str_is_running,
        str_remove_reader, str_result, str_set_result, str_task, str_throw;
    object context_keyword, loop_keyword;

private:
    interpreter() {
        const auto get = [](const char* module, const char* name) {
            const object from = checked(PyImport_ImportModule(module));
            return checked(PyObject_GetAttrString(from.get(), name));
        };
        const auto intern = [](object& into, const char* name) {
            into = checked(PyUnicode_InternFromString(name));
        };
        get_running_loop = get("asyncio", "_get_running_loop");
        ensure_future = get("asyncio", "ensure_future");
        current_task = get("asyncio", "current_task");
        cancelled_error = get("asyncio", "CancelledError");
        invalid_state_error = get("asyncio", "InvalidStateError");
        empty_context = checked(PyContext_New());
        intern(str_add_done_callback, "add_done_callback");
        intern(str_add_reader, "add_reader");
        intern(str_cancel, "cancel");
        intern(str_cancelling, "cancelling");
        intern(str_call_later, "call_later");
        intern(str_call_soon, "call_soon");
        intern(str_close, "close");
        intern(str_create_future, "create_future");
        intern(str_future_blocking, "_asyncio_future_blocking");
        intern(str_is_running, "is_running");
        intern(str_remove_reader, "remove_reader");
        intern(str_result, "result");
        intern(str_set_result, "set_result");
        intern(str_task, "task");
        intern(str_throw, "throw");
        char name[48];
        std::snprintf(name, sizeof name, "_zloop_guest_%p", static_cast<const void*>(&interpreters_gone));
        intern(str_guest, name);
        std::snprintf(name, sizeof name, "_zloop_close_%p", static_cast<const void*>(&interpreters_gone));
        intern(str_former_close, name);
        context_keyword = checked(Py_BuildValue("(s)", "context"));
        loop_keyword = checked(Py_BuildValue("(s)", "loop"));
    }

    static interpreter& find(PyInterpreterState* running) {
        PyObject* const dict = PyInterpreterState_GetDict(running);  // borrowed
        if (dict == nullptr) {
            throw std::bad_alloc();
        }
        char name[48];
        std::snprintf(name, sizeof name, "zloop.python.%p", static_cast<const void*>(&interpreters_gone));
        const object key = checked(PyUnicode_FromString(name));
        if (PyObject* const kept = PyDict_GetItemWithError(dict, key.get())) {
            return *static_cast<interpreter*>(PyCapsule_GetPointer(kept, nullptr));
        }
        auto* const made = new interpreter;
        const object capsule = object::steal(PyCapsule_New(made, nullptr, [](PyObject* gone) {
            delete static_cast<interpreter*>(PyCapsule_GetPointer(gone, nullptr));
            interpreters_gone.fetch_add(1, std::memory_order_relaxed);
        }));
        if (!capsule) {
            delete made;
            throw_error_set(PyExc_GeneratorExit);
        }
        made->owner_ = capsule.get();
        if (PyDict_SetItem(dict, key.get(), capsule.get()) != 0) {
            throw_error_set(PyExc_GeneratorExit);
        }
        return *made;
    }

    void check(const object& module) {
        const object capsule = object::steal(PyObject_GetAttrString(module.get(), capsule_attribute));
        if (!capsule) {
            PyErr_Clear();
            PyErr_SetString(PyExc_ImportError,
                            "this extension needs a newer zloop: this one has no bridge to extensions");
            throw_error_set(cancelled_error.get());
        }
        const auto* const found = static_cast<const core*>(PyCapsule_GetPointer(capsule.get(), capsule_name));
        if (found == nullptr) {
            throw_error_set(cancelled_error.get());
        }
        if (found->version != core::current || found->layout != layout()) {
            const bool same = std::string(found->zloop_version) == ZLOOP_VERSION;
            PyErr_Format(
                PyExc_ImportError,
                "this extension was compiled with the headers of zloop %s, and the package is zloop %s%s: "
                "build the extension anew with the headers of zloop.get_include(), or install zloop %s",
                ZLOOP_VERSION, found->zloop_version,
                same ? ", built otherwise (bridge or memory layout differ)" : "", ZLOOP_VERSION);
            throw_error_set(cancelled_error.get());
        }
        package_ = module;
        core_ = found;
    }

    PyObject* owner_ = nullptr;  // borrowed: the capsule that has us
    object package_;             // keeps what `core_` is in
    const core* core_ = nullptr;
};

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python
