"""What libraries and their tests read, replace and patch of asyncio's transports behind the scenes."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import socket
import subprocess
import sys
import textwrap
from unittest import mock

import pytest
from helpers import PATIENCE, Recorder


async def over_tls(loop, tls, client, server_protocol=asyncio.Protocol):
    """A TLS connection to a server: the transport, and the server."""
    server = await loop.create_server(server_protocol, "127.0.0.1", 0, ssl=tls.server)
    transport, _ = await loop.create_connection(
        lambda: client,
        *server.sockets[0].getsockname(),
        ssl=tls.client,
        server_hostname="localhost",
    )
    return transport, server


async def close(transport, protocol, server):
    transport.close()
    await protocol.until("connection_lost")
    server.close()
    await server.wait_closed()


async def test_the_ssl_protocol_shows_what_it_was_made_of(loop, tls):
    client = Recorder()
    transport, server = await over_tls(loop, tls, client)
    inner = transport._ssl_protocol
    assert inner._sslcontext is tls.client
    assert inner._sslobj is transport.get_extra_info("ssl_object")
    assert inner._app_protocol is client
    assert inner._app_transport is transport
    assert inner._server_side is False
    assert inner._server_hostname == "localhost"
    assert inner._ssl_handshake_timeout == 60
    assert inner._ssl_shutdown_timeout == 30
    assert inner._transport._protocol is inner
    assert transport._closed is False
    await close(transport, client, server)


async def test_the_ssl_protocols_application_can_be_replaced(loop, tls):
    class Greets(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    before, after = Recorder(), Recorder()
    transport, server = await over_tls(loop, tls, before, Greets)
    transport._ssl_protocol._app_protocol = after
    transport.write(b"hello")
    await after.until_received(5)
    assert (bytes(before.data), transport.get_protocol()) == (b"", after)
    await close(transport, after, server)


async def test_a_protocol_can_be_replaced_by_its_attribute(loop, connect):
    before, after = Recorder(), Recorder()
    transport, peer = await connect(before)
    assert transport._protocol is before
    transport._protocol = after
    assert transport.get_protocol() is after
    peer.sock.sendall(b"hello")
    await after.until_received(5)
    assert before.data == b""
    transport.abort()
    await after.until("connection_lost")


async def test_a_transport_shows_its_socket_until_it_is_closed(loop, connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    assert isinstance(transport._sock, socket.socket)
    assert transport._sock.fileno() == transport._sock_fd
    assert transport._conn_lost == 0
    transport.abort()
    assert transport._conn_lost == 1
    await protocol.until("connection_lost")
    await asyncio.sleep(0)
    assert transport._sock is None


@pytest.mark.parametrize("owner", [asyncio.Transport, asyncio.BaseTransport])
async def test_get_extra_info_can_be_patched_on_asyncios_class(loop, connect, owner):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    true_name = transport.get_extra_info("peername")
    with mock.patch.object(owner, "get_extra_info") as patched:
        patched.return_value = ("peer", 1234)
        assert transport.get_extra_info("peername") == ("peer", 1234)
        patched.assert_called_with("peername")
    with mock.patch.object(owner, "get_extra_info", lambda self, name, default=None: (self, name)):
        assert transport.get_extra_info("sockname") == (transport, "sockname")
    assert transport.get_extra_info("peername") == true_name
    transport.abort()
    await protocol.until("connection_lost")


async def test_a_patched_get_extra_info_is_what_tls_asks(loop, tls):
    client = Recorder()
    transport, server = await over_tls(loop, tls, client)
    with mock.patch.object(asyncio.Transport, "get_extra_info", lambda *_: "patched"):
        assert transport.get_extra_info("peername") == "patched"
        assert transport.get_extra_info("sslcontext") is tls.client
    await close(transport, client, server)


def test_create_task_can_be_wrapped_on_asyncios_class(loop):
    seen = []
    stock = asyncio.BaseEventLoop.create_task

    def traced(self, coro, **kwargs):
        seen.append(coro.__name__)
        return stock(self, coro, **kwargs)

    async def main():
        return await asyncio.create_task(work())

    async def work():
        return 1

    with mock.patch.object(asyncio.BaseEventLoop, "create_task", traced):
        assert loop.run_until_complete(loop.create_task(main())) == 1
    assert seen == ["main", "work"]


# What stays behind.


@pytest.mark.parametrize("running", [False, True], ids=["before a run", "within one"])
def test_handles_run_can_be_wrapped_on_asyncios_class(loop, errors, monkeypatch, running):
    """Who looks for slow callbacks does that. Within a run it counts from the next wait on."""
    stock = asyncio.Handle._run
    seen = []

    def run(handle):
        seen.append(handle._callback)
        return stock(handle)

    def wrap():
        monkeypatch.setattr(asyncio.Handle, "_run", run)

    async def program():
        if running:
            wrap()
            await asyncio.sleep(0.001)
            seen.clear()
        loop.call_soon(callback, 1)
        loop.call_later(0.001, callback, 2)
        loop.call_soon_threadsafe(callback, 3)
        loop.call_soon(int, "no number")
        await asyncio.sleep(0.01)

    called = []
    callback = called.append
    if not running:
        wrap()
    loop.run_until_complete(program())
    assert sorted(called) == [1, 2, 3]
    assert seen.count(callback) == 3
    assert seen.count(int) == 1
    (context,) = errors
    assert context["handle"]._callback is int
    errors.clear()

    monkeypatch.undo()
    seen.clear()
    loop.run_until_complete(asyncio.sleep(0.001))
    assert seen == []


@pytest.mark.parametrize("how", ["untrusted", "refused"])
def test_a_connection_that_fails_leaves_no_cycle(tls, how):
    program = """
        import asyncio, gc, socket, ssl, sys, weakref, zloop

        class Kept: pass

        async def attempt(**more):
            kept = Kept()
            try:
                await asyncio.open_connection(*address, **more)
            except OSError:
                return weakref.ref(kept)

        async def main():
            global address
            listener = socket.create_server(("127.0.0.1", 0))
            address = listener.getsockname()
            if sys.argv[1] == "refused":
                listener.close()
                more = {}
            else:
                loop = asyncio.get_running_loop()
                await loop.create_server(Speaks, sock=listener)
                more = {"ssl": ssl.create_default_context()}
            gc.collect()
            gc.disable()
            kept = await attempt(**more)
            await asyncio.sleep(0)
            assert kept() is None
            assert not [each for each in gc.get_objects() if isinstance(each, OSError)]

        class Speaks(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"this is not TLS")

        zloop.run(main())
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), how], check=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_no_memory_stays_of_what_was_written_over_tls(zloop_loop, tls, kind):
    size = 32 * 1024 * 1024
    reading = DrainsAndConfirms(size)
    client = Recorder()
    transport, server = await over_tls(zloop_loop, tls, client, lambda: reading)
    before = resident_bytes()
    transport.write(kind(bytes(size)))
    async with asyncio.timeout(PATIENCE):
        await client.until_received(1)
    assert resident_bytes() - before < size / 4
    await close(transport, client, server)
    await reading.lost.wait()


class DrainsAndConfirms(asyncio.BufferedProtocol):
    """Reads so many bytes, and then writes one."""

    def __init__(self, size):
        self.left = size
        self.room = bytearray(256 * 1024)
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.room

    def buffer_updated(self, count):
        self.left -= count
        if self.left == 0:
            self.transport.write(b".")

    def connection_lost(self, exc):
        self.lost.set()


def resident_bytes():
    """What the process holds; what malloc() keeps of it for the next time does not count."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
