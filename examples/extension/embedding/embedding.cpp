// A server in C++ whose answers are Python's: `embedding SCRIPT`. The script has a function, async or not,
// `answer(line)`, and perhaps a coroutine function `main()`, which runs beside; both languages are on the one
// loop of this program.
//
// g++ -std=c++20 -fvisibility=hidden $(python3 -m pybind11 --includes)
//     -I$(python3 -c 'import zloop; print(zloop.get_include())') embedding.cpp $(python3-config --embed
//     --ldflags)

#include <csignal>
#include <cstdio>
#include <string>

#include <pybind11/embed.h>

#include <zloop/pybind11.hpp>
#include <zloop/zloop.hpp>

namespace py = pybind11;
using zloop::task;

/// One answer a line. What Python raises is told to the peer, and ends nothing else.
task<> talk(zloop::stream peer, py::function answer) {
    zloop::buffered_reader lines(peer);
    for (;;) {
        const auto line = co_await lines.read_line();
        if (!line || line->empty()) {
            co_return;
        }
        std::string said;
        try {
            py::object given = answer(std::string(*line));
            if (py::hasattr(given, "__await__")) {
                given = co_await zloop::python::await(std::move(given));
            }
            said = py::str(given);
        } catch (const std::exception& failure) {  // also what Python has raised
            said = std::string("error: ") + failure.what();
        }
        said += '\n';
        if (const auto sent = co_await zloop::write_all(peer, zloop::bytes_of(said)); sent.error()) {
            co_return;
        }
    }
}

task<> serve(zloop::loop& on, py::function answer) {
    zloop::listener listening = zloop::listener::bind(on, zloop::address::loopback()).value();
    std::printf("port %d\n", listening.local_address().port());
    std::fflush(stdout);
    zloop::nursery connections(co_await zloop::current_context());
    while (auto came = co_await listening.accept()) {
        connections.spawn(talk(std::move(came->socket), answer));
    }
    connections.cancel();
    co_await connections.join();
}

/// Until SIGTERM: signals are this program's, Python has none.
task<> run(zloop::loop& on, py::function answer) {
    const zloop::context here = co_await zloop::current_context();
    zloop::job<> serving(here, serve(on, std::move(answer)));
    zloop::signal_set signals(on, {SIGTERM});
    static_cast<void>(co_await signals.wait());
    serving.cancel();
    co_await serving.join();
}

int main(int, char** words) {
    const py::scoped_interpreter python(false);  // no handlers of signals
    zloop::loop loop;
    zloop::python::asyncio_on asyncio(loop);

    py::dict script;
    py::eval_file(words[1], script);
    zloop::python::object beside;
    if (script.contains("main")) {
        beside = asyncio.start(zloop::python::object::steal(script["main"]().release().ptr()));
    }
    zloop::run(loop, run(loop, script["answer"]));
    asyncio.close();  // cancels what main() still does, and waits for its end
}
