"""Nothing stays behind: each capability runs 3 x 200 times, and memory and descriptors stay level.

A leak grows with each batch; a cache or the allocator's mood does not, so when in doubt a few batches
more decide. What a capability puts into `alive` - loops, transports, protocols, servers - has to be gone
after each batch, for the program has dropped it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import ssl
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from helpers import FACTORIES, PATIENCE, kernel_was_asked, reset, tcp_pair, turns
from tls_helpers import told_in_debug_mode

RUNS, BATCHES, MOST_BATCHES = 200, 3, 20  # asyncio's TLS grows by less each time, for a dozen


class Level(NamedTuple):
    """What a process has taken."""

    blocks: int  # of Python's allocator
    heap_bytes: int  # that malloc() has handed out
    resident_bytes: int
    descriptors: int


class Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


C = ctypes.CDLL(None)
C.mallinfo2.restype = Mallinfo

# A leak is at least a block, 24 bytes or a descriptor a run.
ALLOWED = Level(blocks=RUNS // 4, heap_bytes=12 * RUNS, resident_bytes=1 << 20, descriptors=0)
if hasattr(C, "__asan_init"):  # its quarantine keeps for a while what is freed
    ALLOWED = ALLOWED._replace(resident_bytes=1 << 40)


def level() -> Level:
    """Now, without garbage."""
    gc.collect()
    info = C.mallinfo2()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return Level(
        blocks=sys.getallocatedblocks(),
        heap_bytes=info.uordblks + info.hblkhd,
        resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        descriptors=len(os.listdir("/proc/self/fd")),
    )


def check_level(batch: Callable[[], None], alive: weakref.WeakSet[Any]) -> None:
    """Run batches until the level holds; when it never does, something leaks."""
    levels = []
    growth = None
    for count in range(1, MOST_BATCHES + 1):
        batch()
        levels.append(level())
        gone_by = time.monotonic() + PATIENCE
        while list(alive) and time.monotonic() < gone_by:
            time.sleep(0.01)  # before 3.12, asyncio waits for a child in a thread
        assert list(alive) == []
        if count >= BATCHES:
            growth = Level(*map(int.__sub__, levels[-1], levels[-2]))
            if all(map(int.__le__, growth, ALLOWED)):
                return
    assert growth is None, f"after each batch: {levels}"


class At(NamedTuple):
    """What a capability has at hand."""

    loop: Any
    errors: list[Any]  # what the loop tells its exception handler
    alive: weakref.WeakSet[Any]
    tls: Any
    folder: Any


CAPABILITIES: dict[str, Any] = {}


def capability(body: Any) -> Any:
    CAPABILITIES[body.__name__] = body
    return body


class Ends(asyncio.Protocol):
    """A protocol whose `transport` and `lost` can be awaited; a server's echoes, and says it is gone."""

    def __init__(self, at: At, echoes: bool = False) -> None:
        self.at, self.echoes = at, echoes
        self.made, self.lost = at.loop.create_future(), at.loop.create_future()
        self.received = at.loop.create_future()
        at.alive.add(self)

    def connection_made(self, transport: Any) -> None:
        self.at.alive.add(transport)
        self.transport = transport
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        if self.echoes:
            self.transport.write(data)
        elif not self.received.done():
            self.received.set_result(None)

    def datagram_received(self, data: bytes, address: Any) -> None:
        if self.echoes:
            self.transport.sendto(data, address)
        else:
            self.received.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)


class BufferedEnds(Ends, asyncio.BufferedProtocol):
    data_received = None

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        super().data_received(self.buffer[:count])


@contextlib.asynccontextmanager
async def connection(at: At, kind: Any = Ends, unix: bool = False, **server_options: Any) -> Any:
    """A client's protocol that is connected to a server which echoes; both ends are lost at its end."""
    serving = []

    def serve() -> Any:
        serving.append(kind(at, echoes=True))
        return serving[-1]

    client_options = (
        {"ssl": at.tls.client, "server_hostname": "localhost"} if server_options else {}
    )
    if unix:
        path = str(at.folder / "socket")
        server = await at.loop.create_unix_server(serve, path, **server_options)
        connecting = at.loop.create_unix_connection(lambda: kind(at), path, **client_options)
    else:
        server = await at.loop.create_server(serve, "127.0.0.1", 0, **server_options)
        name = server.sockets[0].getsockname()
        connecting = at.loop.create_connection(lambda: kind(at), *name, **client_options)
    at.alive.add(server)
    async with server:
        _, client = await connecting
        await (await until(lambda: serving) or serving[0]).made
        yield client, serving[0]
        client.transport.close()
        await client.lost
        await serving[0].lost
    if unix:
        with contextlib.suppress(FileNotFoundError):  # from 3.13 on the server sees to it
            os.unlink(path)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


async def echo(client: Ends) -> None:
    client.transport.write(b"x")
    await client.received


# Callbacks, futures, tasks.


@capability
async def callbacks(at: At) -> None:
    called = []
    for arguments in ([], [1], [1, 2, 3, 4, 5]):
        at.loop.call_soon(lambda *args: called.append(args), *arguments)
        at.loop.call_soon(called.append, arguments).cancel()
        at.loop.call_soon_threadsafe(called.append, arguments)
    await turns(2)
    assert len(called) == 6


@capability
async def timers(at: At) -> None:
    called = at.loop.create_future()
    at.loop.call_later(0, called.set_result, None)
    at.loop.call_later(1000, print, 1, 2, 3, 4, 5).cancel()
    at.loop.call_at(at.loop.time() + 1000, print).cancel()
    await called


@capability
async def calls_from_another_thread(at: At) -> None:
    called = at.loop.create_future()
    thread = threading.Thread(target=at.loop.call_soon_threadsafe, args=(called.set_result, None))
    thread.start()
    await called
    thread.join()


@capability
async def futures(at: At) -> None:
    one, other, third = (at.loop.create_future() for _ in range(3))
    one.add_done_callback(other.set_result)
    one.set_result(None)
    third.set_exception(ValueError())
    await asyncio.wait([other, third])
    assert third.exception() and at.loop.create_future().cancel()


@capability
async def tasks(at: At) -> None:
    async def fails() -> None:
        raise ValueError

    asleep = at.loop.create_task(asyncio.sleep(1000), name="asleep")
    done = await asyncio.gather(asyncio.sleep(0, 5), fails(), return_exceptions=True)
    assert done[0] == 5
    asleep.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asleep


@capability
async def a_callback_that_fails(at: At) -> None:
    told = at.loop.create_future()
    before = at.loop.get_exception_handler()
    at.loop.set_exception_handler(lambda _, context: told.set_result(context["message"]))
    at.loop.call_soon(lambda: 1 / 0)
    await told
    at.loop.set_exception_handler(before)


@capability
async def asynchronous_generators(at: At) -> None:
    async def numbers() -> Any:
        for number in range(5):
            yield number

    generator = numbers()
    assert await anext(generator) == 0
    del generator
    async for _ in numbers():
        pass


@capability
async def debug_mode(at: At) -> None:
    at.loop.set_debug(True)
    try:
        for each in (callbacks, timers, tcp):
            await each(at)
    finally:
        at.loop.set_debug(False)


@capability
async def executors(at: At) -> None:
    assert await at.loop.run_in_executor(None, len, "abc") == 3


@capability
async def names(at: At) -> None:
    assert await at.loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert await at.loop.getaddrinfo("localhost", 80)
    assert await at.loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)


@capability
async def signals(at: At) -> None:
    called = at.loop.create_future()
    at.loop.add_signal_handler(signal.SIGUSR1, called.set_result, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    await called
    assert at.loop.remove_signal_handler(signal.SIGUSR1)


# Descriptors.


@capability
async def watched_descriptors(at: At) -> None:
    one, other = socket.socketpair()
    with one, other:
        ready = [at.loop.create_future() for _ in range(2)]
        at.loop.add_reader(one, lambda: ready[0].done() or ready[0].set_result(None))
        at.loop.add_writer(one, lambda: ready[1].done() or ready[1].set_result(None))
        other.send(b"x")
        await asyncio.wait(ready)
        assert at.loop.remove_reader(one) and at.loop.remove_writer(one)


@capability
async def sockets(at: At) -> None:
    loop = at.loop
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as one:
        listener.setblocking(False)
        one.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(one, listener.getsockname())
        other, _ = await accepting
        with other:
            cancelled = loop.create_task(loop.sock_recv(one, 10))
            await turns(2)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            receiving = loop.create_task(loop.sock_recv(one, 10))
            await turns(2)
            await loop.sock_sendall(other, b"hello")
            assert await receiving == b"hello"
            await loop.sock_sendall(other, b"hello")
            assert await loop.sock_recv_into(one, bytearray(10)) == 5
            await loop.sock_sendall(other, b"hello")
            assert (await loop.sock_recvfrom(one, 10))[0] == b"hello"
            await loop.sock_sendall(other, b"hello")
            assert (await loop.sock_recvfrom_into(one, bytearray(10)))[0] == 5


@capability
async def bare_datagrams(at: At) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as other,
    ):
        for each in (one, other):
            each.setblocking(False)
        other.bind(("127.0.0.1", 0))
        await at.loop.sock_sendto(one, b"hello", other.getsockname())
        assert (await at.loop.sock_recvfrom(other, 10))[0] == b"hello"


@capability
async def files_over_sockets(at: At) -> None:
    one, other = socket.socketpair()
    with one, other, open(__file__, "rb") as file:
        one.setblocking(False)
        other.setblocking(False)
        assert await at.loop.sock_sendfile(one, file, 0, 1000) == 1000
        assert len(await at.loop.sock_recv(other, 1000)) == 1000


# Transports.


@capability
async def tcp(at: At) -> None:
    async with connection(at) as (client, _):
        await echo(client)


@capability
async def unix(at: At) -> None:
    async with connection(at, unix=True) as (client, _):
        await echo(client)


@capability
async def buffered_protocols(at: At) -> None:
    async with connection(at, BufferedEnds) as (client, _):
        await echo(client)


@capability
async def a_backlog(at: At) -> None:
    async with connection(at) as (client, server):
        server.transport.pause_reading()
        client.transport.writelines([b"x" * 100_000] * 50)
        assert client.transport.get_write_buffer_size()
        client.transport.abort()
        server.transport.abort()


@capability
async def a_peer_that_resets(at: At) -> None:
    ours, theirs = tcp_pair()
    transport, protocol = await at.loop.create_connection(lambda: Ends(at), sock=ours)
    assert transport.get_extra_info("peername") and transport.get_extra_info("socket")
    reset(theirs)
    await protocol.lost


@capability
async def a_connection_that_is_refused(at: At) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with contextlib.suppress(ConnectionRefusedError):
            await at.loop.create_connection(lambda: Ends(at), *nobody.getsockname())


@capability
async def streams(at: At) -> None:
    async def serve(reader: Any, writer: Any) -> None:
        writer.write(await reader.readline())
        writer.close()
        at.alive.update([reader, writer])

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        at.alive.update([reader, writer])
        writer.write(b"line\n")
        await writer.drain()
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()


@capability
async def tls(at: At) -> None:
    async with connection(at, ssl=at.tls.server) as (client, _):
        await echo(client)


@contextlib.asynccontextmanager
async def plain_pair(at: At) -> Any:
    """A server's and a client's transport, connected, with their protocols; aborted at the end."""
    ends = []
    for sock in socket.socketpair():
        ends += await at.loop.create_connection(lambda: Ends(at), sock=sock)
    yield ends
    for transport in ends[::2]:
        transport.abort()
    await turns(3)


async def start_tls_on(at: At, ends: Any, name: str = "localhost") -> Any:
    """Both transports over TLS, or what was raised."""
    server, serving, client, asking = ends
    return await asyncio.gather(
        at.loop.start_tls(server, serving, at.tls.server, server_side=True),
        at.loop.start_tls(client, asking, at.tls.client, server_hostname=name),
        return_exceptions=True,
    )


@capability
async def start_tls(at: At) -> None:
    one, other = socket.socketpair()
    transports = []
    for sock, context, options in (
        (one, at.tls.server, {"server_side": True}),
        (other, at.tls.client, {"server_hostname": "localhost"}),
    ):
        transport, protocol = await at.loop.create_connection(lambda: Ends(at), sock=sock)
        transports.append(at.loop.start_tls(transport, protocol, context, **options))
    server, client = await asyncio.gather(*transports)
    ends = [server.get_protocol(), client.get_protocol()]
    client.write(b"x")
    await ends[0].received
    client.close()
    await asyncio.gather(*[end.lost for end in ends])


@capability
async def tls_in_tls(at: At) -> None:
    async with plain_pair(at) as ends:
        serving, asking = ends[1], ends[3]
        outer = await start_tls_on(at, ends)
        _, client = await start_tls_on(at, (outer[0], serving, outer[1], asking))
        client.write(b"x")
        await serving.received
        client.close()
        await asyncio.gather(serving.lost, asking.lost)


@capability
async def a_start_of_tls_that_fails(at: At) -> None:
    async with plain_pair(at) as ends:
        server, client = await start_tls_on(at, ends, "elsewhere.example")
        assert isinstance(server, ConnectionError)
        assert isinstance(client, ssl.SSLCertVerificationError)


@capability
async def a_start_of_tls_with_a_silent_peer(at: At) -> None:
    async with plain_pair(at) as (transport, protocol, _, _):
        with contextlib.suppress(ConnectionAbortedError):
            await at.loop.start_tls(
                transport, protocol, at.tls.server, server_side=True, ssl_handshake_timeout=0.001
            )
        assert transport.is_closing()


@capability
async def a_tls_connection_that_is_refused(at: At) -> None:
    server = await at.loop.create_server(lambda: Ends(at), "127.0.0.1", 0, ssl=at.tls.server)
    at.alive.add(server)
    async with server:
        with contextlib.suppress(ssl.SSLCertVerificationError):
            await at.loop.create_connection(
                lambda: Ends(at),
                *server.sockets[0].getsockname(),
                ssl=at.tls.client,
                server_hostname="elsewhere.example",
            )
        await turns(3)  # the client's socket is closed
        await kernel_was_asked()  # and the server hears of it
        await turns(3)
        await told_in_debug_mode(at.loop, at.errors)


@capability
async def an_abort_amid_the_handshake(at: At) -> None:
    async with plain_pair(at) as (transport, protocol, _, _):
        starting = at.loop.create_task(
            at.loop.start_tls(transport, protocol, at.tls.client, server_hostname="localhost")
        )
        await turns(2)
        transport.get_protocol()._transport.abort()
        with contextlib.suppress(ConnectionError):
            await starting
        assert transport.is_closing()


@capability
async def files_over_transports(at: At) -> None:
    async with connection(at) as (client, _):
        with open(__file__, "rb") as file:
            assert await at.loop.sendfile(client.transport, file, 0, 1000) == 1000
        await client.received


@capability
async def datagrams(at: At) -> None:
    server, serving = await at.loop.create_datagram_endpoint(
        lambda: Ends(at, echoes=True), local_addr=("127.0.0.1", 0)
    )
    client, protocol = await at.loop.create_datagram_endpoint(
        lambda: Ends(at), remote_addr=server.get_extra_info("sockname")
    )
    client.sendto(b"x")
    await protocol.received
    client.close()
    server.close()
    await asyncio.gather(protocol.lost, serving.lost)


@capability
async def pipes(at: At) -> None:
    r, w = os.pipe()
    _, reading = await at.loop.connect_read_pipe(lambda: Ends(at), os.fdopen(r, "rb", 0))
    writer, writing = await at.loop.connect_write_pipe(lambda: Ends(at), os.fdopen(w, "wb", 0))
    writer.write(b"x" * 200_000)
    writer.close()
    await asyncio.gather(reading.lost, writing.lost)


@capability
async def child_processes(at: At) -> None:
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1)
    at.alive.update([child, child._transport])
    assert await child.communicate(b"x" * 1000) == (b"x" * 1000, b"")


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPABILITIES)
def test_what_runs_three_times_two_hundred_times_leaves_nothing(name, loop, errors, tls, tmp_path):
    at = At(loop, errors, weakref.WeakSet(), tls, tmp_path)
    loop.slow_callback_duration = PATIENCE  # pytest keeps what is logged

    async def batch() -> None:
        for _ in range(RUNS):
            await asyncio.wait_for(CAPABILITIES[name](at), PATIENCE)
        await turns(3)

    check_level(lambda: loop.run_until_complete(batch()), at.alive)


@pytest.mark.parametrize("factory", FACTORIES)
def test_loops_come_and_go_closed_or_not_and_leave_nothing(factory, tls, tmp_path):
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def batch() -> None:
        for number in range(RUNS):
            loop = FACTORIES[factory]()
            alive.add(loop)
            loop.run_until_complete(tcp(At(loop, [], alive, tls, tmp_path)))
            if number % 2:
                loop.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        check_level(batch, alive)
