"""Whatever a program does, it sees on our loop what it sees on asyncio's: in order, in the same words.

Programs are drawn by hypothesis; differential/ has their languages. With ZLOOP_DIFFERENTIAL_EXAMPLES=5000
each test draws that many, other ones each time, and makes one that fails as small as it can.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Callable
from typing import Any

import pytest
from differential import connections, datagrams, driver, scheduling, tls
from helpers import BACKEND, FACTORIES, ROOT
from hypothesis import HealthCheck, Phase, configuration, given, settings

import zloop

configuration.set_hypothesis_home_dir(ROOT / "build" / "hypothesis")

LONG = int(os.environ.get("ZLOOP_DIFFERENTIAL_EXAMPLES", "0"))

pytestmark = [
    pytest.mark.slow(hours=LONG and 12),
    # Its own generator, on 3.14: of no concern here, as the programs draw from hypothesis alone.
    pytest.mark.filterwarnings("ignore:It looks like `register_random`"),
]

polled = pytest.mark.skipif(
    BACKEND == "io_uring", reason="it receives ahead: a close behind unread bytes is no reset then"
)


def programs(strategy: Any, examples: int) -> Callable[[Any], Any]:
    """Draws as many: the same ones each time, and says the first that fails as it is."""

    def decorate(test: Any) -> Any:
        return settings(
            max_examples=LONG or examples,
            derandomize=not LONG,
            phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(given(strategy)(test))

    return decorate


def check_same(
    program: Any,
    judge: Callable[[], Any] = FACTORIES["asyncio"],
    judged: Callable[[], Any] = FACTORIES["zloop"],
) -> None:
    expected = driver.run(program, judge)
    seen = driver.run(program, judged)
    difference = difflib.unified_diff(expected, seen, "asyncio", "zloop", lineterm="", n=100)
    assert seen == expected, "\n" + "\n".join(difference)
    assert not [line for line in expected if "never quiet" in line]


@programs(scheduling.programs(), 60)
def test_callbacks_timers_futures_and_tasks(program):
    check_same(program)


@polled
@programs(connections.small_programs(), 80)
def test_a_connection_of_small_writes(program):
    check_same(program)


@polled
@programs(connections.bulk_programs(), 25)
def test_a_connection_under_backpressure(program):
    check_same(program)


@polled
@pytest.mark.usefixtures("certificates")
@programs(tls.programs(), 100)
def test_tls_of_small_writes(program):
    check_same(program)


@polled
@programs(datagrams.programs(), 60)
def test_datagrams(program):
    check_same(program)


# The judge.


@pytest.mark.parametrize(
    "strategy",
    [
        scheduling.programs(),
        connections.small_programs(),
        connections.bulk_programs(),
        datagrams.programs(),
        tls.programs(),
    ],
    ids=["scheduling", "small writes", "backpressure", "datagrams", "TLS"],
)
@pytest.mark.usefixtures("certificates")
def test_asyncio_says_the_same_twice(strategy):
    """A language in which it does not, says something that is left to chance."""

    @programs(strategy, 25)
    def test(program):
        check_same(program, judged=FACTORIES["asyncio"])

    test()


class SwapsCallbacks(zloop.Loop):
    """Runs the first of each two callbacks that wait after the second."""

    held: tuple[Any, ...] | None = None

    def call_soon(self, callback, *args, context=None):
        if getattr(callback, "__name__", "") != "run":  # only those of programs
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(super().call_soon, callback, *args, context=context)


class ChangesProtocols(zloop.Loop):
    def change(self, protocol: Any) -> None: ...

    def _make_socket_transport(self, sock, protocol, *args, **more):
        if not isinstance(protocol, asyncio.Transport):  # TLS is both
            self.change(protocol)
        return super()._make_socket_transport(sock, protocol, *args, **more)

    def _make_ssl_transport(self, sock, protocol, *args, **more):
        self.change(protocol)
        return super()._make_ssl_transport(sock, protocol, *args, **more)


class ForgetsTheEnd(ChangesProtocols):
    def change(self, protocol):
        protocol.connection_lost = lambda exc: None


class ForgetsTheReason(ChangesProtocols):
    def change(self, protocol):
        lost = protocol.connection_lost
        protocol.connection_lost = lambda exc: lost(None)


class EndsTwice(ChangesProtocols):
    def change(self, protocol):
        lost = protocol.connection_lost
        protocol.connection_lost = lambda exc: (lost(exc), lost(exc))


class LosesAByte(ChangesProtocols):
    def change(self, protocol):
        if received := getattr(protocol, "data_received", None):
            protocol.data_received = lambda data: received(data[1:])


class ForgetsToPause(zloop.Loop):
    """Though it says that it reads no longer."""

    def _make_ssl_transport(self, *args, **more):
        made = super()._make_ssl_transport(*args, **more)
        paused: list[Any] = []
        made.pause_reading = lambda: paused.append(True)
        made.resume_reading = paused.clear
        made.is_reading = lambda: not paused
        return made


class DoesNotStop(zloop.Loop):
    def stop(self):
        self.call_soon(super().stop)


@pytest.mark.parametrize(
    ("wrong", "strategy"),
    [
        (SwapsCallbacks, scheduling.programs()),
        (DoesNotStop, scheduling.programs()),
        (ForgetsTheEnd, connections.small_programs()),
        (ForgetsTheReason, connections.small_programs()),
        (LosesAByte, connections.small_programs()),
        (ForgetsTheEnd, tls.programs()),
        (ForgetsTheReason, tls.programs()),
        (LosesAByte, tls.programs()),
        (EndsTwice, tls.programs()),
        (ForgetsToPause, tls.programs()),
    ],
    ids=lambda each: getattr(each, "__name__", "programs"),
)
@pytest.mark.usefixtures("certificates")
def test_a_loop_that_is_wrong_is_caught(wrong, strategy, monkeypatch):
    monkeypatch.setattr(driver, "PATIENCE", 1.0)

    @programs(strategy, 500)
    def test(program):
        check_same(program, judged=wrong)

    with pytest.raises(AssertionError, match="--- asyncio"):
        test()
