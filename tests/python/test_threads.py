"""Other threads: what they ask for happens at once, while loops begin, stop, and end with their process."""

from __future__ import annotations

import asyncio
import gc
import linecache
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers import PATIENCE, check_program

import zloop


def is_asleep(loop: Any) -> Callable[[], bool]:
    """Ask whether it has begun to wait since now, where it can tell; asyncio's needs no such care."""
    if not hasattr(loop, "stats"):
        return lambda: True
    before = loop.stats["waits"]
    return lambda: loop.stats["waits"] > before


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.0005)


@pytest.fixture
def tiny_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# A wake-up is never lost.


def test_a_call_that_began_before_the_loop_ran_wakes_it(loop, monkeypatch):
    """In debug mode call_soon_threadsafe() runs Python, for the traceback: meanwhile the loop begins to sleep."""
    loop.set_debug(True)
    inside = threading.Event()
    plain = linecache.checkcache

    def checkcache(*args: Any) -> None:
        if threading.current_thread() is caller and not inside.is_set():
            inside.set()
            wait_for(asleep)
        plain(*args)

    monkeypatch.setattr(linecache, "checkcache", checkcache)
    caller = threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop))
    asleep = is_asleep(loop)
    caller.start()
    assert inside.wait(PATIENCE)
    late: list[Any] = []
    loop.call_later(PATIENCE, lambda: (late.append("nobody woke it"), loop.stop()))

    loop.run_forever()

    caller.join()
    loop.set_debug(False)
    assert late == []


def test_a_loop_that_a_host_turns_is_woken(loop):
    """Toolkits call _run_once() themselves; then no thread is said to run the loop."""
    asleep = is_asleep(loop)

    def call() -> None:
        wait_for(asleep)
        loop.call_soon_threadsafe(loop.stop)

    caller = threading.Thread(target=call)
    late: list[Any] = []
    loop.call_later(PATIENCE, lambda: (late.append("nobody woke it"), loop.stop()))
    caller.start()
    while not loop._stopping:
        loop._run_once()
    loop._stopping = False
    caller.join()
    assert late == []


def test_time_may_stop_the_loop_or_schedule_as_it_goes_to_sleep(no_leaks):
    """The loop asks an overridden time() when it decides how long to sleep. (asyncio's sleeps on.)"""

    class Odd(zloop.Loop):
        does: Any = None

        def time(self) -> float:
            does, self.does = self.does, None
            if does is not None:
                does()
            return super().time()

    loop = Odd()
    try:
        late: list[Any] = []
        timer = loop.call_later(PATIENCE, lambda: (late.append("slept"), loop.stop()))
        for what in (loop.stop, lambda: loop.call_soon_threadsafe(loop.stop)):
            loop.call_soon(setattr, loop, "does", what)
            loop.run_forever()
        assert late == []
        timer.cancel()
    finally:
        loop.close()


@pytest.mark.slow
def test_calls_from_threads_are_never_lost_while_the_loop_stops_and_starts(loop, tiny_switches):
    ran, threads, calls = [0], 4, 2000

    def one() -> None:
        ran[0] += 1

    def work() -> None:
        for number in range(calls):
            loop.call_soon_threadsafe(one)
            if number % 50 == 0:
                loop.call_soon_threadsafe(loop.stop)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for each in workers:
        each.start()
    while any(each.is_alive() for each in workers):
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran[0] == threads * calls


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_threadsafe_call_may_race_with_the_end_of_a_loop(
    new_loop, tiny_switches, monkeypatch
):
    """It works, or says that the loop is closed; and each callback that it was given is dropped."""
    # A future that is cancelled on a closed loop is logged, and pytest keeps what its traceback holds.
    monkeypatch.setattr(logging.getLogger("concurrent.futures"), "disabled", True)
    kind = type(new_loop())

    class Thing:
        def called(self) -> None: ...

        async def awaited(self) -> None:
            await asyncio.sleep(0)

    things: list[weakref.ref[Thing]] = []
    for number in range(20):
        loop = kind()
        loop.set_debug(number % 4 == 0)
        failures: list[BaseException] = []

        def work(loop: Any = loop, failures: Any = failures) -> None:
            try:
                for number in range(1000):
                    if number > 100:  # the last ones are refused
                        wait_for(loop.is_closed)
                    thing = Thing()
                    things.append(weakref.ref(thing))
                    loop.call_soon_threadsafe(thing.called).cancelled()
                    loop.call_soon_threadsafe(thing.called).cancel()
                    # Of another one: a task that asyncio makes as its loop ends may outlive both.
                    coroutine = Thing().awaited()
                    try:
                        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
                    except RuntimeError:
                        coroutine.close()
                        raise
                    future.cancel()
                    loop.is_running(), loop.is_closed(), loop.time(), repr(loop), loop.get_debug()
            except RuntimeError as error:
                failures.append(error)

        workers = [threading.Thread(target=work) for _ in range(3)]
        for each in workers:
            each.start()
        for _ in range(5):
            loop.call_later(0.001, loop.stop)
            loop.run_forever()
        loop.set_debug(False)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        for each in workers:
            each.join()
        assert [str(each) for each in failures] == ["Event loop is closed"] * 3
    del loop, tasks, work, workers, each, failures
    gc.collect()
    assert {thing() for thing in things} == {None}


# The end of the process.


PRELUDE = """
    import asyncio, atexit, os, sys, threading, time, types, weakref

    def new_loop():
        if sys.argv[1] == "asyncio":
            loop = asyncio.SelectorEventLoop()
        else:
            import zloop
            loop = zloop.new_event_loop()
        loop.slow_callback_duration = 10  # threads wait for each other, and debug mode would tell
        return loop

    def in_daemon_thread(loop):
        threading.Thread(target=loop.run_forever, daemon=True).start()
        return loop

"""
either = pytest.mark.parametrize("which", ["asyncio", "zloop"])


@either
def test_loops_in_daemon_threads_answer_until_the_last_atexit_callback(which):
    """Those registered before zloop was imported are called last."""
    out = check_program(
        PRELUDE
        + """
    import logging

    def ask(who):
        asking = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001, who), loop)
        print(asking.result(5), flush=True)

    class Handler(logging.Handler):
        def flush(self):
            ask("logging.shutdown")

    class Thing: ...

    thing = Thing()
    logging.getLogger().addHandler(handler := Handler())
    atexit.register(ask, "registered first")
    weakref.finalize(thing, ask, "weakref.finalize")
    loop = in_daemon_thread(new_loop())
    atexit.register(ask, "registered last")
    """,
        which,
    )
    assert sorted(out.split("\n")) == sorted(
        ["registered last", "weakref.finalize", "registered first", "logging.shutdown", ""]
    )


@either
def test_loops_in_daemon_threads_outlive_an_emptied_atexit_registry(which):
    """What runs the callbacks, or drops them, need not be the interpreter's end."""
    out = check_program(
        PRELUDE
        + """
    loop = in_daemon_thread(new_loop())
    for empty in (atexit._run_exitfuncs, atexit._clear, atexit._clear):
        empty()
        asking = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001, "answer"), loop)
        print(asking.result(5))
    """,
        which,
    )
    assert out == "answer\n" * 3


@either
@pytest.mark.parametrize(
    "callback",
    [
        "time.sleep(0.2)",
        "sorted([0.2], key=time.sleep)",
        "asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop) and time.sleep(0.2)",
    ],
)
def test_a_daemon_loop_in_the_middle_of_a_callback_does_not_abort_the_end(which, callback):
    """Before 3.14 CPython ends such a thread by unwinding its stack, once the interpreter is ending."""
    out = check_program(
        PRELUDE
        + f"""
    class Slow:
        def __del__(self, sleep=time.sleep, write=os.write):
            sleep(0.5)  # the interpreter is ending, and lets go of the GIL
            write(1, b"ended")

    def block():
        blocks.set()
        {callback}
        loop.call_soon(block)

    blocks = threading.Event()
    sys.modules["last"] = last = types.ModuleType("last")
    last.slow = Slow()
    del last
    loop = new_loop()
    loop.call_soon(block)
    in_daemon_thread(loop)
    blocks.wait(5)
    """,
        which,
    )
    assert out == "ended"


@either
def test_the_end_of_a_process_takes_busy_and_sleeping_daemon_loops_along(which):
    check_program(
        PRELUDE
        + """
    def busy(loop):
        loop.call_soon(busy, loop)

    def ticking(loop):
        loop.call_later(0.0001, ticking, loop)

    for begin in (busy, ticking, id, busy, ticking):
        loop = new_loop()
        loop.call_soon(begin, loop)
        in_daemon_thread(loop)
    ready = threading.Event()
    loop.call_soon_threadsafe(ready.set)
    ready.wait(5)
    """,
        which,
    )


# What threads leave behind.


def test_what_is_scheduled_as_a_run_ends_can_be_collected(new_loop):
    """After the last turn run_forever() still runs Python."""
    kind = type(new_loop())

    class Leaves(kind):  # type: ignore[misc, valid-type]
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
            super()._set_coroutine_origin_tracking(enabled)
            if not enabled:
                self.timer = self.call_later(3600, id, self)
                self.handle = self.call_soon(id, self)
                caller = threading.Thread(target=self.call_soon_threadsafe, args=(id, self))
                caller.start()
                caller.join()

    loop = Leaves()
    loop.call_soon(loop.stop)
    loop.run_forever()
    gone = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert gone() is None
