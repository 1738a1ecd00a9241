// A C++ program with a loop of its own and Python in it: `embedding SCENARIO`. Each says what it has seen,
// and test_embedding.py what that should be. Nothing but Python's own API.

#include <zloop/python.hpp>
#include <zloop/zloop.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace zp = zloop::python;
using namespace std::chrono_literals;
using zloop::task;
using zp::object;

namespace {

object checked(PyObject* owned) {
    if (owned == nullptr) {
        PyErr_Print();
        std::abort();
    }
    return object::steal(owned);
}
object globals() { return object::borrow(PyModule_GetDict(PyImport_AddModule("__main__"))); }
void execute(const char* code) {
    const object all = globals();
    checked(PyRun_String(code, Py_file_input, all.get(), all.get()));
}
object evaluate(const char* code) {
    const object all = globals();
    return checked(PyRun_String(code, Py_eval_input, all.get(), all.get()));
}
void set(const char* name, const object& value) {
    if (PyDict_SetItemString(globals().get(), name, value.get()) != 0) {
        std::abort();
    }
}
std::string text(const object& value) { return PyUnicode_AsUTF8(checked(PyObject_Str(value.get())).get()); }
void say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}
std::string name_of(const zp::raised& failure) { return Py_TYPE(failure.instance().get())->tp_name; }

template <class F>
void say_what_is_raised(F&& body) {
    try {
        body();
        say("nothing was raised");
    } catch (const zp::raised& failure) {
        say(name_of(failure) + ": " + text(failure.instance()));
    }
}

task<> tick(int& ticks) {
    for (;;) {
        const auto slept = co_await zloop::sleep_for(1ms);
        if (!slept) {
            co_return;
        }
        ++ticks;
    }
}

/// The asyncio program of embedded.py, beside tasks of C++.
void python_runs() {
    zloop::loop loop;
    int ticks = 0;
    zp::asyncio_on asyncio(loop);
    zloop::job<> ticking(loop, tick(ticks));
    execute("import embedded");
    say(text(asyncio.run(evaluate("embedded.main()"))));
    ticking.cancel();
    zloop::run(loop, [](zloop::job<>& ended) -> task<> { co_await ended.join(); }(ticking));
    say(ticks > 10 ? "C++ ran beside" : "C++ did not run");
}

void cpp_runs() {
    zloop::loop loop;
    zp::asyncio_on asyncio(loop);
    execute(R"(
import asyncio
async def nap(text):
    await asyncio.sleep(0.01)
    return f"{text} {asyncio.get_running_loop() is loop} {asyncio.current_task().get_name()}"
async def stop():
    await asyncio.sleep(0.01)
    loop.stop()
)");
    set("loop", asyncio.loop());
    const object napping = asyncio.start(evaluate("nap('started')"));
    // Of a task.
    say(zloop::run(loop, []() -> task<std::string> {
        const object said = co_await zp::await(evaluate("nap('awaited')"));
        (co_await zloop::sleep_for(20ms)).value();
        co_return text(said).substr(0, std::strlen("awaited True"));
    }()));
    set("task", napping);
    say(text(evaluate("task.result().split()[:2]")));
    // Until stop(), of either half.
    const object stopping = asyncio.start(evaluate("stop()"));
    loop.run();
    say("Python has stopped it");
    zloop::spawn(loop, [&]() -> task<> {
        (co_await zloop::sleep_for(1ms)).value();
        loop.stop();
    });
    loop.run();
    say("C++ has stopped it");
    // Turn by turn, in a host's loop.
    const object third = asyncio.start(evaluate("nap('third')"));
    set("task", third);
    int turns = 0;
    while (text(evaluate("task.done()")) == "False") {
        loop.run_once(1ms);
        ++turns;
    }
    say(turns > 1 ? "turn by turn" : "in one turn");
    say(text(evaluate("(asyncio._get_running_loop(), loop.is_running(), loop.is_closed())")));
}

void exceptions() {
    zloop::loop loop;
    zp::asyncio_on asyncio(loop);
    set("loop", asyncio.loop());
    execute(R"(
import asyncio, sys
seen = []
loop.set_exception_handler(lambda loop, context: seen.append(repr(context["exception"])))
async def fail(what):
    raise what
def leave(what):
    raise what
)");
    say_what_is_raised([&] { asyncio.run(evaluate("fail(KeyError('a'))")); });
    evaluate("(loop.call_soon(leave, KeyError('b')), loop.call_soon(loop.stop))");
    loop.run();
    say(text(evaluate("seen")));
    // What ends a program leaves the run that C++ asked for; what was queued behind stays.
    evaluate("(loop.call_soon(leave, SystemExit(3)), loop.call_soon(seen.append, 'behind'))");
    say_what_is_raised([&] { loop.run(); });
    say(text(evaluate("seen[1:]")));
    loop.run_once(0ms);
    say(text(evaluate("seen[1:]")));
    evaluate("loop.call_soon(leave, KeyboardInterrupt())");
    say_what_is_raised([&] { loop.run_once(); });
    // A C++ task that awaits.
    say_what_is_raised([&] {
        zloop::run(loop,
                   []() -> task<> { co_await zp::await(evaluate("fail(OSError(2, 'no such thing'))")); }());
    });
    // A run inside of a run.
    execute("async def nested():\n    loop.run_forever()\n");
    say_what_is_raised([&] { asyncio.run(evaluate("nested()")); });
    execute("loop_to_close = loop\nasync def close():\n    loop.close()\n");
    say_what_is_raised([&] { asyncio.run(evaluate("close()")); });
    say_what_is_raised([&] { zp::asyncio_on second(loop); });
    execute("try:\n    loop.time = lambda: 0.0\nexcept AttributeError as refused:\n    seen = refused\n");
    say(text(evaluate("seen")));
}

constexpr const char* with_all_kinds = R"(
import asyncio, socket, gc, weakref
ended = []
async def patient(name):
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.001)
        ended.append(name)
        raise
async def generate():
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        ended.append("generator")
async def begin():
    global tasks, server, transports, generator
    tasks = [asyncio.create_task(patient("task"))]
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    one, other = socket.socketpair()
    for each in (one, other):
        each.setblocking(False)
    asyncio.get_running_loop().add_reader(one, print)
    waiting = asyncio.create_task(asyncio.get_running_loop().sock_recv(other, 1))
    transports = [writer, one, other, waiting]
    asyncio.get_running_loop().call_later(3600, print)
    asyncio.get_running_loop().call_soon_threadsafe(lambda: None)
    generator = generate()
    await generator.__anext__()
    await asyncio.sleep(0.001)
)";

/// What an extension does, for who calls it while asyncio runs.
zloop::task<> spawn_beside(bool& is_over) {
    const auto serve = [](bool& over) -> zloop::task<> {
        static_cast<void>(co_await zloop::sleep_for(std::chrono::hours(1)));
        over = true;
    };
    zloop::spawn(zp::running_context(), serve(is_over));
    co_return;
}

/// Whoever ends Python's half, C++'s goes on, and nothing of Python's is left on the loop.
void ends(const std::function<void(zp::asyncio_on&)>& how) {
    zloop::loop loop;
    int ticks = 0;
    zloop::job<> ticking(loop, tick(ticks));
    {
        zp::asyncio_on asyncio(loop);
        set("loop", asyncio.loop());
        execute(with_all_kinds);
        bool is_over = false;
        zloop::job<> spawning(loop, spawn_beside(is_over));
        asyncio.run(evaluate("begin()"));
        how(asyncio);
        say(is_over ? "what extensions have spawned has ended" : "extensions' tasks go on");
        say(text(evaluate("(loop.is_closed(), sorted(ended))")));
        say_what_is_raised([&] { asyncio.run(evaluate("loop.create_future()")); });
    }
    execute("alive = weakref.ref(loop); del loop, tasks, server, transports, generator; gc.collect()");
    say(text(evaluate("alive()")));
    say(std::to_string(loop.timers().size()) + " timer, " + (loop.has_ready() ? "more" : "nothing") +
        " ready");
    ticks = 0;
    while (ticks < 3) {
        loop.run_once();
    }
    zp::asyncio_on again(loop);
    again.run(evaluate("asyncio.sleep(0.001)"));
    again.close();
    ticking.cancel();
    while (!ticking.done()) {
        loop.run_once();
    }
    say("C++ goes on");
}
void closes() {
    ends([](zp::asyncio_on& asyncio) { asyncio.close(); });
}
void python_closes() {
    ends([](zp::asyncio_on&) {
        evaluate("loop.set_exception_handler(lambda loop, context: None)");  // of tasks that never end
        evaluate("loop.close()");
    });
}

/// The C++ loop ends first, with live tasks of Python's.
void loop_ends_first() {
    std::optional<zloop::loop> loop(std::in_place);
    zp::asyncio_on asyncio(*loop);
    set("loop", asyncio.loop());
    execute(with_all_kinds);
    asyncio.run(evaluate("begin()"));
    loop.reset();
    say(text(evaluate("(loop.is_closed(), sorted(ended))")));
}

/// The GIL is let go of in the waits; and a program that lets go of it for good runs Python all the same.
void threads() {
    zloop::loop loop;
    std::optional<zp::asyncio_on> asyncio(std::in_place, loop);
    set("loop", asyncio->loop());
    execute(R"(
import asyncio, threading, time
posted = []
def other():
    while not posted:
        time.sleep(0.001)
        loop.call_soon_threadsafe(posted.append, threading.current_thread() is thread)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "answer"), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
thread = threading.Thread(target=other)
thread.start()
)");
    PyThreadState* const mine = PyEval_SaveThread();
    loop.run();
    PyEval_RestoreThread(mine);
    say(text(evaluate("posted[0]")));
    execute(R"(
thread.join()
refused = []
def close():
    try:
        loop.close()
    except OSError as error:
        refused.append(type(error).__name__)
thread = threading.Thread(target=close)
thread.start()
thread.join()
)");
    say(text(evaluate("(refused, loop.is_closed())")));
    asyncio->run(evaluate("asyncio.sleep(0)"));
    PyEval_SaveThread();
    asyncio.reset();
    PyEval_RestoreThread(mine);
    say(text(evaluate("loop.is_closed()")));
}

/// A hook and a clock of the owner's stay theirs.
void owners() {
    struct owners_hook final : zloop::wait_hook {
        void before_wait() noexcept override {
            ++waits;
            had_gil = had_gil || PyGILState_Check() != 0;
        }
        void after_wait() noexcept override { had_gil = had_gil || PyGILState_Check() != 0; }
        int waits = 0;
        bool had_gil = false;
    } hook;
    struct owners_clock final : zloop::clock_source {
        zloop::time_point now() noexcept override { return zloop::time_point::clock::now() + 10000h; }
    } clock;
    ::signal(SIGINT, SIG_IGN);
    zloop::loop loop;
    loop.use_wait_hook(&hook);
    loop.use_clock(&clock);
    {
        zp::asyncio_on asyncio(loop);
        set("loop", asyncio.loop());
        execute("import asyncio, time");
        asyncio.run(evaluate("asyncio.sleep(0.01)"));
        say(hook.waits > 0 && !hook.had_gil ? "the hook is called without the GIL" : "no hook");
        say(text(evaluate("loop.time() - time.monotonic() > 3600 * 9999")));
    }
    struct sigaction now {};
    ::sigaction(SIGINT, nullptr, &now);
    say(now.sa_handler == SIG_IGN ? "SIGINT is as it was" : "SIGINT is another");
    const int before = hook.waits;
    loop.run_once(0ms);
    say(hook.waits > before ? "and afterwards" : "and not afterwards");
}

}  // namespace

int main(int, char** words) {
    constexpr std::pair<std::string_view, void (*)()> scenarios[] = {
        {"python_runs", python_runs},
        {"cpp_runs", cpp_runs},
        {"exceptions", exceptions},
        {"closes", closes},
        {"python_closes", python_closes},
        {"loop_ends_first", loop_ends_first},
        {"threads", threads},
        {"owners", owners},
    };
    Py_InitializeEx(0);
    for (const auto& [name, scenario] : scenarios) {
        if (name == words[1]) {
            scenario();
        }
    }
    return Py_FinalizeEx() == 0 ? 0 : 1;
}
