"""What a datagram endpoint promises: UDP and Unix, whole messages, errors that end nothing."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import socket
import subprocess
import sys
import tempfile
import warnings
import weakref
from asyncio import selector_events
from unittest import mock

import pytest
from helpers import PATIENCE, Events, check_program, turns

import zloop

HIGH = 64 * 1024  # asyncio's high-water mark
sends_empty = sys.version_info >= (3, 13)


class Recorder(asyncio.DatagramProtocol):
    """Records every call; `hooks` maps a method's name to what it should do beside."""

    def __init__(self, **hooks):
        self.events = Events()
        self.hooks = hooks
        self.transport = None
        self.messages = []
        self.senders = []
        self.failures = []
        self.losses = []

    def _called(self, name, *args):
        self.events.add(name)
        if name in self.hooks:
            self.hooks[name](self, *args)

    def connection_made(self, transport):
        self.transport = transport
        self._called("connection_made")

    def datagram_received(self, data, addr):
        self.messages.append(data)
        self.senders.append(addr)
        self._called("datagram_received", data, addr)

    def error_received(self, exc):
        self.failures.append(exc)
        self._called("error_received", exc)

    def pause_writing(self):
        self._called("pause_writing")

    def resume_writing(self):
        self._called("resume_writing")

    def connection_lost(self, exc):
        self.losses.append(exc)
        self._called("connection_lost", exc)

    @property
    def seen(self):
        return self.events.seen

    async def until(self, name, times=1):
        await self.events.until(lambda: self.seen.count(name) >= times)

    async def until_received(self, count):
        await self.until("datagram_received", count)


class Endpoints:
    """Makes endpoints and bare sockets, all closed after the test."""

    def __init__(self, loop):
        self.loop = loop
        self.protocols = []
        self.sockets = []
        self.folder = tempfile.TemporaryDirectory()

    def path(self):
        return os.path.join(self.folder.name, f"socket{len(self.sockets)}-{len(self.protocols)}")

    async def __call__(self, protocol=None, **how):
        protocol = Recorder() if protocol is None else protocol
        if not how:
            how = {"local_addr": ("127.0.0.1", 0)}
        transport, _ = await self.loop.create_datagram_endpoint(lambda: protocol, **how)
        self.protocols.append(protocol)
        return transport, protocol

    def socket(self, family=socket.AF_INET, name=("127.0.0.1", 0)):
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE)
        self.sockets.append(made)
        if name is not None:
            made.bind(name)
        return made

    def finish(self):
        for each in self.sockets:
            each.close()
        if not self.loop.is_closed():
            for protocol in self.protocols:
                if not protocol.losses:  # after that asyncio's transports know no loop any more
                    protocol.transport.abort()
            self.loop.run_until_complete(turns(3))
        self.folder.cleanup()


@pytest.fixture
def endpoint(loop):
    made = Endpoints(loop)
    yield made
    made.finish()


def name_of(transport):
    return transport.get_extra_info("sockname")


def echo(protocol, data, addr):
    protocol.transport.sendto(data, addr)


def has_ipv6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
        return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


# Messages and who sent them.


async def test_a_message_arrives_whole_with_its_sender(endpoint):
    transport, protocol = await endpoint()
    peer = endpoint.socket()
    for message in (b"hello", b"x" * 65507, b"\0"):
        peer.sendto(message, name_of(transport))
    await protocol.until_received(3)
    assert protocol.messages == [b"hello", b"x" * 65507, b"\0"]
    assert protocol.senders == [peer.getsockname()] * 3
    assert [type(each) for each in protocol.messages] == [bytes] * 3
    assert protocol.seen == ["connection_made"] + ["datagram_received"] * 3


async def test_an_answer_goes_to_whom_it_is_for(endpoint):
    transport, protocol = await endpoint(Recorder(datagram_received=echo))
    peers = [endpoint.socket() for _ in range(300)]  # more than any cache of names holds
    for round_ in range(2):
        for number, peer in enumerate(peers):
            peer.sendto(f"{round_} {number}".encode(), name_of(transport))
            await protocol.until_received(round_ * len(peers) + number + 1)
        for number, peer in enumerate(peers):
            assert peer.recvfrom(100) == (f"{round_} {number}".encode(), name_of(transport))
    assert protocol.senders == [peer.getsockname() for peer in peers] * 2


async def test_a_late_answer_goes_to_whom_it_is_for(endpoint):
    transport, protocol = await endpoint()
    peers = [endpoint.socket() for _ in range(40)]
    for number, peer in enumerate(peers):
        peer.sendto(str(number).encode(), name_of(transport))
    await protocol.until_received(len(peers))
    for message, sender in zip(
        reversed(protocol.messages), reversed(protocol.senders), strict=True
    ):
        transport.sendto(message, sender)
    for number, peer in enumerate(peers):
        assert peer.recv(100) == str(number).encode()


async def test_the_messages_of_one_peer_arrive_in_order(endpoint):
    transport, protocol = await endpoint()
    peer = endpoint.socket()
    expected = [str(number).encode() for number in range(100)]
    for message in expected:
        peer.sendto(message, name_of(transport))
    await protocol.until_received(100)
    assert protocol.messages == expected


async def test_an_empty_message_arrives(endpoint):
    transport, protocol = await endpoint()
    peer = endpoint.socket()
    for message in (b"", b"then", b""):
        peer.sendto(message, name_of(transport))
    await protocol.until_received(3)
    assert protocol.messages == [b"", b"then", b""]
    assert not transport.is_closing()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_an_empty_message_is_sent_where_asyncio_sends_it(endpoint, kind):
    peer = endpoint.socket()
    transport, _protocol = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(kind(b""))
    transport.sendto(b"after")
    if sends_empty:  # from 3.13 on
        assert peer.recv(10) == b""
    assert peer.recv(10) == b"after"


@needs_ipv6
async def test_ipv6(endpoint):
    transport, protocol = await endpoint(Recorder(datagram_received=echo), local_addr=("::1", 0))
    client, other = await endpoint(remote_addr=name_of(transport)[:2])
    assert name_of(transport)[0] == "::1" and len(name_of(transport)) == 4
    client.sendto(b"hello")
    await other.until_received(1)
    assert (other.messages, other.senders) == ([b"hello"], [name_of(transport)])
    assert protocol.senders == [name_of(client)]
    peer = endpoint.socket(socket.AF_INET6, ("::1", 0))
    for destination in (peer.getsockname(), peer.getsockname()[:2], peer.getsockname()[:3]):
        transport.sendto(b"direct", destination)
        assert peer.recvfrom(10) == (b"direct", name_of(transport))


@needs_ipv6
async def test_ipv4_peers_of_an_ipv6_socket(endpoint):
    sock = endpoint.socket(socket.AF_INET6, None)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    _transport, protocol = await endpoint(Recorder(datagram_received=echo), sock=sock)
    peer = endpoint.socket()
    peer.sendto(b"mapped", ("127.0.0.1", sock.getsockname()[1]))
    await protocol.until_received(1)
    assert protocol.senders == [("::ffff:127.0.0.1", peer.getsockname()[1], 0, 0)]
    assert peer.recv(10) == b"mapped"


def link_local():
    """(address, scope id) of this machine, or None."""
    with contextlib.suppress(OSError), open("/proc/net/if_inet6") as lines:
        for line in lines:
            digits, index, _, scope, *_ = line.split()
            if scope == "20":
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), int(index, 16)
    return None


@pytest.mark.skipif(link_local() is None, reason="no interface has a link-local address")
async def test_a_scope_is_a_number_and_no_part_of_the_host(endpoint):
    host, scope = link_local()
    peer = endpoint.socket(socket.AF_INET6, (host, 0, 0, scope))
    sock = endpoint.socket(socket.AF_INET6, (host, 0, 0, scope))
    transport, protocol = await endpoint(Recorder(datagram_received=echo), sock=sock)
    assert name_of(transport) == sock.getsockname()
    peer.sendto(b"near", sock.getsockname())
    await protocol.until_received(1)
    assert protocol.senders == [peer.getsockname()] and protocol.senders[0][3] == scope
    assert peer.recv(10) == b"near"


# Unix.


async def test_unix_paths(endpoint):
    server, client = endpoint.path(), endpoint.path() + "c"
    transport, protocol = await endpoint(
        Recorder(datagram_received=echo), local_addr=server, family=socket.AF_UNIX
    )
    other, answers = await endpoint(local_addr=client, remote_addr=server, family=socket.AF_UNIX)
    assert (name_of(transport), name_of(other)) == (server, client)
    assert other.get_extra_info("peername") == server
    for message in (b"one", b"two"):
        other.sendto(message)
    await answers.until_received(2)
    assert protocol.senders == [client] * 2
    assert (answers.messages, answers.senders) == ([b"one", b"two"], [server] * 2)


async def test_unnamed_unix_peers_have_no_address(endpoint):
    path = endpoint.path()
    _transport, protocol = await endpoint(local_addr=path, family=socket.AF_UNIX)
    endpoint.socket(socket.AF_UNIX, None).sendto(b"who", path)
    await protocol.until_received(1)
    assert (protocol.messages, protocol.senders) == ([b"who"], [None])


async def test_abstract_unix_names_are_bytes(endpoint):
    name = f"\0zloop-test-{os.getpid()}"
    sock = endpoint.socket(socket.AF_UNIX, name)
    _transport, protocol = await endpoint(Recorder(datagram_received=echo), sock=sock)
    peer = endpoint.socket(socket.AF_UNIX, name + "-peer")
    for destination in (name, name.encode()):
        peer.sendto(b"abstract", destination)
        await protocol.until_received(len(protocol.messages) + 1)
        assert peer.recvfrom(20) == (b"abstract", name.encode())
    assert protocol.senders == [(name + "-peer").encode()] * 2


@pytest.mark.parametrize("size", [65_537, 150_000, 262_144, 300_000])
async def test_large_unix_messages_and_where_asyncio_cuts(endpoint, size):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.sockets.append(other)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    _transport, protocol = await endpoint(sock=one)
    message = os.urandom(size)
    try:
        other.send(message)
    except OSError as failure:
        assert failure.errno == errno.EMSGSIZE
        pytest.skip("the kernel's net.core.wmem_max forbids messages of this size")
    other.send(b"next")
    await protocol.until_received(2)
    assert protocol.messages == [message[: 256 * 1024], b"next"]


async def test_many_unix_messages_of_all_sizes(endpoint):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.sockets.append(other)
    _transport, protocol = await endpoint(sock=one)
    expected = [os.urandom(number * 1500) for number in range(40)]
    for count, message in enumerate(expected):
        other.send(message)
        if count % 5 == 0:  # the kernel may hold no more than ten
            await protocol.until_received(count + 1)
    await protocol.until_received(len(expected))
    assert protocol.messages == expected


# Where messages go.


async def test_a_remote_address_connects(endpoint):
    peer, stranger = endpoint.socket(), endpoint.socket()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.sendto(b"to the peer")
    transport.sendto(b"by its name", peer.getsockname())
    transport.sendto(b"by nothing", None)
    assert [peer.recv(20) for _ in range(3)] == [b"to the peer", b"by its name", b"by nothing"]
    stranger.sendto(b"unasked", name_of(transport))
    peer.sendto(b"asked", name_of(transport))
    await protocol.until_received(1)
    assert protocol.messages == [b"asked"]


async def test_another_address_than_the_remote_one_is_refused(endpoint):
    peer, other = endpoint.socket(), endpoint.socket()
    transport, _protocol = await endpoint(remote_addr=peer.getsockname())
    for wrong in (other.getsockname(), "text", (), 5, list(peer.getsockname())):
        with pytest.raises(ValueError) as caught:
            transport.sendto(b"data", wrong)
        assert str(caught.value) == f"Invalid address: must be None or {peer.getsockname()}"
    assert not transport.is_closing()


async def test_a_connected_socket_ignores_the_address(endpoint):
    peer, other = endpoint.socket(), endpoint.socket()
    sock = endpoint.socket()
    sock.connect(peer.getsockname())
    transport, _protocol = await endpoint(sock=sock)
    transport.sendto(b"hello", other.getsockname())
    assert peer.recv(10) == b"hello"


async def test_a_remote_address_with_broadcast_does_not_connect(endpoint):
    peer, stranger = endpoint.socket(), endpoint.socket()
    transport, protocol = await endpoint(
        local_addr=("127.0.0.1", 0), remote_addr=peer.getsockname(), allow_broadcast=True
    )
    assert transport.get_extra_info("peername") is None
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    transport.sendto(b"hello")
    assert peer.recv(10) == b"hello"
    stranger.sendto(b"unasked", name_of(transport))
    await protocol.until_received(1)
    with pytest.raises(ValueError, match="Invalid address: must be None or"):
        transport.sendto(b"hello", stranger.getsockname())


async def test_reuse_port_shares_a_port(endpoint):
    one, first = await endpoint(local_addr=("127.0.0.1", 0), reuse_port=True)
    _two, second = await endpoint(local_addr=name_of(one), reuse_port=True)
    for number in range(64):
        endpoint.socket().sendto(str(number).encode(), name_of(one))
    events = (first, second)

    def count():
        return sum(len(each.messages) for each in events)

    async with asyncio.timeout(PATIENCE):
        while count() < 64:
            await asyncio.sleep(0.001)
    assert first.messages and second.messages


@pytest.mark.parametrize(
    "destination",
    [
        "name",
        "too long",
        "no tuple",
        "no port",
        "big port",
        "negative",
        "none",
        "bytes host",
        "list",
    ],
)
async def test_an_address_is_judged_as_pythons_socket_judges_it(endpoint, errors, destination):
    transport, protocol = await endpoint()
    peer = endpoint.socket()
    port = peer.getsockname()[1]
    address = {
        "name": ("localhost", port),
        "too long": ("127.0.0.1", port, 0, 0),
        "no tuple": "127.0.0.1",
        "no port": ("127.0.0.1", "http"),
        "big port": ("127.0.0.1", 65536 + port),
        "negative": ("127.0.0.1", -1),
        "none": None,
        "bytes host": (b"127.0.0.1", port),
        "list": ["127.0.0.1", port],
    }[destination]
    try:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"probe", address)
        expected = None
        assert peer.recv(10) == b"probe"
    except (OSError, TypeError, OverflowError) as failure:
        expected = failure
    transport.sendto(b"hello", address)
    if expected is None:
        assert peer.recv(10) == b"hello"
    elif isinstance(expected, OSError):
        assert repr(protocol.failures) == repr([expected])
        assert not transport.is_closing()
    else:  # asyncio takes it for the end
        assert transport.is_closing()
        await protocol.until("connection_lost")
        assert repr(protocol.losses) == repr([expected])
        (report,) = errors
        errors.clear()
        assert report["message"] == "Fatal write error on datagram transport"
        assert repr(report["exception"]) == repr(expected)
        assert (report["transport"], report["protocol"]) == (transport, protocol)


async def test_an_unnamed_peer_cannot_be_answered(endpoint, errors):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    endpoint.sockets.append(other)
    _transport, protocol = await endpoint(Recorder(datagram_received=echo), sock=one)
    other.send(b"who")
    await protocol.until("connection_lost")
    (report,) = errors
    errors.clear()
    assert report["message"] == "Fatal write error on datagram transport"
    assert isinstance(protocol.losses[0], TypeError)
    with pytest.raises(BlockingIOError):
        other.recv(10, socket.MSG_DONTWAIT)


# The arguments of sendto().


@pytest.mark.parametrize("data", ["text", None, 5, [b"list"], object()])
async def test_only_bytes_are_sent(endpoint, data):
    transport, _protocol = await endpoint()
    with pytest.raises(TypeError) as caught:
        transport.sendto(data, ("127.0.0.1", 9))
    assert str(caught.value) == (
        f"data argument must be a bytes-like object, not {type(data).__name__!r}"
    )
    assert not transport.is_closing()


async def test_sendto_takes_its_arguments_by_name(endpoint):
    peer = endpoint.socket()
    transport, _protocol = await endpoint()
    transport.sendto(data=b"one", addr=peer.getsockname())
    transport.sendto(b"two", addr=peer.getsockname())
    transport.sendto(addr=peer.getsockname(), data=b"three")
    assert [peer.recv(10) for _ in range(3)] == [b"one", b"two", b"three"]
    for args, kwargs, words in [
        ((), {}, "missing 1 required positional argument: 'data'"),
        ((b"", None, 1), {}, "takes from 2 to 3 positional arguments but 4 were given"),
        ((b"",), {"data": b""}, "got multiple values for argument 'data'"),
        ((b"",), {"address": 1}, "got an unexpected keyword argument 'address'"),
    ]:
        with pytest.raises(TypeError) as caught:
            transport.sendto(*args, **kwargs)
        assert str(caught.value) == f"_SelectorDatagramTransport.sendto() {words}"


async def test_sendto_takes_every_bytes_like_object(endpoint):
    import array

    class Named(bytes):
        pass

    peer = endpoint.socket()
    transport, _protocol = await endpoint(remote_addr=peer.getsockname())
    numbers = array.array("I", [1, 2, 3])
    for data in (b"bytes", Named(b"named"), bytearray(b"array"), memoryview(b"0123")[1:3]):
        transport.sendto(data)
        assert peer.recv(10) == bytes(data)
    transport.sendto(memoryview(numbers))
    assert peer.recv(100) == numbers.tobytes()


async def test_a_view_that_is_not_contiguous_is_asyncios_fatal_error(endpoint, errors):
    peer = endpoint.socket()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(memoryview(b"0123456789")[::2])
    await protocol.until("connection_lost")
    (report,) = errors
    errors.clear()
    assert report["message"] == "Fatal write error on datagram transport"
    assert isinstance(protocol.losses[0], BufferError)


def test_audit_hooks_hear_of_where_messages_go():
    program = """
        import asyncio, socket, sys, zloop
        seen = []
        sys.addaudithook(lambda name, args: seen.append(args[1]) if name == "socket.sendto" else None)
        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            transport.sendto(b"x", ("127.0.0.1", 9))
            transport.close()
        zloop.run(main())
        print(seen)
    """
    assert check_program(program) == "[('127.0.0.1', 9)]\n"


# Errors.


async def test_a_closed_port_is_told_and_the_endpoint_stays_open(endpoint):
    peer = endpoint.socket()
    address = peer.getsockname()
    peer.close()
    transport, protocol = await endpoint(remote_addr=address)
    transport.sendto(b"anybody?")
    await protocol.until("error_received")
    assert [type(each) for each in protocol.failures] == [ConnectionRefusedError]
    assert not transport.is_closing()
    peer = endpoint.socket(name=address)
    transport.sendto(b"hello")
    assert peer.recv(10) == b"hello"
    peer.sendto(b"welcome", name_of(transport))
    await protocol.until_received(1)
    assert protocol.messages == [b"welcome"]


async def test_an_endpoint_without_a_peer_does_not_hear_of_closed_ports(endpoint):
    peer, gone = endpoint.socket(), endpoint.socket()
    address = gone.getsockname()
    gone.close()
    transport, protocol = await endpoint()
    transport.sendto(b"anybody?", address)
    peer.sendto(b"hello", name_of(transport))
    await protocol.until_received(1)
    assert (protocol.messages, protocol.failures) == ([b"hello"], [])


async def test_the_next_send_may_be_told_of_the_former_ones_error(endpoint):
    peer = endpoint.socket()
    address = peer.getsockname()
    peer.close()
    transport, protocol = await endpoint(remote_addr=address)
    transport.sendto(b"one")
    transport.sendto(b"two")  # meets the error of the first, at once
    assert [type(each) for each in protocol.failures] == [ConnectionRefusedError]
    assert not transport.is_closing()


async def test_a_message_that_is_too_long_is_told_at_once(endpoint):
    transport, protocol = await endpoint()
    peer = endpoint.socket()
    transport.sendto(b"x" * 70_000, peer.getsockname())
    assert [each.errno for each in protocol.failures] == [errno.EMSGSIZE]
    transport.sendto(b"short", peer.getsockname())
    assert peer.recv(10) == b"short"


async def test_a_unix_peer_that_is_not_there(endpoint):
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    transport.sendto(b"anybody?", endpoint.path() + "-nobody")
    assert [type(each) for each in protocol.failures] == [FileNotFoundError]
    assert not transport.is_closing()


async def test_what_error_received_raises_goes_to_the_caller_of_sendto(endpoint):
    def fails(*_):
        raise ZeroDivisionError("from error_received")

    transport, _protocol = await endpoint(Recorder(error_received=fails))
    with pytest.raises(ZeroDivisionError, match="from error_received"):
        transport.sendto(b"x" * 70_000, ("127.0.0.1", 9))
    assert not transport.is_closing()


@pytest.mark.parametrize("hook", ["datagram_received", "error_received"])
async def test_what_a_protocol_raises_is_reported_and_reading_goes_on(endpoint, errors, hook):
    failure = ZeroDivisionError("by the protocol")

    def fails(*_):
        raise failure

    peer = endpoint.socket()
    address = peer.getsockname()
    transport, protocol = await endpoint(Recorder(**{hook: fails}), remote_addr=address)
    if hook == "error_received":
        peer.close()
        transport.sendto(b"anybody?")
        await protocol.until("error_received")
        peer = endpoint.socket(name=address)
    else:
        peer.sendto(b"bad", name_of(transport))
        await protocol.until_received(1)
    await turns(1)
    (report,) = errors
    errors.clear()
    assert report["message"] == f"Exception in callback {type(transport).__name__}._read_ready()"
    assert report["exception"] is failure
    assert isinstance(report["handle"], asyncio.Handle)
    assert not transport.is_closing()
    protocol.hooks.clear()
    peer.sendto(b"good", name_of(transport))
    await protocol.until_received(len(protocol.messages) + 1)
    assert protocol.messages[-1] == b"good"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("hook", ["datagram_received", "error_received"])
def test_exits_leave_the_loop_and_lose_no_message(loop, endpoint, hook, kind):
    def leaves(*_):
        raise kind

    peer = endpoint.socket()
    address = peer.getsockname()
    transport, protocol = loop.run_until_complete(
        endpoint(Recorder(**{hook: leaves}), remote_addr=address)
    )
    if hook == "error_received":
        peer.close()
        transport.sendto(b"anybody?")
        peer = endpoint.socket(name=address)
    else:
        peer.sendto(b"first", name_of(transport))
    peer.sendto(b"second", name_of(transport))
    with pytest.raises(kind):
        loop.run_until_complete(asyncio.sleep(PATIENCE))
    protocol.hooks.clear()
    loop.run_until_complete(protocol.until_received(1 if hook == "error_received" else 2))
    assert protocol.messages[-1] == b"second"
    assert not transport.is_closing()


# Order and turns.


async def test_the_order_of_a_birth(loop, endpoint):
    peer = endpoint.socket()
    order = []
    protocol = Recorder(
        connection_made=lambda self: (
            peer.sendto(b"early", name_of(self.transport)),
            loop.call_soon(order.append, "after connection_made"),
        ),
        datagram_received=lambda *_: order.append("message"),
    )
    await endpoint(protocol)
    order.append("endpoint")
    await protocol.until_received(1)
    assert sorted(order[:2]) == ["after connection_made", "endpoint"]
    assert order[2:] == ["message"]


async def test_what_a_message_makes_ready_runs_before_the_next_message(loop, endpoint):
    order = []

    def received(self, data, _):
        order.append(data)
        loop.call_soon(order.append, b"after " + data)

    transport, protocol = await endpoint(Recorder(datagram_received=received))
    peer = endpoint.socket()
    for number in range(40):
        peer.sendto(str(number).encode(), name_of(transport))
    await protocol.until_received(40)
    await turns(1)
    expected = []
    for number in range(40):
        expected += [str(number).encode(), b"after " + str(number).encode()]
    assert order == expected


async def test_what_any_callback_of_the_turn_makes_ready_runs_before_the_next_message(
    loop, endpoint
):
    order = []

    def received(self, data, _):
        order.append(data)
        if data == b"0":
            loop.call_later(0, timer)  # due in the next turn, behind its message

    def timer():
        order.append("timer")
        loop.call_soon(order.append, "after the timer")

    transport, protocol = await endpoint(Recorder(datagram_received=received))
    peer = endpoint.socket()
    for number in range(4):
        peer.sendto(str(number).encode(), name_of(transport))
    await protocol.until_received(4)
    assert order == [b"0", b"1", "timer", "after the timer", b"2", b"3"]


async def test_a_task_sees_each_message_before_the_next(loop, endpoint):
    """A future that its task makes anew each time: with asyncio's order, none is set twice."""
    waiter = loop.create_future()
    transport, _protocol = await endpoint(
        Recorder(datagram_received=lambda self, data, _: waiter.set_result(data))
    )
    peer = endpoint.socket()
    for number in range(30):
        peer.sendto(str(number).encode(), name_of(transport))
    async with asyncio.timeout(PATIENCE):
        for number in range(30):
            assert await waiter == str(number).encode()
            waiter = loop.create_future()


async def test_a_flood_starves_nobody(loop, endpoint):
    transport, protocol = await endpoint()
    other, second = await endpoint()
    peer = endpoint.socket()
    for _ in range(150):
        peer.sendto(b"flood", name_of(transport))
    peer.sendto(b"drop", name_of(other))
    timer = loop.call_later(0, lambda: marks.append(len(protocol.messages)))
    marks = []
    await second.until_received(1)
    assert len(protocol.messages) < 150
    await protocol.until_received(150)
    assert timer.cancelled() is False and marks and marks[0] < 150


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_after_the_end_no_message_of_the_batch_is_delivered(endpoint, end):
    transport, protocol = await endpoint(
        Recorder(datagram_received=lambda self, *_: getattr(self.transport, end)())
    )
    peer = endpoint.socket()
    for number in range(10):
        peer.sendto(str(number).encode(), name_of(transport))
    await protocol.until("connection_lost")
    await turns(3)
    assert protocol.messages == [b"0"]
    assert protocol.seen == ["connection_made", "datagram_received", "connection_lost"]


async def test_pausing_keeps_what_has_arrived(endpoint):
    transport, protocol = await endpoint(
        Recorder(datagram_received=lambda self, *_: self.transport.pause_reading())
    )
    peer = endpoint.socket()
    expected = [str(number).encode() for number in range(20)]
    for message in expected:
        peer.sendto(message, name_of(transport))
    for count in range(1, 21):
        await protocol.until_received(count)
        await turns(3)
        assert len(protocol.messages) == count
        assert not transport.is_reading()
        transport.resume_reading()
        assert len(protocol.messages) == count  # nothing is delivered inline
        assert transport.is_reading()
    assert protocol.messages == expected


async def test_pausing_and_resuming_in_one_callback_loses_and_doubles_nothing(endpoint):
    def flicker(self, *_):
        for _ in range(3):
            self.transport.pause_reading()
            self.transport.resume_reading()

    transport, protocol = await endpoint(Recorder(datagram_received=flicker))
    peer = endpoint.socket()
    expected = [str(number).encode() for number in range(50)]
    for message in expected:
        peer.sendto(message, name_of(transport))
        if len(message) == 2 and message.endswith(b"0"):
            await turns(2)
            flicker(protocol)
    await protocol.until_received(50)
    await turns(3)
    assert protocol.messages == expected


async def test_a_new_protocol_gets_the_next_message_of_the_batch(endpoint):
    second = Recorder()
    transport, protocol = await endpoint(
        Recorder(datagram_received=lambda self, *_: self.transport.set_protocol(second))
    )
    second.transport = transport
    peer = endpoint.socket()
    for message in (b"one", b"two", b"three"):
        peer.sendto(message, name_of(transport))
    await second.until_received(2)
    assert transport.get_protocol() is second
    assert (protocol.messages, second.messages) == ([b"one"], [b"two", b"three"])


async def test_a_message_left_in_the_kernel_is_there_for_another_reader(endpoint):
    """A paused endpoint does not read on."""
    transport, protocol = await endpoint()
    transport.pause_reading()
    peer = endpoint.socket()
    peer.sendto(b"kept", name_of(transport))
    await turns(3)
    assert protocol.messages == []
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    with sock:
        assert sock.recv(10) == b"kept"


def test_stopping_between_two_messages_of_a_batch(loop, endpoint):
    transport, protocol = loop.run_until_complete(
        endpoint(Recorder(datagram_received=lambda *_: loop.stop()))
    )
    peer = endpoint.socket()
    for number in range(4):
        peer.sendto(str(number).encode(), name_of(transport))
    for count in range(1, 5):
        loop.run_forever()
        assert len(protocol.messages) == count
    assert protocol.messages == [b"0", b"1", b"2", b"3"]


async def test_messages_share_the_context_of_the_connection(loop, endpoint):
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("caller")
    seen = []
    transport, protocol = await endpoint(
        Recorder(
            datagram_received=lambda *_: (seen.append(variable.get()), variable.set("message"))
        )
    )
    variable.set("later")
    peer = endpoint.socket()
    for message in (b"one", b"two"):
        peer.sendto(message, name_of(transport))
    await protocol.until_received(2)
    assert seen == ["caller", "message"]
    assert variable.get() == "later"


# What waits to be sent.


def fill(transport, beyond=0):
    """Send until more than `beyond` bytes stay with us; returns the messages."""
    written = []
    while transport.get_write_buffer_size() <= beyond:
        written.append(len(written).to_bytes(4, "big") + b"x" * 1000)
        transport.sendto(written[-1])
        assert len(written) < 100_000
    return written


async def full_endpoint(endpoint, protocol=None, beyond=0):
    """An endpoint on a Unix pair whose peer does not read, with what was sent to it."""
    path = endpoint.path()
    peer = endpoint.socket(socket.AF_UNIX, path)
    transport, protocol = await endpoint(protocol, remote_addr=path, family=socket.AF_UNIX)
    peer.setblocking(False)
    return transport, protocol, peer, fill(transport, beyond)


async def drain(loop, peer, count):
    """Receive as many messages, each when it is there."""
    received = []
    while len(received) < count:
        received.append(await asyncio.wait_for(loop.sock_recv(peer, 100_000), PATIENCE))
    return received


async def test_what_the_kernel_does_not_take_is_sent_later_in_order(loop, endpoint):
    transport, protocol, peer, sent = await full_endpoint(endpoint)
    for number in range(100):
        sent.append(b"more %d" % number)
        transport.sendto(sent[-1])
    assert await drain(loop, peer, len(sent)) == sent
    await turns(2)
    assert transport.get_write_buffer_size() == 0 or not counts_right(transport)
    assert protocol.failures == []


def counts_right(transport):
    """Whether what was sent leaves the count: 3.13 forgot its headers at first."""
    stock = selector_events._SelectorDatagramTransport
    return not isinstance(transport, stock) or not sends_empty or hasattr(stock, "_header_size")


async def test_the_buffers_size_counts_headers_where_asyncio_does(endpoint):
    transport, _protocol, _peer, sent = await full_endpoint(endpoint)
    header = 8 if sends_empty else 0
    assert transport.get_write_buffer_size() == len(sent[-1]) + header
    transport.sendto(b"12345")
    transport.sendto(b"")
    empty = header if sends_empty else 0
    assert transport.get_write_buffer_size() == len(sent[-1]) + 2 * header + 5 + empty


async def test_what_is_changed_after_sendto_does_not_change_what_is_sent(loop, endpoint):
    transport, _protocol, peer, sent = await full_endpoint(endpoint)
    data = bytearray(b"before")
    transport.sendto(data)
    data[:] = b"after!"
    data.clear()  # and nobody holds a view of it
    assert (await drain(loop, peer, len(sent) + 1))[-1] == b"before"


async def test_flow_control(loop, endpoint):
    transport, protocol, peer, sent = await full_endpoint(endpoint, beyond=HIGH)
    if not counts_right(transport):
        pytest.skip("this asyncio never resumes: it forgets the headers of what was sent")
    assert protocol.seen == ["connection_made", "pause_writing"]
    assert await drain(loop, peer, len(sent)) == sent
    await protocol.until("resume_writing")
    assert protocol.seen == ["connection_made", "pause_writing", "resume_writing"]


async def test_write_buffer_limits(endpoint):
    transport, protocol, _peer, _sent = await full_endpoint(endpoint)
    assert transport.get_write_buffer_limits() == (HIGH // 4, HIGH)
    transport.set_write_buffer_limits(high=10)
    assert transport.get_write_buffer_limits() == (2, 10)
    if sys.version_info >= (3, 12):
        await turns(1)
    transport.sendto(b"x")
    assert "pause_writing" in protocol.seen
    with pytest.raises(ValueError, match="must be >= low"):
        transport.set_write_buffer_limits(high=1, low=2)


async def test_what_pause_writing_raises_is_reported(endpoint, errors):
    def fails(*_):
        raise ZeroDivisionError

    transport, protocol, _peer, _sent = await full_endpoint(
        endpoint, Recorder(pause_writing=fails), beyond=HIGH
    )
    (report,) = errors
    errors.clear()
    assert report["message"] == "protocol.pause_writing() failed"
    assert (report["transport"], report["protocol"]) == (transport, protocol)


async def test_close_sends_what_waits_and_then_ends(loop, endpoint):
    transport, protocol, peer, sent = await full_endpoint(endpoint)
    transport.close()
    assert transport.is_closing()
    transport.sendto(b"while closing")
    await turns(3)
    assert protocol.losses == []
    assert await drain(loop, peer, len(sent) + 1) == [*sent, b"while closing"]
    await protocol.until("connection_lost")
    assert protocol.losses == [None]


async def test_abort_drops_what_waits(loop, endpoint):
    transport, protocol, peer, sent = await full_endpoint(endpoint)
    transport.abort()
    assert transport.get_write_buffer_size() in (0, len(sent[-1]) + (8 if sends_empty else 0))
    await protocol.until("connection_lost")
    assert protocol.losses == [None]
    assert await drain(loop, peer, len(sent) - 1) == sent[:-1]
    with pytest.raises(BlockingIOError):
        peer.recv(10)


async def test_a_full_peer_that_is_gone_is_told_and_the_rest_goes_on(loop, endpoint):
    transport, protocol, peer, _sent = await full_endpoint(endpoint)
    transport.sendto(b"second")
    peer.close()
    await protocol.until("error_received", 2)
    assert [each.errno for each in protocol.failures] == [errno.ECONNREFUSED, errno.ENOTCONN]
    assert not transport.is_closing()
    await turns(3)
    assert transport.get_write_buffer_size() == 0 or not counts_right(transport)


@pytest.mark.parametrize("connected", [True, False])
async def test_failures_come_one_a_turn_also_when_each_is_answered_with_another(
    endpoint, connected
):
    def again(protocol, _exc):
        protocol.transport.sendto(b"again", path)

    path = endpoint.path()
    peer = endpoint.socket(socket.AF_UNIX, path)
    how = {"remote_addr": path} if connected else {}
    transport, protocol = await endpoint(
        Recorder(error_received=again), family=socket.AF_UNIX, **how
    )
    while transport.get_write_buffer_size() < 1000:
        transport.sendto(b"x" * 100, path)
    peer.close()
    await protocol.until("error_received", 5)
    before = len(protocol.failures)
    await turns(20)
    assert len(protocol.failures) - before <= 21


async def test_a_paused_protocol_is_resumed_also_when_all_that_waits_fails(endpoint):
    transport, protocol, peer, _sent = await full_endpoint(endpoint, beyond=HIGH)
    if not counts_right(transport):
        pytest.skip("this asyncio never resumes: it forgets the headers of what was sent")
    peer.close()
    await protocol.until("resume_writing")
    assert "error_received" in protocol.seen


async def test_a_paused_protocol_is_resumed_when_the_last_message_that_waits_fails(endpoint):
    peer = endpoint.socket(socket.AF_UNIX, path := endpoint.path())
    transport, protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
    transport.set_write_buffer_limits(high=0)
    fill(transport)
    if not counts_right(transport):
        pytest.skip("this asyncio never resumes: it forgets the headers of what was sent")
    assert protocol.seen[-1] == "pause_writing"
    peer.close()
    await protocol.until("resume_writing")
    assert protocol.seen[-2:] == ["error_received", "resume_writing"]


async def test_a_full_unix_queue_of_a_peer_that_one_is_not_connected_to(loop, endpoint):
    """Of its room the kernel tells nobody; asyncio asks in every turn."""
    path = endpoint.path()
    peer = endpoint.socket(socket.AF_UNIX, path)
    peer.setblocking(False)
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    sent = []
    while transport.get_write_buffer_size() == 0:
        sent.append(b"%d" % len(sent))
        transport.sendto(sent[-1], path)
    for number in range(50):
        sent.append(b"more %d" % number)
        transport.sendto(sent[-1], path)
    assert await drain(loop, peer, len(sent)) == sent
    transport.close()
    await protocol.until("connection_lost")
    assert (protocol.failures, protocol.losses) == ([], [None])


async def test_what_error_received_raises_of_a_message_that_waited_is_reported(endpoint, errors):
    failure = ZeroDivisionError("from error_received")

    def fails(*_):
        raise failure

    transport, protocol, peer, _sent = await full_endpoint(endpoint, Recorder(error_received=fails))
    peer.close()
    await protocol.until("error_received")
    await turns(2)
    (report,) = errors
    errors.clear()
    assert report["message"] == f"Exception in callback {type(transport).__name__}._sendto_ready()"
    assert report["exception"] is failure
    assert not transport.is_closing()


# The end.


async def test_close_tells_once(endpoint):
    transport, protocol = await endpoint()
    assert not transport.is_closing()
    transport.close()
    transport.close()
    transport.abort()
    assert transport.is_closing()
    assert protocol.losses == []
    await turns(2)
    assert protocol.losses == [None]
    transport.close()
    transport.abort()
    await turns(2)
    assert protocol.losses == [None]
    assert transport._sock is None


async def test_close_in_connection_made(loop, endpoint):
    protocol = Recorder(connection_made=lambda self: self.transport.close())
    await endpoint(protocol)
    await protocol.until("connection_lost")
    assert protocol.seen == ["connection_made", "connection_lost"]


async def test_connection_lost_can_send_nothing_and_breaks_nothing(endpoint):
    peer = endpoint.socket()
    transport, protocol = await endpoint(
        Recorder(connection_lost=lambda self, _: self.transport.sendto(b"late")),
        remote_addr=peer.getsockname(),
    )
    transport.close()
    await protocol.until("connection_lost")


async def test_sends_that_are_lost_are_warned_of_in_asyncios_words(endpoint, caplog):
    peer = endpoint.socket()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    transport.close()
    with caplog.at_level(logging.WARNING, "asyncio"):
        for _ in range(4):
            transport.sendto(b"lost")
        assert caplog.messages == []
        for _ in range(3):
            transport.sendto(b"lost")
    assert caplog.messages == ["socket.send() raised exception."] * 3
    await protocol.until("connection_lost")
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(10)


async def test_an_endpoint_that_was_closed_is_collected(loop):
    transport, protocol = await loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    transport.close()
    gone = weakref.ref(transport)
    await turns(2)
    del transport
    protocol.transport = None
    gc.collect()
    assert gone() is None


def test_an_open_endpoint_of_a_closed_loop_warns_when_it_is_dropped(new_loop):
    loop = new_loop()
    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
    )
    number = transport.get_extra_info("socket").fileno()
    loop.close()
    os.fstat(number)  # still open
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protocol.transport = None
        del transport, protocol
        gc.collect()
    assert [str(each.message).startswith("unclosed transport <") for each in caught] == [True]
    with pytest.raises(OSError):
        os.fstat(number)


def test_an_endpoint_of_a_closed_loop_can_still_send_and_not_wait(new_loop):
    loop = new_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        transport, protocol = loop.run_until_complete(
            loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
        )
        loop.close()
        transport.sendto(b"after all", peer.getsockname())
        assert peer.recv(20) == b"after all"
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            transport.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            protocol.transport = None
            del transport, protocol
            gc.collect()


async def test_a_descriptor_that_was_closed_behind_our_back(loop, endpoint):
    sock = endpoint.socket()
    transport, protocol = await endpoint(sock=sock)
    endpoint.sockets.remove(sock)
    sock.close()
    taken = endpoint.socket()  # has the number now, or another
    transport.sendto(b"to nobody", taken.getsockname())
    assert [each.errno for each in protocol.failures] == [errno.EBADF]
    transport.close()
    await protocol.until("connection_lost")
    os.fstat(taken.fileno())


# What it is.


async def test_it_is_a_datagram_transport(loop, endpoint):
    transport, protocol = await endpoint()
    if sys.version_info >= (3, 12) or isinstance(loop, zloop.Loop):  # in 3.11 asyncio's is none
        assert isinstance(transport, asyncio.DatagramTransport)
    assert isinstance(transport, asyncio.Transport)  # asyncio's is that, too
    assert transport.get_protocol() is protocol
    assert transport._sock.family == socket.AF_INET
    for call in (lambda: transport.write(b""), transport.write_eof, transport.can_write_eof):
        with pytest.raises(NotImplementedError):
            call()


async def test_extra_info(loop, endpoint):
    sock = endpoint.socket()
    transport, _protocol = await endpoint(sock=sock)
    wrapped = transport.get_extra_info("socket")
    assert type(wrapped).__name__ == "TransportSocket"
    assert wrapped.fileno() == sock.fileno() == transport._sock_fd
    assert transport.get_extra_info("socket") is wrapped
    assert transport.get_extra_info("sockname") == sock.getsockname()
    assert transport.get_extra_info("peername", "default") is None
    assert transport.get_extra_info("nothing") is None
    assert transport.get_extra_info("nothing", 5) == 5
    transport.close()
    await turns(2)
    assert transport.get_extra_info("sockname") is not None


async def test_names_are_those_of_the_birth(endpoint):
    transport, _protocol = await endpoint(family=socket.AF_INET)
    peer = endpoint.socket()
    assert name_of(transport) == ("0.0.0.0", 0)
    transport.sendto(b"hello", peer.getsockname())
    _, sender = peer.recvfrom(10)
    assert sender[1] != 0
    assert name_of(transport) == ("0.0.0.0", 0)


async def test_repr_tells_the_state(loop, endpoint):
    transport, protocol = await endpoint()
    name = type(transport).__name__
    number = transport._sock_fd
    await turns(2)
    assert repr(transport) == f"<{name} fd={number} read=polling write=<idle, bufsize=0>>"
    transport.pause_reading()
    assert repr(transport) == f"<{name} fd={number} read=idle write=<idle, bufsize=0>>"
    transport.close()
    assert repr(transport) == f"<{name} closing fd={number} read=idle write=<idle, bufsize=0>>"
    await protocol.until("connection_lost")
    await turns(1)
    assert repr(transport) == f"<{name} closed fd={number}>"
    full, *_ = await full_endpoint(endpoint)
    size = full.get_write_buffer_size()
    assert f"write=<polling, bufsize={size}>" in repr(full)


async def test_its_descriptor_is_not_to_be_watched(loop, endpoint):
    transport, protocol = await endpoint()
    number = transport._sock_fd
    for call in (loop.add_reader, loop.add_writer):
        with pytest.raises(RuntimeError, match="is used by transport"):
            call(number, print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.sock_recvfrom(transport._sock, 10)
    transport.close()
    await protocol.until("connection_lost")


async def test_it_takes_attributes_patches_and_weak_references(endpoint):
    transport, _protocol = await endpoint()
    transport.owner = "somebody"
    transport.sendto = mock.Mock()
    transport.sendto(b"data")
    transport.sendto.assert_called_once_with(b"data")
    assert weakref.ref(transport)() is transport


async def test_a_patched_protocol_is_honoured(endpoint):
    transport, protocol = await endpoint()
    peer = endpoint.socket()
    seen = []
    protocol.datagram_received = lambda data, addr: seen.append(data)
    peer.sendto(b"patched", name_of(transport))
    async with asyncio.timeout(PATIENCE):
        while not seen:
            await asyncio.sleep(0.001)
    assert seen == [b"patched"]


async def test_a_subclass_of_socket_keeps_its_own_methods(endpoint):
    class Loud(socket.socket):
        heard = 0

        def recvfrom(self, *args):
            data, name = super().recvfrom(*args)
            return data.upper(), name

        def sendto(self, data, *args):
            return super().sendto(bytes(data) + b"!", *args)

    sock = Loud(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    _transport, protocol = await endpoint(Recorder(datagram_received=echo), sock=sock)
    peer = endpoint.socket()
    peer.sendto(b"hello", sock.getsockname())
    await protocol.until_received(1)
    assert protocol.messages == [b"HELLO"]
    assert peer.recv(10) == b"HELLO!"


async def test_netlink_messages_work_too(endpoint):
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    sock.bind((0, 0))
    transport, protocol = await endpoint(sock=sock)
    request = (20).to_bytes(4, sys.byteorder) + b"\x16\0\1\3" + b"\0" * 12  # RTM_GETADDR, dump
    transport.sendto(request, (0, 0))
    await protocol.until_received(1)
    assert protocol.senders[0] == (0, 0)
    transport.close()
    await protocol.until("connection_lost")


async def test_debug_mode_tells_of_pauses(loop, endpoint, caplog):
    loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        transport, _protocol = await endpoint()
        transport.pause_reading()
        transport.resume_reading()
    assert any("pauses reading" in each for each in caplog.messages)
    assert any("resumes reading" in each for each in caplog.messages)
    assert any("created: (" in each for each in caplog.messages)


async def test_dns_like_traffic_between_two_endpoints_of_one_loop(endpoint):
    server, _ = await endpoint(
        Recorder(datagram_received=lambda self, data, addr: self.transport.sendto(data[::-1], addr))
    )
    clients = [await endpoint(remote_addr=name_of(server)) for _ in range(50)]
    for round_ in range(20):
        for number, (transport, _) in enumerate(clients):
            transport.sendto(f"{round_}-{number}".encode())
        for _, protocol in clients:
            await protocol.until_received(round_ + 1)
    for number, (_, protocol) in enumerate(clients):
        assert protocol.messages == [f"{round_}-{number}".encode()[::-1] for round_ in range(20)]


def test_a_child_process_is_a_peer_as_any_other(loop, endpoint):
    transport, protocol = loop.run_until_complete(endpoint(Recorder(datagram_received=echo)))
    program = (
        "import socket, sys\n"
        "s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(10)\n"
        "for n in range(100):\n"
        "    s.sendto(b'%d' % n, ('127.0.0.1', int(sys.argv[1])))\n"
        "    assert s.recv(10) == b'%d' % n\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(name_of(transport)[1])])
    loop.run_until_complete(protocol.until_received(100))
    assert child.wait(PATIENCE) == 0
