"""A peer that breaks ends its own connection, and no other."""

from __future__ import annotations

import asyncio
import socket

import pytest
from helpers import PATIENCE, BufferedRecorder, Events, Recorder, reset, turns

MESSAGE = bytes(range(256)) * 64  # 16 KiB


class Echo(Recorder):
    """Sends back what comes, with flow control."""

    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)

    def pause_writing(self):
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self):
        super().resume_writing()
        self.transport.resume_reading()


class World:
    """An echo server with one well-behaved client, beside which others break."""

    def __init__(self, loop):
        self.loop = loop
        self.protocols = []

    async def __aenter__(self):
        self.server = await self.loop.create_server(self.factory, "127.0.0.1", 0)
        self.good = await self.connect()
        return self

    async def __aexit__(self, *exc):
        await self.check_the_good_one()
        self.good.close()
        self.server.close()
        for protocol in self.protocols:
            if protocol.transport is not None:
                await protocol.until("connection_lost")
                assert len(protocol.losses) == 1

    def factory(self):
        self.protocols.append(Echo())
        return self.protocols[-1]

    async def connect(self):
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.server.sockets[0].getsockname())
        return sock

    async def check_the_good_one(self):
        await asyncio.wait_for(self.loop.sock_sendall(self.good, b"are you there?"), PATIENCE)
        answer = b""
        while len(answer) < 14:
            answer += await asyncio.wait_for(self.loop.sock_recv(self.good, 100), PATIENCE)
        assert answer == b"are you there?"


@pytest.mark.parametrize("sent", [0, 1, 100, 16384])
@pytest.mark.parametrize("read", [False, True])
async def test_a_reset_at_any_point(loop, sent, read):
    async with World(loop) as world:
        for wait in range(4):
            sock = await world.connect()
            await turns(wait)
            if sent:
                await loop.sock_sendall(sock, MESSAGE[:sent])
                if read:
                    await loop.sock_recv(sock, 1)
            await turns(wait)
            reset(sock)
        await world.check_the_good_one()


async def test_a_reset_is_told_by_connection_lost(loop):
    async with World(loop) as world:
        sock = await world.connect()
        await loop.sock_sendall(sock, b"x")
        await loop.sock_recv(sock, 1)
        reset(sock)
        await world.protocols[1].until("connection_lost")
        assert isinstance(world.protocols[1].losses[0], ConnectionResetError)
        assert world.protocols[1].losses[0].errno == 104
        assert "eof_received" not in world.protocols[1].seen


async def test_half_closed_peers_get_their_answer(loop):
    async with World(loop) as world:
        sock = await world.connect()
        await loop.sock_sendall(sock, b"question")
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while more := await asyncio.wait_for(loop.sock_recv(sock, 100), PATIENCE):
            answer += more
        assert answer == b"question"
        sock.close()


async def test_a_silent_peer_costs_nothing(loop):
    async with World(loop) as world:
        socks = [await world.connect() for _ in range(20)]
        await world.check_the_good_one()
        for sock in socks:
            sock.close()


async def test_a_peer_that_never_reads_stops_being_read(loop):
    async with World(loop) as world:
        sock = await world.connect()
        sent = 0
        stuck = 0
        while stuck < 50:
            try:
                sent += sock.send(MESSAGE)
                stuck = 0
            except BlockingIOError:
                stuck += 1
                await asyncio.sleep(0.001)
        protocol = world.protocols[1]
        assert "pause_writing" in protocol.seen
        assert protocol.transport.get_write_buffer_size() < 2 << 20
        await world.check_the_good_one()
        reset(sock)
        await protocol.until("connection_lost")


async def test_a_peer_that_reads_slowly_gets_everything(loop):
    async with World(loop) as world:
        sock = await world.connect()
        whole = MESSAGE * 400

        async def read():
            received = b""
            while len(received) < len(whole):
                received += await loop.sock_recv(sock, 7001)
            return received

        received, _ = await asyncio.wait_for(
            asyncio.gather(read(), loop.sock_sendall(sock, whole)), PATIENCE
        )
        assert received == whole
        sock.close()


async def test_a_peer_that_sends_byte_by_byte(loop):
    async with World(loop) as world:
        sock = await world.connect()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(300):
            await loop.sock_sendall(sock, bytes([number % 256]))
        received = b""
        while len(received) < 300:
            received += await loop.sock_recv(sock, 1000)
        assert received == bytes(number % 256 for number in range(300))
        sock.close()


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
async def test_urgent_data_does_not_disturb_the_stream(loop, connect, kind):
    protocol = kind()
    transport, peer = await connect(protocol)
    await peer.send(b"before")
    peer.sock.send(b"!", socket.MSG_OOB)
    await peer.send(b"after")
    await protocol.until_received(11)
    assert protocol.data == b"beforeafter"
    peer.close()
    await protocol.until("connection_lost")
    assert transport.is_closing()


async def test_many_peers_that_break_at_once(loop):
    async with World(loop) as world:
        socks = [await world.connect() for _ in range(100)]
        for number, sock in enumerate(socks):
            if number % 3:
                sock.send(MESSAGE)
        for number, sock in enumerate(socks):
            reset(sock) if number % 2 else sock.close()
        await world.check_the_good_one()


async def test_a_protocol_that_raises_harms_no_other(loop, errors):
    async with World(loop) as world:

        def fail(self, data):
            raise ZeroDivisionError

        sock = await world.connect()
        async with asyncio.timeout(PATIENCE):
            while len(world.protocols) < 2:
                await asyncio.sleep(0.001)
        world.protocols[1].hooks["data_received"] = fail
        await loop.sock_sendall(sock, b"x")
        await world.protocols[1].until("connection_lost")
        await world.check_the_good_one()
        sock.close()
    assert isinstance(errors.pop()["exception"], ZeroDivisionError)


@pytest.mark.parametrize(
    "message", [b"", b"\x00" * 1000, b"\xff" * 70000, b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_garbage_is_just_bytes(loop, message):
    async with World(loop) as world:
        sock = await world.connect()
        await loop.sock_sendall(sock, message)
        received = b""
        while len(received) < len(message):
            received += await loop.sock_recv(sock, 100_000)
        assert received == message
        sock.close()


async def test_a_peer_that_is_gone_while_we_write_a_stream(loop):
    failures = Events()

    async def serve(reader, writer):
        try:
            while True:
                writer.write(MESSAGE)
                await writer.drain()
        except ConnectionError as exc:
            failures.add(exc)
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        for _ in range(5):
            sock = socket.create_connection(server.sockets[0].getsockname())
            await asyncio.sleep(0.005)
            reset(sock)
        await failures.until(lambda: len(failures.seen) == 5)
    await turns(5)


async def test_a_listener_outlives_a_storm(loop):
    async with World(loop) as world:
        name = world.server.sockets[0].getsockname()
        for _ in range(300):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(name)
            reset(sock)
            if _ % 20 == 0:
                await turns(2)
        await world.check_the_good_one()
        await asyncio.sleep(0.01)
