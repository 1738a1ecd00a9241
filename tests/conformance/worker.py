"""The child process: runs tests of test.test_asyncio and reports each as a line of JSON.

    worker.py [--loop module:factory] --report FILE list PATTERN…
    worker.py [--loop module:factory] --report FILE --timeout SECONDS run MODULE TEST…

`list` reports {"module", "tests"} or {"module", "skip" | "error"} for each module.
`run` reports {"start"} and {"test", "kind", "detail", "seconds"} for each test, {"fixture", "kind",
"detail"} when a class or module refuses to start, and {"done"} at the end.

This file runs in the Python that is judged, so it needs nothing but that Python. It must expect to
die: a hanging test is ended by faulthandler's watchdog, which needs neither the GIL nor a signal
(signals belong to the tests), prints every stack and exits. The parent reads what was said before.
"""

import argparse
import faulthandler
import importlib
import json
import os
import pkgutil
import time
import traceback
import unittest
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

PACKAGE = "test.test_asyncio"


def say(report: Any, **line: Any) -> None:
    report.write(json.dumps(line) + "\n")
    report.flush()


def last_line(exc_info: Any) -> str:
    """What an exception says, on one line, and where in the tests it was raised."""
    kind, error, stack = exc_info
    text = traceback.format_exception_only(kind, error)[-1].strip().partition("\n")[0]
    frames = traceback.extract_tb(stack)
    where = [f for f in frames if "test_asyncio" in f.filename] or frames
    at = f" ({os.path.basename(where[-1].filename)}:{where[-1].lineno})" if where else ""
    return text[:200] + at


class Reporter(unittest.TestResult):
    """Reports each test when it ends; the worst of its subtests counts."""

    def __init__(self, report: Any, timeout: float) -> None:
        super().__init__()
        self.report = report
        self.timeout = timeout
        self.stderr = os.fdopen(os.dup(2), "w")  # the watchdog's own: tests replace sys.stderr

    def watch(self) -> None:
        faulthandler.dump_traceback_later(self.timeout, exit=True, file=self.stderr)

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.kind, self.detail = "", ""
        say(self.report, start=name_of(test))
        self.began = time.perf_counter()
        self.watch()

    def stopTest(self, test: Any) -> None:
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        seconds = round(time.perf_counter() - self.began, 3)
        kind = self.kind or "error"
        say(self.report, test=name_of(test), kind=kind, detail=self.detail, seconds=seconds)

    def ended(self, test: Any, kind: str, detail: str = "") -> None:
        if not isinstance(test, unittest.TestCase):  # setUpClass, setUpModule or their opposites
            say(self.report, fixture=str(test), kind=kind, detail=detail)
        elif self.kind in ("", "ok", "skip"):
            self.kind, self.detail = kind, detail

    def failed(self, test: Any, kind: str, error: Any) -> None:
        self.ended(test, kind, last_line(error))
        print(f"\n{kind.upper()}: {test}", file=self.stderr)
        traceback.print_exception(*error, file=self.stderr)
        self.stderr.flush()

    def addSuccess(self, test: Any) -> None:
        self.ended(test, "ok")

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.ended(test, "ok")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.ended(test, "fail", "unexpected success")

    def addSkip(self, test: Any, reason: str) -> None:
        self.ended(test, "skip", reason)

    def addFailure(self, test: Any, err: Any) -> None:
        self.failed(test, "fail", err)

    def addError(self, test: Any, err: Any) -> None:
        self.failed(test, "error", err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            kind = "fail" if issubclass(err[0], test.failureException) else "error"
            self.failed(test, kind, err)


def name_of(test: unittest.TestCase) -> str:
    """test_events.HandleTests.test_handle"""
    return test.id().removeprefix(PACKAGE + ".")


def tests_in(suite: Any) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_in(item)
        else:
            yield item


def load(name: str, ours: type | None) -> list[unittest.TestCase]:
    """The tests of one module, in unittest's order; those it imports from others are theirs."""
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if ours is not None:
        import adapt

        adapt.module(module, ours)
    tests = tests_in(unittest.defaultTestLoader.loadTestsFromModule(module))
    return [test for test in tests if name_of(test).startswith(name + ".")]


def list_tests(report: Any, patterns: list[str], ours: type | None) -> None:
    package = importlib.import_module(PACKAGE)
    for name in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        if name.startswith("test_") and any(fnmatchcase(name, p) for p in patterns):
            try:
                tests = load(name, ours)
            except unittest.SkipTest as skip:
                say(report, module=name, skip=str(skip))
            except Exception as error:
                traceback.print_exc()
                say(report, module=name, error=f"{type(error).__name__}: {error}")
            else:
                say(report, module=name, tests=[name_of(test) for test in tests])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop")
    parser.add_argument("--report", required=True)
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("action", choices=["list", "run"])
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()

    faulthandler.enable()
    ours = None
    if options.loop:
        import replace

        ours = replace.install(options.loop)

    with open(options.report, "a") as report:
        if options.action == "list":
            list_tests(report, options.names, ours)
        else:
            module, *wanted = options.names
            chosen = [test for test in load(module, ours) if name_of(test) in set(wanted)]
            reporter = Reporter(report, options.timeout)
            unittest.TestSuite(chosen).run(reporter)
            say(report, done=True)
            reporter.watch()  # a thread that never ends would keep the process


if __name__ == "__main__":
    main()
