"""Compares two runs that were kept: what got worse stands first.

    python bench/compare_runs.py old.json new.json
    python bench/compare_runs.py old.json new.json --against uvloop --contenders zloop

A gain is new to old, turned so that more is better: 1.10 is a tenth faster, or a tenth less CPU time.
Around it stand the worst and the best that the quartiles of both runs allow. Only where these are on
one side of 1, after three rounds or more, does a row count as worse or better. With --against each
figure is first divided by that contender's of the same round: what two machines, or two days, have
in common then falls out.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import loops
from samples import FIGURES, MORE_IS_BETTER, Run, Spread, ratios, read, spread, values

ENOUGH_ROUNDS = 3  # for quartiles that say anything


@dataclass(frozen=True)
class Change:
    row: str
    contender: str
    figure: str
    old: Spread
    new: Spread
    rounds: int  # of the shorter run

    @property
    def gain(self) -> Spread:
        """How many times better it has become, at worst, in the middle, and at best."""
        old, new = self.old, self.new
        if self.figure in MORE_IS_BETTER:
            return Spread(new.low / old.high, new.middle / old.middle, new.high / old.low)
        return Spread(old.low / new.high, old.middle / new.middle, old.high / new.low)

    @property
    def verdict(self) -> str:
        if self.rounds < ENOUGH_ROUNDS:
            return ""
        if self.gain.high < 1:
            return "worse"
        return "better" if self.gain.low > 1 else ""


def changes(
    old: Run, new: Run, contenders: list[str], figures: list[str] | None, against: str | None
) -> Iterator[Change]:
    """What both runs have measured. Without figures, each row's main one and the CPU time."""
    for row in [row for row in new.rows if row in old.rows]:
        asked = figures or list(dict.fromkeys([new.rows[row]["main"], "cpu_us"]))
        for contender in contenders:
            for figure in asked:
                before, after = (
                    _figure(run, row, contender, figure, against) for run in (old, new)
                )
                if before and after and min(*before, *after) > 0:
                    rounds = min(_rounds(run, row, contender, figure) for run in (old, new))
                    yield Change(row, contender, figure, before, after, rounds)


def _rounds(run: Run, row: str, contender: str, figure: str) -> int:
    return len(values(run.of(row), row, contender, figure))


def _figure(run: Run, row: str, contender: str, figure: str, against: str | None) -> Spread | None:
    own = run.of(row)
    if against:
        return ratios(own, row, contender, against, figure)
    return spread(values(own, row, contender, figure).values())


ORDER = {"worse": 0, "": 1, "better": 2}


def ranked(found: Iterator[Change]) -> list[Change]:
    return sorted(found, key=lambda change: (ORDER[change.verdict], change.gain.middle))


def lines(found: list[Change]) -> Iterator[str]:
    yield f"{'':6}  {'row':22}  {'contender':11}  {'figure':9}  {'old':>12}  {'new':>12}   gain"
    for change in found:
        low, middle, high = change.gain
        yield (
            f"{change.verdict:6}  {change.row:22}  {change.contender:11}  {change.figure:9}"
            f"  {change.old.middle:12,.2f}  {change.new.middle:12,.2f}"
            f"  {middle:5.2f}  ({low:.2f} to {high:.2f})"
        )


def heading(old: Run, new: Run) -> Iterator[str]:
    for name, run in (("old", old), ("new", new)):
        about = run.machine
        facts = [
            about.get(fact, "") for fact in ("date", "commit", "python", "system", "processor")
        ]
        yield f"{name}: {', '.join(filter(None, facts))}, load {about['load_before']:.1f}"
    for name, run, other in (("old", old, new), ("new", new, old)):
        if alone := [row for row in run.rows if row not in other.rows]:
            yield f"only {name} has {', '.join(alone)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    subjects = ",".join(loops.SUBJECTS)
    parser.add_argument("--contenders", default=subjects, help=f"default: {subjects}")
    parser.add_argument("--figures", help=f"of {','.join(FIGURES)}; default: the main one, cpu_us")
    parser.add_argument("--against", metavar="CONTENDER", help="compare ratios to this one")
    arguments = parser.parse_args()

    old, new = read(arguments.old), read(arguments.new)
    figures = arguments.figures.split(",") if arguments.figures else None
    if unknown := set(figures or []) - set(FIGURES):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}")
    contenders = arguments.contenders.split(",")
    found = ranked(changes(old, new, contenders, figures, arguments.against))
    print("\n".join([*heading(old, new), "", *lines(found)]))
    verdicts = [change.verdict for change in found]
    print(f"\n{verdicts.count('worse')} worse, {verdicts.count('better')} better, of {len(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
