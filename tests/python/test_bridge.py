"""Two languages, one loop: C++ coroutines that Python awaits, Python awaitables that C++ awaits.

Everything runs on asyncio's own loop, where the C++ loop is a guest, and on zloop's.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import gc
import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
import weakref
from array import array
from pathlib import Path
from typing import Any

import bridge_build
import numpy
import pytest
from helpers import (
    PATIENCE,
    ROOT,
    check_program,
    environment,
    environment_of_others,
    turns,
)

SOURCE = ROOT / "tests" / "python" / "bridge" / "bridged.cpp"


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bridge_build.build(SOURCE, bridge_build.folder_of_the_run(tmp_path_factory))


@pytest.fixture
def cpp(extension: Any) -> Any:
    """The extension; no frame of it is left after the test."""
    module = bridge_build.load(extension)
    before = module.alive()
    yield module
    gc.collect()
    assert module.alive() == before, "frames are left"


def is_c(loop: Any) -> bool:
    return isinstance(loop, asyncio.SelectorEventLoop)


# Awaiting C++.


async def test_a_task_that_need_not_wait_gives_its_result_at_once(loop: Any, cpp: Any) -> None:
    assert await cpp.ready(3) == 3
    assert await cpp.nested(1) == 3
    assert await cpp.greet("you") == "hello you"
    assert await cpp.many(3) == [7, 7, 7]
    assert await cpp.nothing() is None


async def test_a_task_waits_on_the_running_loop(loop: Any, cpp: Any) -> None:
    began = time.monotonic()

    assert await cpp.turn(1) == 1
    assert await cpp.turns(1000) == 1000
    assert await cpp.nap(0.01) is None

    assert time.monotonic() - began >= 0.01


async def test_all_extensions_of_a_loop_see_the_same_one(loop: Any, cpp: Any) -> None:
    assert cpp.loop_address() == cpp.loop_address()


async def test_many_tasks_wait_beside_each_other(loop: Any, cpp: Any) -> None:
    began = time.monotonic()

    seen = await asyncio.gather(*(cpp.turn(i) for i in range(10)), *(cpp.nap(0.05),) * 1)
    await asyncio.gather(*(cpp.nap(0.05) for _ in range(100)))

    assert seen == [*range(10), None]
    assert time.monotonic() - began < 2


async def test_a_task_is_a_coroutine_to_asyncio(loop: Any, cpp: Any) -> None:
    awaitable = cpp.turn(1)
    assert isinstance(awaitable, collections.abc.Coroutine)
    assert asyncio.iscoroutine(awaitable)
    assert inspect.isawaitable(awaitable)
    assert (awaitable.__name__, awaitable.__qualname__) == ("turn", "turn")
    assert inspect.getcoroutinestate(awaitable) == "CORO_CREATED"

    task = asyncio.create_task(awaitable, name="ours")
    await turns()
    assert awaitable.cr_await is not None and not awaitable.cr_running
    assert inspect.getcoroutinestate(awaitable) == "CORO_SUSPENDED"
    assert "turn()" in repr(task)
    assert await task == 1

    assert inspect.getcoroutinestate(awaitable) == "CORO_CLOSED"
    assert awaitable.cr_await is None


async def test_a_frame_says_where_in_cpp_a_task_waits(loop: Any, cpp: Any) -> None:
    task = asyncio.create_task(cpp.nap(10))
    await turns(2)

    [frame] = task.get_stack()
    assert frame.f_code.co_name == "nap"
    assert frame.f_code.co_filename.endswith("bridged.cpp")
    assert "sleep_for" in SOURCE.read_text().splitlines()[frame.f_lineno - 1]

    task.cancel()
    await asyncio.wait([task])


async def test_everything_of_asyncio_takes_a_task(loop: Any, cpp: Any) -> None:
    assert await asyncio.create_task(cpp.turn(1)) == 1
    assert await asyncio.ensure_future(cpp.turn(1)) == 1
    assert await asyncio.wait_for(cpp.turn(1), PATIENCE) == 1
    assert await asyncio.shield(cpp.turn(1)) == 1
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(cpp.turn(i)) for i in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    async with asyncio.timeout(PATIENCE):
        assert await cpp.turn(1) == 1


async def test_timeouts_of_asyncio_end_a_task(loop: Any, cpp: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cpp.nap(10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cpp.nap(10), 0.01)


async def test_a_failing_sibling_in_a_group_cancels_a_task(loop: Any, cpp: Any) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(cpp.nap(10))
            group.create_task(fails())

    assert waiting.cancelled()


async def test_a_method_keeps_its_object(loop: Any, cpp: Any) -> None:
    counter = cpp.Counter(4)
    following = counter.next()
    assert following.__qualname__ == "Counter.next"
    del counter
    gc.collect()

    assert await following == 4


async def test_arguments_have_names_and_signatures_types(loop: Any, cpp: Any) -> None:
    assert await cpp.ready(value=5) == 5
    assert "Coroutine[typing.Any, typing.Any, int]" in cpp.ready.__doc__
    assert "Coroutine[typing.Any, typing.Any, list[int]]" in cpp.many.__doc__
    with pytest.raises(TypeError):
        cpp.ready("no number")


async def test_a_function_of_pybind11_that_returns_a_task_is_awaited_as_well(
    loop: Any, cpp: Any
) -> None:
    assert await cpp.unnamed(1) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_an_eager_task_runs_to_its_first_wait_at_once(loop: Any, cpp: Any) -> None:
    factory = asyncio.eager_task_factory
    loop.set_task_factory(factory)

    task = asyncio.create_task(cpp.ready(1))
    assert task.done() and task.result() == 1
    waiting = asyncio.create_task(cpp.turn(2))
    assert not waiting.done()
    assert await waiting == 2


# Awaiting Python.


async def identity(value: Any) -> Any:
    return value


async def later(value: Any) -> Any:
    await asyncio.sleep(0.001)
    return value


class Awaitable:
    """One of a program's own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield
        return self.value


@pytest.mark.parametrize("via", ["via", "via_after_turn"])
async def test_cpp_awaits_whatever_python_can_await(loop: Any, cpp: Any, via: str) -> None:
    through = getattr(cpp, via)
    future = loop.create_future()
    loop.call_soon(future.set_result, "future")

    assert await through(identity(1)) == 1
    assert await through(later(2)) == 2
    assert await through(Awaitable(3)) == 3
    assert await through(future) == "future"
    assert await through(asyncio.create_task(later(4))) == 4
    assert await through(cpp.turn(5)) == 5
    assert await cpp.via_deep(later(6), 20) == 6
    with pytest.raises(TypeError, match="can't be used in 'await'"):
        await through(7)


async def test_a_tuple_and_an_exception_are_results_as_others(loop: Any, cpp: Any) -> None:
    error = StopIteration(1)

    assert await cpp.via(identity((1, 2))) == (1, 2)
    assert await cpp.via(identity(error)) is error


async def test_languages_take_turns_as_often_as_they_like(loop: Any, cpp: Any) -> None:
    async def spoken(index: int) -> str:
        await asyncio.sleep(0 if index else 0.001)
        return str(index)

    assert await cpp.alternate(spoken) == ["0", "1", "2"]
    assert await cpp.sum(later, 5) == 10
    assert await cpp.sum(identity, 100) == 4950


async def test_what_cpp_awaits_runs_in_the_task_that_awaits_cpp(loop: Any, cpp: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outside")

    async def looks() -> tuple[Any, str]:
        await asyncio.sleep(0)
        seen = variable.get()
        variable.set("inside")
        return asyncio.current_task(), seen

    assert await cpp.via(looks()) == (asyncio.current_task(), "outside")
    assert variable.get() == "inside"
    assert await cpp.via_after_turn(looks()) == (asyncio.current_task(), "inside")


async def test_tasks_of_cpp_that_run_beside_each_other_await_beside_each_other(
    loop: Any, cpp: Any
) -> None:
    began = time.monotonic()

    async def slow(index: int) -> int:
        await asyncio.sleep(0.05)
        return index

    assert await cpp.at_once(slow, 20) == list(range(20))
    assert time.monotonic() - began < 0.9


async def test_a_parameter_that_is_a_task_takes_an_awaitable(loop: Any, cpp: Any) -> None:
    assert await cpp.takes(later(1)) == 2
    assert await cpp.takes(cpp.turn(2)) == 3
    with pytest.raises(TypeError):
        cpp.takes(1)


# Exceptions.

STANDARD = {
    "errno": (FileNotFoundError, "[Errno 2] looking: No such file or directory"),
    "refused": (ConnectionRefusedError, "[Errno 111] Connection refused"),
    "timed_out": (TimeoutError, "[Errno 110] Connection timed out"),
    "canceled": (asyncio.CancelledError, ""),
    "end": (EOFError, "end of stream"),
    "memory": (MemoryError, "std::bad_alloc"),
    "range": (IndexError, "no such key"),
    "argument": (ValueError, "not that"),
    "runtime": (RuntimeError, "broken"),
    "own": (ArithmeticError, "of my own"),
    "own_code": (LookupError, "derived: Broken pipe"),
    "other_code": (BrokenPipeError, "[Errno 32] derived: Broken pipe"),
    "python": (ValueError, "by pybind11"),
    "key": (KeyError, "'k'"),
    "int": (RuntimeError, "Caught an unknown exception!"),
}


@pytest.mark.parametrize("after_turn", [False, True])
@pytest.mark.parametrize("how", STANDARD)
async def test_what_cpp_throws_python_catches_as_what_it_calls_the_same(
    loop: Any, cpp: Any, how: str, after_turn: bool
) -> None:
    kind, words = STANDARD[how]

    with pytest.raises(kind) as caught:
        await cpp.fail(how, after_turn)

    assert str(caught.value) == words


async def test_a_traceback_names_the_functions_of_cpp(loop: Any, cpp: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        await cpp.calls_fail_deep()

    [_, *ours] = caught.traceback
    lines = SOURCE.read_text().splitlines()
    assert [(entry.name, lines[entry.lineno].strip()) for entry in ours] == [
        ("calls_fail_deep", "task<void> calls_fail_deep() { co_await fail_deep(2); }"),
        *[(ours[1].name, "co_await fail_deep(depth - 1);")] * 2,
        (ours[1].name, "co_await zloop::next_turn();"),
    ]
    assert "fail_deep" in ours[1].name
    assert {Path(entry.path).name for entry in ours} == {"bridged.cpp"}


async def test_an_error_that_is_a_result_is_raised(loop: Any, cpp: Any) -> None:
    assert await cpp.fails_as_value(0) == 1
    with pytest.raises(ConnectionResetError):
        await cpp.fails_as_value(104)


async def test_a_host_that_is_not_found_is_what_getaddrinfo_raises(loop: Any, cpp: Any) -> None:
    with pytest.raises(socket.gaierror) as caught:
        await cpp.finds_no_host()

    assert caught.value.errno == socket.EAI_NONAME


async def raises(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("via", ["via", "via_after_turn", "catches", "as_standard"])
@pytest.mark.parametrize("error", [LookupError("it"), BaseExceptionGroup("", [ValueError()])])
async def test_a_python_exception_passes_through_cpp_as_itself(
    loop: Any, cpp: Any, via: str, error: BaseException
) -> None:
    if via == "as_standard":
        assert await cpp.as_standard(raises(error)) == type(error).__name__
        return
    with pytest.raises(type(error)) as caught:
        await getattr(cpp, via)(raises(error))

    assert caught.value is error
    names = [entry.name for entry in caught.traceback]
    assert names[-1] == "raises"


async def test_cpp_catches_a_python_exception(loop: Any, cpp: Any) -> None:
    assert await cpp.catches(raises(KeyError(1))) == "caught KeyError"
    assert await cpp.catches(identity(1)) == "no error"
    assert await cpp.as_standard(raises(FileNotFoundError(2, "x"))) == "system_error 2"
    assert await cpp.as_standard(raises(TimeoutError())) == "system_error 110"
    assert await cpp.as_standard(raises(MemoryError())) == "bad_alloc"
    assert await cpp.as_standard(raises(asyncio.CancelledError())) == "system_error 125"


async def test_a_task_without_a_coroutine_is_refused(loop: Any, cpp: Any) -> None:
    with pytest.raises(RuntimeError, match="empty task"):
        cpp.empty()


# Cancelling.


async def test_cancelling_waits_for_the_end_of_the_task_in_cpp(loop: Any, cpp: Any) -> None:
    task = asyncio.create_task(cpp.nap(10))
    await turns(3)
    assert cpp.live_tasks() == 1

    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.args == ("enough",)
    assert cpp.live_tasks() == 0


async def test_a_task_of_cpp_may_have_a_result_all_the_same(loop: Any, cpp: Any) -> None:
    task = asyncio.create_task(cpp.stubborn(10))
    await turns(3)

    task.cancel()

    assert await task == "cancelled, and done all the same"


async def test_what_cpp_awaits_is_cancelled_with_it(loop: Any, cpp: Any) -> None:
    future = loop.create_future()
    task = asyncio.create_task(cpp.via(future))
    await turns(3)

    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert future.cancelled()
    assert caught.value.args == ("enough",)


async def test_an_awaitable_may_need_its_time_to_be_cancelled(loop: Any, cpp: Any) -> None:
    seen = []

    async def careful() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0.001)
            seen.append("cleaned up")
            raise
        return "slept"

    task = asyncio.create_task(cpp.via(careful()))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert seen == ["cancelled", "cleaned up"]


async def test_a_deadline_in_cpp_cancels_what_it_awaits(loop: Any, cpp: Any) -> None:
    future = loop.create_future()

    assert await cpp.timed_out(future, 0.01) == "Connection timed out"
    assert future.cancelled()
    assert await cpp.timed_out(later(1), 10) == "in time"
    assert await cpp.timed_out(asyncio.sleep(10), 0.01) == "Connection timed out"

    async def spins() -> None:
        while True:
            await asyncio.sleep(0)

    assert await cpp.timed_out(spins(), 0.01) == "Connection timed out"


async def spoken(index: int) -> str:
    await asyncio.sleep(0)
    await asyncio.sleep(0.001 if index == 1 else 0)
    return str(index)


@pytest.mark.parametrize("after", range(24))
async def test_a_task_can_be_cancelled_at_every_wait(loop: Any, cpp: Any, after: int) -> None:
    task = asyncio.create_task(cpp.alternate(spoken))
    await turns(after)

    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)

    assert task.done()
    assert task.cancelled() or task.result() == ["0", "1", "2"]
    assert cpp.live_tasks() == 0
    assert cpp.alive() == 0


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("late", [False, True])
async def test_a_task_can_fail_at_every_wait(loop: Any, cpp: Any, at: int, late: bool) -> None:
    async def fails(index: int) -> str:
        if late:
            await asyncio.sleep(0)
        if index == at:
            raise LookupError(index)
        return str(index)

    with pytest.raises(LookupError, match=str(at)):
        await cpp.alternate(fails)

    assert cpp.alive() == 0


@pytest.mark.parametrize("after", range(24))
async def test_a_task_can_be_closed_at_every_wait(loop: Any, cpp: Any, after: int) -> None:
    awaitable = cpp.alternate(spoken)
    task = asyncio.create_task(awaitable)
    await turns(after)

    awaitable.close()
    awaitable.close()
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)

    if task.done() and not task.cancelled():
        error = task.exception()
        assert error is None or "cannot reuse" in str(error)
    for _ in range(100):
        if not cpp.alive():
            break
        await asyncio.sleep(0.001)
    assert cpp.live_tasks() == 0
    assert cpp.alive() == 0


@pytest.mark.parametrize("after", range(24))
async def test_anything_can_be_thrown_in_at_every_wait(loop: Any, cpp: Any, after: int) -> None:
    awaitable = cpp.alternate(spoken)
    task = asyncio.create_task(awaitable)
    await turns(after)

    if not task.done():
        with pytest.raises((LookupError, StopIteration)):
            awaitable.throw(LookupError("in"))
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    if not task.cancelled():
        task.exception()

    for _ in range(100):
        if not cpp.alive():
            break
        await asyncio.sleep(0.001)
    assert cpp.live_tasks() == 0
    assert cpp.alive() == 0


# Iterators, contexts, memory.


async def test_a_channel_is_iterated_to_its_end(loop: Any, cpp: Any) -> None:
    source = cpp.Source()

    async def send() -> None:
        for value in range(10):
            await source.send(value)
        source.close()

    sending = asyncio.create_task(send())
    assert [value async for value in source] == list(range(10))
    await sending
    with pytest.raises(RuntimeError, match="closed"):
        await source.send(1)


async def test_an_iterator_that_waits_can_be_cancelled_and_goes_on(loop: Any, cpp: Any) -> None:
    source = cpp.Source()
    iterator = aiter(source)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(iterator), 0.01)

    await source.send(7)

    assert await anext(iterator) == 7


async def test_whatever_gives_one_after_another_is_iterated(loop: Any, cpp: Any) -> None:
    assert [value async for value in cpp.count_to(5)] == [0, 1, 2, 3, 4]
    seen = []
    with pytest.raises(IndexError, match="counted too far"):
        async for value in cpp.count_to(2, fails=True):
            seen.append(value)
    assert seen == [0, 1]


async def test_an_iterator_may_be_dropped_while_it_is_awaited(loop: Any, cpp: Any) -> None:
    following = anext(cpp.count_to(1))
    gc.collect()

    assert await following == 0


async def test_a_context_manager_is_entered_and_left(loop: Any, cpp: Any) -> None:
    async with cpp.Visit() as visit:
        assert visit.seen == "in "
    assert visit.seen == "in out"

    with pytest.raises(LookupError):
        async with (visit := cpp.Visit()):
            raise LookupError
    assert visit.seen == "in out"


async def test_an_error_that_is_a_value_keeps_who_enters_outside(loop: Any, cpp: Any) -> None:
    with pytest.raises(PermissionError):
        async with cpp.ClosedDoor():
            raise AssertionError("it is closed")
    with pytest.raises(BrokenPipeError):
        await cpp.ClosedDoor().__aexit__(None, None, None)


def test_what_is_entered_and_iterated_has_its_type_in_signatures(cpp: Any) -> None:
    assert "Coroutine[typing.Any, typing.Any, bridged.Visit]" in cpp.Visit.__aenter__.__doc__
    assert (
        "Coroutine[typing.Any, typing.Any, None]" in cpp.Visit.__aexit__.__doc__
    )  # swallows nothing
    assert "-> collections.abc.AsyncIterator[int]" in cpp.Source.__aiter__.__doc__


async def test_a_callable_is_a_method_and_takes_any_arguments(loop: Any, cpp: Any) -> None:
    counter = cpp.Counter(1)
    adding = counter.add_all(2, 3, a=0, b=0)
    assert adding.__qualname__ == "Counter.add_all"

    assert await adding == 8
    assert await counter.add_captured() == 308
    del counter
    gc.collect()
    assert await cpp.Counter(5).add_all() == 5  # the object lives as long


async def test_bytes_are_lent_without_a_copy(loop: Any, cpp: Any) -> None:
    assert await cpp.sum_of(b"\1\2\3") == 6
    assert await cpp.sum_of(memoryview(bytearray(b"\1\2\3"))[1:]) == 5
    data = bytearray(4)
    filling = asyncio.create_task(cpp.fill(data, 7))
    await turns()
    with pytest.raises(BufferError):
        data.append(1)  # it is in use
    await filling
    assert data == b"\7\7\7\7"
    data.append(1)
    for wrong in (b"read-only", "text", memoryview(bytearray(4))[::2]):
        with pytest.raises(TypeError):
            cpp.fill(wrong, 1)


async def test_what_cpp_has_made_is_not_copied_either(loop: Any, cpp: Any) -> None:
    view = await cpp.made_bytes(1000)

    assert isinstance(view, memoryview) and view.readonly
    assert view == bytes([42]) * 1000


async def test_numbers_are_neither_copied(loop: Any, cpp: Any) -> None:
    assert await cpp.sum_of_numbers(array("d", [1.5, 2.5])) == 4
    assert await cpp.sum_of_numbers(numpy.ones((3, 4))) == 12
    doubled = array("q", [1, 2])
    await cpp.double_all(doubled)
    assert doubled.tolist() == [2, 4]
    grid = numpy.arange(6, dtype=numpy.int64).reshape(2, 3)
    await cpp.double_all(grid)
    assert grid.tolist() == [[0, 2, 4], [6, 8, 10]]

    view = await cpp.squares(4)
    assert (view.format, view.itemsize, view.tolist()) == ("f", 4, [0, 1, 4, 9])
    seen = numpy.asarray(view)
    assert seen.dtype == numpy.float32 and not seen.flags.owndata
    del view
    gc.collect()
    assert seen.tolist() == [0, 1, 4, 9]


@pytest.mark.parametrize(
    "wrong",
    [
        array("f", [1]),
        array("Q", [1]),
        b"12345678",
        numpy.arange(6, dtype=">i8"),
        numpy.arange(6, dtype=numpy.int64)[::2],
        numpy.broadcast_to(numpy.int64(1), 3),
        memoryview(bytearray(17))[1:].cast("q"),
    ],
    ids=["floats", "unsigned", "bytes", "other byte order", "in pieces", "read-only", "unaligned"],
)
async def test_other_numbers_are_refused(loop: Any, cpp: Any, wrong: Any) -> None:
    with pytest.raises(TypeError):
        cpp.double_all(wrong)


# A coroutine's manners.


async def test_what_was_never_awaited_says_so(loop: Any, cpp: Any) -> None:
    with pytest.warns(RuntimeWarning, match="coroutine 'nap' was never awaited"):
        cpp.nap(1)


async def test_one_that_has_not_begun_can_be_closed_and_thrown_into(loop: Any, cpp: Any) -> None:
    closed = cpp.nap(1)
    closed.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await closed

    thrown = cpp.nap(1)
    with pytest.raises(LookupError):
        thrown.throw(LookupError)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        thrown.send(None)
    thrown.close()

    with pytest.raises(TypeError, match="can't send non-None"):
        (sent := cpp.nap(1)).send(1)
    sent.close()
    for wrong in [(), (1, 2, 3, 4), (1,), (ValueError, None, 1), (ValueError(), 1)]:
        with pytest.raises(TypeError):
            sent.throw(*wrong)


async def test_it_is_awaited_once(loop: Any, cpp: Any) -> None:
    awaitable = cpp.turn(1)
    assert await awaitable == 1
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await awaitable

    awaitable = cpp.nap(0.01)
    task = asyncio.create_task(awaitable)
    await turns(2)
    with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
        await awaitable
    await task


async def test_two_tasks_of_one_object_are_an_error_of_the_second(loop: Any, cpp: Any) -> None:
    awaitable = cpp.nap(0.01)
    first, second = asyncio.create_task(awaitable), asyncio.create_task(awaitable)

    seen = await asyncio.gather(first, second, return_exceptions=True)

    assert all(isinstance(each, RuntimeError) for each in seen)
    await asyncio.sleep(0.02)


async def test_it_cannot_be_entered_while_it_runs(loop: Any, cpp: Any) -> None:
    seen = []

    async def enters() -> None:
        for call in (lambda: mine.send(None), lambda: mine.throw(KeyError), lambda: mine.close()):
            with pytest.raises(ValueError, match="coroutine already executing"):
                call()
            seen.append(mine.cr_running)
        await asyncio.sleep(0)

    mine = cpp.via(enters())
    await mine

    assert seen == [True] * 3


async def test_who_is_cancelled_cannot_go_on_meanwhile(loop: Any, cpp: Any) -> None:
    """A scope is being cancelled then, in a walk over what is in it."""
    seen = []

    class Nosy:
        def cancel(self) -> None:
            for call in (lambda: mine.send(None), lambda: mine.throw(KeyError), mine.close):
                with pytest.raises(ValueError, match="coroutine already executing"):
                    call()
                seen.append("refused")

    class Yielding:
        def __await__(self) -> Any:
            yield Nosy()

    mine = cpp.timed_out(Yielding(), 0.01)
    assert isinstance(mine.send(None), Nosy)
    await asyncio.sleep(0.05)

    assert seen == ["refused"] * 3
    with pytest.raises(StopIteration, match="Connection timed out"):
        mine.send(None)


def test_it_needs_a_loop_that_runs(cpp: Any) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        cpp.turn(1).send(None)
    with pytest.raises(RuntimeError, match="no running event loop"):
        cpp.loop_address()
    cpp.turn(1).close()


async def test_a_step_by_who_did_not_wait_is_refused(loop: Any, cpp: Any) -> None:
    awaitable = cpp.nap(10)
    future = awaitable.send(None)
    assert asyncio.isfuture(future)
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        awaitable.send(None)
    await turns(3)

    assert cpp.live_tasks() == 0


async def test_another_threads_close_reaches_the_loop(loop: Any, cpp: Any) -> None:
    awaitable = cpp.nap(10)
    awaitable.send(None)
    thread = threading.Thread(target=awaitable.close)
    thread.start()
    await asyncio.to_thread(thread.join)
    for _ in range(100):
        if not cpp.live_tasks():
            break
        await asyncio.sleep(0.01)

    assert cpp.live_tasks() == 0


@pytest.mark.parametrize("call", ["send", "throw"])
@pytest.mark.parametrize("waits", ["in C++", "in Python"])
async def test_another_thread_cannot_step_it(loop: Any, cpp: Any, call: str, waits: str) -> None:
    """The loop's own is in the kernel then, without the GIL."""
    value = loop.create_future()
    mine = cpp.nap(0.1) if waits == "in C++" else cpp.via(value)
    task = asyncio.create_task(mine)
    await turns(2)

    def step() -> None:
        with pytest.raises(RuntimeError, match="goes on only where its event loop runs"):
            getattr(mine, call)(None if call == "send" else KeyError("not here"))

    await asyncio.to_thread(step)

    value.set_result(None)
    assert await asyncio.wait_for(task, PATIENCE) is None


@pytest.mark.parametrize("via", ["via", "via_after_turn"])
async def test_the_collector_finds_one_that_nobody_can_wake(
    loop: Any, cpp: Any, errors: list[Any], via: str
) -> None:
    def abandon() -> weakref.ref[Any]:
        task = loop.create_task(getattr(cpp, via)(loop.create_future()))
        return weakref.ref(task)

    task = abandon()
    await turns(5)
    gc.collect()
    await turns(3)

    assert task() is None
    assert cpp.alive() == 0
    assert [each["message"] for each in errors] == ["Task was destroyed but it is pending!"]
    errors.clear()


async def test_one_that_waits_in_cpp_is_kept_by_the_loop(loop: Any, cpp: Any) -> None:
    ended = []

    def start() -> None:
        loop.create_task(cpp.nap(0.01)).add_done_callback(ended.append)

    start()
    await turns(2)
    gc.collect()
    await asyncio.sleep(0.05)

    assert len(ended) == 1


@pytest.mark.parametrize("wait", ["nap", "via", "via_after_turn", "at_once", "alternate"])
def test_a_loop_that_is_closed_ends_what_runs_on_it(new_loop: Any, cpp: Any, wait: str) -> None:
    loop = new_loop()
    said = []
    loop.set_exception_handler(lambda _, context: said.append(context["message"]))

    async def never(index: int) -> None:
        await asyncio.sleep(100)

    async def start() -> Any:
        call = {
            "nap": lambda: cpp.nap(100),
            "via": lambda: cpp.via(loop.create_future()),
            "via_after_turn": lambda: cpp.via_after_turn(never(1)),
            "at_once": lambda: cpp.at_once(never, 5),
            "alternate": lambda: cpp.alternate(never),
        }[wait]
        task = asyncio.create_task(call())
        await turns(5)
        return weakref.ref(task)

    task = loop.run_until_complete(start())
    loop.close()
    gc.collect()

    assert task() is None
    assert cpp.alive() == 0
    assert set(said) <= {"Task was destroyed but it is pending!"}


def test_loops_may_follow_each_other(new_loop: Any, cpp: Any) -> None:
    for value in range(3):
        loop = new_loop()
        assert loop.run_until_complete(cpp.turn(value)) == value
        loop.run_until_complete(cpp.nap(0.001))
        loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.close()
        loop.run_until_complete(never := cpp.turn(1))
    never.close()


async def test_debug_mode_changes_nothing(loop: Any, cpp: Any) -> None:
    loop.set_debug(True)

    assert await cpp.alternate(spoken) == ["0", "1", "2"]
    assert await asyncio.create_task(cpp.turn(1)) == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cpp.nap(10), 0.01)


@pytest.mark.slow
async def test_nothing_is_left_of_a_hundred_thousand_awaits(loop: Any, cpp: Any) -> None:
    value = object()
    future = loop.create_future()
    future.set_result(value)

    async def many(count: int) -> None:
        for index in range(count):
            await cpp.via(identity(value))
            await cpp.ready(1)
            if index % 10 == 0:
                await cpp.turn(1)
                with pytest.raises(IndexError):
                    await cpp.fail("range")
                task = asyncio.create_task(cpp.via_after_turn(future))
                await turns(index % 4)
                task.cancel()
                await asyncio.wait([task])

    await many(100)
    gc.collect()
    before = (sys.getrefcount(value), len(gc.get_objects()), sys.getrefcount(cpp.turn))
    await many(20_000 if is_c(loop) else 50_000)
    gc.collect()
    after = (sys.getrefcount(value), len(gc.get_objects()), sys.getrefcount(cpp.turn))

    assert after[0] == before[0] and after[2] == before[2]
    assert abs(after[1] - before[1]) < 100
    assert cpp.alive() == 0


# What is refused.


def test_an_extension_of_other_headers_is_refused(extension: Any) -> None:
    said = check_program(
        """
        import ctypes, sys
        import zloop._zloop as module

        class Core(ctypes.Structure):
            _fields_ = [("version", ctypes.c_uint), ("layout", ctypes.c_uint64), ("zloop_version", ctypes.c_char_p)]

        core = Core(1, 42, b"9.9.9")
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        name = b"zloop._zloop._bridge"
        module._bridge = new(ctypes.addressof(core), name, None)
        sys.path.insert(0, sys.argv[1])
        try:
            import bridged
        except ImportError as exc:
            print(exc)
        """,
        str(extension.parent),
    )

    assert said.startswith("this extension was compiled with the headers of zloop ")
    assert "and the package is zloop 9.9.9: build the extension anew" in said


def test_a_package_without_a_bridge_is_refused(extension: Any) -> None:
    said = check_program(
        """
        import sys
        import zloop._zloop as module

        del module._bridge
        sys.path.insert(0, sys.argv[1])
        try:
            import bridged
        except ImportError as exc:
            print(exc)
        """,
        str(extension.parent),
    )

    assert "needs a newer zloop" in said


def test_it_works_where_zloop_is_not_installed(extension: Any) -> None:
    said = check_program(
        """
        import asyncio, sys

        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "zloop":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Hidden())
        sys.path.insert(0, sys.argv[1])
        import bridged

        print(asyncio.run(bridged.turn(7)), "zloop" in sys.modules)
        """,
        str(extension.parent),
    )

    assert said == "7 False\n"


@pytest.mark.slow
@pytest.mark.without_module
def test_what_would_dangle_is_refused_by_the_compiler(tmp_path: Any) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text(
        """
        #include <zloop/pybind11.hpp>
        #include <pybind11/stl.h>
        #include <span>
        #include <string_view>

        namespace py = pybind11;
        zloop::task<> reference(const std::string&);
        zloop::task<> view(std::string_view);
        zloop::task<> span(std::span<const int>);
        zloop::task<> pointer(const char*);
        zloop::task<> handle(py::handle);
        zloop::task<> maybe(std::optional<std::wstring_view>);
        zloop::task<> pairs(std::vector<std::pair<int, const double*>>);
        zloop::task<> owned(std::map<std::string, std::tuple<std::optional<std::string>>>);
        zloop::task<> fine(std::string);
        struct thing {};

        PYBIND11_MODULE(wrong, m) {
            zloop::python::def_async(m, "reference", &reference);
            zloop::python::def_async(m, "view", &view);
            zloop::python::def_async(m, "span", &span);
            zloop::python::def_async(m, "pointer", &pointer);
            zloop::python::def_async(m, "handle", &handle);
            zloop::python::def_async(m, "maybe", &maybe);
            zloop::python::def_async(m, "pairs", &pairs);
            zloop::python::def_async(m, "owned", &owned);
            zloop::python::def_async(m, "guard", &fine, py::call_guard<py::gil_scoped_release>());
            py::class_<thing> of_thing(m, "Thing");
            zloop::python::def_async(of_thing, "by_value", [](thing) { return fine(""); });
        }
        """
    )

    done = subprocess.run(
        ["g++", "-std=c++20", "-fsyntax-only", *bridge_build.includes(), str(source)],
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    for sentence in (
        "takes its parameters by value",
        "write std::string",
        "write zloop::python::buffer, or a std::vector",
        "a pointer is to what may end at the first suspension",
        "write pybind11::object",
        "a call guard ends with the call",
        "takes the object first, as C&",
    ):
        assert sentence in done.stderr, sentence
    refused = re.findall(r"static assertion failed: (a std::string_view|a pointer)", done.stderr)
    assert sorted(refused) == ["a pointer"] * 2 + ["a std::string_view"] * 2


# Other ways to bind.


@pytest.fixture(scope="session")
def bare_extension(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bridge_build.build(
        SOURCE.with_name("bare.cpp"), bridge_build.folder_of_the_run(tmp_path_factory)
    )


async def test_no_binding_library_is_needed(loop: Any, bare_extension: Any) -> None:
    bare = bridge_build.load(bare_extension)

    assert await bare.ready(1) == 1
    assert await bare.turn(2) == 2
    assert await bare.via(later(3)) == 3
    assert await bare.repeat(lambda: bare.turn(1), 10) is None


async def test_extensions_share_a_loop_and_await_each_other(
    loop: Any, cpp: Any, bare_extension: Any
) -> None:
    bare = bridge_build.load(bare_extension)

    assert await cpp.via(bare.via(cpp.via_after_turn(bare.turn(1)))) == 1
    assert await cpp.takes(bare.turn(1)) == 2


def test_each_interpreter_has_its_own(bare_extension: Any) -> None:
    said = check_program(
        """
        import sys
        try:
            import _interpreters as interpreters
            run = interpreters.exec
        except ImportError:
            import _xxsubinterpreters as interpreters
            run = interpreters.run_string

        program = f'''
        import asyncio, sys
        sys.path[:0] = {[sys.argv[1], *sys.path]!r}
        import bare
        async def main():
            async def one():
                await asyncio.sleep(0)
                return 1
            return await bare.turn(3) + await bare.via(one())
        {{}}
        '''
        import textwrap
        ours = textwrap.dedent(program).format("print(asyncio.run(main()), flush=True)")
        theirs = textwrap.dedent(program).format(
            "import zloop; print(zloop.run(main()), flush=True)"
        )
        for source in (ours, theirs):
            exec(source)
            for _ in range(2):
                other = interpreters.create()
                run(other, source)
                interpreters.destroy(other)
            exec(source)
        """,
        str(bare_extension.parent),
    )

    assert said == "4\n" * 8


@pytest.mark.slow
@pytest.mark.without_module
def test_nanobind_needs_a_caster_of_a_few_lines(tmp_path: Any) -> None:
    nanobind = pytest.importorskip("nanobind")
    root = Path(nanobind.source_dir()).parent
    more = [str(root / "src" / "nb_combined.cpp"), f"-I{nanobind.include_dir()}"]
    more += [f"-I{root / 'ext' / 'robin_map' / 'include'}", "-fno-strict-aliasing", "-Wno-error"]
    source = ROOT / "examples" / "extension" / "nanobind" / "awaited.cpp"
    awaited = bridge_build.load(bridge_build.build(source, tmp_path, "-O0", *more))

    assert asyncio.run(greeted_and_measured(awaited)) == ("hello you", 4)


@pytest.mark.slow
@pytest.mark.without_module
def test_cython_calls_what_gives_awaitables(tmp_path: Any) -> None:
    folder = ROOT / "examples" / "extension" / "cython"
    source = tmp_path / "awaited_by_cython.cpp"
    command = [sys.executable, "-m", "cython", "--cplus", "-3", "--module-name", source.stem]
    subprocess.run([*command, str(folder / "awaited.pyx"), "-o", str(source)], check=True)
    more = ["-O0", f"-I{folder}", "-Wno-error", "-w"]
    awaited = bridge_build.load(bridge_build.build(source, tmp_path, *more))

    assert asyncio.run(greeted_and_measured(awaited)) == ("hello you", 4)


async def greeted_and_measured(awaited: Any) -> tuple[str, int]:
    async def word() -> str:
        await asyncio.sleep(0)
        return "word"

    return await awaited.greet("you"), await awaited.length(word())


@pytest.mark.slow
@pytest.mark.without_module
def test_the_project_of_the_tutorial_becomes_a_wheel_and_runs_on_both_loops(tmp_path: Any) -> None:
    project, where = tmp_path / "first", tmp_path / "installed"
    shutil.copytree(ROOT / "examples" / "extension" / "first", project)
    outside = environment(**environment_of_others())

    def run(*command: object, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=project,
            env={**outside, **more},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    quick = "-Csetup-args=-Doptimization=0"
    run("-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", quick, ".")
    wheel = next(project.glob("first-*.whl"))
    run("-m", "pip", "install", "-q", "--no-deps", "--target", where, wheel)

    path = os.pathsep.join([str(where), *filter(None, [outside.get("PYTHONPATH")])])
    for loop in ((), ("-m", "zloop")):
        assert run(*loop, "program.py", PYTHONPATH=path).splitlines() == [
            "hello you",
            "['hello 0', 'hello 1', 'hello 2']",
            "8",
            "2",
            "[3, 2, 1]",
            "too late",
        ]


def test_the_tutorial_shows_the_files_of_its_project() -> None:
    page = (ROOT / "docs" / "tutorials" / "first-awaitable-cpp-function.md").read_text()
    project = ROOT / "examples" / "extension" / "first"

    assert f"```meson\n{(project / 'meson.build').read_text()}```" in page
    assert f"```toml\n{(project / 'pyproject.toml').read_text()}```" in page


def test_uvloops_loop_is_a_host_as_well(extension: Any) -> None:
    pytest.importorskip("uvloop", reason="uvloop is in the environment of the benchmarks")
    said = check_program(
        """
        import asyncio, sys
        import uvloop

        sys.path.insert(0, sys.argv[1])
        import bridged

        async def spoken(index):
            await asyncio.sleep(0.001)
            return str(index)

        async def main():
            print(await bridged.alternate(spoken), await bridged.turns(100))
            try:
                async with asyncio.timeout(0.01):
                    await bridged.nap(10)
            except TimeoutError:
                print("too late")
            asyncio.create_task(bridged.stubborn(10))
            await asyncio.sleep(0.01)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
        print(bridged.alive())
        """,
        str(extension.parent),
    )

    assert said == "['0', '1', '2'] 100\ntoo late\n0\n"


# What may go wrong between the two.


async def test_a_task_that_ends_wakes_another(loop: Any, cpp: Any) -> None:
    source = cpp.Source()
    receiving = asyncio.create_task(source.receive())
    await asyncio.sleep(0.01)

    await source.send(1)

    assert await asyncio.wait_for(receiving, PATIENCE) == 1


@pytest.mark.parametrize("after_turn", [False, True])
async def test_stop_iteration_is_an_error(loop: Any, cpp: Any, after_turn: bool) -> None:
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        await asyncio.wait_for(cpp.stop(after_turn), PATIENCE)


async def test_a_closure_outlives_its_function(loop: Any, cpp: Any) -> None:
    module: Any = types.ModuleType("with_a_closure")
    cpp.add_captured(module)
    awaited = module.captured()
    del module
    gc.collect()
    assert await awaited == "kkkkk"


async def test_self_is_not_converted(loop: Any, cpp: Any) -> None:
    assert await cpp.Counter(5).next() == 5
    with pytest.raises(TypeError):
        cpp.Counter.next(5)


async def test_a_deadline_in_the_cleanup_of_a_cancelled_task(loop: Any, cpp: Any) -> None:
    said = []

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            said.append(await cpp.timed_out(asyncio.sleep(10), 0.01))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    assert said == ["Connection timed out"]
    assert task.cancelled()


async def test_what_a_child_calls_has_the_tasks_context(loop: Any, cpp: Any) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    seen = []

    async def note() -> None:
        seen.append(user.get())

    async def serve(name: str) -> None:
        user.set(name)
        await cpp.in_a_nursery(note)

    await asyncio.create_task(serve("alice"))
    await asyncio.create_task(serve("bob"))
    assert seen == ["alice", "bob"]


def test_one_that_outlives_all_else_of_the_interpreter(extension: Any) -> None:
    """What at_fork keeps is freed after modules, types and the interpreter's own dictionary."""
    said = check_program(
        """
        import asyncio, functools, os, sys
        sys.path.insert(0, sys.argv[1])
        import bridged

        async def main():
            begun = bridged.nap(10)
            begun.send(None)
            for kept in (begun, bridged.turn(1)):
                os.register_at_fork(before=functools.partial(len, kept))

        asyncio.run(main())
        print("ends")
        """,
        str(extension.parent),
    )

    assert said == "ends\n"


def test_a_host_that_refuses_a_call_once_is_asked_again(cpp: Any) -> None:
    class Refusing(asyncio.SelectorEventLoop):
        refuses = False

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            if self.refuses and getattr(callback, "__name__", "") == "zloop_turn":
                self.refuses = False
                raise MemoryError
            return super().call_soon(callback, *args, context=context)

    async def main() -> int:
        host = asyncio.get_running_loop()
        assert isinstance(host, Refusing)
        await cpp.turn(0)
        host.refuses = True
        waiting = asyncio.create_task(cpp.turn(1))
        await turns(3)
        assert not host.refuses
        await cpp.turn(2)
        return await asyncio.wait_for(waiting, PATIENCE)

    seen: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, lambda told: seen.append(told.exc_type)
    try:
        loop = Refusing()
        assert loop.run_until_complete(main()) == 1
        loop.close()
    finally:
        sys.unraisablehook = hook
    assert seen == [MemoryError]
