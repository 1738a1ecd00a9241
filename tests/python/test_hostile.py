"""Objects of odd types, callbacks that close, drop, re-enter or raise, and no memory: an exception, no crash.

What may crash runs in a child. What asyncio survives as well, runs on its loop too. The long searches are
marked `hostile`: `pytest -m hostile`, or `make test CHECKS=hostile`.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import FACTORIES, Recorder, check_program, environment, tcp_pair, turns

PROGRAMS = Path(__file__).with_name("hostile")

PRELUDE = """
import asyncio, contextlib, contextvars, faulthandler, gc, os, socket, sys, warnings

faulthandler.dump_traceback_later(20, exit=True)
warnings.simplefilter("ignore")
sys.unraisablehook = lambda *_: None

def new_loop():
    if sys.argv[1] == "asyncio":
        made = asyncio.SelectorEventLoop()
    else:
        import zloop
        made = zloop.new_event_loop()
    made.set_exception_handler(lambda *_: None)
    return made

def turn(loop, seconds=0.001):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()

def pair(kind=socket.SOCK_STREAM):
    both = socket.socketpair(socket.AF_UNIX, kind)
    for each in both:
        each.setblocking(False)
    return both
"""

on_both = pytest.mark.parametrize("kind", FACTORIES)


def check(body: str, kind: str = "zloop", **more: Any) -> str:
    return check_program(PRELUDE + body, kind, **more)


# Contexts and slots.


def test_a_context_of_another_type_is_an_error_of_that_callback(
    loop: Any, errors: list[dict[str, Any]]
) -> None:
    ran: list[int] = []
    for schedule in (loop.call_soon, loop.call_soon_threadsafe):
        schedule(ran.append, 1, context="no context")
    loop.call_later(0, ran.append, 2, context=5)
    loop.call_soon(ran.append, 3)
    loop.call_later(0.01, loop.stop)

    loop.run_forever()

    assert ran == [3]
    assert [type(each["exception"]) for each in errors] == [AttributeError] * 3
    errors.clear()


def test_what_runs_a_callback_as_a_context_does_is_one(loop: Any) -> None:
    class Context:
        def run(self, callback: Any, *args: Any) -> None:
            callback(*args, "ran here")

    seen: list[Any] = []
    loop.call_soon(lambda *args: seen.append(args), 1, context=Context())
    loop.call_soon(loop.stop)

    loop.run_forever()

    assert seen == [(1, "ran here")]


@on_both
def test_a_task_in_a_context_of_another_type_harms_nobody(kind: str) -> None:
    check(
        """
async def nothing():
    pass
loop = new_loop()
told = []
loop.set_exception_handler(lambda _, context: told.append(type(context.get("exception"))))
for _ in range(20):
    task = loop.create_task(nothing(), context="no context")
    future = loop.create_future()
    future.add_done_callback(int, context="no context")
    future.set_result(1)
turn(loop)
gc.collect()
assert told.count(AttributeError) == 40, told
loop.close()
os._exit(0)
""",
        kind,
    )


def test_what_a_handle_is_to_call_can_be_replaced_before_it_does(loop: Any) -> None:
    seen: list[Any] = []
    context = contextvars.copy_context()
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    context.run(variable.set, 7)
    for handle in (loop.call_soon(int), loop.call_later(0, int)):
        handle._callback = lambda *args: seen.append((*args, variable.get()))
        handle._args = (1, 2)
        handle._context = context
    loop.call_later(0.01, loop.stop)

    loop.run_forever()

    assert seen == [(1, 2, 7)] * 2


def test_a_handle_that_is_initialised_again_calls_what_it_was_given_last(loop: Any) -> None:
    seen: list[int] = []
    handle = loop.call_soon(int)
    timer = loop.call_later(0, int)

    handle.__init__(seen.append, (1,), loop)
    timer.__init__(loop.time(), seen.append, (2,), loop)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()

    assert seen == [1, 2]


@on_both
def test_the_slots_of_a_handle_take_anything(kind: str) -> None:
    check(
        """
odd = [None, 5, "x", (), [], object(), int, b"", {}, print, contextvars.copy_context(), ...]
for name in ("_callback", "_args", "_cancelled", "_loop", "_repr", "_context", "_source_traceback"):
    for value in odd:
        loop = new_loop()
        def disturb():
            for handle in (loop.call_soon(int), loop.call_later(0, int), loop.call_soon_threadsafe(int)):
                for slot in (getattr(asyncio.Handle, name), getattr(type(handle), name)):
                    with contextlib.suppress(AttributeError, TypeError):
                        slot.__delete__(handle) if value is ... else slot.__set__(handle, value)
                with contextlib.suppress(Exception):
                    repr(handle), handle.cancel()
        with contextlib.suppress(Exception):
            loop.call_soon(disturb)
            turn(loop)
        with contextlib.suppress(RuntimeError):
            loop.close()
    gc.collect()
os._exit(0)
""",
        kind,
    )


@on_both
def test_a_callback_may_replace_all_that_its_handle_has_while_it_runs(kind: str) -> None:
    check(
        """
import functools
def disturb(*args):
    handle = handles.pop()
    asyncio.Handle._callback.__set__(handle, None)
    asyncio.Handle._args.__set__(handle, (1,))
    handle._context = contextvars.copy_context()
    handle._args, handle._callback = (1, 2), print
    handle.cancel()
    gc.collect()
    assert args[-1] == [1]
loop = new_loop()
for count in (1, 4, 10):
    handles = [loop.call_soon(functools.partial(disturb, object()), *range(count), [1])]
    loop.call_soon(contextvars.copy_context)
    turn(loop)
loop.close()
""",
        kind,
    )


async def test_extra_info_is_what_the_attribute_holds(loop: Any) -> None:
    ours, theirs = tcp_pair()
    with theirs:
        transport, _ = await loop.create_connection(Recorder, sock=ours)
        known = {
            name: transport.get_extra_info(name) for name in ("peername", "sockname", "socket")
        }

        assert {name: transport._extra[name] for name in known} == known
        transport._extra["more"] = 1
        assert transport.get_extra_info("more") == 1
        transport._extra = {"peername": 2}
        assert transport.get_extra_info("peername") == 2
        assert transport.get_extra_info("sockname", 3) == 3
        transport._extra = 5
        with pytest.raises(AttributeError):
            transport.get_extra_info("socket")
        transport.abort()
        await turns(3)


@on_both
def test_the_slots_of_a_transport_take_anything(kind: str) -> None:
    check(
        """
mixin = asyncio.transports._FlowControlMixin
async def go():
    for value in ({}, None, 5, [1], "x", object(), ...):
        one, other = pair()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, one)
        for name in ("_extra", "_loop", "_high_water", "_low_water", "_protocol_paused"):
            for slot in {getattr(mixin, name), getattr(type(transport), name, getattr(mixin, name))}:
                with contextlib.suppress(AttributeError, TypeError, ValueError):
                    slot.__delete__(transport) if value is ... else slot.__set__(transport, value)
        with contextlib.suppress(Exception):
            mixin.__init__(transport, None, None)
        for name in ("peername", "socket", "nothing"):
            with contextlib.suppress(Exception):
                transport.get_extra_info(name)
        for call in (lambda: transport.write(b"x" * 1_000_000), lambda: repr(transport), transport.abort):
            with contextlib.suppress(Exception):
                call()
        other.close()
        await asyncio.sleep(0)
        del transport
        gc.collect()
loop = new_loop()
with contextlib.suppress(AttributeError, TypeError):
    loop.run_until_complete(go())
os._exit(0)
""",
        kind,
    )


# Chains.


@on_both
@pytest.mark.parametrize("schedule", ["call_soon(f, last)", "call_later(0, f, last)"])
def test_a_chain_of_handles_is_freed_however_long_it_is(kind: str, schedule: str) -> None:
    check(
        f"""
loop = new_loop()
last = None
f = lambda *_: None
for _ in range(100_000):
    last = loop.{schedule}
turn(loop, 0.2)
del last
loop.close()
""",
        kind,
    )


def test_a_chain_of_operations_is_freed_however_long_it_is() -> None:
    check(
        """
loop = new_loop()
one, other = pair()
last = None
for _ in range(100_000):
    last = loop.sock_recv_into(one, last)
del last
loop.close()
"""
    )


# Callbacks that raise.


class Unspeakable:
    """A callback whose repr() raises."""

    def __call__(self) -> None:
        pass

    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_a_reader_whose_repr_raises_is_removed(loop: Any) -> None:
    loop.set_debug(True)
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, Unspeakable())
        with pytest.raises(ZeroDivisionError):
            loop.remove_reader(one)
        assert not loop.remove_reader(one)

        loop.add_reader(one, Unspeakable())
        seen: list[int] = []
        with pytest.raises(ZeroDivisionError):
            loop.add_reader(one, seen.append, 1)
        other.send(b"x")
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        assert seen
        loop.remove_reader(one)


def test_a_loop_closes_whatever_the_repr_of_its_readers_does(new_loop: Any) -> None:
    loop = new_loop()
    loop.set_debug(True)
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, Unspeakable())
        loop.add_writer(one, Unspeakable())
        loop.close()
    assert loop.is_closed()


# Destructors.


@on_both
@pytest.mark.parametrize("carrier", ["a reader", "a timer", "a callback", "a protocol"])
def test_what_a_closing_loop_drops_may_do_anything(kind: str, carrier: str) -> None:
    check(
        f"""
carrier = {carrier!r}
"""
        + """
class Acts(asyncio.Protocol):
    action = None
    def __call__(self):
        pass
    def __del__(self):
        with contextlib.suppress(Exception):
            self.action()

for name in ("close", "stop", "run", "schedule", "watch", "write", "abort", "collect"):
    loop = new_loop()
    open_ones = []
    async def connect(factory):
        one, other = pair()
        open_ones.append(other)
        return await loop.connect_accepted_socket(factory, one)
    async def go():
        others = [(await connect(asyncio.Protocol))[0] for _ in range(3)]
        acts = Acts()
        acts.action = {
            "close": loop.close, "stop": loop.stop, "collect": gc.collect,
            "run": lambda: loop.run_until_complete(asyncio.sleep(0)),
            "schedule": lambda: (loop.call_soon(int), loop.call_later(1, int)),
            "watch": lambda: loop.add_reader(0, int),
            "write": lambda: [each.write(b"x" * 3_000_000) for each in others],
            "abort": lambda: [each.abort() for each in others],
        }[name]
        if carrier == "a reader":
            open_ones.append(pair())
            loop.add_reader(open_ones[-1][0], acts)
        elif carrier == "a timer":
            loop.call_later(1000, acts)
        elif carrier == "a callback":
            loop.call_soon(lambda: loop.call_soon(acts))
        else:
            await connect(lambda: acts)
    loop.run_until_complete(go())
    loop.close()
    loop.close()
    del loop, go
    gc.collect()
os._exit(0)
""",
        kind,
    )


@on_both
def test_a_replaced_reader_may_close_the_loop_when_it_is_dropped(kind: str) -> None:
    check(
        """
class Closes:
    def __call__(self): pass
    def __del__(self): loop.close()
loop = new_loop()
one, other = pair()
loop.add_reader(one, Closes())
loop.add_reader(one, int)
assert loop.is_closed()
""",
        kind,
    )


@on_both
def test_a_reader_that_is_dropped_may_add_itself_again(kind: str) -> None:
    check(
        """
class Again:
    def __call__(self): pass
    def __del__(self):
        global left
        left -= 1
        if left > 0:
            loop.add_reader(one, Again())
left = 5
loop = new_loop()
one, other = pair()
loop.add_reader(one, Again())
while loop.remove_reader(one):
    pass
loop.close()
assert left == 0
""",
        kind,
    )


# Private calls.


def test_a_loop_does_not_turn_within_its_turn(zloop_loop: Any) -> None:
    seen: list[str] = []

    def nested() -> None:
        for call in (zloop_loop._run_once, zloop_loop._drop, zloop_loop.close):
            with pytest.raises(RuntimeError) as raised:
                call()
            seen.append(str(raised.value))

    zloop_loop.call_soon(nested)
    zloop_loop.run_until_complete(asyncio.sleep(0.001))

    assert "already running" in seen[0]
    assert seen[1:] == ["Cannot close a running event loop"] * 2


def test_a_loop_that_is_said_not_to_run_is_not_closed_within_its_turn(zloop_loop: Any) -> None:
    async def deny() -> None:
        thread, zloop_loop._thread_id = zloop_loop._thread_id, None
        with pytest.raises(RuntimeError, match="Cannot close"):
            zloop_loop.close()
        zloop_loop._thread_id = thread

    zloop_loop.run_until_complete(deny())
    assert not zloop_loop.is_closed()


def test_another_thread_does_not_turn_a_loop_that_turns(zloop_loop: Any) -> None:
    raised: list[BaseException] = []

    def turn() -> None:
        time.sleep(0.02)
        try:
            zloop_loop._run_once()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=turn)
    thread.start()
    zloop_loop.run_until_complete(asyncio.sleep(0.1))
    thread.join()
    assert [type(each) for each in raised] == [RuntimeError]


def test_a_closed_loop_stays_closed_when_it_is_initialised_again(zloop_loop: Any) -> None:
    zloop_loop.close()
    zloop_loop._closed = False
    assert zloop_loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        zloop_loop.call_soon(int)


@pytest.mark.parametrize("kind_of_end", ["stream", "datagram", "reading", "writing"])
async def test_an_open_transport_whose_connection_is_declared_lost_is_over(
    zloop_loop: Any, kind_of_end: str
) -> None:
    loop = zloop_loop
    others: list[Any] = []
    if kind_of_end in ("stream", "datagram"):
        how = socket.SOCK_STREAM if kind_of_end == "stream" else socket.SOCK_DGRAM
        one, other = socket.socketpair(socket.AF_UNIX, how)
        others.append(other)
        if kind_of_end == "stream":
            transport, protocol = await loop.connect_accepted_socket(Recorder, one)
        else:
            transport, protocol = await loop.create_datagram_endpoint(Recorder, sock=one)
    else:
        r, w = os.pipe()
        reading, writing = os.fdopen(r, "rb", 0), os.fdopen(w, "wb", 0)
        connect = loop.connect_read_pipe if kind_of_end == "reading" else loop.connect_write_pipe
        transport, protocol = await connect(
            Recorder, reading if kind_of_end == "reading" else writing
        )
        others.append(writing if kind_of_end == "reading" else reading)

    transport._call_connection_lost(None)
    transport.close()
    await turns(5)

    assert protocol.losses == [None]
    assert transport.is_closing()
    for each in others:
        each.close()


def test_private_factories_refuse_what_is_no_socket(zloop_loop: Any) -> None:
    loop = zloop_loop
    factories = {
        loop._new_socket_transport: 6,
        loop._new_datagram_transport: 5,
        loop._new_read_pipe_transport: 4,
        loop._new_tls_transport: 8,
        loop._start_accepting: 6,
        loop._sock_sendfile: 4,
    }
    for odd in (5, "x", None, object(), (1, 2, 3), loop):
        for make, count in factories.items():
            with pytest.raises((TypeError, ValueError, AttributeError, OSError)):
                make(*[odd] * count)


# Sockets, and who owns their descriptors.


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (list, None),
        (lambda pair: iter(pair), None),
        (lambda pair: None, TypeError),
        (lambda pair: 5, TypeError),
        (lambda pair: (), ValueError),
        (lambda pair: (*pair, 3), ValueError),
        (lambda pair: "xy", AttributeError),
    ],
)
async def test_accept_may_be_a_programs_own_and_give_anything(
    loop: Any, monkeypatch: pytest.MonkeyPatch, answer: Any, error: type[Exception] | None
) -> None:
    real = socket.socket.accept
    accepted: list[Any] = []

    def accept(self: socket.socket) -> Any:
        accepted.append(real(self))
        return answer(accepted[-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()):
            monkeypatch.setattr(socket.socket, "accept", accept)
            if error is None:
                connection, _ = await loop.sock_accept(listener)
                assert connection is accepted[-1][0]
                assert connection.gettimeout() == 0
            else:
                with pytest.raises(error):
                    await loop.sock_accept(listener)
            accepted[-1][0].close()


async def test_an_interrupted_get_extra_info_leaves_the_descriptor_to_its_transport(
    zloop_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    made = zloop_loop.create_future()
    server = await zloop_loop.create_server(
        lambda: Recorder(connection_made=lambda self: made.set_result(self.transport)),
        "127.0.0.1",
        0,
    )
    peer = socket.create_connection(server.sockets[0].getsockname(), timeout=5)
    transport = await made
    real = socket.socket.__init__
    stops: list[str] = ["before", "after", "never the number", ""]

    def interrupted(self: Any, *args: Any, fileno: int | None = None, **kwargs: Any) -> None:
        if stops[0] == "before":
            raise Interrupted
        real(self, *args, fileno=None if stops[0] == "never the number" else fileno, **kwargs)
        if stops[0] == "after":
            raise Interrupted
        if stops[0] == "never the number":
            self.close()

    monkeypatch.setattr(socket.socket, "__init__", interrupted)
    for error in (Interrupted, Interrupted, (RuntimeError, OSError)):
        with pytest.raises(error):
            transport.get_extra_info("socket")
        gc.collect()
        stops.pop(0)
    monkeypatch.undo()

    transport.write(b"alive")
    assert await zloop_loop.run_in_executor(None, peer.recv, 10) == b"alive"
    assert transport.get_extra_info("socket").fileno() == transport._sock_fd
    transport.close()
    await turns(3)
    peer.close()
    server.close()


@pytest.mark.parametrize("host", ["127.0.0.1\0", "127.0.0.1\0.example.com"])
async def test_an_address_is_taken_whole_or_refused(
    loop: Any, errors: list[dict[str, Any]], host: str
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("127.0.0.1", 0)
        )
        transport.sendto(b"x", (host, receiver.getsockname()[1]))
        await turns(3)
        with pytest.raises(BlockingIOError):
            receiver.recv(10)
        assert [type(each["exception"]) for each in errors] == [TypeError]
        errors.clear()
        transport.abort()
        await turns(2)


async def test_a_pipe_whose_fileno_ends_the_transport_is_not_written_from_freed_memory(
    zloop_loop: Any,
) -> None:
    r, w = os.pipe()

    class File:
        ends = False

        def fileno(self) -> int:
            if self.ends:
                transport.abort()
            return w

        def close(self) -> None:
            os.close(w)

    file = File()
    transport, _ = await zloop_loop.connect_write_pipe(asyncio.BaseProtocol, file)
    transport.write(b"x" * 300_000)
    transport.write(b"y" * 300_000)
    file.ends = True
    os.read(r, 100_000)
    transport._write_ready()
    assert transport.get_write_buffer_size() == 0
    await turns(3)
    os.close(r)


# Searches.


def run(program: str, *args: Any, timeout: float = 110, **more: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", PROGRAMS / program, *map(str, args)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-3000:]}"
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize("kind", FACTORIES)
def test_every_method_survives_odd_objects(kind: str) -> None:
    run("every_method.py", kind, 0, 8 if kind == "zloop" else 1)


@pytest.mark.hostile
@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 50))
def test_every_method_survives_many_odd_objects(first: int) -> None:
    run("every_method.py", "zloop", first, 50)


CAPABILITIES = [
    "schedule", "watch", "connect", "stream", "buffered_stream", "serve", "datagrams", "pipes",
    "sock_calls", "send_file",
]  # fmt: skip


@pytest.mark.skipif(
    sys.version_info >= (3, 13),
    reason="without memory CPython's dicts keep values of objects that are freed; asyncio's loop crashes too",
)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_an_operation_fails_for_want_of_memory_and_no_more(capability: str) -> None:
    pytest.importorskip("_testcapi", reason="its set_nomemory() makes Python's allocators fail")
    run("no_memory.py", "python", capability, 30)


@pytest.fixture(scope="session")
def failing_new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "g++").split()[0])
    if compiler is None:
        pytest.skip("no C++ compiler for the library that makes operator new fail")
    library = tmp_path_factory.mktemp("failing_new") / "failing_new.so"
    options = ["-std=c++20", "-shared", "-fPIC", "-O1", "-o", library]
    subprocess.run([compiler, *options, PROGRAMS / "failing_new.cpp"], check=True)
    return library


@pytest.mark.slow
@pytest.mark.hostile
@pytest.mark.skipif(
    "LD_PRELOAD" in os.environ, reason="sanitizers have an operator new of their own"
)
@pytest.mark.parametrize("capability", [*CAPABILITIES, "make", "tls"])
def test_an_operation_fails_for_want_of_memory_of_new_and_no_more(
    failing_new: Path, certificates: Any, tmp_path: Path, capability: str
) -> None:
    _, certificate = certificates
    file = tmp_path / "certificate.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    run("no_memory.py", "new", capability, 60, LD_PRELOAD=str(failing_new), CERTIFICATE=str(file))
