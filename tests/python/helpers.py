"""What the tests share: protocols that record, peers that misbehave, programs in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import site
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zloop

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 10.0  # seconds until a test gives up; nothing takes that long when it works

FACTORIES: dict[str, Callable[[], Any]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "zloop": zloop.new_event_loop,
}


with contextlib.closing(zloop.new_event_loop()) as _loop:
    BACKEND = _loop.backend  # of every loop of ours in this process, and in its children

# kqueue in a library, over epoll: tools/test-kqueue.
LIBKQUEUE = BACKEND == "kqueue" and sys.platform == "linux"


class Events:
    """A list of what happened, that one can wait on."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._changed = asyncio.Event()

    def add(self, what: Any) -> None:
        self.seen.append(what)
        self._changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)


class Recorder(asyncio.Protocol):
    """Records every call; `hooks` maps a method's name to what it should do beside."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.events = Events()
        self.hooks = hooks
        self.transport: Any = None
        self.data = bytearray()
        self.losses: list[BaseException | None] = []

    def _called(self, name: str, *args: Any) -> Any:
        self.events.add(name)
        return self.hooks[name](self, *args) if name in self.hooks else None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._called("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._called("data_received", data)

    def eof_received(self) -> Any:
        return self._called("eof_received")

    def pause_writing(self) -> None:
        self._called("pause_writing")

    def resume_writing(self) -> None:
        self._called("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.losses.append(exc)
        self._called("connection_lost", exc)

    @property
    def seen(self) -> list[str]:
        return self.events.seen

    async def until(self, name: str, times: int = 1) -> None:
        await self.events.until(lambda: self.seen.count(name) >= times)

    async def until_received(self, count: int) -> None:
        await self.events.until(lambda: len(self.data) >= count or self.losses)
        assert len(self.data) >= count, f"lost after {len(self.data)} bytes of {count}"


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same through get_buffer() and buffer_updated()."""

    def __init__(self, size: int = 1024, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.buffer = bytearray(size)
        self.hints: list[int] = []

    data_received = None  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> Any:
        self.hints.append(sizehint)
        given = self._called("get_buffer")
        return self.buffer if given is None else given

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        self._called("buffer_updated", nbytes)


class Peer:
    """The other end of a connection: a bare socket, that no transport helps."""

    def __init__(self, loop: Any, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.loop = loop
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(self.loop.sock_sendall(self.sock, data), PATIENCE)

    async def receive(self, most: int = 65536) -> bytes:
        return await asyncio.wait_for(self.loop.sock_recv(self.sock, most), PATIENCE)

    async def receive_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = await self.receive(min(count - len(data), 1 << 20))
            assert more, f"the stream ended after {len(data)} bytes of {count}"
            data += more
        return bytes(data)

    async def receive_until_end(self) -> bytes:
        data = bytearray()
        while more := await self.receive(1 << 20):
            data += more
        return bytes(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()


def environment_of_others() -> dict[str, str]:
    """For a program that has nothing of ours: curl hangs when ASan's library is loaded into it."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def reset(sock: socket.socket) -> None:
    """Close with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def tcp_pair(family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection, blocking."""
    with socket.create_server(
        ("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family
    ) as listener:
        one = socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE)
        other, _ = listener.accept()
    one.settimeout(None)
    return one, other


def receive_all(sock: socket.socket, count: int) -> bytes:
    """That many bytes, or those until the end. MSG_WAITALL does not wait on a socket with a timeout."""
    received = b""
    while len(received) < count and (data := sock.recv(count - len(received))):
        received += data
    return received


def data_segments_sent(sock: Any) -> int:
    """How many TCP segments with data left: without Nagle, one a system call of small writes."""
    return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 156)[
        0
    ]


async def turns(count: int = 1) -> None:
    """Let the loop turn: what is scheduled now, has run after it."""
    for _ in range(count):
        await asyncio.sleep(0)


async def kernel_was_asked() -> None:
    """Let the loop find out all that the kernel can tell by now: a busy one does not ask each turn."""
    loop = asyncio.get_running_loop()
    asked = loop.create_future()
    r, w = os.pipe()
    loop.add_reader(r, lambda: asked.done() or asked.set_result(None))
    os.write(w, b"!")
    await asyncio.wait_for(asked, PATIENCE)
    loop.remove_reader(r)
    os.close(r)
    os.close(w)


def environment(**more: str) -> dict[str, str]:
    """Ours, so that a child finds the zloop that this process has imported."""
    where = str(Path(zloop.__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    found = {"PYTHONFAULTHANDLER": "1"}
    if where not in site.getsitepackages():  # an installed one is found without
        found["PYTHONPATH"] = where + (os.pathsep + path if path else "")
    return {**os.environ, **found, **more}


def run_program(
    source: str, *args: str, options: tuple[str, ...] = (), timeout: float = 30.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a new process; the test fails when it hangs."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source), *args],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def check_program(source: str, *args: str, **more: Any) -> str:
    """run_program(), which must succeed and say nothing on stderr; returns its output."""
    done = run_program(source, *args, **more)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\n{done.stdout}"
    return done.stdout
