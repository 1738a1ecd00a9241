"""TLS with a peer that we drive by hand, record by record: what it splits, delays, cuts and spoils."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl

import pytest
from helpers import PATIENCE, BufferedRecorder, Peer, Recorder, kernel_was_asked, tcp_pair, turns
from tls_helpers import TlsPeer, connected


async def test_a_message_may_come_byte_by_byte(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.send_in_pieces(peer.records(b"one", b"x" * 300), 1)
        await protocol.until_received(303)
        assert protocol.data == b"one" + b"x" * 300


@pytest.mark.parametrize("piece", [5, 1000, 16406, 70_000])
async def test_records_may_be_cut_anywhere(loop, tls, piece):
    message = os.urandom(200_000 if piece > 5 else 2000)
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.send_in_pieces(peer.records(message[:1], message[1:]), piece)
        await protocol.until_received(len(message))
        assert protocol.data == message


@pytest.mark.parametrize("high", [1, 4096])
async def test_a_record_may_be_longer_than_the_read_limit(loop, tls, high):
    message = os.urandom(40_000)
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        transport.set_read_buffer_limits(high)
        await peer.send_in_pieces(peer.records(message), 5000)
        await protocol.until_received(len(message))
        assert protocol.data == message
        assert transport.get_read_buffer_size() == 0


async def test_what_comes_together_is_delivered_together(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await kernel_was_asked()
        await peer.below.send(peer.records(b"one", b"two", b"three"))
        await protocol.until_received(11)
        assert protocol.data == b"onetwothree"
        assert protocol.seen.count("data_received") == 1


@pytest.mark.parametrize("size", [1, 7, 1000, 16384, 20_000, 300_000])
async def test_a_buffered_protocol_may_have_any_buffer(loop, tls, size):
    message = os.urandom(size * 50 if size < 1000 else 50_000)
    protocol = BufferedRecorder(size, get_buffer=lambda self: memoryview(self.buffer))
    async with connected(loop, tls, protocol) as (transport, peer):
        await peer.send(message)
        await protocol.until_received(len(message))
        assert protocol.data == message
        transport.write(b"thanks")
        assert await peer.receive() == b"thanks"
        await peer.send(b"more")
        await protocol.until_received(len(message) + 4)


async def test_a_buffered_protocol_may_become_a_plain_one_within_a_record(loop, tls):
    plain = Recorder()

    def change(self, nbytes):
        self.transport.set_protocol(plain)

    first = BufferedRecorder(
        3, get_buffer=lambda self: memoryview(self.buffer), buffer_updated=change
    )
    async with connected(loop, tls, first) as (transport, peer):
        await peer.send(b"abcdefgh")
        await plain.until_received(5)
        assert (first.data, plain.data) == (b"abc", b"defgh")
        transport.set_protocol(first)


async def test_what_comes_while_reading_is_paused_waits_and_is_bounded(loop, tls):
    message = os.urandom(8_000_000)
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        transport.pause_reading()
        sending = asyncio.ensure_future(peer.send(message))
        for _ in range(50):
            await kernel_was_asked()
        assert not protocol.data and not sending.done()
        assert 256 * 1024 <= transport.get_read_buffer_size() < 1024 * 1024
        transport.resume_reading()
        await protocol.until_received(len(message))
        await sending
        assert protocol.data == message


async def test_reading_may_be_paused_in_each_callback(loop, tls):
    def pause(self, data):
        self.transport.pause_reading()
        loop.call_soon(self.transport.resume_reading)

    message = os.urandom(500_000)
    protocol = Recorder(data_received=pause)
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.send(message)
        await protocol.until_received(len(message))
        assert protocol.data == message


async def test_writing_is_paused_while_the_peer_takes_nothing(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        transport.set_write_buffer_limits(high=100_000, low=10_000)
        assert transport.get_write_buffer_limits() == (10_000, 100_000)
        written = 0
        while "pause_writing" not in protocol.seen:
            transport.write(b"x" * 50_000)
            written += 50_000
            await turns(1)
        assert transport.get_write_buffer_size() >= 100_000
        assert await peer.receive_exactly(written) == b"x" * written
        await protocol.until("resume_writing")
        await turns(3)
        assert transport.get_write_buffer_size() <= 10_000


async def test_bytes_and_the_end_may_come_together(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        await peer.below.send(peer.records(b"last words") + peer.close_notify())
        await protocol.until("connection_lost")
        assert protocol.seen == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert protocol.data == b"last words"
        assert protocol.losses == [None]
        assert transport.is_closing()


async def test_a_stream_that_ends_within_a_record_delivers_none_of_it(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.below.send(peer.records(b"whole") + peer.records(b"cut")[:-1])
        peer.below.half_close()
        await protocol.until("connection_lost")
        assert protocol.data == b"whole"
        assert protocol.losses == [None]


@pytest.mark.parametrize("at", [0, 1, 3, 7, -1])
async def test_a_record_that_was_changed_ends_the_connection(loop, tls, at):
    """And nothing of it is delivered; the exception handler is not called."""
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        record = bytearray(peer.records(b"secret"))
        record[at] ^= 0x40
        await peer.below.send(bytes(record) + bytes(20_000))
        await protocol.until("connection_lost")
        assert protocol.data == b""
        assert isinstance(protocol.losses[0], ssl.SSLError)


async def test_a_reset_is_told_as_such(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        peer.below.reset()
        await protocol.until("connection_lost")
        assert isinstance(protocol.losses[0], ConnectionResetError)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_callback_may_end_its_connection(loop, tls, end):
    protocol = Recorder(data_received=lambda self, data: getattr(self.transport, end)())
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.below.send(peer.records(b"one", b"two"))
        await protocol.until("data_received")
        if end == "close":
            await peer.below.send(peer.close_notify())
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
        seen = len(protocol.seen)
        await kernel_was_asked()
        assert len(protocol.seen) == seen


async def test_what_is_written_in_connection_made_comes_first(loop, tls):
    protocol = Recorder(connection_made=lambda self: self.transport.write(b"hello"))
    async with connected(loop, tls, protocol) as (transport, peer):
        transport.write(b" world")
        assert await peer.receive_exactly(11) == b"hello world"


async def test_write_takes_what_has_bytes_and_writelines_many(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        changing = bytearray(b"12")
        transport.write(changing)
        changing[:] = b"??"
        transport.write(memoryview(b"34"))
        transport.write(b"")
        transport.writelines([b"56", bytearray(b"78"), memoryview(b"9")])
        transport.writelines(iter([]))
        assert await peer.receive_exactly(9) == b"123456789"
        with pytest.raises(TypeError, match=r"^data: expecting a bytes-like instance, got str$"):
            transport.write("text")
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        assert not transport.can_write_eof()


@pytest.mark.parametrize("part", ["abc", [1, 2, 3]])
async def test_a_line_without_bytes_ends_the_connection(loop, tls, errors, part):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, _):
        transport.writelines([b"a", part])
        await protocol.until("connection_lost")
    (error,) = protocol.losses
    assert isinstance(error, TypeError)
    assert errors.pop()["message"] == "Fatal error on SSL protocol"


async def test_a_line_without_a_size_is_the_callers_error(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, _):
        with pytest.raises(TypeError, match="has no len"):
            transport.writelines([5])
        assert not transport.is_closing()


async def test_writes_to_a_closed_connection_are_dropped(loop, tls, caplog):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, _):
        transport.abort()
        for _ in range(7):
            transport.write(b"lost")
        await protocol.until("connection_lost")
        transport.write(b"lost")
    assert [record.message for record in caplog.records].count("SSL connection is closed") >= 2


async def test_names_outlive_the_connection(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, _):
        object_before = transport.get_extra_info("ssl_object")
        cipher = transport.get_extra_info("cipher")
        assert transport.get_extra_info("nothing", "default") == "default"
    assert transport.get_extra_info("sslcontext") is tls.client
    assert transport.get_extra_info("ssl_object") is object_before
    assert transport.get_extra_info("cipher") == cipher
    assert transport.get_extra_info("peername", "gone") == "gone"
    assert transport.get_protocol() is None


async def test_start_tls_while_writing_is_paused(zloop_loop, tls):
    """asyncio reports an AssertionError when writing goes on, and the protocol is not told."""
    loop = zloop_loop
    plain = b"x" * 6_000_000
    ours, theirs = tcp_pair()
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    raw = Peer(loop, theirs)
    transport.write(plain)
    assert "pause_writing" in protocol.seen
    starting = asyncio.ensure_future(
        loop.start_tls(transport, protocol, tls.client, server_hostname="localhost")
    )
    assert await raw.receive_exactly(len(plain)) == plain
    peer = TlsPeer(raw, tls.server, server_side=True)
    await peer.shake_hands()
    secure = await asyncio.wait_for(starting, PATIENCE)
    assert protocol.seen == ["connection_made", "pause_writing", "resume_writing"]
    secure.write(b"question")
    assert await peer.receive_exactly(8) == b"question"
    await peer.send(b"answer")
    await protocol.until_received(6)
    secure.abort()
    await protocol.until("connection_lost")
    raw.close()


async def test_tls_in_tls(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (outer, peer):
        inner_peer = TlsPeer(peer, tls.server, server_side=True)
        inner, _ = await asyncio.wait_for(
            asyncio.gather(
                loop.start_tls(outer, protocol, tls.client, server_hostname="localhost"),
                inner_peer.shake_hands(),
            ),
            PATIENCE,
        )
        message = os.urandom(300_000)
        inner.write(message)
        assert await inner_peer.receive_exactly(len(message)) == message
        await inner_peer.send(message)
        await protocol.until_received(len(message))
        assert protocol.data == message
        assert inner.get_extra_info("peername") == outer.get_extra_info("peername")
        inner.close()
        await peer.send(inner_peer.close_notify())
        await peer.below.send(peer.close_notify())
        await protocol.until("connection_lost")
        assert protocol.losses == [None]


async def test_a_subclass_of_ssl_object_is_used(loop, tls):
    class Counting(ssl.SSLObject):
        reads = 0

        def read(self, *args):
            type(self).reads += 1
            return super().read(*args)

    tls.client.sslobject_class = Counting
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        assert isinstance(transport.get_extra_info("ssl_object"), Counting)
        await peer.send(b"hello")
        await protocol.until_received(5)
        assert Counting.reads > 0


async def test_a_context_may_have_a_wrap_bio_of_its_own(loop, tls, monkeypatch):
    asked = []

    class Spy:
        def __init__(self, spied):
            self.spied = spied

        def __getattr__(self, name):
            asked.append(name)
            return getattr(self.spied, name)

    stock = tls.client.wrap_bio
    monkeypatch.setattr(tls.client, "wrap_bio", lambda *args, **kw: Spy(stock(*args, **kw)))
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.send(b"read")
        await protocol.until_received(4)
    assert {"do_handshake", "read"} <= set(asked)


async def test_a_replaced_method_of_ssl_is_called(loop, tls, monkeypatch):
    reads = []
    stock = ssl.SSLObject.read
    monkeypatch.setattr(
        ssl.SSLObject, "read", lambda self, *args: reads.append(args) or stock(self, *args)
    )
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.send(b"read")
        await protocol.until_received(4)
    assert reads


async def test_a_replaced_write_of_the_transport_below_is_called(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        below, written = transport._ssl_protocol._transport, []
        stock = below.write
        below.write = lambda data: written.append(bytes(data)) or stock(data)
        transport.write(b"seen")
        assert len(written) == 1 and b"seen" not in written[0]
        assert await peer.receive() == b"seen"
        del below.write
        transport.write(b"unseen")
        assert len(written) == 1
        assert await peer.receive() == b"unseen"


async def test_what_has_ended_does_not_begin_again(zloop_loop, tls):
    protocol = Recorder()
    async with connected(zloop_loop, tls, protocol) as (transport, _):
        transport.abort()
        await protocol.until("connection_lost")
        transport.close()  # once more: it forgets its session
        transport.connection_made(asyncio.Transport())
        assert transport.get_extra_info("peername") is None
    assert protocol.seen.count("connection_made") == 1


def test_keyboard_interrupt_leaves_at_once(loop, tls):
    def interrupt(self, data):
        raise KeyboardInterrupt

    async def talk():
        protocol = Recorder(data_received=interrupt)
        async with connected(loop, tls, protocol) as (_, peer):
            await peer.send(b"x")
            await loop.create_future()

    task = loop.create_task(talk())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)


async def test_what_was_written_before_abort_arrives(loop, tls):
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (transport, peer):
        transport.write(b"last words")
        transport.abort()
        assert await peer.receive_exactly(10) == b"last words"
        await protocol.until("connection_lost")


@pytest.mark.parametrize(
    "header",
    [b"\x16\x03\x03\x40\x01", b"\x17\x03\x01\x00\x10", b"\x17\x03\x03\x41\x18"],
    ids=["of a handshake", "of TLS 1.0", "longer than TLS 1.3 allows"],
)
@pytest.mark.parametrize("before", [b"", b"one"])
async def test_a_record_is_refused_by_its_header(loop, tls, header, before):
    """The rest of it need not come. What came before, and was not read yet, is lost, as in asyncio."""
    protocol = Recorder()
    async with connected(loop, tls, protocol) as (_, peer):
        await peer.below.send((peer.records(before) if before else b"") + header)
        await protocol.until("connection_lost")
        assert isinstance(protocol.losses[0], ssl.SSLError)
        assert protocol.data == b""


async def test_start_tls_behind_the_end_of_the_stream_fails_at_once(loop, tls):
    ours, theirs = tcp_pair()
    protocol = Recorder(eof_received=lambda self: True)
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    theirs.shutdown(socket.SHUT_WR)
    await protocol.until("eof_received")
    with theirs, pytest.raises(ConnectionResetError):
        await asyncio.wait_for(
            loop.start_tls(transport, protocol, tls.client, server_hostname="localhost"), PATIENCE
        )
    await protocol.until("connection_lost")
