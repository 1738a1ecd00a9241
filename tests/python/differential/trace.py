"""What was seen of one run: for each step, what happened on each track, in order.

Tracks are what asyncio promises an order within. What a connection receives has one, what becomes of
its writing another: which of the two the kernel tells first is no one's promise.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any


def words_of(what: Any) -> str:
    """Without what is another one in each run: addresses, numbers of descriptors, whose class it is."""
    words = re.sub(r"<\S*Transport\b[^<>]*(<[^<>]*>)?[^<>]*>", "<transport>", str(what))
    words = re.sub(r"(in callback )(\w*Transport|SSLProtocol)\b", r"\1Transport", words)
    words = re.sub(
        r"(in callback [\w.<>]+)\(.*\.\.\..*", r"\1", words
    )  # an argument is cut to a length
    # Once a transport has ended within its reader's callback, that has a name only with us.
    words = re.sub(r"in callback (None|Transport\._read_ready)\(\)", "in callback None()", words)
    words = re.sub(r"0x[0-9a-f]+", "0x", words)
    words = re.sub(r"\b(fd|port|pid)[= ]\d+", r"\1", words)
    return re.sub(r"\('127\.0\.0\.1', \d+\)", "(address)", words)


def words_of_error(exc: BaseException | None) -> str:
    return "nothing" if exc is None else f"{type(exc).__name__}({words_of(exc)})"


def words_of_context(context: dict[str, Any]) -> str:
    """What an exception handler was told."""
    keys = " ".join(sorted(context))
    return f"{words_of(context['message'])}: {words_of_error(context.get('exception'))} [{keys}]"


class Received(bytearray):
    """Data that came in any number of pieces: which ones is the kernel's choice."""

    def __str__(self) -> str:
        return f"received {len(self)} {hashlib.sha256(self).hexdigest()[:8]}"


class Trace:
    def __init__(self) -> None:
        self.steps: list[dict[str, list[Any]]] = [{}]
        self.count = 0  # of all that was noted: whether it grows tells whether something happens

    def begin_step(self) -> None:
        self.steps.append({})

    def note(self, track: str, what: Any) -> None:
        self.count += 1
        self.steps[-1].setdefault(track, []).append(what)

    def received(self, track: str, data: bytes) -> None:
        self.count += 1
        events = self.steps[-1].setdefault(track, [])
        if not events or not isinstance(events[-1], Received):
            events.append(Received())
        events[-1] += data

    def lines(self) -> list[str]:
        return [
            f"step {number}, {track}: {what}"
            for number, step in enumerate(self.steps)
            for track in sorted(step)
            for what in step[track]
        ]
