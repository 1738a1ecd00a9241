"""start_tls: over TCP with bytes on their way, over TLS itself, and through a proxy that is behind TLS."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import ssl
from asyncio import sslproto

import pytest
from helpers import PATIENCE, Peer, Recorder, kernel_was_asked, tcp_pair
from tls_helpers import Echo, TlsPeer, close, connected, serving

import zloop

ENDS_WITH_AN_ERROR = "exc" in inspect.signature(sslproto.SSLProtocol._abort).parameters
HANDS_OVER = "_stream_reader" in asyncio.SelectorEventLoop.start_tls.__code__.co_consts

SIDES = ["client", "server"]


def start(loop, transport, protocol, tls, side, **options):
    """start_tls, as one side of the connection."""
    if side == "server":
        options.update(sslcontext=tls.server, server_side=True)
    else:
        options.update(sslcontext=tls.client, server_hostname="localhost")
    return asyncio.wait_for(loop.start_tls(transport, protocol, **options), PATIENCE)


def other_end(raw, tls, side):
    """The peer, to be driven by hand, of what start() makes."""
    if side == "server":
        return TlsPeer(raw, tls.client, server_hostname="localhost")
    return TlsPeer(raw, tls.server, server_side=True)


@contextlib.asynccontextmanager
async def in_the_clear(loop, protocol):
    """A TCP connection of `protocol` and its peer; it has ended when this has."""
    ours, theirs = tcp_pair()
    raw = Peer(loop, theirs)
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    try:
        yield transport, raw
    finally:
        transport.abort()
        if raw.sock.fileno() >= 0:
            with contextlib.suppress(ConnectionResetError):
                await raw.receive_until_end()
            raw.close()


async def check_echo(secure, protocol, peer):
    """Bytes go both ways."""
    secure.write(b"question" * 10_000)
    assert await peer.receive_exactly(80_000) == b"question" * 10_000
    before = len(protocol.data)
    await peer.send(b"answer")
    await protocol.until_received(before + 6)
    assert protocol.data[before:] == b"answer"


# Over TCP.


@pytest.mark.parametrize("side", SIDES)
async def test_what_was_said_in_the_clear_stays_there(loop, tls, side):
    protocol = Recorder()
    async with in_the_clear(loop, protocol) as (transport, raw):
        transport.write(b"STARTTLS\n")
        await raw.send(b"READY\n")
        await protocol.until_received(6)
        assert await raw.receive_exactly(9) == b"STARTTLS\n"
        peer = other_end(raw, tls, side)
        secure, _ = await asyncio.gather(
            start(loop, transport, protocol, tls, side), peer.shake_hands()
        )
        assert protocol.data == b"READY\n"
        await check_echo(secure, protocol, peer)
        assert protocol.seen.count("connection_made") == 1  # it is told of no other transport
        assert protocol.transport is transport and secure.get_protocol() is protocol


@pytest.mark.parametrize("side", SIDES)
async def test_what_is_written_just_before_goes_before(loop, tls, side):
    protocol = Recorder()
    async with in_the_clear(loop, protocol) as (transport, raw):
        peer = other_end(raw, tls, side)
        transport.write(b"STARTTLS\n")
        starting = asyncio.ensure_future(start(loop, transport, protocol, tls, side))
        assert await raw.receive_exactly(9) == b"STARTTLS\n"
        await peer.shake_hands()
        await check_echo(await starting, protocol, peer)


@pytest.mark.parametrize("side", SIDES)
async def test_reading_that_was_paused_goes_on(loop, tls, side):
    protocol = Recorder(data_received=lambda self, data: self.transport.pause_reading())
    async with in_the_clear(loop, protocol) as (transport, raw):
        peer = other_end(raw, tls, side)
        await raw.send(b"READY\n")
        await protocol.until_received(6)
        shaking = asyncio.ensure_future(peer.shake_hands())
        await kernel_was_asked()  # with a client's hello in the socket, and nobody to read it
        protocol.hooks.clear()
        secure = await start(loop, transport, protocol, tls, side)
        await shaking
        assert transport.is_reading() and secure.is_reading()
        assert protocol.data == b"READY\n"
        await check_echo(secure, protocol, peer)


async def test_a_server_whose_writing_is_paused_is_told_when_it_goes_on(zloop_loop, tls):
    """asyncio reports an AssertionError when writing goes on, and the protocol is not told."""
    loop, protocol = zloop_loop, Recorder()
    plain = b"x" * 6_000_000
    async with in_the_clear(loop, protocol) as (transport, raw):
        transport.write(plain)
        assert "pause_writing" in protocol.seen
        peer = other_end(raw, tls, "server")
        starting = asyncio.ensure_future(start(loop, transport, protocol, tls, "server"))
        assert await raw.receive_exactly(len(plain)) == plain
        await peer.shake_hands()
        secure = await starting
        assert protocol.seen == ["connection_made", "pause_writing", "resume_writing"]
        await check_echo(secure, protocol, peer)


async def test_bytes_that_come_with_the_end_of_the_handshake_are_delivered(loop, tls):
    protocol = Recorder()
    async with in_the_clear(loop, protocol) as (transport, raw):
        peer = other_end(raw, tls, "server")
        starting = asyncio.ensure_future(start(loop, transport, protocol, tls, "server"))
        held = []
        peer.below = _Holding(raw, held)
        await peer.shake_hands()
        hello, finished = held  # the second with what ends the handshake
        assert hello == b"" and finished
        await raw.send(finished + peer.records(b"one", b"two"))
        peer.below = raw
        secure = await starting
        await protocol.until_received(6)
        assert protocol.data == b"onetwo"
        await check_echo(secure, protocol, peer)


class _Holding:
    """Passes the first bytes that are sent, and holds back what comes after."""

    def __init__(self, below, held):
        self.below, self.held = below, held
        self.receive = below.receive

    async def send(self, data):
        if self.held:
            self.held.append(data)
        else:
            self.held.append(b"")
            await self.below.send(data)


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "two segments"])
async def test_a_stream_takes_a_command_and_a_hello(loop, tls, together):
    """A hello that its reader holds already is handed over by newer versions; by older ones it is lost."""
    if not together and getattr(loop, "backend", "") == "io_uring":
        pytest.skip(
            "io_uring receives ahead what this peer reads from a duplicate of the descriptor"
        )
    ended = loop.create_future()

    async def serve(reader, writer):
        try:
            assert await reader.readline() == b"STARTTLS\n"
            if not together:
                writer.write(b"GO\n")
            await writer.start_tls(tls.server, ssl_handshake_timeout=PATIENCE if works else 0.1)
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()
        except Exception as exc:
            ended.set_result(exc)
        else:
            ended.set_result(None)

    works = HANDS_OVER or not together
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        raw = Peer(loop, writer.get_extra_info("socket")._sock.dup())
        writer.transport.pause_reading()
        peer = TlsPeer(raw, tls.client, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer.outgoing.read()
        if together:
            await raw.send(b"STARTTLS\n" + hello)
        else:
            await raw.send(b"STARTTLS\n")
            assert await raw.receive_exactly(3) == b"GO\n"
            await raw.send(hello)
        if works:
            await peer.shake_hands()
            await peer.send(b"hello\n")
            assert await peer.receive_exactly(6) == b"HELLO\n"
            await raw.send(peer.close_notify())
        error = await asyncio.wait_for(ended, PATIENCE)
        assert isinstance(error, type(None) if works else ConnectionAbortedError)
        raw.close()
        writer.close()
        await writer.wait_closed()


async def test_streams_start_tls_on_both_ends(loop, tls):
    message = os.urandom(1_000_000)
    done = loop.create_future()

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"GO\n")
        await writer.drain()
        await writer.start_tls(tls.server)
        writer.write(await reader.readexactly(len(message)))
        await writer.drain()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        done.set_result(None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"GO\n"
        await writer.start_tls(tls.client, server_hostname="localhost")
        assert writer.get_extra_info("ssl_object").version()
        writer.write(message)
        assert await asyncio.wait_for(reader.readexactly(len(message)), PATIENCE) == message
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(done, PATIENCE)


@pytest.mark.parametrize("side", SIDES)
async def test_a_cancelled_start_ends_the_connection(loop, tls, side):
    protocol = Recorder()
    async with in_the_clear(loop, protocol) as (transport, raw):
        starting = asyncio.ensure_future(start(loop, transport, protocol, tls, side))
        await kernel_was_asked()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert transport.is_closing()
        await raw.receive_until_end()
        await kernel_was_asked()
        assert protocol.losses == []  # it has given up its transport


@pytest.mark.parametrize("side", SIDES)
async def test_a_silent_peer_runs_into_the_timeout(loop, tls, side):
    protocol = Recorder()
    async with in_the_clear(loop, protocol) as (transport, raw):
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await start(loop, transport, protocol, tls, side, ssl_handshake_timeout=0.05)
        assert transport.is_closing()
        await raw.receive_until_end()
        protocol.connection_lost(None)


# TLS in TLS.


@contextlib.asynccontextmanager
async def proxy(tls):
    """An HTTP proxy at https://127.0.0.1:…, which knows CONNECT; yields its address and what it served."""
    served = []

    async def pipe(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b" ", 2)
        assert method == b"CONNECT"
        host, _, port = target.decode().rpartition(":")
        on_reader, on_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, on_writer), pipe(on_reader, writer))
        for each in (writer, on_writer):
            with contextlib.suppress(ConnectionError, TimeoutError):
                await each.wait_closed()
        served.append(target.decode())

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.server)
    async with server:
        yield server.sockets[0].getsockname(), served


async def connect_through(loop, tls, address, target, protocol):
    """Connect to the proxy, ask for the target; returns the transport to it."""
    transport, _ = await loop.create_connection(
        lambda: protocol, *address, ssl=tls.client, server_hostname="localhost"
    )
    transport.write(b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (target[0].encode(), target[1]))
    await protocol.events.until(lambda: protocol.data.endswith(b"\r\n\r\n"))
    assert protocol.data.startswith(b"HTTP/1.1 200 ")
    protocol.data.clear()
    return transport


async def until_served(served, count=1):
    async def wait():
        while len(served) < count:
            await kernel_was_asked()

    await asyncio.wait_for(wait(), PATIENCE)


@pytest.mark.parametrize("size", [1, 1000, 65536, 3_000_000])
async def test_through_a_proxy_over_tls(loop, tls, size):
    message = os.urandom(size)
    async with serving(loop, tls) as (target, _), proxy(tls) as (address, served):
        protocol = Recorder()
        outer = await connect_through(loop, tls, address, target, protocol)
        inner = await start(loop, outer, protocol, tls, "client")
        assert inner.get_extra_info("peername") == address
        assert inner.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
        inner.write(message)
        await protocol.until_received(size)
        assert protocol.data == message
        inner.close()
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
        assert outer.is_closing()
        await until_served(served)


async def test_many_at_once_through_a_proxy_over_tls(loop, tls):
    async with serving(loop, tls) as (target, _), proxy(tls) as (address, served):

        async def talk(number):
            protocol = Recorder()
            outer = await connect_through(loop, tls, address, target, protocol)
            inner = await start(loop, outer, protocol, tls, "client")
            for _ in range(5):
                inner.write(b"%d" % number * 1000)
            await protocol.until_received(5 * len(b"%d" % number * 1000))
            assert protocol.data == b"%d" % number * 5000
            inner.close()
            await protocol.until("connection_lost")

        await asyncio.gather(*(talk(number) for number in range(20)))
        await until_served(served, 20)


async def test_aiohttp_through_a_proxy_over_tls(loop, tls):
    aiohttp = pytest.importorskip("aiohttp")
    web = pytest.importorskip("aiohttp.web")

    async def echo(request):
        return web.Response(body=await request.read())

    application = web.Application(client_max_size=1 << 30)
    application.router.add_post("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server).start()
    port = runner.addresses[0][1]
    async with proxy(tls) as (address, served):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
            for size in (1, 1000, 300_000):
                body = os.urandom(size)
                async with session.post(
                    f"https://127.0.0.1:{port}/",
                    data=body,
                    proxy=f"https://127.0.0.1:{address[1]}",
                    ssl=tls.client,
                ) as answer:
                    assert await answer.read() == body
        await until_served(served)
        assert set(served) == {f"127.0.0.1:{port}"}
    await runner.cleanup()


async def test_the_inner_end_may_be_the_peers(loop, tls):
    async with serving(loop, tls) as (target, protocols), proxy(tls) as (address, served):
        protocol = Recorder()
        outer = await connect_through(loop, tls, address, target, protocol)
        inner = await start(loop, outer, protocol, tls, "client")
        inner.write(b"x")
        await protocol.until_received(1)
        protocols[0].transport.close()
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
        assert protocol.seen.count("eof_received") == 1
        await until_served(served)


async def start_within(loop, tls, outer, protocol, peer):
    """A second TLS within the first: its transport and its peer."""
    inner_peer = TlsPeer(peer, tls.server, server_side=True)
    inner, _ = await asyncio.gather(
        start(loop, outer, protocol, tls, "client"), inner_peer.shake_hands()
    )
    return inner, inner_peer


async def test_a_long_write_to_a_peer_that_is_gone_warns_of_nothing(loop, tls, caplog):
    """It is one write of the application, also where it goes below in pieces."""
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (outer, peer):
        inner, _ = await start_within(loop, tls, outer, protocol, peer)
        peer.below.reset()
        inner.write(bytes(2_000_000))
        await protocol.until("connection_lost")
    assert "socket.send() raised exception." not in caplog.messages


async def test_a_long_write_to_an_outer_end_that_closes_warns_of_nothing(loop, tls, caplog):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (outer, peer):
        inner, _ = await start_within(loop, tls, outer, protocol, peer)
        outer.close()
        caplog.clear()
        inner.write(bytes(1_000_000))
        assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == []
        outer.abort()
        await protocol.until("connection_lost")


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_connection_that_ends_meanwhile_gives_no_transport(loop, tls, end):
    protocol = Recorder()
    async with in_the_clear(loop, protocol) as (transport, _):
        starting = asyncio.ensure_future(start(loop, transport, protocol, tls, "client"))
        await kernel_was_asked()
        getattr(transport, end)()
        assert await starting is None


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_the_inner_end_ends_the_outer_once(loop, tls, end):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (outer, peer):
        inner, inner_peer = await start_within(loop, tls, outer, protocol, peer)
        getattr(inner, end)()
        if end == "close":
            assert await inner_peer.receive() == b""
            await peer.send(inner_peer.close_notify())
            assert await peer.receive() == b""
            await peer.below.send(peer.close_notify())
        await protocol.until("connection_lost")
        with contextlib.suppress(ConnectionError):
            assert await peer.below.receive_until_end() == b""
        inner.close()
        outer.close()
        await kernel_was_asked()
        assert protocol.losses == [None]
        assert inner.is_closing() and outer.is_closing()


def skip_where_an_inner_error_is_one_too_many(loop):
    if not ENDS_WITH_AN_ERROR and not isinstance(loop, zloop.Loop):
        pytest.skip("in asyncio before 3.13 an inner connection that fails raises a TypeError")


async def _call(function):
    function()


INNER_ENDS = {
    "plain HTTP": (lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ssl.SSLError),
    "the end of the outer": (
        lambda peer: peer.below.send(peer.close_notify()),
        ConnectionResetError,
    ),
    "the end of the stream": (lambda peer: _call(peer.below.half_close), ConnectionResetError),
    "a reset": (lambda peer: _call(peer.below.reset), ConnectionResetError),
    "silence": (lambda peer: asyncio.sleep(0), ConnectionAbortedError),
}


@pytest.mark.parametrize("what", INNER_ENDS)
async def test_an_inner_handshake_that_fails_ends_both(loop, tls, errors, what):
    skip_where_an_inner_error_is_one_too_many(loop)
    send, error = INNER_ENDS[what]
    timeout = 0.05 if what == "silence" else PATIENCE
    protocol = Recorder()
    async with in_the_clear(loop, Recorder()) as (transport, raw):
        peer = TlsPeer(raw, tls.server, server_side=True)
        outer, _ = await asyncio.gather(
            start(loop, transport, protocol, tls, "client"), peer.shake_hands()
        )
        starting = asyncio.ensure_future(
            start(loop, outer, protocol, tls, "client", ssl_handshake_timeout=timeout)
        )
        assert await peer.receive()  # the inner hello
        await send(peer)
        with pytest.raises(error):
            await starting
        assert outer.is_closing() and transport.is_closing()
        await kernel_was_asked()
        assert len(protocol.losses) <= 1
    errors.clear()  # test_tls_errors.py compares what is told


async def test_an_inner_certificate_of_another_name_is_refused(loop, tls, errors):
    skip_where_an_inner_error_is_one_too_many(loop)
    async with serving(loop, tls, Echo) as (target, protocols), proxy(tls) as (address, served):
        protocol = Recorder()
        outer = await connect_through(loop, tls, address, target, protocol)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await loop.start_tls(outer, protocol, tls.client, server_hostname="elsewhere.example")
        assert outer.is_closing()
        await until_served(served)
        assert protocols[0].seen == []
        # The proxy and its target go on.
        again = Recorder()
        outer = await connect_through(loop, tls, address, target, again)
        inner = await start(loop, outer, again, tls, "client")
        again.transport = inner
        await close(again)
        await until_served(served, 2)
    errors.clear()  # whether a server tells of it depends on the version
