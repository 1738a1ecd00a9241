"""Compare two runs of one suite, test by test, and hold the result against the list of differences.

Nothing here runs a test: outcomes come in, a verdict goes out. Both suites use it.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

Version = tuple[int, ...]

EXPECTED = Path(__file__).with_name("expected.toml")


class Outcome(NamedTuple):
    """How one test ended: ok, skip, fail, error, timeout or crash; missing if it was not there."""

    kind: str
    detail: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


Outcomes = Mapping[str, Outcome]

MISSING = Outcome("missing")


def counts(outcomes: Iterable[Outcome]) -> tuple[int, int, int]:
    """How many passed, failed in any way, and were skipped."""
    kinds = [outcome.kind for outcome in outcomes]
    ok, skip = kinds.count("ok"), kinds.count("skip")
    return ok, len(kinds) - ok - skip, skip


def differences(stock: Outcomes, ours: Outcomes) -> list[str]:
    """The tests that pass on stock and do not pass on ours: skipped and missing count as well.

    A test that only we have differs unless it ends well: a class that crashes at exit is told so.
    """
    lost = [
        test
        for test, outcome in stock.items()
        if outcome.kind == "ok" and ours.get(test, MISSING).kind != "ok"
    ]
    extra = [
        test
        for test, outcome in ours.items()
        if test not in stock and outcome.kind not in ("ok", "skip")
    ]
    return sorted(lost + extra)


@dataclass(frozen=True)
class Entry:
    """One line of expected.toml."""

    test: str
    why: str
    python: str = ""
    touches: str = ""
    flaky: bool = False

    def covers(self, test: str) -> bool:
        return fnmatchcase(test, self.test)


def satisfies(version: Version, condition: str) -> bool:
    """Whether `version` meets a condition such as ">=3.12,<3.14" or "3.11"; "" is met by all."""
    for part in filter(None, (part.strip() for part in condition.split(","))):
        match = re.fullmatch(r"(<=|>=|==|!=|<|>)?\s*(\d+(?:\.\d+)*)", part)
        if match is None:
            raise ValueError(f"not a version condition: {part!r}")
        limit = tuple(map(int, match[2].split(".")))
        ours = version[: len(limit)]  # 3.12.1 is a 3.12
        if not {
            "<": ours < limit,
            "<=": ours <= limit,
            ">": ours > limit,
            ">=": ours >= limit,
            "!=": ours != limit,
        }.get(match[1], ours == limit):
            return False
    return True


def load_expected(suite: str, version: Version, path: Path = EXPECTED) -> list[Entry]:
    """The entries of `suite` that concern this Python version."""
    entries = []
    for line in tomllib.loads(path.read_text()).get(suite, []):
        try:
            entry = Entry(**line)
        except TypeError as error:
            raise ValueError(f"{path.name}: {line}: {error}") from None
        if not entry.why.strip():
            raise ValueError(f"{path.name}: {entry.test} has no reason")
        if satisfies(version, entry.python):
            entries.append(entry)
    return entries


@dataclass
class Verdict:
    """What is left to say once the list has been held against reality."""

    known: dict[str, Entry] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.unexpected or self.stale)


def judge(stock: Outcomes, ours: Outcomes, entries: list[Entry], complete: bool = True) -> Verdict:
    """Hold the differences against the list, in both directions.

    An entry is stale when a test that it names passes, or when it names no test of a `complete`
    run. A test that stock does not pass either, here, says nothing about the entry.
    """
    verdict = Verdict()
    different = set(differences(stock, ours))
    for test in sorted(different):
        entry = next((entry for entry in entries if entry.covers(test)), None)
        if entry is None:
            verdict.unexpected.append(test)
        else:
            verdict.known[test] = entry
    for entry in entries:
        covered = [test for test in stock.keys() | ours.keys() if entry.covers(test)]
        if not covered and complete:
            verdict.stale.append(f"{entry.test}: there is no such test")
        verdict.stale += sorted(
            f"{test}: listed ({entry.why}), but it passes"
            for test in covered
            if test not in different and not entry.flaky and ours_passes(stock, ours, test)
        )
    return verdict


def ours_passes(stock: Outcomes, ours: Outcomes, test: str) -> bool:
    return stock.get(test, MISSING).kind == "ok" and ours.get(test, MISSING).kind == "ok"
