"""What a loop costs where it asks the kernel, both ends in one loop: rows of `bench/work.py`.

add_reader           a byte goes through a pipe, and the reader's callback takes it
sock_pingpong        two tasks send a byte to and fro over a socket pair, by sock_*
pipe_echo            1 KiB through connect_write_pipe and connect_read_pipe, and another
connect_close        create_connection to a C server on the other core, and close
getaddrinfo          of a literal address and port
spawn                start a program, read what it prints, wait for its end; one after another
"""

import asyncio
import os
import socket
import subprocess

from micro import Loop
from stopwatch import Stopwatch


def add_reader(loop: Loop, watch: Stopwatch) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    left = 0

    def ready() -> None:
        nonlocal left
        os.read(read_end, 64)
        left -= 1
        if left <= 0:
            if not watch.goes_on():
                return loop.stop()
            left = watch.batch
        os.write(write_end, b"x")

    loop.add_reader(read_end, ready)
    os.write(write_end, b"x")
    loop.run_forever()
    loop.remove_reader(read_end)
    os.close(read_end)
    os.close(write_end)


def sock_pingpong(loop: Loop, watch: Stopwatch) -> None:
    async def answer(end: socket.socket) -> None:
        while data := await loop.sock_recv(end, 64):
            await loop.sock_sendall(end, data)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            answering = loop.create_task(answer(theirs))
            while watch.goes_on():
                for _ in range(watch.batch):
                    await loop.sock_sendall(ours, b"x")
                    await loop.sock_recv(ours, 64)
            ours.shutdown(socket.SHUT_WR)
            await answering
            ours.close()

    loop.run_until_complete(main())


def pipe_echo(loop: Loop, watch: Stopwatch) -> None:
    message = bytes(1024)

    class Reader(asyncio.Protocol):
        received = left = 0
        writer: asyncio.WriteTransport

        def __init__(self) -> None:
            self.over: asyncio.Future[None] = loop.create_future()

        def data_received(self, data: bytes) -> None:
            self.received += len(data)
            if self.received < len(message):
                return
            self.received = 0
            self.left -= 1
            if self.left <= 0:
                if not watch.goes_on():
                    return self.over.set_result(None)
                self.left = watch.batch
            self.writer.write(message)

    async def main() -> None:
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb", 0) as source, os.fdopen(write_end, "wb", 0) as sink:
            reading, reader = await loop.connect_read_pipe(Reader, source)
            reader.writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sink)
            reader.writer.write(message)
            await reader.over
            reader.writer.close()
            reading.close()
            await asyncio.sleep(0)  # both are closed by callbacks

    loop.run_until_complete(main())


def connect_close(loop: Loop, watch: Stopwatch, address: str) -> None:
    watch.batch = 20
    port = int(address)

    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost: asyncio.Future[None] = loop.create_future()

        def connection_lost(self, error: Exception | None) -> None:
            self.lost.set_result(None)

    async def main() -> None:
        while watch.goes_on():
            for _ in range(watch.batch):
                transport, client = await loop.create_connection(Client, "127.0.0.1", port)
                transport.close()
                await client.lost

    loop.run_until_complete(main())


def getaddrinfo(loop: Loop, watch: Stopwatch) -> None:
    watch.batch = 100

    async def main() -> None:
        while watch.goes_on():
            for _ in range(watch.batch):
                await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    loop.run_until_complete(main())


def spawn(loop: Loop, watch: Stopwatch) -> None:
    watch.batch = 10

    async def child() -> None:
        started = await asyncio.create_subprocess_exec("/bin/echo", stdout=subprocess.PIPE)
        written, _ = await started.communicate()
        if (written, started.returncode) != (b"\n", 0):
            raise RuntimeError(f"a child printed {written!r} and ended with {started.returncode}")

    async def main() -> None:
        while watch.goes_on():
            for _ in range(watch.batch):
                await child()

    loop.run_until_complete(main())


ROWS = {row.__name__: row for row in (add_reader, sock_pingpong, pipe_echo, getaddrinfo, spawn)}
ADDRESSED = {"connect_close": connect_close}
