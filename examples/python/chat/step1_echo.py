"""Step 1 of the tutorial: each guest hears itself: python step1_echo.py [port]"""

import asyncio
import contextlib
import sys

import zloop


async def visit(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def main(port):
    server = await asyncio.start_server(visit, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"chat at {host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        zloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7001))
