"""What a stream transport promises about what is written to it.

Each test runs on a connection that we made and on one that we accepted.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import time
from unittest import mock

import pytest
from helpers import (
    BACKEND,
    PATIENCE,
    Recorder,
    data_segments_sent,
    environment,
    receive_all,
    tcp_pair,
    turns,
)

import zloop

HIGH = 64 * 1024  # asyncio's high-water mark


async def close(protocol):
    protocol.transport.abort()
    await protocol.until("connection_lost")


def fill_the_kernel(transport, beyond=0):
    """Write until a backlog of more than `beyond` bytes stays with us; returns what was written."""
    chunk = bytes(range(256)) * 1024
    written = bytearray()
    while transport.get_write_buffer_size() <= beyond:
        transport.write(chunk)
        written += chunk
    return written


# What is sent.


async def test_writes_arrive_in_order(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    parts = [bytes([number]) * (number % 50) for number in range(250)]
    for part in parts:
        transport.write(part)
    transport.writelines(parts)
    transport.writelines(iter(parts))
    transport.writelines([])
    whole = b"".join(parts) * 3
    assert await peer.receive_exactly(len(whole)) == whole
    await close(protocol)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_write_takes_every_bytes_like_object(connect, kind):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(kind(b"hello "))
    transport.write(kind(b""))
    transport.writelines([kind(b"wor"), kind(b"ld")])
    assert await peer.receive_exactly(11) == b"hello world"
    await close(protocol)


async def test_a_slice_of_a_memoryview_and_wide_items(connect):
    import array

    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(memoryview(b"0123456789")[3:6])
    numbers = array.array("I", [1, 2, 3])
    transport.write(memoryview(numbers))
    expected = b"345" + numbers.tobytes()
    assert await peer.receive_exactly(len(expected)) == expected
    await close(protocol)


async def test_a_subclass_of_bytes_is_sent(connect):
    class Named(bytes):
        pass

    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(Named(b"hello"))
    assert await peer.receive_exactly(5) == b"hello"
    await close(protocol)


@pytest.mark.parametrize("write", ["write", "writelines"])
async def test_a_subclass_of_bytes_in_a_backlog_is_the_bytes_it_was(connect, write):
    class Odd(bytes):
        def __bytes__(self):
            return b"other"

        def __getitem__(self, key):
            return b"other"

        def __del__(self):
            gone.append(1)

    gone = []
    protocol = Recorder()
    transport, peer = await connect(protocol)
    before = bytes(fill_the_kernel(transport))
    for _ in range(100):
        transport.write(Odd(b"one")) if write == "write" else transport.writelines([Odd(b"one")])
    assert await peer.receive_exactly(len(before) + 300) == before + b"one" * 100
    await close(protocol)
    gc.collect()
    assert len(gone) == 100


@pytest.mark.parametrize("backlog", [False, True])
async def test_what_is_changed_after_write_does_not_change_what_is_sent(loop, connect, backlog):
    if backlog and sys.version_info >= (3, 12) and not isinstance(loop, zloop.Loop):
        pytest.skip("from 3.12 on asyncio keeps a view of what it has not sent")
    protocol = Recorder()
    transport, peer = await connect(protocol)
    before = fill_the_kernel(transport) if backlog else b""
    data = bytearray(b"before")
    transport.write(data)
    data[:] = b"after!"
    view = bytearray(b"BEFORE")
    transport.write(memoryview(view))
    view[:] = b"AFTER!"
    parts = [bytearray(b"one"), bytearray(b"two")]
    transport.writelines(parts)
    parts[0][:] = b"ONE"
    data.clear()  # and nobody holds a view of it
    assert await peer.receive_exactly(len(before) + 18) == before + b"beforeBEFOREonetwo"
    await close(protocol)


async def test_50_megabytes_arrive_in_order(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    chunk = bytes(range(256)) * 4096
    message = b"".join(bytes([number]) + chunk[1:] for number in range(50))
    transport.write(message)
    transport.write(b"the end")
    received = await peer.receive_exactly(len(message) + 7)
    assert received == message + b"the end"
    await close(protocol)


async def test_many_parts_of_a_backlog_arrive_in_order(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    before = fill_the_kernel(transport)
    parts = [str(number).encode() for number in range(5000)]
    for part in parts:
        transport.write(part)
    whole = bytes(before) + b"".join(parts)
    assert await peer.receive_exactly(len(whole)) == whole
    assert transport.get_write_buffer_size() == 0
    transport.write(b"more")
    assert await peer.receive_exactly(4) == b"more"
    await close(protocol)


async def test_both_directions_at_once(connect):
    protocol = Recorder(data_received=lambda self, data: self.transport.write(data))
    _transport, peer = await connect(protocol)
    message = bytes(range(256)) * 16384
    received, _ = await asyncio.gather(peer.receive_exactly(len(message)), peer.send(message))
    assert received == message
    await close(protocol)


# When it is sent.


async def test_a_write_reaches_the_kernel_before_the_next_callback(loop, connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    seen = loop.create_future()

    def look():
        peer.sock.settimeout(PATIENCE)
        try:
            seen.set_result(peer.sock.recv(100))  # blocks the loop: nothing else can send it
        except OSError as exc:
            seen.set_exception(exc)
        peer.sock.setblocking(False)

    loop.call_soon(transport.write, b"at once")
    loop.call_soon(look)
    assert await seen == b"at once"
    await close(protocol)


async def test_a_write_of_data_received_reaches_the_kernel_before_the_next_callback(loop, connect):
    seen = loop.create_future()

    def answer(self, data):
        self.transport.write(b"one")
        self.transport.write(b"two")
        loop.call_soon(look)

    def look():
        peer.sock.settimeout(PATIENCE)
        seen.set_result(peer.sock.recv(6, socket.MSG_WAITALL))
        peer.sock.setblocking(False)

    protocol = Recorder(data_received=answer)
    _, peer = await connect(protocol)
    await peer.send(b"x")
    assert await seen == b"onetwo"
    await close(protocol)


async def test_the_order_between_transports_is_kept(loop, connect):
    """The bytes of one leave before those of the next, when callbacks write in turns."""
    one, two = Recorder(), Recorder()
    first, peer = await connect(one)
    second, other = await connect(two)
    for number in range(20):
        first.write(b"a%d " % number)
        second.write(b"b%d " % number)
    for name, end in ((b"a", peer), (b"b", other)):
        expected = b"".join(b"%s%d " % (name, number) for number in range(20))
        assert await end.receive_exactly(len(expected)) == expected
    await close(one)
    await close(two)


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)
async def test_writes_of_different_callbacks_leave_apart(loop, connect):
    protocol = Recorder()
    transport, _peer = await connect(protocol)
    before = data_segments_sent(sock := transport.get_extra_info("socket"))
    loop.call_soon(transport.write, b"one")
    loop.call_soon(transport.write, b"two")
    await turns(2)
    assert data_segments_sent(sock) - before == 2
    await close(protocol)


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)
async def test_writing_and_closing_in_one_callback_sends_what_was_written(loop, connect):
    def answer(self, data):
        self.transport.write(b"head")
        self.transport.write(b"body")
        self.transport.close()

    protocol = Recorder(data_received=answer)
    _, peer = await connect(protocol)
    await peer.send(b"x")
    assert await peer.receive_until_end() == b"headbody"
    await protocol.until("connection_lost")


async def test_abort_right_after_a_write(connect):
    """What stands in no backlog is sent already, on asyncio's loop too."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.write(b"sent")
    transport.abort()
    assert await peer.receive_until_end() == b"sent"
    await protocol.until("connection_lost")


async def test_the_socket_can_be_looked_at_between_writes(loop, connect):
    """Who asks for the socket, or the buffer's size, finds nothing held back."""
    protocol = Recorder()
    transport, peer = await connect(protocol)
    seen = []

    def write():
        transport.write(b"12345")
        assert transport.get_write_buffer_size() == 0
        peer.sock.settimeout(PATIENCE)
        seen.append(peer.sock.recv(100))
        for data in (b"67890", b"once more"):
            transport.write(data)
            transport.get_extra_info("socket")
            seen.append(peer.sock.recv(100))
        peer.sock.setblocking(False)

    loop.call_soon(write)
    await turns(2)
    assert seen == [b"12345", b"67890", b"once more"]
    await close(protocol)


async def test_writes_before_an_exception_are_sent(loop, connect, errors):
    protocol = Recorder()
    transport, peer = await connect(protocol)

    def write():
        transport.write(b"written")
        raise ZeroDivisionError

    loop.call_soon(write)
    assert await peer.receive_exactly(7) == b"written"
    assert isinstance(errors.pop()["exception"], ZeroDivisionError)
    await close(protocol)


@pytest.mark.parametrize("debug", [False, True])
def test_writes_before_a_fatal_exception_are_sent(loop, connect, debug):
    protocol = Recorder()
    transport, peer = loop.run_until_complete(connect(protocol))
    loop.set_debug(debug)

    def write():
        transport.write(b"written")
        raise SystemExit("out")

    loop.call_soon(write)
    with pytest.raises(SystemExit, match="out"):
        loop.run_forever()
    assert peer.sock.recv(100) == b"written"
    loop.run_until_complete(close(protocol))


@pytest.mark.parametrize("debug", [False, True])
def test_a_failed_write_before_a_fatal_exception_does_not_hide_it(loop, connect, debug):
    protocol = Recorder()
    transport, peer = loop.run_until_complete(connect(protocol))
    transport.pause_reading()
    peer.reset()
    loop.set_debug(debug)

    def write():
        transport.write(b"fails")
        transport.write(b"too")
        raise SystemExit("out")

    loop.call_soon(write)
    with pytest.raises(SystemExit, match="out"):
        loop.run_forever()
    loop.run_until_complete(protocol.until("connection_lost"))
    assert isinstance(protocol.losses[0], ConnectionError)


async def test_transport_write_can_be_patched(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.write = mock.Mock()
    transport.write(b"to the mock")
    transport.write.assert_called_once_with(b"to the mock")
    del transport.write
    await close(protocol)


# Flow control.


async def test_the_limits_are_asyncios(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    for arguments, expected in [
        ({"high": 1000}, (250, 1000)),
        ({"low": 1000}, (1000, 4000)),
        ({"high": 7, "low": 3}, (3, 7)),
        ({"high": 0}, (0, 0)),
        ({}, (16 * 1024, 64 * 1024)),
    ]:
        transport.set_write_buffer_limits(**arguments)
        assert transport.get_write_buffer_limits() == expected
    transport.set_write_buffer_limits(20, 10)
    assert transport.get_write_buffer_limits() == (10, 20)
    await close(protocol)


async def test_a_full_buffer_pauses_writing_and_a_drained_one_resumes(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    written = fill_the_kernel(transport, beyond=HIGH)
    assert "pause_writing" in protocol.seen  # before write() returned
    assert await peer.receive_exactly(len(written)) == written
    await protocol.until("resume_writing")
    assert transport.get_write_buffer_size() <= 16 * 1024
    assert protocol.seen == ["connection_made", "pause_writing", "resume_writing"]
    await close(protocol)


async def test_pause_writing_comes_when_the_high_water_is_passed_not_reached(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.set_write_buffer_limits(high=1 << 30)
    written = len(fill_the_kernel(transport))
    left = transport.get_write_buffer_size()
    transport.set_write_buffer_limits(high=left + 10, low=0)
    transport.write(b"0123456789")
    assert transport.get_write_buffer_size() == left + 10
    assert "pause_writing" not in protocol.seen
    transport.write(b"x")
    assert protocol.seen[-1] == "pause_writing"
    await peer.receive_exactly(written + 11)
    await protocol.until("resume_writing")
    assert transport.get_write_buffer_size() == 0
    await close(protocol)


async def test_lowering_the_limit_pauses_at_once(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.set_write_buffer_limits(high=1 << 30)
    fill_the_kernel(transport)
    assert "pause_writing" not in protocol.seen
    transport.set_write_buffer_limits(high=10)
    assert protocol.seen[-1] == "pause_writing"
    await close(protocol)


async def test_a_high_water_of_zero_pauses_on_every_backlog(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.set_write_buffer_limits(high=0)
    transport.write(b"goes out at once")
    assert "pause_writing" not in protocol.seen
    written = len(fill_the_kernel(transport))
    assert protocol.seen[-1] == "pause_writing"
    await peer.receive_exactly(16 + written)
    await protocol.until("resume_writing")
    await close(protocol)


async def test_resume_writing_may_write_again(connect):
    rounds = []

    def more(self):
        if len(rounds) < 5:
            rounds.append(len(fill_the_kernel(self.transport, beyond=HIGH)))

    protocol = Recorder(resume_writing=more)
    transport, peer = await connect(protocol)
    total = len(fill_the_kernel(transport, beyond=HIGH))
    received = 0
    while received < total + sum(rounds) or len(rounds) < 5:
        received += len(await peer.receive(1 << 20))
    assert len(rounds) == 5
    await close(protocol)


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_flow_control_that_raises_is_reported_and_the_connection_stays(
    connect, errors, method
):
    def fail(self):
        raise ZeroDivisionError

    protocol = Recorder(**{method: fail})
    transport, peer = await connect(protocol)
    written = fill_the_kernel(transport, beyond=HIGH)
    assert await peer.receive_exactly(len(written)) == written
    await protocol.until("resume_writing")
    (context,) = errors
    errors.clear()
    assert context["message"] == f"protocol.{method}() failed"
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    transport.write(b"still here")
    assert await peer.receive_exactly(10) == b"still here"
    await close(protocol)


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_the_connection_may_end_in_flow_control(loop, connect, method, end):
    if method == "resume_writing" and not isinstance(loop, zloop.Loop):
        pytest.skip("asyncio calls connection_lost twice when resume_writing ends the connection")
    protocol = Recorder(**{method: lambda self: getattr(self.transport, end)()})
    transport, peer = await connect(protocol)
    transport.write(b"x" * 20_000_000)
    received = await peer.receive_until_end()
    await protocol.until("connection_lost")
    assert protocol.losses == [None]
    assert len(received) == 20_000_000 or end == "abort"


# Ends.


@pytest.mark.parametrize("backlog", [False, True])
async def test_write_eof_ends_our_direction_after_what_was_written(connect, backlog):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    assert transport.can_write_eof() is True
    before = bytes(fill_the_kernel(transport)) if backlog else b""
    transport.write(b"last")
    transport.write_eof()
    transport.write_eof()
    assert await peer.receive_until_end() == before + b"last"
    await peer.send(b"still reading")
    await protocol.until_received(13)
    assert not transport.is_closing()
    await close(protocol)


@pytest.mark.parametrize("first", [False, True], ids=["amid the backlog", "before it"])
async def test_a_backlog_waits_for_a_peer_that_has_sent_its_end(loop, connect, first):
    """It hears of the end each time that io_uring looks whether it can write."""
    protocol = Recorder(eof_received=lambda self: True)
    transport, peer = await connect(protocol)
    if first:
        peer.half_close()
        await protocol.until("eof_received")
    written = fill_the_kernel(transport)
    parts = [bytes([number]) * 50_000 for number in range(100)]
    for part in parts:
        transport.write(part)
    await turns(5)
    if not first:
        peer.half_close()
        await protocol.until("eof_received")
    before = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - before < 0.1, "it spins"
    assert protocol.losses == []
    received = await peer.receive_exactly(1 << 20)  # a little room, and none again
    await asyncio.sleep(0.05)
    transport.close()
    received += await peer.receive_until_end()
    assert received == bytes(written) + b"".join(parts)
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


async def test_write_after_write_eof_raises(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.write_eof()
    with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
        transport.write(b"x")
    with pytest.raises(RuntimeError, match=r"after write_eof\(\)$"):
        transport.writelines([b"x"])
    await close(protocol)


async def test_write_eof_after_close_does_nothing(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.close()
    transport.write_eof()
    await protocol.until("connection_lost")


@pytest.mark.parametrize("paused", [False, True])
async def test_close_sends_the_backlog_first(connect, paused):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    if paused:
        transport.pause_reading()
    written = bytes(fill_the_kernel(transport))
    transport.close()
    assert transport.is_closing()
    await turns(3)
    assert protocol.losses == []
    assert await peer.receive_until_end() == written
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


async def test_what_is_written_while_a_closing_backlog_leaves_is_sent(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    written = bytes(fill_the_kernel(transport))
    transport.close()
    transport.write(b"after close")
    assert await peer.receive_until_end() == written + b"after close"
    await protocol.until("connection_lost")


async def test_abort_drops_the_backlog(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    written = fill_the_kernel(transport)
    transport.abort()
    assert transport.get_write_buffer_size() == 0
    await protocol.until("connection_lost")
    assert protocol.losses == [None]
    received = await peer.receive_until_end()
    assert len(received) < len(written)
    assert written.startswith(received)


async def test_abort_after_close_drops_the_backlog(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    written = fill_the_kernel(transport)
    transport.close()
    transport.abort()
    await protocol.until("connection_lost")
    assert protocol.losses == [None]
    assert len(await peer.receive_until_end()) < len(written)


async def test_writing_to_a_closed_transport_warns_after_five_and_never_raises(connect, caplog):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    transport.close()
    for _ in range(4):
        transport.write(b"lost")
    assert caplog.messages == []
    for _ in range(3):
        transport.write(b"lost")
    await protocol.until("connection_lost")
    transport.write(b"lost")
    assert set(caplog.messages) == {"socket.send() raised exception."}
    assert 3 <= len(caplog.messages) <= 4


async def test_a_failed_write_is_told_by_connection_lost(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    transport.pause_reading()
    peer.reset()
    for _ in range(3):
        transport.write(b"x")
        await turns()
    await protocol.until("connection_lost")
    (loss,) = protocol.losses
    assert isinstance(loss, (ConnectionResetError, BrokenPipeError))
    assert transport.is_closing()


async def test_a_peer_that_resets_while_a_backlog_waits(connect):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    fill_the_kernel(transport)
    peer.reset()
    await protocol.until("connection_lost")
    assert len(protocol.losses) == 1
    assert isinstance(protocol.losses[0], (ConnectionResetError, BrokenPipeError))


# Bad input.


@pytest.mark.parametrize("data", ["text", 5, None, [1], object])
async def test_write_refuses_what_is_no_bytes(connect, data):
    protocol = Recorder()
    transport, peer = await connect(protocol)
    name = type(data).__name__
    with pytest.raises(TypeError) as raised:
        transport.write(data)
    wanted = "bytes-like object"
    if sys.version_info >= (3, 14):
        wanted = "bytes, bytearray, or memoryview object"
    assert str(raised.value) == f"data argument must be a {wanted}, not {name!r}"
    transport.write(b"fine")
    assert await peer.receive_exactly(4) == b"fine"
    await close(protocol)


async def test_writelines_behind_write_eof_is_refused_in_the_versions_words(loop, connect):
    transport, _ = await connect(Recorder())
    transport.write_eof()
    name = "writelines" if sys.version_info >= (3, 12) else "write"  # it joined them for write()
    with pytest.raises(RuntimeError, match=rf"Cannot call {name}\(\) after write_eof\(\)"):
        transport.writelines([b"x"])
    transport.abort()


@pytest.mark.skipif(
    BACKEND == "io_uring", reason="it receives ahead: a close behind unread bytes is no reset then"
)
async def test_what_connection_lost_writes_to_the_peer_is_there_before_the_end(loop):
    ours, theirs = tcp_pair()
    peer = Recorder()
    peer_transport, _ = await loop.create_connection(lambda: peer, sock=theirs)
    protocol = Recorder(connection_lost=lambda *_: peer_transport.write(b"too late"))
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    transport.close()
    await peer.until("connection_lost")
    assert isinstance(peer.losses[0], ConnectionResetError)  # closed with unread bytes


async def test_more_than_the_kernel_takes_can_be_written_in_a_callback(loop):
    """What it takes at the second try is sent within write(), in the callback's own context."""
    size = 1 << 20
    for _ in range(20):
        ours, theirs = tcp_pair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 << 10)
        protocol = Recorder(connection_made=lambda self: self.transport.write(bytes(size)))
        transport, _ = await loop.create_connection(lambda p=protocol: p, sock=ours)
        peer = Recorder()
        await loop.create_connection(lambda p=peer: p, sock=theirs)
        await peer.until_received(size)
        transport.close()
        await peer.until("connection_lost")


async def test_what_pause_writing_writes_comes_behind_all_lines(loop, connect):
    version = sys.version_info[:3]
    if not isinstance(loop, zloop.Loop) and (
        (3, 12) <= version < (3, 12, 9) or (3, 13) <= version < (3, 13, 2)
    ):
        pytest.skip("asyncio's writelines() does not pause the protocol (CVE-2024-12254)")
    protocol = Recorder(pause_writing=lambda self: self.transport.write(b"end"))
    transport, peer = await connect(protocol)
    half = 4 << 20
    transport.writelines([b"a" * half, b"-", b"b" * half])
    received = await peer.receive_exactly(2 * half + 4)
    assert received.strip(b"a") == b"-" + b"b" * half + b"end"
    transport.abort()


async def test_what_a_callback_has_written_before_it_failed_is_sent(loop, connect, errors):
    def answer_and_fail(self, data):
        self.transport.write(b"answer")
        raise ValueError

    protocol = Recorder(data_received=answer_and_fail)
    _, peer = await connect(protocol)
    await peer.send(b"question")
    assert await peer.receive_until_end() == b"answer"
    assert [type(context["exception"]) for context in errors] == [ValueError]
    errors.clear()


async def test_connection_lost_may_still_ask_for_the_protocol(loop, connect):
    asked = []
    protocol = Recorder(connection_lost=lambda self, _: asked.append(self.transport.get_protocol()))
    transport, _ = await connect(protocol)
    transport.close()
    await protocol.until("connection_lost")
    assert asked == [protocol]
    assert transport.get_protocol() is None


@pytest.mark.parametrize("bad", ["text", 5, [65, 66]])
async def test_writelines_with_one_bad_part_sends_none(loop, connect, bad):
    if sys.version_info >= (3, 15) and not isinstance(loop, zloop.Loop):
        pytest.skip("asyncio keeps the good part, and then waits for ever")
    protocol = Recorder()
    transport, peer = await connect(protocol)
    with pytest.raises(TypeError):
        transport.writelines([b"part", bad])
    transport.write(b"fine")
    transport.close()
    assert await peer.receive_until_end() == b"fine"
    await protocol.until("connection_lost")


async def test_bad_limits_are_refused_and_change_nothing(connect):
    protocol = Recorder()
    transport, _ = await connect(protocol)
    for arguments in ({"high": 1, "low": 2}, {"low": -1}, {"high": -1}):
        with pytest.raises(ValueError, match=r"must be >= low"):
            transport.set_write_buffer_limits(**arguments)
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    await close(protocol)


# System calls.

SERVER = """
import asyncio, sys
import zloop

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"end":
            asyncio.get_running_loop().stop()
        self.transport.write(b"head")
        self.transport.write(b"body")

async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)

loop = zloop.new_event_loop()
loop.create_task(main())
loop.run_forever()
loop.close()
"""


def test_a_message_costs_one_wait_one_read_and_a_write_for_each_part(tmp_path):
    """No epoll_ctl, no second recv, nothing to push a part that the last one takes along."""
    import shutil

    if BACKEND != "epoll":
        pytest.skip("io_uring's calls are others: one a turn, and none a message")
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path / "calls"
    command = [
        "strace",
        "-f",
        "-o",
        str(log),
        "-e",
        "trace=network,epoll_ctl,epoll_wait,epoll_pwait2,epoll_pwait",
    ]
    probe = subprocess.run([*command, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")
    messages = 50
    with subprocess.Popen(
        [*command, sys.executable, "-W", "ignore", "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as server:
        port = int(server.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            for _ in range(messages):
                sock.sendall(b"x")
                assert receive_all(sock, 8) == b"headbody"
            sock.sendall(b"end")
            receive_all(sock, 8)
        assert server.wait(PATIENCE) == 0
    calls = [line.split(" ", 1)[1].strip() for line in log.read_text().splitlines()]
    first = next(
        number for number, call in enumerate(calls) if "accept4" in call and "= -1" not in call
    )
    served = [call.split("(")[0] for call in calls[first:]]
    assert served.count("recvfrom") <= messages + 3
    assert served.count("sendmsg") + served.count("sendto") <= 2 * messages + 3
    assert served.count("setsockopt") <= 3
    waits = sum(served.count(name) for name in ("epoll_wait", "epoll_pwait", "epoll_pwait2"))
    assert waits <= 2 * messages + 10
    assert served.count("epoll_ctl") <= 6
