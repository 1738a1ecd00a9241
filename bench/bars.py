"""What zloop has promised itself: ratios to others in the same run, each held or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import loops
from samples import MORE_IS_BETTER, Sample, ratios, spread, values

BEST = "the best other loop"
PEER = "uvloop"


@dataclass(frozen=True)
class Bar:
    """At least this ratio where more is better, at most where less is; without a reference, a figure."""

    row: str
    limit: float
    reference: str = BEST
    figure: str = "rate"

    def __str__(self) -> str:
        sign = ">=" if self.figure in MORE_IS_BETTER else "<="
        reference = f" x {self.reference}" if self.reference else ""
        return f"{self.row}, {self.figure} {sign} {self.limit:.2f}{reference}"

    def measured(self, samples: Sequence[Sample], subject: str) -> float | None:
        if not self.reference:
            found = spread(values(samples, self.row, subject, self.figure).values())
            return found.middle if found else None
        reference = self.reference
        if reference == BEST:
            reference = best(samples, self.row, self.figure) or ""
        found = ratios(samples, self.row, subject, reference, self.figure)
        return found.middle if found else None

    def verdict(self, samples: Sequence[Sample], subject: str) -> tuple[float | None, str]:
        measured = self.measured(samples, subject)
        if measured is None:
            return None, "not measured"
        own = [s for s in samples if s.row == self.row and s.contender == subject]
        if any(s.errors or s.failure for s in own):
            return measured, "falls short: there were errors"
        more = self.figure in MORE_IS_BETTER
        holds = measured >= self.limit if more else measured <= self.limit
        return measured, "holds" if holds else "falls short"


def best(samples: Sequence[Sample], row: str, figure: str) -> str | None:
    """Of all other loops the one with the best median."""
    found = {
        contender: middle.middle
        for contender in ("asyncio", *loops.PEERS)
        if (middle := spread(values(samples, row, contender, figure).values()))
    }
    if not found:
        return None
    choose = max if figure in MORE_IS_BETTER else min
    return choose(found, key=lambda contender: found[contender])


TIMED = [  # p99 is not above the best other loop's on these
    "echo-1KiB-64",
    "buffered-1KiB-64",
    "streams-1KiB-64",
    "sock-1KiB-64",
    "datagram-1KiB-64",
    "tls-echo-1KiB-64",
    "uvicorn-64",
]

BARS = [
    Bar("uvicorn-64", 1.05),
    Bar("uvicorn-64", 1.0, figure="cpu_us"),
    Bar("streams-1KiB-64", 1.1),
    Bar("echo-1KiB-64", 1.0),
    Bar("echo-1KiB-64", 0.98, loops.FLOOR),
    Bar("echo-1KiB-64", 1.0, "", "user_us"),
    Bar("buffered-1KiB-64", 1.0),
    Bar("sock-1KiB-64", 1.15),
    Bar("datagram-1KiB-64", 1.1),
    Bar("tls-echo-1KiB-64", 1.1),
    Bar("tls-echo-1KiB-64", 0.93, loops.FLOOR),
    Bar("tls-bulk-1", 0.9, loops.FLOOR),
    Bar("tls-handshake-16", 0.85, loops.FLOOR),
    Bar("call_soon_chain", 5.0, PEER),
    Bar("call_soon", 1.9, PEER),
    Bar("call_soon_2", 2.0, PEER),
    Bar("call_later_cancel", 5.0, PEER),
    Bar("timers_fire", 1 / 2, PEER, "cpu_us"),
    Bar("threadsafe_flood", 1.1),
    Bar("threadsafe_pingpong", 1.1),
    Bar("sleep0", 2.3, PEER),
    Bar("gather", 1.5, PEER),
    Bar("future_wake", 2.7, PEER),
    Bar("add_reader", 1.5, PEER),
    Bar("sock_pingpong", 2.7, PEER),
    Bar("connect_close", 1.1, PEER),
    Bar("getaddrinfo", 3.0, PEER),
    Bar("run_in_executor", 1.15, PEER),
    Bar("spawn", 3.2, PEER),
    *(Bar(row, 1.0, figure="p99_us") for row in TIMED),
    Bar("idle-10000", 890, "", "connection_bytes"),
]


def verdicts(samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """Every bar whose row was run, for zloop on each backend, those that fall short too."""
    rows = {sample.row for sample in samples}
    present = [c for c in loops.SUBJECTS if any(s.contender == c for s in samples)]
    for bar in BARS:
        for subject in present if bar.row in rows else []:
            measured, verdict = bar.verdict(samples, subject)
            yield {"bar": str(bar), "subject": subject, "measured": measured, "verdict": verdict}
