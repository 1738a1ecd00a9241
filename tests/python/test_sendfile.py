"""loop.sendfile() and loop.sock_sendfile(): whole and in part, cancelled, cut off, refused."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import tempfile
import weakref

import pytest
from helpers import PATIENCE, Recorder, reset, tcp_pair, turns

SIZE = 9_000_000  # more than what sockets take

# From some versions on the position moves also where nothing was sent.
MOVES = asyncio.SelectorEventLoop._sock_sendfile_update_filepos.__code__.co_argcount == 3


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE)


@pytest.fixture(scope="module")
def content():
    return os.urandom(SIZE)


@pytest.fixture
def file(content):
    with tempfile.TemporaryFile() as made:
        made.write(content)
        made.seek(0)
        yield made


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    ours, peer = tcp_pair() if request.param == "tcp" else socket.socketpair()
    ours.setblocking(False)
    peer.settimeout(PATIENCE)
    with ours, peer:
        yield ours, peer


async def connection(loop, sock):
    make = loop.create_connection
    if sock.family == socket.AF_UNIX:
        make = loop.create_unix_connection
    return await make(Recorder, sock=sock)


@pytest.fixture
def tcp():
    ours, peer = tcp_pair()
    with ours, peer:
        yield ours, peer


@pytest.fixture
def connected(loop, pair):
    """A transport on ours, with its protocol, and the peer."""
    ours, peer = pair
    return *loop.run_until_complete(connection(loop, ours)), peer


def receive(peer, count):
    data = bytearray()
    while len(data) < count and (more := peer.recv(1 << 20)):
        data += more
    return bytes(data)


async def receive_beside(loop, peer, count):
    return await soon(loop.run_in_executor(None, receive, peer, count))


async def lost(transport, protocol):
    transport.close()
    await soon(protocol.until("connection_lost"))


# The socket.

PARTS = {
    "all of it": (0, None),
    "the rest": (1_000_000, None),
    "a part": (1_000_000, 2_000_000),
    "more than there is": (SIZE - 5, 100),
    "nothing": (SIZE, None),
}
parts = pytest.mark.parametrize("offset, count", PARTS.values(), ids=PARTS)


@parts
async def test_a_file_is_sent_over_a_socket(loop, pair, file, content, offset, count):
    ours, peer = pair
    expected = content[offset:][:count]
    file.seek(3)
    sending = asyncio.ensure_future(loop.sock_sendfile(ours, file, offset, count))
    assert await receive_beside(loop, peer, len(expected)) == expected
    assert await soon(sending) == len(expected)
    assert file.tell() == (offset + len(expected) if expected or MOVES else 3)


@pytest.mark.parametrize("fallback", [False, True])
async def test_an_empty_file_is_sent_over_a_socket(loop, pair, fallback):
    ours, _ = pair
    with tempfile.TemporaryFile() as empty:
        assert await soon(loop.sock_sendfile(ours, empty, fallback=fallback)) == 0


async def test_a_cancelled_sending_tells_its_end_by_the_files_position(
    zloop_loop, pair, file, content
):
    # asyncio leaves the position where it was.
    loop, (ours, peer) = zloop_loop, pair
    task = asyncio.ensure_future(loop.sock_sendfile(ours, file))
    await turns(5)
    begin = peer.recv(100)
    await turns(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = file.tell()
    assert 0 < sent < SIZE
    await turns(2)
    sending = asyncio.ensure_future(loop.sock_sendfile(ours, file, sent))
    assert begin + await receive_beside(loop, peer, SIZE - len(begin)) == content
    assert await soon(sending) == SIZE - sent


async def test_a_peer_that_leaves_ends_the_sending(loop, pair, file):
    ours, peer = pair
    sending = asyncio.ensure_future(loop.sock_sendfile(ours, file))
    await turns(5)
    peer.recv(100)
    peer.close()
    with pytest.raises(ConnectionError):
        await soon(sending)
    assert 0 < file.tell() < SIZE


async def test_what_is_no_file_is_read_and_sent(loop, pair, content):
    ours, peer = pair
    sending = asyncio.ensure_future(loop.sock_sendfile(ours, io.BytesIO(content)))
    assert await receive_beside(loop, peer, SIZE) == content
    assert await soon(sending) == SIZE
    with pytest.raises(asyncio.SendfileNotAvailableError, match=r"^not a regular file$"):
        await loop.sock_sendfile(ours, io.BytesIO(content), fallback=False)


async def test_a_pipe_cannot_be_sent_by_the_kernel(zloop_loop, pair):
    # asyncio does, or raises "Illegal seek", depending on the version.
    loop, (ours, _) = zloop_loop, pair
    out, into = os.pipe()
    with (
        open(out, "rb") as file,
        open(into, "wb"),
        pytest.raises(asyncio.SendfileNotAvailableError, match=r"^os\.sendfile call failed$"),
    ):
        await soon(loop.sock_sendfile(ours, file, count=10, fallback=False))


async def test_a_socket_of_a_class_of_its_own_sends_files(loop, file, content):
    class Socket(socket.socket):
        pass

    ours, peer = socket.socketpair()
    with peer, Socket(ours.family, ours.type, ours.proto, fileno=ours.detach()) as sock:
        sock.setblocking(False)
        sending = asyncio.ensure_future(loop.sock_sendfile(sock, file, fallback=False))
        assert await receive_beside(loop, peer, SIZE) == content
        assert await soon(sending) == SIZE


async def test_a_program_without_os_sendfile_has_the_fallback(
    loop, pair, file, content, monkeypatch
):
    ours, peer = pair
    monkeypatch.delattr(os, "sendfile")
    sending = asyncio.ensure_future(loop.sock_sendfile(ours, file))
    assert await receive_beside(loop, peer, SIZE) == content
    assert await soon(sending) == SIZE
    words = r"^os\.sendfile\(\) is not available$"
    with pytest.raises(asyncio.SendfileNotAvailableError, match=words):
        await loop.sock_sendfile(ours, file, fallback=False)


async def test_what_has_no_descriptor_that_is_open_is_no_file(loop, pair):
    ours, _ = pair
    closed = io.BytesIO()
    closed.fileno = lambda: 1 << 20
    with pytest.raises(asyncio.SendfileNotAvailableError, match=r"^not a regular file$"):
        await soon(loop.sock_sendfile(ours, closed, fallback=False))


# The transport.


@parts
@pytest.mark.parametrize("fallback", [False, True])
async def test_a_file_is_sent_over_a_transport(
    loop, connected, file, content, offset, count, fallback
):
    transport, protocol, peer = connected
    expected = content[offset:][:count]
    file.seek(3)
    transport.write(b"before ")

    async def send():
        sent = await loop.sendfile(transport, file, offset, count, fallback=fallback)
        transport.write(b" behind")
        return sent

    sending = asyncio.ensure_future(send())
    received = await receive_beside(loop, peer, len(expected) + 14)
    assert received == b"before " + expected + b" behind"
    assert await soon(sending) == len(expected)
    assert file.tell() == (offset + len(expected) if expected or MOVES else 3)
    await lost(transport, protocol)


async def test_a_file_waits_behind_what_is_written(loop, connected, file, content):
    transport, protocol, peer = connected
    big = b"." * 9_000_000
    transport.write(big)
    sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=False))
    await turns(3)
    assert transport.get_write_buffer_size() > 0
    assert await receive_beside(loop, peer, len(big) + SIZE) == big + content
    assert await soon(sending) == SIZE
    assert "resume_writing" in protocol.seen
    await lost(transport, protocol)


async def test_nothing_is_written_while_a_file_is_sent(loop, connected, file, content):
    transport, protocol, peer = connected
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(3)
    with pytest.raises(RuntimeError, match=r"^unable to write; sendfile is in progress$"):
        transport.write(b"x")
    with pytest.raises(RuntimeError, match=r"sendfile is in progress$"):
        transport.writelines([b"x"])
    assert await receive_beside(loop, peer, SIZE) == content
    assert await soon(sending) == SIZE
    await lost(transport, protocol)


async def test_nothing_is_read_while_a_file_is_sent(loop, connected, file, content):
    transport, protocol, peer = connected
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    peer.send(b"text")
    await turns(5)
    assert not transport.is_reading()
    assert not protocol.data
    await receive_beside(loop, peer, SIZE)
    await soon(sending)
    await soon(protocol.until_received(4))
    transport.pause_reading()
    sending = asyncio.ensure_future(loop.sendfile(transport, file, SIZE - 5))
    assert await receive_beside(loop, peer, 5) == content[-5:]
    await soon(sending)
    assert not transport.is_reading()
    await lost(transport, protocol)


async def test_after_a_cancel_the_transport_goes_on_where_the_file_stopped(
    zloop_loop, pair, file, content
):
    # asyncio leaves the file's position where it was.
    loop, (ours, peer) = zloop_loop, pair
    transport, protocol = await connection(loop, ours)
    task = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = file.tell()
    assert 0 < sent < SIZE
    transport.write(b"behind")
    assert await receive_beside(loop, peer, sent + 6) == content[:sent] + b"behind"
    transport.write(b"and more")
    assert await receive_beside(loop, peer, 8) == b"and more"
    peer.send(b"text")
    await soon(protocol.until_received(4))
    await lost(transport, protocol)


async def test_a_cancel_before_the_file_has_its_turn_leaves_what_is_written(zloop_loop, pair, file):
    # asyncio's transport takes no bytes any more.
    loop, (ours, peer) = zloop_loop, pair
    transport, protocol = await connection(loop, ours)
    big = b"." * 9_000_000
    transport.write(big)
    task = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    transport.write(b"behind")
    transport.close()
    assert await receive_beside(loop, peer, len(big) + 7) == big + b"behind"
    await soon(protocol.until("connection_lost"))
    assert file.tell() == 0


async def test_a_peer_that_resets_ends_the_sending_over_a_transport(loop, connected, file):
    transport, protocol, peer = connected
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    peer.recv(100)
    reset(peer)
    with pytest.raises(ConnectionError):
        await soon(sending)
    assert 0 < file.tell() < SIZE
    transport.abort()
    await soon(protocol.until("connection_lost"))


async def test_an_aborted_transport_ends_the_sending(zloop_loop, tcp, file):
    # asyncio's coroutine waits for ever.
    loop, (ours, _) = zloop_loop, tcp
    transport, protocol = await connection(loop, ours)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    transport.abort()
    with pytest.raises(ConnectionError, match=r"^Connection is closed by peer$"):
        await soon(sending)
    await soon(protocol.until("connection_lost"))
    assert protocol.losses == [None]
    with pytest.raises(RuntimeError, match=r"^Transport is closing$"):
        await loop.sendfile(transport, file)


async def test_a_closed_transport_sends_the_file_first(zloop_loop, tcp, file, content):
    # asyncio's coroutine waits for ever.
    loop, (ours, peer) = zloop_loop, tcp
    transport, protocol = await connection(loop, ours)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    transport.close()
    assert await receive_beside(loop, peer, SIZE + 1) == content
    assert await soon(sending) == SIZE
    await soon(protocol.until("connection_lost"))
    assert protocol.losses == [None]


async def test_the_end_of_writing_comes_behind_the_file(zloop_loop, tcp, file, content):
    # asyncio ends at once, and with it the sending.
    loop, (ours, peer) = zloop_loop, tcp
    transport, protocol = await connection(loop, ours)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    transport.write_eof()
    assert await receive_beside(loop, peer, SIZE + 1) == content
    assert await soon(sending) == SIZE
    await lost(transport, protocol)


async def test_one_file_at_a_time(zloop_loop, tcp, file, content):
    loop, (ours, peer) = zloop_loop, tcp
    transport, protocol = await connection(loop, ours)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    with pytest.raises(RuntimeError, match=r"^sendfile is in progress already$"):
        await loop.sendfile(transport, file)
    assert await receive_beside(loop, peer, SIZE) == content
    assert await soon(sending) == SIZE
    await lost(transport, protocol)


async def test_what_is_no_file_is_read_and_written(zloop_loop, pair, content):
    # From 3.12 on asyncio's transport keeps a view of the buffer that its fallback reads into again.
    loop, (ours, peer) = zloop_loop, pair
    transport, protocol = await connection(loop, ours)
    sending = asyncio.ensure_future(loop.sendfile(transport, io.BytesIO(content)))
    assert await receive_beside(loop, peer, SIZE) == content
    assert await soon(sending) == SIZE
    with pytest.raises(asyncio.SendfileNotAvailableError, match=r"^not a regular file$"):
        await loop.sendfile(transport, io.BytesIO(content), fallback=False)
    await lost(transport, protocol)


async def test_a_pipe_cannot_be_sent_over_a_transport_by_the_kernel(zloop_loop, pair):
    # asyncio does, or raises "Illegal seek", depending on the version.
    loop, (ours, peer) = zloop_loop, pair
    transport, protocol = await connection(loop, ours)
    out, into = os.pipe()
    with (
        open(out, "rb") as file,
        open(into, "wb"),
        pytest.raises(asyncio.SendfileNotAvailableError, match=r"^os\.sendfile call failed$"),
    ):
        await soon(loop.sendfile(transport, file, count=14, fallback=False))
    transport.write(b"still there")
    assert await receive_beside(loop, peer, 11) == b"still there"
    await lost(transport, protocol)


async def test_an_empty_file_is_sent_over_a_transport(loop, connected):
    transport, protocol, peer = connected
    with tempfile.TemporaryFile() as empty:
        assert await soon(loop.sendfile(transport, empty)) == 0
    transport.write(b"still there")
    assert await receive_beside(loop, peer, 11) == b"still there"
    await lost(transport, protocol)


async def test_a_transport_of_a_socket_of_a_class_of_its_own_sends_files(loop, tcp, file, content):
    class Socket(socket.socket):
        pass

    ours, peer = tcp
    transport, protocol = await connection(loop, Socket(fileno=ours.detach()))
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    assert await receive_beside(loop, peer, SIZE) == content
    assert await soon(sending) == SIZE
    await lost(transport, protocol)


WRONG = {
    "text": ({}, "file should be opened in binary mode"),
    "count": ({"count": 0}, "count must be a positive integer"),
    "count's type": ({"count": "1"}, "count must be a positive integer"),
    "offset": ({"offset": -1}, "offset must be a non-negative integer"),
    "offset's type": ({"offset": "1"}, "offset must be a non-negative integer"),
}


@pytest.mark.parametrize("options, words", WRONG.values(), ids=WRONG)
async def test_wrong_arguments_are_refused(loop, connected, file, options, words):
    transport, protocol, _ = connected
    with open(os.devnull) as text, pytest.raises((TypeError, ValueError), match=words):
        await loop.sendfile(transport, file if options else text, **options)
    assert transport.is_reading()
    await lost(transport, protocol)


def test_a_closed_loop_lets_go_of_the_sending(new_loop, file):
    loop = new_loop()
    ours, peer = tcp_pair()
    with peer:
        transport, _ = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
        task = loop.create_task(loop.sendfile(transport, file))
        loop.run_until_complete(turns(5))
        task._log_destroy_pending = False
        transport.abort()
        task.cancel()
        loop.run_until_complete(turns(5))
        waiting = weakref.ref(task)
        loop.close()
        del task, transport
        gc.collect()
        assert waiting() is None
