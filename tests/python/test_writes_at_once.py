"""A write is in the kernel when write() returns; what the kernel joins, it joins on its own.

What a blocking callback, a socket that the program kept, or the end of the process can see.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import (
    PATIENCE,
    Recorder,
    check_program,
    data_segments_sent,
    environment,
    receive_all,
    tcp_pair,
    turns,
)

ours = pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)
# seconds that bytes may be on their way while a callback blocks; the kernel holds 0.2
LONGEST = 1.0

HOW_IT_IS_ENDED = {
    "_exit": "os._exit(0)",
    "exec": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "SIGKILL": "os.kill(os.getpid(), 9)",
}


async def in_a_callback(loop, function, *args):
    """Call it as the loop calls callbacks, with others ready behind it."""
    done = loop.create_future()

    def run():
        try:
            done.set_result(function(*args))
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon(run)
    loop.call_soon(lambda: None)
    return await done


async def connected(loop, protocol):
    ours, peer = tcp_pair()
    peer.settimeout(LONGEST)
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    return transport, peer


async def close(protocol, peer):
    protocol.transport.abort()
    await protocol.until("connection_lost")
    peer.close()


def write_in_parts(transport, *parts):
    for part in parts:
        transport.write(part)


async def make_a_habit(loop, transport, peer, parts):
    """So the transport has learned how many parts a message has."""
    for _ in range(2):
        await in_a_callback(loop, write_in_parts, transport, *[b"part"] * parts)
        assert receive_all(peer, 4 * parts) == b"part" * parts


@pytest.mark.parametrize("usual", [1, 2, 4])
async def test_the_peer_of_a_callback_that_blocks_hears_what_was_written(loop, usual):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, usual)

    def write_and_wait_for_it():
        transport.write(b"busy")
        return peer.recv(4)  # a deadlock, were it not on its way

    assert await in_a_callback(loop, write_and_wait_for_it) == b"busy"
    await close(protocol, peer)


@pytest.mark.parametrize("usual", [1, 2])
async def test_what_is_sent_on_the_socket_itself_comes_behind(loop, usual):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, usual)
    kept = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))

    def write_both_ways():
        transport.write(b"first,")
        kept.send(b"second,")
        transport.write(b"third")

    await in_a_callback(loop, write_both_ways)

    assert receive_all(peer, 18) == b"first,second,third"
    kept.close()
    await close(protocol, peer)


@pytest.mark.parametrize("end", HOW_IT_IS_ENDED)
@pytest.mark.parametrize("usual", [1, 2])
def test_a_process_that_ends_has_sent_what_it_wrote(new_loop, end, usual):
    factory = (
        "zloop.new_event_loop"
        if "zloop" in type(new_loop()).__module__
        else "asyncio.SelectorEventLoop"
    )
    program = f"""
import asyncio, os, sys, zloop

async def main():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", int(sys.argv[1]))

    def write(last):
        for part in {usual} * (b"part",):
            transport.write(part)
        if last:
            {HOW_IT_IS_ENDED[end]}

    for last in (False, False, True):
        loop.call_soon(write, last)
    await loop.create_future()

with asyncio.Runner(loop_factory={factory}) as runner:
    runner.run(main())
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        command = [sys.executable, "-c", program, str(listener.getsockname()[1])]
        with subprocess.Popen(command, env=environment()):
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(PATIENCE)
                assert receive_all(peer, 100) == b"part" * usual * 3


async def test_a_write_that_fails_is_told_before_write_returns(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock = transport.get_extra_info("socket")

    def reset_and_write():
        peer.close()
        while not select.select([sock], [], [], 0)[0]:  # until the reset is here
            pass
        transport.write(b"lost")
        return transport.is_closing()

    assert await in_a_callback(loop, reset_and_write)
    await protocol.until("connection_lost")


# What the kernel joins.


def segments(sock, function, *args):
    before = data_segments_sent(sock)
    function(*args)
    return data_segments_sent(sock) - before


@ours
@pytest.mark.parametrize("parts", [2, 4, 16])
async def test_parts_that_are_usual_leave_together(loop, parts):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, parts)
    sock = transport.get_extra_info("socket")

    before = data_segments_sent(sock)
    await in_a_callback(loop, write_in_parts, transport, *[b"part"] * parts)

    assert data_segments_sent(sock) - before == 1
    assert receive_all(peer, 4 * parts) == b"part" * parts
    await close(protocol, peer)


@ours
async def test_fewer_parts_than_usual_do_not_wait_for_the_kernels_patience(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, 3)
    sock = transport.get_extra_info("socket")
    before = data_segments_sent(sock)

    await in_a_callback(loop, write_in_parts, transport, b"part", b"part")
    await turns(1)

    assert data_segments_sent(sock) - before == 1  # and it has left by now
    assert receive_all(peer, 8) == b"partpart"
    await close(protocol, peer)


@ours
async def test_a_lone_write_is_a_plain_one(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, 1)
    sock = transport.get_extra_info("socket")

    assert await in_a_callback(loop, segments, sock, transport.write, b"part") == 1

    await close(protocol, peer)


@ours
async def test_connections_that_write_in_turn_have_a_segment_each(loop):
    pairs = [(protocol := Recorder(), *await connected(loop, protocol)) for _ in range(5)]
    for _, transport, peer in pairs:
        await make_a_habit(loop, transport, peer, 2)
    socks = [transport.get_extra_info("socket") for _, transport, _ in pairs]
    before = [data_segments_sent(sock) for sock in socks]

    for _, transport, _ in pairs:
        loop.call_soon(write_in_parts, transport, b"head", b"body")
    await turns(2)

    assert [data_segments_sent(sock) - was for sock, was in zip(socks, before, strict=True)] == [
        1
    ] * 5
    for protocol, _, peer in pairs:
        assert receive_all(peer, 8) == b"headbody"
        await close(protocol, peer)


# What waits for the end of a turn.

WORK = 50e-6  # seconds that a busy callback takes: all of a turn less than others may wait for


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class BusyTurns:
    """Five connections that write in each turn, each after some work."""

    def __init__(self, loop, family=socket.AF_INET):
        self.loop = loop
        self.family = family

    async def __aenter__(self):
        self.ends = []
        for _ in range(5):
            protocol = Recorder()
            mine, peer = tcp_pair(self.family)
            transport, _ = await self.loop.create_connection(lambda p=protocol: p, sock=mine)
            self.ends.append((protocol, transport, peer))
        self.first = self.ends[0][1].get_extra_info("socket")
        return self

    async def __aexit__(self, *_):
        for protocol, _, peer in self.ends:
            await close(protocol, peer)

    async def turn(self, *then, last_takes=0.0):
        """Give how many segments of the first had left when all had written, behind the callbacks `then` and one
        that takes so long, and when the turn was over.
        """
        before = data_segments_sent(self.first)
        seen = []

        def work_and_write(transport):
            busy(WORK)
            transport.write(b"part")

        for _, transport, _ in self.ends:
            self.loop.call_soon(work_and_write, transport)
        self.loop.call_soon(lambda: seen.append(data_segments_sent(self.first) - before))
        for callback in then:
            self.loop.call_soon(callback)
        self.loop.call_soon(busy, last_takes)
        self.loop.call_soon(lambda: seen.append(data_segments_sent(self.first) - before))
        await turns(2)
        seen.append(data_segments_sent(self.first) - before)
        for _, _, peer in self.ends:
            assert receive_all(peer, 4) == b"part"
        return seen

    async def turn_that_holds(self, *then, **how):
        """As turn(); the loop tries both ways, each for some turns, and others may disturb them."""
        end = time.monotonic() + PATIENCE
        while (seen := await self.turn(*then, **how))[0] != 0:
            assert time.monotonic() < end
        return seen


@ours
async def test_the_messages_of_a_busy_turn_leave_when_it_ends(loop):
    async with BusyTurns(loop) as busy_turns:
        assert await busy_turns.turn_that_holds() == [0, 0, 1]


@ours
async def test_they_do_not_wait_for_a_slow_callback_twice(loop):
    async with BusyTurns(loop) as busy_turns:
        assert await busy_turns.turn_that_holds(last_takes=0.02) == [0, 1, 1]
        for _ in range(3):
            assert await busy_turns.turn() == [1, 1, 1]


@ours
@pytest.mark.parametrize("way", ["Unix", "sock_sendall", "pipe", "UDP", "plain"])
async def test_nothing_else_overtakes_them(loop, way):
    async with BusyTurns(loop) as busy_turns, contextlib.AsyncExitStack() as stack:
        if way in ("Unix", "plain"):
            mine, peer = tcp_pair() if way == "plain" else socket.socketpair(socket.AF_UNIX)
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda: protocol, sock=mine)
            stack.push_async_callback(close, protocol, peer)
            message = b"look" * (5000 if way == "plain" else 1)  # more than is ever held

            def send():
                transport.write(message)
        elif way == "UDP":
            listening = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            listening.bind(("127.0.0.1", 0))
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=listening.getsockname()
            )
            stack.callback(transport.close)

            def send():
                transport.sendto(b"look")
        elif way == "pipe":
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            transport, _ = await loop.connect_write_pipe(
                asyncio.Protocol, os.fdopen(writing, "wb", 0)
            )
            stack.callback(transport.close)

            def send():
                transport.write(b"look")
        else:
            one, other = socket.socketpair()
            stack.enter_context(one)
            stack.enter_context(other)
            one.setblocking(False)

            def send():
                with pytest.raises(StopIteration):
                    loop.sock_sendall(one, b"look").send(None)

        assert await busy_turns.turn_that_holds(send) == [0, 1, 1]


def own_address():
    """An address of this machine that is not known to be one."""
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no other network than loopback")
        return asking.getsockname()[0]


@ours
@pytest.mark.parametrize("before", ["held", "sent"])
async def test_a_part_for_another_machine_waits_for_no_turn(loop, before):
    """Neither where others are held, nor in the turn after."""
    with socket.create_server((own_address(), 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=far)
    await make_a_habit(loop, transport, peer, 2)
    sock = transport.get_extra_info("socket")

    sent = []

    def write_as_usual():
        with contextlib.suppress(
            BlockingIOError
        ):  # what came is acknowledged: nothing waits for that
            peer.recv(65536, socket.MSG_DONTWAIT)
        sent.clear()
        write_in_parts(transport, b"part", b"part")

    def write_less():
        sent.append(data_segments_sent(sock))
        transport.write(b"part")

    def look():
        sent.append(data_segments_sent(sock))

    async with BusyTurns(loop) as busy_turns:
        if before == "held":
            await busy_turns.turn_that_holds(write_as_usual, write_less, look)
        else:
            await busy_turns.turn_that_holds(write_as_usual)
            _, near, its_peer = busy_turns.ends[0]
            loop.call_soon(write_in_parts, near, b"more", b"more")
            await turns(1)
            loop.call_soon(write_less)
            loop.call_soon(look)
            await turns(2)
            assert receive_all(its_peer, 8) == b"moremore"
    assert sent[1] - sent[0] == 1
    await close(protocol, peer)


@ours
async def test_a_peer_that_is_waited_for_in_a_busy_turn_has_it_soon(loop):
    async with BusyTurns(loop) as busy_turns:
        await busy_turns.turn_that_holds()
        _, transport, peer = busy_turns.ends[0]

        def write_and_wait_for_it():
            busy_turns.ends[1][1].write(b"more")
            transport.write(b"busy")
            return peer.recv(4)

        assert await in_a_callback(loop, write_and_wait_for_it) == b"busy"
        assert receive_all(busy_turns.ends[1][2], 4) == b"more"


HELD_TURNS = """
    import asyncio
    import socket

    import zloop
    from helpers import data_segments_sent, receive_all, tcp_pair, turns

    async def main():
        loop = asyncio.get_running_loop()
        ends = [tcp_pair() for _ in range(5)]
        transports = [
            (await loop.create_connection(asyncio.Protocol, sock=mine))[0] for mine, _ in ends
        ]
        first = transports[0].get_extra_info("socket")
        held = 0

        def look(before):
            nonlocal held
            held += data_segments_sent(first) == before

        for _ in range(800):
            for transport in transports:
                loop.call_soon(transport.write, b"part")
            loop.call_soon(look, data_segments_sent(first))
            await turns(2)
            for _, peer in ends:
                assert receive_all(peer, 4) == b"part"
        print(held)
        for transport, (_, peer) in zip(transports, ends):
            transport.abort()
            peer.close()
        await turns(2)

    loop = zloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
"""


@pytest.fixture(scope="module")
def priced_calls(tmp_path_factory):
    """A machine on which nothing but system calls takes time, and these what one says (priced_calls.c)."""
    library = str(tmp_path_factory.mktemp("priced") / "calls.so")
    source = str(Path(__file__).with_name("priced_calls.c"))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()


@pytest.mark.parametrize(
    ("send", "more", "push", "fewest", "most"),
    [
        pytest.param(10, 10, 2, 100, 150, id="nobody has to be woken: half of a trial"),
        pytest.param(
            20, 4, 8, 600, 700, id="a wake-up costs more than a push: all but half of a trial"
        ),
    ],
)
def test_turns_are_held_where_that_is_cheaper(priced_calls, send, more, push, fewest, most):
    held = check_program(
        HELD_TURNS,
        LD_PRELOAD=priced_calls,
        PRICE_SEND=str(send),
        PRICE_MORE=str(more),
        PRICE_PUSH=str(push),
        PYTHONPATH=os.pathsep.join(
            [str(Path(__file__).parent), environment().get("PYTHONPATH", "")]
        ),
    )
    assert fewest <= int(held) <= most


@ours
@pytest.mark.parametrize("option", [socket.TCP_NODELAY, socket.TCP_CORK], ids=["NODELAY", "CORK"])
@pytest.mark.parametrize("value", [0, 1])
async def test_what_a_program_has_set_on_its_socket_stays(loop, option, value):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, 3)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, option, value)

    await in_a_callback(loop, write_in_parts, transport, b"part", b"part")
    await turns(1)

    assert bool(sock.getsockopt(socket.IPPROTO_TCP, option)) == bool(value)
    await close(protocol, peer)


@ours
@pytest.mark.parametrize("way", ["get_extra_info", "_extra", "_sock", "sock="])
async def test_it_stays_whichever_way_the_program_has_set_it(loop, way):
    protocol = Recorder()
    ours, peer = tcp_pair()
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    if way != "sock=":
        del ours
    await make_a_habit(loop, transport, peer, 3)

    def sock():
        match way:
            case "get_extra_info":
                return transport.get_extra_info("socket")
            case "_extra":
                return transport._extra["socket"]
            case "_sock":
                return transport._sock
            case "sock=":
                return ours

    for value in (0, 1, 0, 1):  # it is dropped in between
        sock().setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)
        for _ in range(3):
            await in_a_callback(loop, write_in_parts, transport, b"part", b"part")
            await turns(1)
            assert sock().getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) == value
    await close(protocol, peer)


@ours
@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
async def test_what_is_held_leaves_with_the_end_of_the_connection(loop, how):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, 3)

    def write_and_end():
        transport.write(b"part")
        getattr(transport, how)()

    await in_a_callback(loop, write_and_end)
    await turns(2)

    assert receive_all(peer, 8) == b"part"
    await close(protocol, peer) if how == "write_eof" else peer.close()


@ours
async def test_a_transport_may_be_dropped_while_something_of_it_is_held(loop):
    protocol = Recorder()
    transport, peer = await connected(loop, protocol)
    await make_a_habit(loop, transport, peer, 3)

    def write_and_lose_the_loop():
        transport.write(b"part")
        transport._call_connection_lost(None)  # as asyncio does, and libraries

    await in_a_callback(loop, write_and_lose_the_loop)
    await turns(2)

    assert receive_all(peer, 8) == b"part"
    peer.close()


async def test_on_a_unix_socket_each_part_is_there_at_once(loop):
    mine, peer = socket.socketpair(socket.AF_UNIX)
    peer.setblocking(False)
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=mine)

    def write_twice():
        transport.write(b"head")
        head = peer.recv(8)
        transport.write(b"body")
        return head, peer.recv(8)

    for _ in range(3):
        assert await in_a_callback(loop, write_twice) == (b"head", b"body")
    await close(protocol, peer)
