"""A TLS connection: at one end a transport, at the other a peer that is driven by hand.

The peer is an ssl.SSLObject between two BIOs, and a socket: so what comes to the transport may be cut
anywhere, held back, spoiled, or be no TLS at all, before the handshake's end too. It does what it does
before the transport's side in each step: what that writes has left the process or not by then.

Nothing is ever more than the kernel takes at once: so each callback of a protocol is known, and may do
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import select
import socket
import ssl
import struct
import termios
from dataclasses import dataclass
from typing import Any

from helpers import reset, tcp_pair
from hypothesis import strategies as st

from . import connections, driver
from .connections import (
    SMALL_TOTAL,
    At,
    Fail,
    Limits,
    Mark,
    PauseReading,
    SetProtocol,
    Stop,
    When,
    Write,
    WriteEof,
    WriteLines,
    WriteNonsense,
    run_actions,
)
from .driver import FAILURES, Driver
from .trace import words_of, words_of_error

NAME = "localhost"
PROTOCOLS = ["h2", "http/1.1"]


# Contexts: made once, as a key takes longer than a program.


@functools.cache
def authority() -> Any:
    import trustme  # where it is missing the tests are skipped

    made = trustme.CA()
    return made, made.issue_cert(NAME), made.issue_cert("somebody")


@functools.cache
def context(server: bool, version: str, certified: str, alpn: bool) -> ssl.SSLContext:
    ca, of_server, of_client = authority()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    if certified != "stranger":
        ca.configure_trust(made)
    if server:
        of_server.configure_cert(made)
        if certified in ("both", "missing"):
            made.verify_mode = ssl.CERT_REQUIRED
    elif certified == "both":
        of_client.configure_cert(made)
    if alpn:
        made.set_alpn_protocols(PROTOCOLS)
    return made


# The ends.


class End(connections.End):
    """The one with a transport."""

    sock: socket.socket
    starting: Any = None  # the task that connects, or starts TLS
    made = introduced = upgraded = False
    told: Any = None

    def called(self, event: str) -> None:
        self.made = True
        super().called(event)
        self.introduced = True
        if event == "connection_lost" and self.connection.program.kind == "server":
            self.transport = (
                None  # a server whose handshake "failed" after connection_made() closes twice
            )

    def may_write(self, size: int) -> bool:
        if len(self.sent) + size > SMALL_TOTAL:
            return False
        return not size or self.may_send()

    def may_send(self) -> bool:
        """To a peer that is gone only once a step; see connections.End.may_write()."""
        step = len(self.driver.trace.steps)
        if self.peer.gone and self.last_write == step:
            return False
        self.last_write = step
        return True

    def new_protocol(self, buffered: Any, keeps_open: bool) -> Any:
        if buffered:
            return BufferedRecorder(self, keeps_open, buffered)
        return connections.Recorder(self, keeps_open)

    @property
    def below(self) -> Any:
        """The transport that carries TLS, while there is one."""
        if self.transport is None or not self.connection.secure:
            return self.transport
        return getattr(getattr(self.transport, "_ssl_protocol", None), "_transport", None)

    def is_busy(self) -> bool:
        """Whether the kernel has something for the loop, or something else than when last asked."""
        if self.sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLRDHUP)
        flags = sum(found for _, found in poll.poll(0))
        (unread,) = struct.unpack("i", fcntl.ioctl(self.sock, termios.FIONREAD, bytes(4)))
        below, peer = self.below, self.peer
        backlog = below.get_write_buffer_size() if below is not None else 0
        told, self.told = self.told, (flags, unread, backlog)
        if not peer.gone and (under_way(self.sock, peer.sock) or under_way(peer.sock, self.sock)):
            return True
        if unread and below is not None and below.is_reading():
            return True
        return told != self.told


def under_way(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether the kernel has something that was sent and has not come yet."""
    _, sent = tcp_bytes(sender)
    received, _ = tcp_bytes(receiver)
    return sent > received


def tcp_bytes(sock: socket.socket) -> tuple[int, int]:
    """How many came, and how many were sent, of struct tcp_info; one that was sent again counts once."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 224)
    (received,) = struct.unpack_from("Q", info, 128)
    sent, again = struct.unpack_from("QQ", info, 200)
    return received, sent - again


class BufferedRecorder(connections.BufferedRecorder):
    """Without a hook in get_buffer(): asyncio asks for buffers that we do not need.

    Its buffer is a memoryview: of a bytearray asyncio fills a copy of the rest with a second record.
    """

    def __init__(self, end: End, keeps_open: bool, size: int) -> None:
        super().__init__(end, keeps_open)
        self.buffer = memoryview(bytearray(size))

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer


class Peer:
    """The one that is driven by hand."""

    name = "b"
    lost = False
    transport = True  # for run_actions(): it can be acted on

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.driver = connection.driver
        self.hooks: dict[str, list[Any]] = {}
        self.sock: Any = None
        self.tls: Any = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.sent = bytearray()  # in the clear
        self.received = 0
        self.out = bytearray()  # waits to be sent
        self.due = 0  # of it
        self.holds = connection.program.holds
        self.shaken = self.failed = self.ended = False
        self.notified = False  # has said that it will send no more
        self.shut = self.gone = False

    def writes(self, what: Any) -> None:
        self.driver.trace.note(self.name, what)

    reads = writes

    def begin_tls(self) -> None:
        program = self.connection.program
        serves = not program.kind.endswith("server") and program.kind != "accepted"
        made = context(serves, program.version, program.certified, program.alpn)
        self.tls = made.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=serves,
            server_hostname=None if serves else NAME,
        )
        self.connection.secure = True
        self.go_on()

    def go_on(self) -> None:
        """Does what its TLS can do with what has come."""
        try:
            while not self.failed:
                if not self.shaken:
                    self.tls.do_handshake()
                    self.shaken = True
                    self.writes(f"shaken {self.tls.version()} {self.tls.selected_alpn_protocol()}")
                data = self.tls.read(1 << 16)
                if not data:
                    self.writes("close_notify")
                    self.failed = True
                    if self.connection.program.answers and not self.notified:
                        self.notify()
                    break
                self.got(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except ssl.SSLError as exc:
            self.failed = True
            self.writes(words_of_error(exc))
        self.take_outgoing()

    def take_outgoing(self) -> None:
        self.out += self.outgoing.read()

    def notify(self) -> None:
        self.notified = True
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.take_outgoing()

    def got(self, data: bytes) -> None:
        begin = self.received
        self.received += len(data)
        if data != self.connection.ends[0].sent[begin : self.received]:
            self.writes("received what was never written")
        self.driver.trace.received(self.name, data)

    def is_busy(self) -> bool:
        """Receives and sends what it can; whether that was anything."""
        if self.sock is None or self.gone:
            return False
        moved = False
        while not self.ended:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as exc:
                data = b""
                self.writes(self.connection.loss(exc))
            moved = True
            if not data:
                self.ended = True
                self.writes("the end")
                self.incoming.write_eof()
            elif self.tls is None:
                self.got(data)
            else:
                self.incoming.write(data)
            if self.tls is not None:
                self.go_on()
        return self.send() or moved

    def send(self) -> bool:
        """Of what waits as much as is due, and the kernel takes."""
        if not self.holds:
            self.due = len(self.out)
        if self.gone or self.shut:
            return False
        moved = False
        while self.due:
            try:
                count = self.sock.send(memoryview(self.out)[: self.due])
            except BlockingIOError:
                break
            except OSError:
                self.out.clear()
                self.due = 0
                return True
            del self.out[:count]
            self.due -= count
            moved = True
        return moved

    def end(self) -> None:
        if self.sock is not None:
            self.sock.close()
        self.gone = True


class Connection(connections.Connection):
    def __init__(self, on: Driver, program: Program) -> None:
        self.program = program
        self.secure = False
        self.driver = on
        super().__init__(on, small=True)
        on.busy.reverse()  # the peer first: it has to go on, whatever the other end waits for

    def make_ends(self) -> list[Any]:
        return [End(self, "a"), Peer(self)]

    def end(self) -> None:
        end, peer = self.ends
        end.hooks.clear()
        if end.starting is not None:
            end.starting.cancel()
        if end.transport is not None and not end.lost:
            end.transport.abort()
        peer.end()
        for server in self.servers:
            server.close()

    def note_result(self, task: Any) -> None:
        exc = asyncio.CancelledError() if task.cancelled() else task.exception()
        self.driver.trace.note("task", words_of_error(exc))
        if exc is not None:
            self.ends[
                0
            ].transport = None  # the program gets none; asyncio has closed it, perhaps twice


# What can be done at the transport's end, beside what can be done with any.


@dataclass(frozen=True)
class Close:
    """The second one is the last call: it leaves asyncio's transport without its protocol."""

    def do(self, end: End) -> Any:
        if not end.may_send():
            return "no"
        transport = end.transport
        if end.connection.secure and transport.is_closing():
            end.transport = None
        transport.close()


@dataclass(frozen=True)
class Abort:
    """Not while a close delivers its last bytes, where asyncio's fails."""

    def do(self, end: End) -> Any:
        if end.transport.is_closing() or end.peer.shut or end.peer.notified:
            return "no"
        end.transport.abort()


@dataclass(frozen=True)
class ResumeReading:
    def do(self, end: End) -> Any:
        return end.transport.resume_reading()


@dataclass(frozen=True)
class ReadLimits:
    """While there is a transport below, which asyncio's then pauses."""

    high: int | None
    low: int | None

    def do(self, end: End) -> Any:
        if not end.connection.secure or end.below is None:
            return "no"
        end.transport.set_read_buffer_limits(self.high, self.low)
        return end.transport.get_read_buffer_limits()


@dataclass(frozen=True)
class Look:
    def do(self, end: End) -> Any:
        transport = end.transport
        waiting = transport.get_write_buffer_size()  # at first of signatures: their lengths vary
        words = [
            f"closing {transport.is_closing()} reading {transport.is_reading()}",
            f"waiting {waiting if end.introduced else 'some'}",
            f"limits {transport.get_write_buffer_limits()}",
            f"own {transport.get_protocol() is end.protocol} eof {transport.can_write_eof()}",
        ]
        if end.connection.secure:
            words.append(f"read limits {transport.get_read_buffer_limits()}")
            words += [
                f"{name} {words_of(self.known(transport.get_extra_info(name, 'nothing')))}"
                for name in ("sslcontext", "ssl_object", "peercert", "cipher", "compression")
            ]
        words += [
            f"{name} {type(transport.get_extra_info(name, 'nothing')).__name__}"
            for name in ("socket", "peername", "sockname", "none of these")
        ]
        return ", ".join(words)

    def known(self, what: Any) -> Any:
        if isinstance(what, ssl.SSLContext):
            return what.verify_mode
        if isinstance(what, ssl.SSLObject):
            found = (what.version(), what.selected_alpn_protocol(), what.server_side)
            return (*found, what.server_hostname, what.session_reused)
        return sorted(what) if isinstance(what, dict) else what


@dataclass(frozen=True)
class StartTls:
    """On a connection without, of which nothing waits to be sent: else asyncio's never goes on."""

    def do(self, end: End) -> Any:
        connection, program = end.connection, end.connection.program
        if end.upgraded or connection.secure or end.transport.get_write_buffer_size():
            return "no"
        end.upgraded = True
        raw = end.transport
        end.peer.is_busy()
        serves = program.kind == "upgraded server"

        def born() -> None:
            made = raw.get_protocol()
            if made is not end.protocol:
                end.transport = getattr(made, "_app_transport", made)
                end.peer.begin_tls()
                end.peer.send()

        async def start() -> None:
            if raw.is_closing():
                return  # asyncio's transport tells connection_made() after connection_lost() then
            await end.driver.loop.start_tls(
                raw,
                end.protocol,
                program.own_context(connection),
                server_side=serves,
                server_hostname=None if serves else program.hostname,
                ssl_handshake_timeout=program.handshake_timeout,
                ssl_shutdown_timeout=program.shutdown_timeout,
            )

        end.starting = end.driver.loop.create_task(start())
        end.starting.add_done_callback(connection.note_result)
        end.driver.loop.call_soon(born)


@dataclass(frozen=True)
class Cancel:
    """The task that connects."""

    def do(self, end: End) -> Any:
        return "no" if end.starting is None else end.starting.cancel()


# What the peer can do.


@dataclass(frozen=True)
class Records:
    """In the clear before TLS has begun."""

    sizes: tuple[int, ...]

    def do(self, peer: Peer) -> Any:
        size = sum(self.sizes)
        if len(peer.sent) + size > SMALL_TOTAL:
            return "no"
        if peer.notified or peer.shut or (peer.tls is not None and not peer.shaken):
            return "no"
        for each in self.sizes:
            data = connections.End.bytes_to_write(peer, each)
            if peer.tls is None:
                peer.out += data
            elif each:
                try:
                    peer.tls.write(data)
                except ssl.SSLError:
                    return "no"
                peer.take_outgoing()
            peer.sent += data


@dataclass(frozen=True)
class Notify:
    """What ends a TLS stream."""

    def do(self, peer: Peer) -> Any:
        if peer.tls is None or not peer.shaken or peer.notified:
            return "no"
        peer.notify()


@dataclass(frozen=True)
class Garbage:
    what: bytes

    def do(self, peer: Peer) -> Any:
        if peer.tls is None:
            return "no"
        peer.out += self.what


@dataclass(frozen=True)
class Flip:
    """A bit of what waits to be sent; of the handshake, only in a record's header."""

    at: int

    def do(self, peer: Peer) -> Any:
        if not peer.out or peer.tls is None or (not peer.shaken and not 0 <= self.at < 5):
            return "no"
        peer.out[self.at % len(peer.out)] ^= 0x40


@dataclass(frozen=True)
class Drop:
    """The last bytes of what waits to be sent."""

    count: int

    def do(self, peer: Peer) -> Any:
        del peer.out[-self.count :]


@dataclass(frozen=True)
class Hold:
    """Keeps what there is to send, or does no longer."""

    on: bool

    def do(self, peer: Peer) -> Any:
        peer.holds = self.on


@dataclass(frozen=True)
class Send:
    """So many bytes of what is held, or all but so many."""

    count: int | None

    def do(self, peer: Peer) -> Any:
        waits = len(peer.out)
        count = waits if self.count is None else self.count
        peer.due = min(count if count >= 0 else max(waits + count, 0), waits)


@dataclass(frozen=True)
class Leave:
    """The end of what it sends, without a word; or of all; or by a reset."""

    how: str

    def do(self, peer: Peer) -> Any:
        if peer.gone or (peer.shut and self.how == "shut"):
            return "no"
        peer.send()
        peer.shut = True
        if self.how == "shut":
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_WR)
            return None
        peer.gone = True
        reset(peer.sock) if self.how == "reset" else peer.sock.close()
        return None


# The program.


@dataclass(frozen=True)
class Pass:
    """A step in which time goes by."""

    seconds: float


@dataclass(frozen=True)
class Program(driver.Program):
    kind: str  # how the transport is made, and which side it is of
    version: str
    certified: (
        str  # "server": only that; "both"; "missing": should be both; "stranger": nobody knows it
    )
    hostname: str  # that a client wants to talk to
    alpn: bool
    refuses_name: bool  # a server's, by a callback
    handshake_timeout: float | None
    shutdown_timeout: float | None
    holds: bool
    answers: bool  # a close_notify by one
    buffered: int
    keeps_open: bool
    hooks: tuple[At, ...]
    steps: tuple[Any, ...]

    @property
    def serves(self) -> bool:
        return self.kind in ("server", "accepted", "upgraded server")

    def own_context(self, connection: Connection) -> ssl.SSLContext:
        made = context(self.serves, self.version, self.certified, self.alpn)
        if self.serves:

            def asked(_: Any, name: str | None, __: Any) -> Any:
                connection.driver.trace.note("name", name)
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if self.refuses_name else None

            made.sni_callback = asked
        return made

    def run(self, on: Driver) -> None:
        connection = Connection(on, self)
        end = connection.ends[0]
        run_actions(connection, self.hooks)
        end.protocol = end.new_protocol(self.buffered, self.keeps_open)
        self.watch_birth(on.loop, end)
        on.step(lambda: self.connect(connection))
        for step in self.steps:
            if isinstance(step, Pass):
                on.advance(step.seconds)
            else:
                on.step(lambda step=step: self.do(connection, step))
        on.step(connection.end)

    def do(self, connection: Connection, step: tuple[At, ...]) -> None:
        end, peer = connection.ends
        if not end.made and end.sock.fileno() < 0:
            end.transport = None  # the server has closed it for good
        run_actions(connection, tuple(each for each in step if each.end == 1))
        peer.send()
        run_actions(connection, tuple(each for each in step if each.end == 0))

    def watch_birth(self, loop: Any, end: End) -> None:
        """A transport can be acted on before connection_made()."""
        make = loop._make_ssl_transport

        def made(sock: Any, *args: Any, **more: Any) -> Any:
            end.sock = sock
            end.transport = make(sock, *args, **more)
            return end.transport

        loop._make_ssl_transport = made

    def connect(self, connection: Connection) -> None:
        loop = connection.driver.loop
        end, peer = connection.ends
        timeouts = {
            "ssl_handshake_timeout": self.handshake_timeout,
            "ssl_shutdown_timeout": self.shutdown_timeout,
        }
        made = self.own_context(connection)
        if self.kind == "server":
            listening = socket.create_server(("127.0.0.1", 0))
            end.sock = listening
            self.prepare(listening)
            starting = loop.create_server(
                lambda: end.protocol, sock=listening, ssl=made, **timeouts
            )
            peer.sock = socket.create_connection(listening.getsockname())
            starting = self.serve(connection, starting)
        else:
            end.sock, peer.sock = tcp_pair()
            end.sock.setblocking(False)
            self.prepare(end.sock)
            factory = functools.partial(lambda: end.protocol)
            if self.kind.startswith("upgraded"):
                starting = loop.create_connection(factory, sock=end.sock)
            elif self.kind == "client":
                starting = loop.create_connection(
                    factory, sock=end.sock, ssl=made, server_hostname=self.hostname, **timeouts
                )
            else:
                starting = loop.connect_accepted_socket(factory, end.sock, ssl=made, **timeouts)
        self.prepare(peer.sock)
        peer.sock.setblocking(False)
        end.starting = loop.create_task(starting)
        end.starting.add_done_callback(connection.note_result)
        if not self.kind.startswith("upgraded"):
            peer.begin_tls()

    async def serve(self, connection: Connection, starting: Any) -> None:
        connection.servers.append(await starting)

    def prepare(self, sock: Any) -> None:
        """What is sent, the other end has at once. asyncio does not ask for that of each accepted socket."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# How programs are drawn.

small_sizes = st.sampled_from([0, 1, 2, 3, 100, 999, 4096, 5000, 5001, 9000, 17_000])
failures = st.sampled_from(sorted(FAILURES)).map(Fail)
limits = st.tuples(
    st.sampled_from([None, 0, 1, 1000, 20_000]),
    st.sampled_from([None, None, None, 0, 1, 1000, 30_000]),
)
buffers = st.sampled_from([0, 0, 0, 100, 999, 5000, 16_384, 20_000, 300_000])
protocols = st.builds(SetProtocol, buffers, st.booleans())

ours = st.one_of(
    st.builds(Write, small_sizes, st.sampled_from([bytes, bytes, bytearray, memoryview])),
    st.builds(WriteLines, st.lists(small_sizes, max_size=4).map(tuple)),
    st.builds(Write, small_sizes),
    st.builds(Mark),
    st.builds(PauseReading),
    st.builds(ResumeReading),
    st.builds(ResumeReading),
    st.builds(WriteEof),
    st.builds(Close),
    st.builds(Abort),
    st.builds(Look),
    limits.map(lambda pair: Limits(*pair)),
    limits.map(lambda pair: ReadLimits(*pair)),
    protocols,
    st.builds(Stop),
    st.builds(WriteNonsense, st.sampled_from(["text", None, 7, ()])),
    st.builds(StartTls),
    st.builds(StartTls),
    st.builds(Cancel),
)

spoiled = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\0",
    b"\x15\x03\x03\x00\x02\x01\x00",  # alerts in the clear: close_notify, and a fatal one
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x16\x03\x03\x40\x01",
    b"\x17\x03\x03\x00\x05hello",
    b"\x17\x03\x03\x00\x00",
    b"\x17\x03\x03\x41\x18",  # longer than TLS 1.3 allows, than 1.2 does, than any
    b"\x17\x03\x03\x48\x01",
    b"\x17\x03\x03\xff\xff",
    b"\x17\x03",
    b"\x17\x02\x03\x00\x10",
    b"\x17\x03\x01\x00\x10",
    b"\x18\x03\x03\x00\x03\x01\x00\x00",
    b"\x80\x2e\x01\x00\x02",
]

theirs = st.one_of(
    st.builds(Records, st.lists(small_sizes, min_size=1, max_size=4).map(tuple)),
    st.builds(Records, st.tuples(small_sizes)),
    st.builds(Send, st.sampled_from([None, None, 0, 1, 3, 5, 6, 100, 999, -1, -17, -1000])),
    st.builds(Send, st.none()),
    st.builds(Hold, st.booleans()),
    st.builds(Notify),
    st.builds(Garbage, st.sampled_from(spoiled)),
    st.builds(Flip, st.sampled_from([0, 1, 2, 3, 4, 7, 300, -1, -30])),
    st.builds(Drop, st.sampled_from([1, 20, 1000])),
    st.builds(Leave, st.sampled_from(["shut", "shut", "close", "reset"])),
)

EVENTS = (
    "connection_made",
    "data_received",
    "eof_received",
    "connection_lost",
    "pause_writing",
    "resume_writing",
)


def holds_the_handshake(hook: When) -> bool:
    """Who pauses reading there still sends the handshake's end from zloop: compatibility.md."""
    return hook.event == "connection_made" and any(
        isinstance(action.what, PauseReading) for action in hook.actions
    )


def hooks() -> Any:
    doing = st.lists(st.builds(At, st.just(0), ours | failures), min_size=1, max_size=3).map(tuple)
    drawn = st.builds(When, st.sampled_from(EVENTS), doing)
    return st.builds(At, st.just(0), drawn.filter(lambda hook: not holds_the_handshake(hook)))


def steps(most: int) -> Any:
    each = st.one_of(
        st.builds(At, st.just(0), ours | failures),
        st.builds(At, st.just(0), ours),
        st.builds(At, st.just(1), theirs),
        st.builds(At, st.just(1), theirs),
        hooks(),
    )
    step = st.lists(each, min_size=1, max_size=4).map(tuple)
    passing = st.builds(Pass, st.sampled_from([1.0, 4.0, 40.0, 100.0]))
    more = st.lists(st.one_of([step] * 9 + [passing]), min_size=most // 3, max_size=most).map(tuple)
    begin = st.sampled_from([((At(0, StartTls()),),)] * 3 + [()])  # "no" where there is TLS already
    return st.builds(tuple.__add__, begin, more)


def programs(most: int = 12) -> Any:
    return st.builds(
        Program,
        kind=st.sampled_from(
            ["client", "server", "accepted", "upgraded client", "upgraded server"]
        ),
        version=st.sampled_from(["TLSv1_3", "TLSv1_3", "TLSv1_2"]),
        certified=st.sampled_from(["server"] * 8 + ["both", "both", "missing", "stranger"]),
        hostname=st.sampled_from([NAME] * 15 + ["elsewhere"]),
        alpn=st.booleans(),
        refuses_name=st.sampled_from([False] * 19 + [True]),
        handshake_timeout=st.sampled_from([None, None, 3.0]),
        shutdown_timeout=st.sampled_from([None, None, 3.0]),
        holds=st.sampled_from([False] * 5 + [True]),
        answers=st.sampled_from([True, True, True, False]),
        buffered=buffers,
        keeps_open=st.booleans(),
        hooks=st.lists(hooks(), max_size=3).map(tuple),
        steps=steps(most),
    )
