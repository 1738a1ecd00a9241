"""Ends of TLS connections: a server, a client, and a peer that is driven by hand, record by record."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from helpers import PATIENCE, Peer, Recorder, kernel_was_asked, tcp_pair

NOT_MADE = "Error on transport creation for incoming connection"


async def told_in_debug_mode(loop, errors, failed=1):
    """Take out what a server tells of so many handshakes that failed: debug mode each, else none."""
    if loop.get_debug():
        async with asyncio.timeout(PATIENCE):
            while len(errors) < failed:
                await asyncio.sleep(0.001)
        assert [context["message"] for context in errors] == [NOT_MADE] * failed
        assert all(isinstance(context["exception"], OSError) for context in errors)
        errors.clear()
    assert errors == []


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@contextlib.asynccontextmanager
async def serving(loop, tls, factory=Echo, **options):
    protocols = []

    def make():
        protocols.append(factory())
        return protocols[-1]

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=tls.server, **options)
    async with server:
        yield server.sockets[0].getsockname(), protocols
        for protocol in protocols:
            if protocol.transport is not None:
                await protocol.until("connection_lost")


async def connect_tls(loop, tls, name, factory=Recorder, **options):
    options.setdefault("server_hostname", "localhost")
    return await asyncio.wait_for(
        loop.create_connection(factory, *name, ssl=tls.client, **options), PATIENCE
    )


async def close(protocol):
    protocol.transport.close()
    await protocol.until("connection_lost")


class TlsPeer:
    """The other end of TLS, over a Peer or over another one of this kind."""

    def __init__(self, below, context, **options):
        self.below = below
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)

    async def _until_done(self, call, *args):
        while True:
            try:
                return call(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                data = await self.below.receive()
                self.incoming.write(data) if data else self.incoming.write_eof()

    async def flush(self):
        if self.outgoing.pending:
            await self.below.send(self.outgoing.read())

    async def shake_hands(self):
        await self._until_done(self.tls.do_handshake)
        await self.flush()

    def records(self, *messages):
        """What would be sent for these, each in records of its own."""
        for message in messages:
            self.tls.write(message)
        return self.outgoing.read()

    async def send(self, data):
        await self.below.send(self.records(data))

    async def send_in_pieces(self, data, size):
        """Send what records() gave, each piece to be received apart."""
        self.below.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(data), size):
            await self.below.send(data[begin : begin + size])
            await kernel_was_asked()

    async def receive(self, most=65536):
        return await self._until_done(self.tls.read, most)

    async def receive_exactly(self, count):
        data = bytearray()
        while len(data) < count:
            data += await self.receive(count - len(data))
        return bytes(data)

    def close_notify(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()


@contextlib.asynccontextmanager
async def connected(loop, tls, protocol, **options):
    """`protocol`'s TLS transport, as a client, and the peer that serves it."""
    ours, theirs = tcp_pair()
    raw = Peer(loop, theirs)
    peer = TlsPeer(raw, tls.server, server_side=True)
    (transport, _), _ = await asyncio.wait_for(
        asyncio.gather(
            loop.create_connection(
                lambda: protocol, sock=ours, ssl=tls.client, server_hostname="localhost", **options
            ),
            peer.shake_hands(),
        ),
        PATIENCE,
    )
    try:
        yield transport, peer
    finally:
        transport.abort()
        await protocol.until("connection_lost")
        raw.close()
