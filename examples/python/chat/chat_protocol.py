"""The chat server by protocols and transports, without tasks: python chat_protocol.py [port]"""

import asyncio
import contextlib
import signal
import sys

import zloop

BACKLOG = 1 << 20  # bytes that a guest may be behind
LONGEST = 64 * 1024  # bytes of a line
PATIENCE = 2.0  # seconds to hear the last words


class Room:
    def __init__(self):
        self.everybody = set()
        self.names = {}  # of those who have said theirs
        self.empty = asyncio.Event()
        self.empty.set()

    def say(self, line):
        for guest in self.names.values():
            guest.transport.write(f"{line}\n".encode())  # never waits


class Guest(asyncio.Protocol):
    def __init__(self, room):
        self.room = room
        self.name = None
        self.unread = b""

    def connection_made(self, transport):
        self.transport = transport
        self.room.everybody.add(self)
        self.room.empty.clear()
        transport.set_write_buffer_limits(high=BACKLOG)
        transport.write(b"your name?\n")

    def data_received(self, data):
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            self.line_received(line.decode(errors="replace").strip())
        if len(self.unread) > LONGEST:
            self.transport.abort()

    def line_received(self, line):
        if self.name is not None:
            self.room.say(f"{self.name}: {line}")
        elif line and line not in self.room.names:
            self.name = line
            self.room.names[line] = self
            self.room.say(f"* {line} comes in")
        else:
            self.transport.write(b"that is no name, or somebody else's\nyour name?\n")

    def pause_writing(self):
        self.transport.abort()  # too far behind

    def connection_lost(self, exc):
        self.room.everybody.discard(self)
        if not self.room.everybody:
            self.room.empty.set()
        if self.name is not None:
            del self.room.names[self.name]
            self.room.say(f"* {self.name} leaves")


async def main(port):
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)

    room = Room()
    server = await loop.create_server(lambda: Guest(room), "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"chat at {host}:{port}", flush=True)
    await told_to_stop.wait()

    server.close()  # no more guests
    room.say("* good night")
    for guest in room.everybody:
        guest.transport.close()  # sends the rest first
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(room.empty.wait(), PATIENCE)
    for guest in room.everybody:
        guest.transport.abort()


if __name__ == "__main__":
    zloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7001))
