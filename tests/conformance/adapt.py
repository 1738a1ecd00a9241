"""Test helpers of CPython's suite that read private parts of the stock loop, said in public words.

A helper may be adapted, each with its reason; an assertion may not. The proof that an adaptation
changes nothing: `cpython.py --loop asyncio:SelectorEventLoop` runs the stock loop through all of
them, and finds no difference.
"""

from asyncio.base_events import BaseEventLoop
from types import ModuleType
from typing import Any
from unittest.mock import Mock

from test.test_asyncio import utils  # type: ignore[import-not-found]

# Here TestLoop stands for a selector, under private transports with mock sockets. It stays stock.
MOCK_SELECTOR = {"test_proactor_events", "test_selector_events", "test_unix_events"}


def module(module: ModuleType, ours: type) -> None:
    """Adapt what `module` uses; tests are made from it after this."""
    name = module.__name__.rpartition(".")[2]
    utils.TestCase.close_loop = staticmethod(close_loop(utils.TestCase.close_loop))
    if name not in MOCK_SELECTOR:
        utils.TestLoop = virtual_clock(ours)
    if name == "test_tasks":
        module.GatherTestsBase._run_loop = run_until_idle
    if name == "test_runners":
        module.BaseTest.new_loop = lambda self: loop_without_asyncgens(ours)
    if name == "test_pep492":
        module.BaseTest.setUp = lambda self: set_up_loop(self, ours)
    if name == "test_selector_events" and not selects(ours):
        module.TestBaseSelectorEventLoop = lambda selector: ours()  # the mock has nothing to do
    if name == "test_base_events":
        module.BaseEventLoopTests.setUp = lambda self: set_up_loop(self, ours)


def selects(ours: type) -> bool:
    """Whether our loop is driven by a selector: it is the stock one, for the proof."""
    return getattr(ours, "_run_once", None) is BaseEventLoop._run_once


def close_loop(stock: Any) -> Any:
    """TestCase.close_loop reads `_default_executor`: a loop without that attribute has none."""

    def close(loop: Any) -> None:
        if not hasattr(loop, "_default_executor"):
            loop._default_executor = None
        stock(loop)

    return close


def virtual_clock(ours: type) -> type:
    """utils.TestLoop, whose clock the test moves, on our loop instead of BaseEventLoop.

    The stock one overrides `_run_once` to learn that a turn has ended. Ours has a callback in every
    turn that does the same, which also keeps the loop from blocking, as the stock one's selector
    does. What the test's time generator raises (its assertions) leaves run_forever here as there.
    """

    class TestLoop(ours):  # type: ignore[misc]
        def __init__(self, gen: Any = None) -> None:
            self._time = 0.0
            self._timers: list[float] = []
            super().__init__()
            self._check_on_close = gen is not None
            self._gen = gen() if gen else endless()
            next(self._gen)
            self._clock_resolution = 1e-9

        def time(self) -> float:
            return self._time

        def advance_time(self, advance: float) -> None:
            if advance:
                self._time += advance

        def close(self) -> None:
            super().close()
            if self._check_on_close:
                try:
                    self._gen.send(0)
                except StopIteration:
                    pass
                else:
                    raise AssertionError("Time generator is not finished")

        def run_forever(self) -> None:
            self._failure: BaseException | None = None
            self._turn_ended = super().call_soon(self._end_turn)
            try:
                super().run_forever()
            finally:
                self._turn_ended.cancel()
                if len(self._ready) == 1 and list(self._ready) == [self._turn_ended]:
                    self._ready.popleft()  # tests look whether the loop has left anything
            if self._failure is not None:
                raise self._failure
            self._tell_timers()  # that the callbacks after ours made in the last turn

        def _run_once(self) -> None:
            if self.is_running():  # the stock loop's own turn
                super()._run_once()
            else:  # a test asks for one turn, and looks for what it leaves: nothing of ours
                self.call_soon(self.stop)
                super().run_forever()
                self._tell_timers()

        def _end_turn(self) -> None:
            self._turn_ended = super().call_soon(self._end_turn)
            try:
                self._tell_timers()
            except BaseException as failure:
                self._failure = failure
                self.stop()

        def _tell_timers(self) -> None:
            timers, self._timers = self._timers, []
            for when in timers:
                self.advance_time(self._gen.send(when))

        def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
            return self.call_at(self.time() + delay, callback, *args, context=context)

        def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            self._timers.append(when)
            return super().call_at(when, callback, *args, context=context)

    return TestLoop


def endless() -> Any:
    yield


def run_until_idle(self: Any, loop: Any) -> None:
    """GatherTestsBase._run_loop runs while `loop._ready` holds something: a few turns at most."""
    for _ in range(32):
        utils.run_briefly(loop)


def loop_without_asyncgens(ours: type) -> Any:
    """test_runners' new_loop mocks the selector of a BaseEventLoop, which we have no use for.

    What its tests look at is whether the runner shut the asynchronous generators down: kept.
    """
    loop = ours()
    loop.shutdown_ag_run = False

    async def shutdown_asyncgens() -> None:
        loop.shutdown_ag_run = True

    loop.shutdown_asyncgens = shutdown_asyncgens
    return loop


def set_up_loop(self: Any, ours: type) -> None:
    """These setUp methods mock the selector of a BaseEventLoop: no turn waits, and some step the loop.

    The stock loop keeps the mock; ours makes one turn, which does not wait.
    """
    utils.TestCase.setUp(self)
    self.loop = ours() if selects(ours) else stepped(ours)()
    self.set_event_loop(self.loop)
    if selects(ours):
        self.loop._selector.select = Mock(return_value=())


def stepped(ours: type) -> type:
    """Our loop, whose `_run_once` is one turn also for a test that calls it."""

    class SteppedLoop(ours):  # type: ignore[misc]
        by_hand = True

        def run_forever(self) -> None:
            self.by_hand = False
            try:
                super().run_forever()
            finally:
                self.by_hand = True

        def _run_once(self) -> None:
            if self.by_hand:
                self.call_soon(self.stop)
            super()._run_once()
            if self.by_hand:
                self._stopping = False

    return SteppedLoop
