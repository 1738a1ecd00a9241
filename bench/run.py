"""Measures every event loop and the raw epoll floor, row by row, interleaved.

In each row every contender is started once, and then measured in turn, in many short rounds. The
order rotates by one from round to round, so nobody is always first, or always behind the same
neighbour's heat. Losses are printed like wins, and who is absent is printed with the reason. The
file that --json names is written after each row.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import bars
import contest
import loops
import machine
import native
import report
import rows
import samples
from contestants import Place
from processes import two_cores
from progress import Progress

ROUNDS, SECONDS = 9, 0.4
QUICK_SECONDS, QUICK_MINUTES = 0.2, 5.0


@dataclass(frozen=True)
class Plan:
    rows: list[rows.Row]
    contenders: list[str]
    pythons: dict[str, str]
    rounds: int
    seconds: float
    minutes: float | None
    json: Path | None
    resume: bool
    png: str | None


def parse(arguments: list[str] | None = None) -> Plan:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="rows: " + ", ".join(row.name for row in rows.ROWS),
    )
    add = parser.add_argument
    add("--rows", help="names or patterns, with commas: 'echo-*-64,call_*'; default: all")
    add("--quick", action="store_true", help=f"some rows, within {QUICK_MINUTES:g} minutes")
    add("--contenders", help="names, with commas: " + ",".join(loops.CONTENDERS))
    add("--rounds", type=int, help=f"of each row, at most; default: {ROUNDS}")
    add("--seconds", type=float, help=f"of each measurement, at most 1; default: {SECONDS:g}")
    add("--minutes", type=float, help="for all: rows have as many rounds as fit, but one at least")
    add("--json", metavar="PATH", type=Path, help="keep all samples, the machine, the versions")
    add("--resume", action="store_true", help="keep the rows that are in that file, add the others")
    add(
        "--python",
        metavar="[CONTENDER=]PATH",
        action="append",
        default=[],
        help="the interpreter of the contenders, or of one; default: this one",
    )
    add("--png", metavar="PATH", help="draw a chart (needs matplotlib)")
    asked = parser.parse_args(arguments)

    try:
        chosen = rows.chosen(asked.rows or "*")
        if asked.quick and not asked.rows:
            chosen = [row for row in chosen if row.quick]
    except ValueError as error:
        parser.error(str(error))
    names = asked.contenders.split(",") if asked.contenders else loops.CONTENDERS
    interpreters = pythons(asked.python)
    if unknown := {*names, *interpreters} - set(loops.CONTENDERS):
        parser.error(f"no contender is called {', '.join(sorted(unknown))}")
    if asked.resume and not asked.json:
        parser.error("--resume needs --json, to know what is there")
    minutes = asked.minutes or (QUICK_MINUTES if asked.quick else None)
    plan = Plan(
        rows=chosen,
        contenders=[c for c in loops.CONTENDERS if c in names],
        pythons=interpreters,
        rounds=asked.rounds or ROUNDS,
        seconds=asked.seconds or (QUICK_SECONDS if asked.quick else SECONDS),
        minutes=minutes,
        json=asked.json,
        resume=asked.resume,
        png=asked.png,
    )
    if plan.rounds < 1 or not 0.02 <= plan.seconds <= 1:
        parser.error("there must be a round, of 0.02 to 1 second")
    return plan


def pythons(asked: list[str]) -> dict[str, str]:
    """The interpreter of each contender: one that is asked for by name wins."""
    named = dict(each.split("=", 1) for each in asked if "=" in each)
    default = next((each for each in reversed(asked) if "=" not in each), sys.executable)
    return dict.fromkeys(loops.CONTENDERS, default) | named


def start(plan: Plan, place: Place) -> samples.Run:
    """A run that begins, or the kept one that goes on."""
    probed = {c: loops.probe(c, place.pythons[c]) for c in plan.contenders}
    run = samples.Run(
        machine=machine.describe(
            place.server_core, place.client_core, place.pythons[loops.SUBJECT]
        ),
        versions={c: version for c, (version, _) in probed.items() if version is not None},
        absent={c: reason for c, (version, reason) in probed.items() if version is None},
        rounds=plan.rounds,
        seconds=plan.seconds,
    )
    if plan.resume and plan.json and plan.json.exists():
        kept = samples.read(plan.json)
        run.rows, run.skipped, run.samples = kept.rows, kept.skipped, kept.samples
        run.versions = kept.versions | run.versions
        run.memory = kept.memory
    return run


def introduce(run: samples.Run, plan: Plan) -> str:
    about = run.machine
    lines = [f"{about['python']}, {about['system']}, {about['processor']}, {about['cores']} cores"]
    lines.append(f"server on core {about['server_core']}, client on core {about['client_core']}")
    if about["load_before"] > machine.QUIET_LOAD:
        load = about["load_before"]
        lines.append(f"the machine is busy (load {load:.1f}): the figures will be noisy")
    lines.append(", ".join(f"{name} {version}" for name, version in run.versions.items()))
    lines += [f"{name} is absent: {reason}" for name, reason in run.absent.items()]
    at_most = f" at most, within {plan.minutes:g} minutes" if plan.minutes else ""
    lines.append(f"{len(plan.rows)} rows, {plan.rounds} rounds of {plan.seconds:g} s{at_most}\n")
    return "\n".join(lines)


def measure(plan: Plan, place: Place) -> samples.Run:
    run = start(plan, place)
    deadline = time.monotonic() + plan.minutes * 60 if plan.minutes else None
    wanted = [row for row in plan.rows if not (plan.resume and run.of(row.name))]
    with Progress(len(wanted)) as progress:
        progress.say(introduce(run, plan))
        for i, row in enumerate(wanted):
            left = deadline - time.monotonic() if deadline else None
            share = None if left is None else max(left, 0.001) / (len(wanted) - i)
            progress.begin(row.name)
            run.forget(row.name)
            run.rows[row.name] = {"title": row.title, "unit": row.unit, "main": row.main}
            own = contest.Contest(run, row, place, plan.contenders)
            own.measure(plan.rounds, plan.seconds, share, progress.at)
            run.bars = list(bars.verdicts(run.samples))
            run.machine["load_after"] = os.getloadavg()[0]
            if plan.json:
                run.write(plan.json)
            progress.end(report.table(run, row))
    return run


def main() -> int:
    plan = parse()
    server_core, client_core = two_cores()
    for name in ("floor", "load"):
        native.program(name)
    try:
        run = measure(plan, Place(server_core, client_core, plan.pythons))
    except KeyboardInterrupt:
        print("broken off; --resume goes on with the rows that are not kept yet")
        return 130
    print(report.verdicts(run))
    if plan.png:
        import chart

        chart.draw(run, plan.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
