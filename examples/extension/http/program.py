"""Serves routes of C++ and of Python on one port, beside an asyncio program: `program.py [PORT]`; SIGTERM ends it."""

import asyncio
import json
import signal
import sys

import httpd

import zloop

ticks = 0


async def beside():
    """An asyncio program, on the loop that the server is on."""
    global ticks
    while True:
        await asyncio.sleep(0.01)
        ticks += 1


def echo(request):
    """A function: it answers at once."""
    return request.body


async def slow(request):
    """A coroutine function: others are served meanwhile."""
    await asyncio.sleep(float(request.query or 0))
    return httpd.Response(json.dumps({"slept": request.query}), type="application/json")


async def main(port):
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    ticking = asyncio.create_task(beside())
    async with httpd.Server(body_bytes=10_000_000) as server:
        server.text("/plaintext", "Hello, World!")
        server.route("POST", "/echo", echo)
        server.route("GET", "/slow", slow)
        server.route("GET", "/ticks", lambda request: str(ticks))
        print("port", await server.start("127.0.0.1", port), flush=True)
        await ending.wait()
        await server.close(patience=5)
    ticking.cancel()


if __name__ == "__main__":
    zloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
