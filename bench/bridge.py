"""What it costs that Python awaits C++, and C++ awaits Python: `make bench-bridge`.

CPU time of this process, the median of rounds that are interleaved, in nanoseconds for one await; beside it
the bar, as a ratio to a Python coroutine that is awaited and gives its result at once.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pybind11

import zloop

ROOT = Path(__file__).resolve().parents[1]
MADE = ROOT / "build" / "bench-bridge"
ROUNDS = 9


def build(name: str) -> Any:
    """An extension of the tests, as a user compiles it."""
    MADE.mkdir(parents=True, exist_ok=True)
    made = MADE / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    folders = [ROOT / "include", pybind11.get_include(), sysconfig.get_path("include")]
    subprocess.run(
        ["g++", "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-shared"]
        + [f"-I{folder}" for folder in folders]
        + [str(ROOT / "tests" / "python" / "bridge" / f"{name}.cpp"), "-o", str(made)],
        check=True,
    )
    spec = importlib.util.spec_from_file_location(name, made)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Way = Callable[[int], Awaitable[Any]]


def awaiting(make: Callable[[int], Awaitable[Any]]) -> Way:
    async def repeat(count: int) -> None:
        for index in range(count):
            await make(index)

    return repeat


def ways(bare: Any, bound: Any) -> dict[str, tuple[Way, int]]:
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1)

    async def coroutine(value: int = 0) -> int:
        return value

    async def sleeps(count: int) -> None:
        await asyncio.gather(*(napping() for _ in range(count)))

    async def napping() -> None:
        await asyncio.sleep(0.001)

    async def sleeps_cpp(count: int) -> None:
        await asyncio.gather(*(bare.nap(0.001) for _ in range(count)))

    async def from_a_thread(value: int) -> int:
        future = loop.create_future()
        pool.submit(loop.call_soon_threadsafe, future.set_result, value)
        return await future

    async def by_done_callback(value: int) -> int:
        future = loop.create_future()
        task = loop.create_task(coroutine(value))
        task.add_done_callback(lambda done: loop.call_soon(future.set_result, done.result()))
        return await future

    async def by_polling(value: int) -> int:
        ready: list[int] = []
        pool.submit(ready.append, value)
        while not ready:
            await asyncio.sleep(0)
        return ready[0]

    return {
        "a Python coroutine": (awaiting(coroutine), 100_000),
        "a C++ task that is ready, by METH_FASTCALL": (awaiting(bare.ready), 100_000),
        "a C++ task that is ready, by pybind11": (awaiting(bound.ready), 100_000),
        "C++ awaits a Python coroutine": (lambda count: bare.repeat(coroutine, count), 100_000),
        "a turn of the loop, in C++ alone": (bare.turns, 100_000),
        "a C++ task that waits a turn": (awaiting(bare.turn), 30_000),
        "asyncio.sleep(0)": (awaiting(lambda _: asyncio.sleep(0)), 30_000),
        "10,000 Python coroutines that sleep, by gather": (sleeps, 10_000),
        "10,000 C++ tasks that sleep, by gather": (sleeps_cpp, 10_000),
        "the usual: task, done callback, future": (awaiting(by_done_callback), 10_000),
        "the usual: a future, set by call_soon_threadsafe": (awaiting(from_a_thread), 3_000),
        "the usual: polling": (awaiting(by_polling), 3_000),
    }


async def measure(bare: Any, bound: Any) -> dict[str, float]:
    measured = ways(bare, bound)
    samples: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(ROUNDS):
        for name, (way, count) in measured.items():
            began = time.process_time_ns()
            await way(count)
            samples[name].append((time.process_time_ns() - began) / count)
    return {name: statistics.median(each) for name, each in samples.items()}


def main() -> None:
    figures = zloop.run(measure(build("bare"), build("bridged")))
    base = figures["a Python coroutine"]
    gathered = figures["10,000 Python coroutines that sleep, by gather"]
    waits = figures["a C++ task that waits a turn"] - figures["a turn of the loop, in C++ alone"]
    bars = {
        "a C++ task that is ready, by METH_FASTCALL": 2.2 * base,
        "a C++ task that is ready, by pybind11": 3.2 * base,
        "C++ awaits a Python coroutine": 1.4 * base,
        "10,000 C++ tasks that sleep, by gather": 0.6 * gathered,
    }
    for name, nanoseconds in figures.items():
        bar = f"   bar {bars[name]:7.0f}" if name in bars else ""
        print(f"{nanoseconds:9.0f} ns  {nanoseconds / base:6.2f}   {name}{bar}")
    print(
        f"{waits:9.0f} ns  {waits / base:6.2f}   a wait in C++, above the same without Python   bar {1000 / 140 * base:7.0f}"
    )
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
