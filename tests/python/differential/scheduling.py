"""Callbacks, timers, futures and tasks of one loop: one order for all that they do."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from . import driver
from .driver import FAILURES, Driver
from .trace import words_of_error

setting: contextvars.ContextVar[int] = contextvars.ContextVar("setting", default=0)


class World:
    """What a program has made so far. Its operations name these by number, from the newest on."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.loop = driver.loop
        self.handles: list[asyncio.Handle] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.callbacks: list[tuple[asyncio.Future[Any], Callable[..., Any]]] = []
        self.serial = 0
        self.timers = 0

    def note(self, what: Any) -> None:
        self.driver.trace.note("order", f"{what} in context {setting.get()}")

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def callback(self, body: tuple[Any, ...]) -> Callable[..., None]:
        number = self.number()

        def run(*_: Any) -> None:
            self.note(f"callback {number}")
            self.run(body)

        return run

    def run(self, body: tuple[Any, ...]) -> None:
        for each in body:
            each.do(self)

    def when(self, delay: float) -> float:
        """Each timer has a time of its own: which of two that are due at once is first, asyncio's heap decides."""
        self.timers += 1
        return delay + self.timers / (1 << 20)

    def ended(self, future: asyncio.Future[Any], number: int) -> None:
        if future.cancelled():
            self.note(f"future {number} cancelled")
        else:
            exc = future.exception()
            self.note(f"future {number} {words_of_error(exc) if exc else future.result()}")


def pick(these: list[Any], number: int) -> Any:
    return these[-1 - number % len(these)] if these else None


# What callbacks and tasks do.


@dataclass(frozen=True)
class Soon:
    body: tuple[Any, ...]
    own_context: bool = False

    def do(self, world: World) -> None:
        context = contextvars.Context() if self.own_context else None
        world.handles.append(world.loop.call_soon(world.callback(self.body), context=context))


@dataclass(frozen=True)
class SoonThreadsafe:
    """From here, or from another thread, that has ended when we go on."""

    body: tuple[Any, ...]
    thread: bool

    def do(self, world: World) -> None:
        callback = world.callback(self.body)

        def call() -> None:
            world.handles.append(world.loop.call_soon_threadsafe(callback))

        if self.thread:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
        else:
            call()


@dataclass(frozen=True)
class Later:
    delay: int
    body: tuple[Any, ...]
    absolute: bool = False

    def do(self, world: World) -> None:
        delay = world.when(self.delay)
        callback = world.callback(self.body)
        if self.absolute:
            world.handles.append(world.loop.call_at(world.loop.time() + delay, callback))
        else:
            world.handles.append(world.loop.call_later(delay, callback))


@dataclass(frozen=True)
class CancelHandle:
    number: int

    def do(self, world: World) -> None:
        if handle := pick(world.handles, self.number):
            world.note(f"cancelled before: {handle.cancelled()}")
            handle.cancel()


@dataclass(frozen=True)
class SetContext:
    value: int

    def do(self, world: World) -> None:
        setting.set(self.value)


@dataclass(frozen=True)
class Stop:
    def do(self, world: World) -> None:
        world.loop.stop()


@dataclass(frozen=True)
class Fail:
    how: str

    def do(self, world: World) -> None:
        raise FAILURES[self.how](self.how)


@dataclass(frozen=True)
class NewFuture:
    """A future, and who is told when it is done."""

    body: tuple[Any, ...]

    def do(self, world: World) -> None:
        future = world.loop.create_future()
        number = world.number()
        future.add_done_callback(lambda future: world.ended(future, number))
        callback = world.callback(self.body)
        future.add_done_callback(callback)
        world.futures.append(future)
        world.callbacks.append((future, callback))


@dataclass(frozen=True)
class Resolve:
    number: int
    how: str  # a result, an error, or "cancel"

    def do(self, world: World) -> None:
        future = pick(world.futures, self.number)
        if future is None or future.done():
            return
        if self.how == "cancel":
            world.note(f"cancel {future.cancel('words')}")
        elif self.how == "error":
            future.set_exception(FAILURES["failure"]("failure"))
        else:
            future.set_result(self.how)


@dataclass(frozen=True)
class RemoveCallback:
    number: int

    def do(self, world: World) -> None:
        if found := pick(world.callbacks, self.number):
            future, callback = found
            world.note(f"removed {future.remove_done_callback(callback)}")


@dataclass(frozen=True)
class Spawn:
    """A task; what it does when it is cancelled is a body of its own."""

    body: tuple[Any, ...]
    when_cancelled: tuple[Any, ...] | None

    def do(self, world: World) -> None:
        number = world.number()
        task = world.loop.create_task(self.main(world, number), name=f"task {number}")
        task.add_done_callback(lambda task: world.ended(task, number))
        world.tasks.append(task)

    async def main(self, world: World, number: int) -> str:
        world.note(f"task {number} begins")
        try:
            for each in self.body:
                await run_in_task(world, each)
                world.note(f"task {number} goes on")
        except asyncio.CancelledError as exc:
            world.note(f"task {number} is cancelled {exc.args}")
            if self.when_cancelled is None:
                raise
            for each in self.when_cancelled:
                await run_in_task(world, each)
        return f"result {number}"


@dataclass(frozen=True)
class CancelTask:
    number: int

    def do(self, world: World) -> None:
        if task := pick(world.tasks, self.number):
            world.note(f"cancel {task.cancel()}")


# What only tasks do.


@dataclass(frozen=True)
class Sleep:
    delay: int

    async def wait(self, world: World) -> None:
        await asyncio.sleep(world.when(self.delay) if self.delay else 0)


@dataclass(frozen=True)
class Await:
    """A future, shielded, with a time limit, or neither."""

    number: int
    how: str

    async def wait(self, world: World) -> None:
        future = pick(world.futures, self.number)
        if future is None:
            return
        try:
            if self.how == "plain":
                result = await future
            elif self.how == "shield":
                result = await asyncio.shield(future)
            elif self.how == "wait_for":
                result = await asyncio.wait_for(future, world.when(2))
            elif self.how == "timeout":
                async with asyncio.timeout(world.when(1)):
                    result = await asyncio.shield(future)
            elif self.how == "wait":
                done, pending = await asyncio.wait([future], timeout=world.when(2))
                result = f"{len(done)} {len(pending)}"
            else:
                result = await asyncio.gather(future, asyncio.sleep(0), return_exceptions=True)
        except Exception as exc:
            world.note(f"waited: {words_of_error(exc)}")
        else:
            world.note(
                f"waited: {words_of_error(result) if isinstance(result, Exception) else result}"
            )


@dataclass(frozen=True)
class AwaitNewTask:
    spawn: Spawn
    group: bool

    async def wait(self, world: World) -> None:
        number = world.number()
        try:
            if self.group:
                async with asyncio.TaskGroup() as group:
                    world.tasks.append(group.create_task(self.spawn.main(world, number)))
                    world.tasks.append(group.create_task(self.spawn.main(world, -number)))
            else:
                world.note(await self.spawn.main(world, number))
        except* Exception as exc:
            world.note(f"group: {exc.exceptions!r}")


async def run_in_task(world: World, what: Any) -> None:
    if hasattr(what, "wait"):
        await what.wait(world)
    else:
        what.do(world)


@dataclass(frozen=True)
class Program(driver.Program):
    """In turn what one callback does, and by how much time moves on."""

    steps: tuple[tuple[tuple[Any, ...], int], ...]

    def run(self, on: Driver) -> None:
        world = World(on)
        for body, seconds in self.steps:
            on.step(lambda body=body: world.run(body))
            if seconds:
                on.advance(seconds)

        def end_all() -> None:
            for each in [*world.handles, *world.tasks, *world.futures]:
                each.cancel()

        for _ in range(3):  # a task may wait again, once, and for another one that does
            on.step(end_all)
            on.advance(100)
        on.trace.note("order", f"{sum(not task.done() for task in world.tasks)} tasks go on")


# How programs are drawn.

numbers = st.integers(0, 3)
delays = st.integers(-1, 4)

simple = st.one_of(
    st.builds(CancelHandle, numbers),
    st.builds(SetContext, st.integers(1, 3)),
    st.builds(Stop),
    st.builds(Resolve, numbers, st.sampled_from(["result", "error", "cancel"])),
    st.builds(RemoveCallback, numbers),
    st.builds(CancelTask, numbers),
    st.sampled_from(sorted(FAILURES)).map(Fail),
)


def callbacks(inner: Any) -> Any:
    body = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Soon, body, st.booleans()),
        st.builds(SoonThreadsafe, body, st.booleans()),
        st.builds(Later, delays, body, st.booleans()),
        st.builds(NewFuture, body),
        spawns(inner),
    )


def spawns(inner: Any) -> Any:
    waits = st.one_of(
        st.builds(Sleep, delays),
        st.builds(
            Await,
            numbers,
            st.sampled_from(["plain", "shield", "wait_for", "timeout", "wait", "gather"]),
        ),
    )
    body = st.lists(waits | inner, max_size=4).map(tuple)
    return st.builds(Spawn, body, st.none() | st.lists(waits | inner, max_size=2).map(tuple))


operations = st.recursive(simple, lambda inner: callbacks(inner), max_leaves=8)


def programs(steps: int = 6) -> Any:
    body = st.lists(operations, min_size=1, max_size=5).map(tuple)
    each = st.tuples(body, st.integers(0, 3))
    return st.lists(each, min_size=1, max_size=steps).map(tuple).map(Program)
