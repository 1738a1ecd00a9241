// What tests/python/test_bridge.py awaits: coroutines of each kind, bound by pybind11.

#include <pybind11/stl.h>

#include <zloop/pybind11.hpp>
#include <zloop/zloop.hpp>

namespace py = pybind11;
namespace zp = zloop::python;
using namespace std::chrono_literals;
using zloop::task;

namespace {

int alive = 0;  // of these

/// Counts the frames that are there: each has one for a parameter.
struct counted {
    counted() noexcept { ++alive; }
    counted(const counted&) noexcept { ++alive; }
    ~counted() { --alive; }
};

task<long> ready(long value) { co_return value; }
task<long> leaf(long value) { co_return value + 1; }
task<long> nested(long value) {
    const long once = co_await leaf(value);
    co_return co_await leaf(once);
}
task<std::string> greet(std::string name) { co_return "hello " + name; }
task<std::vector<int>> many(int count) { co_return std::vector<int>(static_cast<std::size_t>(count), 7); }
task<void> nothing() { co_return; }

task<long> turn(long value) {
    co_await zloop::next_turn();
    co_return value;
}
task<long> turns(long count) {
    for (long done = 0; done < count; ++done) {
        co_await zloop::next_turn();
    }
    co_return count;
}
zloop::nanoseconds seconds(double count) {
    return std::chrono::duration_cast<zloop::nanoseconds>(std::chrono::duration<double>(count));
}
task<zloop::result<void>> nap(double length, [[maybe_unused]] counted frame = {}) {
    co_return co_await zloop::sleep_for(seconds(length));
}
task<std::string> stubborn(double length, [[maybe_unused]] counted frame = {}) {
    const auto slept = co_await zloop::sleep_for(seconds(length));
    co_await zloop::next_turn();
    co_return slept ? "slept" : "cancelled, and done all the same";
}

task<py::object> via(py::object what, [[maybe_unused]] counted frame = {}) {
    co_return co_await zp::await(std::move(what));
}
task<py::object> via_deep(py::object what, int depth) {
    if (depth > 0) {
        co_return co_await via_deep(std::move(what), depth - 1);
    }
    co_return co_await zp::await(std::move(what));
}
task<py::object> via_after_turn(py::object what, [[maybe_unused]] counted frame = {}) {
    co_await zloop::next_turn();
    co_return co_await zp::await(std::move(what));
}
task<long> sum(py::object function, long count) {
    long total = 0;
    for (long index = 0; index < count; ++index) {
        total += co_await zp::await<long>(function(index));
    }
    co_return total;
}
/// C++, Python, C++, Python: each kind of wait after each other.
task<std::vector<std::string>> alternate(py::object function, [[maybe_unused]] counted frame = {}) {
    std::vector<std::string> seen;
    for (int round = 0; round < 3; ++round) {
        seen.push_back(co_await zp::await<std::string>(function(round)));
        co_await zloop::next_turn();
        (co_await zloop::sleep_for(1us)).value();
    }
    co_return seen;
}
task<std::string> timed_out(py::object what, double limit) {
    const auto outcome = co_await zloop::with_timeout(seconds(limit), via(std::move(what)));
    co_return outcome ? "in time" : outcome.error().message();
}
task<std::vector<long>> at_once(py::object function, long count) {
    std::vector<long> seen(static_cast<std::size_t>(count));
    co_await zloop::with_nursery([&](zloop::nursery& children) -> task<> {
        for (long index = 0; index < count; ++index) {
            children.spawn([](py::object what, long& into) -> task<> {
                into = co_await zp::await<long>(std::move(what));
            }(function(index), seen[static_cast<std::size_t>(index)]));
        }
        co_return;
    });
    co_return seen;
}
task<std::string> catches(py::object what) {
    try {
        co_await zp::await(std::move(what));
    } catch (const zp::raised& failure) {
        if (!failure.matches(PyExc_KeyError)) {
            throw;
        }
        co_return "caught KeyError";
    }
    co_return "no error";
}
task<std::string> as_standard(py::object what) {
    try {
        co_await zp::await(std::move(what));
    } catch (const std::system_error& failure) {
        co_return "system_error " + std::to_string(failure.code().value());
    } catch (const std::bad_alloc&) {
        co_return "bad_alloc";
    } catch (const std::exception& failure) {
        co_return failure.what();
    }
    co_return "no error";
}

struct own_failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct own_code : std::system_error {
    own_code() : std::system_error(std::make_error_code(std::errc::broken_pipe), "derived") {}
};
struct other_code : std::system_error {
    other_code() : std::system_error(std::make_error_code(std::errc::broken_pipe), "derived") {}
};
task<void> fail(std::string how, bool after_turn) {
    if (after_turn) {
        co_await zloop::next_turn();
    }
    if (how == "errno")
        throw std::system_error(ENOENT, std::system_category(), "looking");
    if (how == "refused")
        throw std::system_error(std::make_error_code(std::errc::connection_refused));
    if (how == "timed_out")
        throw std::system_error(std::make_error_code(std::errc::timed_out));
    if (how == "canceled")
        throw std::system_error(std::make_error_code(std::errc::operation_canceled));
    if (how == "end")
        throw std::system_error(make_error_code(zloop::errc::end_of_stream));
    if (how == "memory")
        throw std::bad_alloc();
    if (how == "range")
        throw std::out_of_range("no such key");
    if (how == "argument")
        throw std::invalid_argument("not that");
    if (how == "runtime")
        throw std::runtime_error("broken");
    if (how == "own")
        throw own_failure("of my own");
    if (how == "own_code")
        throw own_code();
    if (how == "other_code")
        throw other_code();
    if (how == "python")
        throw py::value_error("by pybind11");
    if (how == "key")
        throw py::key_error("k");
    if (how == "int")
        throw 7;
}
task<void> fail_deep(int depth) {
    if (depth == 0) {
        co_await zloop::next_turn();
        throw std::runtime_error("at the bottom");
    }
    co_await fail_deep(depth - 1);
}
task<void> calls_fail_deep() { co_await fail_deep(2); }
task<zloop::result<int>> finds_no_host() { co_return std::error_code(EAI_NONAME, zloop::resolve_category()); }

task<zloop::result<int>> fails_as_value(int number) {
    co_await zloop::next_turn();
    if (number != 0) {
        co_return zloop::system_error_code(number);
    }
    co_return 1;
}

/// Not a task's: a step that a plain function of C++ makes wrong.
task<void> empty() { return {}; }

task<long> takes(task<long> work) { co_return 1 + co_await std::move(work); }

/// Sends what it is told to, for others to iterate over.
class source {
public:
    source() : values_(std::make_shared<zloop::channel<long>>(2)) {}
    task<> send(long value) { (co_await values_->send(value)).value(); }
    task<long> receive() { co_return (co_await values_->receive()).value(); }
    void close() {
        values_->close();
        zp::touch_loop();
    }
    zp::iterator_of<long> iterate() { return zp::async_iterator(values_); }

private:
    std::shared_ptr<zloop::channel<long>> values_;
};

/// `async for` over a callable: counts, and fails at the end if it is told to.
py::object count_to(long last, bool fails) {
    return zp::async_iterator([next = 0L, last, fails]() mutable -> task<std::optional<long>> {
        co_await zloop::next_turn();
        if (next == last) {
            if (fails) {
                throw std::out_of_range("counted too far");
            }
            co_return std::nullopt;
        }
        co_return next++;
    });
}

/// `async with`.
class visit {
public:
    task<> enter() {
        co_await zloop::next_turn();
        seen_ += "in ";
    }
    task<> leave() {
        co_await zloop::next_turn();
        seen_ += "out";
    }
    std::string seen() const { return seen_; }

private:
    std::string seen_;
};

task<> stop(bool after_turn) {
    if (after_turn) {
        co_await zloop::next_turn();
    }
    throw py::stop_iteration("not for generators");
}

/// Awaits what `function` gives, in a child.
task<> in_a_nursery(py::object function) {
    co_await zloop::with_nursery([&](zloop::nursery& children) -> task<> {
        children.spawn([](py::object called) -> task<> {
            co_await zloop::next_turn();
            co_await zp::await(called());
        }(function));
        co_return;
    });
}

task<long> sum_of(zp::buffer data) {
    co_await zloop::next_turn();
    long sum = 0;
    for (const std::byte each : data.bytes()) {
        sum += std::to_integer<long>(each);
    }
    co_return sum;
}
task<void> fill(zp::writable_buffer into, unsigned char value) {
    co_await zloop::next_turn();
    for (std::byte& each : into.space()) {
        each = std::byte{value};
    }
}
task<zp::object> made_bytes(std::size_t count) {
    co_await zloop::next_turn();
    co_return zp::memory(std::vector<std::byte>(count, std::byte{42}));
}

task<double> sum_of_numbers(zp::array_of<const double> numbers) {
    co_await zloop::next_turn();
    double sum = 0;
    for (const double each : numbers.items()) {
        sum += each;
    }
    co_return sum;
}
task<void> double_all(zp::array_of<std::int64_t> numbers) {
    co_await zloop::next_turn();
    for (std::int64_t& each : numbers.items()) {
        each *= 2;
    }
}
task<zp::object> squares(int count) {
    co_await zloop::next_turn();
    std::vector<float> made;
    for (int index = 0; index < count; ++index) {
        made.push_back(static_cast<float>(index * index));
    }
    co_return zp::memory(std::move(made));
}

/// Fails to be entered, and to be left, by errors that are values.
struct closed_door {
    task<zloop::result<void>> enter() { co_return std::errc::permission_denied; }
    task<zloop::result<void>> leave() { co_return std::errc::broken_pipe; }
};

class counter {
public:
    explicit counter(long from) : value_(from) {}
    task<long> next() {
        co_await zloop::next_turn();
        co_return value_++;
    }
    task<long> add(long more) {
        value_ += more;
        co_return value_;
    }

private:
    long value_;
};

}  // namespace

PYBIND11_MODULE(bridged, m) {
    using zp::def_async;
    py::register_exception<own_failure>(m, "OwnFailure", PyExc_ArithmeticError);
    py::register_exception<own_code>(m, "OwnCode", PyExc_LookupError);
    def_async(m, "ready", &ready, py::arg("value"), "Gives `value`.");
    def_async(m, "nested", &nested);
    def_async(m, "greet", &greet);
    def_async(m, "many", &many);
    def_async(m, "nothing", &nothing);
    def_async(m, "turn", &turn);
    def_async(m, "turns", &turns);
    def_async(m, "nap", [](double length) { return nap(length); });
    def_async(m, "stubborn", [](double length) { return stubborn(length); });
    def_async(m, "via", [](py::object what) { return via(std::move(what)); });
    def_async(m, "via_deep", &via_deep);
    def_async(m, "via_after_turn", [](py::object what) { return via_after_turn(std::move(what)); });
    def_async(m, "sum", &sum);
    def_async(m, "alternate", [](py::object function) { return alternate(std::move(function)); });
    def_async(m, "timed_out", &timed_out);
    def_async(m, "at_once", &at_once);
    def_async(m, "catches", &catches);
    def_async(m, "as_standard", &as_standard);
    def_async(m, "fail", &fail, py::arg("how"), py::arg("after_turn") = false);
    def_async(m, "calls_fail_deep", &calls_fail_deep);
    def_async(m, "fails_as_value", &fails_as_value);
    def_async(m, "finds_no_host", &finds_no_host);
    def_async(m, "empty", &empty);
    def_async(m, "takes", &takes);
    def_async(m, "stop", &stop);
    def_async(m, "in_a_nursery", &in_a_nursery);
    m.def("add_captured", [](py::module_ to) {
        def_async(to, "captured", [text = std::string(300, 'k')]() -> task<std::string> {
            co_await zloop::next_turn();
            co_return text.substr(0, 5);
        });
    });
    m.def("unnamed", &turn);
    m.def("alive", [] { return alive; });
    m.def("live_tasks", [] { return zp::running_loop().stats().live; });
    m.def("loop_address", [] { return reinterpret_cast<std::uintptr_t>(&zp::running_loop()); });

    py::class_<source> of_source(m, "Source");
    of_source.def(py::init<>()).def("close", &source::close).def("__aiter__", &source::iterate);
    def_async(of_source, "send", &source::send);
    def_async(of_source, "receive", &source::receive);
    m.def("count_to", &count_to, py::arg("last"), py::arg("fails") = false);
    py::class_<visit> of_visit(m, "Visit");
    of_visit.def(py::init<>()).def_property_readonly("seen", &visit::seen);
    zp::def_async_with(of_visit, &visit::enter, &visit::leave);
    py::class_<closed_door> of_door(m, "ClosedDoor");
    of_door.def(py::init<>());
    zp::def_async_with(of_door, &closed_door::enter, &closed_door::leave);
    def_async(m, "sum_of", &sum_of);
    def_async(m, "fill", &fill);
    def_async(m, "made_bytes", &made_bytes);
    def_async(m, "sum_of_numbers", &sum_of_numbers);
    def_async(m, "double_all", &double_all);
    def_async(m, "squares", &squares);

    py::class_<counter> of_counter(m, "Counter");
    of_counter.def(py::init<long>());
    def_async(of_counter, "next", &counter::next);
    def_async(of_counter, "add", &counter::add, py::arg("more"));
    def_async(
        of_counter, "add_all",
        [](counter& self, py::args more, py::kwargs by_name) -> task<long> {
            co_await zloop::next_turn();
            for (const py::handle each : more) {
                co_await self.add(each.cast<long>());
            }
            co_return co_await self.add(static_cast<long>(by_name.size()));
        },
        "Adds what it is given, and the number of what is named.");
    def_async(of_counter, "add_captured", [text = std::string(300, 'k')](counter& self) -> task<long> {
        co_await zloop::next_turn();
        co_return co_await self.add(static_cast<long>(text.size()));
    });
    py::implicitly_convertible<py::int_, counter>();
}
