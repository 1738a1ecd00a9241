"""Callbacks run in asyncio's order, in their contexts, at their time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from helpers import PATIENCE, Recorder, tcp_pair

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def run_a_turn(loop: Any) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


# Order.


def test_callbacks_run_in_the_order_they_were_scheduled_in(loop):
    seen = []
    for number in range(1000):
        loop.call_soon(seen.append, number)
    run_a_turn(loop)
    assert seen == list(range(1000))


def test_stop_finishes_the_turn_and_starts_no_other(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, "this turn")
    loop.call_soon(loop.call_soon, seen.append, "next turn")
    loop.run_forever()
    assert seen == ["this turn"]


def test_what_a_turn_leaves_behind_runs_when_the_loop_runs_again(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(loop.call_soon, seen.append, "next turn")
    loop.run_forever()
    run_a_turn(loop)
    assert seen == ["next turn"]


def test_what_a_callback_schedules_waits_for_the_next_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "scheduled by first")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == ["first", "second", "scheduled by first"]


def test_stop_before_run_forever_makes_exactly_one_turn(loop):
    seen = []
    loop.call_soon(seen.append, "one")
    loop.call_soon(loop.call_soon, seen.append, "two")
    loop.stop()
    loop.run_forever()
    assert seen == ["one"]


def test_stop_before_run_forever_does_not_wait_for_timers(loop):
    loop.call_later(3600, print)
    loop.stop()
    began = time.monotonic()
    loop.run_forever()
    assert time.monotonic() - began < PATIENCE


def test_stop_is_forgotten_when_the_loop_has_stopped(loop):
    seen = []
    loop.stop()
    loop.stop()
    loop.run_forever()
    loop.call_soon(loop.call_soon, lambda: (seen.append("second turn"), loop.stop()))
    loop.run_forever()
    assert seen == ["second turn"]


def test_due_timers_run_after_what_was_ready(loop):
    seen = []
    loop.call_later(0, seen.append, "timer")
    loop.call_soon(seen.append, "soon")
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == ["soon", "timer"]


def test_timers_run_in_the_order_of_their_times(loop):
    seen = []
    begin = loop.time() + 0.01
    for number in (3, 1, 4, 0, 2):
        loop.call_at(begin + number / 1000, seen.append, number)
    loop.call_at(begin + 0.01, loop.stop)
    loop.run_forever()
    assert seen == [0, 1, 2, 3, 4]


def test_timers_in_the_past_run_in_the_next_turn(loop):
    seen = []
    loop.call_later(-5, seen.append, "later")
    loop.call_at(0, seen.append, "at")
    run_a_turn(loop)
    assert sorted(seen) == ["at", "later"]


def test_timers_far_in_the_future_are_accepted(loop):
    seen: list[int] = []
    handles = [loop.call_later(delay, seen.append, 1) for delay in (1e10, 1e300, float("inf"))]
    run_a_turn(loop)
    assert seen == []
    for handle in handles:
        handle.cancel()


# Arguments.


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 20])
def test_callbacks_take_any_number_of_arguments(loop, count):
    seen = []
    arguments = tuple(range(count))
    loop.call_soon(lambda *args: seen.append(("soon", args)), *arguments)
    loop.call_later(0, lambda *args: seen.append(("later", args)), *arguments)
    loop.call_soon_threadsafe(lambda *args: seen.append(("threadsafe", args)), *arguments)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == [("soon", arguments), ("threadsafe", arguments), ("later", arguments)]


def test_what_another_thread_has_queued_runs_before_what_is_queued_after(loop):
    seen = []

    def callback():
        loop.call_soon(seen.append, "before")
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, "thread"))
        thread.start()
        thread.join()
        loop.call_soon(seen.append, "after")

    loop.call_soon(callback)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == ["before", "thread", "after"]


@pytest.mark.without_debug
def test_a_callback_that_cancels_itself_and_fails_has_no_name(loop, errors):
    def fail():
        handle.cancel()
        raise ValueError

    handle = loop.call_soon(fail)
    run_a_turn(loop)
    assert [context["message"] for context in errors] == ["Exception in callback None()"]
    errors.clear()


def test_callbacks_may_be_bound_methods_partials_and_builtins(loop):
    class Counter:
        def __init__(self):
            self.total = 0

        def add(self, one, two=0):
            self.total += one + two

    counter, collected = Counter(), []
    loop.call_soon(counter.add, 1)
    loop.call_soon(counter.add, 2, 3)
    loop.call_soon(functools.partial(counter.add, two=4), 5)
    loop.call_soon(collected.append, 6)
    run_a_turn(loop)
    assert (counter.total, collected) == (15, [6])


# Contexts.


def test_callbacks_run_in_a_copy_of_the_context_that_scheduled_them(loop):
    seen = []

    def callback():
        seen.append(variable.get())
        variable.set("changed by the callback")

    token = variable.set("at scheduling")
    loop.call_soon(callback)
    loop.call_later(0, callback)
    loop.call_soon_threadsafe(callback)
    variable.reset(token)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert (seen, variable.get()) == (["at scheduling"] * 3, "unset")


def test_callbacks_run_in_the_context_given(loop):
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    seen = []

    def callback():
        seen.append(variable.get())
        variable.set("kept")

    loop.call_soon(callback, context=context)
    run_a_turn(loop)
    loop.call_later(0, callback, context=context)
    loop.call_at(0, callback, context=context)
    loop.call_soon_threadsafe(callback, context=context)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == ["given", "kept", "kept", "kept"]


def test_a_handle_tells_its_context(loop):
    if not hasattr(asyncio.Handle, "get_context"):
        pytest.skip("Handle.get_context is new in 3.12")
    context = contextvars.copy_context()
    assert loop.call_soon(print, context=context).get_context() is context


def test_an_add_reader_callback_runs_in_the_context_that_added_it(loop):
    import socket

    seen = []
    one, other = socket.socketpair()
    with one, other:
        token = variable.set("of the reader")
        loop.add_reader(one, lambda: (seen.append(variable.get()), loop.stop()))
        variable.reset(token)
        other.send(b"x")
        loop.run_forever()
        loop.remove_reader(one)
    assert seen == ["of the reader"]


# Handles.


def test_handles_are_asyncio_handles(loop):
    soon, safe = loop.call_soon(print), loop.call_soon_threadsafe(print)
    later, at = loop.call_later(9, print), loop.call_at(loop.time() + 9, print)
    for handle in (soon, safe):
        assert isinstance(handle, asyncio.Handle)
        assert not isinstance(handle, asyncio.TimerHandle)
    for handle in (later, at):
        assert isinstance(handle, asyncio.TimerHandle)
    for handle in (soon, safe, later, at):
        handle.cancel()


def test_call_later_with_no_delay_is_a_timer_all_the_same(loop):
    handle = loop.call_later(0, print)
    assert isinstance(handle, asyncio.TimerHandle)
    assert abs(handle.when() - loop.time()) < 5
    handle.cancel()


def test_a_cancelled_handle_does_not_run(loop):
    seen: list[str] = []
    handles = [
        loop.call_soon(seen.append, "soon"),
        loop.call_soon_threadsafe(seen.append, "threadsafe"),
        loop.call_later(0, seen.append, "later"),
        loop.call_at(0, seen.append, "at"),
    ]
    for handle in handles:
        assert not handle.cancelled()
        handle.cancel()
        handle.cancel()
        assert handle.cancelled()
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == []


def test_a_callback_may_cancel_one_of_the_same_turn(loop):
    seen: list[str] = []
    handles: list[asyncio.Handle] = []
    loop.call_soon(lambda: [handle.cancel() for handle in handles])
    handles.append(loop.call_soon(seen.append, "soon"))
    handles.append(loop.call_later(0, seen.append, "later"))
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert seen == []


def test_a_callback_may_cancel_itself(loop):
    seen = []
    handles = []

    def callback(argument):
        handles[-1].cancel()
        seen.append(argument)

    for schedule in (loop.call_soon, functools.partial(loop.call_later, 0)):
        handles.append(schedule(callback, "argument"))
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        assert handles[-1].cancelled()
    assert seen == ["argument", "argument"]


def test_cancel_drops_the_callback_and_its_arguments_at_once(loop):
    class Thing:
        def __call__(self, *args: Any) -> None: ...

    for schedule in (loop.call_soon, functools.partial(loop.call_later, 100)):
        for extra in (0, 6):
            callback, argument = Thing(), Thing()
            watched = [weakref.ref(callback), weakref.ref(argument)]
            handle = schedule(callback, argument, *range(extra))
            del callback, argument
            assert all(each() is not None for each in watched)
            handle.cancel()
            assert [each() for each in watched] == [None, None]


def test_a_cancelled_timer_leaves_nothing_behind(loop):
    class Thing:
        pass

    for _ in range(1000):  # more than asyncio keeps before it cleans up
        thing = Thing()
        last = weakref.ref(thing)
        loop.call_later(1000, print, thing).cancel()
    del thing
    run_a_turn(loop)
    assert last() is None


def test_a_callback_that_has_run_keeps_nothing_alive(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    loop.call_soon(id, thing)
    loop.call_later(0, id, thing)
    del thing
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert gone() is None


def test_cancelling_a_handle_after_it_ran_is_harmless(loop):
    seen: list[int] = []
    handles = [loop.call_soon(seen.append, 1), loop.call_later(0, seen.append, 2)]
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    for handle in handles:
        handle.cancel()
        assert handle.cancelled()
    assert seen == [1, 2]


def shown(debug: bool) -> str:
    """How asyncio writes the arguments (1, "two"): from 3.13 on, in debug mode only."""
    return "1, 'two'" if debug or sys.version_info < (3, 13) else ""


def function_with_a_name(*args: Any) -> None:
    pass


def test_the_repr_of_a_handle_is_asyncios(new_loop):
    words = []
    for debug in (False, True):
        for make in (asyncio.SelectorEventLoop, new_loop):
            loop = make()
            loop.set_debug(debug)
            soon, later = (
                loop.call_soon(function_with_a_name, 1, "two"),
                loop.call_at(12345.0, function_with_a_name),
            )
            now = [repr(soon), repr(later)]
            soon.cancel()
            later.cancel()
            words.append([*now, repr(soon), repr(later)])
            loop.close()
        # Line numbers of where it was made are the same: one line makes both.
        assert words[-2] == words[-1]
    assert words[0][0].startswith(f"<Handle function_with_a_name({shown(False)}) at ")
    assert words[2][0].startswith(f"<Handle function_with_a_name({shown(True)}) at ")
    assert words[0][1].startswith("<TimerHandle when=12345.0 function_with_a_name() at ")
    assert words[0][2:] == ["<Handle cancelled>", "<TimerHandle cancelled when=12345.0>"]


@pytest.mark.without_debug
def test_debuggers_find_what_they_look_for_in_a_handle(loop):
    context = contextvars.copy_context()
    soon = loop.call_soon(function_with_a_name, 1, 2, context=context)
    timer = loop.call_at(12345, function_with_a_name, *range(9))
    assert (soon._callback, soon._args, soon._cancelled) == (function_with_a_name, (1, 2), False)
    assert (soon._context, soon._loop, soon._repr) == (context, loop, None)
    assert soon._source_traceback is None
    assert (timer._callback, timer._args) == (function_with_a_name, tuple(range(9)))
    assert (timer._when, timer._scheduled) == (12345, True)
    for handle in (soon, timer):
        handle.cancel()
        assert (handle._callback, handle._args, handle._cancelled) == (None, None, True)


def test_when_is_what_was_given(loop):
    for when in (12345.5, 12345, loop.time() + 100):
        handle = loop.call_at(when, print)
        assert handle.when() == when
        assert type(handle.when()) is type(when)
        assert handle._when == when
        handle.cancel()
        assert handle.when() == when
    before = loop.time()
    handle = loop.call_later(50, print)
    assert before + 50 <= handle.when() <= loop.time() + 50
    handle.cancel()


def test_timer_handles_compare_by_time(loop):
    early, late = loop.call_at(1e9, print, "x"), loop.call_at(2e9, print, "x")
    same = loop.call_at(1e9, print, "x")
    assert early < late and early <= late and late > early and late >= early
    assert early <= same and early >= same and not early < same and not early > same
    assert early == same and early != late and not early == late  # noqa: SIM201
    assert hash(early) == hash(same) == hash(early.when())
    other = loop.call_at(1e9, print, "y")
    assert early != other
    assert early.__eq__(1) is NotImplemented
    for handle in (early, late, same, other):
        handle.cancel()


def test_plain_handles_compare_by_identity(loop):
    one, two = loop.call_soon(print), loop.call_soon(print)
    assert one == one and one != two
    assert len({one, two}) == 2
    one.cancel()
    two.cancel()


def test_handles_can_be_weakly_referenced(loop):
    for schedule in (loop.call_soon, functools.partial(loop.call_later, 99)):
        handle = schedule(print)
        reference = weakref.ref(handle)
        assert reference() is handle
        handle.cancel()
        del handle
        run_a_turn(loop)
        gc.collect()
        assert reference() is None


def test_a_handle_outlives_its_loop(new_loop):
    loop = new_loop()
    soon, timer = loop.call_soon(print, 1), loop.call_later(1000, print, 2)
    loop.close()
    del loop
    gc.collect()
    soon.cancel()
    timer.cancel()
    assert soon.cancelled() and timer.cancelled()
    assert "cancelled" in repr(soon) and "cancelled" in repr(timer)


# Time.


@pytest.mark.parametrize("delay", [0.0, 1e-9, 1e-6, 0.00049, 0.001, 0.0013, 0.01])
def test_nothing_fires_early(loop, delay):
    late = []

    def check(deadline):
        late.append(time.monotonic() - deadline)
        if len(late) == 10:
            loop.stop()
        else:
            schedule()

    def schedule():
        loop.call_at((when := time.monotonic() + delay), check, when)

    schedule()
    loop.run_forever()
    assert min(late) >= 0


async def test_sleep_never_ends_early(loop):
    for delay in (0.0001, 0.0015, 0.005):
        before = time.monotonic()
        await asyncio.sleep(delay)
        assert time.monotonic() - before >= delay


def test_time_is_monotonic_time(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()
    assert type(now) is float


def test_a_patched_time_moves_the_timers(loop):
    seen = []
    offset = 0.0
    loop.time = lambda: time.monotonic() + offset
    handle = loop.call_later(3600, lambda: (seen.append("an hour later"), loop.stop()))
    assert handle.when() >= time.monotonic() + 3599
    run_a_turn(loop)
    assert seen == []
    offset = 3601.0
    loop.run_forever()
    assert seen == ["an hour later"]


def test_an_overridden_time_moves_the_timers(new_loop):
    kind = type(new_loop())

    class Shifted(kind):
        offset = 1_000_000.0

        def time(self):
            return time.monotonic() + self.offset

    loop = Shifted()
    try:
        seen = []
        handle = loop.call_later(3600, lambda: (seen.append("an hour later"), loop.stop()))
        assert 1_003_599 < handle.when() - time.monotonic() < 1_003_601
        loop.call_at(999_999.0, seen.append, "past")
        run_a_turn(loop)
        assert seen == ["past"]
        loop.offset += 3601
        loop.run_forever()
        assert seen == ["past", "an hour later"]
    finally:
        loop.close()


def test_a_time_that_raises_ends_run_forever_and_not_the_process(loop):
    def broken():
        raise ZeroDivisionError("the clock stands still")

    loop.call_later(0.001, print)
    loop.time = broken
    with pytest.raises(ZeroDivisionError, match="stands still"):
        loop.run_forever()
    del loop.time
    run_a_turn(loop)


# Threads.


@pytest.mark.parametrize("busy", [False, True], ids=["asleep", "busy"])
def test_call_soon_threadsafe_wakes_the_loop(loop, busy):
    def spin():
        loop.call_soon(spin)

    asleep = threading.Event()
    thread = threading.Thread(target=lambda: (asleep.wait(), loop.call_soon_threadsafe(loop.stop)))
    thread.start()
    loop.call_soon(asleep.set)
    if busy:
        loop.call_soon(spin)
    loop.run_forever()
    thread.join()


def test_callbacks_of_many_threads_all_run_each_threads_in_order(loop):
    threads, each = 8, 500
    seen: dict[int, list[int]] = {number: [] for number in range(threads)}
    left = threads

    def finished():
        nonlocal left
        left -= 1
        if left == 0:
            loop.stop()

    def work(number):
        for count in range(each):
            loop.call_soon_threadsafe(seen[number].append, count)
        loop.call_soon_threadsafe(finished)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    loop.call_soon(lambda: [worker.start() for worker in workers])
    loop.run_forever()
    for worker in workers:
        worker.join()
    assert all(numbers == list(range(each)) for numbers in seen.values())


def test_a_loop_that_answers_a_thread_a_thousand_times_never_misses_a_wakeup(loop):
    answered = threading.Semaphore(0)
    missed = []

    def work():
        for _ in range(1000):
            loop.call_soon_threadsafe(answered.release)
            if not answered.acquire(timeout=PATIENCE):
                missed.append(True)
                break
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    thread.start()
    loop.run_forever()
    thread.join()
    assert not missed


def test_call_soon_threadsafe_before_the_loop_runs(loop):
    seen = []
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(seen.append, 1))
    thread.start()
    thread.join()
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_a_threadsafe_handle_can_be_cancelled(loop):
    seen: list[int] = []
    handles = []
    thread = threading.Thread(
        target=lambda: handles.append(loop.call_soon_threadsafe(seen.append, 1))
    )
    thread.start()
    thread.join()
    handles[0].cancel()
    run_a_turn(loop)
    assert seen == []


def test_the_interpreter_is_free_for_other_threads_while_the_loop_sleeps(loop):
    counted = 0

    def count():
        nonlocal counted
        for _ in range(10_000):
            counted += 1
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=count)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert counted == 10_000


# Exceptions.


def failing(*_: Any) -> None:
    raise ZeroDivisionError("the callback's own")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_soon_threadsafe"])
def test_an_exception_goes_to_the_handler_in_asyncios_words(loop, errors, method, debug):
    loop.set_debug(debug)
    seen = []
    schedule: Callable[..., Any] = getattr(loop, method)
    if method == "call_later":
        schedule = functools.partial(schedule, 0)
    handle = schedule(failing, 1, "two")
    loop.call_soon(loop.call_soon, seen.append, "the loop goes on")
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    (context,) = errors
    errors.clear()
    assert set(context) - {"source_traceback"} == {"message", "exception", "handle"}
    assert context["message"].startswith(f"Exception in callback failing({shown(debug)}) at ")
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is handle
    assert seen == ["the loop goes on"]


def test_the_traceback_of_a_callback_ends_in_it(loop, errors):
    loop.call_soon(failing)
    run_a_turn(loop)
    traceback = errors.pop()["exception"].__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback.tb_frame.f_code is failing.__code__


def test_an_exception_of_a_callback_that_cancels_itself_is_reported(loop, errors):
    def callback():
        handle.cancel()
        raise ZeroDivisionError

    handle = loop.call_soon(callback)
    run_a_turn(loop)
    context = errors.pop()
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["message"].startswith("Exception in callback")


@pytest.mark.without_debug
def test_a_callback_that_is_none_is_told_as_such(loop, errors):
    loop.call_soon(None)
    run_a_turn(loop)
    assert errors.pop()["message"] == "Exception in callback None()"


def test_cancelled_error_out_of_a_callback_is_reported(loop, errors):
    def callback():
        raise asyncio.CancelledError

    loop.call_soon(callback)
    run_a_turn(loop)
    assert isinstance(errors.pop()["exception"], asyncio.CancelledError)


def test_without_a_handler_the_default_one_logs(new_loop, caplog):
    loop = new_loop()
    loop.call_soon(failing)
    run_a_turn(loop)
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert record.getMessage().startswith("Exception in callback failing() at ")
    assert record.exc_info[0] is ZeroDivisionError


def test_a_handler_that_raises_is_logged(new_loop, caplog):
    loop = new_loop()
    loop.set_exception_handler(failing)
    loop.call_soon(failing)
    run_a_turn(loop)
    (record,) = caplog.records
    assert record.getMessage().startswith("Unhandled error in exception handler")


@pytest.mark.parametrize("fatal", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("later", [False, True], ids=["call_soon", "call_later"])
def test_fatal_exceptions_leave_run_forever_at_once(loop, fatal, later):
    seen = []

    def callback():
        raise fatal("out")

    if later:
        loop.call_later(0, callback)
        loop.call_later(0, seen.append, "rest of the turn")
    else:
        loop.call_soon(callback)
        loop.call_soon(seen.append, "rest of the turn")
    loop.call_later(0.001, seen.append, "a timer")
    with pytest.raises(fatal, match="out"):
        loop.run_forever()
    assert seen == []
    assert not loop.is_running()
    loop.call_later(0.002, loop.stop)  # the queue is intact
    loop.run_forever()
    assert seen == ["rest of the turn", "a timer"]


def test_a_fatal_exception_of_a_task_leaves_run_until_complete(loop):
    async def main():
        raise SystemExit(3)

    with pytest.raises(SystemExit) as raised:
        loop.run_until_complete(main())
    assert raised.value.code == 3
    assert loop.run_until_complete(asyncio.sleep(0, "still usable")) == "still usable"


# Futures and tasks.


async def test_futures_and_tasks_are_asyncios_own(loop):
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    task = loop.create_task(asyncio.sleep(0, "result"), name="named")
    assert type(task) is asyncio.Task
    assert task.get_name() == "named"
    assert await task == "result"


async def test_a_task_runs_in_the_context_given(loop):
    context = contextvars.copy_context()
    context.run(variable.set, "given")

    async def look():
        return variable.get()

    assert await loop.create_task(look(), context=context) == "given"
    assert await loop.create_task(look()) == "unset"


async def test_each_keyword_reaches_the_class_of_tasks(loop, monkeypatch):
    given = []

    class Watched(asyncio.Task):
        def __init__(self, coro, **keywords):
            given.append({name: value for name, value in keywords.items() if value is not None})
            super().__init__(coro, **keywords)

    monkeypatch.setattr(asyncio.tasks, "Task", Watched)
    context = contextvars.copy_context()
    asked = [{}, {"name": "named"}, {"context": context}, {"name": "both", "context": context}]
    if sys.version_info >= (3, 14):
        asked += [{"eager_start": True}, {"name": "early", "context": context, "eager_start": True}]
    for keywords in asked:
        task = loop.create_task(asyncio.sleep(0), **keywords)
        assert type(task) is Watched
        assert "name" not in keywords or task.get_name() == keywords["name"]
        await task
    await loop.create_task(asyncio.sleep(0), name=None, context=None)

    assert given == [{"loop": loop, **keywords} for keywords in asked] + [{"loop": loop}]


@pytest.mark.parametrize("keywords", [{"nonsense": 1}, {"loop": None}])
async def test_a_keyword_that_tasks_do_not_have_is_refused(loop, keywords):
    sleeping = asyncio.sleep(0)
    with pytest.raises(TypeError):
        loop.create_task(sleeping, **keywords)
    sleeping.close()


async def test_a_task_factory_is_used(loop):
    made = []

    def factory(loop, coro, **more):
        made.append(more)
        return asyncio.Task(coro, loop=loop, **more)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    context = contextvars.copy_context()
    await loop.create_task(asyncio.sleep(0))
    await loop.create_task(asyncio.sleep(0), context=context)
    loop.set_task_factory(None)
    await loop.create_task(asyncio.sleep(0))
    assert len(made) == 2
    assert made[1]["context"] is context


async def test_an_eager_task_factory_works(loop):
    if not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("eager tasks are new in 3.12")
    loop.set_task_factory(asyncio.eager_task_factory)

    async def at_once():
        return "done"

    task = loop.create_task(at_once())
    assert task.done()
    assert await task == "done"


async def test_tasks_wait_for_each_other_in_the_usual_ways(loop):
    async def nap(value, delay=0.001):
        await asyncio.sleep(delay)
        return value

    assert await asyncio.gather(nap(1), nap(2), nap(3)) == [1, 2, 3]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(nap(number)) for number in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await nap(1, 3600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(nap(1, 3600), 0.005)
    assert await asyncio.to_thread(lambda: "thread") == "thread"


def test_call_soon_may_be_overridden_in_a_subclass(new_loop):
    kind = type(new_loop())

    class Counting(kind):
        calls = 0

        def call_soon(self, callback, *args, context=None):
            self.calls += 1
            return super().call_soon(callback, *args, context=context)

    loop = Counting()
    try:
        assert loop.run_until_complete(asyncio.sleep(0, "result")) == "result"
        assert loop.calls >= 2
    finally:
        loop.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_what_was_written_to_another_end_in_this_loop_comes_within_two_turns(loop, kind):
    one, other = socket.socketpair() if kind == "unix" else tcp_pair()
    writing, reading = Recorder(), Recorder()
    transport, _ = await loop.create_connection(lambda: writing, sock=one)
    peer, _ = await loop.create_connection(lambda: reading, sock=other)
    for count in range(1, 5):
        transport.write(b"x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(reading.data) == count
    transport.write_eof()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reading.events.seen[-1] in ("eof_received", "connection_lost")
    transport.abort()
    peer.abort()
    await writing.until("connection_lost")
    await reading.until("connection_lost")


async def test_what_a_socket_call_sent_is_read_within_two_turns(loop):
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        seen = []
        loop.add_reader(other, lambda: seen.append(other.recv(10)))
        for count in range(1, 5):
            await loop.sock_sendall(one, b"x")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(seen) == count
        loop.remove_reader(other)
