"""``writes="turn"``: what a turn writes is sent when the turn has ended, in one call a connection."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from helpers import (
    Recorder,
    check_program,
    kernel_was_asked,
    receive_all,
    reset,
    run_program,
    tcp_pair,
    turns,
)

import zloop

pytestmark = pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)


@pytest.fixture
def loop(loop):
    loop.writes = "turn"
    return loop


async def connected(loop, protocol, pair=tcp_pair):
    ours, peer = pair()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    return transport, peer


async def close(protocol, peer):
    protocol.transport.abort()
    await protocol.until("connection_lost")
    peer.close()


def has_come(peer, flags=socket.MSG_PEEK | socket.MSG_DONTWAIT):
    try:
        return peer.recv(1 << 20, flags)
    except BlockingIOError:
        return None


async def in_a_callback(loop, function):
    done = loop.create_future()
    loop.call_soon(lambda: done.set_result(function()))
    return await done


def test_the_choice_is_the_loops_or_the_environments(new_loop):
    program = "import zloop; loop = zloop.new_event_loop(); print(loop.writes); loop.close()"
    assert check_program(program) == "now\n"
    assert check_program(program, ZLOOP_WRITES="turn") == "turn\n"
    assert "ValueError: writes is 'later'" in run_program(program, ZLOOP_WRITES="later").stderr
    loop = zloop.new_event_loop(writes="turn")
    assert loop.writes == "turn"
    with pytest.raises(ValueError, match="it can be 'now' or 'turn'"):
        loop.writes = None
    assert loop.writes == "turn"
    loop.close()


@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])
async def test_writes_wait_for_the_end_of_the_turn_and_are_one(loop, pair):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol, pair)

    def write():
        transport.write(b"head,")
        transport.writelines([b"body", b"", b",tail"])
        return has_come(peer), transport.get_write_buffer_size()

    assert await in_a_callback(loop, write) == (None, 14)
    await turns(1)
    assert has_come(peer) == b"head,body,tail"
    assert transport.get_write_buffer_size() == 0
    await close(protocol, peer)


async def test_what_is_too_much_to_wait_takes_along_what_waits(loop):
    protocol, other = Recorder(), Recorder()
    transport, peer = await connected(loop, protocol)
    second, its_peer = await connected(loop, other)

    def write():
        second.write(b"waits")
        for _ in range(5):
            transport.write(bytes(16 * 1024))
        return len(has_come(peer) or b""), has_come(its_peer)

    assert await in_a_callback(loop, write) == (80 * 1024, b"waits")
    await close(protocol, peer)
    await close(other, its_peer)


async def test_another_way_of_sending_overtakes_nothing(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    one, other = socket.socketpair()
    one.setblocking(False)

    def write():
        transport.write(b"first")
        sending = loop.create_task(loop.sock_sendall(one, b"second"))
        return sending

    await (await in_a_callback(loop, write))
    assert has_come(peer) == b"first"
    await close(protocol, peer)
    one.close()
    other.close()


async def test_a_callback_that_was_long_ends_the_waiting(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    seen = loop.create_future()
    transport.write(b"now")
    for callback in (lambda: time.sleep(0.01), lambda: seen.set_result(has_come(peer))):
        loop.call_soon(callback)
    assert await seen == b"now"
    await close(protocol, peer)


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_what_waits_is_sent_before_the_end(loop, end):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)

    def write():
        transport.write(b"last words")
        getattr(transport, end)()

    await in_a_callback(loop, write)
    assert await loop.run_in_executor(None, receive_all, peer, 10) == b"last words"
    assert await loop.run_in_executor(None, peer.recv, 1) == b""
    await close(protocol, peer)


@pytest.mark.parametrize("end", ["abort", "an exception"])
async def test_what_waits_is_sent_as_the_connection_is_cut(loop, end):
    def write_and_end(protocol, data):
        protocol.transport.write(b"last words")
        if end == "abort":
            protocol.transport.abort()
        else:
            raise ZeroDivisionError

    protocol = Recorder(data_received=write_and_end)
    loop.set_exception_handler(lambda loop, context: None)
    transport, peer = await connected(loop, protocol)
    peer.send(b"?")
    await protocol.until("connection_lost")
    assert transport.get_write_buffer_size() == 0
    assert await loop.run_in_executor(None, receive_all, peer, 10) == b"last words"
    peer.close()


async def test_a_peer_that_is_gone_ends_the_connection_one_turn_later(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    transport.pause_reading()
    await kernel_was_asked()  # no receive of io_uring's is left, to be told instead
    reset(peer)
    await in_a_callback(loop, lambda: transport.write(b"to nobody"))
    await protocol.until("connection_lost")
    # The kernel says it once; on io_uring perhaps to the receive that was being taken back.
    told_first = ConnectionResetError if loop.backend == "epoll" else ConnectionError
    assert isinstance(protocol.losses[0], told_first)


async def test_resume_writing_may_write_more_after_close(loop):
    left = [bytes(64 * 1024)] * 50

    def pump(protocol):
        while left and protocol.seen[-1] != "pause_writing":
            protocol.transport.write(left.pop())

    protocol = Recorder(resume_writing=pump)
    transport, peer = await connected(loop, protocol)
    transport.set_write_buffer_limits(high=0)

    def write_and_close():
        transport.write(b"begin")
        transport.close()

    size = 5 + sum(map(len, left))
    receiving = loop.run_in_executor(None, receive_all, peer, size)
    await in_a_callback(loop, write_and_close)
    assert len(await receiving) == size
    await protocol.until("connection_lost")
    assert protocol.losses == [None]
    peer.close()


async def test_the_end_is_sent_once(loop):
    protocol = Recorder(resume_writing=lambda self: self.transport.write_eof())
    transport, peer = await connected(loop, protocol)
    transport.set_write_buffer_limits(high=0)
    await in_a_callback(loop, lambda: transport.write(b"all"))
    await protocol.until("resume_writing")
    assert await loop.run_in_executor(None, receive_all, peer, 3) == b"all"
    assert await loop.run_in_executor(None, peer.recv, 1) == b""
    peer.close()
    await protocol.until("connection_lost")
    assert protocol.losses == [None]
    assert "eof_received" in protocol.seen


async def test_many_parts_leave_in_the_same_turn(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)

    def write():
        for _ in range(300):
            transport.write(b"part")

    await in_a_callback(loop, write)
    await turns(1)
    assert has_come(peer) == b"part" * 300
    await close(protocol, peer)


async def test_flow_control_counts_what_waits(loop):
    protocol = Recorder(resume_writing=lambda _: transport.write(b" more"))
    transport, peer = await connected(loop, protocol)
    transport.set_write_buffer_limits(high=5)
    await in_a_callback(loop, lambda: transport.write(b"enough"))
    assert protocol.seen == ["connection_made", "pause_writing"]
    await protocol.until("resume_writing")
    assert await loop.run_in_executor(None, receive_all, peer, 11) == b"enough more"
    await close(protocol, peer)


async def test_a_file_comes_behind_what_waits(loop, tmp_path):
    (tmp_path / "file").write_bytes(b"file")
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    with (tmp_path / "file").open("rb") as file:
        transport.write(b"head,")
        assert await loop.sendfile(transport, file) == 4
    assert receive_all(peer, 9) == b"head,file"
    await close(protocol, peer)


def test_a_turn_that_ends_by_an_exception_has_sent(new_loop):
    ours, peer = tcp_pair()
    loop = zloop.new_event_loop(writes="turn")

    async def connect():
        return (await loop.create_connection(asyncio.Protocol, sock=ours))[0]

    transport = loop.run_until_complete(connect())

    def write_and_leave():
        transport.write(b"said")
        raise KeyboardInterrupt

    loop.call_soon(write_and_leave)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert has_come(peer) == b"said"
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    peer.close()
