"""Run tests in child processes that may hang or die, and learn how each test ended all the same.

A child works through one class. When it dies, the test that it was in has failed, and a fresh
child goes on with the rest. Each child leads a process group of its own, so that nothing which a
test left behind outlives it.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from compare import Outcome

WORKER = Path(__file__).with_name("worker.py")
GRACE = 10  # seconds beyond the timeout of a test in which the child's own watchdog must have acted

LIVE: set[subprocess.Popen[bytes]] = set()
STOPPED = threading.Event()


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a Python, and the loop put in place of the stock one."""

    name: str
    python: str
    logs: Path
    timeout: float
    loop: str | None = None

    def log(self, name: str) -> Path:
        """Where the children of one class print; a retry prints below the first try."""
        return self.logs / f"{name}.log"


class Report(NamedTuple):
    """A child that has ended: its exit status, the lines that it reported, and what it printed."""

    status: int
    lines: list[dict[str, Any]]
    text: str


def kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started, if still there."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def kill_all() -> None:
    """End every child, and start no more."""
    STOPPED.set()
    for child in list(LIVE):
        kill(child)


@contextmanager
def child(side: Side, log: Path, *arguments: str) -> Iterator[Report]:
    """Run a worker to its end; yields what is known of it then."""
    if STOPPED.is_set():
        raise RuntimeError("interrupted")
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as scratch:
        report = Path(scratch, "report")
        report.touch()
        command = [side.python, str(WORKER), "--report", str(report)]
        command += ["--loop", side.loop] if side.loop else []
        command += ["--timeout", str(side.timeout), *arguments]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=scratch,
                start_new_session=True,
            )
            LIVE.add(process)
            try:
                said = -1
                while process.poll() is None and said != report.stat().st_size:
                    said = report.stat().st_size  # as long as it reports, it lives
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(side.timeout + GRACE)
            finally:
                status = process.poll()
                kill(process)
                LIVE.discard(process)
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        text = log.read_bytes()[start:].decode(errors="replace")
        yield Report(-signal.SIGKILL if status is None else status, lines, text)


def list_tests(side: Side, patterns: list[str]) -> dict[str, list[str] | Outcome]:
    """The tests of each module that matches; or why it has none."""
    with child(side, side.log("list"), "list", *patterns) as report:
        if report.status or not report.lines:
            said = report.text.strip().rpartition("\n")[2] or f"nothing matches {patterns}"
            raise SystemExit(f"{side.python}, {side.name}: cannot list the tests: {said}")
    modules: dict[str, list[str] | Outcome] = {}
    for line in report.lines:
        if "tests" in line:
            modules[line["module"]] = line["tests"]
        elif "skip" in line:
            modules[line["module"]] = Outcome("skip", line["skip"])
        else:
            modules[line["module"]] = Outcome("error", line["error"])
    return modules


def run(side: Side, tests: list[str]) -> dict[str, Outcome]:
    """Run tests of one class, in as many processes as it takes."""
    name = tests[0].rpartition(".")[0]
    module, log = name.partition(".")[0], side.log(name)
    outcomes: dict[str, Outcome] = {}
    left = tests
    while left:
        with child(side, log, "run", module, *left) as report:
            outcomes |= read(left, report)
        left = [test for test in left if test not in outcomes]
    return outcomes


def read(tests: list[str], report: Report) -> dict[str, Outcome]:
    """The outcomes in one child's report. At least one, so that we come to an end."""
    outcomes: dict[str, Outcome] = {}
    current, refused, done = None, None, False
    for line in report.lines:
        if "start" in line:
            current = line["start"]
        elif "fixture" in line:
            refused = Outcome(line["kind"], f"{line['fixture']}: {line['detail']}")
        elif "done" in line:
            done = True
        else:
            current = None
            outcomes[line["test"]] = Outcome(line["kind"], line["detail"], line["seconds"])
    if done:
        # A class that refuses to start has run no test; one that refuses to end has run them all.
        rest = refused or Outcome("error", "the test did not run")
        outcomes |= {test: rest for test in tests if test not in outcomes}
        if report.status or (refused and rest not in outcomes.values()):
            end = death(report) if report.status else rest
            outcomes[tests[0].rpartition(".")[0] + ".(exit)"] = end
    else:
        culprit = current or next(test for test in tests if test not in outcomes)
        outcomes[culprit] = death(report)
    return outcomes


def death(report: Report) -> Outcome:
    """How a child ended, in one line: what killed it, and in which line of the tests."""
    status, text = report.status, report.text
    timeout = text.rpartition("Timeout (")[2] if "Timeout (" in text else ""
    if status == 1 and timeout and "\nFatal Python error" not in timeout:
        main = timeout.rpartition("(most recent call first):")[2]
        return Outcome("timeout", f"still running{frame(main)}")
    if status == -signal.SIGKILL:
        return Outcome("timeout", "killed")
    cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    stack = text.rpartition("Current thread")[2] if "Current thread" in text else ""
    return Outcome("crash", cause + frame(stack))


def frame(stack: str) -> str:
    """The first frame of a faulthandler stack that is in the tests, or else its first."""
    frames = [line.strip() for line in stack.splitlines() if line.startswith('  File "')]
    chosen = next((f for f in frames if "test_asyncio" in f), frames[0] if frames else "")
    return f" in {chosen}" if chosen else ""
