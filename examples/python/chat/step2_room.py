"""Step 2 of the tutorial: guests with names hear each other: python step2_room.py [port]"""

import asyncio
import contextlib
import sys

import zloop


class Room:
    def __init__(self):
        self.guests = {}  # by name, the writer of each

    async def say(self, line):
        for writer in list(self.guests.values()):
            writer.write(f"{line}\n".encode())
            await writer.drain()

    async def ask_for_name(self, reader, writer):
        while True:
            writer.write(b"your name?\n")
            line = await reader.readline()
            name = line.decode(errors="replace").strip()
            if not line or (name and name not in self.guests):
                return name
            writer.write(b"that is no name, or somebody else's\n")

    async def visit(self, reader, writer):
        name = await self.ask_for_name(reader, writer)
        if name:
            self.guests[name] = writer
            await self.say(f"* {name} comes in")
            while line := await reader.readline():
                await self.say(f"{name}: {line.decode(errors='replace').rstrip()}")
            del self.guests[name]
            await self.say(f"* {name} leaves")
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
