"""Servers that others wrote, each with one small application: what `bench/serve.py` can serve.

    uvicorn [PARSER] [tls]    PARSER is httptools (its default) or h11
    hypercorn                 with h11, its only parser of HTTP/1
    aiohttp                   its own HTTP, with the compiled parser where it is installed
    websockets                an echo of messages

The HTTP ones answer `GET /` with 13 bytes, `GET /big` with 100 KiB, and a POST with the number of
bytes that came; none writes an access log.
"""

import asyncio
import socket
from typing import Any

import native
from servers import BACKLOG, HOST, announce

HELLO = b"Hello, world!"
BIG = bytes(100 * 1024)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """ASGI; HTTP is the only scope, as lifespan and websockets are off."""
    if scope["type"] != "http":  # hypercorn asks for lifespan whatever one says
        raise NotImplementedError(scope["type"])
    body = BIG if scope["path"] == "/big" else HELLO
    if scope["method"] == "POST":
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = str(size).encode()
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def uvicorn(parser: str = "httptools", tls: str = "") -> None:
    from uvicorn import Config, Server

    class AnnouncingServer(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(self.servers[0])

    certificate = native.certificate() if tls else None
    config = Config(
        application,
        host=HOST,
        port=0,
        http=parser,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
        ssl_certfile=certificate,
        ssl_keyfile=certificate,
    )
    await AnnouncingServer(config).serve()


async def hypercorn() -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.backlog = BACKLOG
        config.accesslog = config.errorlog = None
        print("port", listener.getsockname()[1], flush=True)
        await serve(application, config)


async def aiohttp() -> None:
    from aiohttp import web

    async def hello(_: web.Request) -> web.Response:
        return web.Response(body=HELLO, content_type="text/plain")

    async def big(_: web.Request) -> web.Response:
        return web.Response(body=BIG, content_type="text/plain")

    async def post(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/big", big), web.post("/", post)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0, backlog=BACKLOG)
    await site.start()
    print("port", runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().create_future()


async def websockets() -> None:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass  # the client ends its run in the middle of messages

    async with serve(echo, HOST, 0, backlog=BACKLOG, compression=None, max_size=None) as server:
        announce(server.server)
        await asyncio.get_running_loop().create_future()


SERVERS = {server.__name__: server for server in (uvicorn, hypercorn, aiohttp, websockets)}
