"""Echo servers and their like, on asyncio alone: what `bench/serve.py` can serve.

    echo         asyncio.Protocol, the shortest that there is
    buffered     the same as asyncio.BufferedProtocol
    parts N      echo, but what comes goes back in N writes
    head_body    the same in two writes of which the first is short, as a head and a body are
    unix         echo, over a Unix socket
    datagram     the same as asyncio.DatagramProtocol, over UDP
    streams      StreamReader and StreamWriter
    sock         loop.sock_recv() and loop.sock_sendall(), a task a connection
    source       writes of 1 MiB, for as long as the client takes them
    narrow       source in writes of 64 KiB, through a send buffer of that size
    sink         takes whatever comes
    busy         echo, beside a thread that computes in Python
    threads      echo by two loops, in a thread each, on one port
    tls_echo     echo, over TLS
    tls_bulk     source, over TLS

Each says `port N`, or `path NAME`, once it listens, and goes on until its process is terminated.
"""

import asyncio
import os
import socket
import ssl
import tempfile
import threading

import loops
import native

HOST = "127.0.0.1"  # bound by the loop: of a ready-made socket asyncio may leave Nagle's delay on
NARROW_BYTES = 64 * 1024
BACKLOG = 4096  # the same as the floor's: a burst of connections must not wait for a resent SYN


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoInParts(Echo):
    head_bytes = 100

    def data_received(self, data: bytes) -> None:
        self.transport.write(data[: self.head_bytes])
        self.transport.write(data[self.head_bytes :])


class EchoInEvenParts(Echo):
    count = 1

    def data_received(self, data: bytes) -> None:
        step = -(-len(data) // self.count)
        for start in range(0, len(data), step):
            self.transport.write(data[start : start + step])


class EchoBuffered(asyncio.BufferedProtocol):
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(256 * 1024))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.transport.write(bytes(self.buffer[:count]))  # asyncio may keep what it is given


class Sink(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        pass


class Source(asyncio.Protocol):
    """Writes whenever it may; the loop has its turn after each."""

    piece = bytes(1024 * 1024)
    paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.write()

    def write(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.transport.write(self.piece)
            self.loop.call_soon(self.write)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.loop.call_soon(self.write)


Factory = type[asyncio.Protocol] | type[asyncio.BufferedProtocol]


class EchoDatagrams(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


def announce(server: asyncio.AbstractServer) -> None:
    print("port", server.sockets[0].getsockname()[1], flush=True)  # type: ignore[attr-defined]


def context() -> ssl.SSLContext:
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(native.certificate())
    return made


async def serve(protocol: Factory, secure: ssl.SSLContext | None = None) -> None:
    # Not all loops' servers can be entered with `async with`, and rloop's serve_forever() stops listening.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, HOST, 0, backlog=BACKLOG, ssl=secure)
    announce(server)
    await loop.create_future()  # for ever


async def echo() -> None:
    await serve(Echo)


async def buffered() -> None:
    await serve(EchoBuffered)


async def parts(count: str) -> None:
    await serve(type("EchoInSoManyParts", (EchoInEvenParts,), {"count": int(count)}))


async def head_body() -> None:
    await serve(EchoInParts)


async def source() -> None:
    await serve(Source)


async def narrow() -> None:
    pieces = type("SourceOfPieces", (Source,), {"piece": bytes(NARROW_BYTES)})
    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        # What is accepted has the listener's buffer.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NARROW_BYTES)
        server = await loop.create_server(pieces, sock=listener, backlog=BACKLOG)
        announce(server)
        await loop.create_future()


async def sink() -> None:
    await serve(Sink)


async def tls_echo() -> None:
    await serve(Echo, context())


async def tls_bulk() -> None:
    await serve(Source, context())


async def unix() -> None:
    loop = asyncio.get_running_loop()
    path = f"{tempfile.gettempdir()}/zloop-bench-{os.getpid()}"  # who started us removes it
    server = await loop.create_unix_server(Echo, path, backlog=BACKLOG)
    print("path", path, flush=True)
    await loop.create_future()
    server.close()  # it is kept until here


async def busy() -> None:
    def compute() -> None:
        while True:
            sum(range(1000))

    threading.Thread(target=compute, daemon=True).start()
    await serve(Echo)


async def threads(make: loops.Factory) -> None:
    async def share(port: int) -> None:
        loop = asyncio.get_running_loop()
        # The kernel deals the connections out to those that listen on a port.
        server = await loop.create_server(Echo, HOST, port, backlog=BACKLOG, reuse_port=True)
        if port:
            listening.set()
        else:
            found = server.sockets[0].getsockname()[1]
            threading.Thread(target=run, args=[found], daemon=True).start()
            await asyncio.to_thread(listening.wait, 10)
            announce(server)
        await loop.create_future()

    def run(port: int) -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(share(port))

    listening = threading.Event()
    await share(0)


async def datagram() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=(HOST, 0))
    print("port", transport.get_extra_info("sockname")[1], flush=True)
    await loop.create_future()


async def streams() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the client ends its run in the middle of messages
        finally:
            writer.close()

    server = await asyncio.start_server(answer, HOST, 0, backlog=BACKLOG)
    announce(server)
    await asyncio.get_running_loop().create_future()


async def sock() -> None:
    loop = asyncio.get_running_loop()

    async def answer(connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while data := await loop.sock_recv(connection, 65536):
                    await loop.sock_sendall(connection, data)
            except ConnectionError:
                pass  # the client ends its run in the middle of messages

    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        print("port", listener.getsockname()[1], flush=True)
        serving = set()
        while True:
            connection, _ = await loop.sock_accept(listener)
            task = loop.create_task(answer(connection))
            serving.add(task)
            task.add_done_callback(serving.discard)


SERVERS = {
    server.__name__: server
    for server in (
        echo,
        buffered,
        parts,
        head_body,
        unix,
        datagram,
        streams,
        sock,
        source,
        narrow,
        sink,
        busy,
        threads,
        tls_echo,
        tls_bulk,
    )
}
