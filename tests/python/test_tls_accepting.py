"""Accepting over TLS: what may happen between a connection's arrival and the end of its handshake."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import socket
import ssl
import sys
import warnings
import weakref

import pytest
from helpers import FACTORIES, PATIENCE, Events, Recorder, check_program, reset, turns
from tls_helpers import NOT_MADE, told_in_debug_mode

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


class Serving:
    """A server over TLS whose protocols echo, and which knows when its factory was called."""

    def __init__(self, loop, tls, **hooks):
        self.loop, self.tls, self.hooks = loop, tls, hooks
        self.made = Events()

    @property
    def protocols(self):
        return self.made.seen

    def factory(self):
        protocol = Recorder(**self.hooks)
        protocol.hooks.setdefault("data_received", lambda self, data: self.transport.write(data))
        self.made.add(protocol)
        return protocol

    async def start(self, **options):
        options.setdefault("ssl", self.tls.server)
        self.server = await self.loop.create_server(self.factory, "127.0.0.1", 0, **options)
        self.name = self.server.sockets[0].getsockname()
        return self.server

    async def until_accepted(self, count):
        await self.made.until(lambda: len(self.protocols) >= count)

    async def silent_client(self):
        """A client that never begins the handshake, once its connection is accepted."""
        sock = socket.create_connection(self.name)
        sock.setblocking(False)
        await self.until_accepted(len(self.protocols) + 1)
        return sock

    async def client(self):
        protocol = Recorder()
        await asyncio.wait_for(
            self.loop.create_connection(
                lambda: protocol, *self.name, ssl=self.tls.client, server_hostname="localhost"
            ),
            PATIENCE,
        )
        return protocol

    async def still_serves(self):
        protocol = await self.client()
        protocol.transport.write(b"fine")
        await protocol.until_received(4)
        protocol.transport.close()
        await protocol.until("connection_lost")
        await self.until_over(self.protocols[-1])

    @staticmethod
    async def until_over(*protocols):
        for protocol in protocols:
            await protocol.until("connection_lost")


async def end_of(loop, sock):
    """Read until the server's end, or reset, of the connection."""
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.wait_for(loop.sock_recv(sock, 1000), PATIENCE):
            pass


async def told_of(errors, protocol):
    """Take the one failure that was told, with its protocol; returns the text of the exception."""
    async with asyncio.timeout(PATIENCE):
        while not errors:
            await asyncio.sleep(0.001)
    context = errors.pop()
    assert context["message"] == NOT_MADE
    assert context.get("protocol") is protocol
    assert ("transport" in context) <= ("protocol" in context)
    return str(context["exception"])


def hello_of(context):
    """What a client begins with."""
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# The way to connection_made.


@pytest.mark.without_debug
async def test_the_protocol_is_made_at_once_and_told_after_the_handshake(loop, tls):
    serving = Serving(loop, tls)
    async with await serving.start():
        with await serving.silent_client():
            await turns(5)
            (protocol,) = serving.protocols
            assert protocol.seen == []
        await serving.still_serves()
        assert protocol.seen == []  # nor of its end


async def test_factories_are_called_in_the_order_of_arrival(loop, tls):
    serving = Serving(loop, tls)
    async with await serving.start():
        clients = [await serving.client() for _ in range(5)]
        for client, protocol in zip(clients, serving.protocols, strict=True):
            await protocol.until("connection_made")
            name = protocol.transport.get_extra_info("peername")
            assert name == client.transport.get_extra_info("sockname")
            client.transport.close()
        await Serving.until_over(*clients, *serving.protocols)


@pytest.mark.without_debug
@pytest.mark.parametrize("piece", [1, 3, 100])
async def test_a_hello_may_come_in_pieces(loop, tls, piece):
    hello = hello_of(tls.client)
    serving = Serving(loop, tls)
    async with await serving.start():
        with await serving.silent_client() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for begin in range(0, len(hello), piece):
                await loop.sock_sendall(sock, hello[begin : begin + piece])
                await turns(2)
            answer = await asyncio.wait_for(loop.sock_recv(sock, 10), PATIENCE)
            assert answer[:2] == b"\x16\x03"  # a record of the handshake
        await serving.still_serves()


async def test_a_connection_runs_in_a_context_of_its_own(loop, tls):
    seen = []
    serving = Serving(loop, tls, connection_made=lambda self: seen.append(variable.get()))

    def factory():
        seen.append(variable.get())
        variable.set("of the factory")
        return Serving.factory(serving)

    variable.set("of the server")
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls.server)
    serving.name = server.sockets[0].getsockname()
    async with server:
        variable.set("changed later")
        for _ in range(2):
            await serving.still_serves()
    assert seen == ["of the server", "of the factory"] * 2


async def test_over_unix_sockets_too(loop, tls, tmp_path):
    path = str(tmp_path / "socket")
    serving = Serving(loop, tls)
    async with await loop.create_unix_server(serving.factory, path, ssl=tls.server):
        client = Recorder()
        await loop.create_unix_connection(
            lambda: client, path, ssl=tls.client, server_hostname="localhost"
        )
        client.transport.write(b"fine")
        await client.until_received(4)
        accepted = serving.protocols[0].transport
        assert accepted.get_extra_info("peername") == ""
        assert accepted.get_extra_info("sockname") == path
        assert accepted.get_extra_info("socket").family == socket.AF_UNIX
        client.transport.close()
        await Serving.until_over(client, *serving.protocols)


async def test_tasks_of_the_program_are_the_only_ones_after_the_handshake(loop, tls):
    serving = Serving(loop, tls)
    async with await serving.start():
        client = await serving.client()
        await serving.protocols[0].until("connection_made")
        await turns(3)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        client.transport.close()
        await Serving.until_over(client, *serving.protocols)


@pytest.mark.without_debug
async def test_a_handshake_is_no_task(zloop_loop, tls, errors):
    """In asyncio it is one."""
    serving = Serving(zloop_loop, tls)
    async with await serving.start():
        with await serving.silent_client():
            assert asyncio.all_tasks() == {asyncio.current_task()}
        await told_in_debug_mode(zloop_loop, errors)


# Failures.


@pytest.mark.parametrize("how", ["garbage", "end", "reset", "silence"])
@pytest.mark.parametrize("debug", [False, True])
async def test_a_handshake_that_fails_is_told_in_debug_mode_only(loop, tls, errors, how, debug):
    loop.set_debug(debug)
    kind = {
        "garbage": ssl.SSLError,
        "silence": ConnectionAbortedError,
    }.get(how, ConnectionResetError)
    serving = Serving(loop, tls)
    async with await serving.start(ssl_handshake_timeout=0.05 if how == "silence" else None):
        with await serving.silent_client() as sock:
            if how == "garbage":
                await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
            elif how == "reset":
                reset(sock)
            elif how == "end":
                sock.shutdown(socket.SHUT_WR)
            if how != "reset":
                await end_of(loop, sock)
        if debug:
            async with asyncio.timeout(PATIENCE):
                while not errors:
                    await asyncio.sleep(0.001)
            context = errors.pop()
            assert context["message"] == NOT_MADE
            assert isinstance(context["exception"], kind)
            assert context["protocol"] is serving.protocols[0]
            assert context["transport"].is_closing()
        if how != "silence":
            await serving.still_serves()
        await turns(5)
        assert serving.protocols[0].seen == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
@pytest.mark.parametrize("debug", [False, True])
async def test_a_factory_that_raises_costs_its_connection_only(loop, tls, errors, debug):
    loop.set_debug(debug)
    serving = Serving(loop, tls)
    failures = [ZeroDivisionError("mine"), ValueError("mine"), asyncio.CancelledError("mine")]

    def factory():
        if failures:
            raise failures.pop()
        return Serving.factory(serving)

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls.server)
    serving.name = server.sockets[0].getsockname()
    async with server:
        for _ in range(3):
            with socket.create_connection(serving.name) as sock:
                sock.setblocking(False)
                if debug:  # then the collector has to find asyncio's connection before it ends
                    assert await told_of(errors, protocol=None) == "mine"
                else:
                    await end_of(loop, sock)
        await serving.still_serves()


@pytest.mark.parametrize("debug", [False, True])
async def test_a_protocol_that_raises_in_connection_made(loop, tls, errors, debug):
    def fail(self):
        raise ZeroDivisionError("mine")

    loop.set_debug(debug)
    serving = Serving(loop, tls, connection_made=fail)
    async with await serving.start():
        client = await serving.client()
        await Serving.until_over(client, *serving.protocols)
        await turns(5)
    assert str(serving.protocols[0].losses[0]) == "mine"
    assert [each["message"] for each in errors] == [
        "Fatal error: protocol.buffer_updated() call failed.",
        *[NOT_MADE] * debug,
    ]
    errors.clear()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_a_timeout_that_is_not_positive_is_told_in_debug_mode(loop, tls, errors, name):
    loop.set_debug(True)
    serving = Serving(loop, tls)
    async with await serving.start(**{name: 0}):
        with await serving.silent_client():
            words = await told_of(errors, serving.protocols[0])
            assert words == f"{name} should be a positive number, got 0"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
@pytest.mark.without_debug
async def test_a_server_may_be_closed_by_its_factory(loop, tls):
    serving = Serving(loop, tls)

    def factory():
        server.close()
        return Serving.factory(serving)

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls.server)
    serving.name = server.sockets[0].getsockname()
    with await serving.silent_client():
        await turns(5)
        assert len(serving.protocols) == 1
    await asyncio.wait_for(server.wait_closed(), PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio drops it
def test_an_exit_in_the_factory_leaves_the_loop(loop, tls):
    def factory():
        raise SystemExit(3)

    async def knock():
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls.server)
        with socket.create_connection(server.sockets[0].getsockname()):
            try:
                await loop.create_future()
            finally:
                server.close()

    task = loop.create_task(knock())
    with pytest.raises(SystemExit) as caught:
        loop.run_until_complete(task)
    assert caught.value.code == 3
    for each in asyncio.all_tasks(loop):
        each.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(task)
    gc.collect()


# The server's end.


async def test_a_server_closed_in_a_storm_serves_whom_it_has_accepted(loop, tls):
    serving = Serving(loop, tls)
    server = await serving.start(backlog=100)
    clients = [asyncio.ensure_future(serving.client()) for _ in range(30)]
    await serving.until_accepted(10)
    server.close()
    done = await asyncio.gather(*clients, return_exceptions=True)
    served = [each for each in done if isinstance(each, Recorder)]
    assert all(isinstance(each, OSError) for each in done if each not in served)
    assert len(served) == len(serving.protocols) >= 10
    for client in served:
        client.transport.write(b"fine")
        await client.until_received(4)
        client.transport.close()
    await Serving.until_over(*served, *serving.protocols)
    await asyncio.wait_for(server.wait_closed(), PATIENCE)


@pytest.mark.without_debug
async def test_resets_in_a_storm_of_handshakes_harm_no_other(loop, tls):
    hello = hello_of(tls.client)
    serving = Serving(loop, tls)
    async with await serving.start(backlog=200):
        clients = [asyncio.ensure_future(serving.client()) for _ in range(20)]
        for number in range(60):
            sock = socket.create_connection(serving.name)
            sock.sendall(hello[: (number * 13) % (len(hello) + 1)])
            if number % 2:
                await turns(number % 5)
            reset(sock)
        for client in await asyncio.gather(*clients):
            client.transport.write(b"fine")
            await client.until_received(4)
            client.transport.close()
            await client.until("connection_lost")
        told = [each for each in serving.protocols if each.transport is not None]
        assert len(told) == 20
        await Serving.until_over(*told)


@pytest.mark.without_debug
async def test_wait_closed_waits_for_handshakes(loop, tls):
    if sys.version_info < (3, 12, 1):
        pytest.skip("before 3.12.1 wait_closed() of a closed server did not wait")
    serving = Serving(loop, tls)
    server = await serving.start()
    with await serving.silent_client():
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await turns(5)
        assert not waiting.done()
    await asyncio.wait_for(waiting, PATIENCE)


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_handshakes_end_with_the_servers_clients(loop, tls, method):
    serving = Serving(loop, tls)
    server = await serving.start()
    if not hasattr(server, method):
        server.close()
        pytest.skip(f"Server.{method} is new in 3.13")
    with await serving.silent_client() as sock:
        await turns(3)
        server.close()
        getattr(server, method)()
        await end_of(loop, sock)
        await asyncio.wait_for(server.wait_closed(), PATIENCE)
    assert serving.protocols[0].seen == []


# The loop's end.


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("begun", [False, True])
def test_run_ends_handshakes_and_leaves_nothing_behind(factory, tls, begun):
    async def main():
        serving = Serving(asyncio.get_running_loop(), tls)
        server = await serving.start()
        sock = await serving.silent_client()
        if begun:
            await serving.loop.sock_sendall(sock, hello_of(tls.client))
            await asyncio.wait_for(serving.loop.sock_recv(sock, 10), PATIENCE)
        server.close()
        return sock, serving.protocols[0]

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=FACTORIES[factory], debug=False) as runner:
            sock, protocol = runner.run(main())
        del runner
        gc.collect()
    with sock:
        sock.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1000):
                pass
    assert protocol.seen == []
    assert [str(each.message) for each in told] == []


def test_a_loop_that_is_closed_ends_its_handshakes(zloop_loop, tls):
    """asyncio has a task in each, which is then destroyed, and a transport that warns."""
    serving = Serving(zloop_loop, tls)
    server = zloop_loop.run_until_complete(serving.start())
    sock = zloop_loop.run_until_complete(serving.silent_client())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        server.close()
        zloop_loop.close()
        gc.collect()
    with sock:
        sock.settimeout(PATIENCE)
        assert sock.recv(10) == b""
    assert [str(each.message) for each in told] == []


def test_a_loop_that_nobody_closes_goes_with_its_handshakes(tls):
    """The collector may clear what belongs together in any order."""
    socks = []
    for _ in range(20):
        loop = FACTORIES["zloop"]()
        serving = Serving(loop, tls)
        loop.run_until_complete(serving.start())
        socks.append(loop.run_until_complete(serving.silent_client()))
        gone = weakref.ref(loop)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del loop, serving
            gc.collect()
        assert gone() is None
    for sock in socks:
        with sock:
            sock.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(10) == b""


# What a program may have replaced.


class Replaced:
    """Notes that it was called, then does what was there."""

    def __init__(self, loop, name):
        self.calls = 0
        self.stock = getattr(loop, name)
        setattr(loop, name, self)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.stock(*args, **kwargs)


@pytest.mark.parametrize("name", ["_accept_connection2", "_make_ssl_transport"])
async def test_a_replaced_method_of_the_loop_is_called(loop, tls, name):
    serving = Serving(loop, tls)
    async with await serving.start():
        await serving.still_serves()
        replaced = Replaced(loop, name)  # the server is there already
        server_side = len(serving.protocols)
        await serving.still_serves()
        assert len(serving.protocols) == server_side + 1
        assert replaced.calls == (1 if name == "_accept_connection2" else 2)  # the client's beside
        delattr(loop, name)
        await serving.still_serves()


def test_a_subclass_may_override_the_methods(new_loop, tls):
    calls = []

    class Mine(type(new_loop())):
        async def _accept_connection2(self, *args, **kwargs):
            calls.append("accept")
            return await super()._accept_connection2(*args, **kwargs)

        def _make_ssl_transport(self, *args, **kwargs):
            calls.append("make")
            return super()._make_ssl_transport(*args, **kwargs)

    async def main():
        serving = Serving(asyncio.get_running_loop(), tls)
        async with await serving.start():
            await serving.still_serves()

    with asyncio.Runner(loop_factory=Mine) as runner:
        runner.run(main())
    assert sorted(calls) == ["accept", "make", "make"]


async def test_a_context_may_have_a_class_of_its_own_for_its_objects(loop, tls):
    class Counting(ssl.SSLObject):
        handshakes = 0

        def do_handshake(self):
            type(self).handshakes += 1
            super().do_handshake()

    serving = Serving(loop, tls)
    async with await serving.start():
        await serving.still_serves()
        tls.server.sslobject_class = Counting
        await serving.still_serves()
    assert Counting.handshakes > 0


async def test_a_callback_may_choose_the_context_by_the_name(loop, tls, certificates):
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificates[1].configure_cert(other)
    asked = []

    def choose(sslobj, name, context):
        asked.append((name, context))
        sslobj.context = other

    tls.server.sni_callback = choose
    serving = Serving(loop, tls)
    async with await serving.start():
        await serving.still_serves()
    assert asked == [("localhost", tls.server)]


def test_running_out_of_descriptors_pauses_accepting_and_loses_no_handshake():
    check_program(
        """
        import asyncio, contextlib, resource, socket, ssl, trustme, zloop

        authority = trustme.CA()
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(server_side)
        client_side = ssl.create_default_context()
        authority.configure_trust(client_side)
        errors, accepted = [], []

        class Counted(asyncio.Protocol):
            def connection_made(self, transport):
                accepted.append(transport)

        def connect(loop, sock):
            return loop.create_connection(
                asyncio.Protocol, sock=sock, ssl=client_side, server_hostname="localhost"
            )

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: errors.append(context))
            "localhost".encode("idna")  # which opens a file
            # Here, and not later: io_uring has taken the limit when it begins to accept.
            resource.setrlimit(resource.RLIMIT_NOFILE, (32, 4096))
            server = await loop.create_server(Counted, "127.0.0.1", 0, ssl=server_side)
            extra, hog = socket.socket(), []
            with contextlib.suppress(OSError):
                while True:
                    hog.append(socket.socket())
            extra.connect(server.sockets[0].getsockname())
            extra.setblocking(False)
            connecting = asyncio.ensure_future(connect(loop, extra))
            while not errors:
                await asyncio.sleep(0.01)
            assert errors[0]["exception"].errno == 24, errors
            for each in hog:
                each.close()
            transport, _ = await asyncio.wait_for(connecting, 10)
            while not accepted:
                await asyncio.sleep(0.001)
            for each in (transport, *accepted):
                each.abort()
            server.close()
            await asyncio.sleep(0.01)

        zloop.run(main())
        """,
        timeout=20,
    )
