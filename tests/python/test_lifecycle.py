"""Making, running, closing and dropping loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import inspect
import os
import socket
import sys
import threading
import time
import warnings
import weakref

import pytest
from helpers import (
    BACKEND,
    FACTORIES,
    LIBKQUEUE,
    PATIENCE,
    Recorder,
    check_program,
    run_program,
    tcp_pair,
)

import zloop

quiet = pytest.mark.filterwarnings("ignore::ResourceWarning")
refusals_harm = pytest.mark.skipif(
    "try:\n            self._run_forever_setup()"
    in inspect.getsource(asyncio.BaseEventLoop.run_forever),
    reason="asyncio of 3.13.0: a refused run_forever() makes the running loop forget that it runs",
)


@pytest.mark.without_debug
def test_a_new_loop_is_open_and_does_not_run(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert not loop.is_running() and not loop.is_closed()
    assert not loop.get_debug()


@pytest.mark.without_debug
def test_repr_tells_the_state(loop):
    assert "running=False closed=False debug=False" in repr(loop)
    loop.close()
    assert "running=False closed=True debug=False" in repr(loop)


# Running.


def test_run_until_complete_returns_the_result(loop):
    assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
    future = loop.create_future()
    loop.call_soon(future.set_result, 5)
    assert loop.run_until_complete(future) == 5


def test_run_until_complete_raises_the_exception(loop):
    async def fail():
        raise ZeroDivisionError("the coroutine's own")

    with pytest.raises(ZeroDivisionError, match="the coroutine's own"):
        loop.run_until_complete(fail())
    assert loop.run_until_complete(asyncio.sleep(0, "still usable")) == "still usable"


def test_a_loop_stopped_before_the_future_is_done_says_so(loop):
    loop.call_soon(loop.stop)
    future = loop.create_future()
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)


async def test_a_running_loop_is_the_running_loop(loop):
    assert asyncio.get_running_loop() is loop
    assert asyncio.get_event_loop() is loop
    assert loop.is_running()


@refusals_harm
async def test_a_running_loop_does_not_run_again(loop):
    with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
        loop.run_forever()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
        loop.run_until_complete(coroutine)
    coroutine.close()


@refusals_harm
def test_a_loop_does_not_run_inside_another(loop, new_loop):
    other = new_loop()

    async def main():
        with pytest.raises(
            RuntimeError, match=r"^Cannot run the event loop while another loop is running$"
        ):
            other.run_forever()

    loop.run_until_complete(main())


async def test_a_running_loop_cannot_be_closed(loop):
    with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
        loop.close()
    assert not loop.is_closed()


def test_a_future_of_another_loop_is_refused(loop, new_loop):
    future = new_loop().create_future()
    with pytest.raises(ValueError, match="belongs to a different loop"):
        loop.run_until_complete(future)


@pytest.mark.parametrize("what", [None, 5, print])
def test_run_until_complete_refuses_what_cannot_be_awaited(loop, what):
    with pytest.raises(
        TypeError, match=r"asyncio\.Future, a coroutine or an awaitable is required"
    ):
        loop.run_until_complete(what)


# Closing.


def test_closing_twice_is_harmless(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()


def test_a_closed_loop_refuses_work_in_asyncios_words(loop):
    with socket.socket() as sock:
        sock.setblocking(False)
        loop.close()
        coroutine = asyncio.sleep(0)
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_soon(print, 1, 2, 3, 4, 5, 6),
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
            loop.run_forever,
            lambda: loop.run_until_complete(coroutine),
            lambda: loop.create_task(coroutine),
            lambda: loop.add_reader(sock, print),
            lambda: loop.add_writer(sock, print),
            lambda: loop.run_in_executor(None, print),
        ):
            with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
                call()
        coroutine.close()
        assert loop.remove_reader(sock) is False
        assert loop.remove_writer(sock) is False
        loop.stop()
        assert type(loop.time()) is float
        assert not loop.is_running()


def test_closing_drops_what_is_scheduled(new_loop):
    class Thing:
        pass

    loop, thing = new_loop(), Thing()
    gone = weakref.ref(thing)
    loop.call_soon(print, thing)
    loop.call_later(100, print, thing)
    loop.close()
    del thing
    gc.collect()
    assert gone() is None


def test_closing_leaves_foreign_descriptors_open(new_loop):
    loop = new_loop()
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, print)
        loop.add_writer(one, print)
        loop.close()
        one.send(b"x")
        assert other.recv(1) == b"x"


@quiet
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("made", ["connected", "accepted"])
def test_a_connection_left_open_is_closed_when_it_is_dropped(new_loop, made):
    loop = new_loop()
    ours, theirs = tcp_pair()
    with theirs:
        start = loop.create_connection if made == "connected" else loop.connect_accepted_socket
        transport, protocol = loop.run_until_complete(start(Recorder, sock=ours))
        loop.close()
        reference = weakref.ref(transport)
        del ours, transport, protocol, start
        gc.collect()
        assert reference() is None
        theirs.settimeout(PATIENCE)
        assert theirs.recv(1) == b""


def test_an_open_transport_of_a_closed_loop_warns_when_it_is_dropped(new_loop):
    loop = new_loop()
    ours, theirs = tcp_pair()
    with theirs, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
        loop.close()
        words = repr(transport)
        del ours, transport, protocol
        gc.collect()
    told = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert any(each.startswith("unclosed transport <") for each in told), (told, words)


@quiet
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_transports_of_a_closed_loop_say_that_it_is_closed(new_loop):
    loop = new_loop()
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
        loop.close()
        assert transport.get_extra_info("peername") == theirs.getsockname()
        assert transport.get_extra_info("sockname") == theirs.getpeername()
        assert not transport.is_closing()
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            transport.close()
        del transport, protocol, ours
        gc.collect()


# What could not be made.


def test_a_loop_without_descriptors_is_an_oserror_and_nothing_else():
    """Nothing leaks, and half a loop has nothing to say when it is dropped."""
    out = check_program(
        """
        import asyncio, gc, os, resource
        import zloop

        def descriptors():
            return sorted(map(int, os.listdir("/proc/self/fd")))[:-1]  # the last is of listdir

        zloop.run(asyncio.sleep(0))
        gc.collect()
        before = descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        outcomes = set()
        for spare in range(1, 9):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before[-1] + spare, hard))
            try:
                zloop.new_event_loop().close()
                outcomes.add("made")
            except OSError:
                outcomes.add("OSError")
            gc.collect()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert descriptors() == before, spare
        zloop.run(asyncio.sleep(0))
        print(sorted(outcomes))
        """,
        options=("-W", "always"),
    )
    assert out == "['OSError', 'made']\n"


def test_a_loop_whose_init_never_ran_is_closed_and_says_nothing():
    """One of a subclass that raises first, say."""

    class Fails(zloop.Loop):
        def __init__(self):
            raise ZeroDivisionError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZeroDivisionError):
            Fails()
        gc.collect()
        bare = zloop.Loop.__new__(zloop.Loop)
        assert bare.is_closed()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            bare.call_soon(print)
        del bare
        gc.collect()


# Dropping.


@quiet
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kept", [True, False])
def test_cycles_through_timers_of_a_dropped_loop_are_collected(new_loop, kept):
    """Armed before a run, in it, between two, and cancelled; held by what they call, or by the loop alone."""
    kind = type(new_loop())

    class Thing:
        def __init__(self, loop, cancels=False):
            timer = loop.call_later(3600, self.called, loop)
            things.append(weakref.ref(self))
            if kept or cancels:
                self.timer = timer
            if cancels:
                timer.cancel()

        def called(self, loop): ...

    def run(loop):
        loop.call_soon(Thing, loop)
        loop.call_soon(Thing, loop, True)
        loop.call_later(0, Thing, loop)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()

    things = []
    loop = kind()
    Thing(loop)
    run(loop)
    Thing(loop)
    run(loop)
    references = [weakref.ref(loop), *things]
    assert len(references) == 9
    del loop
    gc.collect()
    assert [each() for each in references] == [None] * 9


def test_a_run_costs_the_same_whatever_timers_are_armed(loop):
    def cost():
        costs = []
        for _ in range(200):
            loop.call_soon(loop.stop)
            begin = time.perf_counter()
            loop.run_forever()
            costs.append(time.perf_counter() - begin)
        return min(costs)

    alone = cost()
    timers = [loop.call_later(3600, int) for _ in range(20_000)]
    loop.call_soon(lambda: timers.extend(loop.call_later(3600, int) for _ in range(20_000)))
    beside_many = cost()
    for timer in timers:
        timer.cancel()
    assert beside_many < alone * 5  # it was a hundred times as much


def test_a_loop_dropped_open_warns(new_loop):
    kind = type(new_loop())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = kind()
        del loop
        gc.collect()
    told = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert any(each.startswith("unclosed event loop <") for each in told), told


def test_a_closed_loop_is_collected(new_loop):
    kind = type(new_loop())
    loop = kind()
    loop.attribute = loop
    loop.call_soon(loop.stop)
    loop.call_later(100, loop.stop)
    loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))
    reference = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("left", [False, True], ids=["idle", "with work left"])
def test_a_closed_loop_is_gone_with_its_last_owner(left):
    """Not when the collector comes: a thread that asks its loop for its end may be that owner."""
    for factory in FACTORIES.values():
        loop = factory()
        reference = weakref.ref(loop)
        loop.run_until_complete(asyncio.to_thread(int))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        if left:
            loop.call_soon(print)
            loop.call_later(3600, print)
            assert len(loop._ready) == 1
        gc.disable()
        try:
            loop.close()
            assert len(loop._ready) == 0
            del loop
            assert reference() is None
        finally:
            gc.enable()


@quiet
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_open_loop_is_collected_with_all_it_holds(new_loop):
    kind = type(new_loop())
    loop = kind()
    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
        loop.call_later(100, loop.stop)
        loop.call_soon(loop.stop)
        references = [weakref.ref(each) for each in (loop, transport, protocol, server)]
        del loop, transport, protocol, server, ours
        gc.collect()
        gc.collect()
        assert [each() for each in references] == [None] * 4


def test_loops_take_new_attributes_and_can_be_patched(loop):
    loop.remark = "mine"
    assert loop.remark == "mine"
    calls = []
    loop.call_exception_handler = calls.append
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert isinstance(calls[0]["exception"], ZeroDivisionError)
    del loop.call_exception_handler


def test_many_loops_one_after_the_other(new_loop):
    kind = type(new_loop())
    for _ in range(50):
        loop = kind()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_loops_in_threads_of_their_own(new_loop):
    loops, results = [new_loop() for _ in range(4)], []

    def run(loop):
        results.append(loop.run_until_complete(asyncio.sleep(0.01, "done")))
        loop.close()  # here: on io_uring no other thread may turn it

    threads = [threading.Thread(target=run, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["done"] * 4


# Entry points.


def test_zloop_run_runs_on_zloop():
    async def main():
        assert type(asyncio.get_running_loop()) is zloop.Loop
        return "result"

    assert zloop.run(main()) == "result"


def test_zloop_run_ends_tasks_and_generators():
    ended = []

    async def forever():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    async def generate():
        try:
            yield 1
        finally:
            ended.append("generator")

    async def main():
        task = asyncio.ensure_future(forever())
        generator = generate()
        await anext(generator)
        await asyncio.to_thread(int)
        return task, generator

    zloop.run(main())
    assert sorted(ended) == ["generator", "task"]


@pytest.mark.parametrize("debug", [True, False])
def test_zloop_run_takes_debug(debug):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert zloop.run(main(), debug=debug) is debug


async def test_zloop_run_refuses_inside_a_loop_in_asyncios_words(zloop_loop):
    async def main(): ...

    coroutines = [main(), main()]
    words = []
    for run, coroutine in zip((asyncio.run, zloop.run), coroutines, strict=True):
        with pytest.raises(RuntimeError) as raised:
            run(coroutine)
        words.append(str(raised.value))
        coroutine.close()
    assert words[0] == words[1]


def test_zloop_run_refuses_what_is_no_coroutine():
    words = []
    for run in (asyncio.run, zloop.run):
        with pytest.raises((ValueError, TypeError)) as raised:
            run(5)
        words.append((type(raised.value), str(raised.value)))
    assert words[0] == words[1]


def test_runner_takes_our_factory():
    with asyncio.Runner(loop_factory=zloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), zloop.Loop)
        assert runner.run(asyncio.sleep(0, 1)) == 1
        assert runner.run(asyncio.sleep(0, 2)) == 2


def test_asyncio_run_takes_our_factory():
    if sys.version_info < (3, 12):
        pytest.skip("asyncio.run takes a loop factory from 3.12 on")

    async def main():
        return type(asyncio.get_running_loop())

    assert asyncio.run(main(), loop_factory=zloop.new_event_loop) is zloop.Loop


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_policy_makes_our_loops():
    if sys.version_info >= (3, 16):
        assert not hasattr(zloop, "EventLoopPolicy")
        return
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(zloop.EventLoopPolicy())
    try:
        loop = asyncio.new_event_loop()
        assert type(loop) is zloop.Loop
        loop.close()

        async def main():
            return type(asyncio.get_running_loop())

        assert asyncio.run(main()) is zloop.Loop
    finally:
        asyncio.set_event_loop_policy(before)


def test_install_is_the_policy_for_who_has_uvloops(recwarn):
    if sys.version_info >= (3, 16):
        assert not hasattr(zloop, "install")
        return
    warnings.simplefilter("ignore", DeprecationWarning)  # of asyncio's own, from 3.14 on
    before = asyncio.get_event_loop_policy()
    warnings.simplefilter("always", DeprecationWarning)
    try:
        zloop.install()
        told = [each for each in recwarn if each.category is DeprecationWarning]
        assert len(told) == (1 if sys.version_info >= (3, 12) else 0)
        assert all("zloop.run()" in str(each.message) for each in told)
        assert all(each.filename == __file__ for each in told)
        loop = asyncio.new_event_loop()
        assert type(loop) is zloop.Loop
        loop.close()
    finally:
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(before)


def test_the_package_exports_what_it_promises():
    assert isinstance(zloop.__version__, str)
    assert set(zloop.__all__) <= set(dir(zloop)) | {"EventLoopPolicy"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = zloop.nothing
    loop = zloop.new_event_loop()
    assert type(loop) is zloop.Loop
    assert loop.backend == BACKEND
    loop.close()


NAME_OF_BACKEND = "import zloop; loop = zloop.new_event_loop(); print(loop.backend); loop.close()"


@pytest.mark.parametrize("wanted", ["", "auto", "epoll", "kqueue"])
def test_a_loop_is_on_epoll_unless_the_environment_names_what_is_here(wanted):
    expected = "kqueue" if wanted == "kqueue" and LIBKQUEUE else "epoll"
    assert check_program(NAME_OF_BACKEND, ZLOOP_BACKEND=wanted) == f"{expected}\n"


def test_a_loop_is_on_io_uring_where_it_is_wanted_and_allowed():
    allowed = """
    import ctypes, errno
    ctypes.CDLL(None, use_errno=True).syscall(425, 0, None)  # io_uring_setup
    print(ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM))
    """
    expected = "io_uring\n" if check_program(allowed) == "True\n" else "epoll\n"

    assert check_program(NAME_OF_BACKEND, ZLOOP_BACKEND="io_uring") == expected


def test_a_backend_that_no_system_has_is_an_error():
    failed = run_program(NAME_OF_BACKEND, ZLOOP_BACKEND="iouring")

    assert failed.returncode == 1
    assert failed.stderr.endswith(
        'ValueError: ZLOOP_BACKEND is "iouring"; it can be epoll, io_uring, kqueue or auto\n'
    )


def test_importing_zloop_warns_of_nothing():
    check_program("import zloop; zloop.__version__", options=("-W", "error"))


# Generators and executors.


def test_asyncgens_left_suspended_are_finalised(loop):
    ended = []

    async def generate(name):
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def main():
        async for _ in generate("broken off"):
            break
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        left = generate("left")
        await anext(left)
        return left

    left = loop.run_until_complete(main())
    assert ended == ["broken off"]
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert ended == ["broken off", "left"]
    del left


async def test_run_in_executor(loop):
    assert await loop.run_in_executor(None, pow, 2, 10) == 1024
    assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert await loop.run_in_executor(pool, pow, 2, 3) == 8
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, lambda: 1 / 0)


async def test_the_default_executor_can_be_set_and_shut_down(loop):
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1, "mine"))
    assert await loop.run_in_executor(None, lambda: threading.current_thread().name) == "mine_0"
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        await loop.run_in_executor(None, int)


# Forks.

FORK = """
import asyncio, os, socket, sys, warnings
import zloop

loop = zloop.new_event_loop()

def in_child(function):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_the_loop_of_a_parent_refuses_to_run_in_the_child():
    check_program(
        FORK
        + """
def child():
    for run in (loop.run_forever, lambda: loop.run_until_complete(loop.create_future())):
        try:
            run()
        except RuntimeError as exc:
            assert "fork" in str(exc), exc
        else:
            raise AssertionError("it ran")
    assert zloop.run(asyncio.sleep(0.001, "fresh")) == "fresh"

loop.run_until_complete(asyncio.sleep(0))
assert in_child(child) == 0
assert loop.run_until_complete(asyncio.sleep(0.001, "parent")) == "parent"
loop.close()
"""
    )


def test_a_child_made_inside_a_running_loop_can_make_its_own():
    check_program(
        FORK
        + """
def child():
    asyncio._set_running_loop(None)
    assert zloop.run(asyncio.sleep(0.001, "fresh")) == "fresh"

async def main():
    assert in_child(child) == 0
    return "parent"

assert loop.run_until_complete(main()) == "parent"
loop.close()
"""
    )


@pytest.mark.parametrize("kind", ["asyncio", "zloop"])
def test_a_child_that_closes_the_inherited_loop_does_not_disturb_the_parent(kind):
    """The epoll set is shared with the child: it must not be emptied there."""
    check_program(
        FORK
        + """
warnings.simplefilter("ignore")
if sys.argv[1] == "asyncio":
    loop.close()
    loop = asyncio.SelectorEventLoop()
received = asyncio.Event()

class Protocol(asyncio.Protocol):
    def data_received(self, data):
        received.set()

one, other = socket.socketpair()
transport, protocol = loop.run_until_complete(loop.create_connection(Protocol, sock=one))
server = loop.run_until_complete(loop.create_server(Protocol, "127.0.0.1", 0))
r, w = os.pipe()
readable = loop.create_future()
loop.add_reader(r, lambda: readable.done() or readable.set_result(True))

assert in_child(loop.close) == 0
other.send(b"x")
os.write(w, b"x")

async def main():
    await asyncio.wait_for(received.wait(), 5)
    assert await asyncio.wait_for(readable, 5)
    received.clear()
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        sock.send(b"x")
        await asyncio.wait_for(received.wait(), 5)

loop.run_until_complete(main())
loop.remove_reader(r)
transport.close()
server.close()
loop.run_until_complete(asyncio.sleep(0.001))
loop.close()
""",
        kind,
    )


def test_forked_processes_of_multiprocessing_run_loops():
    check_program(
        """
import asyncio, multiprocessing, os, zloop

def work():
    zloop.run(asyncio.sleep(0.001))

async def main():
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0, process.exitcode

zloop.run(main())
""",
        options=("-W", "ignore"),
    )


def test_an_idle_loop_sleeps():
    """No CPU while nothing happens: hardly any turn, hardly any processor time."""
    loop = zloop.new_event_loop()
    try:
        before, cpu = loop.stats["waits"], os.times()
        loop.run_until_complete(asyncio.sleep(0.3))
        after = os.times()
        assert loop.stats["waits"] - before <= 5
        assert after.user + after.system - cpu.user - cpu.system <= 0.1
    finally:
        loop.close()
