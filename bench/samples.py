"""What a run has measured, and the file in which it is kept.

A sample is one contender, once, in one round of a row. The file is written anew after each row, so
a run that is broken off keeps what it had, and another can go on with it.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Sample:
    """What one measurement showed; None is what its row does not measure."""

    row: str
    round: int
    contender: str
    rate: float | None = None  # units (messages, requests, operations, MiB) per second
    cpu_us: float | None = None  # CPU time of the measured process, all threads, per unit
    user_us: float | None = None  # that part of it
    system_us: float | None = None  # and this
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    connection_bytes: float | None = None  # resident, of an idle connection
    client_busy: float | None = None  # of its core: near 1 it was the client that set the rate
    server_busy: float | None = None
    waited: float | None = None  # of the time client or server had no core: others were at work
    errors: int = 0
    failure: str = ""


FIGURES = [
    "rate",
    "cpu_us",
    "user_us",
    "system_us",
    "p50_us",
    "p99_us",
    "p999_us",
    "connection_bytes",
]
MORE_IS_BETTER = {"rate"}  # of all others less is


class Spread(NamedTuple):
    """The median, and the quartiles around it."""

    low: float
    middle: float
    high: float


def spread(figures: Iterable[float]) -> Spread | None:
    found = sorted(figures)
    if not found:
        return None
    if len(found) == 1:
        return Spread(found[0], found[0], found[0])
    return Spread(*statistics.quantiles(found, n=4, method="inclusive"))


def values(samples: Sequence[Sample], row: str, contender: str, figure: str) -> dict[int, float]:
    """Return the figure by round, without the rounds that failed."""
    return {
        s.round: getattr(s, figure)
        for s in samples
        if s.row == row and s.contender == contender and getattr(s, figure) is not None
    }


def ratios(
    samples: Sequence[Sample], row: str, contender: str, reference: str, figure: str
) -> Spread | None:
    """Of two samples of the same round each: a machine that slows down for a minute slows both."""
    ours = values(samples, row, contender, figure)
    theirs = values(samples, row, reference, figure)
    return spread(ours[r] / theirs[r] for r in ours.keys() & theirs.keys() if theirs[r])


@dataclass
class Run:
    """A run as it is kept: where, with what, which rows, and every sample."""

    machine: dict[str, Any]
    versions: dict[str, str]  # of the contenders that work here
    absent: dict[str, str]  # the others, and why
    rounds: int
    seconds: float
    rows: dict[str, dict[str, str]] = field(default_factory=dict)  # title, unit, main figure
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)  # row, contender, why not
    bars: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)  # by memory.py

    def of(self, row: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.row == row]

    def forget(self, row: str) -> None:
        """Take a row out, to measure it anew."""
        self.samples = [sample for sample in self.samples if sample.row != row]
        self.skipped.pop(row, None)

    def medians(self) -> dict[str, dict[str, dict[str, Spread]]]:
        """Of each row, contender and figure: for those who read the file without these tools."""
        found: dict[str, dict[str, dict[str, Spread]]] = {}
        for row in self.rows:
            own = self.of(row)
            for contender in dict.fromkeys(sample.contender for sample in own):
                figures = {f: spread(values(own, row, contender, f).values()) for f in FIGURES}
                present = {figure: s for figure, s in figures.items() if s is not None}
                found.setdefault(row, {})[contender] = present
        return found

    def write(self, path: Path) -> None:
        """Whole or not at all: what is there stays until this is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".part")
        fresh.write_text(_text(asdict(self) | {"medians": self.medians()}))
        fresh.replace(path)


def _text(kept: dict[str, Any]) -> str:
    """JSON with a line for each sample and row, so that one can look at it, and at differences."""
    parts = []
    for name, value in kept.items():
        if isinstance(value, dict):
            lines = [f" {json.dumps(key)}: {_line(each)}" for key, each in value.items()]
            text = "{\n" + ",\n".join(lines) + "\n}"
        elif isinstance(value, list):
            text = "[\n" + ",\n".join(f" {_line(each)}" for each in value) + "\n]"
        else:
            text = json.dumps(value)
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False)


def _short(value: Any) -> Any:
    """Without what was not measured, and with as many digits as mean something."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items() if each is not None}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


def read(path: Path) -> Run:
    kept = json.loads(path.read_text())
    kept.pop("medians", None)
    return Run(**kept | {"samples": [Sample(**sample) for sample in kept["samples"]]})
