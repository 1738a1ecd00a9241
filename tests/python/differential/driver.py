"""Runs a program's steps on a loop, each until all is quiet.

Quiet is a condition, not a pause. The kernel was asked after the last event (a pipe that became
readable since, has been read by the loop), several turns have gone by in which nothing was seen, and
nothing stands that the loop would still have to act on: what that is, each language adds by `busy`.

Time is the driver's own: it moves when a step says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from .trace import Trace, words_of, words_of_context, words_of_error

PATIENCE = 5.0  # seconds for a step; nothing takes that long when it works
TURNS = 8  # without an event; the longest chain of callbacks that shows nothing has four


class Interrupt(KeyboardInterrupt):
    """One that a program raises; the one that ends a test that hangs is not it."""


class Exit(SystemExit):
    pass


class Failure(Exception):
    pass


LEAVE = (Interrupt, Exit)  # what leaves run_forever at once

FAILURES: dict[str, type[BaseException]] = {  # what a program's callbacks raise
    "failure": Failure,
    "oserror": OSError,
    "cancelled": asyncio.CancelledError,
    "interrupt": Interrupt,
    "exit": Exit,
}


class NeverQuiet(Exception):
    """A step did not end; the trace says who was busy."""


class Driver:
    def __init__(self, loop: Any, trace: Trace) -> None:
        self.loop = loop
        self.trace = trace
        self.now = 1000.0
        self.busy: list[Callable[[], Any]] = []  # true while more has to happen
        self.track_of: Callable[[dict[str, Any]], str] = lambda context: "handler"
        self.at_end: list[Callable[[], Any]] = []  # lets go of what is open, however the run ended
        self._quiet = self._gave_up = False
        self._seen = -1
        self._turns = 0
        self._bell, self._ring = os.pipe2(os.O_NONBLOCK)
        loop.time = lambda: self.now
        loop.slow_callback_duration = float(
            "inf"
        )  # in debug mode: what takes long here is the machine
        loop.set_exception_handler(
            lambda _, context: trace.note(self.track_of(context), words_of_context(context))
        )
        loop.add_reader(self._bell, self._kernel_was_asked)

    def step(self, action: Callable[[], object]) -> None:
        """One step: `action` in a callback, and what comes of it."""
        self.trace.begin_step()
        self.loop.call_soon(action)
        self.settle()

    def advance(self, seconds: float) -> None:
        """One step: time goes by."""
        self.trace.begin_step()
        self.now += seconds
        self.settle()

    def settle(self) -> None:
        self._deadline = time.monotonic() + PATIENCE
        self._quiet = False
        self._ask_kernel()
        while not self._quiet:
            try:
                self.loop.run_forever()
            except LEAVE as exc:
                self.trace.note("loop", f"left by {words_of_error(exc)}")
            else:
                if not self._quiet:
                    self.trace.note("loop", "stopped")
        if self._gave_up:
            raise NeverQuiet

    def close(self) -> None:
        self.loop.remove_reader(self._bell)
        for end in self.at_end:
            end()
        for _ in range(TURNS):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        os.close(self._bell)
        os.close(self._ring)
        self.loop.close()

    def _ask_kernel(self) -> None:
        os.write(self._ring, b"!")

    def _kernel_was_asked(self) -> None:
        try:
            os.read(self._bell, 1)
        except BlockingIOError:
            return  # asyncio asked twice before it came to this: an interrupt left the first turn
        self._seen = self.trace.count
        self._turns = 0
        self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turns += 1
        if self._turns < TURNS:
            self.loop.call_soon(self._turn)
        elif self._seen == self.trace.count and not any(busy() for busy in self.busy):
            self._quiet = True
            self.loop.stop()
        elif time.monotonic() > self._deadline:
            busy = [busy.__qualname__ for busy in self.busy if busy()]
            self.trace.note("driver", f"never quiet: {busy}")
            self._gave_up = self._quiet = True
            self.loop.stop()
        else:
            self._ask_kernel()


@contextlib.contextmanager
def log_in(trace: Trace) -> Iterator[None]:
    """What asyncio logs meanwhile is part of the trace."""

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trace.note("log", f"{record.levelname} {words_of(record.getMessage())}")

    logger = logging.getLogger("asyncio")
    handler = Noting(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class Program:
    """What a language's programs are: run(driver) makes the steps."""

    def run(self, driver: Driver) -> None:
        raise NotImplementedError

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # hypothesis' own way takes minutes for a long one


def run(program: Program, make_loop: Callable[[], Any]) -> list[str]:
    """The trace of `program`, on a loop of its own."""
    trace = Trace()
    with log_in(trace):
        driver = Driver(make_loop(), trace)
        try:
            program.run(driver)
        except NeverQuiet:
            pass
        finally:
            driver.close()
    return trace.lines()
