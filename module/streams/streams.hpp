// module/streams/streams.hpp: asyncio's streams, without their Python.
//
//     class StreamReader(asyncio.StreamReader):
//         def read(self, n=-1): ...      # and its sisters
//     class StreamWriter(asyncio.StreamWriter):
//         def write(self, data): ...
//         def drain(self): ...
//
// Programs make streams by asyncio's functions. A transport of ours that gets asyncio's own
// StreamReaderProtocol gives its reader, and a server's writer, these classes (adoption.cpp), and puts what
// comes into the reader's buffer itself (feeding.cpp). Their methods return awaitables of ours
// (operation.hpp).
//
// All that streams know stays where asyncio has it, in their dicts: its code, programs and tests read it, and
// change it. Ours do what asyncio's methods do as long as nothing goes wrong; whatever is not as made, or
// would be an error, takes asyncio's way from the beginning, and has its words.
#pragma once

#include <algorithm>
#include <array>

#include "../loop_state.hpp"

namespace zl {

/// The attributes of an instance that keeps them in its dict, and whose class has none of these names.
class attributes {
public:
    /// Throws.
    explicit attributes(PyObject* object) : dict_(py::ref::steal(PyObject_GenericGetDict(object, nullptr))) {}

    /// Borrowed; null where there is none. Throws.
    PyObject* get(const py::ref& name) const {
        PyObject* const found = PyDict_GetItemWithError(dict_.get(), name.get());
        if (found == nullptr && PyErr_Occurred()) {
            throw py::error_set{};
        }
        return found;
    }

    /// The same, where the place among the attributes is known: a fourth of a look-up.
    PyObject* get(const py::ref& name, Py_ssize_t place) const {
        PyObject *key, *value;
        return PyDict_Next(dict_.get(), &place, &key, &value) != 0 && key == name.get() ? value : get(name);
    }

    /// Whether a method of that name would not be its class's. Throws.
    bool shadows(const py::ref& name) const { return get(name) != nullptr; }

    /// Whether none of `methods` is among them, which would not be their class's. `count` is how many
    /// attributes the class itself gives: where there are no others, it is a comparison. Throws.
    template <std::size_t Methods>
    bool shadow_none(const std::array<py::ref, Methods>& methods, std::size_t count) const {
        return PyDict_GET_SIZE(dict_.get()) == static_cast<Py_ssize_t>(count) ||
               std::none_of(methods.begin(), methods.end(),
                            [this](const py::ref& method) { return shadows(method); });
    }

    /// Throws.
    void set(const py::ref& name, PyObject* value) const {
        if (PyDict_SetItem(dict_.get(), name.get(), value) != 0) {
            throw py::error_set{};
        }
    }

private:
    py::ref dict_;
};

/// The attributes of a StreamReader.
class reader_attributes : public attributes {
public:
    /// Throws.
    reader_attributes(const module_state& state, PyObject* reader)
        : attributes(reader), names_(state.streams) {}

    /// Owned, as whatever is called may replace it; none where there is none. Throws.
    py::ref part(std::size_t which) const { return py::ref::borrow(look(which)); }

    /// Borrowed, for who compares. Throws.
    PyObject* look(std::size_t which) const {
        return get(names_.reader[which], static_cast<Py_ssize_t>(which));
    }

    void put(std::size_t which, PyObject* value) const { set(names_.reader[which], value); }

    bool shadow_none() const { return attributes::shadow_none(names_.reader_methods, names_.reader.size()); }

private:
    const stream_names& names_;
};

/// What a StreamReaderProtocol has of its reader, which it holds weakly; null when that has gone. Throws.
py::ref reader_of(const module_state& state, const attributes& protocol);

/// Whether `count` is more than `times` the limit, a number of any kind. Throws.
bool exceeds(Py_ssize_t count, PyObject* limit, int times);

/// `protocol` gets a transport of ours. Gives its streams our classes, where all of it is asyncio's own.
void adopt_streams(loop_state& core, PyObject* protocol) noexcept;

/// `protocol.data_received(data)`. False, and nothing done, where that is to be called instead. Throws.
bool feed_stream(const loop_state& core, PyObject* protocol, std::span<const std::byte> data);

/// `self.name(…)`, of the class behind `ours`. Throws.
py::ref call_behind(const py::ref& ours, PyObject* self, const py::ref& name, const py::arguments& args);

/// Puts the three types into the module. Throws.
void add_stream_types(PyObject* module, module_state& state);

/// The module goes.
void drop_free_stream_operations(module_state& state) noexcept;

}  // namespace zl
