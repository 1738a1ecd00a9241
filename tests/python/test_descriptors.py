"""add_reader and add_writer: level-triggered, on whatever can be polled, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
import weakref

import pytest
from helpers import BACKEND, PATIENCE, Recorder, tcp_pair, turns


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.0005)


def make_socketpair():
    one, other = socket.socketpair()
    return one, other, lambda: other.send(b"x"), lambda: one.recv(1)


def make_pipe():
    r, w = os.pipe()
    one, other = os.fdopen(r, "rb", 0), os.fdopen(w, "wb", 0)
    return one, other, lambda: other.write(b"x"), lambda: one.read(1)


def make_eventfd():
    one = os.fdopen(os.eventfd(0), "r+b", 0)
    return (
        one,
        one,
        lambda: os.eventfd_write(one.fileno(), 1),
        lambda: os.eventfd_read(one.fileno()),
    )


def make_tcp():
    one, other = tcp_pair()
    return one, other, lambda: other.send(b"x"), lambda: one.recv(1)


KINDS = [make_socketpair, make_pipe, make_eventfd, make_tcp]


@pytest.mark.parametrize("make", KINDS)
async def test_a_reader_is_called_as_long_as_there_is_something_to_read(loop, make):
    if make is make_eventfd and not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    one, other, send, receive = make()
    calls = []
    with one, other:
        loop.add_reader(one, calls.append, 1)
        await turns(3)
        assert calls == []
        send()
        await until(lambda: len(calls) >= 3)  # level-triggered: nobody reads it
        receive()
        await turns(40)
        seen = len(calls)
        await turns(40)
        assert len(calls) == seen
        send()
        await until(lambda: len(calls) > seen)
        assert loop.remove_reader(one) is True
        seen = len(calls)
        await turns(40)
        assert len(calls) == seen
        assert loop.remove_reader(one) is False


@pytest.mark.parametrize("make", [make_socketpair, make_tcp])
async def test_a_writer_is_called_as_long_as_there_is_room(loop, make):
    one, other, *_ = make()
    calls = []
    with one, other:
        one.setblocking(False)
        loop.add_writer(one, calls.append, 1)
        await until(lambda: len(calls) >= 3)
        with pytest.raises(BlockingIOError):
            while True:
                one.send(bytes(1 << 20))
        await turns(40)
        seen = len(calls)
        await turns(40)
        assert len(calls) == seen
        assert loop.remove_writer(one) is True
        assert loop.remove_writer(one) is False


async def test_a_writer_of_a_peer_that_has_sent_its_end_is_called_when_there_is_room(loop):
    one, other = tcp_pair()
    calls = []
    with one, other:
        one.setblocking(False)
        other.shutdown(socket.SHUT_WR)
        loop.add_writer(one, calls.append, 1)
        await until(lambda: len(calls) >= 3)
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                while True:
                    one.send(bytes(1 << 20))
            await asyncio.sleep(0.01)  # what the peer's system still takes
        await turns(40)
        seen = len(calls)
        await turns(40)
        assert len(calls) == seen
        other.setblocking(False)
        while len(calls) == seen:
            with contextlib.suppress(BlockingIOError):
                other.recv(1 << 20)
            await asyncio.sleep(0)
        await until(lambda: len(calls) >= seen + 3)  # level-triggered, as before
        assert loop.remove_writer(one) is True
        seen = len(calls)
        await turns(40)
        assert len(calls) == seen


async def test_reading_and_writing_of_one_descriptor_are_apart(loop):
    one, other = socket.socketpair()
    calls = []
    with one, other:
        loop.add_reader(one, calls.append, "read")
        loop.add_writer(one, calls.append, "write")
        await until(lambda: "write" in calls)
        assert "read" not in calls
        assert loop.remove_writer(one)
        other.send(b"x")
        await until(lambda: "read" in calls)
        loop.add_writer(one, calls.append, "write again")
        await until(lambda: "write again" in calls)
        assert loop.remove_reader(one)
        calls.clear()
        await until(lambda: "write again" in calls)
        assert "read" not in calls
        assert loop.remove_writer(one)


async def test_adding_again_replaces_the_callback(loop):
    one, other = socket.socketpair()
    calls = []
    with one, other:
        other.send(b"x")
        loop.add_reader(one, calls.append, "first")
        loop.add_reader(one, calls.append, "second")
        await until(lambda: calls)
        await turns(5)
        assert set(calls) == {"second"}
        loop.remove_reader(one)


async def test_a_number_and_its_file_are_the_same(loop):
    one, other = socket.socketpair()
    calls = []
    with one, other:
        loop.add_reader(one.fileno(), calls.append, 1)
        other.send(b"x")
        await until(lambda: calls)
        assert loop.remove_reader(one) is True


@pytest.mark.parametrize("count", [0, 1, 4, 5, 10])
async def test_callbacks_take_any_number_of_arguments(loop, count):
    one, other = socket.socketpair()
    seen = []
    with one, other:
        other.send(b"x")
        loop.add_reader(
            one, lambda *args: (loop.remove_reader(one), seen.append(args)), *range(count)
        )
        await until(lambda: seen)
        assert seen == [tuple(range(count))]


async def test_a_callback_may_remove_itself_and_others(loop):
    pairs = [socket.socketpair() for _ in range(5)]
    calls = []

    def callback(number):
        calls.append(number)
        for one, _ in pairs:
            loop.remove_reader(one)

    for number, (one, other) in enumerate(pairs):
        loop.add_reader(one, callback, number)
        other.send(b"x")
    await until(lambda: calls)
    await turns(20)
    for one, other in pairs:
        one.close()
        other.close()
    assert len(calls) == 1


async def test_a_callback_that_raises_is_reported_and_called_again(loop, errors):
    one, other = socket.socketpair()
    with one, other:

        def fail():
            raise ZeroDivisionError

        other.send(b"x")
        loop.add_reader(one, fail)
        await until(lambda: len(errors) >= 2)
        loop.remove_reader(one)
    assert errors[0]["message"].startswith("Exception in callback ")
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    errors.clear()


async def test_the_end_of_the_peer_is_readable(loop):
    one, other = socket.socketpair()
    done = loop.create_future()
    with one:
        loop.add_reader(one, lambda: (loop.remove_reader(one), done.set_result(one.recv(1))))
        other.close()
        assert await asyncio.wait_for(done, PATIENCE) == b""


async def test_the_writer_of_a_pipe_without_readers_is_called(loop):
    r, w = os.pipe()
    calls = []
    os.close(r)
    loop.add_writer(w, calls.append, 1)
    await until(lambda: calls)
    loop.remove_writer(w)
    os.close(w)


# What cannot be watched.


async def test_a_regular_file_is_refused_as_asyncio_refuses_it(loop):
    with tempfile.TemporaryFile() as file:
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(PermissionError) as raised:
                add(file, print)
            assert raised.value.errno == 1
        assert loop.remove_reader(file) is False
        assert loop.remove_writer(file) is False


async def test_a_transports_descriptor_is_refused(loop):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        number = ours.fileno()
        for call in (
            lambda: loop.add_reader(ours, print),
            lambda: loop.add_writer(number, print),
            lambda: loop.remove_reader(ours),
            lambda: loop.remove_writer(number),
        ):
            with pytest.raises(RuntimeError) as raised:
                call()
            assert str(raised.value).startswith("File descriptor ")
            assert f" is used by transport {transport!r}" in str(raised.value)
        transport.close()
        await protocol.until("connection_lost")


# Descriptors that are closed too early.


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)  # asyncio's cannot remove it
async def test_closing_a_watched_descriptor_neither_spins_nor_aborts(loop):
    for make in (socket.socketpair, tcp_pair):
        one, other = make()
        calls = []
        number = one.fileno()
        loop.add_reader(number, calls.append, 1)
        loop.add_writer(number, calls.append, 1)
        one.close()
        other.close()
        await asyncio.sleep(0.005)
        calls.clear()
        await asyncio.sleep(0.01)
        assert calls == []
        loop.remove_reader(number)
        loop.remove_writer(number)


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)  # asyncio's would spin
async def test_a_duplicate_of_a_closed_watched_descriptor_does_not_keep_us_awake(loop):
    """The kernel watches the open file, which lives on in the duplicate, and goes on reporting."""
    one, other = socket.socketpair()
    number = one.fileno()
    duplicate = one.dup()
    loop.add_reader(number, int)
    one.close()
    loop.remove_reader(number)
    other.send(b"x")
    before = loop.stats["polls"]
    await asyncio.sleep(0.05)
    assert loop.stats["polls"] - before < 50
    duplicate.close()
    other.close()


@pytest.mark.parametrize("remove", ["before", "after", "never"])
async def test_a_descriptor_number_that_is_used_again(loop, remove):
    """Its former callback is not called for the new owner's events."""
    if not hasattr(loop, "stats") and remove != "before":
        pytest.skip("asyncio's selector keeps the dead registration; so the new one fails")
    old_calls, new_calls = [], []
    one, other = socket.socketpair()
    number = one.fileno()
    loop.add_reader(number, old_calls.append, 1)
    if remove == "before":
        loop.remove_reader(number)
    one.close()
    again, peer = socket.socketpair()
    assert again.fileno() == number
    if remove == "after":
        loop.remove_reader(number)
    loop.add_reader(number, new_calls.append, 1)
    peer.send(b"x")
    await until(lambda: new_calls)
    assert old_calls == []
    assert loop.remove_reader(number) is True
    for sock in (again, peer, other):
        sock.close()


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)
async def test_a_number_once_watched_becomes_a_transport(loop):
    """And taking the stale watcher away later does not harm it."""
    ours, theirs = tcp_pair()
    one, other = socket.socketpair()
    number = one.fileno()
    loop.add_reader(number, int)
    os.dup2(ours.fileno(), number, inheritable=False)  # closes `one`, takes its number
    ours.close()
    one.detach()
    with theirs, other:
        transport, protocol = await loop.create_connection(
            Recorder, sock=socket.socket(fileno=number)
        )
        theirs.send(b"hello")
        await protocol.until_received(5)
        transport.write(b"world")
        await turns()
        theirs.settimeout(PATIENCE)
        assert theirs.recv(5) == b"world"
        transport.close()
        await protocol.until("connection_lost")
        await turns()
        assert loop.remove_reader(number) in (True, False)


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)
@pytest.mark.skipif(
    BACKEND == "io_uring", reason="a request that has not left yet goes by the number"
)
async def test_a_socket_closed_behind_its_transport(loop):
    """Its number, given to somebody else, is neither read nor closed by the transport."""
    ours, theirs = tcp_pair()
    number = ours.fileno()
    transport, protocol = await loop.create_connection(Recorder, sock=ours)
    os.close(ours.detach())
    again, peer = socket.socketpair()
    assert number in (again.fileno(), peer.fileno())
    other = peer if again.fileno() == number else again
    other.send(b"private")
    await asyncio.sleep(0.005)
    assert protocol.data == b""
    transport.abort()
    await protocol.until("connection_lost")
    assert os.fstat(number)
    mine = again if again.fileno() == number else peer
    mine.setblocking(False)
    assert mine.recv(100) == b"private"
    for sock in (again, peer, theirs):
        sock.close()


async def test_many_descriptors_at_once(loop):
    pairs = [socket.socketpair() for _ in range(300)]
    seen = set()

    def readable(number):
        pairs[number][0].recv(1)
        seen.add(number)

    for number, (one, _) in enumerate(pairs):
        loop.add_reader(one, readable, number)
    for _, other in pairs:
        other.send(b"x")
    await until(lambda: len(seen) == 300)
    for one, other in pairs:
        assert loop.remove_reader(one)
        one.close()
        other.close()


def test_one_descriptor_in_two_loops(loop, new_loop):
    second = new_loop()
    one, other = socket.socketpair()
    calls = []
    with one, other:
        for number, each in enumerate((loop, second)):
            each.add_reader(
                one, lambda number=number, each=each: (calls.append(number), each.stop())
            )
        other.send(b"x")
        loop.run_forever()
        second.run_forever()
        assert set(calls) == {0, 1}
        assert loop.remove_reader(one)
        calls.clear()
        second.run_forever()
        assert set(calls) == {1}
        assert second.remove_reader(one)


def test_what_is_ready_before_the_loop_runs_is_seen(loop):
    one, other = socket.socketpair()
    with one, other:
        other.send(b"x")
        loop.add_reader(one, loop.stop)
        loop.run_forever()
        loop.remove_reader(one)


async def test_a_busy_loop_still_sees_descriptors(loop):
    one, other = socket.socketpair()
    done = asyncio.Event()

    def spin():
        if not done.is_set():
            loop.call_soon(spin)

    with one, other:
        loop.add_reader(one, done.set)
        spin()
        other.send(b"x")
        await asyncio.wait_for(done.wait(), PATIENCE)
        loop.remove_reader(one)


async def test_a_loop_in_a_loop(loop, new_loop):
    """A loop's own epoll descriptor can be watched, where there is one."""
    if sys.platform != "linux":
        pytest.skip("epoll is Linux's")
    import select

    one, other = socket.socketpair()
    inner = select.epoll()
    with one, other:
        inner.register(one, select.EPOLLIN)
        calls = []
        loop.add_reader(inner, calls.append, 1)
        other.send(b"x")
        await until(lambda: calls)
        loop.remove_reader(inner)
        inner.close()


# What is closed before it is removed: as the selector of asyncio's loop, we know it by the object.


@pytest.mark.parametrize("way", ["reader", "writer"])
def test_a_closed_socket_is_removed_by_the_object(loop, way):
    add, remove = getattr(loop, f"add_{way}"), getattr(loop, f"remove_{way}")
    one, other = socket.socketpair()
    add(one, print)
    one.close()
    other.close()
    assert remove(one) is True
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        remove(one)


def test_one_object_is_remembered_for_both_directions(loop):
    one, other = socket.socketpair()
    with other:
        loop.add_reader(one, print)
        loop.add_writer(one.fileno(), print)
        assert loop.remove_reader(one) is True
        one.close()
        assert loop.remove_writer(one) is True


def test_the_object_that_came_first_is_remembered(loop):
    class Wrapped:
        def __init__(self, sock):
            self.fileno = sock.fileno

    one, other = socket.socketpair()
    with other:
        wrapped = Wrapped(one)
        loop.add_reader(one, print)
        loop.add_reader(wrapped, print)
        one.close()
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_reader(wrapped)
        assert loop.remove_reader(one) is True


def test_a_closed_socket_that_is_not_watched_is_a_bad_descriptor(loop):
    one, other = socket.socketpair()
    one.close()
    other.close()
    for refused in (
        lambda: loop.remove_reader(one),
        lambda: loop.remove_writer(one),
        lambda: loop.add_reader(one, print),
        lambda: loop.add_writer(one, print),
    ):
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            refused()


def test_a_closed_socket_that_is_watched_may_get_another_callback(loop):
    one, other = socket.socketpair()
    loop.add_reader(one, print)
    one.close()
    other.close()
    loop.add_reader(one, print)
    with pytest.raises(OSError):
        loop.add_writer(one, print)
    with contextlib.suppress(ValueError):  # asyncio's selector has forgotten it because of that
        loop.remove_reader(one)


def test_who_is_watched_is_kept_alive(loop):
    class Wrapped:
        def __init__(self, sock):
            self.fileno = sock.fileno

    one, other = socket.socketpair()
    with one, other:
        wrapped = Wrapped(one)
        kept = weakref.ref(wrapped)
        loop.add_reader(wrapped, print)
        del wrapped
        assert kept() is not None
        loop.remove_reader(one)
        assert kept() is None


async def test_a_closed_socket_has_no_claim_to_the_next_one_with_its_number(zloop_loop):
    # asyncio's loop takes the new reader for the old one's, and never calls it.
    one, other = socket.socketpair()
    zloop_loop.add_reader(one, print)
    number = one.fileno()
    one.close()
    again, peer = socket.socketpair()
    if again.fileno() != number:  # somebody else's by now
        again, peer = peer, again
    with other, again, peer:
        seen = []
        zloop_loop.add_reader(again, seen.append, 1)
        if again.fileno() == number:
            assert zloop_loop.remove_reader(one) is False
        peer.send(b"x")
        await until(lambda: seen)
        assert zloop_loop.remove_reader(again) is True
