// zloop/python/object.hpp: a Python object that C++ owns, and exceptions that cross between the two
// languages.
//
// A Python exception travels through C++ as itself, in a holder, and is also what C++ takes it for: an
// OSError is a std::system_error with its errno, a CancelledError one with operation_canceled, a MemoryError
// is a std::bad_alloc. On the way back the holder gives the very object again; a C++ exception becomes what
// Python calls the same.
//
// All of it with the GIL, in the interpreter that the objects are of.
#pragma once

#include <zloop/config.hpp>

#include <Python.h>

#include <cerrno>
#include <exception>
#include <new>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include <zloop/error.hpp>

/// What works without a binding library: python.hpp.
namespace zloop::python {

/// A Python object that C++ owns; or none.
///
/// Owns:    one reference.
/// Thread:  one that has the GIL.
/// Example: examples/extension/first/first.cpp
class object {
public:
    /// None at all, not Python's None.
    object() noexcept = default;
    /// The object of `other`, which has none then.
    object(object&& other) noexcept : owned_(std::exchange(other.owned_, nullptr)) {}
    /// One more reference.
    object(const object& other) noexcept : owned_(Py_XNewRef(other.owned_)) {}
    /// Gives its own back, last of all: that may call anything.
    object& operator=(object other) noexcept {
        std::swap(owned_, other.owned_);
        return *this;
    }
    /// Gives the reference back.
    ~object() { Py_XDECREF(owned_); }

    /// Takes over a reference that the caller owns; null: none.
    static object steal(PyObject* owned) noexcept {
        object made;
        made.owned_ = owned;
        return made;
    }
    /// Makes a reference of its own.
    static object borrow(PyObject* shared) noexcept { return steal(Py_XNewRef(shared)); }

    /// Whether there is one.
    explicit operator bool() const noexcept { return owned_ != nullptr; }
    /// The object, which stays ours.
    PyObject* get() const noexcept { return owned_; }
    /// The object, which is the caller's now.
    [[nodiscard]] PyObject* release() noexcept { return std::exchange(owned_, nullptr); }
    /// Gives the reference back.
    void reset() noexcept { Py_XDECREF(std::exchange(owned_, nullptr)); }

private:
    PyObject* owned_ = nullptr;
};

/// A Python exception on its way through C++: to be caught by reference, beside the standard class that it
/// is.
///
/// Owns:    the exception object, with its traceback.
/// Thread:  one that has the GIL, also for its end.
/// Example: examples/extension/first/first.cpp
class raised {
public:
    /// The exception object.
    const object& instance() const noexcept { return exception_; }
    /// Whether it is an instance of `type`, such as PyExc_KeyError.
    bool matches(PyObject* type) const noexcept {
        return PyErr_GivenExceptionMatches(exception_.get(), type) != 0;
    }

protected:
    /// Holds `held`.
    explicit raised(object held) noexcept : exception_(std::move(held)) {}
    /// A copy of the reference.
    raised(const raised&) noexcept = default;
    raised& operator=(const raised&) noexcept = default;
    /// Not by its base.
    ~raised() = default;

private:
    object exception_;
};

/// A Python exception that C++ has no class of its own for.
/// Example: examples/extension/first/first.cpp
class error : public raised, public std::exception {
public:
    /// Holds `held`.
    explicit error(object held) noexcept : raised(std::move(held)) {}
    /// The name of its class.
    const char* what() const noexcept override { return Py_TYPE(instance().get())->tp_name; }
};

#pragma GCC visibility push(hidden)
namespace detail {

class os_error final : public raised, public std::system_error {
public:
    os_error(object held, std::error_code code) : raised(std::move(held)), std::system_error(code) {}
};

class memory_error final : public raised, public std::bad_alloc {
public:
    explicit memory_error(object held) noexcept : raised(std::move(held)) {}
};

/// Takes the error out of Python's indicator, as an object with its traceback.
inline object take_error() noexcept {
#if PY_VERSION_HEX >= 0x030C0000
    return object::steal(PyErr_GetRaisedException());
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != nullptr) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return object::steal(value);
#endif
}

/// Raises an exception that take_error() gave, with the traceback that it has.
inline void restore_error(object exception) noexcept {
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception.release());
#else
    PyObject* const value = exception.release();
    PyErr_Restore(Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(value))), value,
                  PyException_GetTraceback(value));
#endif
}

/// The error indicator as it was, whatever is called meanwhile.
class error_kept {
public:
    error_kept() noexcept : kept_(PyErr_Occurred() != nullptr ? take_error() : object()) {}
    error_kept(const error_kept&) = delete;
    error_kept& operator=(const error_kept&) = delete;
    ~error_kept() {
        if (kept_) {
            restore_error(std::move(kept_));
        }
    }

private:
    object kept_;
};

/// The errno of an OSError, or 0.
inline int number_of(PyObject* exception) noexcept {
    const object number = object::steal(PyObject_GetAttrString(exception, "errno"));
    const long value = number && PyLong_Check(number.get()) ? PyLong_AsLong(number.get()) : 0;
    if (PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        return 0;
    }
    return static_cast<int>(value);
}

/// Throws `exception` as what C++ takes it for.
[[noreturn]] inline void throw_raised(object exception, PyObject* cancelled_error) {
    PyObject* const what = exception.get();
    if (PyErr_GivenExceptionMatches(what, cancelled_error) != 0) {
        throw os_error(std::move(exception), std::make_error_code(std::errc::operation_canceled));
    }
    if (PyErr_GivenExceptionMatches(what, PyExc_MemoryError) != 0) {
        throw memory_error(std::move(exception));
    }
    if (PyErr_GivenExceptionMatches(what, PyExc_OSError) != 0) {
        int number = number_of(what);
        if (number == 0 && PyErr_GivenExceptionMatches(what, PyExc_TimeoutError) != 0) {
            number = ETIMEDOUT;  // asyncio's has none
        }
        if (number != 0) {
            throw os_error(std::move(exception), system_error_code(number));
        }
    }
    throw error(std::move(exception));
}

/// Throws what is in the error indicator.
[[noreturn]] inline void throw_error_set(PyObject* cancelled_error) {
    throw_raised(take_error(), cancelled_error);
}

inline object checked(PyObject* owned, PyObject* cancelled_error = PyExc_GeneratorExit) {
    if (owned == nullptr) {
        throw_error_set(cancelled_error);
    }
    return object::steal(owned);
}

/// `callable(values…)`; null with the error set when it raises.
template <class... Values>
PyObject* call(PyObject* callable, Values... values) noexcept {
    PyObject* arguments[] = {nullptr, values...};
    return PyObject_Vectorcall(callable, arguments + 1, sizeof...(values) | PY_VECTORCALL_ARGUMENTS_OFFSET,
                               nullptr);
}

/// `self.name(values…)`; null with the error set when it raises.
template <class... Values>
PyObject* call_method(PyObject* self, PyObject* name, Values... values) noexcept {
    PyObject* arguments[] = {nullptr, self, values...};
    return PyObject_VectorcallMethod(name, arguments + 1,
                                     (1 + sizeof...(values)) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
}

/// Raises what Python calls `code`: OSError or the subclass that belongs to its errno; CancelledError;
/// socket.gaierror; EOFError for a stream that ended inside of what was asked for.
inline void set_error_code(const std::error_code& code, const char* words,
                           PyObject* cancelled_error) noexcept {
    if (code == std::errc::operation_canceled) {
        PyErr_SetNone(cancelled_error);
    } else if (code.category() == std::system_category() || code.category() == std::generic_category()) {
        // By a call, which chooses the subclass.
        const object exception =
            object::steal(PyObject_CallFunction(PyExc_OSError, "is", code.value(), words));
        if (exception) {
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.get())), exception.get());
        }
    } else if (std::string_view(code.category().name()) == "getaddrinfo") {  // resolve_category()
        const object module = object::steal(PyImport_ImportModule("socket"));
        const object type =
            object::steal(module ? PyObject_GetAttrString(module.get(), "gaierror") : nullptr);
        const object exception =
            object::steal(type ? PyObject_CallFunction(type.get(), "is", code.value(), words) : nullptr);
        if (exception) {
            PyErr_SetObject(type.get(), exception.get());
        }
    } else if (code == errc::end_of_stream) {
        PyErr_SetString(PyExc_EOFError, words);
    } else if (code == errc::limit_exceeded) {
        PyErr_SetString(PyExc_ValueError, words);
    } else {
        PyErr_SetString(PyExc_RuntimeError, words);
    }
}

/// Raises in Python what C++ has thrown.
inline void set_error(const std::exception_ptr& failure, PyObject* cancelled_error) noexcept {
    try {
        std::rethrow_exception(failure);
    } catch (const raised& held) {
        restore_error(held.instance());
    } catch (const std::system_error& thrown) {
        set_error_code(thrown.code(), thrown.what(), cancelled_error);
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::out_of_range& thrown) {
        PyErr_SetString(PyExc_IndexError, thrown.what());
    } catch (const std::invalid_argument& thrown) {
        PyErr_SetString(PyExc_ValueError, thrown.what());
    } catch (const std::domain_error& thrown) {
        PyErr_SetString(PyExc_ValueError, thrown.what());
    } catch (const std::length_error& thrown) {
        PyErr_SetString(PyExc_ValueError, thrown.what());
    } catch (const std::range_error& thrown) {
        PyErr_SetString(PyExc_ValueError, thrown.what());
    } catch (const std::overflow_error& thrown) {
        PyErr_SetString(PyExc_OverflowError, thrown.what());
    } catch (const std::exception& thrown) {
        PyErr_SetString(PyExc_RuntimeError, thrown.what());
    } catch (...) {
        PyErr_SetString(PyExc_RuntimeError, "a C++ exception that is no std::exception");
    }
}

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python
