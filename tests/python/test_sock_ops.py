"""loop.sock_recv() and its sisters: each at once and waiting, cancelled at any point, refused, in line."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import contextvars
import errno
import gc
import inspect
import os
import random
import socket
import ssl
import sys
import tempfile
import warnings
import weakref

import pytest
from helpers import PATIENCE, Recorder, check_program, tcp_pair, turns


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE)


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    """Two ends of a connection, ours non-blocking."""
    ours, peer = tcp_pair() if request.param == "tcp" else socket.socketpair()
    ours.setblocking(False)
    with ours, peer:
        yield ours, peer


@pytest.fixture
def datagrams():
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        yield one, two


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def fill(sock):
    """Write until nothing more fits; returns how much that was."""
    count = 0
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                count += sock.send(b"." * size)
    return count


def read_all(sock, count):
    data = bytearray()
    while len(data) < count:
        data += sock.recv(count - len(data))
    return bytes(data)


def step(operation):
    """Run an operation that has nothing to wait for; returns its result."""
    with pytest.raises(StopIteration) as ended:
        operation.send(None)
    return ended.value.value


# At once: no turn of the loop passes.


async def test_what_is_there_is_received_at_once(loop, pair):
    ours, peer = pair
    peer.send(b"abcdef")
    assert step(loop.sock_recv(ours, 3)) == b"abc"
    buffer = bytearray(b"----")
    assert step(loop.sock_recv_into(ours, memoryview(buffer)[1:3])) == 2
    assert buffer == b"-de-"
    assert step(loop.sock_recv(ours, 1 << 20)) == b"f"
    assert step(loop.sock_recv_into(ours, bytearray())) == 0
    assert step(loop.sock_recv(ours, 0)) == b""


async def test_more_than_a_scratch_buffer_is_received_in_one_piece(loop, pair):
    ours, peer = pair
    for each in pair:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    message = os.urandom(200_000)
    peer.setblocking(False)
    assert peer.send(message) == len(message)
    while len(ours.recv(1 << 20, socket.MSG_PEEK)) < len(message):
        await asyncio.sleep(0)
    data = step(loop.sock_recv(ours, 1 << 20))
    assert data == message
    assert sys.getsizeof(data) < len(message) + 100


async def test_the_end_is_no_bytes(loop, pair):
    ours, peer = pair
    peer.shutdown(socket.SHUT_WR)
    assert await soon(loop.sock_recv(ours, 10)) == b""
    assert await soon(loop.sock_recv_into(ours, bytearray(10))) == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_what_fits_is_sent_at_once(loop, pair, kind):
    ours, peer = pair
    assert step(loop.sock_sendall(ours, kind(b"message"))) is None
    assert peer.recv(100) == b"message"
    assert step(loop.sock_sendall(ours, kind(b""))) is None


async def test_numbers_in_an_array_are_sent_as_bytes(loop, pair):
    import array

    ours, peer = pair
    await soon(loop.sock_sendall(ours, memoryview(array.array("I", [1, 2])).cast("B")))
    assert read_all(peer, 8) == array.array("I", [1, 2]).tobytes()


async def test_datagrams_at_once(loop, datagrams):
    one, two = datagrams
    assert step(loop.sock_sendto(one, b"question", two.getsockname())) == 8
    assert step(loop.sock_recvfrom(two, 100)) == (b"question", one.getsockname())
    step(loop.sock_sendto(one, b"again", two.getsockname()))
    buffer = bytearray(100)
    assert step(loop.sock_recvfrom_into(two, buffer)) == (5, one.getsockname())
    step(loop.sock_sendto(one, b"cut short", two.getsockname()))
    assert step(loop.sock_recvfrom_into(two, buffer, 3)) == (3, one.getsockname())
    assert buffer[:5] == b"cutin"
    step(loop.sock_sendto(one, b"cut short", two.getsockname()))
    assert step(loop.sock_recv(two, 3)) == b"cut"
    step(loop.sock_sendto(one, b"", two.getsockname()))
    assert step(loop.sock_recv(two, 3)) == b""


async def test_a_connection_that_waits_is_accepted_at_once(loop, listener):
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = step(loop.sock_accept(listener))
        with accepted:
            assert type(accepted) is socket.socket
            assert accepted.gettimeout() == 0
            assert address == client.getsockname()
            assert accepted.family == socket.AF_INET


# Waiting.


async def test_receiving_waits_for_bytes(loop, pair):
    ours, peer = pair
    for number in range(3):
        waiting = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(3)
        assert not waiting.done()
        peer.send(b"message %d" % number)
        assert await soon(waiting) == b"message %d" % number
        buffer = bytearray(100)
        waiting = asyncio.ensure_future(loop.sock_recv_into(ours, buffer))
        await turns(3)
        peer.send(b"into")
        assert await soon(waiting) == 4
        assert buffer[:4] == b"into"


async def test_receiving_does_not_hold_the_buffer_while_it_waits(loop, pair):
    ours, peer = pair
    buffer = bytearray(4)
    waiting = asyncio.ensure_future(loop.sock_recv_into(ours, buffer))
    await turns(2)
    buffer += b"longer"
    peer.send(b"0123456789")
    assert await soon(waiting) == 10
    assert buffer == b"0123456789"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_sending_waits_for_room(loop, pair, kind):
    ours, peer = pair
    message = random.Random(1).randbytes(3_000_000)
    filled = fill(ours)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, kind(message)))
    await turns(3)
    assert not sending.done()
    received = await soon(loop.run_in_executor(None, read_all, peer, filled + len(message)))
    assert await soon(sending) is None
    assert received[filled:] == message


async def test_what_changes_while_it_is_sent_is_sent_as_it_is_then(loop, pair):
    ours, peer = pair
    filled = fill(ours)
    message = bytearray(b"before")
    sending = asyncio.ensure_future(loop.sock_sendall(ours, message))
    await turns(2)
    with pytest.raises(BufferError):
        message.append(0)
    message[:] = b"behind"
    received = await soon(loop.run_in_executor(None, read_all, peer, filled + 6))
    await soon(sending)
    assert received[-6:] == b"behind"
    message.append(0)  # not held any more


async def test_datagrams_are_waited_for(loop, datagrams):
    one, two = datagrams
    waiting = asyncio.ensure_future(loop.sock_recvfrom(two, 100))
    await turns(2)
    one.sendto(b"first", two.getsockname())
    assert await soon(waiting) == (b"first", one.getsockname())
    buffer = bytearray(10)
    waiting = asyncio.ensure_future(loop.sock_recvfrom_into(two, buffer))
    await turns(2)
    one.sendto(b"second", two.getsockname())
    assert await soon(waiting) == (6, one.getsockname())


async def test_a_datagram_waits_for_room(loop):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as open_:
        name = os.path.join(folder, "socket")
        one, two = (
            open_.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in "12"
        )
        two.bind(name)
        one.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                one.sendto(b"fills", name)
                sent += 1
        sending = asyncio.ensure_future(loop.sock_sendto(one, b"last", name))
        await turns(3)
        assert not sending.done()
        for _ in range(sent):
            assert two.recv(10) == b"fills"
        assert await soon(sending) == 4
        assert two.recv(10) == b"last"


async def test_connecting_and_accepting(loop, listener):
    for _ in range(2):
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(2)
        with socket.socket() as client:
            client.setblocking(False)
            assert await soon(loop.sock_connect(client, listener.getsockname())) is None
            accepted, address = await soon(accepting)
            with accepted:
                assert address == client.getsockname()
                await soon(loop.sock_sendall(client, b"hello"))
                assert await soon(loop.sock_recv(accepted, 10)) == b"hello"


@pytest.mark.parametrize(
    "host, port",
    [
        ("localhost", int),
        ("127.0.0.1", int),
        ("127.0.0.1", str),
        ("127.1", int),
        (b"127.0.0.1", int),
    ],
)
async def test_names_are_resolved_for_connecting(loop, listener, host, port):
    with socket.socket() as client:
        client.setblocking(False)
        await soon(loop.sock_connect(client, (host, port(listener.getsockname()[1]))))
        assert client.getpeername() == listener.getsockname()


async def test_an_ipv6_address_has_two_parts_or_four(loop):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        for parts in (2, 4):
            with socket.socket(socket.AF_INET6) as client:
                client.setblocking(False)
                await soon(loop.sock_connect(client, server.getsockname()[:parts]))
                assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_refused_connection_says_whose(loop, family):
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((host, 0), family=family) as server:
        name = server.getsockname()
    for address in (name, name[:2]):
        with socket.socket(family) as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as refused:
                await soon(loop.sock_connect(client, address))
            assert refused.value.errno == errno.ECONNREFUSED
            assert refused.value.strerror == f"Connect call failed {name}"


async def test_connecting_to_a_path(loop):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = os.path.join(folder, "socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await soon(loop.sock_connect(client, path))
            server.bind(path)
            server.listen()
            await soon(loop.sock_connect(client, path))
            assert client.getpeername() == path


async def test_one_socket_receives_and_sends_at_the_same_time(loop, pair):
    ours, peer = pair
    filled = fill(ours)
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    sending = asyncio.ensure_future(loop.sock_sendall(ours, b"message"))
    await turns(3)
    peer.send(b"first")
    assert await soon(receiving) == b"first"
    await turns(3)
    assert not sending.done()
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await turns(3)
    received = await soon(loop.run_in_executor(None, read_all, peer, filled + 7))
    await soon(sending)
    assert received[-7:] == b"message"
    assert not receiving.done()
    peer.send(b"second")
    assert await soon(receiving) == b"second"


async def test_an_error_of_the_connection_is_raised(loop):
    from helpers import reset

    ours, peer = tcp_pair()
    with ours:
        ours.setblocking(False)
        waiting = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await soon(waiting)
        with pytest.raises(BrokenPipeError):
            await soon(loop.sock_sendall(ours, b"x"))


# A coroutine, in all that one can ask of it.

OPERATIONS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 10),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(10)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 9)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
}

operations = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture
def quiet():
    """A socket that nothing comes from and nothing fits into."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        fill(ours)
        yield ours


@operations
async def test_an_operation_is_a_coroutine(loop, quiet, operation):
    made = operation(loop, quiet)
    assert asyncio.iscoroutine(made)
    assert isinstance(made, collections.abc.Coroutine)
    assert inspect.isawaitable(made)
    assert not asyncio.isfuture(made)
    assert made.__qualname__.endswith("." + made.__name__)
    assert repr(made).startswith("<coroutine object ")
    assert made.__name__ in repr(made)
    assert not made.cr_running
    made.close()


@operations
@pytest.mark.without_debug
async def test_nothing_happens_until_it_is_awaited(loop, operation):
    closed = socket.socket()
    closed.close()
    made = operation(loop, closed)
    with pytest.raises(OSError) as raised:
        await made
    assert raised.value.errno == errno.EBADF
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await made


@operations
def test_what_is_never_awaited_is_told(loop, quiet, operation):
    with pytest.warns(RuntimeWarning, match="coroutine '.*sock_.*' was never awaited"):
        operation(loop, quiet)
        gc.collect()
    made = operation(loop, quiet)
    made.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del made
        gc.collect()


async def test_a_coroutine_that_just_started_takes_no_value(loop, quiet):
    made = loop.sock_recv(quiet, 10)
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        made.send(1)
    made.close()


def traceback_of_a_failure():
    try:
        raise KeyError
    except KeyError as exc:
        return exc.__traceback__


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of more than one argument
async def test_what_is_thrown_in_comes_out(loop, quiet, started):
    traceback = traceback_of_a_failure()
    for thrown in [
        (KeyError("key"),),
        (KeyError, "key"),
        (KeyError, KeyError("key"), None),
        (KeyError,),
        (KeyError, ("key", "and more")),
        (KeyError, None, traceback),
    ]:
        made = loop.sock_recv(quiet, 10)
        if started:
            future = made.send(None)
            assert future._asyncio_future_blocking
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with pytest.raises(KeyError):
                made.throw(*thrown)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            made.send(None)
    made = loop.sock_recv(quiet, 10)
    with pytest.raises(TypeError, match="exceptions must be classes or instances deriving from"):
        made.throw(1)
    with pytest.raises(TypeError, match="instance exception may not have a separate value"):
        made.throw(KeyError(), 1)
    with pytest.raises(TypeError, match="third argument must be a traceback"):
        made.throw(KeyError, None, 1)
    with pytest.raises(TypeError, match="throw expected"):
        made.throw()
    made.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        made.throw(KeyError)


async def test_the_future_that_is_waited_for_must_be_waited_for(loop, quiet):
    made = loop.sock_recv(quiet, 10)
    made.send(None)
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        made.send(None)
    made = loop.sock_recv(quiet, 10)
    made.send(None).cancel()
    with pytest.raises(asyncio.CancelledError):
        made.send(None)


async def test_an_await_method_can_hand_on_to_an_operation(loop, pair):
    ours, peer = pair

    class Message:
        def __await__(self):
            return (yield from loop.sock_recv(ours, 10).__await__())

    peer.send(b"text")
    assert await Message() == b"text"


async def test_tasks_gather_and_wait_for_take_operations(loop, pair):
    ours, peer = pair
    task = asyncio.create_task(loop.sock_recv(ours, 10), name="receiving")
    assert "receiving" in repr(task)
    await turns(2)
    assert "sock_recv" in repr(task)
    assert task.get_stack() is not None
    peer.send(b"one")
    assert await soon(task) == b"one"
    peer.send(b"two")
    got, sent = await asyncio.gather(loop.sock_recv(ours, 10), loop.sock_sendall(ours, b"three"))
    assert (got, sent) == (b"two", None)
    assert peer.recv(10) == b"three"
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.sock_recv(ours, 10), 0.01)
    peer.send(b"four")
    assert await soon(loop.sock_recv(ours, 10)) == b"four"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
async def test_an_eager_task_is_done_at_once_when_there_is_something(loop, pair):
    ours, peer = pair
    peer.send(b"text")
    assert asyncio.Task(loop.sock_recv(ours, 10), loop=loop, eager_start=True).result() == b"text"
    waiting = asyncio.Task(loop.sock_recv(ours, 10), loop=loop, eager_start=True)
    assert not waiting.done()
    peer.send(b"more")
    assert await soon(waiting) == b"more"


async def test_the_context_stays(loop, pair):
    ours, peer = pair
    variable = contextvars.ContextVar("variable", default="outer")

    async def work():
        variable.set("inner")
        await loop.sock_recv(ours, 10)
        return variable.get()

    task = asyncio.create_task(work())
    await turns(2)
    peer.send(b"x")
    assert await soon(task) == "inner"
    assert variable.get() == "outer"


# Cancelling.


@operations
async def test_a_cancelled_operation_leaves_the_socket_to_the_next(loop, quiet, operation):
    peer = socket.socket()
    for passed in range(3):  # before it begins; while it waits
        task = asyncio.ensure_future(loop.sock_recv(quiet, 10))
        await turns(passed)
        task.cancel("reason")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
    peer.close()
    assert not loop.remove_reader(quiet)
    assert not loop.remove_writer(quiet)


async def test_receiving_again_after_a_cancel(loop, pair):
    ours, peer = pair
    for passed in range(4):
        task = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns(passed)
        task.cancel()
        again = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns(passed)
        peer.send(b"text")
        assert await soon(again) == b"text"
        assert task.cancelled()


async def test_a_cancelled_sending_has_sent_a_part_and_not_more(loop, pair):
    ours, peer = pair
    filled = fill(ours)
    task = asyncio.ensure_future(loop.sock_sendall(ours, b"never"))
    await turns(2)
    task.cancel()
    await turns(2)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, b"always"))
    received = await soon(loop.run_in_executor(None, read_all, peer, filled + 6))
    await soon(sending)
    assert received[-6:] == b"always"


async def test_a_cancelled_connecting_ends(loop, listener):
    with socket.socket() as client:
        client.setblocking(False)
        task = asyncio.ensure_future(loop.sock_connect(client, listener.getsockname()))
        await turns(1)
        task.cancel()
        await turns(2)
        assert task.done()


async def test_a_cancel_when_the_bytes_are_there_already_loses_none(zloop_loop, pair):
    # asyncio receives when the descriptor is ready, and drops what it has when the task is cancelled.
    ours, peer = pair
    loop = zloop_loop
    for passed in range(4):
        task = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns(2)
        peer.send(b"text")
        for _ in range(passed):
            await asyncio.sleep(0.001)
        if task.done():
            assert task.result() == b"text"
            continue
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert await task == b"text"
            continue
        assert await soon(loop.sock_recv(ours, 10)) == b"text"


async def test_cancelled_again_and_again_no_byte_is_lost(zloop_loop, pair):
    loop, (ours, peer) = zloop_loop, pair
    dice = random.Random(7)
    message = dice.randbytes(20_000)
    received = bytearray()

    async def send():
        at = 0
        while at < len(message):
            count = dice.randrange(1, 200)
            peer.send(message[at : at + count])
            at += count
            await turns(dice.randrange(3))

    async def receive():
        while len(received) < len(message):
            task = asyncio.ensure_future(loop.sock_recv(ours, dice.randrange(1, 150)))
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
                if task.done():
                    break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                received.extend(await task)

    await soon(asyncio.gather(send(), receive()))
    assert received == message


async def test_cancelled_accepts_lose_no_connection(zloop_loop, listener):
    loop, dice, accepted = zloop_loop, random.Random(3), []
    clients = []
    for _ in range(40):
        task = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(dice.randrange(3))
        clients.append(socket.create_connection(listener.getsockname()))
        await turns(dice.randrange(4))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            accepted.append((await task)[0])
    while len(accepted) < len(clients):
        accepted.append((await soon(loop.sock_accept(listener)))[0])
    names = {each.getpeername() for each in accepted}
    assert names == {each.getsockname() for each in clients}
    for each in clients + accepted:
        each.close()


# Refused.


@operations
async def test_a_blocking_socket_is_refused_in_debug_mode(loop, operation):
    loop.set_debug(True)
    with socket.socket() as sock:
        for timeout in (None, 1.0):
            sock.settimeout(timeout)
            with pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
                await operation(loop, sock)


@operations
async def test_a_tls_socket_is_refused(loop, operation):
    ours, peer = tcp_pair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        peer,
        context.wrap_socket(ours, do_handshake_on_connect=False, server_hostname="x") as sock,
    ):
        sock.setblocking(False)
        with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
            await operation(loop, sock)


REFUSED = {
    "recv: negative": (lambda loop, sock: loop.sock_recv(sock, -1), ValueError),
    "recv: text": (lambda loop, sock: loop.sock_recv(sock, "1"), TypeError),
    "recv: huge": (lambda loop, sock: loop.sock_recv(sock, 1 << 80), OverflowError),
    "recv: missing": (lambda loop, sock: loop.sock_recv(sock), TypeError),
    "recv: unknown": (lambda loop, sock: loop.sock_recv(sock, 1, flags=0), TypeError),
    "recv: no socket": (lambda loop, sock: loop.sock_recv(sock.fileno(), 1), AttributeError),
    "recv: nothing": (lambda loop, sock: loop.sock_recv(), TypeError),
    "recv_into: bytes": (lambda loop, sock: loop.sock_recv_into(sock, b"12"), TypeError),
    "recv_into: text": (lambda loop, sock: loop.sock_recv_into(sock, "12"), TypeError),
    "recv_into: strided": (
        lambda loop, sock: loop.sock_recv_into(sock, memoryview(bytearray(9))[::2]),
        TypeError,
    ),
    "recvfrom: text": (lambda loop, sock: loop.sock_recvfrom(sock, "1"), TypeError),
    "recvfrom_into: long": (
        lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(1), 2),
        ValueError,
    ),
    "recvfrom_into: number": (lambda loop, sock: loop.sock_recvfrom_into(sock, 1), TypeError),
    "sendall: text": (lambda loop, sock: loop.sock_sendall(sock, "text"), TypeError),
    "sendall: none": (lambda loop, sock: loop.sock_sendall(sock, None), TypeError),
    "sendto: text": (lambda loop, sock: loop.sock_sendto(sock, "x", ("::", 1)), TypeError),
    "sendto: address": (lambda loop, sock: loop.sock_sendto(sock, b"x", 1), TypeError),
    "connect: number": (lambda loop, sock: loop.sock_connect(sock, 1), TypeError),
    "connect: port": (
        lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 70000)),
        OverflowError,
    ),
    "connect: short": (lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1",)), ValueError),
    "accept: not listening": (lambda loop, sock: loop.sock_accept(sock), OSError),
}


@pytest.mark.parametrize("wrong, expected", REFUSED.values(), ids=REFUSED)
async def test_what_is_wrong_is_refused_in_the_words_of_asyncio(wrong, expected, loop, new_loop):
    words = []
    for each in (loop, asyncio.SelectorEventLoop()):
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(expected) as raised:
                await wrong(each, sock)
            words.append((raised.type, str(raised.value)))
        if each is not loop:
            each.close()
    assert words[0] == words[1]


async def test_a_released_view_is_refused(loop, pair):
    ours, _ = pair
    view = memoryview(b"released")
    view.release()
    with pytest.raises(ValueError, match="released memoryview"):
        await loop.sock_sendall(ours, view)


async def test_a_descriptor_in_service_of_a_transport_is_refused(loop):
    ours, peer = tcp_pair()
    with peer:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        for operation in (loop.sock_recv(ours, 10), loop.sock_recvfrom(ours, 10)):
            with pytest.raises(RuntimeError, match="is used by transport"):
                await soon(operation)
        transport.close()
        await protocol.until("connection_lost")


@pytest.mark.parametrize("method", ["recv", "send"])
async def test_what_a_subclass_overrides_is_called(loop, method):
    called = []

    class Socket(socket.socket):
        def recv(self, *args):
            called.append("recv")
            return super().recv(*args)

        def send(self, *args):
            called.append("send")
            return super().send(*args)

    ours, peer = socket.socketpair()
    with peer, Socket(ours.family, ours.type, ours.proto, fileno=ours.detach()) as sock:
        sock.setblocking(False)
        if method == "recv":
            waiting = asyncio.ensure_future(loop.sock_recv(sock, 10))
            await turns(2)
            peer.send(b"text")
            assert await soon(waiting) == b"text"
        else:
            await soon(loop.sock_sendall(sock, b"text"))
            assert peer.recv(10) == b"text"
    assert set(called) == {method}


def test_a_subclass_of_the_loop_can_wrap_an_operation(new_loop, pair):
    ours, peer = pair

    class Wrapping(type(new_loop())):
        async def sock_recv(self, sock, n):
            return (await super().sock_recv(sock, n)).upper()

    wrapping = Wrapping()
    waiting = wrapping.create_task(wrapping.sock_recv(ours, 10))
    wrapping.call_soon(wrapping.call_soon, peer.send, b"text")
    assert wrapping.run_until_complete(waiting) == b"TEXT"
    wrapping.close()


# The end of the loop, of the socket, of the descriptor.


def test_an_operation_can_outlive_its_loop(new_loop):
    loop = new_loop()
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        fill(ours)
        made = [loop.sock_recv(ours, 10), loop.sock_sendall(ours, b"x")]
        for each in made:
            each.send(None)
        loop.close()
        for each in made:
            each.close()
        peer.send(b"text")
        assert step(loop.sock_recv(ours, 10)) == b"text"
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            loop.sock_recv(ours, 10).send(None)


def test_a_closed_loop_lets_go_of_what_waited(new_loop):
    loop = new_loop()
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        task = loop.create_task(loop.sock_recv(ours, 10))
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False
        sock, waiting, of_loop = (weakref.ref(each) for each in (ours, task, loop))
        ours.close()
        loop.close()
        loop.set_exception_handler(None)
        del ours, task
        gc.collect()
        assert sock() is None
        assert waiting() is None
        assert of_loop() is loop


async def closed_while_waiting(loop):
    """An operation whose socket was closed meanwhile, the number it had, and its peer."""
    former, former_peer = socket.socketpair()
    former.setblocking(False)
    number = former.fileno()
    stale = asyncio.ensure_future(loop.sock_recv(former, 10))
    await turns(2)
    former.close()
    return stale, number, former_peer


async def test_a_number_that_is_used_again_belongs_to_the_new_socket(zloop_loop):
    # asyncio's selector fails with FileNotFoundError, once.
    loop = zloop_loop
    stale, number, former_peer = await closed_while_waiting(loop)
    fresh, peer = socket.socketpair()
    with former_peer, fresh, peer:
        fresh.setblocking(False)
        assert fresh.fileno() == number
        waiting = asyncio.ensure_future(loop.sock_recv(fresh, 10))
        with pytest.raises(OSError) as raised:
            await soon(stale)
        assert raised.value.errno == errno.EBADF
        assert not waiting.done()
        peer.send(b"text")
        assert await soon(waiting) == b"text"


async def test_a_closed_number_is_left_to_its_new_owner(zloop_loop):
    loop = zloop_loop
    stale, number, former_peer = await closed_while_waiting(loop)
    fresh, peer = socket.socketpair()
    assert fresh.fileno() == number
    with former_peer, peer:
        transport, protocol = await loop.create_unix_connection(Recorder, sock=fresh)
        stale.cancel()
        await turns(2)
        assert stale.cancelled()
        peer.send(b"text")
        await protocol.until_received(4)
        transport.close()
        await protocol.until("connection_lost")


async def test_add_reader_takes_a_closed_number_too(zloop_loop):
    loop = zloop_loop
    stale, _, former_peer = await closed_while_waiting(loop)
    fresh, peer = socket.socketpair()
    with former_peer, fresh, peer:
        seen = asyncio.Event()
        loop.add_reader(fresh, seen.set)
        with pytest.raises(OSError):
            await soon(stale)
        peer.send(b"x")
        await soon(seen.wait())
        assert loop.remove_reader(fresh)


# In line. In asyncio the last one to come has the descriptor, and the others wait for ever.


async def test_receivers_of_one_socket_stand_in_line(zloop_loop, pair):
    loop, (ours, peer) = zloop_loop, pair
    waiting = [asyncio.ensure_future(loop.sock_recv(ours, 3)) for _ in range(4)]
    await turns(2)
    peer.send(b"one")
    assert await soon(waiting[0]) == b"one"
    waiting[1].cancel()
    peer.send(b"twothree")
    assert await soon(asyncio.gather(*waiting[2:])) == [b"two", b"thr"]
    assert await soon(loop.sock_recv(ours, 3)) == b"ee"


async def test_senders_and_acceptors_stand_in_line(zloop_loop, listener):
    loop = zloop_loop
    waiting = [asyncio.ensure_future(loop.sock_accept(listener)) for _ in range(3)]
    await turns(2)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    accepted = [each for each, _ in await soon(asyncio.gather(*waiting))]
    assert {each.getpeername() for each in accepted} == {each.getsockname() for each in clients}
    client, server = clients[0], accepted[0]
    if client.getsockname() != server.getpeername():
        server = next(each for each in accepted if each.getpeername() == client.getsockname())
    filled = fill(server)
    sending = [
        asyncio.ensure_future(loop.sock_sendall(server, b"%d" % number)) for number in range(3)
    ]
    await turns(2)
    received = await soon(loop.run_in_executor(None, read_all, client, filled + 3))
    await soon(asyncio.gather(*sending))
    assert sorted(received[-3:]) == sorted(b"012")
    for each in clients + accepted:
        each.close()


async def test_a_callback_goes_first_and_its_removal_lets_the_operation_on(zloop_loop, pair):
    loop, (ours, peer) = zloop_loop, pair
    waiting = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns(2)
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(3)))
    peer.send(b"one")
    while not seen:
        await asyncio.sleep(0)
    assert seen == [b"one"]
    assert not waiting.done()
    assert loop.remove_reader(ours)
    peer.send(b"two")
    assert await soon(waiting) == b"two"


async def test_an_operation_ends_a_callback_as_in_asyncio(loop, pair):
    ours, peer = pair
    seen = []
    loop.add_reader(ours, seen.append, 1)
    waiting = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns(2)
    peer.send(b"text")
    assert await soon(waiting) == b"text"
    await turns(2)
    assert not seen
    assert not loop.remove_reader(ours)


async def test_a_peer_that_is_always_faster_starves_nobody(zloop_loop):
    # asyncio's task would run for ever.
    loop = zloop_loop
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.setblocking(False)
        loop.call_soon(ours.shutdown, socket.SHUT_RDWR)
        rounds = 0
        with contextlib.suppress(BrokenPipeError):
            while rounds < 100_000:
                await loop.sock_sendall(peer, b"x")
                assert await loop.sock_recv(ours, 1) in (b"x", b"")
                rounds += 1
        assert rounds < 1000


# Nothing stays behind.


async def test_operations_leave_nothing_behind(loop, pair):
    ours, peer = pair
    peer.setblocking(False)

    async def round_():
        waiting = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        await loop.sock_sendall(peer, b"text")
        await waiting
        cancelled = asyncio.ensure_future(loop.sock_recv_into(ours, bytearray(10)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        await asyncio.sleep(0)

    for _ in range(20):
        await round_()
    gc.collect()
    before = len(gc.get_objects()), sys.getrefcount(ours), sys.getrefcount(loop)
    for _ in range(200):
        await round_()
    gc.collect()
    after = len(gc.get_objects()), sys.getrefcount(ours), sys.getrefcount(loop)
    assert after[0] - before[0] < 20
    assert after[1:] == before[1:]


def test_development_mode_has_nothing_to_say():
    check_program(
        """
        import asyncio, socket, zloop

        async def main():
            loop = asyncio.get_running_loop()
            with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
                listener.setblocking(False)
                client.setblocking(False)
                accepting = asyncio.create_task(loop.sock_accept(listener))
                await loop.sock_connect(client, listener.getsockname())
                server, _ = await accepting
                with server:
                    for operation in (loop.sock_recv(server, 9), loop.sock_recv_into(server, bytearray(9))):
                        waiting = asyncio.create_task(operation)
                        await asyncio.sleep(0)
                        await loop.sock_sendall(client, b"text")
                        await waiting
                    waiting = asyncio.create_task(loop.sock_recv(server, 9))
                    await asyncio.sleep(0)
                    waiting.cancel()

        zloop.run(main())
        """,
        options=("-X", "dev", "-W", "error"),
    )


@pytest.mark.parametrize("how", ["sock_connect", "create_unix_connection"])
async def test_a_unix_listener_without_room_refuses(zloop_loop, tmp_path, how):
    # EAGAIN of connect(2) is no EINPROGRESS. asyncio takes the socket for connected.
    path = str(tmp_path / "socket")
    with contextlib.ExitStack() as open_sockets:

        def unix_socket():
            sock = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            return sock

        listener = unix_socket()
        listener.bind(path)
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                unix_socket().connect(path)

        with pytest.raises(BlockingIOError) as refused:
            if how == "sock_connect":
                await zloop_loop.sock_connect(unix_socket(), path)
            else:
                await zloop_loop.create_unix_connection(asyncio.Protocol, path)
        assert refused.value.errno == errno.EAGAIN

        open_sockets.enter_context(listener.accept()[0])  # now there is
        sock = unix_socket()
        await zloop_loop.sock_connect(sock, path)
        assert sock.getpeername() == path
