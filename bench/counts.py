"""Instructions and system calls of one operation: what a noisy machine cannot blur.

    python bench/counts.py            compare with counts.json: more than 2 % above fails
    python bench/counts.py --keep     measure, and keep it as what later runs compare with

Each row is a program with both ends in one loop, so that a run is like the next. It runs twice,
under valgrind and under strace, with few operations and with many: the difference is theirs.
What differs between machines is taken away: the clock is clock.c's, the collector of garbage is
off, and the C library copies bytes, and OpenSSL encrypts them, as on x86-64 of 2013. Compiler,
libraries and Python remain: what is kept is kept for each of them, and nothing fails where nothing is kept.
"""

import argparse
import asyncio
import atexit
import functools
import gc
import json
import os
import platform
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import native
from micro import nothing, nothing_awaited
from servers import Echo, EchoDatagrams, EchoInParts

HERE = Path(__file__).resolve().parent
KEPT = HERE / "counts.json"
TOLERANCE = 0.02
FEW, MANY = 200, 1200
PLAIN_PROCESSOR = {  # with AVX2 for the C library, without for OpenSSL; nobody's in particular
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-ERMS,-FSRM,-RTM",
    "OPENSSL_ia32cap": "~0x1000000040000000:~0xffffffff",
}
MESSAGE = bytes(900)  # malloc has a free chunk at hand; what larger ones take depends on the heap

Row = Callable[[asyncio.AbstractEventLoop, int], Coroutine[Any, Any, None]]
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    ROWS[function.__name__] = function
    return function


@row
async def call_soon(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        loop.call_soon(nothing)
    await asyncio.sleep(0)


@row
async def call_soon_threadsafe(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        loop.call_soon_threadsafe(nothing)
    await asyncio.sleep(0)


@row
async def call_later_cancel(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        loop.call_later(60, nothing).cancel()


@row
async def sleep0(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@row
async def future_wake(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


@row
async def create_task(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await asyncio.create_task(nothing_awaited())


@row
async def getaddrinfo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


class Ping(Echo):
    """Sends a message whenever the last has come back, as often as it is told."""

    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.left, self.done, self.missing = count, done, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send()

    def send(self) -> None:
        if self.left == 0:
            self.transport.close()
            self.done.set_result(None)
        else:
            self.left -= 1
            self.missing = len(MESSAGE)
            self.transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing == 0:
            self.send()


async def ping(
    loop: asyncio.AbstractEventLoop,
    count: int,
    server: Callable[[], Echo],
    tls: tuple[ssl.SSLContext | None, ssl.SSLContext | None] = (None, None),
) -> None:
    listener = await loop.create_server(server, "127.0.0.1", 0, ssl=tls[0])
    done = loop.create_future()
    address = listener.sockets[0].getsockname()
    await loop.create_connection(lambda: Ping(count, done), *address, ssl=tls[1])
    await done
    listener.close()


@row
async def tcp_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    await ping(loop, count, Echo)


@row
async def tcp_echo_in_parts(loop: asyncio.AbstractEventLoop, count: int) -> None:
    await ping(loop, count, EchoInParts)


@row
async def tls_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(native.certificate())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    await ping(loop, count, Echo, (server, client))


@row
async def streams_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        served.set_result(None)

    served = loop.create_future()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for _ in range(count):
        writer.write(MESSAGE)
        await reader.readexactly(len(MESSAGE))
    writer.close()
    server.close()
    await served


@row
async def sock_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        for _ in range(count):
            receiving = asyncio.create_task(loop.sock_recv(other, 65536))
            await asyncio.sleep(0)
            await loop.sock_sendall(one, MESSAGE)
            await loop.sock_sendall(other, await receiving)
            await loop.sock_recv(one, 65536)


class PingDatagrams(EchoDatagrams):
    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.left, self.done = count, done

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.left -= 1
        if self.left > 0:
            self.transport.sendto(data)
        else:
            self.transport.close()
            self.done.set_result(None)


@row
async def udp_echo(loop: asyncio.AbstractEventLoop, count: int) -> None:
    server, _ = await loop.create_datagram_endpoint(EchoDatagrams, ("127.0.0.1", 0))
    done = loop.create_future()
    client, _ = await loop.create_datagram_endpoint(
        lambda: PingDatagrams(count, done), remote_addr=server.get_extra_info("sockname")
    )
    client.sendto(MESSAGE)
    await done
    server.close()


@row
async def connect(loop: asyncio.AbstractEventLoop, count: int) -> None:
    class Ends(Echo):
        def connection_lost(self, error: Exception | None) -> None:
            ended.set_result(None)

    listener = await loop.create_server(Echo, "127.0.0.1", 0)
    address = listener.sockets[0].getsockname()
    for _ in range(count):
        ended = loop.create_future()
        transport, _ = await loop.create_connection(Ends, *address)
        transport.close()
        await ended
    listener.close()


def work(name: str, count: int) -> None:
    import zloop

    gc.disable()

    async def main() -> None:
        await ROWS[name](asyncio.get_running_loop(), count)

    with asyncio.Runner(loop_factory=zloop.new_event_loop) as runner:
        runner.run(main())


@functools.cache
def clock() -> str:
    """Compile clock.c; return the library's path."""
    library = Path(tempfile.gettempdir()) / f"zloop-clock-{os.getpid()}.so"
    atexit.register(library.unlink)
    source = str(HERE / "clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def output_under(tool: list[str], name: str, count: int) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONHASHSEED": "0",
        "ZLOOP_BACKEND": "epoll",
        "LD_PRELOAD": clock(),
        **PLAIN_PROCESSOR,
    }
    program = [sys.executable, str(Path(__file__).resolve()), "--work", name, str(count)]
    done = subprocess.run([*tool, *program], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(program)}:\n{done.stderr}")
    return done.stderr


def instructions(name: str, count: int) -> int:
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    found = re.search(r"I\s+refs:\s+([\d,]+)", output_under(tool, name, count))
    assert found, "valgrind says no more how many instructions it has seen"
    return int(found[1].replace(",", ""))


def system_calls(name: str, count: int) -> int:
    with tempfile.NamedTemporaryFile("r") as table:
        output_under(["strace", "-f", "-c", "-o", table.name], name, count)
        total = table.read().split()[-3:]  # calls, perhaps errors, "total"
    return int(next(figure for figure in total if figure.isdigit()))


def measure(name: str) -> dict[str, float]:
    def each(count: Callable[[str, int], int]) -> float:
        return round((count(name, MANY) - count(name, FEW)) / (MANY - FEW), 2)

    return {"instructions": each(instructions), "system calls": each(system_calls)}


def environment() -> str:
    """Name what instructions depend on."""
    compiler = subprocess.run(["c++", "-dumpfullversion"], capture_output=True, text=True)
    parts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"c++ {compiler.stdout.strip()}",
        " ".join(platform.libc_ver()),
        "OpenSSL {}.{}".format(*ssl.OPENSSL_VERSION_INFO),
        platform.machine(),
    ]
    return ", ".join(parts)


def is_more(found: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Return in words what is above what is kept."""
    return [
        f"{found[what]:g} {what}, kept are {was:g}"
        for what, was in kept.items()
        if found[what] > was * (1 + TOLERANCE)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", help="default: all of " + " ".join(ROWS))
    parser.add_argument("--keep", action="store_true", help="write counts.json")
    parser.add_argument("--work", nargs=2, metavar=("ROW", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work[0], int(options.work[1]))
    if missing := [tool for tool in ("valgrind", "strace") if shutil.which(tool) is None]:
        print(f"skipped: {' and '.join(missing)} not installed")
        return
    every = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept = every.setdefault(environment(), {})
    if not kept:
        print("nothing is kept for this environment: the figures are shown, and judge nothing")
    print(
        f"{environment()}\n{'an operation':20}{'instructions':>14}{'kept':>10}{'calls':>8}{'kept':>8}"
    )
    output_under([], next(iter(ROWS)), 1)  # what is imported is compiled now
    worse = 0
    for name in options.rows or ROWS:
        before, found = kept.get(name, {}), measure(name)
        if is_more(found, before) and not options.keep:
            found = measure(name)  # if it was the machine, it is not so twice
        columns = [
            f"{figures.get(what, float('nan')):{width}.{digits}f}"
            for what, width, digits in (("instructions", 12, 0), ("system calls", 8, 2))
            for figures in (found, before)
        ]
        print(f"{name:22}{''.join(columns)}", flush=True)
        if options.keep:
            kept[name] = found
        elif more := is_more(found, before):
            worse += 1
            print(f"more: {name}: {'; '.join(more)}")
    if options.keep:
        KEPT.write_text(json.dumps(every, indent=2, sort_keys=True) + "\n")
    print(f"{len(options.rows or ROWS) - worse} rows hold")
    sys.exit(worse != 0)


if __name__ == "__main__":
    main()
