"""A chat server; SIGINT or SIGTERM ends it, and it says good night: python chat.py [port]"""

import asyncio
import contextlib
import signal
import sys

import zloop

BACKLOG = 256  # lines that a guest may be behind
PATIENCE = 2.0  # seconds to hear the last words


class Guest:
    def __init__(self, name, writer):
        self.name = name
        self.writer = writer
        self.inbox = asyncio.Queue(BACKLOG)

    def hear(self, line):
        """Never waits. Who is too far behind is sent away. None is the end."""
        try:
            self.inbox.put_nowait(line)
        except asyncio.QueueFull:
            self.writer.transport.abort()

    async def deliver(self):
        """What is in the inbox goes to the guest, as fast as the guest reads it."""
        with contextlib.suppress(ConnectionError):
            while (line := await self.inbox.get()) is not None:
                self.writer.write(f"{line}\n".encode())
                await self.writer.drain()
        self.writer.close()  # sends the rest first; then the guest's reader meets the end


class Room:
    def __init__(self):
        self.guests = {}  # by name
        self.visits = {}  # the task of each, with a name or not, and its writer

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
        self.visits[asyncio.current_task()] = writer
        try:
            name = await self.ask_for_name(reader, writer)
            if name:
                await self.stay(Guest(name, writer), reader)
        except (ConnectionError, ValueError):
            pass  # a reset, or a line of more than 64 KiB: the guest's own affair
        finally:
            writer.close()
            del self.visits[asyncio.current_task()]

    async def close(self):
        """Everybody hears the last words, and leaves; who does not is sent away."""
        self.say("* good night")
        for guest in self.guests.values():
            guest.hear(None)
        if self.visits:
            _, late = await asyncio.wait(self.visits, timeout=PATIENCE)
            for visit in late:
                self.visits[visit].transport.abort()
            if late:
                await asyncio.wait(late)


async def main(port):
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)

    room = Room()
    server = await asyncio.start_server(room.visit, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"chat at {host}:{port}", flush=True)
    await told_to_stop.wait()

    server.close()  # no more guests
    await room.close()


if __name__ == "__main__":
    zloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7001))
