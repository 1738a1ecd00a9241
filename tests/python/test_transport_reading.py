"""What a stream transport promises to a protocol about what the peer sends.

Each test runs on a connection that we made and on one that we accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import socket

import pytest
from helpers import BufferedRecorder, Recorder, tcp_pair, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def quiet(loop, peer):
    """Everything that the peer sent had its chance to arrive: a second connection's echo did."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        for _ in range(3):
            other.send(b"x")
            await loop.sock_recv(one, 1)
            await turns(20)


async def test_connection_made_comes_first_then_data_as_bytes(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    await peer.send(b"hello")
    await protocol.until_received(5)
    assert protocol.seen == ["connection_made", "data_received"]
    assert protocol.transport is transport
    assert bytes(protocol.data) == b"hello"
    transport.close()
    await protocol.until("connection_lost")


async def test_data_is_exactly_bytes(connect):
    kinds = []
    protocol = Recorder(data_received=lambda self, data: kinds.append(type(data)))
    transport, peer = await connect(protocol)
    await peer.send(b"x" * 10)
    await protocol.until_received(10)
    transport.close()
    await protocol.until("connection_lost")
    assert set(kinds) == {bytes}


async def test_data_kept_by_the_protocol_stays_as_it_was(connect):
    kept = []
    protocol = Recorder(data_received=lambda self, data: kept.append(data))
    transport, peer = await connect(protocol)
    for number in range(20):
        await peer.send(bytes([number]) * 1000)
        await protocol.until_received((number + 1) * 1000)
    assert b"".join(kept) == b"".join(bytes([number]) * 1000 for number in range(20))
    transport.close()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_a_big_message_arrives_whole_and_in_order(connect, kind):
    protocol = kind()
    transport, peer = await connect(protocol)
    message = bytes(range(256)) * 20_000  # 5 MB
    await asyncio.gather(peer.send(message), protocol.until_received(len(message)))
    assert protocol.data == message
    transport.close()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_a_peer_that_sends_byte_by_byte(connect, kind):
    protocol = kind()
    transport, peer = await connect(protocol)
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(200):
        await peer.send(bytes([number]))
        if number % 3 == 0:
            await turns()
    await protocol.until_received(200)
    assert protocol.data == bytes(range(200))
    transport.close()
    await protocol.until("connection_lost")


async def test_what_was_sent_before_we_were_connected_to_it_arrives(loop):
    ours, theirs = tcp_pair()
    theirs.sendall(b"early")
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    await protocol.until_received(5)
    transport.close()
    theirs.close()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_the_last_words_and_the_end_that_come_together(connect, kind):
    protocol = kind()
    _, peer = await connect(protocol)
    await peer.send(b"last words")
    peer.close()
    await protocol.until("connection_lost")
    assert protocol.data == b"last words"
    assert protocol.seen.count("eof_received") == 1
    assert protocol.losses == [None]


# Pause and resume.


async def test_a_program_can_read_the_flags_of_asyncios_transport(connect):
    transport, _peer = await connect(Recorder())
    assert transport._paused is False
    assert transport._closing is False
    transport.pause_reading()
    assert transport._paused is True
    transport.resume_reading()
    assert transport._paused is False
    transport.abort()
    assert transport._closing is True


async def test_paused_reading_delivers_nothing_until_resumed(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    assert not transport.is_reading()
    await peer.send(b"while paused")
    await quiet(loop, peer)
    assert protocol.data == b""
    transport.resume_reading()
    assert transport.is_reading()
    await protocol.until_received(12)
    assert protocol.data == b"while paused"
    transport.close()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_pause_in_a_delivery_holds_back_the_next(loop, connect, kind):
    name = "data_received" if kind is Recorder else "buffer_updated"
    protocol = kind(**{name: lambda self, _: self.transport.pause_reading()})
    transport, peer = await connect(protocol)
    await peer.send(b"one")
    await protocol.until_received(3)
    await peer.send(b"two")
    await quiet(loop, peer)
    assert protocol.data == b"one"
    transport.resume_reading()
    await protocol.until_received(6)
    assert protocol.data == b"onetwo"
    transport.close()
    await protocol.until("connection_lost")


@pytest.mark.skipif(
    "is_reading" not in vars(asyncio.selector_events._SelectorTransport),
    reason="asyncio before 3.11.4 forgets a pause in connection_made",
)
async def test_pause_in_connection_made_holds_back_the_first_delivery(loop, connect):
    protocol = Recorder(connection_made=lambda self: self.transport.pause_reading())
    transport, peer = await connect(protocol)
    assert not transport.is_reading()
    await peer.send(b"early")
    await quiet(loop, peer)
    assert protocol.data == b""
    transport.resume_reading()
    await protocol.until_received(5)
    transport.close()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_pause_and_resume_at_once_loses_nothing(loop, connect, kind):
    protocol = kind()
    transport, peer = await connect(protocol)
    for number in range(50):
        transport.pause_reading()
        await peer.send(bytes([number]))
        if number % 2:
            await turns(number % 5)
        transport.resume_reading()
        if number % 3:
            transport.pause_reading()
            transport.resume_reading()
    await protocol.until_received(50)
    assert protocol.data == bytes(range(50))
    transport.close()
    await protocol.until("connection_lost")


async def test_pause_and_resume_inside_a_delivery_go_on_reading(connect):
    def flicker(self, data):
        self.transport.pause_reading()
        self.transport.resume_reading()

    protocol = Recorder(data_received=flicker)
    transport, peer = await connect(protocol)
    for count in range(1, 6):
        await peer.send(b"x")
        await protocol.until_received(count)
    transport.close()
    await protocol.until("connection_lost")


async def test_pausing_and_resuming_twice_is_harmless(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.resume_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    await peer.send(b"x")
    await protocol.until_received(1)
    transport.close()
    assert not transport.is_reading()
    transport.pause_reading()
    transport.resume_reading()
    assert not transport.is_reading()
    await protocol.until("connection_lost")
    transport.pause_reading()
    transport.resume_reading()
    assert not transport.is_reading()


async def test_a_paused_transport_does_not_spin_nor_notice_the_end(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    await peer.send(b"unread")
    peer.half_close()
    await quiet(loop, peer)
    assert protocol.seen == ["connection_made"]
    transport.resume_reading()
    await protocol.until("connection_lost")
    assert (protocol.data, protocol.losses) == (b"unread", [None])


async def test_a_paused_transport_can_be_closed(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    await peer.send(b"unread")
    transport.close()
    await protocol.until("connection_lost")
    assert (protocol.data, protocol.losses) == (b"", [None])


async def test_backpressure_reaches_the_peer(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    sent = 0
    try:
        while sent < 64 << 20:
            sent += peer.sock.send(bytes(1 << 20))
    except BlockingIOError:
        pass
    assert 0 < sent < 64 << 20
    transport.resume_reading()
    await protocol.until_received(sent)
    transport.close()
    await protocol.until("connection_lost")


# The end of the stream.


async def test_the_peers_end_closes_by_default(connect):
    protocol = Recorder()
    _transport, peer = await connect(protocol)
    peer.half_close()
    await protocol.until("connection_lost")
    assert protocol.seen == ["connection_made", "eof_received", "connection_lost"]
    assert protocol.losses == [None]
    assert await peer.receive() == b""


async def test_eof_received_that_returns_true_keeps_the_other_direction(connect):
    protocol = Recorder(eof_received=lambda self: True)
    transport, peer = await connect(protocol)
    await peer.send(b"question")
    peer.half_close()
    await protocol.until("eof_received")
    await turns(5)
    assert not transport.is_closing()
    transport.write(b"answer")
    assert await peer.receive() == b"answer"
    transport.close()
    assert await peer.receive() == b""
    await protocol.until("connection_lost")
    assert protocol.seen.count("eof_received") == 1


async def test_a_half_closed_connection_can_pause_resume_and_write_a_lot(connect):
    protocol = Recorder(eof_received=lambda self: True)
    transport, peer = await connect(protocol)
    peer.half_close()
    await protocol.until("eof_received")
    transport.pause_reading()
    transport.resume_reading()
    message = bytes(range(256)) * 8000
    transport.write(message)
    assert await peer.receive_exactly(len(message)) == message
    transport.close()
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


async def test_both_ends_half_close(connect):
    protocol = Recorder(eof_received=lambda self: True)
    transport, peer = await connect(protocol)
    transport.write(b"ours")
    transport.write_eof()
    assert await peer.receive_until_end() == b"ours"
    await peer.send(b"theirs")
    peer.half_close()
    await protocol.until("eof_received")
    assert protocol.data == b"theirs"
    transport.close()
    await protocol.until("connection_lost")


# BufferedProtocol.


async def test_get_buffer_is_asked_for_any_size(connect):
    protocol = BufferedRecorder()
    transport, peer = await connect(protocol)
    await peer.send(b"hello")
    await protocol.until_received(5)
    assert set(protocol.hints) == {-1}
    transport.close()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_buffer_of_any_size_is_filled(connect, size):
    protocol = BufferedRecorder(size)
    transport, peer = await connect(protocol)
    message = bytes(range(250)) * 4
    await peer.send(message)
    await protocol.until_received(len(message))
    assert protocol.data == message
    transport.close()
    await protocol.until("connection_lost")


async def test_the_buffer_may_be_a_memoryview(connect):
    protocol = BufferedRecorder(100)
    protocol.hooks["get_buffer"] = lambda self: memoryview(self.buffer)
    transport, peer = await connect(protocol)
    await peer.send(b"hello")
    await protocol.until_received(5)
    assert protocol.data == b"hello"
    transport.close()
    await protocol.until("connection_lost")


async def test_the_buffer_is_free_again_once_it_was_updated(connect):
    def grow(self, count):
        self.buffer.extend(bytes(10))  # raises BufferError while somebody holds a view

    protocol = BufferedRecorder(10, buffer_updated=grow)
    transport, peer = await connect(protocol)
    for count in (1, 2, 3):
        await peer.send(b"x")
        await protocol.until_received(count)
    transport.close()
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


async def test_an_empty_buffer_ends_the_connection(connect, errors):
    protocol = BufferedRecorder(0)
    _, peer = await connect(protocol)
    await peer.send(b"hello")
    await protocol.until("connection_lost")
    (context,) = errors
    errors.clear()
    assert context["message"] == "Fatal error: protocol.get_buffer() call failed."
    assert isinstance(context["exception"], RuntimeError)
    assert str(context["exception"]) == "get_buffer() returned an empty buffer"
    assert protocol.losses == [context["exception"]]


async def test_closing_in_get_buffer(connect):
    protocol = BufferedRecorder(get_buffer=lambda self: self.transport.close())
    _, peer = await connect(protocol)
    await peer.send(b"hello")
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


async def test_aborting_in_get_buffer(connect):
    protocol = BufferedRecorder(get_buffer=lambda self: self.transport.abort())
    _, peer = await connect(protocol)
    await peer.send(b"hello")
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


# set_protocol.


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_a_new_protocol_gets_what_comes_from_then_on(connect, first, second):
    one, two = first(), second()
    transport, peer = await connect(one)
    await peer.send(b"one")
    await one.until_received(3)
    transport.set_protocol(two)
    assert transport.get_protocol() is two
    await peer.send(b"two")
    await two.until_received(3)
    peer.close()
    await two.until("connection_lost")
    assert (one.data, two.data) == (b"one", b"two")
    assert one.losses == []
    assert "connection_made" not in two.seen


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_a_protocol_can_be_replaced_in_a_delivery(connect, first, second):
    two = second()
    name = "data_received" if first is Recorder else "buffer_updated"
    one = first(**{name: lambda self, _: self.transport.set_protocol(two)})
    _, peer = await connect(one)
    await peer.send(b"one")
    await one.until_received(3)
    await peer.send(b"two")
    await two.until_received(3)
    peer.close()
    await two.until("connection_lost")
    assert (one.data, two.data, one.losses) == (b"one", b"two", [])


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_a_protocol_can_be_replaced_while_reading_is_paused(connect, first, second):
    one, two = first(), second()
    transport, peer = await connect(one)
    transport.pause_reading()
    transport.set_protocol(two)
    await peer.send(b"two")
    await turns(5)
    transport.resume_reading()
    await two.until_received(3)
    transport.close()
    await two.until("connection_lost")
    assert (one.data, two.data) == (b"", b"two")


async def test_a_protocol_can_be_replaced_in_connection_made(connect):
    two = BufferedRecorder()
    one = Recorder(connection_made=lambda self: self.transport.set_protocol(two))
    transport, peer = await connect(one)
    await peer.send(b"two")
    await two.until_received(3)
    transport.close()
    await two.until("connection_lost")
    assert (one.data, one.losses) == (b"", [])


async def test_a_protocol_can_be_replaced_between_close_and_connection_lost(connect):
    one, two = Recorder(), Recorder()
    transport, _ = await connect(one)
    transport.close()
    transport.set_protocol(two)
    await two.until("connection_lost")
    assert one.losses == []


# Closing.


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received"])
@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_the_connection_may_end_in_each_callback(connect, end, method, kind):
    if kind is BufferedRecorder and method == "data_received":
        method = "buffer_updated"
    protocol = kind(**{method: lambda self, *_: getattr(self.transport, end)()})
    _, peer = await connect(protocol)
    if method != "connection_made":
        await peer.send(b"x")
        if method == "eof_received":
            peer.half_close()
    await protocol.until("connection_lost")
    await turns(5)
    assert protocol.losses == [None]
    assert protocol.seen[-1] == "connection_lost"


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_nothing_is_delivered_after_the_end(connect, end, kind):
    protocol = kind()
    transport, peer = await connect(protocol)
    await peer.send(b"unread")
    await turns(0)
    getattr(transport, end)()
    seen = len(protocol.data)
    assert transport.is_closing()
    assert not transport.is_reading()
    await protocol.until("connection_lost")
    await turns(5)
    assert len(protocol.data) == seen
    assert protocol.losses == [None]


@pytest.mark.parametrize("ends", ["close close", "abort abort", "close abort", "abort close"])
async def test_connection_lost_comes_once_however_often_it_ends(connect, ends):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    for end in ends.split():
        getattr(transport, end)()
    peer.reset()
    await protocol.until("connection_lost")
    transport.close()
    transport.abort()
    await turns(5)
    assert protocol.losses == [None]


async def test_connection_lost_is_never_called_inside_close(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.close()
    assert protocol.losses == []
    await protocol.until("connection_lost")


async def test_after_the_end_the_transport_answers(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.close()
    await protocol.until("connection_lost")
    await turns()
    assert transport.is_closing() and not transport.is_reading()
    assert transport.get_write_buffer_size() == 0
    assert transport.get_protocol() is None
    assert "closed" in repr(transport)
    transport.close()
    transport.abort()
    transport.write_eof()
    assert await peer.receive() == b""


# Failing protocols.


@pytest.mark.parametrize(
    ("kind", "method", "call"),
    [
        (Recorder, "data_received", "data_received"),
        (Recorder, "eof_received", "eof_received"),
        (BufferedRecorder, "get_buffer", "get_buffer"),
        (BufferedRecorder, "buffer_updated", "buffer_updated"),
        (BufferedRecorder, "eof_received", "eof_received"),
    ],
)
async def test_a_protocol_that_raises_ends_its_connection(connect, errors, kind, method, call):
    def fail(self, *_):
        raise ZeroDivisionError("the protocol's own")

    protocol = kind(**{method: fail})
    transport, peer = await connect(protocol)
    if method == "eof_received":
        peer.half_close()
    else:
        await peer.send(b"x")
    await protocol.until("connection_lost")
    (context,) = errors
    errors.clear()
    assert set(context) == {"message", "exception", "transport", "protocol"}
    assert context["message"] == f"Fatal error: protocol.{call}() call failed."
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    assert protocol.losses == [context["exception"]]
    with contextlib.suppress(ConnectionResetError):  # what we left unread resets
        assert await peer.receive() == b""


async def test_connection_made_that_raises_is_reported_and_the_connection_stays(connect, errors):
    def fail(self):
        raise ZeroDivisionError

    protocol = Recorder(connection_made=fail)
    transport, peer = await connect(protocol)
    context = errors.pop()
    assert context["message"].startswith("Exception in callback ")
    assert isinstance(context["exception"], ZeroDivisionError)
    await peer.send(b"x")
    await protocol.until_received(1)
    transport.close()
    await protocol.until("connection_lost")


async def test_connection_lost_that_raises_is_reported_and_the_socket_closed(connect, errors):
    def fail(self, exc):
        raise ZeroDivisionError

    protocol = Recorder(connection_lost=fail)
    transport, peer = await connect(protocol)
    transport.close()
    await protocol.until("connection_lost")
    await turns()
    context = errors.pop()
    assert context["message"].startswith("Exception in callback ")
    assert "_call_connection_lost" in context["message"]
    assert isinstance(context["exception"], ZeroDivisionError)
    assert await peer.receive() == b""


async def test_an_os_error_of_a_protocol_ends_the_connection_silently(connect):
    def fail(self, data):
        raise ConnectionResetError("made up")

    protocol = Recorder(data_received=fail)
    _, peer = await connect(protocol)
    await peer.send(b"x")
    await protocol.until("connection_lost")
    assert isinstance(protocol.losses[0], ConnectionResetError)


FATAL = [SystemExit, KeyboardInterrupt]


@pytest.mark.parametrize("fatal", FATAL)
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (Recorder, "data_received"),
        (Recorder, "eof_received"),
        (Recorder, "connection_lost"),
        (BufferedRecorder, "get_buffer"),
        (BufferedRecorder, "buffer_updated"),
        (BufferedRecorder, "eof_received"),
    ],
)
def test_fatal_exceptions_of_a_protocol_leave_run_forever(loop, connect, fatal, kind, method):
    def fail(self, *_):
        del self.hooks[method]
        raise fatal("from the protocol")

    protocol = kind(**{method: fail})
    transport, peer = loop.run_until_complete(connect(protocol))
    peer.sock.send(b"x")
    peer.half_close()
    with pytest.raises(fatal, match="from the protocol"):
        loop.run_forever()
    assert not loop.is_running()
    assert not transport.is_closing() or method == "connection_lost"
    if method == "connection_lost":
        return
    loop.run_until_complete(protocol.until("connection_lost"))  # reads on
    assert protocol.losses == [None]
    assert method != "get_buffer" or protocol.data == b"x"


@pytest.mark.parametrize("fatal", FATAL)
def test_fatal_exceptions_of_connection_made_leave_run_forever(loop, fatal):
    def fail(self, *_):
        raise fatal("from the protocol")

    protocol = Recorder(connection_made=fail)
    ours, theirs = tcp_pair()
    with theirs:
        task = loop.create_task(loop.connect_accepted_socket(lambda: protocol, ours))
        with pytest.raises(fatal, match="from the protocol"):
            loop.run_forever()
        transport, _ = loop.run_until_complete(task)
        transport.close()
        loop.run_until_complete(protocol.until("connection_lost"))


# Contexts.


async def test_a_connection_keeps_its_context(loop, connect):
    seen = []

    def look(self, *_):
        seen.append(variable.get())

    variable.set("of the test")
    protocol = Recorder(connection_made=look, data_received=look, eof_received=look)
    protocol.hooks["connection_lost"] = look
    _, peer = await connect(protocol)
    variable.set("changed later")
    await peer.send(b"x")
    peer.half_close()
    await protocol.until("connection_lost")
    assert seen == ["of the test"] * 4


# Lifetime.


async def test_an_open_connection_needs_no_other_reference(connect):
    protocol = Recorder()
    _, peer = await connect(protocol)
    protocol.transport = None
    events = protocol.events
    received = protocol.data
    del protocol
    gc.collect()
    await peer.send(b"still here")
    await events.until(lambda: len(received) == 10)
    peer.close()
    await events.until(lambda: "connection_lost" in events.seen)
