// values.hpp: between Python and RESP: arguments in, replies out. With client.cpp all that knows Python here.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zloop/python/buffer.hpp>

#include "client.hpp"

namespace resp {

namespace py = pybind11;

/// A string literal that a type can have in its name.
template <std::size_t Size>
struct literal {
    consteval literal(const char (&given)[Size]) { std::copy_n(given, Size, text); }  // NOLINT: as is
    char text[Size];
};

/// A reply as a function gives it, and what Python's annotations say of that.
template <literal Annotation>
struct shaped {
    reply value;
};
/// Whether the server has done it: an OK or a number that is not 0, against a null or a 0.
struct truth {
    reply value;
};
/// Several replies, errors among them.
struct replies {
    std::vector<reply> values;
};
/// What EXEC has given: several, or None.
struct transacted {
    std::vector<reply> values;
};

/// The exceptions of resp.errors.
struct exceptions {
    zloop::python::object reply_error, protocol_error;
    static inline exceptions* of_module = nullptr;  // pybind11's modules are of one interpreter
};

/// One argument of a command, as it is called with: its bytes are looked at where they are.
class argument {
public:
    /// False: it is of a type that Redis has no bytes for.
    bool load(PyObject* from) {
        if (PyBytes_CheckExact(from)) {
            text_ = {PyBytes_AS_STRING(from), static_cast<std::size_t>(PyBytes_GET_SIZE(from))};
            return true;
        }
        if (PyUnicode_Check(from)) {
            return view(from);
        }
        if (PyBool_Check(from)) {
            return false;  // which of "1", "True" and "true"?
        }
        if (PyLong_Check(from) || PyFloat_Check(from)) {
            auto* const type = PyLong_Check(from) ? &PyLong_Type : &PyFloat_Type;  // not an enum's own words
            made_ = py::reinterpret_steal<py::object>(type->tp_repr(from));
            return view(made_.ptr());
        }
        if (PyObject_CheckBuffer(from)) {
            memory_ = zloop::python::buffer(from);
            text_ = zloop::as_text(memory_.bytes());
            return true;
        }
        return false;
    }

    std::string_view text() const { return text_; }

private:
    bool view(PyObject* text) {
        Py_ssize_t size = 0;
        const char* const found = text != nullptr ? PyUnicode_AsUTF8AndSize(text, &size) : nullptr;
        if (found == nullptr) {
            throw py::error_already_set();
        }
        text_ = {found, static_cast<std::size_t>(size)};
        return true;
    }

    std::string_view text_;
    py::object made_;
    zloop::python::buffer memory_;
};

namespace detail {

inline py::object text_of(std::string_view text) {
    return py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape"));
}
inline py::object bytes_of(std::string_view bytes) {
    return py::reinterpret_steal<py::object>(
        PyBytes_FromStringAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

inline py::object error_of(std::string_view text) {
    const py::object words = text_of(text);
    return py::reinterpret_steal<py::object>(
        words ? PyObject_CallOneArg(exceptions::of_module->reply_error.get(), words.ptr()) : nullptr);
}

inline py::object checked(py::object made) {
    if (!made) {
        throw py::error_already_set();
    }
    return made;
}

/// Makes Python's objects of the elements of a reply. A key of a dict and a member of a set have to be
/// hashable: in one an array is a tuple, a set a frozenset, a map a tuple of pairs.
class maker {
public:
    explicit maker(std::string_view whole) : from_(whole) {}

    py::object make(bool hashable = false) {
        for (;;) {
            const cursor::token next = from_.next();
            switch (next.of) {
                case kind::attribute:
                    for (std::uint64_t left = next.size * 2; left != 0; --left) {
                        reply::skip(from_);
                    }
                    continue;  // with what it is said of
                case kind::bytes: return checked(next.is_streamed ? chunks() : bytes_of(next.text));
                case kind::text: return checked(text_of(next.text));
                case kind::verbatim: return checked(text_of(next.text.substr(4)));
                case kind::error:
                case kind::long_error: return checked(error_of(next.text));
                case kind::number: return number(next.text);
                case kind::big_number: return big_number(next.text);
                case kind::real: return real(next.text);
                case kind::boolean: return py::bool_(next.text == "t");
                case kind::null: return py::none();
                case kind::array:
                case kind::push: return array(next, hashable);
                case kind::set: return set(next, hashable);
                case kind::map: return map(next, hashable);
            }
            throw protocol_error("a reply of an unknown type");
        }
    }

private:
    py::object chunks() {
        std::string joined;
        for (std::string_view next = from_.chunk(); !next.empty(); next = from_.chunk()) {
            joined += next;
        }
        return bytes_of(joined);
    }
    static py::object number(std::string_view text) {
        std::int64_t value = 0;
        read_number(text, value);
        return checked(py::reinterpret_steal<py::object>(PyLong_FromLongLong(value)));
    }
    static py::object big_number(std::string_view text) {
        return checked(
            py::reinterpret_steal<py::object>(PyLong_FromString(std::string(text).c_str(), nullptr, 10)));
    }
    static py::object real(std::string_view text) {
        const double value = PyOS_string_to_double(std::string(text).c_str(), nullptr, nullptr);
        if (value == -1.0 && PyErr_Occurred() != nullptr) {
            throw py::error_already_set();
        }
        return py::float_(value);
    }

    /// Calls `each` for every element, or pair.
    template <class F>
    void walk(const cursor::token& of, F each) {
        if (of.is_streamed) {
            while (!from_.ends()) {
                each();
            }
        } else {
            for (std::uint64_t left = of.size; left != 0; --left) {
                each();
            }
        }
    }

    py::object array(const cursor::token& of, bool hashable) {
        py::list made(of.size);
        Py_ssize_t index = 0;
        walk(of, [&] {
            py::object element = make(hashable);
            if (of.is_streamed) {
                made.append(element);
            } else {
                PyList_SET_ITEM(made.ptr(), index++, element.release().ptr());
            }
        });
        return hashable ? py::object(py::tuple(made)) : made;
    }
    py::object set(const cursor::token& of, bool hashable) {
        py::set made;
        walk(of, [&] { made.add(make(true)); });
        return hashable ? py::object(py::frozenset(made)) : made;
    }
    py::object map(const cursor::token& of, bool hashable) {
        py::dict made;
        walk(of, [&] {
            const py::object key = make(true);
            made[key] = make(hashable);
        });
        return hashable ? py::object(py::tuple(made.attr("items")())) : made;
    }

    cursor from_;
};

/// A reply that is alone: an error is raised. Null: it is set.
inline PyObject* raise_or(const reply& of, PyObject* (*make)(const reply&)) {
    if (of.is_error()) {
        const py::object error = error_of(of.text());
        if (error) {
            PyErr_SetObject(exceptions::of_module->reply_error.get(), error.ptr());
        }
        return nullptr;
    }
    return make(of);
}

inline py::object list_of(const std::vector<reply>& values) {
    py::list made(values.size());
    for (std::size_t index = 0; index < values.size(); ++index) {
        PyList_SET_ITEM(made.ptr(), static_cast<Py_ssize_t>(index),
                        maker(values[index].bytes()).make().release().ptr());
    }
    return made;
}

}  // namespace detail

/// What a reply is in Python; an error is an object as well.
inline py::object object_of(const reply& of) { return detail::maker(of.bytes()).make(); }

/// What the exceptions of C++ are in Python.
inline void translate(std::exception_ptr failure) {
    try {
        if (failure) {
            std::rethrow_exception(failure);
        }
    } catch (const reply_error& error) {
        PyErr_SetString(exceptions::of_module->reply_error.get(), error.what());
    } catch (const protocol_error& error) {
        PyErr_SetString(exceptions::of_module->protocol_error.get(), error.what());
    }
}

}  // namespace resp

namespace pybind11::detail {

template <>
struct type_caster<resp::argument> {
    static constexpr auto name = const_name("bytes | bytearray | memoryview | str | int | float");
    bool load(handle source, bool) { return value_.load(source.ptr()); }
    template <class>
    using cast_op_type = resp::argument;
    operator resp::argument() { return std::move(value_); }

private:
    resp::argument value_;
};

template <resp::literal Annotation>
struct type_caster<resp::shaped<Annotation>> {
    static constexpr auto name = const_name(Annotation.text);
    static handle cast(const resp::shaped<Annotation>& given, return_value_policy, handle) {
        return resp::detail::raise_or(
            given.value, [](const resp::reply& of) { return resp::object_of(of).release().ptr(); });
    }
};

template <>
struct type_caster<resp::truth> {
    static constexpr auto name = const_name("bool");
    static handle cast(const resp::truth& given, return_value_policy, handle) {
        return resp::detail::raise_or(given.value, [](const resp::reply& of) {
            const object made = resp::object_of(of);
            return PyBool_FromLong(PyObject_IsTrue(made.ptr()));
        });
    }
};

template <>
struct type_caster<resp::replies> {
    static constexpr auto name = const_name("list[typing.Any]");
    static handle cast(const resp::replies& given, return_value_policy, handle) {
        return resp::detail::list_of(given.values).release();
    }
};

template <>
struct type_caster<resp::transacted> {
    static constexpr auto name = const_name("list[typing.Any] | None");
    static handle cast(const resp::transacted& given, return_value_policy, handle) {
        const resp::reply& last = given.values.back();
        if (!last.is_error()) {
            return resp::object_of(last).release();
        }
        // Of what EXEC did not do the commands say why.
        for (const resp::reply& each : given.values) {
            if (each.is_error()) {
                return resp::detail::raise_or(each, nullptr);
            }
        }
        return {};
    }
};

}  // namespace pybind11::detail
