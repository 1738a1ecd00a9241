// The server of server.hpp, for Python: its routes are functions of Python, async or not, or C++.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/stl.h>

#include <zloop/pybind11.hpp>
#include <zloop/zloop.hpp>

#include "server.hpp"

namespace py = pybind11;
using httpd::request;
using httpd::response;
using httpd::server;
using zloop::task;

namespace {

/// What a handler has returned, as an answer: a Response, str, bytes, or None.
response response_of(const py::object& given) {
    if (py::isinstance<response>(given)) {
        return given.cast<response>();
    }
    response made;
    if (given.is_none()) {
        made.status = 204;
    } else if (PyBytes_Check(given.ptr())) {
        made.type = "application/octet-stream";
        made.body = given.cast<std::string>();
    } else if (PyUnicode_Check(given.ptr())) {
        made.body = given.cast<std::string>();
    } else {
        PyErr_Format(PyExc_TypeError, "a handler returns a Response, str, bytes or None, not %.200s",
                     Py_TYPE(given.ptr())->tp_name);
        throw py::error_already_set();
    }
    return made;
}

/// Tells asyncio's loop what a handler has raised, as of a callback, and answers for it.
response failed(const py::object& loop, const py::object& by, const py::object& exception) {
    py::dict context;
    context["message"] = py::str("Exception in the handler {!r}").format(by);
    context["exception"] = exception;
    loop.attr("call_exception_handler")(context);
    return httpd::plain_response(500);
}

/// Calls a function of Python, and awaits what it gives where that can be awaited.
task<response> call(py::object loop, py::object by, std::shared_ptr<const request> asked) {
    const zloop::scope& within = *(co_await zloop::current_context()).within;
    py::object exception;
    try {
        py::object given = by(std::const_pointer_cast<request>(asked));
        if (py::hasattr(given, "__await__")) {
            given = co_await zloop::python::await(std::move(given));
        }
        co_return response_of(given);
    } catch (py::error_already_set& raised) {
        exception = raised.value();
    } catch (const zloop::python::raised& raised) {
        if (within.cancelled()) {
            throw;
        }
        exception = py::reinterpret_borrow<py::object>(raised.instance().get());
    }
    if (PyErr_GivenExceptionMatches(exception.ptr(), PyExc_SystemExit) != 0 ||
        PyErr_GivenExceptionMatches(exception.ptr(), PyExc_KeyboardInterrupt) != 0) {
        loop.attr("call_soon")(py::cpp_function([exception] {  // from where it leaves the loop's run
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
            throw py::error_already_set();
        }));
        co_return httpd::plain_response(500);
    }
    co_return failed(loop, by, exception);
}

/// A server, and the asyncio loop that it was made on.
class bound_server {
public:
    bound_server(httpd::limits bounds, httpd::timeouts patience)
        : loop_(py::module_::import("asyncio").attr("get_running_loop")()),
          here_(zloop::python::running_context()),
          served_(std::make_shared<server>(bounds, patience)) {}

    void route(std::string method, std::string path, py::object by) {
        served_->route(std::move(method), std::move(path),
                       httpd::waiting_handler([loop = loop_, by](std::shared_ptr<const request> asked) {
                           return call(loop, by, std::move(asked));
                       }));
    }
    void text(std::string path, std::string body, std::string type) {
        response whole;
        whole.type = std::move(type);
        whole.body = std::move(body);
        served_->route("GET", std::move(path), httpd::fixed_answer(std::move(whole)));
    }
    task<std::uint16_t> start(std::string host, std::uint16_t port) {
        if (!loop_.is(py::module_::import("asyncio").attr("get_running_loop")())) {
            throw std::runtime_error("the server was made on another event loop");
        }
        co_return served_->listen(here_, zloop::address::ip(host, port).value()).port();
    }
    task<> close(double patience) { return close(served_, patience); }
    task<> leave() { return close(served_, 0); }

    std::size_t connections() const { return served_->connections(); }
    std::uint64_t answered() const { return served_->answered(); }

private:
    static task<> close(std::shared_ptr<server> closed, double patience) {
        if (!(patience >= 0)) {
            throw py::value_error("patience is a number of seconds, 0 at least");
        }
        patience = std::min(patience, 1e9);
        co_await closed->close(
            std::chrono::duration_cast<zloop::nanoseconds>(std::chrono::duration<double>(patience)));
    }

    py::object loop_;
    zloop::context here_;
    std::shared_ptr<server> served_;
};

zloop::nanoseconds duration(const char* name, double seconds) {
    if (!(seconds >= 0.001 && seconds <= 1e9)) {
        throw py::value_error(std::string(name) + " is a number of seconds, 0.001 at least");
    }
    return std::chrono::duration_cast<zloop::nanoseconds>(std::chrono::duration<double>(seconds));
}

py::bytes bytes_of(std::string_view text) { return py::bytes(text.data(), text.size()); }

}  // namespace

PYBIND11_MODULE(httpd, m) {
    m.doc() = "A small HTTP/1.1 server in C++; its handlers are functions of Python, async or not.";

    py::class_<request, std::shared_ptr<request>>(m, "Request", "What a client has asked.")
        .def_property_readonly("method", [](const request& self) { return std::string(self.first.method); })
        .def_property_readonly(
            "path", [](const request& self) { return std::string(self.first.path); },
            "Without the query, and as it was sent: %20 is not decoded.")
        .def_property_readonly("query", [](const request& self) { return std::string(self.first.query); })
        .def_property_readonly("body", [](const request& self) { return bytes_of(self.body); })
        .def_property_readonly(
            "headers",
            [](const request& self) {
                std::vector<std::pair<py::str, py::bytes>> all;
                for (const httpd::header& each : self.first.headers) {
                    std::string name(each.name);
                    std::transform(name.begin(), name.end(), name.begin(), httpd::detail::lower);
                    all.emplace_back(py::str(name), bytes_of(each.value));
                }
                return all;
            },
            "Pairs of a name in lower case and a value, as they came.");

    py::class_<response>(m, "Response", "An answer of a handler.")
        .def(py::init([](std::string body, int status, std::string type,
                         std::vector<std::pair<std::string, std::string>> headers) {
                 return response{status, std::move(type), std::move(headers), std::move(body)};
             }),
             py::arg("body") = "", py::arg("status") = 200, py::arg("type") = std::string(httpd::plain_text),
             py::arg("headers") = std::vector<std::pair<std::string, std::string>>());

    py::class_<bound_server, std::shared_ptr<bound_server>> bound(m, "Server",
                                                                  "Serves on the running asyncio loop.");
    bound.def(py::init([](std::size_t head_bytes, std::size_t body_bytes, double head_timeout,
                          double body_timeout, double write_timeout, double idle_timeout) {
                  httpd::limits bounds;
                  bounds.head_bytes = head_bytes;
                  bounds.target_bytes = std::min(bounds.target_bytes, head_bytes);
                  bounds.body_bytes = body_bytes;
                  return std::make_shared<bound_server>(
                      bounds, httpd::timeouts{duration("head_timeout", head_timeout),
                                              duration("body_timeout", body_timeout),
                                              duration("write_timeout", write_timeout),
                                              duration("idle_timeout", idle_timeout)});
              }),
              py::kw_only(), py::arg("head_bytes") = 16 * 1024, py::arg("body_bytes") = 1024 * 1024,
              py::arg("head_timeout") = 10.0, py::arg("body_timeout") = 30.0, py::arg("write_timeout") = 30.0,
              py::arg("idle_timeout") = 75.0);
    bound.def("route", &bound_server::route, py::arg("method"), py::arg("path"), py::arg("handler"),
              "Have `handler(request)`, async or not, answer; it gives a Response, str, bytes or None.");
    bound.def("text", &bound_server::text, py::arg("path"), py::arg("body"),
              py::arg("type") = std::string(httpd::plain_text), "Have C++ answer GET with this text.");
    bound.def_property_readonly("connections", &bound_server::connections);
    bound.def_property_readonly("answered", &bound_server::answered);
    zloop::python::def_async(bound, "start", &bound_server::start, py::arg("host") = "127.0.0.1",
                             py::arg("port") = 0, "Listen at a numeric address; gives the port.");
    zloop::python::def_async(bound, "close",
                             static_cast<task<> (bound_server::*)(double)>(&bound_server::close),
                             py::arg("patience") = 10.0,
                             "Accept nothing more; let what was asked be answered, for so many seconds.");
    zloop::python::def_async_with(bound, &bound_server::leave);
}
