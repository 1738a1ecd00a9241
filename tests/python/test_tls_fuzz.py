"""TLS through a proxy that splits, delays, drops, flips and repeats bytes, closes a half, stalls and resets.

Client and server are real ones, each on a loop of its own: ours on both sides, or asyncio's on one. What
becomes of a connection is planned by its number alone. Whatever it is: it ends within its timeouts,
connection_lost() is called once, and what was delivered is a beginning of what was sent.

`make fuzz-tls` has ten thousand connections, other ones each time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
import os
import random
import socket
import ssl
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import FACTORIES, reset, tcp_pair
from test_differential import EndsTwice, LosesAByte
from tls_helpers import NOT_MADE

LONG = int(os.environ.get("ZLOOP_TLS_FUZZ_CONNECTIONS", "0"))
SEED = os.environ.get("ZLOOP_TLS_FUZZ_SEED", str(time.time_ns()) if LONG else "0")
AT_ONCE = 12

# Seconds. A clean connection never runs into any of these; the others do when bytes are missing.
PATIENT = {"ssl_handshake_timeout": 30.0, "ssl_shutdown_timeout": 30.0}
IMPATIENT = {"ssl_handshake_timeout": 1.0, "ssl_shutdown_timeout": 0.3}
GIVES_UP = {True: 120.0, False: 0.7}  # an application that waits for the rest
HANG = 150.0  # all of these, on a machine that is busy
SMALL_PIECES = 50  # of a direction; then all that comes passes at once

pytestmark = pytest.mark.slow(hours=LONG and 6)


@dataclass
class Fault:
    at: int  # so many bytes have passed in its direction
    what: str
    amount: int


@dataclass
class Side:
    """What a client or a server does."""

    sizes: list[int]
    buffer: int  # of a BufferedProtocol; none: a Protocol
    pauses: float  # how often it reads no more for a while
    ends: str  # "when it has all", "first" or "by abort"
    lines: bool


@dataclass
class Plan:
    number: int
    version: int
    upgrades: bool  # by start_tls()
    client: Side
    server: Side
    pieces: list[list[int]]  # for each direction, how much passes at once
    delays: list[float]
    faults: list[list[Fault]]
    chance: random.Random = field(repr=False)

    @property
    def clean(self) -> bool:
        return not any(self.faults) and "when it has all" == self.client.ends == self.server.ends


FAULTS = ("flip", "flip", "drop", "repeat", "insert", "cut", "stall", "swallow", "reset", "close")


def plan_of(seed: str, number: int) -> Plan:
    chance = random.Random(f"{seed} {number}")

    def side() -> Side:
        return Side(
            sizes=[
                chance.choice([1, 10, 1000, 5000, 16384, 16385, 40_000])
                for _ in range(chance.randrange(5))
            ]
            + [200_000] * (chance.random() < 0.1),
            buffer=chance.choice([0, 0, 1000, 5000, 70_000]),
            pauses=chance.choice([0.0, 0.0, 0.3]),
            ends=chance.choice(["when it has all"] * 4 + ["first", "by abort"]),
            lines=chance.random() < 0.3,
        )

    def faults() -> list[Fault]:
        return [
            Fault(
                at=chance.choice(
                    [chance.randrange(1500), chance.randrange(4000), chance.randrange(60_000)]
                ),
                what=chance.choice(FAULTS),
                amount=chance.choice([1, 1, 5, 100, 2000]),
            )
        ]

    where = chance.choice(["neither", "there", "there", "back", "back", "both"])
    return Plan(
        number=number,
        version=chance.choice([2, 3, 3]),
        upgrades=chance.random() < 0.3,
        client=side(),
        server=side(),
        pieces=[
            chance.choice([[65536], [65536], [1400], [5, 16000, 1], [1, 100, 3000], [700, 7]])
            for _ in range(2)
        ],
        delays=[chance.choice([0.0, 0.0, 0.0, 0.001]) for _ in range(2)],
        faults=[
            faults() if where in ("there", "both") else [],
            faults() if where in ("back", "both") else [],
        ],
        chance=chance,
    )


class End(asyncio.Protocol):
    """An application at either end."""

    def __init__(self, run: Run, plan: Plan, side: Side, other: Side) -> None:
        self.run = run
        self.plan, self.side = plan, side
        self.expected = sum(other.sizes)
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.sent = bytearray()
        self.data = bytearray()
        self.events: list[str] = []
        self.timer: Any = None
        self.secure = self.closed = False
        self.ended = threading.Event()
        self.faults: list[str] = []
        run.made.add(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.events.append("made")
        if not self.plan.upgrades:
            self.begin(transport)

    def begin(self, transport: Any) -> None:
        """TLS is there."""
        self.run.made.add(transport)
        self.transport = transport
        self.secure = True
        if "lost" in self.events:
            return
        self.timer = self.loop.call_later(GIVES_UP[self.plan.clean], self.close)
        parts = [self.next_bytes(size) for size in self.side.sizes]
        if self.side.lines:
            transport.writelines(parts)
        else:
            for part in parts:
                transport.write(part)
        if self.side.ends == "first":
            self.close()
        elif self.side.ends == "by abort":
            self.loop.call_later(self.plan.chance.random() * 0.02, transport.abort)
        self.look()

    def next_bytes(self, size: int) -> bytes:
        """No two streams have the same, and no two places in one."""
        begin = len(self.sent)
        who = (self.plan.number << 1 | (self.side is self.plan.client)) << 24
        words = range(begin // 8, (begin + size) // 8 + 1)
        data = b"".join((who | word).to_bytes(8, "big") for word in words)[begin % 8 :][:size]
        self.sent += data
        return data

    def data_received(self, data: bytes) -> None:
        self.events.append("data")
        self.data += data
        if not self.secure:
            return  # start_tls() has not returned yet
        if self.plan.chance.random() < self.side.pauses:
            self.transport.pause_reading()
            self.loop.call_later(0.001, self.transport.resume_reading)
        self.look()

    def eof_received(self) -> None:
        self.events.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        if not (exc is None or isinstance(exc, OSError)):
            self.faults.append(f"lost by {exc!r}")
        self.over()

    def look(self) -> None:
        """Whoever has all closes: a client first, a server once the client has closed."""
        if self.side is self.plan.client and len(self.data) >= self.expected:
            self.close()

    def close(self) -> None:
        """Once: asyncio's transport is of no use after a second time."""
        if not self.closed:
            self.closed = True
            self.transport.close()

    def over(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.ended.set()

    def check(self) -> list[str]:
        """What should not have been told."""
        found = list(self.faults)
        lost = self.events.count("lost")
        if self.events.count("made") > 1 or self.events.count("eof") > 1 or lost > 1:
            found.append("was told twice")
        if self.secure and lost != 1:
            found.append("the end was not told")
        if lost and self.events[-1] != "lost":
            found.append("something came after the end")
        return found

    def check_against(self, peer: End | None) -> list[str]:
        found = self.check()
        sent = peer.sent if peer is not None else b""
        if not bytes(sent).startswith(self.data):
            found.append("delivered what was not sent")
        if self.plan.clean and len(self.data) != self.expected:
            found.append(f"delivered {len(self.data)} of {self.expected}, with nothing wrong")
        return found


class BufferedEnd(End, asyncio.BufferedProtocol):
    data_received = None  # type: ignore[assignment]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.buffer = memoryview(bytearray(self.side.buffer))

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        End.data_received(self, bytes(self.buffer[:nbytes]))


def new_end(run: Run, plan: Plan, side: Side, other: Side) -> End:
    return (BufferedEnd if side.buffer else End)(run, plan, side, other)


class Broken(Exception):
    """The proxy ends both of its connections."""


class Run:
    """Many connections from a client's loop to a server's."""

    def __init__(self, contexts: list[Any], seed: str) -> None:
        self.contexts = contexts
        self.seed = seed
        self.made: weakref.WeakSet[Any] = weakref.WeakSet()
        self.reports: list[str] = []  # of the exception handlers
        self.wrong: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.planned: dict[int, Plan] = {}  # by the port that the server sees, the last one of it
        self.accepted: dict[int, End] = {}  # by number
        self.addresses: dict[tuple[int, bool], Any] = {}

    def report(self, loop: Any, context: dict[str, Any]) -> None:
        failed = isinstance(context.get("exception"), OSError)
        if loop.get_debug() and failed and context["message"] == NOT_MADE:
            self.counts["told"] += 1  # nothing but debug mode tells of a handshake
            return
        what = f"{type(loop).__qualname__}: {context['message']}: {context.get('exception')!r}"
        self.reports.append(what)

    # The server.

    async def serve(self, began: threading.Event, over: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.report)
        servers = []
        for version, patient in itertools.product((2, 3), (True, False)):
            listening = socket.create_server(("127.0.0.1", 0), backlog=1000)
            self.addresses[version, patient] = listening.getsockname()
            servers.append(
                await loop.create_server(
                    lambda: Accepted(self),
                    sock=listening,
                    ssl=self.contexts[0][version],
                    backlog=1000,
                    **(PATIENT if patient else IMPATIENT),
                )
            )
        listening = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.addresses[0, True] = self.addresses[0, False] = listening.getsockname()
        servers.append(
            await loop.create_server(lambda: Accepted(self), sock=listening, backlog=1000)
        )
        began.set()
        await over.wait()
        for server in servers:
            server.close()
        for server in servers:
            await asyncio.wait_for(server.wait_closed(), HANG)
        for (
            end
        ) in self.accepted.values():  # of connections that the proxy had ended before they began
            if end.secure:
                await loop.run_in_executor(None, end.ended.wait, HANG)
            self.wrong += [f"late: {each}\n    {end.plan}" for each in end.check()]
        self.accepted.clear()
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait_for(asyncio.wait(tasks), HANG)

    # The client, and the proxy.

    async def talk(self, numbers: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(self.report)
        numbers = iter(numbers)

        async def some() -> None:
            for number in numbers:
                plan = plan_of(self.seed, number)
                for each in await self.connect(plan):
                    self.wrong.append(f"{each}\n    {plan}")
                self.accepted.pop(number, None)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    async def connect(self, plan: Plan) -> list[str]:
        """One connection, from its beginning to what is wrong with it."""
        loop = asyncio.get_running_loop()
        ours, near = tcp_pair()
        far = socket.socket()
        with near, far:
            for sock in (ours, near, far):
                sock.setblocking(False)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.bind(("127.0.0.1", 0))
            port = far.getsockname()[1]
            self.planned[port] = plan
            address = self.addresses[0 if plan.upgrades else plan.version, plan.clean]
            await loop.sock_connect(far, address)
            client = new_end(self, plan, plan.client, plan.server)
            over = asyncio.Event()
            between = loop.create_task(self.stand_between(near, far, plan, over))
            found = await self.run_client(client, ours)
            over.set()
            try:
                await asyncio.wait_for(between, HANG)
            except TimeoutError:
                found.append("the server's end hung")
        server = self.accepted.get(plan.number)
        if server is not None and server.secure:
            await loop.run_in_executor(None, server.ended.wait, HANG)
        found += [f"client: {each}" for each in client.check_against(server)]
        if server is not None:
            found += [f"server: {each}" for each in server.check_against(client)]
            self.counts["bytes"] += len(server.data)
        self.counts["connections"] += 1
        self.counts["clean"] += plan.clean
        self.counts["shook hands"] += client.secure
        self.counts["bytes"] += len(client.data)
        return found

    async def run_client(self, client: End, sock: socket.socket) -> list[str]:
        loop = asyncio.get_running_loop()
        plan = client.plan
        timeouts = PATIENT if plan.clean else IMPATIENT
        tls = self.contexts[1][plan.version]
        try:
            if plan.upgrades:
                plain, _ = await loop.create_connection(lambda: client, sock=sock)
                transport = await loop.start_tls(
                    plain, client, tls, server_hostname="localhost", **timeouts
                )
                client.begin(transport)
            else:
                await loop.create_connection(
                    lambda: client, sock=sock, ssl=tls, server_hostname="localhost", **timeouts
                )
        except OSError as exc:
            self.counts[type(exc).__name__] += 1
            client.ended.set() if not client.secure else None
        except Exception as exc:
            return [f"the client failed with {exc!r}"]
        for _ in range(int(HANG / 0.002)):
            if client.ended.is_set():
                return []
            await asyncio.sleep(0.002)
        return ["the client's end hung"]

    async def stand_between(self, near: Any, far: Any, plan: Plan, over: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        pumps = [
            loop.create_task(self.pump(near, far, plan, 0, over)),
            loop.create_task(self.pump(far, near, plan, 1, over)),
        ]
        try:
            await asyncio.gather(*pumps)
        except Broken as broken:
            for each in pumps:
                each.cancel()
            await asyncio.wait(pumps)  # until nothing waits for a descriptor that is closed
            for sock in (near, far):
                reset(sock) if broken.args[0] == "reset" else sock.close()

    async def pump(
        self, source: Any, sink: Any, plan: Plan, direction: int, over: asyncio.Event
    ) -> None:
        """Passes on what comes, but for what is planned; returns when the source has ended."""
        loop = asyncio.get_running_loop()
        sizes = itertools.islice(itertools.cycle(plan.pieces[direction]), SMALL_PIECES)
        faults = list(plan.faults[direction])
        passed = 0
        open_ = True

        async def send(data: bytes) -> None:
            nonlocal open_
            while data and open_:
                size = next(sizes, len(data))
                try:
                    await loop.sock_sendall(sink, data[:size])
                except OSError:
                    open_ = False
                data = data[size:]
                await asyncio.sleep(plan.delays[direction])

        while True:
            try:
                data = await loop.sock_recv(source, 65536)
            except OSError as exc:
                raise Broken("reset") from exc
            if not data:
                if open_:
                    with contextlib.suppress(OSError):
                        sink.shutdown(socket.SHUT_WR)
                return
            while faults and passed <= faults[0].at < passed + len(data):
                fault = faults.pop(0)
                self.counts[fault.what] += 1
                at = fault.at - passed
                await send(data[:at])
                passed += at
                data = data[at:]
                match fault.what:
                    case "flip":
                        data = bytes([data[0] ^ 1 << plan.chance.randrange(8)]) + data[1:]
                    case "drop":
                        data = data[fault.amount :]
                    case "repeat":
                        data = data[: fault.amount] + data
                    case "insert":
                        data = plan.chance.randbytes(fault.amount) + data
                    case "cut":
                        open_ = False
                        with contextlib.suppress(OSError):
                            sink.shutdown(socket.SHUT_WR)
                    case "swallow":
                        open_ = False
                    case "stall":
                        await over.wait()
                        open_ = False
                    case "reset" | "close":
                        raise Broken(fault.what)
            await send(data)
            passed += len(data)


class Accepted(asyncio.Protocol):
    """Becomes the End that its peer's port says."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def connection_made(self, transport: Any) -> None:
        plan = self.run.planned[transport.get_extra_info("peername")[1]]
        end = new_end(self.run, plan, plan.server, plan.client)
        self.run.accepted[plan.number] = end
        transport.set_protocol(end)
        end.connection_made(transport)
        if plan.upgrades:
            transport.pause_reading()
            asyncio.get_running_loop().create_task(self.upgrade(end, transport))

    async def upgrade(self, end: End, transport: Any) -> None:
        timeouts = PATIENT if end.plan.clean else IMPATIENT
        context = self.run.contexts[0][end.plan.version]
        with contextlib.suppress(OSError):
            end.begin(
                await end.loop.start_tls(transport, end, context, server_side=True, **timeouts)
            )


@pytest.fixture
def contexts(certificates):
    """Those of servers and those of clients, by version."""
    authority, certificate = certificates
    made: list[dict[int, ssl.SSLContext]] = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        made.append({})
        for number, version in ((2, ssl.TLSVersion.TLSv1_2), (3, ssl.TLSVersion.TLSv1_3)):
            context = made[-1][number] = ssl.SSLContext(protocol)
            context.minimum_version = context.maximum_version = version
    for context in made[0].values():
        certificate.configure_cert(context)
    for context in made[1].values():
        authority.configure_trust(context)
    return made


def fuzz(make_client: Any, make_server: Any, contexts: Any, count: int) -> Run:
    """So many connections, all of them over."""
    run = Run(contexts, SEED)
    began = threading.Event()
    stop: list[Any] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        await run.serve(began, over)

    def serving() -> None:
        with asyncio.Runner(loop_factory=make_server) as runner:
            runner.run(serve())

    thread = threading.Thread(target=serving)
    thread.start()
    try:
        assert began.wait(HANG)
        with asyncio.Runner(loop_factory=make_client) as runner:
            runner.run(run.talk(range(count)))
    finally:
        stop[0]()
        thread.join()
    return run


@pytest.mark.parametrize(
    ("client", "server"),
    [("asyncio", "asyncio"), ("zloop", "zloop"), ("zloop", "asyncio"), ("asyncio", "zloop")],
)
def test_a_broken_connection_ends_and_delivers_nothing_that_was_not_sent(
    client, server, contexts, capsys
):
    count = -(-LONG // 3) if LONG and "zloop" in (client, server) else 100
    began = time.monotonic()
    run = fuzz(FACTORIES[client], FACTORIES[server], contexts, count)
    if LONG:
        counts = ", ".join(f"{number} {what}" for what, number in run.counts.most_common())
        with capsys.disabled():
            print(
                f"\n{client} to {server}, seed {SEED}, {time.monotonic() - began:.0f} s: {counts}; "
                f"{len(run.wrong)} wrong, {len(run.reports)} calls of the exception handler"
            )
    assert run.wrong == []
    assert run.reports == []
    assert run.counts["told"] <= count - run.counts["clean"]
    assert run.counts["connections"] == count
    assert run.counts["shook hands"] >= run.counts["clean"] > 0
    gc.collect()
    assert list(run.made) == []


@pytest.mark.parametrize("wrong", [EndsTwice, LosesAByte])
def test_a_loop_that_is_wrong_is_noticed(wrong, contexts):
    assert fuzz(wrong, FACTORIES["zloop"], contexts, 30).wrong
