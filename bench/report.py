"""Turns samples into tables for a terminal.

A ratio compares two samples of the same round, taken within seconds of each other, and the median
of these ratios counts: a machine that slows down for a minute slows both. Medians of the raw
figures stand beside it for the reader; their quotient may differ a little.
"""

from collections.abc import Callable, Sequence

import bars
import loops
from rows import Row
from samples import Run, Sample, Spread, ratios, spread, values

Cells = Callable[[str], str]  # what a contender has in a column


def _cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _around(found: Spread | None) -> str:
    """Half of the distance between the quartiles, in percent of the median."""
    if found is None or not found.middle:
        return "-"
    return f"±{abs((found.high - found.low) / 2 / found.middle):.0%}"


def columns(samples: Sequence[Sample], row: Row) -> dict[str, Cells]:
    """The columns of a row's table, without those that it does not measure."""

    def middle(contender: str, figure: str) -> float | None:
        found = spread(values(samples, row.name, contender, figure).values())
        return found.middle if found else None

    def figure(name: str, digits: int = 2, factor: float = 1) -> Cells:
        def cell(contender: str) -> str:
            found = middle(contender, name)
            return _cell(None if found is None else found * factor, digits)

        return cell

    def versus(reference: str | None, name: str) -> Cells:
        def cell(contender: str) -> str:
            found = ratios(samples, row.name, contender, reference, name) if reference else None
            return _cell(found.middle if found else None)

        return cell

    def around(contender: str) -> str:
        return _around(spread(values(samples, row.name, contender, row.main).values()))

    def nanoseconds(contender: str) -> str:
        rate = middle(contender, "rate")
        return _cell(1e9 / rate if rate else None, 1)

    best = bars.best(samples, row.name, row.main)
    found: dict[str, Cells] = {"ns" if row.worker else "per s": figure("rate", 0)}
    if row.worker:
        found["ns"] = nanoseconds
    found["spread"] = around
    if row.main != "rate":
        found[row.main.replace("_", " ")] = figure(row.main)
    found["x floor"] = versus(loops.FLOOR, row.main)
    found[f"x {bars.PEER}"] = versus(bars.PEER, row.main)
    found["x best"] = versus(best, row.main)
    found["CPU us"] = figure("cpu_us")
    found["x CPU"] = versus(bars.PEER, "cpu_us")
    found["user"] = figure("user_us")
    found["system"] = figure("system_us")
    found["p50 us"] = figure("p50_us", 0)
    found["p99"] = figure("p99_us", 0)
    found["p99.9"] = figure("p999_us", 0)
    found["bytes idle"] = figure("connection_bytes", 0)
    found["client %"] = figure("client_busy", 0, 100)
    found["waited %"] = figure("waited", 0, 100)
    found["errors"] = lambda c: str(sum(s.errors for s in samples if s.contender == c) or "-")
    return found


def table(run: Run, row: Row) -> str:
    """Return the table of one row, the contenders in their order, and who is not in it and why."""
    own = run.of(row.name)
    worked = [c for c in run.versions if any(s.contender == c and s.rate for s in own)]
    rounds = max((sample.round for sample in own), default=0)
    title = f"{row.name}: {row.title}; {row.unit}, {rounds} rounds"
    lines = [title, *_aligned(columns(own, row), worked)]
    for contender, reason in run.skipped.get(row.name, {}).items():
        lines.append(f"  {contender}: {reason}")
    for sample in own:
        if sample.failure:
            lines.append(f"  {sample.contender} failed in round {sample.round}: {sample.failure}")
    return "\n".join(lines)


def _aligned(columns: dict[str, Cells], contenders: Sequence[str]) -> list[str]:
    shown = {name: [cells(c) for c in contenders] for name, cells in columns.items()}
    shown = {name: cells for name, cells in shown.items() if set(cells) - {"-"}}
    first = max(map(len, [*contenders, ""]))
    lines = []
    for i, contender in enumerate(["", *contenders] if shown else []):
        line = f"  {contender:{first}}"
        for name, cells in shown.items():
            width = max(map(len, [name, *cells]))
            line += f"  {cells[i - 1] if i else name:>{width}}"
        lines.append(line)
    return lines


def verdicts(run: Run) -> str:
    lines = ["bars of zloop"]
    for verdict in run.bars:
        measured = verdict["measured"]
        figure = "" if measured is None else f"measured {measured:.2f}, "
        lines.append(f"  {verdict['subject']}: {verdict['bar']}: {figure}{verdict['verdict']}")
    return "\n".join(lines)
