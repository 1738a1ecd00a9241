"""The rows: what is measured. Each is declared here, in one place, and nowhere else.

A row is a server (of serve.py) with a load, or a worker (of work.py) that measures itself. A load is
a client and its arguments: `load echo …` and `tls_load echo …` are the C programs, `wrk CONNECTIONS
PATH [post=BYTES] [pipeline=N]` is wrk. `floor` is what the C floor serves for the row, "" where there
is no such thing.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import loops


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    server: str = ""
    load: str = ""
    floor: str = ""
    worker: str = ""
    service: str = ""  # what the worker asks
    crowd: int = 0  # idle connections beside those of the load
    unit: str = "messages"
    main: str = "rate"  # the figure that matters
    quick: bool = False  # part of the quick run

    def has(self, contender: str) -> bool:
        return contender != loops.FLOOR or bool(self.floor)


SIZES = {
    "64B": 64,
    "1KiB": 1024,
    "16KiB": 16 * 1024,
    "100KiB": 100 * 1024,
    "1MiB": 1024 * 1024,
}


QUICK_ECHOES = ["echo", "buffered", "streams", "sock", "datagram", "tls-echo"]


def connections(count: int) -> str:
    return f"{count:,} connection{'s' if count > 1 else ''}"


def echoes(
    kind: str, title: str, sizes: str, counts: Iterable[int], client: str = "load echo", **more: str
) -> Iterator[Row]:
    """A row for each size and count of connections."""
    for size in sizes.split():
        spaced = re.sub(r"(?<=\d)(?=\D)", " ", size)
        for count in counts:
            yield Row(
                f"{kind}-{size}-{count}",
                f"{title}, {spaced}, {connections(count)}",
                load=f"{client} --size={SIZES[size]} --connections={count}",
                quick=(size, count) == ("1KiB", 64) and kind in QUICK_ECHOES,
                **{"server": kind, **more},  # type: ignore[arg-type]
            )


def protocols() -> Iterator[Row]:
    yield from echoes("echo", "protocol echo", "64B 1KiB 16KiB 100KiB", (1, 64, 1000), floor="echo")
    # Few at a time: 64 MiB are under way so long that a short round might see none come back.
    yield from echoes("echo", "protocol echo", "1MiB", (1, 16), floor="echo")
    yield from echoes("buffered", "buffered protocol echo", "1KiB", (1, 64, 1000), floor="echo")
    yield from echoes("buffered", "buffered protocol echo", "16KiB", (64,), floor="echo")
    yield from echoes("buffered", "buffered protocol echo", "1MiB", (16,), floor="echo")
    for parts in (1, 2, 4, 8):
        yield from echoes(
            f"parts{parts}",
            f"protocol echo in {parts} write{'s' if parts > 1 else ''}",
            "1KiB 16KiB",
            (64,),
            server=f"parts {parts}",
        )
    yield from echoes("head", "protocol echo, head and body", "1KiB", (1, 64), server="head_body")
    yield from echoes("unix", "echo over a Unix socket", "1KiB 16KiB", (1, 64), floor="unix")
    yield from echoes("busy", "echo beside a busy Python thread", "1KiB", (1, 64))
    yield from echoes("threads", "echo by two loops in threads", "1KiB", (64,))
    yield Row(
        "pipelined-1KiB-64",
        "protocol echo, 1 KiB, 64 connections, 16 messages under way on each",
        "echo",
        "load echo --size=1024 --connections=64 --pipeline=16",
        "echo",
    )
    yield Row(
        "accept-close-16",
        "connections that come, have 64 B echoed, and close; 16 at a time",
        "echo",
        "load echo --size=64 --connections=16 --close",
        "echo",
        unit="connections",
    )
    yield Row(
        "idle-10000",
        "protocol echo, 1 KiB, 64 connections beside 10,000 idle ones",
        "echo",
        "load echo --size=1024 --connections=64",
        "echo",
        crowd=10_000,
    )


def flows() -> Iterator[Row]:
    for count in (1, 16):
        yield Row(
            f"download-{count}",
            f"a server that sends all it can, {connections(count)}",
            "source",
            f"load download --connections={count}",
            "source",
            unit="MiB",
        )
        yield Row(
            f"upload-{count}",
            f"a server that takes all it can, {connections(count)}",
            "sink",
            f"load upload --connections={count}",
            "sink",
            unit="MiB",
        )
    yield Row(
        "both-ways-1",
        "protocol echo, 64 KiB, 1 connection, 16 messages under way: bulk both ways",
        "echo",
        "load echo --size=65536 --pipeline=16",
        "echo",
    )
    yield Row(
        "slow-readers-64",
        "a server that sends all it can, to 64 connections that read slowly",
        "narrow",
        "load download --connections=64 --slow",
        "narrow",
        unit="MiB",
        main="cpu_us",
    )


def streams() -> Iterator[Row]:
    yield from echoes("streams", "asyncio streams, echo", "1KiB", (1, 64, 1000))
    yield from echoes("streams", "asyncio streams, echo", "64B 16KiB", (64,))
    yield from echoes("streams", "asyncio streams, echo", "1MiB", (16,))
    yield from echoes("sock", "sock_recv, sock_sendall", "1KiB", (1, 64, 1000), floor="echo")
    yield from echoes("sock", "sock_recv, sock_sendall", "64B 16KiB", (64,), floor="echo")
    yield from echoes("sock", "sock_recv, sock_sendall", "1MiB", (16,), floor="echo")


def datagrams() -> Iterator[Row]:
    # More at once than these would not fit into the socket that serves them all.
    yield from echoes(
        "datagram", "UDP echo", "64B 1KiB", (1, 64), "load datagram", floor="datagram"
    )


def tls() -> Iterator[Row]:
    for sizes, counts in (("1KiB", (1, 64, 1000)), ("64B 16KiB", (64,))):
        yield from echoes(
            "tls-echo",
            "TLS echo",
            sizes,
            counts,
            "tls_load echo",
            server="tls_echo",
            floor="tls_echo",
        )
    yield Row(
        "tls-bulk-1",
        "TLS, 1 connection that sends",
        "tls_bulk",
        "tls_load bulk",
        "tls_bulk",
        unit="MiB",
    )
    yield Row(
        "tls-handshake-16",
        "TLS handshakes, 16 at a time",
        "tls_echo",
        "tls_load handshake --connections=16",
        "tls_echo",
        unit="handshakes",
    )


def http() -> Iterator[Row]:
    def row(name: str, title: str, server: str, load: str, quick: bool = False) -> Row:
        return Row(name, title, server, load, unit="requests", quick=quick)

    for count in (1, 64, 1000):
        yield row(
            f"uvicorn-{count}",
            f"uvicorn, httptools, plain text, {connections(count)}",
            "uvicorn httptools",
            f"wrk {count} /",
            count == 64,
        )
    yield row(
        "uvicorn-h11-64", "uvicorn, h11, plain text, 64 connections", "uvicorn h11", "wrk 64 /"
    )
    yield row(
        "uvicorn-big-64", "uvicorn, httptools, 100 KiB, 64 connections", "uvicorn", "wrk 64 /big"
    )
    yield row(
        "uvicorn-post-64",
        "uvicorn, httptools, POST of 10 KiB, 64 connections",
        "uvicorn",
        "wrk 64 / post=10240",
    )
    yield row(
        "uvicorn-pipelined-64",
        "uvicorn, httptools, plain text, 64 connections, 16 requests under way on each",
        "uvicorn",
        "wrk 64 / pipeline=16",
    )
    yield row(
        "uvicorn-tls-64",
        "uvicorn over TLS, plain text, 64 connections",
        "uvicorn httptools tls",
        "tls_load http --connections=64",
    )
    yield row("hypercorn-64", "hypercorn, plain text, 64 connections", "hypercorn", "wrk 64 /")
    yield row("aiohttp-64", "aiohttp, plain text, 64 connections", "aiohttp", "wrk 64 /")
    yield row("aiohttp-big-64", "aiohttp, 100 KiB, 64 connections", "aiohttp", "wrk 64 /big")
    yield row(
        "aiohttp-post-64",
        "aiohttp, POST of 10 KiB, 64 connections",
        "aiohttp",
        "wrk 64 / post=10240",
    )
    yield from echoes("websockets", "websockets, echo", "1KiB", (1, 64), "load websocket")


def clients() -> Iterator[Row]:
    for count in (1, 16):
        tasks = f"{count} task{'s' if count > 1 else ''}"
        yield Row(
            f"redis-{count}",
            f"redis-py, GET of 100 B, {tasks}",
            worker=f"redis {count}",
            service="redis",
            unit="requests",
        )
        yield Row(
            f"asyncpg-{count}",
            f"asyncpg, a prepared SELECT, {tasks}",
            worker=f"asyncpg {count}",
            service="postgres",
            unit="queries",
        )


MICRO = {
    "call_soon": "call_soon, and the call, in batches",
    "call_soon_2": "call_soon with two arguments, and the call, in batches",
    "call_soon_chain": "call_soon, and the call, each scheduling the next",
    "call_later_cancel": "call_later, and its cancel",
    "timers_fire": "call_later within 1 ms, and the call",
    "call_soon_threadsafe": "call_soon_threadsafe from the loop's own thread, and the call",
    "threadsafe_flood": "call_soon_threadsafe from another thread, and the call",
    "threadsafe_pingpong": "call_soon_threadsafe from another thread, which waits for the call",
    "future_wake": "a future that wakes a task",
    "sleep0": "asyncio.sleep(0)",
    "gather": "create_task and gather, a hundred at a time",
    "run_in_executor": "run_in_executor of nothing",
    "add_reader": "add_reader, a byte through a pipe",
    "sock_pingpong": "sock_sendall and sock_recv, a byte to and fro over a socket pair",
    "pipe_echo": "pipe transports, 1 KiB through a pipe",
    "getaddrinfo": "getaddrinfo of a literal address",
    "spawn": "child processes, from start to end",
}


def micro() -> Iterator[Row]:
    for name, title in MICRO.items():
        main = "cpu_us" if name == "timers_fire" else "rate"
        yield Row(name, title, worker=name, unit="operations", main=main, quick=name != "pipe_echo")
    yield Row(
        "connect_close",
        "create_connection, and its close",
        worker="connect_close",
        service="echo",
        unit="operations",
        quick=True,
    )
    yield Row(
        "loop_start_close", "a loop, from start to close", worker="loop_start_close", unit="loops"
    )
    yield Row(
        "timer_lateness",
        "how late a timer of 1 to 5 ms is",
        worker="timer_lateness",
        unit="timers",
        main="p99_us",
    )


ROWS = [
    *protocols(),
    *flows(),
    *streams(),
    *datagrams(),
    *tls(),
    *http(),
    *clients(),
    *micro(),
]


def chosen(patterns: str) -> list[Row]:
    """The rows that one of these patterns, with commas between, names; ValueError: there is none."""
    wanted = patterns.split(",")
    for pattern in wanted:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in ROWS):
            raise ValueError(f"no row is called {pattern!r}")
    return [row for row in ROWS if any(fnmatch.fnmatchcase(row.name, p) for p in wanted)]
