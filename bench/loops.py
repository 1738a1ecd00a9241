"""The contenders, by name: the event loops that are compared, and the C program beside them.

Run as a program (`python bench/loops.py uvloop`) it makes that loop work once and prints its
version. The other tools do so in a child process first: a peer that is not installed, or breaks,
is then a line in their report and not their end.
"""

import asyncio
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Factory = Callable[[], asyncio.AbstractEventLoop]

FLOOR = "floor"  # the C program on bare epoll: it serves some of the rows
BEFORE = "before"  # zloop as it was: an installation in the folder that ZLOOP_BEFORE names
# zloop on epoll, on io_uring, and on each with what a turn writes sent at its end
SUBJECTS = {
    "zloop": {"ZLOOP_BACKEND": "epoll"},
    "zloop-uring": {"ZLOOP_BACKEND": "io_uring"},
    "zloop-turn": {"ZLOOP_BACKEND": "epoll", "ZLOOP_WRITES": "turn"},
    "zloop-uring-turn": {"ZLOOP_BACKEND": "io_uring", "ZLOOP_WRITES": "turn"},
}
SUBJECT = next(iter(SUBJECTS))
PEERS = ["rloop", "rsloop", "blazio", "zuvloop", "aiofastnet", "uvloop"]
# zloop stands between those that its bars refer to: in a rotation they stay its neighbours.
LOOPS = ["asyncio", *PEERS, *SUBJECTS]
if "ZLOOP_BEFORE" in os.environ:
    LOOPS.append(BEFORE)
CONTENDERS = [*LOOPS, FLOOR]


def factory(name: str) -> Factory:
    """Return what makes a loop of that name; ImportError when it is not installed."""
    if name not in LOOPS:
        raise ValueError(f"no loop is called {name!r}; there are {', '.join(LOOPS)}")
    if name == BEFORE:
        sys.path.insert(0, os.environ["ZLOOP_BEFORE"])
    if name == "aiofastnet":  # transports for another's loop
        patched: Factory = importlib.import_module(name).loop_factory(factory("uvloop"))
        return patched
    make: Factory = importlib.import_module(_package(name)).new_event_loop
    os.environ.update(SUBJECTS.get(name, {}))
    return make


def _package(name: str) -> str:
    return "zloop" if name in (*SUBJECTS, BEFORE) else name


def version(name: str) -> str:
    if name == BEFORE:
        return os.environ["ZLOOP_BEFORE"]
    if name == "asyncio":
        return platform.python_version()
    try:
        found = importlib.metadata.version(_package(name))
    except importlib.metadata.PackageNotFoundError:
        return "not an installed package"  # found on the path
    return f"{found} on uvloop {version('uvloop')}" if name == "aiofastnet" else found


def check(name: str) -> None:
    """Make the loop work once; an exception says what is wrong with it."""
    with asyncio.Runner(loop_factory=factory(name)) as runner:
        runner.run(asyncio.sleep(0))
        backend = getattr(runner.get_loop(), "backend", "")
    if name in SUBJECTS and backend != SUBJECTS[name]["ZLOOP_BACKEND"]:
        raise RuntimeError(f"it runs on {backend} here")


def probe(name: str, python: str = sys.executable) -> tuple[str | None, str]:
    """Return (version, "") of a contender that works here, or (None, why not)."""
    if name == FLOOR:
        return "C", ""
    command = [python, str(Path(__file__).resolve()), name]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None, "did not run one callback within 30 s"
    if child.returncode == 0:
        return child.stdout.strip(), ""
    said = child.stderr.strip().splitlines()
    return None, said[-1] if said else f"ended with status {child.returncode}"


if __name__ == "__main__":
    check(sys.argv[1])
    print(version(sys.argv[1]))
