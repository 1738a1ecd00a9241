#!/usr/bin/env python3
"""Run CPython's own asyncio tests on zloop, and on the stock loop, and compare test by test.

    python tests/conformance/cpython.py                   all of it but what is for Windows
    python tests/conformance/cpython.py --python python3.13 --modules test_streams -k drain -v

The judge is the `test.test_asyncio` that is installed with the Python in question. What passes on
stock must pass on zloop, except what expected.toml lists; and what it lists must fail.
Stock results are kept under build/ for each Python: `--fresh` forgets them.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import children
from children import Side
from compare import Entry, Outcome, Outcomes, Version, counts, differences, judge, load_expected
from kept import Kept
from slowest import print_slowest

# The tests of each module, or how it ended when it has none.
Listed = dict[str, list[str] | Outcome]

BUILD = Path(__file__).resolve().parents[2] / "build" / "conformance"

NOT_OURS = ["test_windows_*", "test_proactor_events"]

# What a test does may depend on these: each has results and logs of its own. The last is ours alone.
MODES = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONMALLOC")
BACKEND = "ZLOOP_BACKEND"


def main() -> int:
    # A background job of a shell ignores Ctrl-C, and so would the tests that send themselves one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = arguments()
    version, numbers, build = identify(options.python)
    mode = version + modes(*MODES)
    logs = BUILD / "logs" / (mode + modes(BACKEND))
    stock = Side("stock", options.python, logs / "stock", options.timeout)
    name = options.loop.partition(":")[0]
    ours = replace(stock, name=name, loop=options.loop, logs=logs / name)

    began = time.monotonic()
    print(
        f"CPython {logs.name}, test.test_asyncio: the stock loop, then {options.loop}", flush=True
    )
    listed = {
        module: tests
        for module, tests in children.list_tests(stock, options.modules or ["test_*"]).items()
        if options.modules or not any(fnmatchcase(module, pattern) for pattern in NOT_OURS)
    }
    entries = [
        # A listed test says nothing about zloop, so the stock loop proves nothing by it.
        replace(entry, flaky=True) if name == "asyncio" else entry
        for entry in load_expected("cpython", numbers)
        if name in ("zloop", "asyncio")
        and any(fnmatchcase(module, entry.test.partition(".")[0]) for module in listed)
    ]

    kept = Kept(BUILD / f"stock-{mode}.json", build, options.fresh)
    reference = run_stock(stock, listed, kept, options)
    there = children.list_tests(ours, list(listed))
    outcomes, flaky = run_ours(ours, there, reference, entries, options)

    print_counts(list(listed), {"stock": reference, name: outcomes})
    verdict = judge(reference, outcomes, entries, complete=not options.k)
    for test in flaky:
        print(f"flaky      {test}: passed when it was run again, alone")
    for test, entry in verdict.known.items() if options.verbose else ():
        print(f"known      {test}: {entry.why}\n           {outcomes.get(test, '')}")
    for test in verdict.unexpected:
        print(f"different  {test}\n           stock {reference.get(test, 'has no such test')}")
        print(f"           {name} {outcomes.get(test, 'has no such test')}")
    for line in verdict.stale:
        print(f"stale      {line}")
    print_slowest((test.partition(".")[0], outcome.seconds) for test, outcome in outcomes.items())
    touching = sum(bool(entry.touches) for entry in verdict.known.values())
    print(
        f"{len(verdict.unexpected)} unexpected differences, {len(verdict.known)} listed "
        f"({touching} touch private names), {len(verdict.stale)} stale lines of the list; "
        f"{time.monotonic() - began:.0f} s; details in {ours.logs}"
    )
    return 0 if verdict.good else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--python", default=sys.executable, help="the Python to judge with (this one)")
    add("--loop", default="zloop:new_event_loop", help="module:factory (%(default)s)")
    add("--modules", nargs="+", metavar="MODULE", help="only these; patterns are allowed")
    add("-k", metavar="PATTERN", default="", help="only tests whose name contains or matches this")
    add("-j", type=int, default=2, metavar="N", help="classes to run at once (%(default)s)")
    add("--timeout", type=float, default=30, metavar="S", help="for one test (%(default)s)")
    add("--retries", type=int, default=2, metavar="N", help="of a failing test (%(default)s)")
    add("--fresh", action="store_true", help="forget what stock did before")
    add("-v", "--verbose", action="store_true", help="classes as they end; known differences")
    options = parser.parse_args()
    options.python = shutil.which(options.python) or options.python
    return options


def identify(python: str) -> tuple[str, Version, str]:
    """The version of a Python: as it calls itself, as numbers, and with all that tells it apart."""
    code = "import platform, sys; print(platform.python_version(), *sys.version_info[:3]); "
    said = subprocess.check_output([python, "-c", code + "print(sys.version)"], text=True)
    first, _, full = said.partition("\n")
    name, *numbers = first.split()
    return name, tuple(map(int, numbers)), full


def modes(*names: str) -> str:
    """Those of the environment's variables that are set, for the name of a file."""
    return "".join(f",{name}={os.environ[name]}" for name in names if os.environ.get(name))


def chosen(listed: Listed, k: str) -> list[str]:
    """The tests whose name contains, or as a whole matches, the pattern."""
    pattern = k if any(c in k for c in "*?[") else f"*{k}*"
    names = [test for tests in listed.values() if isinstance(tests, list) for test in tests]
    return [test for test in names if fnmatchcase(test, pattern)]


def run_stock(side: Side, listed: Listed, kept: Kept, options: argparse.Namespace) -> Outcomes:
    """What stock does with the tests: remembered, or found out now."""
    wanted = chosen(listed, options.k)
    missing = [test for test in wanted if test not in kept.outcomes]
    print(f"stock: {len(missing)} tests to run, {len(wanted) - len(missing)} known", flush=True)
    outcomes = run_all(side, missing, options, kept.outcomes)
    retry(side, outcomes, [t for t in missing if outcomes[t].kind not in ("ok", "skip")], options)
    kept.add(outcomes)
    remembered = {test: kept.outcomes[test] for test in wanted if test in kept.outcomes}
    return outcomes | remembered | without_tests(listed)


def run_ours(
    side: Side,
    listed: Listed,
    reference: Outcomes,
    entries: list[Entry],
    options: argparse.Namespace,
) -> tuple[Outcomes, list[str]]:
    """What our loop does with the tests, and which of them needed another chance.

    A failure that stock shares, or that the list expects, needs none. A crash gets none: a process
    that dies now and then is not the machine's doing.
    """
    wanted = chosen(listed, options.k)
    print(f"{side.name}: {len(wanted)} tests to run", flush=True)
    outcomes = run_all(side, wanted, options, reference)
    doubtful = [
        test
        for test in differences(reference, outcomes)
        if test in wanted
        and outcomes[test].kind != "crash"
        and not any(entry.covers(test) for entry in entries)
    ]
    flaky = retry(side, outcomes, doubtful, options)
    return outcomes | without_tests(listed), flaky


def without_tests(listed: Listed) -> dict[str, Outcome]:
    """The modules that skip all of themselves or cannot be imported, each as one test."""
    return {f"{m}.(import)": end for m, end in listed.items() if isinstance(end, Outcome)}


def run_all(
    side: Side, tests: list[str], options: argparse.Namespace, hints: Outcomes
) -> dict[str, Outcome]:
    """Run every class in a process of its own, those that took long elsewhere first."""
    classes: dict[str, list[str]] = {}
    for test in tests:
        classes.setdefault(test.rpartition(".")[0], []).append(test)

    def cost(name: str) -> float:
        return sum(hints[test].seconds if test in hints else 0.05 for test in classes[name])

    def one(name: str) -> dict[str, Outcome]:
        began = time.monotonic()
        side.log(name).unlink(missing_ok=True)
        outcomes = children.run(side, classes[name])
        if options.verbose:
            ok, fail, skip = counts(outcomes.values())
            seconds = time.monotonic() - began
            tally = f"{ok} ok, {fail} fail, {skip} skip; {seconds:.1f} s"
            print(f"  {side.name} {name}: {tally}", flush=True)
        return outcomes

    return in_parallel(one, sorted(classes, key=cost, reverse=True), options.j)


def in_parallel(
    work: Callable[[str], dict[str, Outcome]], items: list[str], jobs: int
) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for result in pool.map(work, items):
                outcomes |= result
        except BaseException:  # Ctrl-C: the threads wait for children, so end these
            pool.shutdown(wait=False, cancel_futures=True)
            children.kill_all()
            raise
    return outcomes


def retry(
    side: Side, outcomes: dict[str, Outcome], tests: list[str], options: argparse.Namespace
) -> list[str]:
    """Give each failing test other chances, alone on the machine; return those that took one."""
    flaky = []
    for test in tests:
        for _ in range(options.retries):
            again = children.run(side, [test])[test]
            if again.kind == "ok":
                outcomes[test] = again
                flaky.append(test)
                break
    return flaky


def print_counts(modules: list[str], sides: dict[str, Outcomes]) -> None:
    print(f"\n{'':26}" + "".join(f"{name:^22}" for name in sides))
    print(f"{'module':26}" + f"{'ok':>6}{'fail':>7}{'skip':>7}  " * 2)
    rows = [(module, module + ".") for module in modules] + [("all", "")]
    for title, prefix in rows:
        line = f"{title:26}"
        for side in sides.values():
            tally = counts(outcome for test, outcome in side.items() if test.startswith(prefix))
            line += "{:6}{:7}{:7}  ".format(*tally)
        print(line.rstrip())
    print()


if __name__ == "__main__":
    sys.exit(main())
