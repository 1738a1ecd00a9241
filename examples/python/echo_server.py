"""Sends back whatever it gets: python echo_server.py [port]"""

import asyncio
import contextlib
import sys

import zloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # Who does not read what we send back is not read from either.

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def main(port):
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"echo at {host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        zloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7000))
