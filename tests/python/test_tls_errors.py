"""What goes wrong in TLS is told as asyncio tells it: types, words, callbacks, exception handler.

Each scene is played on asyncio's loop and on ours; what both wrote down has to be the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import ssl

import pytest
from helpers import FACTORIES, PATIENCE, Peer, Recorder, kernel_was_asked, tcp_pair
from tls_helpers import TlsPeer


class Scene:
    """A connection of the loop's, and its peer; what happens to the loop's end is written down."""

    def __init__(self, loop, tls, side):
        self.loop, self.tls, self.side = loop, tls, side
        self.protocol = Recorder()
        self.name = "localhost"
        self.told = []
        loop.set_exception_handler(self.handle)
        ours, theirs = tcp_pair()
        self.ours, self.raw = ours, Peer(loop, theirs)

    @functools.cached_property
    def peer(self):
        """Made when it is asked for: by then the contexts are as the scene wants them."""
        if self.side == "server":
            return TlsPeer(self.raw, self.tls.client, server_hostname=self.name)
        return TlsPeer(self.raw, self.tls.server, server_side=True)

    def end(self):
        """The peer sends no more; the connection may have ended already."""
        with contextlib.suppress(OSError):
            self.raw.half_close()

    def handle(self, _, context):
        exc = context.get("exception")
        self.told.append((context["message"], describe(exc), sorted(context)))

    async def connect(self, **options):
        """The loop's end; returns how that ended."""
        if self.side == "server":
            coroutine = self.loop.connect_accepted_socket(
                lambda: self.protocol, self.ours, ssl=self.tls.server, **options
            )
        else:
            options["server_hostname"] = self.name
            coroutine = self.loop.create_connection(
                lambda: self.protocol, sock=self.ours, ssl=self.tls.client, **options
            )
        try:
            await asyncio.wait_for(coroutine, PATIENCE)
        except Exception as exc:
            return describe(exc)
        return "connected"

    async def shake_hands(self, **options):
        how, _ = await asyncio.gather(self.connect(**options), self.peer.shake_hands())
        assert how == "connected"

    async def trace(self, how):
        """All that there is to tell, once the connection has ended."""
        if how == "connected":
            await self.protocol.until("connection_lost")
        for _ in range(3):
            await kernel_was_asked()
        return {
            "connecting": how,
            "callbacks": self.protocol.seen,
            "received": bytes(self.protocol.data),
            "lost": [describe(exc) for exc in self.protocol.losses],
            "told": self.told,
        }

    def close(self):
        if self.protocol.transport is not None:
            self.protocol.transport.abort()
        if self.raw.sock.fileno() >= 0:
            self.raw.close()


def describe(exc):
    """Type and words, without what differs between runs."""
    if exc is None:
        return None
    words = re.sub(r"\(_ssl\.c:\d+\)", "(_ssl.c)", str(exc))
    return (type(exc).__name__, re.sub(r"0x[0-9a-f]+", "0x", words))


SCENES = {}


def scene(play):
    SCENES[play.__name__] = play
    return play


async def answer(it, data):
    """Let the peer answer the first bytes with these; returns how connecting ended."""
    connecting = asyncio.ensure_future(it.connect())
    if it.side == "client":
        assert await it.raw.receive()
    await it.raw.send(data)
    return await connecting


# Handshakes.


@scene
async def plain_http(it):
    return await answer(it, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


@scene
async def an_answer_of_plain_http(it):
    return await answer(it, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


@scene
async def a_record_of_garbage(it):
    return await answer(it, b"\x16\x03\x03\x00\x05hello")


@scene
async def a_record_that_is_too_long(it):
    return await answer(it, b"\x16\x03\x03\xff\xff" + bytes(70_000))


@scene
async def an_alert(it):
    return await answer(it, b"\x15\x03\x03\x00\x02\x02\x28")  # handshake failure


@scene
async def data_before_the_handshake(it):
    return await answer(it, b"\x17\x03\x03\x00\x20" + bytes(32))


@scene
async def an_end_at_once(it):
    connecting = asyncio.ensure_future(it.connect())
    it.end()
    return await connecting


@scene
async def an_end_within_a_record(it):
    connecting = asyncio.ensure_future(it.connect())
    await it.raw.send(b"\x16\x03\x03\x01")
    it.end()
    return await connecting


@scene
async def a_reset_at_once(it):
    connecting = asyncio.ensure_future(it.connect())
    await kernel_was_asked()
    it.raw.reset()
    return await connecting


@scene
async def silence(it):
    return await it.connect(ssl_handshake_timeout=0.05)


async def the_peer_gives_up(it):
    """Both ends; the peer may fail, and then ends the stream as a program does that fails."""

    async def peer():
        try:
            await it.peer.shake_hands()
            await it.raw.receive()
        except (ssl.SSLError, ConnectionError):
            with contextlib.suppress(ConnectionError):
                await it.peer.flush()
        it.end()

    how, _ = await asyncio.gather(it.connect(), peer())
    return how


@scene
async def an_authority_that_nobody_knows(it):
    it.tls.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return await the_peer_gives_up(it)


@scene
async def another_name(it):
    it.name = "elsewhere.example"
    return await the_peer_gives_up(it)


@scene
async def no_version_in_common(it):
    it.tls.server.minimum_version = ssl.TLSVersion.TLSv1_3
    it.tls.client.maximum_version = ssl.TLSVersion.TLSv1_2
    return await the_peer_gives_up(it)


@scene
async def no_certificate_of_the_client(it):
    it.tls.server.verify_mode = ssl.CERT_REQUIRED
    return await the_peer_gives_up(it)


@scene
async def no_certificate_of_the_client_in_tls_1_2(it):
    it.tls.server.verify_mode = ssl.CERT_REQUIRED
    it.tls.client.maximum_version = ssl.TLSVersion.TLSv1_2
    return await the_peer_gives_up(it)


# Connections.


@scene
async def a_record_that_was_changed(it):
    await it.shake_hands()
    record = bytearray(it.peer.records(b"secret"))
    record[-1] ^= 1
    await it.raw.send(bytes(record))
    return "connected"


@scene
async def plain_bytes_after_the_handshake(it):
    await it.shake_hands()
    await it.raw.send(b"GET / HTTP/1.1\r\n\r\n")
    return "connected"


@scene
async def a_record_that_was_cut(it):
    await it.shake_hands()
    await it.raw.send(it.peer.records(b"whole") + it.peer.records(b"cut")[:-1])
    it.end()
    return "connected"


@scene
async def an_end_without_a_word(it):
    await it.shake_hands()
    await it.raw.send(it.peer.records(b"last"))
    it.end()
    return "connected"


@scene
async def an_end_with_a_word(it):
    await it.shake_hands()
    await it.raw.send(it.peer.records(b"last") + it.peer.close_notify())
    it.end()
    return "connected"


@scene
async def a_reset_amid_the_stream(it):
    await it.shake_hands()
    await it.peer.send(b"last")
    await it.protocol.until_received(4)
    it.raw.reset()
    return "connected"


@scene
async def a_reset_while_much_is_written(it):
    await it.shake_hands()
    it.protocol.transport.write(bytes(8_000_000))
    await kernel_was_asked()
    it.raw.reset()
    return "connected"


@scene
async def a_reset_before_much_is_written(it):
    await it.shake_hands()
    it.raw.reset()
    it.protocol.transport.write(bytes(8_000_000))
    return "connected"


@scene
async def a_fatal_alert(it):
    await it.shake_hands()
    await it.raw.send(b"\x15\x03\x03\x00\x02\x02\x50")
    return "connected"


@scene
async def data_after_close(it):
    """Which the peer sends before it has seen ours."""
    await it.shake_hands()
    it.protocol.transport.close()
    await it.raw.send(it.peer.records(b"late"))
    await it.peer.below.send(it.peer.close_notify())
    it.end()
    return "connected"


@scene
async def no_answer_to_close(it):
    await it.shake_hands(ssl_shutdown_timeout=0.05)
    it.protocol.transport.close()
    return "connected"


@scene
async def an_end_as_the_answer_to_close(it):
    await it.shake_hands()
    it.protocol.transport.close()
    it.end()
    return "connected"


def raising(name):
    async def play(it):
        def fail(*_):
            raise ZeroDivisionError(name)

        it.protocol.hooks[name] = fail
        await it.shake_hands()
        await it.raw.send(it.peer.records(b"x") + it.peer.close_notify())
        it.end()
        return "connected"

    return play


for name in ("data_received", "eof_received", "connection_lost"):
    SCENES[f"{name}_raises"] = raising(name)


def play(name, factory, certificates, side, debug):
    authority, certificate = certificates
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate.configure_cert(server)
    authority.configure_trust(client)
    contexts = type("Contexts", (), {"server": server, "client": client})

    async def main(loop):
        it = Scene(loop, contexts, side)
        try:
            return await it.trace(await SCENES[name](it))
        finally:
            it.close()
            await kernel_was_asked()

    loop = FACTORIES[factory]()
    loop.set_debug(debug)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("name", SCENES)
def test_both_loops_tell_the_same_of(name, side, debug, certificates, caplog):
    def traced(factory):
        caplog.clear()
        trace = play(name, factory, certificates, side, debug)
        trace["warned"] = [
            record.getMessage()
            for record in caplog.records
            if record.levelno >= logging.WARNING
            and not record.getMessage().startswith("Executing")  # slow
        ]
        return trace

    theirs, ours = map(traced, FACTORIES)
    assert theirs["connecting"] != "connected" or theirs["lost"]
    assert ours == theirs
