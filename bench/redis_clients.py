"""The Redis client of examples/extension/resp beside redis-py with hiredis and coredis: `make bench-redis`.

Each asks a Redis server of our own, on the other core, for a value of 100 bytes. Their rounds are short and
interleaved, all in this process on one loop, zloop's and then asyncio's: requests a second and CPU time of the
client a request, both the median of the rounds, beside redis-py's.

Needs `redis-server`, and the clients in the environment; one that is absent is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from processes import Failure, two_cores
from services import redis as redis_server

import zloop

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "examples" / "extension" / "resp"
MADE = ROOT / "build" / "bench-redis"
ROUNDS = 15
ROUND_SECONDS = 0.2
VALUE = bytes(100)
PIPELINED = 100
TASKS = 16

Ask = Callable[[], Awaitable[Any]]
# What is measured: the name, the tasks that do it at the same time, the requests of each time, and the bar.
WAYS = {
    "get": ("GET, one task, one connection", 1, 1, 2.0),
    "tasks": (f"GET, {TASKS} tasks", TASKS, 1, None),
    "pipeline": (f"pipelines of {PIPELINED} GETs, one task", 1, PIPELINED, 5.0),
}


def build() -> None:
    """The project as its user gets it: a wheel, in its own folder."""
    project, where = MADE / "project", MADE / "installed"
    for old in (project, where):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(PROJECT, project)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-build-isolation", "--no-deps", "."], check=True, cwd=project
    )
    wheel = next(project.glob("resp-*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", where, wheel], check=True)
    sys.path.insert(0, str(where))


@contextlib.asynccontextmanager
async def ours(port: int) -> AsyncIterator[dict[str, Ask]]:
    resp = importlib.import_module("resp")
    commands = [("GET", "key")] * PIPELINED
    async with resp.Client("127.0.0.1", port) as client:
        await client.set("key", VALUE)
        get = lambda: client.get("key")  # noqa: E731
        yield {"get": get, "tasks": get, "pipeline": lambda: client.pipeline(commands)}


@contextlib.asynccontextmanager
async def redis_py(port: int) -> AsyncIterator[dict[str, Ask]]:
    from redis.asyncio import Redis

    async with Redis(port=port, max_connections=TASKS) as client:
        get = lambda: client.get("key")  # noqa: E731

        async def pipeline() -> Any:
            pipe = client.pipeline(transaction=False)
            for _ in range(PIPELINED):
                pipe.get("key")
            return await pipe.execute()

        yield {"get": get, "tasks": get, "pipeline": pipeline}


@contextlib.asynccontextmanager
async def coredis(port: int) -> AsyncIterator[dict[str, Ask]]:
    from coredis import Redis

    async with Redis(host="127.0.0.1", port=port, max_connections=TASKS) as client:
        get = lambda: client.get("key")  # noqa: E731

        async def pipeline() -> Any:
            async with client.pipeline(transaction=False) as pipe:
                asked = [pipe.get("key") for _ in range(PIPELINED)]
            return [await each for each in asked]

        yield {"get": get, "tasks": get, "pipeline": pipeline}


CLIENTS = {"zloop's resp": ours, "redis-py + hiredis": redis_py, "coredis": coredis}
NEEDS = {"redis-py + hiredis": ("redis", "hiredis"), "coredis": ("coredis",)}


async def round_of(ask: Ask, tasks: int, each: int) -> tuple[float, float]:
    """Requests a second, and microseconds of CPU a request."""
    count = 0
    began, cpu = time.perf_counter(), time.process_time()
    end = began + ROUND_SECONDS

    async def repeat() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await ask()
            count += each

    if tasks == 1:
        await repeat()
    else:
        await asyncio.gather(*(repeat() for _ in range(tasks)))
    return (
        count / (time.perf_counter() - began),
        (time.process_time() - cpu) / count * 1e6,
    )


async def measure(port: int) -> dict[str, dict[str, tuple[float, float]]]:
    """For each way and client its medians."""
    async with contextlib.AsyncExitStack() as stack:
        asks = {}
        for name, client in CLIENTS.items():
            missing = [part for part in NEEDS.get(name, ()) if not importlib.util.find_spec(part)]
            if missing:
                print(f"{name} is left out: no {', '.join(missing)}")
            else:
                asks[name] = await stack.enter_async_context(client(port))
        for name, ways in asks.items():  # each does what it is measured for
            assert await ways["get"]() == VALUE, name
            assert list(await ways["pipeline"]()) == [VALUE] * PIPELINED, name
        figures: dict[str, dict[str, tuple[float, float]]] = {}
        for way, (_, tasks, each, _) in WAYS.items():
            samples: dict[str, list[tuple[float, float]]] = {name: [] for name in asks}
            for _ in range(ROUNDS):
                for name in asks:
                    samples[name].append(await round_of(asks[name][way], tasks, each))
            figures[way] = {
                name: (
                    statistics.median(rate for rate, _ in rounds),
                    statistics.median(cpu for _, cpu in rounds),
                )
                for name, rounds in samples.items()
            }
        return figures


def show(loop: str, figures: dict[str, dict[str, tuple[float, float]]]) -> None:
    for way, (title, _, _, bar) in WAYS.items():
        print(f"\n{title}, on {loop}'s loop")
        base_rate, base_cpu = figures[way].get("redis-py + hiredis", (0.0, 0.0))
        for name, (rate, cpu) in figures[way].items():
            beside = ""
            if base_rate:
                beside = f"{rate / base_rate:7.2f} x the requests {base_cpu / cpu:7.2f} x less CPU"
            print(f"{rate:10,.0f} requests/s {cpu:8.2f} us CPU {beside}   {name}")
        if bar and base_rate:
            ratio = figures[way]["zloop's resp"][0] / base_rate
            print(f"   bar {bar:.0f} x: {'held' if ratio >= bar else 'MISSED'}, {ratio:.2f} x")


def main() -> None:
    try:
        build()
        server, client = two_cores()
        figures = {}
        with redis_server(server) as port:
            os.sched_setaffinity(0, {client})
            for loop, run in (("zloop", zloop.run), ("asyncio", asyncio.run)):
                figures[loop] = run(measure(port))
                show(loop, figures[loop])
    except Failure as failure:
        raise SystemExit(f"bench-redis: {failure}") from None
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
