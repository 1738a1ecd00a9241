// zloop/python/buffer.hpp: bytes that one language owns and the other one uses, without a copy.
//
// From Python: a buffer keeps the object's memory where it is, for as long as a coroutine needs it. From C++:
// a memoryview that owns what it shows.
#pragma once

#include <zloop/python/interpreter.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace zloop::python {

/// The memory of a bytes, bytearray, memoryview, array…: a parameter for a coroutine that reads it. A
/// bytearray cannot be resized meanwhile.
///
/// Owns:    an export of the object.
/// Thread:  one that has the GIL, for its begin and its end; the bytes can be read without.
/// Example: examples/extension/first/first.cpp
class buffer {
public:
    /// None.
    buffer() noexcept = default;
    /// Exports the memory of `of`, which has to be contiguous.
    /// Fails: throws `raised`, as a TypeError or BufferError.
    explicit buffer(PyObject* of) : buffer(of, PyBUF_SIMPLE) {}

    /// Its bytes.
    std::span<const std::byte> bytes() const noexcept { return of_view(); }

protected:
    /// The same with flags as PyObject_GetBuffer has them.
    buffer(PyObject* of, int flags) {
        auto made = std::make_unique<Py_buffer>();
        if (PyObject_GetBuffer(of, made.get(), flags) != 0) {
            detail::throw_error_set(PyExc_GeneratorExit);
        }
        view_.reset(made.release());
    }
    const Py_buffer* view() const noexcept { return view_.get(); }
    /// Its bytes, to be written.
    std::span<std::byte> of_view() const noexcept {
        return view_ != nullptr
                   ? std::span(static_cast<std::byte*>(view_->buf), static_cast<std::size_t>(view_->len))
                   : std::span<std::byte>();
    }

private:
    struct releaser {
        void operator()(Py_buffer* view) const noexcept {
            PyBuffer_Release(view);
            delete view;
        }
    };
    std::unique_ptr<Py_buffer, releaser> view_;
};

/// A buffer that is written into: of a bytearray, a writable memoryview, an array.
/// Example: examples/extension/first/first.cpp
class writable_buffer : public buffer {
public:
    /// None.
    writable_buffer() noexcept = default;
    /// Exports the memory of `of`.
    /// Fails: throws `raised`, as a TypeError or BufferError; also for what is read-only.
    explicit writable_buffer(PyObject* of) : buffer(of, PyBUF_WRITABLE) {}

    /// Its bytes, to be written.
    std::span<std::byte> space() const noexcept { return of_view(); }
};

#pragma GCC visibility push(hidden)
namespace detail {

/// The format of an item, as Python's struct module and numpy's dtypes spell it.
template <class T>
constexpr const char* format_of() {
    if constexpr (std::is_same_v<T, std::byte>) {
        return "B";
    } else if constexpr (std::is_same_v<T, bool>) {
        return "?";
    } else if constexpr (std::is_floating_point_v<T>) {
        return sizeof(T) == 4 ? "f" : sizeof(T) == 8 ? "d" : "g";
    } else {
        static_assert(std::is_integral_v<T>, "items are numbers or bytes");
        constexpr bool is_signed = std::is_signed_v<T>;
        switch (sizeof(T)) {
            case 1: return is_signed ? "b" : "B";
            case 2: return is_signed ? "h" : "H";
            case 4: return is_signed ? "i" : "I";
            default: return is_signed ? "q" : "Q";
        }
    }
}

/// Whether an item of that format and size is one of `wanted` as well: as `l` is `q` where a long has 8
/// bytes.
inline bool is_same_format(const char* given, Py_ssize_t size, const char* wanted,
                           std::size_t wanted_size) noexcept {
    const std::string_view format = given != nullptr ? given : "B";
    const char* const native = std::endian::native == std::endian::little ? "@=<" : "@=>!";
    const std::size_t marked = format.size() == 2 && std::strchr(native, format[0]) != nullptr ? 1 : 0;
    if (format.size() != marked + 1 || static_cast<std::size_t>(size) != wanted_size) {
        return false;
    }
    const auto kind = [](char letter) noexcept {
        return std::strchr("bhilqn", letter) != nullptr    ? 'i'
               : std::strchr("BHILQNc", letter) != nullptr ? 'u'
                                                           : letter;
    };
    return kind(format[marked]) == kind(*wanted);
}

}  // namespace detail
#pragma GCC visibility pop

/// The items of an array.array, a numpy array, a typed memoryview: `array_of<const double>` to read them,
/// `array_of<double>` to write them as well. One of several dimensions is taken row by row.
///
/// Owns:    an export of the object.
/// Thread:  as buffer.
/// Example: examples/extension/first/first.cpp
template <class T>
class array_of : public buffer {
public:
    /// None.
    array_of() noexcept = default;
    /// Exports the memory of `of`, which has to be contiguous, of such items.
    /// Fails: throws `raised`: a TypeError for other items, a BufferError for what is in pieces, read-only or
    /// not
    ///        aligned.
    explicit array_of(PyObject* of)
        : buffer(of, PyBUF_ND | PyBUF_FORMAT | (std::is_const_v<T> ? 0 : PyBUF_WRITABLE)) {
        constexpr const char* wanted = detail::format_of<std::remove_const_t<T>>();
        if (!detail::is_same_format(view()->format, view()->itemsize, wanted, sizeof(T))) {
            PyErr_Format(PyExc_TypeError, "an array of '%s' of %zu bytes is needed, not of '%s' of %zd",
                         wanted, sizeof(T), view()->format != nullptr ? view()->format : "B",
                         view()->itemsize);
            detail::throw_error_set(PyExc_GeneratorExit);
        }
        if (view()->len != 0 && reinterpret_cast<std::uintptr_t>(view()->buf) % alignof(T) != 0) {
            PyErr_SetString(PyExc_BufferError, "the array is not aligned for its items");
            detail::throw_error_set(PyExc_GeneratorExit);
        }
    }

    /// The items.
    std::span<T> items() const noexcept {
        const std::span<std::byte> bytes = of_view();
        return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
    }
};

#pragma GCC visibility push(hidden)
namespace detail {

/// Memory that C++ has given to Python.
struct given_memory {
    void* data;
    Py_ssize_t count;  // of items
    Py_ssize_t item_size;
    const char* format;
    void* owner;
    void (*destroy)(void* owner) noexcept;
};
struct memory_head {
    PyObject_HEAD
};
struct memory_object : memory_head, given_memory {};

inline int export_memory(PyObject* self, Py_buffer* view, int flags) noexcept {
    auto& given = *static_cast<memory_object*>(reinterpret_cast<memory_head*>(self));
    if (PyBuffer_FillInfo(view, self, given.data, given.count * given.item_size, 1, flags) != 0) {
        return -1;
    }
    view->itemsize = given.item_size;
    if ((flags & PyBUF_FORMAT) == PyBUF_FORMAT) {
        view->format = const_cast<char*>(given.format);
    }
    if ((flags & PyBUF_ND) == PyBUF_ND) {
        view->shape = &given.count;
    }
    return 0;
}

inline object make_type_of_memory() {
    static PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("Memory of C++.")},
        {Py_tp_dealloc, reinterpret_cast<void*>(+[](PyObject* self) noexcept {
             PyTypeObject* const type = Py_TYPE(self);
             const auto& given = *static_cast<memory_object*>(reinterpret_cast<memory_head*>(self));
             given.destroy(given.owner);
             type->tp_free(self);
             Py_DECREF(type);
         })},
        {Py_bf_getbuffer, reinterpret_cast<void*>(&export_memory)},
        {0, nullptr},
    };
    static PyType_Spec spec = {
        "zloop.memory", sizeof(memory_object), 0,
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};
    return checked(PyType_FromSpec(&spec));
}

template <class Owner>
object memory_of(Owner owned, const char* format) {
    interpreter& home = interpreter::here();
    if (!home.memory_type) {
        home.memory_type = make_type_of_memory();
    }
    auto kept = std::make_unique<Owner>(std::move(owned));
    auto* const type = reinterpret_cast<PyTypeObject*>(home.memory_type.get());
    const object exporter = checked(type->tp_alloc(type, 0));
    auto* const head = reinterpret_cast<memory_head*>(exporter.get());
    static_cast<given_memory&>(*static_cast<memory_object*>(head)) = {
        const_cast<void*>(static_cast<const void*>(kept->data())),
        static_cast<Py_ssize_t>(kept->size()),
        sizeof(typename Owner::value_type),
        format,
        kept.get(),
        [](void* owner) noexcept { delete static_cast<Owner*>(owner); }};
    static_cast<void>(kept.release());
    return checked(PyMemoryView_FromObject(exporter.get()));
}

}  // namespace detail
#pragma GCC visibility pop

/// Makes a read-only memoryview that owns `items`, bytes or numbers: nothing is copied, also not by
/// numpy.asarray() of it.
///
/// Fails:   throws `raised` where Python has no memory.
/// Owns:    `items`, until the last view of it is gone.
/// Example: examples/extension/first/first.cpp
template <class T>
object memory(std::vector<T> items) {
    return detail::memory_of(std::move(items), detail::format_of<T>());
}
/// The same of a string's bytes.
inline object memory(std::string bytes) { return detail::memory_of(std::move(bytes), "B"); }

}  // namespace zloop::python
