"""Plaintext of examples/extension/http beside the raw floor of epoll: `make bench-http-extension`.

The example runs in Python, on zloop's loop: alone, and with an asyncio program beside it on the same loop
(streams that talk to each other, and timers). Rounds of wrk are interleaved; of each kind the median counts.
Beside the requests a second stands the CPU time of one request, user and kernel, which other programs on the
machine disturb less.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from pathlib import Path

import native

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "extension" / "http"
MADE = ROOT / "build" / "bench-http"
BAR = 0.97
HEADERS = (
    "Date: Tue, 01 Dec 2026 09:30:25 GMT\r\n"
    "Content-Length: 13\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
)
SERVER = """
import asyncio, sys
import httpd, zloop

async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)

async def beside():
    '''An asyncio program: two streams talk, 100 times a second, and 10 timers tick as often.'''
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async def tick():
        while True:
            await asyncio.sleep(0.1)
    ticking = [asyncio.create_task(tick()) for _ in range(10)]
    while True:
        writer.write(b"x" * 100)
        assert await reader.readexactly(100) == b"x" * 100
        await asyncio.sleep(0.01)

async def main():
    server = httpd.Server()
    server.text("/", "Hello, World!")
    print("port", await server.start(), flush=True)
    if "beside" in sys.argv:
        await beside()
    await asyncio.get_running_loop().create_future()

zloop.run(main())
"""


def build() -> None:
    import pybind11

    MADE.mkdir(parents=True, exist_ok=True)
    made = MADE / f"httpd{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [*EXAMPLE.glob("*.?pp"), *(ROOT / "include").rglob("*.hpp")]
    if made.exists() and made.stat().st_mtime > max(each.stat().st_mtime for each in sources):
        return
    folders = [ROOT / "include", pybind11.get_include(), sysconfig.get_path("include")]
    subprocess.run(
        [*native.cxx(), "-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-shared"]
        + [f"-I{folder}" for folder in folders]
        + [str(EXAMPLE / "httpd.cpp"), "-o", str(made)],
        check=True,
    )


class Server:
    def __init__(self, *command: str) -> None:
        around = os.environ | {"PYTHONPATH": str(MADE)}
        with tempfile.TemporaryDirectory() as nowhere:  # whence no other zloop is imported
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=around, cwd=nowhere
            )
            assert self.process.stdout is not None
            self.port = int(self.process.stdout.readline().split()[1])

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def load(server: Server, seconds: int, connections: int) -> tuple[float, float]:
    """Requests a second, and microseconds of CPU a request."""
    before = server.cpu()
    said = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{server.port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"(\d+) requests in", said)
    assert found and "Non-2xx" not in said and "Socket errors" not in said, said
    rate = re.search(r"Requests/sec: +([\d.]+)", said)
    assert rate
    return float(rate[1]), (server.cpu() - before) / int(found[1]) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    given = parser.parse_args()
    build()
    kinds = {
        "the raw floor, epoll in C": (native.program("http_floor"), HEADERS),
        "the example, alone": (sys.executable, "-c", SERVER),
        "the example, asyncio beside": (sys.executable, "-c", SERVER, "beside"),
    }
    samples: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with ExitStack() as running:
        servers = {kind: running.enter_context(Server(*command)) for kind, command in kinds.items()}
        for server in servers.values():
            load(server, 1, given.connections)  # warm
        for number in range(given.rounds):
            for kind in list(kinds)[:: 1 if number % 2 else -1]:
                samples[kind].append(load(servers[kind], given.seconds, given.connections))
    floor = next(iter(samples.values()))
    for kind, each in samples.items():
        rate, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        # Round by round: what else the machine does changes from one to the next.
        pairs = list(zip(each, floor, strict=True))
        of_rate = statistics.median(mine[0] / its[0] for mine, its in pairs)
        of_cpu = statistics.median(its[1] / mine[1] for mine, its in pairs)
        verdict = "held" if of_rate >= BAR else "MISSED"
        bar = "" if each is floor else f"   bar {BAR:.2f}: {verdict}"
        print(
            f"{rate:10,.0f} requests/s {of_rate:6.3f}   {cpu:5.2f} us of CPU {of_cpu:6.3f}   {kind}{bar}"
        )


if __name__ == "__main__":
    main()
