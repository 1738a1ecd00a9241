"""Serving TCP: create_server, the Server object, and connections that are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import socket
import sys
import weakref

import pytest
from helpers import BACKEND, PATIENCE, Recorder, check_program, kernel_was_asked, reset, turns

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Serving:
    """A server whose protocols are recorded."""

    def __init__(self, loop, **hooks):
        self.loop = loop
        self.hooks = hooks
        self.protocols = []

    def factory(self):
        protocol = Recorder(**self.hooks)
        self.protocols.append(protocol)
        return protocol

    async def start(self, host="127.0.0.1", port=0, **options):
        self.server = await self.loop.create_server(self.factory, host, port, **options)
        return self.server

    async def connect(self, which=0):
        sock = socket.socket(self.server.sockets[which].family)
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.server.sockets[which].getsockname())
        return sock

    async def until_accepted(self, count):
        async with asyncio.timeout(PATIENCE):
            while len(self.protocols) < count or not all(p.transport for p in self.protocols):
                await asyncio.sleep(0.001)


# Accepting.


@pytest.mark.parametrize("debug", [True, False])
async def test_debug_mode_tells_of_a_connection(loop, caplog, debug):
    serving = Serving(loop)
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(debug)
    server = await serving.start()
    with await serving.connect() as sock:
        await serving.until_accepted(1)
        said = f"{server!r} got a new connection from {sock.getsockname()}: "
        assert any(message.startswith(said) for message in caplog.messages) is debug
    server.close()


async def test_a_server_serves(loop):
    serving = Serving(loop, data_received=lambda self, data: self.transport.write(data))
    async with await serving.start():
        for number in range(10):
            with await serving.connect() as sock:
                await loop.sock_sendall(sock, b"message %d" % number)
                assert await loop.sock_recv(sock, 100) == b"message %d" % number
        for protocol in serving.protocols:
            await protocol.until("connection_lost")
            assert protocol.losses == [None]
    assert len(serving.protocols) == 10


async def test_each_connection_has_a_protocol_and_a_transport_of_its_own(loop):
    serving = Serving(loop)
    with contextlib.ExitStack() as stack:
        async with await serving.start():
            socks = [stack.enter_context(await serving.connect()) for _ in range(5)]
            await serving.until_accepted(5)
            transports = {protocol.transport for protocol in serving.protocols}
            assert len(transports) == 5
            peers = {t.get_extra_info("peername") for t in transports}
            assert peers == {sock.getsockname() for sock in socks}
            for transport in transports:
                transport.close()
            for protocol in serving.protocols:
                await protocol.until("connection_lost")


async def test_five_hundred_connections_at_once(loop):
    serving = Serving(loop, data_received=lambda self, data: self.transport.write(data))
    with contextlib.ExitStack() as stack:
        async with await serving.start(backlog=1000):
            socks = [stack.enter_context(await serving.connect()) for _ in range(400)]
            for number, sock in enumerate(socks):
                sock.send(str(number).encode())
            for number, sock in enumerate(socks):
                assert await loop.sock_recv(sock, 10) == str(number).encode()
            for sock in socks:
                sock.close()
            for protocol in serving.protocols:
                await protocol.until("connection_lost")


async def test_accepted_transports_are_asyncio_transports(loop):
    serving = Serving(loop)
    async with await serving.start() as server:
        assert isinstance(server, asyncio.AbstractServer)
        with await serving.connect() as sock:
            await serving.until_accepted(1)
            (protocol,) = serving.protocols
            transport = protocol.transport
            assert isinstance(transport, asyncio.Transport)
            wrapped = transport.get_extra_info("socket")
            assert isinstance(wrapped, asyncio.trsock.TransportSocket)
            assert wrapped.getsockname() == sock.getpeername()
            assert wrapped.getpeername() == sock.getsockname()
            assert wrapped.type == socket.SOCK_STREAM and wrapped.family == socket.AF_INET
            assert wrapped.gettimeout() == 0
            assert transport.get_extra_info("socket") is wrapped
            transport.close()
            await protocol.until("connection_lost")


async def test_extra_info_outlives_the_connection(loop):
    serving = Serving(loop)
    async with await serving.start() as server:
        address = server.sockets[0].getsockname()
        for look_before in (False, True):
            with await serving.connect() as sock:
                await serving.until_accepted(1)
                protocol = serving.protocols.pop()
                transport, name = protocol.transport, sock.getsockname()
                if look_before:
                    transport.get_extra_info("socket")
                transport.close()
                await protocol.until("connection_lost")
                await turns()
                assert transport.get_extra_info("peername") == name
                assert transport.get_extra_info("sockname") == address
                assert transport.get_extra_info("socket").fileno() == -1
                assert transport.get_extra_info("unknown") is None
                assert transport.get_extra_info("unknown", "default") == "default"
                assert transport.get_extra_info("unknown", default=7) == 7


async def test_accepted_sockets_have_no_delay_and_are_not_inherited(loop):
    serving = Serving(loop)
    async with await serving.start():
        with await serving.connect():
            await serving.until_accepted(1)
            (protocol,) = serving.protocols
            sock = protocol.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.get_inheritable()
            protocol.transport.close()
            await protocol.until("connection_lost")


async def test_ipv6(loop):
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    serving = Serving(loop, data_received=lambda self, data: self.transport.write(data))
    try:
        await serving.start("::1")
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6: {exc}")
    async with serving.server:
        with await serving.connect() as sock:
            await loop.sock_sendall(sock, b"six")
            assert await loop.sock_recv(sock, 10) == b"six"
            (protocol,) = serving.protocols
            transport = protocol.transport
            assert transport.get_extra_info("peername") == sock.getsockname()
            assert transport.get_extra_info("sockname") == sock.getpeername()
            assert len(transport.get_extra_info("peername")) == 4
        await protocol.until("connection_lost")


async def test_a_server_of_several_addresses(loop):
    serving = Serving(loop)
    async with await serving.start(["127.0.0.1", "127.0.0.2"]) as server:
        assert len(server.sockets) == 2
        for which in range(2):
            with await serving.connect(which):
                await serving.until_accepted(which + 1)
        for protocol in serving.protocols:
            await protocol.until("connection_lost")


async def test_a_server_on_a_given_socket(loop):
    sock = socket.create_server(("127.0.0.1", 0))
    serving = Serving(loop)
    serving.server = await loop.create_server(serving.factory, sock=sock)
    async with serving.server:
        with await serving.connect():
            await serving.until_accepted(1)
        await serving.protocols[0].until("connection_lost")


async def test_a_connection_runs_in_a_context_of_its_own(loop):
    seen = []

    def received(self, data):
        seen.append(variable.get())
        variable.set("changed by a connection")

    variable.set("of the server")
    serving = Serving(loop, data_received=received)
    serving.hooks["connection_made"] = lambda self: seen.append(variable.get())
    async with await serving.start():
        variable.set("changed later")
        for number in range(1, 3):
            with await serving.connect() as sock:
                sock.send(b"x")
                await serving.until_accepted(number)
                await serving.protocols[-1].until("data_received")
                sock.send(b"x")
                await serving.protocols[-1].until("data_received", 2)
            await serving.protocols[-1].until("connection_lost")
    assert seen == ["of the server", "of the server", "changed by a connection"] * 2


async def test_connect_accepted_socket(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        sock, address = listener.accept()
    with peer:
        protocol = Recorder()
        transport, same = await loop.connect_accepted_socket(lambda: protocol, sock)
        assert same is protocol and protocol.transport is transport
        assert transport.get_extra_info("peername") == address
        transport.write(b"hello")
        await turns()
        peer.settimeout(PATIENCE)
        assert peer.recv(10) == b"hello"
        transport.close()
        await protocol.until("connection_lost")


# Failures.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
@pytest.mark.without_debug
async def test_a_factory_that_raises_costs_its_connection_only(loop):
    calls = []

    def factory():
        calls.append(True)
        if len(calls) < 4:
            raise ZeroDivisionError
        return Recorder()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    async with server:
        for _ in range(3):
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                sock.setblocking(False)
                assert await asyncio.wait_for(loop.sock_recv(sock, 10), PATIENCE) == b""
        with socket.create_connection(server.sockets[0].getsockname()) as sock:
            async with asyncio.timeout(PATIENCE):
                while len(calls) < 4:
                    await asyncio.sleep(0.001)
        await turns(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
async def test_in_debug_mode_a_factory_that_raises_is_told(loop, errors):
    loop.set_debug(True)

    def factory():
        raise ZeroDivisionError("the factory's own")

    async with await loop.create_server(factory, "127.0.0.1", 0) as server:
        with socket.create_connection(server.sockets[0].getsockname()):
            async with asyncio.timeout(PATIENCE):
                while not errors:
                    await asyncio.sleep(0.001)
    context = errors.pop()
    assert context["message"] == "Error on transport creation for incoming connection"
    assert str(context["exception"]) == "the factory's own"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
@pytest.mark.parametrize("result", [None, 5, "text"])
async def test_a_factory_that_gives_no_protocol_kills_no_listener(loop, errors, result):
    results = [result]
    good = []

    def factory():
        if results:
            return results.pop()
        good.append(Recorder())
        return good[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        with socket.create_connection(server.sockets[0].getsockname()):
            async with asyncio.timeout(PATIENCE):
                while not good:
                    await asyncio.sleep(0.001)
        await good[0].until("connection_lost")
    server.close()  # and nobody waits: asyncio counts the connection without a protocol as open
    errors.clear()  # how it is told differs between versions


async def test_a_client_that_is_gone_before_it_is_accepted(loop):
    serving = Serving(loop)
    async with await serving.start():
        for _ in range(5):
            reset(socket.create_connection(serving.server.sockets[0].getsockname()))
        with await serving.connect():
            async with asyncio.timeout(PATIENCE):
                while not any(p.transport and not p.losses for p in serving.protocols):
                    await asyncio.sleep(0.001)
        for protocol in serving.protocols:
            await protocol.until("connection_lost")


async def test_a_port_in_use_is_refused_in_asyncios_words(loop):
    serving = Serving(loop)
    async with await serving.start() as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="error while attempting to bind on address"):
            await loop.create_server(Recorder, "127.0.0.1", port)


def test_running_out_of_descriptors_pauses_accepting_for_a_second(new_loop):
    program = """
    import asyncio, contextlib, resource, socket, sys, time
    import zloop

    errors = []
    accepted = []

    class Counted(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.append(transport)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        # Here, and not later: io_uring has taken the limit when it begins to accept, and accepts at once.
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 4096))
        server = await loop.create_server(Counted, "127.0.0.1", 0)
        name = server.sockets[0].getsockname()
        clients = [socket.create_connection(name) for _ in range(3)]
        while len(accepted) < 3:
            await asyncio.sleep(0.001)
        extra = socket.socket()
        hog = []
        with contextlib.suppress(OSError):
            while True:
                hog.append(socket.socket())
        extra.connect(name)
        waiting = loop.time()
        while not errors:
            await asyncio.sleep(0.01)
        turns_before = time.process_time()
        for each in hog:
            each.close()
        while len(accepted) < 4:
            await asyncio.sleep(0.01)
        took = loop.time() - waiting
        assert 0.9 < took < 5, took
        assert time.process_time() - turns_before < 0.7, "it spins"
        assert len(errors) == 1 or sys.argv[1] == "asyncio", errors  # it tells once a backlog slot
        context = errors[0]
        assert context["message"] == "socket.accept() out of system resource", context
        assert context["exception"].errno == 24, context
        assert context["socket"].getsockname() == name
        for each in [*accepted, server, *clients, extra]:
            each.close()
        await asyncio.sleep(0.05)

    loop = zloop.new_event_loop() if sys.argv[1] == "zloop" else asyncio.SelectorEventLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    """
    check_program(program, "zloop" if "zloop" in repr(type(new_loop())) else "asyncio")


# The Server object.


async def test_sockets_is_a_tuple_also_after_close(loop):
    serving = Serving(loop)
    server = await serving.start()
    assert type(server.sockets) is tuple
    assert isinstance(server.sockets[0], asyncio.trsock.TransportSocket)
    server.close()
    assert server.sockets == ()
    await server.wait_closed()


async def test_a_server_can_start_serving_later(loop):
    serving = Serving(loop)
    server = await serving.start(start_serving=False)
    assert not server.is_serving()
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    with await serving.connect():
        await serving.until_accepted(1)
    await serving.protocols[0].until("connection_lost")
    server.close()
    assert not server.is_serving()
    await server.wait_closed()


async def test_close_stops_accepting_and_keeps_the_open_connections(loop):
    serving = Serving(loop, data_received=lambda self, data: self.transport.write(data))
    server = await serving.start()
    name = server.sockets[0].getsockname()
    with await serving.connect() as sock:
        await serving.until_accepted(1)
        server.close()
        server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(name)
        await loop.sock_sendall(sock, b"still here")
        assert await loop.sock_recv(sock, 100) == b"still here"
    await serving.protocols[0].until("connection_lost")
    await server.wait_closed()


async def test_wait_closed_waits_for_the_connections(loop):
    if sys.version_info < (3, 12, 1):
        pytest.skip("before 3.12.1 wait_closed() of a closed server did not wait")
    serving = Serving(loop)
    server = await serving.start()
    with await serving.connect():
        await serving.until_accepted(1)
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await turns(5)
        assert not waiting.done()
    await waiting
    assert serving.protocols[0].losses == [None]


async def test_the_port_is_free_after_close(loop):
    serving = Serving(loop)
    server = await serving.start()
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    again = await loop.create_server(Recorder, "127.0.0.1", port)
    again.close()
    await again.wait_closed()


async def test_serve_forever_serves_until_cancelled(loop):
    serving = Serving(loop)
    server = await serving.start(start_serving=False)
    task = asyncio.ensure_future(server.serve_forever())
    await turns(3)
    assert server.is_serving()
    with await serving.connect():
        await serving.until_accepted(1)
    await serving.protocols[0].until("connection_lost")
    with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
        await server.serve_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_closing_ends_serve_forever(loop):
    serving = Serving(loop)
    server = await serving.start()
    task = asyncio.ensure_future(server.serve_forever())
    await turns(2)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_the_servers_clients_can_be_ended(loop, method):
    serving = Serving(loop)
    server = await serving.start()
    if not hasattr(server, method):
        server.close()
        pytest.skip(f"Server.{method} is new in 3.13")
    with await serving.connect() as sock:
        await serving.until_accepted(1)
        server.close()
        getattr(server, method)()
        assert await loop.sock_recv(sock, 10) == b""
        await serving.protocols[0].until("connection_lost")
        await server.wait_closed()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
@pytest.mark.without_debug
async def test_a_server_may_be_closed_by_its_factory(loop):
    protocols = []

    def factory():
        server.close()
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    name = server.sockets[0].getsockname()
    socks = [socket.create_connection(name)]
    try:
        async with asyncio.timeout(PATIENCE):
            while not protocols:
                await asyncio.sleep(0.001)
        await turns(5)
        assert len(protocols) == 1
    finally:
        socks[0].close()
    if protocols[0].transport:
        await protocols[0].until("connection_lost")
    await server.wait_closed()


@pytest.mark.without_debug
async def test_a_server_closed_while_connections_wait_accepts_none_of_them(loop):
    serving = Serving(loop)
    server = await serving.start()
    name = server.sockets[0].getsockname()
    socks = [socket.create_connection(name) for _ in range(5)]
    server.close()
    await turns(5)
    await server.wait_closed()
    for sock in socks:
        sock.close()
    assert serving.protocols == []


async def test_close_and_serve_again_on_the_same_descriptor_number(loop):
    for number in range(20):
        serving = Serving(loop)
        server = await serving.start()
        with await serving.connect():
            if number % 2:
                await serving.until_accepted(1)
            server.close()
        for protocol in serving.protocols:
            await protocol.until("connection_lost")
        await server.wait_closed()


async def test_a_server_takes_new_attributes_and_weak_references(loop):
    serving = Serving(loop)
    server = await serving.start()
    server.remark = "mine"
    assert server.remark == "mine"
    reference = weakref.ref(server)
    server.close()
    await server.wait_closed()
    del server, serving
    await turns(3)
    gc.collect()
    assert reference() is None


async def test_a_dropped_server_goes_on_serving(loop):
    serving = Serving(loop)
    name = (await serving.start()).sockets[0].getsockname()
    server = weakref.ref(serving.server)
    del serving.server
    gc.collect()
    with socket.create_connection(name):
        await serving.until_accepted(1)
    await serving.protocols[0].until("connection_lost")
    server().close()
    await turns(2)


async def test_start_server_of_streams(loop):
    served = asyncio.Event()

    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(served.wait(), PATIENCE)


@pytest.mark.skipif(BACKEND == "io_uring", reason="its kernel goes on accepting from the file")
async def test_a_listener_of_which_a_duplicate_is_left_takes_no_strangers_connections(
    zloop_loop, errors
):
    """The kernel tells of the duplicate's connections under the number, which is another listener's by now."""
    loop = zloop_loop
    listening = socket.create_server(("127.0.0.1", 0))
    name, number = listening.getsockname(), listening.fileno()
    accepted = []
    await loop.create_server(lambda: accepted.append(1), sock=listening)
    await kernel_was_asked()
    duplicate = listening.dup()
    listening.close()
    with duplicate, socket.create_server(("127.0.0.1", 0)) as stranger:
        assert stranger.fileno() == number
        theirs = socket.create_connection(stranger.getsockname())
        kept = socket.create_connection(name)
        for _ in range(3):
            await kernel_was_asked()
        for listener, client in (stranger, theirs), (duplicate, kept):
            listener.settimeout(PATIENCE)
            connection, peer = listener.accept()
            assert peer == client.getsockname()
            connection.close()
            client.close()
    assert accepted == [] and errors == []


@pytest.mark.parametrize("how", ["transport", "watched", "awaited", "server", "nothing"])
async def test_a_listener_that_its_user_closed_is_forgotten_in_silence(zloop_loop, errors, how):
    """Whoever has its number next is left alone; nobody is told of errors. (In asyncio the next one
    to read there is never told of anything.)"""
    loop = zloop_loop
    listening = socket.create_server(("127.0.0.1", 0))
    name, number = listening.getsockname(), listening.fileno()
    ended = await loop.create_server(Recorder, sock=listening)
    await kernel_was_asked()
    listening.close()  # and not the server, which asyncio then can't close either
    serving = Serving(loop)
    if how == "server":
        server = await serving.start()
        assert server.sockets[0].fileno() == number
        (await serving.connect()).close()
        await serving.until_accepted(1)
    elif how != "nothing":
        one, other = socket.socketpair()
        assert one.fileno() == number
        one.setblocking(False)
        other.setblocking(False)
        if how == "transport":
            transport, protocol = await loop.create_connection(Recorder, sock=one)
            await loop.sock_sendall(other, b"x")
            await protocol.until_received(1)
        elif how == "awaited":
            receiving = loop.create_task(loop.sock_recv(one, 1))
            await turns(2)
            other.send(b"x")
            assert await asyncio.wait_for(receiving, PATIENCE) == b"x"
        else:
            called = asyncio.Event()
            loop.add_reader(one, called.set)
            other.send(b"x")
            await asyncio.wait_for(called.wait(), PATIENCE)
    for _ in range(3):
        await kernel_was_asked()
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.setblocking(False)
        await loop.sock_connect(sock, name)
    assert errors == [] and ended.sockets
    if how == "transport":
        await loop.sock_sendall(other, b"y")
        await protocol.until_received(2)
        transport.close()
        await protocol.until("connection_lost")
        other.close()
    elif how in ("watched", "awaited"):
        assert loop.remove_reader(one) == (how == "watched")
        one.close()
        other.close()
    elif how == "server":
        (await serving.connect()).close()
        await serving.until_accepted(2)
        server.close()
        for each in serving.protocols:
            await each.until("connection_lost")
