"""A program as a user types it: test_typing.py has it checked, strictly, and run.

It uses what zloop has of its own, and what of asyncio's zloop implements and so has stubs for.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any, assert_type

import zloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def answer(loop: zloop.Loop) -> bytes:
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"hello")
        said = await reader.readexactly(5)
        writer.close()
        await writer.wait_closed()
    return said


async def by_sockets(loop: zloop.Loop) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        assert_type(await loop.sock_sendall(one, b"hello"), None)
        assert_type(await loop.sock_recv(other, 10), bytes)
        room = bytearray(10)
        await loop.sock_sendall(other, memoryview(b"there"))
        assert_type(await loop.sock_recv_into(one, room), int)

        readable = loop.create_future()
        loop.add_reader(one, readable.set_result, None)
        await loop.sock_sendall(other, b"!")
        await readable
        assert_type(loop.remove_reader(one), bool)


async def by_callbacks(loop: zloop.Loop) -> None:
    called: asyncio.Future[str] = loop.create_future()
    tell: Callable[[str], None] = called.set_result
    handle = loop.call_soon(tell, "soon", context=contextvars.copy_context())
    assert_type(handle, asyncio.Handle)
    assert_type(handle.cancelled(), bool)
    timer = loop.call_at(loop.time() + 3600, functools.partial(print, "late"))
    assert_type(timer, asyncio.TimerHandle)
    assert_type(timer.when(), float)
    timer.cancel()
    assert_type(await called, str)
    loop.call_soon_threadsafe(int, "5").cancel()


async def by_children() -> int | None:
    child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=-1)
    said, _ = await child.communicate(b"to the child")
    assert said == b"to the child"
    return child.returncode


async def main() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, zloop.Loop)
    task = loop.create_task(answer(loop), name="answer")
    assert_type(task, asyncio.Task[bytes])
    assert await task == b"hello"
    await by_sockets(loop)
    await by_callbacks(loop)
    assert await by_children() == 0
    pid = await loop.run_in_executor(None, os.getpid)
    return pid - os.getpid() + 5


assert_type(zloop.run(main()), int)
assert_type(zloop.run(main(), debug=True), int)
with asyncio.Runner(loop_factory=zloop.new_event_loop) as runner:
    again: int = runner.run(main())

loop = zloop.new_event_loop()
assert_type(loop, zloop.Loop)
as_stock: asyncio.AbstractEventLoop = loop
as_base: asyncio.SelectorEventLoop = loop
assert_type(loop.backend, str)
assert_type(loop.stats["turns"], int)
loop.close()

assert_type(zloop.get_include(), str)
assert_type(zloop.__version__, str)
if sys.version_info < (3, 14):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on
        zloop.install()
    policy = zloop.EventLoopPolicy()
    made: Any = policy.new_event_loop()
    made.close()
