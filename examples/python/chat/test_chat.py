"""Tests of chat.py: python -m pytest test_chat.py"""

import asyncio
import contextlib

from chat import Room

import zloop


@contextlib.asynccontextmanager
async def open_room():
    room = Room()
    server = await asyncio.start_server(room.visit, "127.0.0.1", 0)
    try:
        yield room, server.sockets[0].getsockname()
    finally:
        server.close()
        await room.close()


class Client:
    """Somebody who talks to the room; as it ends, the connection does."""

    def __init__(self, address, name):
        self.address = address
        self.name = name

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self.address)
        assert await self.hears() == "your name?"
        self.says(self.name)
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def says(self, line):
        self.writer.write(f"{line}\n".encode())

    async def hears(self):
        async with asyncio.timeout(5):
            return (await self.reader.readline()).decode().rstrip("\n")


def test_all_hear_what_one_says():
    async def scenario():
        async with open_room() as (_, address), Client(address, "ann") as ann:
            assert await ann.hears() == "* ann comes in"
            async with Client(address, "bob") as bob:
                assert await ann.hears() == await bob.hears() == "* bob comes in"
                bob.says("hello")
                assert await ann.hears() == await bob.hears() == "bob: hello"
            assert await ann.hears() == "* bob leaves"

    zloop.run(scenario())


def test_a_name_is_one_guests():
    async def scenario():
        async with open_room() as (_, address), Client(address, "ann") as ann:
            assert await ann.hears() == "* ann comes in"
            async with Client(address, "ann") as other:
                assert await other.hears() == "that is no name, or somebody else's"
                assert await other.hears() == "your name?"

    zloop.run(scenario())


def test_a_guest_who_does_not_read_is_sent_away_and_nobody_waits():
    async def scenario():
        async with (
            open_room() as (room, address),
            Client(address, "ann") as ann,
            Client(address, "sleepy"),  # reads nothing but the question
        ):
            assert await ann.hears() == "* ann comes in"
            assert await ann.hears() == "* sleepy comes in"
            heard = ""
            while heard != "* sleepy leaves":
                ann.says("x" * 50_000)
                heard = await ann.hears()
            assert list(room.guests) == ["ann"]

    zloop.run(scenario())


def test_the_end_is_told():
    async def scenario():
        async with open_room() as (room, address), Client(address, "ann") as ann:
            assert await ann.hears() == "* ann comes in"
            await room.close()
            assert await ann.hears() == "* good night"
            assert await ann.hears() == ""
            assert room.visits == {}

    zloop.run(scenario())
