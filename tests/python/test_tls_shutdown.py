"""The end of many TLS connections at once: it is bounded, and silent peers cost nothing afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
import ssl
import warnings
import weakref

import pytest
from conftest import open_descriptors
from helpers import FACTORIES, PATIENCE, Peer, Recorder, kernel_was_asked, turns
from tls_helpers import TlsPeer

import zloop

TIMEOUT = 0.2  # of handshakes and shutdowns that nobody answers

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def many_descriptors():
    """As many as there may be, for the time of a test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def count_for(loop):
    """A thousand; but asyncio has 300 KiB for each."""
    return 1000 if isinstance(loop, zloop.Loop) else 200


class Crowd:
    """A server that does nothing, and its many peers. It keeps nothing of the server's end alive."""

    def __init__(self, loop, tls):
        self.loop, self.tls = loop, tls
        self.peers = []
        self.protocols = []

    async def serve(self, **options):
        def make():
            self.protocols.append(Recorder())
            return self.protocols[-1]

        server = await self.loop.create_server(
            make, "127.0.0.1", 0, ssl=self.tls.server, backlog=1000, **options
        )
        self.address = server.sockets[0].getsockname()
        return server

    async def connect(self, count, hello=None):
        """Connect so many peers, up to the end of the handshake, or to their `hello`."""
        some_at_once = asyncio.Semaphore(50)

        async def one():
            sock = socket.socket()
            sock.setblocking(False)
            raw = Peer(self.loop, sock)
            peer = TlsPeer(raw, self.tls.client, server_hostname="localhost")
            self.peers.append(peer)
            async with some_at_once:
                await self.loop.sock_connect(sock, self.address)
                if hello is None:
                    await peer.shake_hands()
                else:
                    await raw.send(hello)

        await asyncio.gather(*(one() for _ in range(count)))
        while len(self.protocols) < count:
            await kernel_was_asked()
        if hello is None:
            for protocol in self.protocols:
                await protocol.until("connection_made")

    def close(self):
        for peer in self.peers:
            peer.below.close()
        self.peers.clear()

    def forget(self):
        """Drop the server's ends; returns what shows whether they are gone."""
        held = [*self.protocols, *(each.transport for each in self.protocols)]
        self.protocols.clear()
        return [weakref.ref(each) for each in held if each is not None]


@pytest.fixture
def crowd(loop, tls):
    made = Crowd(loop, tls)
    yield made
    made.close()


def ssl_objects():
    return [each for each in gc.get_objects() if isinstance(each, ssl.SSLObject)]


@pytest.fixture
def nothing_is_left(crowd):
    """Call it when all connections have ended: neither objects nor descriptors of them are there."""
    gc.collect()
    descriptors = len(open_descriptors())
    of_others = ssl_objects()  # other tests in this process may have left some

    def check():
        crowd.close()
        references = crowd.forget()
        gc.collect()
        assert [each() for each in references if each() is not None] == []
        known = {id(each) for each in of_others}
        assert [each for each in ssl_objects() if id(each) not in known] == []
        assert len(open_descriptors()) <= descriptors

    return check


async def answer(peer):
    """What a peer does at the end of the stream: it says so as well."""
    assert await peer.receive() == b""
    with contextlib.suppress(ConnectionError):
        await peer.below.send(peer.close_notify())


async def test_idle_peers_that_answer_end_well(loop, crowd, nothing_is_left):
    server = await crowd.serve()
    await crowd.connect(count_for(loop))

    server.close()
    for protocol in crowd.protocols:
        protocol.transport.close()
    await asyncio.gather(*(answer(peer) for peer in crowd.peers))

    for protocol in crowd.protocols:
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
    await asyncio.wait_for(server.wait_closed(), PATIENCE)
    del server, protocol
    nothing_is_left()


async def test_idle_peers_that_are_silent_end_at_the_timeout(loop, crowd, nothing_is_left):
    server = await crowd.serve(ssl_shutdown_timeout=TIMEOUT)
    await crowd.connect(count_for(loop))

    began = loop.time()
    server.close()
    for protocol in crowd.protocols:
        protocol.transport.close()
    assert crowd.protocols[0].seen == ["connection_made"]

    for protocol in crowd.protocols:
        await protocol.until("connection_lost")
        (error,) = protocol.losses
        assert isinstance(error, TimeoutError) and str(error) == "SSL shutdown timed out"
    assert loop.time() - began >= TIMEOUT
    await asyncio.wait_for(server.wait_closed(), PATIENCE)
    del server, protocol, error
    nothing_is_left()


@pytest.mark.skipif(not hasattr(asyncio.Server, "close_clients"), reason="it came with 3.13")
@pytest.mark.parametrize("end", ["close_clients", "abort_clients"])
async def test_a_server_ends_its_silent_clients_at_once(loop, crowd, nothing_is_left, end):
    server = await crowd.serve()  # with the timeouts of asyncio: half a minute
    await crowd.connect(count_for(loop))

    server.close()
    getattr(server, end)()

    for protocol in crowd.protocols:
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
    await asyncio.wait_for(server.wait_closed(), PATIENCE)
    del server, protocol
    nothing_is_left()


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["nothing", "a part"])
async def test_peers_that_are_silent_in_the_handshake_end_at_the_timeout(
    loop, crowd, errors, nothing_is_left, hello
):
    server = await crowd.serve(ssl_handshake_timeout=TIMEOUT)
    await crowd.connect(count_for(loop), hello)

    ends = [peer.below.receive() for peer in crowd.peers]
    for end in await asyncio.gather(*ends, return_exceptions=True):
        assert end == b"" or isinstance(end, ConnectionResetError)
    await turns(3)

    assert all(protocol.seen == [] for protocol in crowd.protocols)
    server.close()
    await asyncio.wait_for(server.wait_closed(), PATIENCE)
    errors.clear()  # in debug mode asyncio tells of each
    del server, end
    nothing_is_left()


@pytest.mark.parametrize("state", ["idle", "closing", "in handshake"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_loop_that_closes_with_them_leaves_nothing(factory, tls, state):
    gc.collect()
    descriptors = len(open_descriptors())
    loop = FACTORIES[factory]()
    crowd = Crowd(loop, tls)

    async def main(loop, crowd):
        server = await crowd.serve()
        await crowd.connect(count_for(loop), b"\x16" if state == "in handshake" else None)
        if state == "closing":
            server.close()
            for protocol in crowd.protocols:
                protocol.transport.close()

    loop.run_until_complete(main(loop, crowd))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of what nobody has closed
        loop.close()
        crowd.close()
        references = [weakref.ref(loop), *crowd.forget()]
        del loop, crowd
        gc.collect()
    assert [each() for each in references if each() is not None] == []
    assert len(open_descriptors()) <= descriptors
