// zloop/python/buffer.hpp: bytes that one language owns and the other one uses, without a copy.
//
// From Python: a buffer keeps the object's memory where it is, for as long as a coroutine needs it. From C++:
// a memoryview that owns what it shows.
#pragma once

#include <zloop/python/interpreter.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
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

struct memory_head {
    PyObject_HEAD
};
template <class Owner>
struct memory_object : memory_head {
    Owner owner;
};

template <class Owner>
object make_type_of_memory() {
    static PyType_Slot slots[] = {
        {Py_tp_doc, const_cast<char*>("Memory of C++.")},
        {Py_tp_dealloc, reinterpret_cast<void*>(+[](PyObject* self) noexcept {
             PyTypeObject* const type = Py_TYPE(self);
             static_cast<memory_object<Owner>*>(reinterpret_cast<memory_head*>(self))->owner.~Owner();
             type->tp_free(self);
             Py_DECREF(type);
         })},
        {Py_bf_getbuffer, reinterpret_cast<void*>(+[](PyObject* self, Py_buffer* view, int flags) noexcept {
             auto& owner = static_cast<memory_object<Owner>*>(reinterpret_cast<memory_head*>(self))->owner;
             return PyBuffer_FillInfo(view, self, const_cast<void*>(static_cast<const void*>(owner.data())),
                                      static_cast<Py_ssize_t>(owner.size()), 1, flags);
         })},
        {0, nullptr},
    };
    static PyType_Spec spec = {
        "zloop.memory", sizeof(memory_object<Owner>), 0,
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};
    return checked(PyType_FromSpec(&spec));
}

template <class Owner>
object memory_of(object& type, Owner owned) {
    static_assert(std::is_nothrow_move_constructible_v<Owner>);
    if (!type) {
        type = make_type_of_memory<Owner>();
    }
    auto* const made_type = reinterpret_cast<PyTypeObject*>(type.get());
    auto* const raw = made_type->tp_alloc(made_type, 0);
    if (raw == nullptr) {
        throw_error_set(PyExc_GeneratorExit);
    }
    ::new (&static_cast<memory_object<Owner>*>(reinterpret_cast<memory_head*>(raw))->owner)
        Owner(std::move(owned));
    const object exporter = object::steal(raw);
    return checked(PyMemoryView_FromObject(exporter.get()));
}

}  // namespace detail
#pragma GCC visibility pop

/// Makes a read-only memoryview that owns `bytes`: nothing is copied.
///
/// Fails:   throws `raised` where Python has no memory.
/// Owns:    `bytes`, until the last view of it is gone.
/// Example: examples/extension/first/first.cpp
inline object memory(std::vector<std::byte> bytes) {
    return detail::memory_of(detail::interpreter::here().memory_type, std::move(bytes));
}
/// The same of a string's bytes.
inline object memory(std::string bytes) {
    return detail::memory_of(detail::interpreter::here().string_memory_type, std::move(bytes));
}

}  // namespace zloop::python
