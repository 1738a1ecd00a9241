// The same by another binding library: a caster of a few lines, on python.hpp alone.

#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <zloop/python.hpp>
#include <zloop/zloop.hpp>

namespace nanobind::detail {

/// A task becomes an awaitable; what it gives, nanobind casts.
template <class T>
struct type_caster<zloop::task<T>> {
    NB_TYPE_CASTER(zloop::task<T>, const_name("collections.abc.Coroutine[object, object, ") +
                                       make_caster<T>::Name + const_name("]"))

    struct converter {
        PyObject* operator()(T value) const noexcept {
            return make_caster<T>::from_cpp(std::move(value), rv_policy::move, nullptr).ptr();
        }
    };

    static handle from_cpp(zloop::task<T>&& work, rv_policy, cleanup_list*) noexcept {
        try {
            return zloop::python::awaitable(std::move(work), converter()).release();
        } catch (const zloop::python::raised&) {
            PyErr_NoMemory();
            return {};
        }
    }
    bool from_python(handle, std::uint8_t, cleanup_list*) noexcept { return false; }
};

}  // namespace nanobind::detail

namespace {

zloop::task<std::string> greet(std::string name) {
    co_await zloop::next_turn();
    co_return "hello " + name;
}

zloop::task<int> length(nanobind::object awaitable) {
    const auto given = co_await zloop::python::await(zloop::python::object::steal(awaitable.release().ptr()));
    co_return static_cast<int>(PyObject_Length(given.get()));
}

}  // namespace

NB_MODULE(awaited, m) {
    m.def("greet", &greet);
    m.def("length", &length);
}
