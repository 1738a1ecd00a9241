"""One row of a run: all contenders are started, and then measured in turn, round by round.

Who cannot do the row is skipped, and who breaks in it is started anew and, when it breaks again, is
out: both with the reason. Nothing of a row outlives it.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence

from contestants import Contestant, Place, contestant
from processes import Failure
from rows import Row
from samples import Run, Sample
from services import SERVICES

ENOUGH_FAILURES = 2
# What a contender can break with: its own words, a program that does not compile, one that says odd things.
BREAKS = (Failure, subprocess.SubprocessError, OSError, ValueError, KeyError)


def said(failure: BaseException) -> str:
    text = str(failure) if isinstance(failure, Failure) else f"{type(failure).__name__}: {failure}"
    return text.strip() or type(failure).__name__


class Contest:
    """Of a row; what it measures and whom it skips is added to the run."""

    def __init__(self, run: Run, row: Row, place: Place, contenders: Sequence[str]) -> None:
        self._run, self._row, self._place = run, row, place
        self._contenders = [c for c in run.versions if c in contenders]
        self._skipped = run.skipped.setdefault(row.name, {})
        self._started: dict[str, tuple[Contestant, contextlib.ExitStack]] = {}
        self._failures = dict.fromkeys(self._contenders, 0)
        self._address: int | None = None  # of what the contenders ask; all ask the same

    def measure(
        self,
        rounds: int,
        seconds: float,
        share_seconds: float | None,
        tell: Callable[[float, str], None],
    ) -> None:
        """Measure all, in as many rounds as fit into the share, where there is one, but one at least."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            try:
                if self._row.service:
                    opened = SERVICES[self._row.service](self._place.client_core)
                    self._address = stack.enter_context(opened)
            except BREAKS as failure:
                self._skipped.update(dict.fromkeys(self._contenders, said(failure)))
                return
            stack.callback(self._end_all)
            for contender in self._contenders:
                tell(0, f"{contender} starts")
                self._try_to_start(contender)
            started = time.monotonic()
            for round in range(rounds):
                each = (time.monotonic() - started) / round if round else 0
                if share_seconds and time.monotonic() + each > began + share_seconds and round:
                    break
                order = self._order(round)
                for i, contender in enumerate(order):
                    used = time.monotonic() - began
                    part = (
                        used / share_seconds if share_seconds else (round + i / len(order)) / rounds
                    )
                    tell(min(part, 1), f"round {round + 1}, {contender}")
                    self._run.samples.append(self._sample(round + 1, contender, seconds))

    def _order(self, round: int) -> list[str]:
        able = list(self._started)
        turn = round % len(able) if able else 0
        return able[turn:] + able[:turn]

    def _try_to_start(self, contender: str) -> None:
        if not self._row.has(contender):
            if self._row.server:  # a worker is a loop, which the C program has not
                self._skipped[contender] = "there is no such C program"
            return
        try:
            self._start(contender)
        except BREAKS as failure:
            self._skipped[contender] = said(failure)

    def _start(self, contender: str) -> None:
        with contextlib.ExitStack() as stack:
            made = contestant(self._row, contender, self._place, self._address)
            stack.enter_context(made)
            self._started[contender] = made, stack.pop_all()

    def _sample(self, round: int, contender: str, seconds: float) -> Sample:
        """Take a sample. A contender that breaks is part of the result, not the end of the run."""
        try:
            figures = self._started[contender][0].measure(seconds)
            return Sample(self._row.name, round, contender, **figures)
        except BREAKS as failure:
            self._end(contender)
            self._failures[contender] += 1
            if self._failures[contender] < ENOUGH_FAILURES:
                self._try_to_start(contender)
            return Sample(self._row.name, round, contender, failure=said(failure))

    def _end(self, contender: str) -> None:
        self._started.pop(contender)[1].close()

    def _end_all(self) -> None:
        for contender in list(self._started):
            self._end(contender)
