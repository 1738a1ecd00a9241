// zloop/pybind11.hpp: C++ coroutines bound by pybind11 (3.0 or newer), in a line each.
//
//     PYBIND11_MODULE(first, m) {
//         zloop::python::def_async(m, "greet", &greet);  // task<std::string> greet(std::string name)
//     }
//
// A function of pybind11 that returns a zloop::task gives Python an awaitable, and a parameter that is a task
// takes one. `def_async` also gives it its name, and sees to what a coroutine keeps: its frame has what the
// call has given by value, and nothing else, as pybind11's own copies end with the call.
#pragma once

#include <zloop/config.hpp>

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include <zloop/python.hpp>
#include <zloop/wait/operation.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

inline object object_of(pybind11::handle shared) noexcept { return object::borrow(shared.ptr()); }

/// A task's result as pybind11 casts it, and its exceptions as pybind11 translates them.
struct by_pybind11 {
    template <class T>
    PyObject* operator()(T&& value) const {
        if constexpr (std::is_same_v<std::remove_cvref_t<T>, object>) {
            return object(std::forward<T>(value)).release();
        } else if constexpr (std::is_base_of_v<pybind11::object, std::remove_cvref_t<T>>) {
            return pybind11::object(std::forward<T>(value)).release().ptr();
        } else {
            constexpr auto policy = std::is_lvalue_reference_v<T> ? pybind11::return_value_policy::copy
                                                                  : pybind11::return_value_policy::move;
            return pybind11::cast(std::forward<T>(value), policy).release().ptr();
        }
    }

    static void set_error(const std::exception_ptr& failure, PyObject* cancelled_error) noexcept {
        try {
            std::rethrow_exception(failure);
        } catch (const raised& held) {
            restore_error(held.instance());
        } catch (const std::system_error& thrown) {
            // One of the user's, derived from it, may have a translator; pybind11's own for any
            // std::exception says no more than its words.
            if (typeid(thrown) != typeid(std::system_error)) {
                translate();
                if (!is_runtime_error(thrown.what())) {
                    return;
                }
                PyErr_Clear();
            }
            set_error_code(thrown.code(), thrown.what(), cancelled_error);
        } catch (...) {
            translate();
        }
    }

private:
    /// From a handler of an exception.
    static void translate() noexcept {
        try {
            pybind11::detail::try_translate_exceptions();
        } catch (...) {
            PyErr_SetString(PyExc_SystemError, "an exception translator has thrown");
        }
    }

    /// Whether that is the error which is set, and its words.
    static bool is_runtime_error(const char* words) noexcept {
        const object failure = take_error();
        const object text =
            object::steal(Py_IS_TYPE(failure.get(), reinterpret_cast<PyTypeObject*>(PyExc_RuntimeError))
                              ? PyObject_Str(failure.get())
                              : nullptr);
        const char* const said = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
        PyErr_Clear();
        const bool is_same = said != nullptr && std::string_view(said) == words;
        restore_error(failure);
        return is_same;
    }
};

/// What a bound coroutine gives: a task with a name, and what has to live as long.
template <class T>
struct bound_task {
    task<T> work;
    object name;
    object keeps;
};

/// A parameter that is the object of a method's call, and its C++ side.
template <class C>
struct self_of {
    C* instance = nullptr;
    object owner;
};

template <class T>
struct is_span : std::false_type {};
template <class T, std::size_t Size>
struct is_span<std::span<T, Size>> : std::true_type {};
template <class T>
struct is_view : std::false_type {};
template <class C, class Traits>
struct is_view<std::basic_string_view<C, Traits>> : std::true_type {};

template <class P>
constexpr bool check_parameter();

template <class P, std::size_t... Index>
constexpr bool check_elements(std::index_sequence<Index...>) {
    return (check_parameter<std::tuple_element_t<Index, P>>() && ...);
}

/// Whether a coroutine may keep a parameter of this type beyond its first suspension, and what is in it:
/// an optional, a container, a tuple.
template <class P>
constexpr bool check_parameter() {
    static_assert(
        !std::is_reference_v<P>,
        "a coroutine that is bound takes its parameters by value: a reference is to pybind11's copy, "
        "which ends at the first suspension. Write T, or std::shared_ptr<T> for a bound class");
    static_assert(!is_view<P>::value,
                  "a std::string_view is of memory that ends at the first suspension: write std::string");
    static_assert(!is_span<P>::value,
                  "a std::span is of memory that ends at the first suspension: write zloop::python::buffer, "
                  "or a std::vector");
    static_assert(
        !std::is_pointer_v<P>,
        "a pointer is to what may end at the first suspension: write T, std::string for a const char*, "
        "or std::shared_ptr<T> for a bound class");
    static_assert(!std::is_same_v<P, pybind11::handle>,
                  "a pybind11::handle owns nothing, and what it is of may go at the first suspension: write "
                  "pybind11::object");
    if constexpr (requires { std::tuple_size<P>::value; }) {
        return check_elements<P>(std::make_index_sequence<std::tuple_size_v<P>>());
    } else if constexpr (requires { typename P::value_type; }) {
        if constexpr (!std::is_same_v<typename P::value_type,
                                      P>) {  // as a std::filesystem::path's iterator has
            return check_parameter<typename P::value_type>();
        }
    }
    return true;
}

template <class... Extra>
constexpr bool has_call_guard = (pybind11::detail::is_call_guard<Extra>::value || ...);

inline object name_of_method(const pybind11::object& of, const char* name) {
    return checked(PyUnicode_FromFormat("%U.%s", of.attr("__qualname__").ptr(), name));
}

/// A callable with its parameters.
template <class F, class R, class... P>
void def_function(pybind11::module_& in, const char* name, F function, task<R> (*)(P...),
                  const auto&... extra) {
    static_assert((check_parameter<P>() && ...));
    const object named = checked(PyUnicode_InternFromString(name));
    in.def(
        name,
        [function = std::move(function), named](P... given) {
            if constexpr (std::is_pointer_v<F> || std::is_empty_v<F>) {
                return bound_task<R>{function(std::move(given)...), named, object()};
            } else {  // the frame refers to the closure, which ends with Python's function
                return bound_task<R>{co_invoke(function, std::move(given)...), named, object()};
            }
        },
        extra...);
}

/// A member function with its parameters.
template <class C, class F, class R, class... P>
    requires std::is_member_function_pointer_v<F>
void def_method(auto& in, const char* name, F function, task<R> (*)(P...), const auto&... extra) {
    static_assert((check_parameter<P>() && ...));
    const object named = name_of_method(in, name);
    in.def(
        name,
        [function = std::move(function), named](self_of<C> self, P... given) {
            return bound_task<R>{std::invoke(function, *self.instance, std::move(given)...), named,
                                 std::move(self.owner)};
        },
        extra...);
}

/// A callable that takes the object in front of its parameters.
template <class C, class F, class R, class Self, class... P>
    requires(!std::is_member_function_pointer_v<F>)
void def_method(auto& in, const char* name, F function, task<R> (*)(Self, P...), const auto&... extra) {
    static_assert(std::is_same_v<Self, C&>,
                  "a callable that is bound as a method takes the object first, as C&, which lives until the "
                  "coroutine has ended");
    static_assert((check_parameter<P>() && ...));
    const object named = name_of_method(in, name);
    in.def(
        name,
        [function = std::move(function), named](self_of<C> self, P... given) {
            if constexpr (std::is_pointer_v<F> || std::is_empty_v<F>) {
                return bound_task<R>{function(*self.instance, std::move(given)...), named,
                                     std::move(self.owner)};
            } else {
                return bound_task<R>{co_invoke(function, std::ref(*self.instance), std::move(given)...),
                                     named, std::move(self.owner)};
            }
        },
        extra...);
}

/// A pointer to a function that has the parameters of a callable.
template <class F>
struct signature_of : signature_of<decltype(&F::operator())> {};
template <class R, class... P>
struct signature_of<R (*)(P...)> {
    using type = R (*)(P...);
};
template <class R, class... P>
struct signature_of<R (*)(P...) noexcept> : signature_of<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature_of<R (C::*)(P...)> : signature_of<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature_of<R (C::*)(P...) const> : signature_of<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature_of<R (C::*)(P...) noexcept> : signature_of<R (*)(P...)> {};
template <class C, class R, class... P>
struct signature_of<R (C::*)(P...) const noexcept> : signature_of<R (*)(P...)> {};

/// import_zloop() in a module's initialization: of an exception pybind11 tells there only the words.
inline void import_for_module() {
    try {
        import_zloop();
    } catch (const raised& failure) {
        const object words = object::steal(PyObject_Str(failure.instance().get()));
        const char* const text = words ? PyUnicode_AsUTF8(words.get()) : nullptr;
        if (text == nullptr || !failure.matches(PyExc_ImportError)) {
            PyErr_Clear();
            restore_error(failure.instance());
            throw pybind11::error_already_set();
        }
        throw pybind11::import_error(text);
    }
    if (!std::exchange(interpreter::here().is_known_to_pybind11,
                       true)) {  // for functions that are no coroutines
        pybind11::register_local_exception_translator([](std::exception_ptr failure) {
            try {
                if (failure) {
                    std::rethrow_exception(failure);
                }
            } catch (const raised& held) {
                restore_error(held.instance());
            }
        });
    }
}

}  // namespace detail
#pragma GCC visibility pop

/// Binds a coroutine, a function or a callable that gives a task<T>, as a function of the module: `extra` is
/// what module_::def takes, such as pybind11::arg() or a docstring. Also imports zloop (import_zloop()).
///
/// A parameter that the coroutine could not keep is refused when it is compiled, with words on what to write.
///
/// Fails:   throws what import_zloop() and pybind11 throw.
/// Thread:  one that has the GIL.
/// Example: examples/extension/first/first.cpp
template <class F, class... Extra>
void def_async(pybind11::module_& in, const char* name, F function, const Extra&... extra) {
    static_assert(
        !detail::has_call_guard<Extra...>,
        "a call guard ends with the call, which only makes the coroutine: write the guard in its body, "
        "around what does not wait");
    detail::import_for_module();
    detail::def_function(in, name, std::move(function),
                         typename detail::signature_of<std::decay_t<F>>::type{}, extra...);
}

/// Binds a coroutine as a method: a member function, or a callable that takes the object first, as `C&`. The
/// object lives until the coroutine has ended.
/// Example: examples/extension/first/first.cpp
template <class C, class... Options, class F, class... Extra>
void def_async(pybind11::class_<C, Options...>& in, const char* name, F function, const Extra&... extra) {
    static_assert(
        !detail::has_call_guard<Extra...>,
        "a call guard ends with the call, which only makes the coroutine: write the guard in its body, "
        "around what does not wait");
    detail::import_for_module();
    detail::def_method<C>(in, name, std::move(function),
                          typename detail::signature_of<std::decay_t<F>>::type{}, extra...);
}

/// An asynchronous iterator that gives Ts: to Python's annotations an AsyncIterator of them.
/// Example: examples/extension/first/first.cpp
template <class T>
class iterator_of : public pybind11::object {
public:
    using pybind11::object::object;
};

#pragma GCC visibility push(hidden)
namespace detail {

/// What one after another a source gives.
template <class Source>
struct given_by : optional_of<std::invoke_result_t<Source&>> {};
template <class T>
struct given_by<std::shared_ptr<channel<T>>> {
    using type = T;
};

}  // namespace detail
#pragma GCC visibility pop

/// Makes an asynchronous iterator of what `next` gives, a callable or a shared channel, as python.hpp's does:
/// `return async_iterator([…]() -> task<std::optional<T>> {…});`
/// Example: examples/extension/first/first.cpp
template <class Source>
iterator_of<typename detail::given_by<Source>::type> async_iterator(Source source) {
    return pybind11::reinterpret_steal<iterator_of<typename detail::given_by<Source>::type>>(
        async_iterator(std::move(source), detail::by_pybind11()).release());
}

#pragma GCC visibility push(hidden)
namespace detail {

/// What `async with` gives of a C: the object itself.
template <class C>
struct entered_object {
    object self;
};

/// Does its work, and throws where that gives an error.
template <class R>
task<> done(task<R> work) {
    if constexpr (requires(R given) { given.value(); }) {
        value_of(co_await std::move(work));
    } else {
        co_await std::move(work);
    }
}
template <class C, class R>
task<entered_object<C>> entered(task<R> work, object self) {
    co_await done(std::move(work));
    co_return entered_object<C>{std::move(self)};
}
inline task<> nothing_to_do() { co_return; }

}  // namespace detail
#pragma GCC visibility pop

/// Makes a class an asynchronous context manager: `async with` awaits `enter`, a member that gives a task, at
/// its begin, and gives the object; and `leave` at its end, however that comes. An exception goes on.
/// Example: examples/extension/first/first.cpp
template <class C, class... Options, class Enter, class Leave>
void def_async_with(pybind11::class_<C, Options...>& in, Enter enter, Leave leave) {
    detail::import_for_module();
    in.def("__aenter__", [enter, name = detail::name_of_method(in, "__aenter__")](detail::self_of<C> self) {
        auto work = std::invoke(enter, *self.instance);
        return detail::bound_task<detail::entered_object<C>>{detail::entered<C>(std::move(work), self.owner),
                                                             name, self.owner};
    });
    in.def("__aexit__", [leave, name = detail::name_of_method(in, "__aexit__")](
                            detail::self_of<C> self, pybind11::object, pybind11::object, pybind11::object) {
        auto work = std::invoke(leave, *self.instance);
        return detail::bound_task<void>{detail::done(std::move(work)), name, self.owner};
    });
}

/// The same, with nothing to do at the begin.
/// Example: examples/extension/first/first.cpp
template <class C, class... Options, class Leave>
void def_async_with(pybind11::class_<C, Options...>& in, Leave leave) {
    def_async_with(in, [](C&) { return detail::nothing_to_do(); }, leave);
}

/// What await() of pybind11's objects gives.
template <class T>
class [[nodiscard]] cast_awaiter : public awaiter {
public:
    /// Will await `what`.
    explicit cast_awaiter(pybind11::object what) noexcept : awaiter(object::steal(what.release().ptr())) {}

    T await_resume() {
        auto given = pybind11::reinterpret_steal<pybind11::object>(awaiter::await_resume().release());
        if constexpr (std::is_void_v<T>) {
            return;
        } else if constexpr (std::is_same_v<T, pybind11::object>) {
            return given;
        } else {
            return std::move(given).template cast<T>();
        }
    }
};

/// Awaits an object of pybind11's, and casts what it gives: `auto name = co_await await<std::string>(f(1));`
///
/// Fails:   as await() does; throws pybind11::cast_error where the result is no T.
/// Example: examples/extension/first/first.cpp
template <class T = pybind11::object>
cast_awaiter<T> await(pybind11::object what) noexcept {
    return cast_awaiter<T>(std::move(what));
}

#pragma GCC visibility push(hidden)
namespace detail {

template <class T>
task<T> awaited_as(pybind11::object what) {
    co_return co_await await<T>(std::move(what));
}

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python

namespace pybind11::detail {

/// What the signature of a bound function says.
template <class T>
inline constexpr auto zloop_task_name =
    const_name("collections.abc.Coroutine[typing.Any, typing.Any, ") +
    make_caster<std::conditional_t<std::is_void_v<T>, void_type, T>>::name + const_name("]");

template <class U>
inline constexpr auto zloop_task_name<zloop::result<U>> = zloop_task_name<U>;
template <>
inline constexpr auto zloop_task_name<zloop::python::object> =
    const_name("collections.abc.Coroutine[typing.Any, typing.Any, typing.Any]");

template <class T>
struct type_caster<zloop::task<T>> {
    static constexpr auto name = zloop_task_name<T>;

    static handle cast(zloop::task<T>&& work, return_value_policy, handle) {
        try {
            return zloop::python::awaitable(std::move(work), zloop::python::detail::by_pybind11()).release();
        } catch (const zloop::python::raised& failure) {
            zloop::python::detail::restore_error(failure.instance());
            return {};
        }
    }

    bool load(handle source, bool) {
        if (!PyCoro_CheckExact(source.ptr()) && (Py_TYPE(source.ptr())->tp_as_async == nullptr ||
                                                 Py_TYPE(source.ptr())->tp_as_async->am_await == nullptr)) {
            return false;
        }
        source_ = reinterpret_borrow<object>(source);
        return true;
    }
    template <class>
    using cast_op_type = zloop::task<T>;
    operator zloop::task<T>() { return zloop::python::detail::awaited_as<T>(std::move(source_)); }

private:
    object source_;
};

template <class T>
struct type_caster<zloop::python::detail::bound_task<T>> {
    static constexpr auto name = zloop_task_name<T>;

    static handle cast(zloop::python::detail::bound_task<T>&& bound, return_value_policy, handle) {
        namespace bridge = zloop::python::detail;
        try {
            bound.work.require();
            return bridge::make_awaitable(bridge::work_of<T, bridge::by_pybind11>::kind, bound.work.release(),
                                          std::move(bound.name), std::move(bound.keeps))
                .release();
        } catch (const zloop::python::raised& failure) {
            bridge::restore_error(failure.instance());
            return {};
        }
    }
};

template <class T>
struct handle_type_name<zloop::python::iterator_of<T>> {
    static constexpr auto name =
        const_name("collections.abc.AsyncIterator[") + make_caster<T>::name + const_name("]");
};

template <class C>
struct type_caster<zloop::python::detail::entered_object<C>> {
    static constexpr auto name = make_caster<C>::name;

    static handle cast(zloop::python::detail::entered_object<C>&& given, return_value_policy, handle) {
        return given.self.release();
    }
};

template <class C>
struct type_caster<zloop::python::detail::self_of<C>> {
    static constexpr auto name = make_caster<C>::name;

    bool load(handle source, bool) {
        type_caster_base<C> instance;
        if (!instance.load(source, false)) {
            return false;
        }
        self_.instance = static_cast<C*>(instance);
        self_.owner = zloop::python::detail::object_of(source);
        return self_.instance != nullptr;
    }
    template <class>
    using cast_op_type = zloop::python::detail::self_of<C>;
    operator zloop::python::detail::self_of<C>() { return std::move(self_); }

private:
    zloop::python::detail::self_of<C> self_;
};

template <class Buffer>
struct zloop_buffer_caster {
    static constexpr auto name = make_caster<pybind11::buffer>::name;

    bool load(handle source, bool) {
        if (PyObject_CheckBuffer(source.ptr()) == 0) {
            return false;
        }
        try {
            held_ = Buffer(source.ptr());
        } catch (const zloop::python::raised&) {
            return false;  // read-only, or in pieces
        }
        return true;
    }
    template <class>
    using cast_op_type = Buffer;
    operator Buffer() { return std::move(held_); }

private:
    Buffer held_;
};
template <>
struct type_caster<zloop::python::buffer> : zloop_buffer_caster<zloop::python::buffer> {};
template <>
struct type_caster<zloop::python::writable_buffer> : zloop_buffer_caster<zloop::python::writable_buffer> {};
template <class T>
struct type_caster<zloop::python::array_of<T>> : zloop_buffer_caster<zloop::python::array_of<T>> {};

template <>
struct type_caster<zloop::python::object> {
    static constexpr auto name = const_name("typing.Any");

    static handle cast(zloop::python::object given, return_value_policy, handle) { return given.release(); }
    bool load(handle source, bool) {
        held_ = zloop::python::object::borrow(source.ptr());
        return true;
    }
    template <class>
    using cast_op_type = zloop::python::object;
    operator zloop::python::object() { return std::move(held_); }

private:
    zloop::python::object held_;
};

}  // namespace pybind11::detail
