"""The event loops that are compared, by name.

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

FLOOR = "floor"  # the C program: it serves echo and nothing else
BEFORE = "before"  # zloop as it was: an installation in the folder that ZLOOP_BEFORE names
LOOPS = ["asyncio", "rloop", "blazio", "zuvloop", "uvloop", "zloop"]
if "ZLOOP_BEFORE" in os.environ:
    LOOPS.append(BEFORE)


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of that name; ImportError when it is not installed."""
    if name not in LOOPS:
        raise ValueError(f"no loop is called {name!r}; there are {', '.join(LOOPS)}")
    if name == BEFORE:
        sys.path.insert(0, os.environ["ZLOOP_BEFORE"])
        name = "zloop"
    make: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(name).new_event_loop
    return make


def version(name: str) -> str:
    if name == BEFORE:
        return os.environ["ZLOOP_BEFORE"]
    if name == "asyncio":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not an installed package"  # found on the path


def probe(name: str) -> tuple[str | None, str]:
    """Return (version, "") of a loop that works here, or (None, why not)."""
    command = [sys.executable, str(Path(__file__).resolve()), name]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None, "did not run one callback within 30 s"
    if child.returncode == 0:
        return child.stdout.strip(), ""
    said = child.stderr.strip().splitlines()
    return None, said[-1] if said else f"ended with status {child.returncode}"


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=factory(sys.argv[1])) as runner:
        runner.run(asyncio.sleep(0))
    print(version(sys.argv[1]))
