// module/py.hpp: CPython's C API, as far as this module needs it, with owners and exceptions.
//
// References are held by `ref`; a Python error travels as one C++ exception, `error_set`, and becomes
// NULL in one place, the method wrappers below. A heap type is a struct with a table of rows; its
// owned references are named once, and traverse, clear and dealloc come from that list.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <cxxabi.h>
#include <array>
#include <cstddef>
#include <new>
#include <stdexcept>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>

#include <unistd.h>

#include <zloop/python/object.hpp>

namespace py {

/// What a heap type's struct begins with. The struct has no virtual functions: a vtable would go first.
struct object {
    PyObject_HEAD

    PyObject* self() noexcept { return reinterpret_cast<PyObject*>(this); }
};

/// Thrown when Python's error indicator is set.
struct error_set {};

#if PY_VERSION_HEX < 0x030E0000 && defined(__GLIBCXX__)
/// `body()`, which may take the GIL. Where the interpreter is ending, CPython before 3.14 ends a daemon
/// thread that takes it by pthread_exit(), which unwinds the stack. Frames of ours are no place for that:
/// they are noexcept, or would give references back without the GIL. So the thread stays right here, for
/// ever, as 3.14 itself has it. Costs nothing until then.
template <class F>
auto staying_at_exit(F&& body) {
    try {
        return body();
    } catch (abi::__forced_unwind&) {
        for (;;) {
            ::pause();
        }
    }
}
#else
template <class F>
auto staying_at_exit(F&& body) {
    return body();
}
#endif

/// Lets go of the GIL, and takes it again at the end of the scope.
class without_gil {
public:
    without_gil() noexcept : thread_(PyEval_SaveThread()) {}
    without_gil(const without_gil&) = delete;
    without_gil& operator=(const without_gil&) = delete;
    ~without_gil() { take_again(thread_); }

    static void take_again(PyThreadState* thread) noexcept {
        staying_at_exit([thread] { PyEval_RestoreThread(thread); });
    }

private:
    PyThreadState* thread_;
};

/// An owned reference, or none.
class ref {
public:
    ref() noexcept = default;
    ref(std::nullptr_t) noexcept {}
    ref(ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    ref(const ref& other) noexcept : object_(Py_XNewRef(other.object_)) {}
    ref& operator=(ref other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~ref() { Py_XDECREF(object_); }

    /// Takes over a new reference. Throws when it is null: whoever made it has set the error.
    static ref steal(PyObject* object) {
        if (object == nullptr) {
            throw error_set{};
        }
        return adopt(object);
    }
    /// As steal(), but null stays null.
    static ref adopt(PyObject* object) noexcept {
        ref made;
        made.object_ = object;
        return made;
    }
    /// Adds a reference.
    static ref borrow(PyObject* object) noexcept { return adopt(Py_XNewRef(object)); }

    explicit operator bool() const noexcept { return object_ != nullptr; }
    PyObject* get() const noexcept { return object_; }
    PyObject* release() noexcept { return std::exchange(object_, nullptr); }
    void reset() noexcept { Py_XDECREF(std::exchange(object_, nullptr)); }

private:
    PyObject* object_ = nullptr;
};

inline ref none() noexcept { return ref::borrow(Py_None); }
inline ref boolean(bool value) noexcept { return ref::borrow(value ? Py_True : Py_False); }
inline ref integer(long long value) { return ref::steal(PyLong_FromLongLong(value)); }
inline ref text(const char* value) { return ref::steal(PyUnicode_FromString(value)); }

[[noreturn]] inline void raise(PyObject* type, const char* message) {
    PyErr_SetString(type, message);
    throw error_set{};
}

template <class... Values>
[[noreturn]] inline void raise_format(PyObject* type, const char* format, Values... values) {
    PyErr_Format(type, format, values...);
    throw error_set{};
}

/// OSError, or the subclass that belongs to the errno.
[[noreturn]] inline void raise_os_error(std::error_code error) {
    errno = error.value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw error_set{};
}

inline ref os_error(int number) noexcept {
    errno = number;
    PyErr_SetFromErrno(PyExc_OSError);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return ref::adopt(value);
}

/// Takes the error out of the indicator, as an exception object with its traceback.
inline ref take_error() noexcept { return ref::adopt(zloop::python::detail::take_error().release()); }

/// Puts an exception that take_error() gave back into the indicator.
inline void restore_error(ref error) noexcept {
    zloop::python::detail::restore_error(zloop::python::object::steal(error.release()));
}

using zloop::python::detail::error_kept;

/// Whether the pending error has to leave run_forever() at once.
inline bool error_is_fatal() noexcept {
    return PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

inline ref import(const char* module) { return ref::steal(PyImport_ImportModule(module)); }
inline ref attribute(PyObject* object, const char* name) {
    return ref::steal(PyObject_GetAttrString(object, name));
}

/// `callable(values...)`; null with the error set when it raises.
template <class... Values>
ref try_call(PyObject* callable, Values... values) noexcept {
    PyObject* arguments[] = {nullptr, values...};
    return ref::adopt(staying_at_exit([&] {
        return PyObject_Vectorcall(callable, arguments + 1,
                                   sizeof...(values) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
    }));
}

/// `self.name(values...)`; null with the error set when it raises.
template <class... Values>
ref try_call_method(PyObject* self, PyObject* name, Values... values) noexcept {
    PyObject* arguments[] = {nullptr, self, values...};
    return ref::adopt(staying_at_exit([&] {
        return PyObject_VectorcallMethod(name, arguments + 1,
                                         (1 + sizeof...(values)) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
    }));
}

inline ref checked(ref result) {
    if (!result) {
        throw error_set{};
    }
    return result;
}

template <class... Values>
ref call(PyObject* callable, Values... values) {
    return checked(try_call(callable, values...));
}
template <class... Values>
ref call_method(PyObject* self, PyObject* name, Values... values) {
    return checked(try_call_method(self, name, values...));
}

inline bool truth(PyObject* object) {
    const int value = PyObject_IsTrue(object);
    if (value < 0) {
        throw error_set{};
    }
    return value != 0;
}

/// Checks that the slot `name` of a class with __slots__ lies where we believe it to. Throws ImportError.
inline void check_slot(PyObject* type, const char* name, std::size_t offset) {
    const ref slot = attribute(type, name);
    if (Py_TYPE(slot.get()) != &PyMemberDescr_Type ||
        reinterpret_cast<PyMemberDescrObject*>(slot.get())->d_member->offset !=
            static_cast<Py_ssize_t>(offset)) {
        raise_format(PyExc_ImportError, "zloop does not know this asyncio: %s lies elsewhere", name);
    }
}

/// A read-only view of an object's buffer.
class buffer {
public:
    explicit buffer(PyObject* object, int flags = PyBUF_SIMPLE) {
        if (PyObject_GetBuffer(object, &view_, flags) != 0) {
            throw error_set{};
        }
    }
    buffer(const buffer&) = delete;
    buffer& operator=(const buffer&) = delete;
    ~buffer() { PyBuffer_Release(&view_); }

    char* data() const noexcept { return static_cast<char*>(view_.buf); }
    std::size_t size() const noexcept { return static_cast<std::size_t>(view_.len); }

private:
    Py_buffer view_;
};

/// The arguments of a METH_FASTCALL | METH_KEYWORDS method. Borrowed.
struct arguments {
    PyObject* const* values;
    Py_ssize_t count;
    PyObject* keywords;  ///< tuple of names or null; their values follow the positional ones

    Py_ssize_t keyword_count() const noexcept { return keywords != nullptr ? PyTuple_GET_SIZE(keywords) : 0; }
    PyObject* keyword_name(Py_ssize_t index) const noexcept { return PyTuple_GET_ITEM(keywords, index); }
    PyObject* keyword_value(Py_ssize_t index) const noexcept { return values[count + index]; }
};

/// The argument of a function of one parameter, by position or by name; refuses in Python's words.
/// `function` is asyncio's qualified name of it.
inline PyObject* only_argument(const arguments& args, const char* function, const char* parameter) {
    const Py_ssize_t keywords = args.keyword_count();
    if (args.count == 1 && keywords == 0) {
        return args.values[0];
    }
    if (args.count > 1) {
        raise_format(PyExc_TypeError, "%s() takes 2 positional arguments but %zd were given", function,
                     args.count + 1);
    }
    for (Py_ssize_t index = 0; index < keywords; ++index) {
        if (PyUnicode_CompareWithASCIIString(args.keyword_name(index), parameter) != 0) {
            raise_format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                         args.keyword_name(index));
        }
        if (args.count == 1) {
            raise_format(PyExc_TypeError, "%s() got multiple values for argument '%s'", function, parameter);
        }
    }
    if (keywords == 0) {
        raise_format(PyExc_TypeError, "%s() missing 1 required positional argument: '%s'", function,
                     parameter);
    }
    return args.keyword_value(0);
}

/// The arguments of a function of two parameters, the second None by default; as only_argument().
inline void two_arguments(const arguments& args, const char* function, std::array<const char*, 2> parameters,
                          PyObject*& first, PyObject*& second) {
    if (args.count > 2) {
        raise_format(PyExc_TypeError, "%s() takes from 2 to 3 positional arguments but %zd were given",
                     function, args.count + 1);
    }
    std::array<PyObject*, 2> found{};
    for (Py_ssize_t index = 0; index < args.count; ++index) {
        found[static_cast<std::size_t>(index)] = args.values[index];
    }
    for (Py_ssize_t index = 0; index < args.keyword_count(); ++index) {
        PyObject* const name = args.keyword_name(index);
        const std::size_t which = PyUnicode_CompareWithASCIIString(name, parameters[0]) == 0 ? 0 : 1;
        if (which == 1 && PyUnicode_CompareWithASCIIString(name, parameters[1]) != 0) {
            raise_format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
        }
        if (found[which] != nullptr) {
            raise_format(PyExc_TypeError, "%s() got multiple values for argument '%s'", function,
                         parameters[which]);
        }
        found[which] = args.keyword_value(index);
    }
    if (found[0] == nullptr) {
        raise_format(PyExc_TypeError, "%s() missing 1 required positional argument: '%s'", function,
                     parameters[0]);
    }
    first = found[0];
    second = found[1] != nullptr ? found[1] : Py_None;
}

namespace detail {

/// The one place where C++ exceptions become Python's NULL.
template <class F>
PyObject* guarded(F&& body) noexcept {
    try {
        return staying_at_exit(std::forward<F>(body)).release();
    } catch (const error_set&) {
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::system_error& error) {
        if (error.code().category() == std::system_category() ||
            error.code().category() == std::generic_category()) {
            errno = error.code().value();
            PyErr_SetFromErrno(PyExc_OSError);
        } else {
            PyErr_SetString(PyExc_RuntimeError, error.what());
        }
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

template <auto Member>
struct wrap;

template <class T, ref (T::*Member)()>
struct wrap<Member> {
    static constexpr int flags = METH_NOARGS;
    static PyObject* function(PyObject* self, PyObject*) noexcept {
        return guarded([&] { return (reinterpret_cast<T*>(self)->*Member)(); });
    }
    static PyObject* get(PyObject* self, void*) noexcept { return function(self, nullptr); }
};

template <class T, ref (T::*Member)(PyObject*)>
struct wrap<Member> {
    static constexpr int flags = METH_O;
    static PyObject* function(PyObject* self, PyObject* value) noexcept {
        return guarded([&] { return (reinterpret_cast<T*>(self)->*Member)(value); });
    }
};

template <class T, ref (T::*Member)(const arguments&)>
struct wrap<Member> {
    static constexpr int flags = METH_FASTCALL | METH_KEYWORDS;
    static PyObject* function(PyObject* self, PyObject* const* values, Py_ssize_t count,
                              PyObject* keywords) noexcept {
        return guarded([&] { return (reinterpret_cast<T*>(self)->*Member)({values, count, keywords}); });
    }
};

template <class T, void (T::*Member)(PyObject*)>
struct wrap<Member> {
    static int set(PyObject* self, PyObject* value, void*) noexcept {
        PyObject* done = guarded([&] {
            if (value == nullptr) {
                raise(PyExc_AttributeError, "can't delete attribute");
            }
            (reinterpret_cast<T*>(self)->*Member)(value);
            return none();
        });
        Py_XDECREF(done);
        return done != nullptr ? 0 : -1;
    }
};

}  // namespace detail

/// Runs what may throw where nothing can be thrown. False: the error indicator is set.
template <class F>
bool attempt(F&& body) noexcept {
    PyObject* const done = detail::guarded([&] {
        body();
        return none();
    });
    Py_XDECREF(done);
    return done != nullptr;
}

/// A type's tp_dealloc is `deallocated<destroy>`, where objects of the type may be links of a chain: the
/// stack holds, however long it is. `destroy` finds the object untracked.
template <void (*Destroy)(PyObject*)>
void deallocated(PyObject* object) noexcept {
    PyObject_GC_UnTrack(object);
    Py_TRASHCAN_BEGIN(object, &deallocated<Destroy>) Destroy(object);
    Py_TRASHCAN_END
}

/// tp_finalize, from such a `destroy`. False: somebody has the object again.
inline bool finalized(PyObject* object) noexcept {
    PyObject_GC_Track(object);  // the finalizer may let the collector run
    if (PyObject_CallFinalizerFromDealloc(object) != 0) {
        return false;
    }
    PyObject_GC_UnTrack(object);
    return true;
}

/// A method row. The member function's parameters choose the calling convention: none, one object, or
/// `const arguments&`.
template <auto Member>
PyMethodDef method(const char* name, const char* doc) noexcept {
    using wrapper = detail::wrap<Member>;
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&wrapper::function)),
            wrapper::flags, doc};
}

/// A property row, read-only or not.
template <auto Getter>
PyGetSetDef property(const char* name, const char* doc) noexcept {
    return {name, &detail::wrap<Getter>::get, nullptr, doc, nullptr};
}
template <auto Getter, auto Setter>
PyGetSetDef property(const char* name, const char* doc) noexcept {
    return {name, &detail::wrap<Getter>::get, &detail::wrap<Setter>::set, doc, nullptr};
}

/// The owned references of T: `using owned = py::owned<&T::first, &T::second>;`.
template <auto... Members>
struct owned {
    template <class T>
    static int visit(T& self, visitproc visit, void* arg) {
        int stopped = 0;
        static_cast<void>(((stopped = visit_one(self.*Members, visit, arg)) || ...));
        return stopped;
    }
    template <class T>
    static void clear(T& self) noexcept {
        ((self.*Members).reset(), ...);
    }

private:
    static int visit_one(const ref& each, visitproc visit, void* arg) {
        Py_VISIT(each.get());
        return 0;
    }
    template <class Part>  // that names its own
    static int visit_one(const Part& each, visitproc visit, void* arg) {
        return each.visit(visit, arg);
    }
};

}  // namespace py
