"""create_connection: addresses, errors, cancellation, ownership."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import weakref

import pytest
from helpers import PATIENCE, Events, Recorder, environment, tcp_pair, turns


@contextlib.contextmanager
def listening(family=socket.AF_INET):
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((host, 0), family=family) as sock:
        sock.settimeout(PATIENCE)
        yield sock


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


async def test_create_connection_connects(loop):
    with listening() as listener:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        assert isinstance(protocol, Recorder)
        assert protocol.transport is transport
        assert isinstance(transport, asyncio.Transport)
        peer, address = listener.accept()
        with peer:
            assert transport.get_extra_info("sockname") == address
            assert transport.get_extra_info("peername") == listener.getsockname()
            wrapped = transport.get_extra_info("socket")
            assert isinstance(wrapped, asyncio.trsock.TransportSocket)
            assert wrapped.getsockname() == address
            assert wrapped.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            transport.write(b"hello")
            await turns()
            assert peer.recv(5, socket.MSG_WAITALL) == b"hello"
            peer.sendall(b"world")
            await protocol.until_received(5)
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
        assert transport.get_extra_info("sockname") == address


async def test_connection_made_was_called_when_create_connection_returns(loop):
    with listening() as listener:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        assert protocol.seen == ["connection_made"]
        transport.abort()
        await protocol.until("connection_lost")


async def test_a_name_is_resolved(loop):
    with listening() as listener:
        port = listener.getsockname()[1]
        transport, protocol = await loop.create_connection(
            Recorder, "localhost", port, family=socket.AF_INET
        )
        transport.close()
        await protocol.until("connection_lost")


async def test_ipv6(loop):
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(listening(socket.AF_INET6))
        except OSError as exc:
            pytest.skip(f"this machine has no IPv6: {exc}")
        transport, protocol = await loop.create_connection(
            Recorder, "::1", listener.getsockname()[1]
        )
        assert transport.get_extra_info("peername") == listener.getsockname()
        assert len(transport.get_extra_info("sockname")) == 4
        transport.close()
        await protocol.until("connection_lost")


async def test_a_refused_connection_raises_asyncios_error(loop):
    port = unused_port()
    with pytest.raises(ConnectionRefusedError) as raised:
        await loop.create_connection(Recorder, "127.0.0.1", port)
    assert str(raised.value) == (f"[Errno 111] Connect call failed ('127.0.0.1', {port})")


async def test_an_unknown_host_raises_gaierror(loop):
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, "no such host", 80)


async def test_local_addr_is_bound(loop):
    with listening() as listener:
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname(), local_addr=("127.0.0.3", 0)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.3"
        transport.close()
        await protocol.until("connection_lost")


async def test_happy_eyeballs(loop):
    with listening() as listener:
        port = listener.getsockname()[1]
        real = loop.getaddrinfo

        async def two_addresses(host, port, **options):
            return [
                *await real("127.0.0.5", port, **options),
                *await real("127.0.0.1", port, **options),
            ]

        loop.getaddrinfo = two_addresses
        transport, protocol = await loop.create_connection(
            Recorder, "host", port, happy_eyeballs_delay=0.05, interleave=1
        )
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.close()
        await protocol.until("connection_lost")


async def test_a_given_socket_becomes_the_transports(loop):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        assert transport.get_extra_info("socket").fileno() == ours.fileno()
        assert ours.gettimeout() == 0
        transport.close()
        await protocol.until("connection_lost")
        await turns()
        assert ours.fileno() == -1


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
async def test_socketpairs_become_transports(loop, family):
    ours, theirs = socket.socketpair() if family == "AF_UNIX" else tcp_pair()
    with theirs:
        theirs.settimeout(PATIENCE)
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        theirs.sendall(b"x" * 100_000)
        await protocol.until_received(100_000)
        transport.write(b"y" * 100_000)
        await turns(10)
        assert len(theirs.recv(100_000)) > 0
        theirs.close()
        await protocol.until("connection_lost")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some drop it open
async def test_a_protocol_factory_that_raises_leaves_no_connection(loop):
    def factory():
        raise ZeroDivisionError

    with listening() as listener:
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(factory, *listener.getsockname())
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PATIENCE)
            gc.collect()
            assert peer.recv(1) == b""


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", ("127.0.0.1",)), ("::ffff:0.0.0.0", ("::ffff:127.0.0.1", 0, 0))],
)
async def test_the_name_of_a_peer_at_no_particular_address(loop, host, reached):
    with listening() as listener:
        port = listener.getsockname()[1]
        transport, protocol = await loop.create_connection(Recorder, host, port)
        assert transport.get_extra_info("peername") == (reached[0], port, *reached[1:])
        transport.close()
        await protocol.until("connection_lost")


def failure_of_connecting(factory, *name):
    async def connect():
        await asyncio.get_running_loop().create_connection(Recorder, *name)

    with asyncio.Runner(loop_factory=factory) as runner, pytest.raises(Exception) as raised:
        runner.run(connect())
    return type(raised.value), raised.value.args, raised.value.__context__


@pytest.mark.parametrize(
    "name",
    [
        ("127.0.0.1", 0),
        ("255.255.255.255", 9),
        ("::1", 0),
        ("::ffff:127.0.0.1", 0),
        ("fe80::1", 9),
        ("127.0.0.1", 65536),
        ("127.0.0.1", -1),
        ("127.0.0.1\0", 9),
    ],
)
def test_what_goes_wrong_at_a_numeric_address_is_told_as_by_asyncio(new_loop, name):
    expected = failure_of_connecting(asyncio.SelectorEventLoop, *name)
    assert failure_of_connecting(new_loop, *name) == expected


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        ("loop", "_connect_sock"),
        ("loop", "_create_connection_transport"),
        ("loop", "_ensure_resolved"),
        ("loop", "_make_socket_transport"),
        ("loop", "sock_connect"),
        (asyncio.SelectorEventLoop, "_connect_sock"),
        (asyncio.SelectorEventLoop, "_create_connection_transport"),
        (asyncio.SelectorEventLoop, "create_connection"),
        (asyncio.BaseEventLoop, "_ensure_resolved"),
        (asyncio.BaseEventLoop, "create_connection"),
        (asyncio.base_events, "_ipaddr_info"),
        (socket, "socket"),
        (socket.socket, "connect"),
        (socket.socket, "setblocking"),
    ],
)
async def test_a_step_that_is_replaced_is_called(loop, monkeypatch, owner, step):
    with listening() as listener, monkeypatch.context() as patched:
        where = loop if owner == "loop" else owner
        made, called = getattr(where, step), []

        def replaced(*args, **keywords):
            called.append(step)
            return made(*args, **keywords)

        if step == "socket":
            replaced = type(
                "Watched", (made,), {"__init__": lambda *a, **k: replaced_init(*a, **k)}
            )

            def replaced_init(*args, **keywords):
                called.append(step)
                made.__init__(*args, **keywords)

        patched.setattr(where, step, replaced)
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        transport.close()
        await protocol.until("connection_lost")
        assert called


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # asyncio drops it open
async def test_a_protocol_factory_that_is_through(loop):
    with listening() as listener:
        with pytest.raises(RuntimeError, match="raised StopIteration") as raised:
            await loop.create_connection(iter([]).__next__, *listener.getsockname())
        assert isinstance(raised.value.__cause__, StopIteration)
        gc.collect()


AUDITED = """
import asyncio, socket, sys, zloop

async def connect(port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    transport.close()
    for host in ("::1", "::2"):  # its form is not known, and known
        await loop.getaddrinfo(host, 9, type=socket.SOCK_STREAM)

seen, vetoed = [], False

def hook(event, args):
    if event == "socket.connect":
        seen.append((event, type(args[0]), args[0].fileno() >= 0, args[1]))
        if vetoed:
            raise PermissionError("no")
    elif event == "socket.getaddrinfo":
        seen.append((event, *args))

def run(factory):
    seen.clear()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(connect(listener.getsockname()[1]))
    return seen[:]

sys.addaudithook(hook)
with socket.create_server(("127.0.0.1", 0)) as listener:
    stock = run(asyncio.SelectorEventLoop)
    assert len(stock) == 3, stock
    assert run(zloop.new_event_loop) == stock, (seen, stock)
    vetoed = True
    for factory in (asyncio.SelectorEventLoop, zloop.new_event_loop):
        try:
            run(factory)
        except PermissionError:
            pass
        else:
            sys.exit("not heard")
"""


def test_who_audits_connections_is_told_and_heard():
    done = subprocess.run(
        [sys.executable, "-c", AUDITED],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_cancelling_a_connect_leaves_nothing_open(loop):
    # A listener with a full backlog: connecting takes for ever.
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        name = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(name)
        task = loop.create_task(loop.create_connection(Recorder, *name))
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_between_connect_and_connection_made_closes_the_socket(loop):
    with listening() as listener:
        for steps in range(8):
            task = loop.create_task(loop.create_connection(Recorder, *listener.getsockname()))
            await turns(steps)
            task.cancel()
            try:
                transport, protocol = await task
            except asyncio.CancelledError:
                await turns(3)
            else:
                transport.close()
                await protocol.until("connection_lost")


async def test_transports_take_new_attributes(loop):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        transport.remark = "mine"
        assert transport.remark == "mine"
        assert vars(transport)["remark"] == transport.__dict__["remark"] == "mine"
        transport.close()
        await protocol.until("connection_lost")


@pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)  # asyncio's is in a cycle
async def test_a_closed_transport_is_collected_without_the_collector(loop):
    ours, theirs = tcp_pair()
    with theirs:
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        transport.close()
        await protocol.until("connection_lost")
        await turns(2)
        reference = weakref.ref(transport)
        gc.disable()
        try:
            del transport
            protocol.transport = None
            await turns(2)
            assert reference() is None
        finally:
            gc.enable()


async def test_the_repr_of_a_transport_tells_its_state(loop):
    ours, theirs = tcp_pair()
    with theirs:
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        await turns()
        words = repr(transport)
        assert f"fd={ours.fileno()}" in words
        assert "read=polling" in words and "write=<idle, bufsize=0>" in words
        transport.pause_reading()
        assert "read=idle" in repr(transport)
        transport.close()
        assert "closing" in repr(transport)
        await protocol.until("connection_lost")
        await turns()
        assert "closed" in repr(transport)


async def test_two_clients_and_a_server_of_one_loop(loop):
    served = Events()

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        served.add(writer)

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        name = server.sockets[0].getsockname()

        async def talk(text):
            reader, writer = await asyncio.open_connection(*name)
            for _ in range(50):
                writer.write(text)
                assert await reader.readexactly(len(text)) == text
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(talk(b"client %d" % number) for number in range(10)))
        await served.until(lambda: len(served.seen) == 10)
