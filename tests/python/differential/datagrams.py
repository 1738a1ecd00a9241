"""Two datagram endpoints, of UDP or Unix sockets: the first may be connected to the second.

Little enough is sent that the kernel has room for all of it. One end may be closed: then sending to it
fails, at once or by an ICMP message, which on one machine is there when the call returns.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from . import driver
from .connections import (
    Abort,
    At,
    Close,
    Mark,
    Stop,
    When,
    failures,
    limits,
    names,
    run_actions,
)
from .driver import Driver

MOST = 12  # messages that an end sends in one step


class End:
    def __init__(self, pair: Pair, name: str) -> None:
        self.connection = pair
        self.driver = pair.driver
        self.name = name
        self.transport: Any = None
        self.address: Any = None
        self.lost = False
        self.hooks: dict[str, list[Any]] = {}
        self.marks = 0
        self.sent: dict[int, int] = {}  # in each step

    def writes(self, what: Any) -> None:
        self.driver.trace.note(self.name, what)

    both = writes

    @property
    def peer(self) -> End:
        a, b = self.connection.ends
        return b if self is a else a

    def called(self, event: str) -> None:
        if hooks := self.hooks.get(event):
            run_actions(self.connection, hooks.pop(0))

    def is_busy(self) -> bool:
        if self.transport is None or self.lost or self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))


class Recorder(asyncio.DatagramProtocol):
    def __init__(self, end: End) -> None:
        self.end = end

    def connection_made(self, transport: Any) -> None:
        self.end.transport = transport
        self.end.writes("connection_made")
        self.end.called("connection_made")

    def datagram_received(self, data: bytes, address: Any) -> None:
        who = "peer" if address == self.end.peer.address else "nobody" if not address else "other"
        self.end.writes(f"received {len(data)} {data[:1]!r} {type(data).__name__} from {who}")
        self.end.called("datagram_received")

    def error_received(self, exc: OSError) -> None:
        self.end.writes(f"error_received {type(exc).__name__}({exc})")
        self.end.called("error_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.end.lost = True
        self.end.writes(f"connection_lost {exc!r}")
        self.end.called("connection_lost")


@dataclass(frozen=True)
class SendTo:
    size: int
    form: type
    addressed: bool

    def do(self, end: End) -> Any:
        step = len(end.driver.trace.steps)
        count = end.sent[step] = end.sent.get(step, 0) + 1
        if count > MOST or end.lost:  # asyncio fails then, for want of its loop
            return "no"
        data = self.form(bytes([65 + count]) * self.size)
        end.transport.sendto(data, *([end.peer.address] if self.addressed else []))
        if isinstance(data, bytearray):
            data[:] = bytes(len(data))
        return None


@dataclass(frozen=True)
class SendNonsense:
    data: Any
    address: Any

    def do(self, end: End) -> Any:
        if end.lost:
            return "no"
        return end.transport.sendto(self.data, self.address)


@dataclass(frozen=True)
class Look:
    def do(self, end: End) -> Any:
        transport = end.transport
        return f"closing {transport.is_closing()} waiting {transport.get_write_buffer_size()}"


class Pair:
    small = True

    def __init__(self, on: Driver) -> None:
        self.driver = on
        self.ends = [End(self, "a"), End(self, "b")]
        on.busy += [end.is_busy for end in self.ends]
        on.track_of = self.track_of
        on.at_end.append(self.end)

    def cuts(self) -> None:
        """Nothing is kept that could be cut off."""

    def end(self) -> None:
        for end in self.ends:
            end.hooks.clear()
            if end.transport is not None and not end.lost:
                end.transport.abort()

    def track_of(self, context: dict[str, Any]) -> str:
        protocol = context.get("protocol") or getattr(
            getattr(context.get("handle"), "_callback", None), "__self__", None
        )
        return protocol.end.name if isinstance(protocol, Recorder) else "handler"


@dataclass(frozen=True)
class Program(driver.Program):
    family: str  # "udp" or "unix"
    connected: bool
    hooks: tuple[At, ...]
    steps: tuple[tuple[At, ...], ...]

    def run(self, on: Driver) -> None:
        pair = Pair(on)
        run_actions(pair, self.hooks)
        connecting = on.loop.create_task(self.connect(pair))
        on.busy.append(lambda: not connecting.done())
        on.settle()
        connecting.result()
        for step in self.steps:
            on.step(lambda step=step: run_actions(pair, step))
        on.step(pair.end)

    async def connect(self, pair: Pair) -> None:
        socks = []
        for end in pair.ends:
            if self.family == "udp":
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind(("127.0.0.1", 0))
            else:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                sock.bind(f"\0zloop-differential-{os.getpid()}-{next(names)}")
            sock.setblocking(False)
            end.address = sock.getsockname()
            socks.append(sock)
        if self.connected:
            socks[0].connect(pair.ends[1].address)
        for end, sock in zip(pair.ends, socks, strict=True):
            await pair.driver.loop.create_datagram_endpoint(
                lambda end=end: Recorder(end), sock=sock
            )


# How programs are drawn.

sizes = st.sampled_from([0, 1, 2, 100, 1500, 9000])
operations = st.one_of(
    st.builds(SendTo, sizes, st.sampled_from([bytes, bytearray, memoryview]), st.just(True)),
    st.builds(SendTo, sizes, st.sampled_from([bytes, bytearray, memoryview]), st.booleans()),
    st.builds(Mark),
    st.builds(Look),
    st.builds(Close),
    st.builds(Abort),
    st.builds(Stop),
    limits,
    st.builds(
        SendNonsense,
        st.sampled_from([b"x", "text", None, 7]),
        st.sampled_from([None, ("127.0.0.1", 9), "\0zloop-nobody"]),
    ),
)


def reactions(event: str) -> Any:
    """What a callback does at its own end: the kernel may have told the other one something, too."""

    def at(end: int) -> Any:
        each = st.builds(At, st.just(end), operations | failures)
        doing = st.lists(each, min_size=1, max_size=3).map(tuple)
        return st.builds(At, st.just(end), st.builds(When, st.just(event), doing))

    return st.integers(0, 1).flatmap(at)


hooks = st.sampled_from(
    [
        "connection_made",
        "datagram_received",
        "datagram_received",
        "error_received",
        "connection_lost",
    ]
).flatmap(reactions)


def programs(steps: int = 8) -> Any:
    each = st.builds(At, st.integers(0, 1), operations | failures) | hooks
    step = st.lists(each, min_size=1, max_size=5).map(tuple)
    return st.builds(
        Program,
        family=st.sampled_from(["udp", "unix"]),
        connected=st.booleans(),
        hooks=st.lists(hooks, max_size=3).map(tuple),
        steps=st.lists(step, min_size=1, max_size=steps).map(tuple),
    )
