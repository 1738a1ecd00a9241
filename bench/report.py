"""Turns samples into tables, ratios and verdicts.

A ratio compares two samples of the same round, taken within seconds of each other, and the median
of these ratios counts: a machine that slows down for a minute slows both. Medians of the raw
figures stand beside it for the reader; their quotient may differ a little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import loops
from modes import Sample

SUBJECT = "zloop"
PEER = "uvloop"
QUIET_LOAD = 0.5  # above, other work takes part in what is measured, and a report says so


def values(samples: Sequence[Sample], mode: str, contender: str, figure: str) -> dict[int, float]:
    """Return the figure by round, without the rounds that failed."""
    return {
        s.round: getattr(s, figure)
        for s in samples
        if s.mode == mode and s.contender == contender and getattr(s, figure) is not None
    }


def ratio(
    samples: Sequence[Sample], mode: str, contender: str, reference: str, figure: str
) -> float | None:
    ours = values(samples, mode, contender, figure)
    theirs = values(samples, mode, reference, figure)
    pairs = [ours[r] / theirs[r] for r in ours.keys() & theirs.keys() if theirs[r]]
    return median(pairs) if pairs else None


@dataclass(frozen=True)
class Bar:
    """A promise of the project, as a ratio to another contender of the same run."""

    name: str
    mode: str
    figure: str
    reference: str
    at_least: float | None = None
    at_most: float | None = None

    def verdict(self, samples: Sequence[Sample]) -> tuple[float | None, str]:
        measured = ratio(samples, self.mode, SUBJECT, self.reference, self.figure)
        if measured is None:
            return None, "not measured"
        if any(s.errors or s.failure for s in samples if self._concerns(s)):
            return measured, "falls short: there were errors"
        high_enough = self.at_least is None or measured >= self.at_least
        low_enough = self.at_most is None or measured <= self.at_most
        return measured, "holds" if high_enough and low_enough else "falls short"

    def _concerns(self, sample: Sample) -> bool:
        return sample.mode == self.mode and sample.contender == SUBJECT

    def __str__(self) -> str:
        limit = f">= {self.at_least:.2f}" if self.at_least else f"<= {self.at_most:.2f}"
        return f"{self.name}: {limit} x {self.reference}"


BARS = [
    Bar("echo-1KiB-64, throughput", "echo-1KiB-64", "rate", loops.FLOOR, at_least=0.95),
    Bar("echo-1KiB-64, CPU per message", "echo-1KiB-64", "cpu_us", loops.FLOOR, at_most=1.06),
    Bar("datagram-1KiB-64, CPU per message", "datagram-1KiB-64", "cpu_us", PEER, at_most=1 / 1.2),
    Bar("tls-echo-1KiB-64, throughput", "tls-echo-1KiB-64", "rate", loops.FLOOR, at_least=0.85),
    Bar("tls-echo-16KiB-64, throughput", "tls-echo-16KiB-64", "rate", loops.FLOOR, at_least=0.8),
    Bar("tls-bulk-1, throughput", "tls-bulk-1", "rate", loops.FLOOR, at_least=0.9),
    Bar("tls-handshake-16, throughput", "tls-handshake-16", "rate", loops.FLOOR, at_least=0.85),
    Bar("call_soon", "call_soon", "rate", PEER, at_least=2),
    Bar("call_later_cancel", "call_later_cancel", "rate", PEER, at_least=4),
    Bar("spawn", "spawn", "rate", "asyncio", at_least=1),
    Bar("uvicorn-64, requests per second", "uvicorn-64", "rate", PEER, at_least=1.25),
]


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _row(samples: Sequence[Sample], mode: str, contender: str) -> list[str]:
    def middle(figure: str) -> float | None:
        found = values(samples, mode, contender, figure)
        return median(found.values()) if found else None

    rate, busy = middle("rate"), middle("client_busy")
    row = [contender]
    if busy is None:
        row += [_cell(1e9 / rate if rate else None, 1)]
    else:
        row += [_cell(rate, 0), _cell(ratio(samples, mode, contender, loops.FLOOR, "rate"), 2)]
    row += [_cell(ratio(samples, mode, contender, PEER, "rate"), 2)]
    if busy is not None:
        row += [
            _cell(middle("cpu_us"), 2),
            _cell(ratio(samples, mode, contender, loops.FLOOR, "cpu_us"), 2),
            _cell(ratio(samples, mode, contender, PEER, "cpu_us"), 2),
            _cell(middle("p50_us"), 0),
            _cell(middle("p99_us"), 0),
            f"{busy:.0%}",
            f"{middle('waited') or 0:.0%}",
            str(sum(s.errors for s in samples if s.mode == mode and s.contender == contender)),
        ]
    return row


IO_HEADER = ["", "per s", "x floor", f"x {PEER}"]
IO_HEADER += ["CPU us", "x floor", f"x {PEER}", "p50 us", "p99 us", "client", "waited", "errors"]
MICRO_HEADER = ["", "ns", f"x {PEER}"]


def table(samples: Sequence[Sample], mode: str, contenders: Sequence[str]) -> str:
    """Return the table of one mode, the contenders in their given order."""
    own = [s for s in samples if s.mode == mode]
    worked = [c for c in contenders if any(s.contender == c and s.rate for s in own)]
    rows = [_row(own, mode, contender) for contender in worked]
    served = any(s.client_busy is not None for s in own)
    header = IO_HEADER if served else MICRO_HEADER
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    widths[0] = max(widths[0], 8)
    lines = [mode]
    for line in [header, *rows] if rows else []:
        cells = [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join(["  " + line[0].ljust(widths[0]), *cells]))
    for sample in own:
        if sample.failure:
            lines.append(f"  {sample.contender} failed in round {sample.round}: {sample.failure}")
    return "\n".join(lines)


def bars(samples: Sequence[Sample]) -> list[dict[str, str | float | None]]:
    """Return every bar with its measured ratio and verdict, those that fall short too."""
    return [
        {"bar": str(bar), "measured": measured, "verdict": verdict}
        for bar in BARS
        for measured, verdict in [bar.verdict(samples)]
    ]
