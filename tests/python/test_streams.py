"""asyncio's streams over our transports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest
from helpers import PATIENCE


@contextlib.asynccontextmanager
async def served(handler, **options):
    """A stream server; `async with served(handler) as connect:`; waits until its handlers end."""
    tasks = []

    async def handle(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **options)

    async def connect(**more):
        return await asyncio.open_connection(*server.sockets[0].getsockname(), **more)

    async with server:
        yield connect
        if tasks:
            await asyncio.wait_for(asyncio.wait(tasks), PATIENCE)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def finish(writer):
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), PATIENCE)


async def test_echo(loop):
    async with served(echo) as connect:
        reader, writer = await connect()
        for number in range(100):
            writer.write(b"message %d\n" % number)
            await writer.drain()
            assert await reader.readline() == b"message %d\n" % number
        await finish(writer)


async def test_the_ways_to_read(loop):
    async def speak(reader, writer):
        writer.write(b"a line\n" + b"exactly ten" + b"until the mark|" + b"the rest")
        await writer.drain()

    async with served(speak) as connect:
        reader, writer = await connect()
        assert await reader.readline() == b"a line\n"
        assert await reader.readexactly(11) == b"exactly ten"
        assert await reader.readuntil(b"|") == b"until the mark|"
        assert await reader.read() == b"the rest"
        assert reader.at_eof()
        await finish(writer)


async def test_incomplete_reads(loop):
    async def speak(reader, writer):
        writer.write(b"short")

    async with served(speak) as connect:
        reader, writer = await connect()
        with pytest.raises(asyncio.IncompleteReadError) as raised:
            await reader.readexactly(10)
        assert (raised.value.partial, raised.value.expected) == (b"short", 10)
        await finish(writer)


async def test_a_line_over_the_limit(loop):
    async with served(echo) as connect:
        reader, writer = await connect(limit=100)
        writer.write(b"x" * 1000)
        with pytest.raises(ValueError, match=r"limit|found"):
            await reader.readline()
        await finish(writer)


async def test_big_transfers_with_backpressure(loop):
    data = os.urandom(8_000_000)
    async with served(echo) as connect:
        reader, writer = await connect(limit=2**14)

        async def send():
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        received = await asyncio.wait_for(reader.read(), PATIENCE)
        await sending
        assert received == data
        await finish(writer)


async def test_drain_waits_for_a_slow_reader_and_fails_with_the_connection(loop):
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    writer.write(b"x" * 10_000_000)
    draining = asyncio.ensure_future(writer.drain())
    await asyncio.sleep(0.005)
    assert not draining.done()
    theirs.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(draining, PATIENCE)
    writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(writer.wait_closed(), PATIENCE)


async def test_write_eof_and_answer(loop):
    async def answer(reader, writer):
        question = await reader.read()
        writer.write(question[::-1])
        await writer.drain()

    async with served(answer) as connect:
        reader, writer = await connect()
        assert writer.can_write_eof()
        writer.writelines([b"one", b"two"])
        writer.write_eof()
        assert await reader.read() == b"owteno"
        await finish(writer)


async def test_extra_info_of_a_writer(loop):
    names = []

    async def look(reader, writer):
        names.append((writer.get_extra_info("peername"), writer.get_extra_info("sockname")))

    async with served(look) as connect:
        reader, writer = await connect()
        await reader.read()
        assert names == [(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))]
        await finish(writer)


async def test_cancelling_a_read_leaves_the_stream_usable(loop):
    async with served(echo) as connect:
        reader, writer = await connect()
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await reader.read(10)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await finish(writer)


async def test_a_hundred_clients(loop):
    async with served(echo) as connect:

        async def talk(number):
            reader, writer = await connect()
            for count in range(20):
                message = b"%d %d\n" % (number, count)
                writer.write(message)
                assert await reader.readline() == message
            await finish(writer)

        await asyncio.gather(*(talk(number) for number in range(100)))


async def test_a_handler_that_raises_is_reported(loop, errors):
    closed = asyncio.Event()

    async def fail(reader, writer):
        writer.close()
        closed.set()
        raise ZeroDivisionError

    server = await asyncio.start_server(fail, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        await closed.wait()
        await finish(writer)
        await asyncio.sleep(0.001)
    assert isinstance(errors.pop()["exception"], ZeroDivisionError)


async def test_a_reset_is_raised_by_the_reader(loop):
    from helpers import reset

    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(writer.wait_closed(), PATIENCE)


async def test_a_stream_can_be_upgraded_to_tls(loop, tls):
    if not hasattr(asyncio.StreamWriter, "start_tls"):
        pytest.skip("StreamWriter.start_tls is new in 3.11")

    async def upgrade(reader, writer):
        assert await reader.readline() == b"upgrade\n"
        writer.write(b"go on\n")
        await writer.drain()
        await writer.start_tls(tls.server)
        writer.write(b"secret " + await reader.readline())
        await writer.drain()

    async with served(upgrade) as connect:
        reader, writer = await connect()
        writer.write(b"upgrade\n")
        assert await reader.readline() == b"go on\n"
        await asyncio.wait_for(writer.start_tls(tls.client, server_hostname="localhost"), PATIENCE)
        writer.write(b"hello\n")
        assert await reader.readline() == b"secret hello\n"
        await finish(writer)
