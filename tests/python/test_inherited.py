"""What is not native yet, and works by way of the standard library: each at least once."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile

import pytest
from helpers import PATIENCE, Events, Recorder, tcp_pair, turns


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.events = Events()
        self.received, self.errors, self.losses = [], [], []

    def datagram_received(self, data, address):
        self.received.append((data, address))
        self.events.add("datagram_received")

    def error_received(self, exc):
        self.errors.append(exc)
        self.events.add("error_received")

    def connection_lost(self, exc):
        self.losses.append(exc)
        self.events.add("connection_lost")


async def lost(protocol, transport):
    transport.close()
    await protocol.events.until(lambda: protocol.losses)
    assert protocol.losses == [None]


# Datagrams.


async def test_datagrams_in_both_directions(loop):
    one, first = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    name = one.get_extra_info("sockname")
    two, second = await loop.create_datagram_endpoint(Datagrams, remote_addr=name)
    two.sendto(b"question")
    await first.events.until(lambda: first.received)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", name)
    await first.events.until(lambda: len(first.received) == 2)
    assert [data for data, _ in first.received] == [b"question", b""]
    address = first.received[0][1]
    assert address == two.get_extra_info("sockname")
    one.sendto(b"answer", address)
    await second.events.until(lambda: second.received)
    assert second.received == [(b"answer", name)]
    await lost(first, one)
    await lost(second, two)


async def test_a_closed_port_is_told_by_error_received(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        name = sock.getsockname()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=name)
    transport.sendto(b"anybody?")
    await protocol.events.until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], ConnectionRefusedError)
    assert not transport.is_closing()
    await lost(protocol, transport)


async def test_unix_datagrams(loop):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        one, first = await loop.create_datagram_endpoint(
            Datagrams, local_addr=path, family=socket.AF_UNIX
        )
        two, second = await loop.create_datagram_endpoint(
            Datagrams, remote_addr=path, family=socket.AF_UNIX
        )
        two.sendto(b"hello")
        await first.events.until(lambda: first.received)
        assert first.received[0][0] == b"hello"
        await lost(first, one)
        await lost(second, two)


# Unix sockets.


@pytest.mark.parametrize("given", ["path", "socket"])
async def test_unix_servers_and_clients(loop, given):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        protocols = []

        def make():
            protocols.append(Recorder(data_received=lambda self, data: self.transport.write(data)))
            return protocols[-1]

        if given == "path":
            server = await loop.create_unix_server(make, path)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            server = await loop.create_unix_server(make, sock=sock)
        async with server:
            transport, protocol = await loop.create_unix_connection(Recorder, path)
            assert transport.get_extra_info("peername") == path
            message = os.urandom(1_000_000)
            transport.write(message)
            await protocol.until_received(len(message))
            assert protocol.data == message
            assert protocols[0].transport.get_extra_info("sockname") == path
            transport.close()
            await protocol.until("connection_lost")
            await protocols[0].until("connection_lost")


async def test_unix_streams(loop):
    done = asyncio.Event()

    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()
        done.set()

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        async with await asyncio.start_unix_server(echo, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
            await done.wait()


# Pipes.


async def test_reading_and_writing_pipes(loop):
    r, w = os.pipe()
    reading, writing = Recorder(), Recorder()
    reader, _ = await loop.connect_read_pipe(lambda: reading, os.fdopen(r, "rb", 0))
    writer, _ = await loop.connect_write_pipe(lambda: writing, os.fdopen(w, "wb", 0))
    assert isinstance(reader, asyncio.ReadTransport)
    assert isinstance(writer, asyncio.WriteTransport)
    message = os.urandom(1_000_000)
    writer.write(message)
    await reading.until_received(len(message))
    assert reading.data == message
    writer.close()
    await reading.until("connection_lost")
    await writing.until("connection_lost")
    assert reading.losses == [None]


async def test_a_regular_file_is_no_pipe(loop):
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ValueError, match="Pipe transport is for pipes/sockets only"):
            await loop.connect_read_pipe(Recorder, file)
        with pytest.raises(ValueError, match="Pipe transport is only for pipes, sockets"):
            await loop.connect_write_pipe(Recorder, file)


# Child processes.


async def test_a_child_process_talks_through_pipes(loop):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data[::-1]); "
        "print(len(data), file=sys.stderr); sys.exit(3)",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    data = os.urandom(1_000_000)
    out, err = await asyncio.wait_for(process.communicate(data), PATIENCE)
    assert out == data[::-1]
    assert err == b"1000000\n"
    assert process.returncode == 3


async def test_a_shell(loop):
    process = await asyncio.create_subprocess_shell("echo out; exit 7", stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (out, process.returncode) == (b"out\n", 7)


async def test_a_child_is_killed(loop):
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.kill()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -9


async def test_ten_children_at_once(loop):
    async def one(number):
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", f"exit {number}", stdout=subprocess.DEVNULL
        )
        return await process.wait()

    statuses = await asyncio.wait_for(asyncio.gather(*map(one, range(10))), PATIENCE)
    assert statuses == list(range(10))


async def test_cancelling_a_wait_leaves_the_child_alone(loop):
    process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.01)
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


# sock_*.


async def test_sock_accept_connect_send_and_receive(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        server, address = await asyncio.wait_for(accepting, PATIENCE)
        with server:
            assert address == client.getsockname()
            message = os.urandom(3_000_000)
            sending = asyncio.ensure_future(loop.sock_sendall(client, message))
            received = bytearray()
            while len(received) < len(message):
                received += await asyncio.wait_for(loop.sock_recv(server, 1 << 20), PATIENCE)
            await sending
            assert received == message
            buffer = bytearray(10)
            waiting = asyncio.ensure_future(loop.sock_recv_into(client, buffer))
            await turns(2)
            server.send(b"into")
            assert await asyncio.wait_for(waiting, PATIENCE) == 4
            assert buffer[:4] == b"into"


async def test_cancelling_sock_recv_frees_the_descriptor(loop):
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        for _ in range(3):
            task = asyncio.ensure_future(loop.sock_recv(one, 10))
            await turns(2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        other.send(b"late")
        assert await asyncio.wait_for(loop.sock_recv(one, 10), PATIENCE) == b"late"
        assert loop.remove_reader(one) is False


async def test_sock_recvfrom_and_sendto(loop):
    if not hasattr(loop, "sock_recvfrom"):
        pytest.skip("sock_recvfrom is new in 3.11")
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for sock in (one, two):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        waiting = asyncio.ensure_future(loop.sock_recvfrom(one, 100))
        await turns(2)
        await loop.sock_sendto(two, b"datagram", one.getsockname())
        assert await asyncio.wait_for(waiting, PATIENCE) == (b"datagram", two.getsockname())


# Files.


@pytest.fixture
def big_file():
    with tempfile.TemporaryFile() as file:
        file.write(os.urandom(1_000_000))
        file.seek(0)
        yield file


async def test_sendfile_over_a_transport(loop, big_file):
    ours, theirs = tcp_pair()
    with theirs:
        theirs.setblocking(False)
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        transport.write(b"before ")
        received = bytearray()

        async def receive():
            while len(received) < 1_000_007:
                received.extend(await loop.sock_recv(theirs, 1 << 20))

        async with asyncio.timeout(PATIENCE):
            sent, _ = await asyncio.gather(loop.sendfile(transport, big_file), receive())
        assert sent == 1_000_000
        big_file.seek(0)
        assert received == b"before " + big_file.read()
        theirs.send(b"still there")
        await protocol.until_received(11)
        transport.write(b"after")
        assert await asyncio.wait_for(loop.sock_recv(theirs, 100), PATIENCE) == b"after"
        transport.close()
        await protocol.until("connection_lost")


async def test_sock_sendfile(loop, big_file):
    one, other = tcp_pair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        sending = asyncio.ensure_future(loop.sock_sendfile(one, big_file))
        received = bytearray()
        while len(received) < 1_000_000:
            received += await asyncio.wait_for(loop.sock_recv(other, 1 << 20), PATIENCE)
        assert await sending == 1_000_000
        big_file.seek(0)
        assert received == big_file.read()


# Names.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None, "0.0.0.0", b"127.0.0.1"])
@pytest.mark.parametrize("port", [80, "80", "http", None, 0])
async def test_getaddrinfo_gives_what_socket_gives(loop, host, port):
    for options in ({}, {"type": socket.SOCK_STREAM}, {"family": socket.AF_INET}):
        try:
            expected = socket.getaddrinfo(host, port, **options)
        except OSError as exc:
            with pytest.raises(type(exc)):
                await loop.getaddrinfo(host, port, **options)
        else:
            assert await loop.getaddrinfo(host, port, **options) == expected


async def test_getnameinfo(loop):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await loop.getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")
