"""TLS in both directions, over our transport."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import warnings
import weakref

import pytest
from helpers import FACTORIES, PATIENCE, BufferedRecorder, Recorder, reset, tcp_pair
from tls_helpers import Echo, close, connect_tls, connected, serving


@pytest.mark.parametrize("size", [1, 1000, 16384, 16385, 3_000_000])
async def test_echo_of_any_size(loop, tls, size):
    message = os.urandom(size)
    async with serving(loop, tls) as (name, _):
        transport, protocol = await connect_tls(loop, tls, name)
        transport.write(message)
        await protocol.until_received(size)
        assert protocol.data == message
        await close(protocol)
        assert protocol.losses == [None]


async def test_a_long_write_is_full_records(loop, tls):
    """It is encrypted in pieces, and what is sent is still that of one SSL_write."""
    full, count, rest = 16384, 61, 576
    added = 5 + 1 + 16  # header, kind, tag: TLS 1.3
    async with connected(loop, tls, Recorder()) as (transport, peer):
        transport.write(bytes(count * full + rest))
        sent = await peer.below.receive_exactly(count * (full + added) + rest + added)
    sizes = []
    while sent:
        sizes.append(5 + int.from_bytes(sent[3:5], "big"))
        sent = sent[sizes[-1] :]
    assert sizes == [full + added] * count + [rest + added]


async def test_a_long_write_that_fails_below_leaves_nothing(loop, tls, errors):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, _):
        transport._ssl_protocol._transport.write_eof()  # from then on, a write there raises
        transport.write(bytes(300_000))
        assert transport.get_write_buffer_size() == 0
        await protocol.until("connection_lost")
    assert len(errors) == 1
    errors.clear()


async def test_a_write_of_its_users_below_is_called_once(loop, tls):
    sizes = []
    async with connected(loop, tls, Recorder()) as (transport, _):
        transport._ssl_protocol._transport.write = lambda data: sizes.append(len(data))
        transport.write(bytes(300_000))
    assert len(sizes) == 1
    assert sizes[0] > 300_000


async def test_nothing_is_left_to_be_read_after_the_end(loop, tls):
    sizes = []
    protocol = BufferedRecorder(
        connection_lost=lambda self, _: sizes.append(self.transport.get_read_buffer_size())
    )
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.below.send(peer.close_notify())
        await protocol.until("connection_lost")
    assert sizes == [0]


async def test_a_protocol_may_hand_over_when_it_is_asked_for_a_buffer(loop, tls):
    updates, updates_of_successor = [], []
    protocol = BufferedRecorder(buffer_updated=lambda _, count: updates.append(count))
    successor = BufferedRecorder(buffer_updated=lambda _, count: updates_of_successor.append(count))
    async with connected(loop, tls, protocol) as (transport, peer):
        protocol.hooks["get_buffer"] = lambda _: transport.set_protocol(successor)
        await peer.send(bytes(300))
        await successor.until("buffer_updated")
        assert (updates, updates_of_successor) == ([], [300])
        transport.set_protocol(protocol)
        del protocol.hooks["get_buffer"]


async def test_many_small_messages(loop, tls):
    async with serving(loop, tls) as (name, _):
        transport, protocol = await connect_tls(loop, tls, name)
        for number in range(200):
            transport.write(b"%03d" % number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await protocol.until_received(600)
        assert protocol.data == b"".join(b"%03d" % number for number in range(200))
        await close(protocol)


async def test_extra_info(loop, tls):
    async with serving(loop, tls) as (name, protocols):
        transport, protocol = await connect_tls(loop, tls, name)
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("peername") == name
        assert transport.get_extra_info("cipher")[1].startswith("TLS")
        assert transport.get_extra_info("sslcontext") is tls.client
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert transport.get_extra_info("peercert")["subjectAltName"]
        assert transport.get_extra_info("socket").getpeername() == name
        transport.write(b"x")
        await protocol.until_received(1)
        accepted = protocols[0].transport
        assert accepted.get_extra_info("peername") == transport.get_extra_info("sockname")
        assert accepted.get_extra_info("socket").getsockname() == name
        await close(protocol)


async def test_either_end_may_close(loop, tls):
    async with serving(loop, tls) as (name, protocols):
        for ours in (True, False):
            transport, protocol = await connect_tls(loop, tls, name)
            transport.write(b"x")
            await protocol.until_received(1)
            (protocol if ours else protocols[-1]).transport.close()
            await protocol.until("connection_lost")
            await protocols[-1].until("connection_lost")
            assert protocol.losses == [None] and protocols[-1].losses == [None]


async def test_what_is_written_before_close_arrives(loop, tls):
    async with serving(loop, tls, Recorder) as (name, protocols):
        transport, protocol = await connect_tls(loop, tls, name)
        transport.write(b"x" * 3_000_000)
        transport.close()
        await protocol.until("connection_lost")
        await protocols[0].until("connection_lost")
        assert len(protocols[0].data) == 3_000_000


async def test_abort_delivers_nothing_more(loop, tls):
    async with serving(loop, tls) as (name, _protocols):
        transport, protocol = await connect_tls(loop, tls, name)
        transport.write(b"x" * 100_000)
        transport.abort()
        await protocol.until("connection_lost")
        seen = len(protocol.data)
        await asyncio.sleep(0.002)
        assert len(protocol.data) == seen == 0
        assert protocol.losses == [None]


async def test_pause_and_resume_reading(loop, tls):
    async with serving(loop, tls) as (name, _):
        transport, protocol = await connect_tls(loop, tls, name)
        transport.pause_reading()
        transport.write(b"x" * 100)
        await asyncio.sleep(0.005)
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.until_received(100)
        await close(protocol)


async def test_a_server_that_reads_nothing_yet_ends_the_handshake(zloop_loop, tls):
    """asyncio sends the end of a handshake of TLS 1.2 when reading goes on."""
    loop = zloop_loop
    tls.client.maximum_version = ssl.TLSVersion.TLSv1_2

    def factory():
        return Echo(connection_made=lambda self: self.transport.pause_reading())

    async with serving(loop, tls, factory) as (name, accepted):
        transport, protocol = await connect_tls(loop, tls, name)
        transport.write(b"hello")
        await accepted[0].until("connection_made")
        assert accepted[0].data == b""
        accepted[0].transport.resume_reading()
        await protocol.until_received(5)
        await close(protocol)


async def test_an_untrusted_certificate_is_refused(loop, tls, errors):
    async with serving(loop, tls) as (name, _protocols):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.wait_for(
                loop.create_connection(
                    Recorder, *name, ssl=ssl.create_default_context(), server_hostname="localhost"
                ),
                PATIENCE,
            )
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect_tls(loop, tls, name, server_hostname="elsewhere")
        await asyncio.sleep(0.005)
    errors.clear()  # whether a server tells of it depends on the version


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\xff" * 5000]
)
async def test_garbage_instead_of_a_handshake_ends_its_connection(loop, tls, errors, garbage):
    async with serving(loop, tls) as (name, _):
        with socket.create_connection(name) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, garbage)
            with contextlib.suppress(ConnectionResetError):
                while await asyncio.wait_for(loop.sock_recv(sock, 1000), PATIENCE):
                    pass
        transport, protocol = await connect_tls(loop, tls, name)
        transport.write(b"fine")
        await protocol.until_received(4)
        await close(protocol)
    errors.clear()


@pytest.mark.without_debug
async def test_a_reset_in_the_handshake_is_no_news(loop, tls):
    """It does not call the exception handler, and harms no other."""
    async with serving(loop, tls) as (name, _):
        for hello in (b"", b"\x16\x03\x01"):
            sock = socket.create_connection(name)
            sock.sendall(hello)
            await asyncio.sleep(0.005)
            reset(sock)
            await asyncio.sleep(0.005)
        transport, protocol = await connect_tls(loop, tls, name)
        transport.write(b"fine")
        await protocol.until_received(4)
        await close(protocol)


async def test_a_silent_peer_runs_into_the_handshake_timeout(loop, tls, errors):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer than"):
            await connect_tls(loop, tls, listener.getsockname(), ssl_handshake_timeout=0.05)
        listener.accept()[0].close()
    async with serving(loop, tls, ssl_handshake_timeout=0.05) as (name, _):
        with socket.create_connection(name) as sock:
            sock.setblocking(False)
            assert await asyncio.wait_for(loop.sock_recv(sock, 10), PATIENCE) == b""
        await asyncio.sleep(0.001)
    errors.clear()


async def test_a_peer_that_does_not_answer_the_close_runs_into_the_shutdown_timeout(
    loop, tls, errors
):
    ours, theirs = tcp_pair()
    theirs.setblocking(False)
    protocol = Recorder()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = tls.server.wrap_bio(incoming, outgoing, server_side=True)
    connecting = asyncio.ensure_future(
        loop.create_connection(
            lambda: protocol,
            sock=ours,
            ssl=tls.client,
            server_hostname="localhost",
            ssl_shutdown_timeout=0.05,
        )
    )
    with theirs:
        while not connecting.done():
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.do_handshake()
            if outgoing.pending:
                await loop.sock_sendall(theirs, outgoing.read())
            reading = asyncio.ensure_future(loop.sock_recv(theirs, 65536))
            await asyncio.wait([reading, connecting], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                incoming.write(reading.result())
            else:
                reading.cancel()
        transport, _ = await connecting
        transport.close()
        await protocol.until("connection_lost")
    errors.clear()


async def test_start_tls_in_both_directions(loop, tls):
    ours, theirs = tcp_pair()
    one, other = Recorder(), Recorder()
    first, _ = await loop.create_connection(lambda: one, sock=ours)
    second, _ = await loop.connect_accepted_socket(lambda: other, theirs)
    client, server = await asyncio.wait_for(
        asyncio.gather(
            loop.start_tls(first, one, tls.client, server_hostname="localhost"),
            loop.start_tls(second, other, tls.server, server_side=True),
        ),
        PATIENCE,
    )
    client.write(b"question")
    await other.until_received(8)
    server.write(b"answer")
    await one.until_received(6)
    assert (bytes(one.data), bytes(other.data)) == (b"answer", b"question")
    client.close()
    await one.until("connection_lost")
    await other.until("connection_lost")


async def test_tls_1_2_too(loop, tls):
    async with serving(loop, tls) as (name, _):
        tls.client.maximum_version = ssl.TLSVersion.TLSv1_2
        transport, protocol = await connect_tls(loop, tls, name)
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.2"
        transport.write(b"old")
        await protocol.until_received(3)
        await close(protocol)


async def test_a_protocol_that_raises_ends_its_connection(loop, tls, errors):
    def fail(self, data):
        raise ZeroDivisionError

    async with serving(loop, tls) as (name, _):
        transport, protocol = await connect_tls(
            loop, tls, name, lambda: Recorder(data_received=fail)
        )
        transport.write(b"x")
        await protocol.until("connection_lost")
    assert any(isinstance(context["exception"], ZeroDivisionError) for context in errors)
    errors.clear()


async def test_fifty_connections(loop, tls):
    async with serving(loop, tls, backlog=100) as (name, _):

        async def talk(number):
            transport, protocol = await connect_tls(loop, tls, name)
            transport.write(b"%d" % number)
            await protocol.until_received(len(b"%d" % number))
            assert protocol.data == b"%d" % number
            await close(protocol)

        await asyncio.gather(*(talk(number) for number in range(50)))


async def test_streams_over_tls(loop, tls):
    done = asyncio.Event()

    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls.server) as server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=tls.client, server_hostname="localhost"
        )
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(done.wait(), PATIENCE)


async def test_debug_mode_tells_of_the_handshake(loop, tls, caplog):
    loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        async with serving(loop, tls) as (name, _):
            _, protocol = await connect_tls(loop, tls, name)
            await close(protocol)
    for words in ("starts SSL handshake", "SSL handshake took "):
        assert any(words in message for message in caplog.messages), words


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_a_timeout_has_to_be_positive(loop, tls, name):
    ours, theirs = tcp_pair()
    with (
        ours,
        theirs,
        pytest.raises(ValueError, match=f"^{name} should be a positive number, got 0$"),
    ):
        await loop.create_connection(
            Recorder, sock=ours, ssl=tls.client, server_hostname="localhost", **{name: 0}
        )


async def test_a_context_that_nobody_has_made_trusts_nobody_new(loop, tls, errors):
    async with serving(loop, tls) as (name, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(Recorder, *name, ssl=True, server_hostname="localhost")
        await asyncio.sleep(0.005)
    errors.clear()  # whether a server tells of it depends on the version, and on debug mode


async def test_start_tls_that_fails_ends_the_connection(loop, tls):
    ours, theirs = tcp_pair()
    transport, protocol = await loop.create_connection(Recorder, sock=ours)
    starting = loop.create_task(
        loop.start_tls(transport, protocol, tls.client, server_hostname="localhost")
    )
    await asyncio.sleep(0)
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with theirs, pytest.raises(ssl.SSLError):
        await asyncio.wait_for(starting, PATIENCE)
    assert transport.is_closing()
    await asyncio.sleep(0)


async def test_how_much_is_read_ahead_can_be_set(loop, tls):
    async with serving(loop, tls) as (name, _):
        transport, protocol = await connect_tls(loop, tls, name)
        transport.set_read_buffer_limits(high=1000, low=10)
        assert transport.get_read_buffer_limits() == (10, 1000)
        assert transport.get_read_buffer_size() == 0
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_read_buffer_limits(high=1, low=10)
        await close(protocol)


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_connection_that_nobody_closes_goes_with_its_loop(factory, tls):
    async def main(loop):
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=tls.server)
        transport, protocol = await connect_tls(loop, tls, server.sockets[0].getsockname())
        transport.write(b"x")
        await protocol.until_received(1)
        return [weakref.ref(each) for each in (loop, transport, protocol, server)]

    loop = FACTORIES[factory]()
    references = loop.run_until_complete(main(loop))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop.close()
        del loop
        gc.collect()
    assert [each() for each in references] == [None] * 4
    assert any("unclosed transport" in str(each.message) for each in told)
