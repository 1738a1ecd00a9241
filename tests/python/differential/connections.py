"""A connection with a transport at each end, over TCP or a Unix socket.

Two dialects. In the small one nothing written is ever more than the kernel takes at once: so each
callback of a protocol is known, and may do anything. In the bulk one writes do not fit into the kernel:
there is backpressure, and how much has come when a callback runs, is the kernel's choice. So what
protocols do there does not depend on it; and once a backlog was cut off, the trace tells no longer how
much came: only that it is a beginning of what was sent.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import contextlib
import inspect
import itertools
import os
import select
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

from helpers import tcp_pair
from hypothesis import strategies as st

from . import driver
from .driver import FAILURES, Driver

SMALL_TOTAL = 40_000  # bytes that an end may write: what any socket buffer holds
BULK = 2 << 20  # more than both socket buffers hold, of this size:
BUFFER = 128 << 10

names = itertools.count()


# The ends.


class End:
    """One end of the connection: its transport, what was written, what came."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.driver = connection.driver
        self.name = name
        self.transport: Any = None
        self.protocol: Any = None
        self.sent = bytearray()
        self.received = 0
        self.finished = self.ended = self.lost = False  # write_eof; eof_received; connection_lost
        self.hooks: dict[str, list[Any]] = {}
        self.marks = 0
        self.last_write = -1  # the step

    @property
    def peer(self) -> End:
        a, b = self.connection.ends
        return b if self is a else a

    def reads(self, what: Any) -> None:
        self.driver.trace.note(f"{self.name} reads", what)

    def writes(self, what: Any) -> None:
        self.driver.trace.note(f"{self.name} writes", what)

    def both(self, what: Any) -> None:
        self.reads(what)
        self.writes(what)

    def bytes_to_write(self, size: int) -> bytes:
        """The next ones of a stream in which each place has a value of its own."""
        begin = len(self.sent)
        words = range(begin // 4, (begin + size) // 4 + 1)
        return struct.pack(f">{len(words)}I", *words)[begin % 4 :][:size]

    def got(self, data: Any) -> None:
        begin = self.received
        self.received += len(data)
        if data != self.peer.sent[begin : self.received]:
            self.reads("received what was never written")
        if self.connection.cut:
            self.driver.trace.count += 1
        else:
            self.driver.trace.received(f"{self.name} reads", bytes(data))

    def called(self, event: str) -> None:
        """A callback of the protocol: does what the program has for it, once."""
        if hooks := self.hooks.get(event):
            run_actions(self.connection, hooks.pop(0))

    def is_busy(self) -> bool:
        """Whether the loop or the kernel still has to do something for this end."""
        if self.transport is None or self.lost:
            return False
        wanted = 0
        backlog = self.transport.get_write_buffer_size()
        if self.transport.is_reading() and not self.ended:
            wanted |= select.POLLIN
            sent = len(self.peer.sent) - (
                0
                if self.peer.lost or self.peer.transport is None
                else self.peer.transport.get_write_buffer_size()
            )
            if self.peer.lost or self.received < sent:
                return True
            if self.peer.finished and self.received == len(self.peer.sent):
                return True
        if backlog:
            wanted |= select.POLLOUT
        return wanted != 0 and self.polls(wanted)

    def new_protocol(self, buffered: Any, keeps_open: bool) -> Any:
        return (BufferedRecorder if buffered else Recorder)(self, keeps_open)

    def polls(self, wanted: int) -> bool:
        poll = select.poll()
        poll.register(self.connection.descriptor_of(self), wanted)
        return bool(poll.poll(0))

    def may_write(self, size: int) -> bool:
        """Whether what comes of it does not depend on how it leaves.

        To a peer that is gone only once a step: the answer to the first write, which on one machine is
        there before the second, ends the connection; but ours leave together.
        """
        if self.connection.small and len(self.sent) + size > SMALL_TOTAL:
            return False
        step = len(self.driver.trace.steps)
        peer = self.peer.transport
        gone = peer is not None and peer.is_closing() and not self.lost
        if gone and size and self.last_write == step:
            return False
        self.last_write = step
        return True


class Recorder(asyncio.Protocol):
    def __init__(self, end: End, keeps_open: bool) -> None:
        self.end = end
        self.keeps_open = keeps_open

    def connection_made(self, transport: Any) -> None:
        self.end.transport = transport
        if not self.end.connection.small:
            limit_buffers(transport.get_extra_info("socket"))
        self.end.both("connection_made")
        self.end.called("connection_made")

    def data_received(self, data: bytes) -> None:
        self.end.got(data)
        self.end.called("data_received")

    def eof_received(self) -> bool:
        self.end.ended = True
        self.end.reads("eof_received")
        self.end.called("eof_received")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.end.writes("pause_writing")
        self.end.called("pause_writing")

    def resume_writing(self) -> None:
        self.end.writes("resume_writing")
        self.end.called("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.end.lost = True
        self.end.both(f"connection_lost {self.end.connection.loss(exc)}")
        self.end.called("connection_lost")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    data_received = None  # type: ignore[assignment]

    def __init__(self, end: End, keeps_open: bool) -> None:
        super().__init__(end, keeps_open)
        self.buffer = bytearray(5000)

    def get_buffer(self, sizehint: int) -> Any:
        if self.end.polls(select.POLLIN):  # asyncio may ask in vain, after an interrupt
            self.end.called("get_buffer")
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.end.got(self.buffer[:nbytes])
        self.end.called("data_received")


# What can be done at an end.


@dataclass(frozen=True)
class Write:
    size: int
    form: type = bytes

    def do(self, end: End) -> Any:
        if not end.may_write(self.size):
            return "no"
        data = end.bytes_to_write(self.size)
        written: Any = self.form(data)
        accepted = not end.transport.is_closing() or end.transport.get_write_buffer_size() > 0
        if accepted:
            end.sent += data
        try:
            end.transport.write(written)
        except Exception:  # what leaves the loop came from pause_writing(): they are written
            del end.sent[len(end.sent) - (len(data) if accepted else 0) :]
            raise
        if isinstance(written, bytearray) and end.connection.small:
            written[:] = bytes(len(written))  # was sent; of a backlog asyncio 3.12 has no copy
        return None


@dataclass(frozen=True)
class WriteLines:
    """Not behind the end, where asyncio's, from 3.12 on, keeps the lines, or fails."""

    sizes: tuple[int, ...]

    def do(self, end: End) -> Any:
        size = sum(self.sizes)
        if end.transport.is_closing() or not end.may_write(size):
            return "no"
        data = end.bytes_to_write(size)
        places = [0, *itertools.accumulate(self.sizes)]
        accepted = not end.transport.is_closing() or end.transport.get_write_buffer_size() > 0
        if accepted:
            end.sent += data
        try:
            end.transport.writelines([data[a:b] for a, b in itertools.pairwise(places)])
        except Exception:  # what leaves the loop came from pause_writing(): they are written
            del end.sent[len(end.sent) - (len(data) if accepted else 0) :]
            raise


@dataclass(frozen=True)
class WriteNonsense:
    what: Any

    def do(self, end: End) -> Any:
        end.transport.write(self.what)


@dataclass(frozen=True)
class WriteEof:
    def do(self, end: End) -> Any:
        if not end.transport.is_closing():
            end.finished = True
        end.transport.write_eof()


@dataclass(frozen=True)
class Close:
    def do(self, end: End) -> Any:
        end.transport.close()


@dataclass(frozen=True)
class Abort:
    def do(self, end: End) -> Any:
        end.connection.cuts()
        end.transport.abort()


@dataclass(frozen=True)
class Reset:
    """Abort so that the peer gets an RST, over TCP."""

    def do(self, end: End) -> Any:
        sock = end.transport.get_extra_info("socket")
        if sock.fileno() >= 0 and sock.family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return Abort().do(end)


@dataclass(frozen=True)
class PauseReading:
    def do(self, end: End) -> Any:
        return end.transport.pause_reading()


@dataclass(frozen=True)
class ResumeReading:
    """Not behind the end of the stream: asyncio calls eof_received() again, which its documentation excludes."""

    def do(self, end: End) -> Any:
        return "no" if end.ended else end.transport.resume_reading()


@dataclass(frozen=True)
class Limits:
    high: int | None
    low: int | None

    def do(self, end: End) -> Any:
        end.transport.set_write_buffer_limits(self.high, self.low)
        return end.transport.get_write_buffer_limits()


@dataclass(frozen=True)
class SetProtocol:
    buffered: Any
    keeps_open: bool

    def do(self, end: End) -> Any:
        end.protocol = end.new_protocol(self.buffered, self.keeps_open)
        end.transport.set_protocol(end.protocol)


@dataclass(frozen=True)
class Look:
    def do(self, end: End) -> Any:
        transport = end.transport
        waiting = transport.get_write_buffer_size()  # of a backlog, the kernel's choice
        return (
            f"closing {transport.is_closing()} reading {transport.is_reading()} "
            f"waiting {waiting if end.connection.small else 'some'} "
            f"limits {transport.get_write_buffer_limits()} "
            f"own {transport.get_protocol() is end.protocol} eof {transport.can_write_eof()} "
            f"socket {transport.get_extra_info('socket').fileno() >= 0}"
        )


@dataclass(frozen=True)
class Mark:
    """A callback in the next turn. What the kernel tells comes later, so its place is known."""

    def do(self, end: End) -> Any:
        end.marks += 1
        end.driver.loop.call_soon(end.both, f"mark {end.marks}")


@dataclass(frozen=True)
class Stop:
    def do(self, end: End) -> Any:
        end.driver.loop.stop()


@dataclass(frozen=True)
class Fail:
    """Raises out of the callback."""

    how: str

    def do(self, end: End) -> Any:
        raise FAILURES[self.how](self.how)


@dataclass(frozen=True)
class When:
    """The next call of the protocol's `event` also does these."""

    event: str
    actions: tuple[At, ...]

    def do(self, end: End) -> Any:
        end.hooks.setdefault(self.event, []).append(self.actions)


@dataclass(frozen=True)
class At:
    """An operation, at the first or second end."""

    end: int
    what: Any


def run_actions(connection: Connection, actions: tuple[At, ...]) -> None:
    for action in actions:
        end = connection.ends[action.end]
        if end.transport is None and not isinstance(action.what, (When, Fail, Stop)):
            end.writes("not connected")
            continue
        if end.lost and not connection.small and not isinstance(action.what, (When, Fail, Stop)):
            # Once it has closed behind a backlog, asyncio's transport fails for want of its loop.
            end.writes("over")
            continue
        if isinstance(action.what, Fail):
            end.writes(action.what)
            action.what.do(end)
        try:
            result = action.what.do(end)
        except Exception as exc:
            end.writes(f"{type(action.what).__name__} raised {type(exc).__name__}({exc})")
        else:
            if result is not None:
                end.writes(f"{type(action.what).__name__}: {result}")


# The program.


class Connection:
    def __init__(self, driver: Driver, small: bool) -> None:
        self.driver = driver
        self.small = small
        self.cut = (
            False  # bulk only: a backlog was dropped, so how much comes is not known any more
        )
        self.ends = self.make_ends()
        driver.busy += [end.is_busy for end in self.ends]
        driver.track_of = self.track_of
        driver.at_end.append(self.end)
        self.servers: list[Any] = []

    def make_ends(self) -> list[Any]:
        return [End(self, "a"), End(self, "b")]

    def end(self) -> None:
        for end in self.ends:
            end.hooks.clear()
            self.cuts()
            if end.transport is not None and not end.lost:
                end.transport.abort()
        for server in self.servers:
            server.close()

    def cuts(self) -> None:
        if not self.small:
            self.cut = True

    def loss(self, exc: BaseException | None) -> str:
        """With a backlog, whether reading or writing fails first is the kernel's choice."""
        if exc is None:
            return "without error"
        if isinstance(exc, ConnectionError) and not self.small:
            return "ConnectionError"
        return f"{type(exc).__name__}({exc})"

    def track_of(self, context: dict[str, Any]) -> str:
        protocol = context.get("protocol") or getattr(
            getattr(context.get("handle"), "_callback", None), "__self__", None
        )
        end = getattr(protocol, "end", None)
        return f"{end.name} writes" if isinstance(end, End) else "handler"

    def descriptor_of(self, end: End) -> int:
        return end.transport._sock_fd


@dataclass(frozen=True)
class Program(driver.Program):
    """What is connected how, and the steps: each is what one callback does."""

    family: str  # "tcp" or "unix"
    serves: (
        bool  # with create_server and create_connection; else both ends are of a pair of sockets
    )
    small: bool
    buffered: tuple[bool, bool]
    keeps_open: tuple[bool, bool]
    hooks: tuple[At, ...]
    steps: tuple[tuple[At, ...], ...]

    def run(self, on: Driver) -> None:
        connection = Connection(on, self.small)
        run_actions(connection, self.hooks)
        for end, buffered, keeps_open in zip(
            connection.ends, self.buffered, self.keeps_open, strict=True
        ):
            end.protocol = end.new_protocol(buffered, keeps_open)
        connect = self.connect_by_server if self.serves else self.connect_pair
        connecting = on.loop.create_task(connect(connection))
        on.busy.append(lambda: not connecting.done())
        on.settle()
        connecting.result()
        for step in self.steps:
            on.step(lambda step=step: run_actions(connection, step))

        on.step(connection.end)

    async def connect_pair(self, connection: Connection) -> None:
        pair = tcp_pair() if self.family == "tcp" else socket.socketpair()
        for sock in pair:
            limit_buffers(sock)
            sock.setblocking(False)
        for end, sock in zip(connection.ends, pair, strict=True):
            await connection.driver.loop.create_connection(lambda end=end: end.protocol, sock=sock)

    async def connect_by_server(self, connection: Connection) -> None:
        loop = connection.driver.loop
        a, b = (lambda end=end: end.protocol for end in connection.ends)
        if self.family == "tcp":
            listening = socket.create_server(("127.0.0.1", 0))
            limit_buffers(listening)
            connection.servers.append(await loop.create_server(b, sock=listening))
            await loop.create_connection(a, *listening.getsockname())
        else:
            path = f"\0zloop-differential-{os.getpid()}-{next(names)}"
            connection.servers.append(await loop.create_unix_server(b, path))
            await loop.create_unix_connection(a, path)
        while connection.ends[1].transport is None:
            await asyncio.sleep(0)


def limit_buffers(sock: Any) -> None:
    """So that what BULK is, does not depend on how much the kernel would grow them."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


# How programs are drawn.

small_sizes = st.sampled_from([0, 1, 2, 3, 100, 999, 4096, 5000, 5001, 9000])
failures = st.sampled_from(sorted(FAILURES)).map(Fail)
limits = st.builds(
    Limits,
    st.sampled_from([None, 0, 1, 1000, 20_000]),
    st.sampled_from([None, None, None, 0, 1, 1000, 30_000]),
)
protocols = st.builds(SetProtocol, st.booleans(), st.booleans())

operations = st.one_of(
    st.builds(Write, small_sizes, st.sampled_from([bytes, bytes, bytearray, memoryview])),
    st.builds(WriteLines, st.lists(small_sizes, max_size=4).map(tuple)),
    st.builds(Write, small_sizes),
    st.builds(Mark),
    st.builds(PauseReading),
    st.builds(ResumeReading),
    st.builds(WriteEof),
    st.builds(Close),
    st.builds(Abort),
    st.builds(Reset),
    st.builds(Look),
    limits,
    protocols,
    st.builds(Stop),
    st.builds(WriteNonsense, st.sampled_from(["text", None, 7, ()])),
)

EVENTS = (
    "connection_made",
    "data_received",
    "eof_received",
    "get_buffer",
    "connection_lost",
    "pause_writing",
    "resume_writing",
)


def actions(what: Any, most: int) -> Any:
    each = st.builds(At, st.integers(0, 1), what)
    return st.lists(each, min_size=1, max_size=most).map(tuple)


def reactions(event: str, what: Any) -> Any:
    """What a callback does at its own end: the kernel may have told the other one something, too."""

    def at(end: int) -> Any:
        each = st.builds(At, st.just(end), what | failures)
        doing = st.lists(each, min_size=1, max_size=3).map(tuple)
        return st.builds(At, st.just(end), st.builds(When, st.just(event), doing))

    return st.integers(0, 1).flatmap(at)


# get_buffer() may only fail. Were it to write, asyncio would send that between the event and recv_into(),
# and so may take an error of the connection that receiving would have told of. That asyncio receives
# once more after a pause, a close or an abort in it, docs/compatibility.md has among the differences.
in_get_buffer = failures

small_hooks = st.sampled_from(EVENTS).flatmap(
    lambda event: reactions(event, in_get_buffer if event == "get_buffer" else operations)
)


def small_steps(most: int) -> Any:
    each = st.builds(At, st.integers(0, 1), operations | failures) | small_hooks
    step = st.lists(each, min_size=1, max_size=4).map(tuple)
    return st.lists(step, min_size=1, max_size=most).map(tuple)


pairs_of_booleans = st.tuples(st.booleans(), st.booleans())


def programs_of(small: bool, hooks: Any, steps: Any) -> Any:
    """Programs of one dialect, on every kind of connection."""
    return st.builds(
        Program,
        family=st.sampled_from(["tcp", "unix"]),
        serves=st.booleans(),
        small=st.just(small),
        buffered=pairs_of_booleans,
        keeps_open=pairs_of_booleans,
        hooks=st.lists(hooks, max_size=3).map(tuple),
        steps=steps,
    )


def small_programs(steps: int = 8) -> Any:
    return programs_of(True, small_hooks, small_steps(steps))


# The bulk dialect: the first end writes, the second reads. No hook on what comes in pieces, and none that
# acts on the other end: how far that is, is the kernel's choice.

reader_operations = st.one_of(
    st.builds(PauseReading),
    st.builds(ResumeReading),
    st.builds(WriteEof),
    st.builds(Close),
    st.builds(Abort),
    st.builds(Reset),
    st.builds(Look),
    protocols,
    st.builds(Stop),
)
# Of its lines asyncio 3.12 does not tell the flow control, as some of 3.13 do not.
many_lines = st.builds(WriteLines, st.just((BULK // 2, 1, BULK // 2)))
_tells = inspect.getsource(asyncio.selector_events._SelectorSocketTransport.writelines)
if sys.version_info >= (3, 12) and "_maybe_pause_protocol" not in _tells:
    many_lines = st.builds(WriteLines, st.just((1, 2, 3)))

writer_operations = st.one_of(
    st.builds(Write, st.just(BULK), st.sampled_from([bytes, bytearray, memoryview])),
    many_lines,
    st.builds(Write, small_sizes),
    limits,
    reader_operations,
)


def bulk_hooks(end: int) -> Any:
    events = ["connection_made", "eof_received", "connection_lost"]
    if end == 0:
        events += ["pause_writing", "resume_writing"]

    def hook(event: str) -> Any:
        what = [writer_operations, reader_operations][end] | failures
        if event == "resume_writing":
            # When this ends the connection, asyncio calls connection_lost() twice. What leaves the loop
            # here leaves it with a writer that has nothing to write, and fails in each turn.
            what = what.filter(
                lambda each: (
                    not isinstance(each, (Close, Abort, Reset, Fail)) or each == Fail("failure")
                )
            )
        reaction = st.lists(st.builds(At, st.just(end), what), min_size=1, max_size=3).map(tuple)
        return st.builds(At, st.just(end), st.builds(When, st.just(event), reaction))

    return st.sampled_from(events).flatmap(hook)


def bulk_programs(steps: int = 6) -> Any:
    hooks = bulk_hooks(0) | bulk_hooks(1)
    each = st.one_of(
        st.builds(At, st.just(0), writer_operations),
        st.builds(At, st.just(1), reader_operations),
        hooks,
    )
    step = st.lists(each, min_size=1, max_size=3).map(tuple)
    return programs_of(False, hooks, st.lists(step, min_size=1, max_size=steps).map(tuple))
