// zloop/python/capsule.hpp: how an extension finds the loop inside of zloop's Python package.
//
// zloop._zloop carries a capsule with functions, a version of them, and a number made of what both sides must
// have compiled alike: sizes, places, macros. An extension works on the loop's own memory, by inline
// functions of its own copy of these headers; so where the numbers differ it is refused, before anything was
// touched.
//
// Nothing in it is for users.
#pragma once

#include <zloop/config.hpp>

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include <zloop/loop.hpp>
#include <zloop/task.hpp>

namespace zloop::python {

#pragma GCC visibility push(hidden)
namespace detail {

/// The capsule's name, by which C checks it; and that of the module's attribute.
inline constexpr const char* capsule_name = "zloop._zloop._bridge";
inline constexpr const char* capsule_attribute = "_bridge";

/// The name of the capsule that is a loop to put asyncio on.
inline constexpr const char* lent_name = "zloop::loop";

/// A C++ loop, and the scope in it of what belongs to its asyncio loop; or neither.
struct loop_below {
    loop* on = nullptr;
    scope* within = nullptr;
};

/// What the capsule has. The first two never move.
struct core {
    static constexpr unsigned current = 2;

    unsigned version;
    std::uint64_t layout;
    const char* zloop_version;

    /// The loop below one of zloop.Loop; none: it is another one, or closed.
    loop_below (*loop_of)(const core& self, PyObject* asyncio_loop) noexcept;
    /// The zloop.Loop that turns in this thread; null: none. Borrowed. asyncio's own function is a system
    /// call up to 3.12, half of what it costs to await a task that is ready.
    PyObject* (*running)(const core& self) noexcept;
    /// A new zloop.Loop on a loop that stays its owner's; null, and the error is set.
    PyObject* (*make_on)(const core& self, loop& lent) noexcept;
    /// Runs such a loop until `is_over(what)` after a turn, of at most `limit`, or its stop(). False: the
    /// error is set, what a callback has raised to end the program, say.
    bool (*run)(const core& self, PyObject* asyncio_loop, bool (*is_over)(const void* what), const void* what,
                nanoseconds limit) noexcept;
};

/// FNV-1a of all that an extension and the module must have alike.
class fingerprint {
public:
    constexpr fingerprint& add(std::uint64_t number) noexcept {
        for (int byte = 0; byte < 8; ++byte) {
            value_ = (value_ ^ ((number >> (8 * byte)) & 0xff)) * 1099511628211U;
        }
        return *this;
    }
    constexpr fingerprint& add(const char* text) noexcept {
        while (*text != '\0') {
            add(static_cast<std::uint64_t>(static_cast<unsigned char>(*text++)));
        }
        return *this;
    }
    constexpr std::uint64_t value() const noexcept { return value_; }

private:
    std::uint64_t value_ = 14695981039346656037U;
};

/// What sees an op's members by name, as they are where a function of another library looks for them.
struct op_places {
    static constexpr std::size_t run = offsetof(op, run);
    static constexpr std::size_t next = offsetof(op, next);
};

constexpr std::uint64_t layout() noexcept {
    fingerprint made;
    made.add(ZLOOP_VERSION);  // what inline functions do has no size: until 1.0 a version is one of its own
    for (const std::size_t size : {sizeof(void*),
                                   sizeof(loop),
                                   alignof(loop),
                                   sizeof(op),
                                   op_places::run,
                                   op_places::next,
                                   sizeof(op_queue),
                                   sizeof(timer_node),
                                   sizeof(timer_heap),
                                   sizeof(scope),
                                   sizeof(cancellable),
                                   sizeof(backend),
                                   sizeof(io_op),
                                   sizeof(batch_op),
                                   sizeof(watcher),
                                   sizeof(context),
                                   sizeof(zloop::detail::live_task),
                                   sizeof(zloop::detail::awaited),
                                   sizeof(zloop::detail::task_promise_base),
                                   sizeof(zloop::detail::completion),
                                   sizeof(std::string),
                                   sizeof(std::exception_ptr),
                                   sizeof(site)}) {
        made.add(size);
    }
    for (const int macro : {
             ZLOOP_HAS_EPOLL,
             ZLOOP_HAS_URING,
             ZLOOP_HAS_KQUEUE,
             ZLOOP_HAS_SOURCE_LOCATION,
#ifdef _GLIBCXX_USE_CXX11_ABI
             _GLIBCXX_USE_CXX11_ABI,
#endif
#ifdef _LIBCPP_ABI_VERSION
             100 + _LIBCPP_ABI_VERSION,
#endif
#ifdef _GLIBCXX_DEBUG
             1000,
#endif
#ifdef Py_GIL_DISABLED
             2000,
#endif
         }) {
        made.add(static_cast<std::uint64_t>(macro));
    }
    return made.value();
}

}  // namespace detail
#pragma GCC visibility pop

}  // namespace zloop::python
