"""A server process on one event loop: `python bench/servers.py uvloop echo`.

    echo         asyncio.Protocol, the shortest that there is
    parts        the same, but what comes goes back in two writes, as a head and a body do
    datagram     the same as asyncio.DatagramProtocol, over UDP
    streams      StreamReader and StreamWriter
    sock         loop.sock_recv() and loop.sock_sendall(), a task a connection
    tls_echo     echo, over TLS
    tls_bulk     writes of 1 MiB over TLS, for as long as the client takes them
    uvicorn      uvicorn with httptools and a bare ASGI application
    uvicorn_tls  the same over TLS

It prints `port N` once it listens on 127.0.0.1, and runs until it is terminated.
"""

import argparse
import asyncio
import resource
import socket
import ssl

import loops
import native

HOST = "127.0.0.1"  # bound by the loop: of a ready-made socket asyncio may leave Nagle's delay on
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


class Bulk(asyncio.Protocol):
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


class EchoDatagrams(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


def announce(server: asyncio.AbstractServer) -> None:
    print("port", server.sockets[0].getsockname()[1], flush=True)  # type: ignore[attr-defined]


async def echo(protocol: type[asyncio.Protocol] = Echo) -> None:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(protocol, HOST, 0, backlog=BACKLOG) as server:
        announce(server)
        await loop.create_future()  # for ever: rloop's serve_forever() stops listening


async def parts() -> None:
    await echo(EchoInParts)


async def serve_tls(protocol: type[asyncio.Protocol]) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(native.certificate())
    async with await loop.create_server(protocol, HOST, 0, backlog=BACKLOG, ssl=context) as server:
        announce(server)
        await loop.create_future()


async def tls_echo() -> None:
    await serve_tls(Echo)


async def tls_bulk() -> None:
    await serve_tls(Bulk)


async def datagram() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=(HOST, 0))
    print("port", transport.get_extra_info("sockname")[1], flush=True)
    await loop.create_future()


async def streams() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the client ends its run in the middle of messages
        finally:
            writer.close()

    async with await asyncio.start_server(serve, HOST, 0, backlog=BACKLOG) as server:
        announce(server)
        await asyncio.get_running_loop().create_future()


async def sock() -> None:
    loop = asyncio.get_running_loop()

    async def serve(connection: socket.socket) -> None:
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
            task = loop.create_task(serve(connection))
            serving.add(task)
            task.add_done_callback(serving.discard)


async def plaintext(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answer every request; HTTP is the only scope, as lifespan and websockets are off."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def uvicorn(certificate: str | None = None) -> None:
    from uvicorn import Config, Server

    class AnnouncingServer(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(self.servers[0])

    config = Config(
        plaintext,
        host=HOST,
        port=0,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
        ssl_certfile=certificate,
        ssl_keyfile=certificate,
    )
    await AnnouncingServer(config).serve()


async def uvicorn_tls() -> None:
    await uvicorn(native.certificate())


MODES = {
    "echo": echo,
    "parts": parts,
    "datagram": datagram,
    "streams": streams,
    "sock": sock,
    "uvicorn": uvicorn,
    "uvicorn_tls": uvicorn_tls,
    "tls_echo": tls_echo,
    "tls_bulk": tls_bulk,
}


def allow_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("mode", choices=MODES)
    arguments = parser.parse_args()

    allow_descriptors()
    with asyncio.Runner(loop_factory=loops.factory(arguments.loop)) as runner:
        runner.run(MODES[arguments.mode]())


if __name__ == "__main__":
    main()
