// C++ coroutines that Python awaits, on the loop that runs there: program.py shows the other side.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <pybind11/stl.h>

#include <zloop/pybind11.hpp>
#include <zloop/zloop.hpp>

namespace py = pybind11;
using namespace std::chrono_literals;
using zloop::task;
using zloop::python::async_iterator;
using zloop::python::await;
using zloop::python::def_async;

/// Waits in C++. A cancelled Task ends it, and so does an asyncio.timeout().
task<std::string> greet(std::string name) {
    (co_await zloop::sleep_for(10ms)).value();
    co_return "hello " + name;
}

/// Awaits Python: whatever `fetch` gives for each name.
task<int> total_length(py::function fetch, std::vector<std::string> names) {
    int total = 0;
    for (const std::string& name : names) {
        try {
            total += static_cast<int>((co_await await<std::string>(fetch(name))).size());
        } catch (const zloop::python::raised& failure) {
            if (!failure.matches(PyExc_KeyError)) {
                throw;  // as itself
            }
        }
    }
    co_return total;
}

/// Reads a bytes object where it is.
task<std::size_t> count_zeros(zloop::python::buffer data) {
    std::size_t zeros = 0;
    for (const std::byte each : data.bytes()) {
        zeros += each == std::byte{0};
    }
    co_return zeros;
}

/// One after the other, for `async for`.
class ticker {
public:
    explicit ticker(int count) : left_(count) {}

    task<std::optional<int>> next() {
        if (left_ == 0) {
            co_return std::nullopt;
        }
        (co_await zloop::sleep_for(1ms)).value();
        co_return left_--;
    }
    task<> stop() {
        left_ = 0;
        co_return;
    }

private:
    int left_;
};

PYBIND11_MODULE(first, m) {
    def_async(m, "greet", &greet, py::arg("name"), "Say hello, in a while.");
    def_async(m, "total_length", &total_length);
    def_async(m, "count_zeros", &count_zeros);

    py::class_<ticker, std::shared_ptr<ticker>> ticking(m, "Ticker");
    ticking.def(py::init<int>());
    ticking.def("__aiter__",
                [](std::shared_ptr<ticker> self) { return async_iterator([self] { return self->next(); }); });
    zloop::python::def_async_with(ticking, &ticker::stop);
}
