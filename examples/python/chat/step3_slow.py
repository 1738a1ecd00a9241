"""Step 3 of the tutorial: a slow guest keeps nobody waiting: python step3_slow.py [port]"""

import asyncio
import contextlib
import sys

import zloop

BACKLOG = 256  # lines that a guest may be behind


class Guest:
    def __init__(self, name, writer):
        self.name = name
        self.writer = writer
        self.inbox = asyncio.Queue(BACKLOG)

    def hear(self, line):
        """Never waits. Who is too far behind is sent away."""
        try:
            self.inbox.put_nowait(line)
        except asyncio.QueueFull:
            self.writer.transport.abort()

    async def deliver(self):
        """What is in the inbox goes to the guest, as fast as the guest reads it."""
        with contextlib.suppress(ConnectionError):
            while True:
                line = await self.inbox.get()
                self.writer.write(f"{line}\n".encode())
                await self.writer.drain()


class Room:
    def __init__(self):
        self.guests = {}  # by name

    def say(self, line):
        for guest in self.guests.values():
            guest.hear(line)

    async def ask_for_name(self, reader, writer):
        while True:
            writer.write(b"your name?\n")
            line = await reader.readline()
            name = line.decode(errors="replace").strip()
            if not line or (name and name not in self.guests):
                return name
            writer.write(b"that is no name, or somebody else's\n")

    async def stay(self, guest, reader):
        self.guests[guest.name] = guest
        self.say(f"* {guest.name} comes in")
        delivering = asyncio.create_task(guest.deliver())
        try:
            while line := await reader.readline():
                self.say(f"{guest.name}: {line.decode(errors='replace').rstrip()}")
                await asyncio.sleep(0)  # one packet may bring many lines
        finally:
            del self.guests[guest.name]
            delivering.cancel()
            self.say(f"* {guest.name} leaves")

    async def visit(self, reader, writer):
        try:
            name = await self.ask_for_name(reader, writer)
            if name:
                await self.stay(Guest(name, writer), reader)
        except (ConnectionError, ValueError):
            pass  # a reset, or a line of more than 64 KiB: the guest's own affair
        finally:
            writer.close()


async def main(port):
    server = await asyncio.start_server(Room().visit, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"chat at {host}:{port}", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        zloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7001))
