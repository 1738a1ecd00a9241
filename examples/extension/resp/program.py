"""Talks to a Redis server: `python program.py PORT`, or `python -m zloop program.py PORT`."""

from __future__ import annotations

import asyncio
import sys

import resp


async def listen(client: resp.Client, ready: asyncio.Event) -> list[bytes]:
    heard: list[bytes] = []
    async with client.subscribe("news", patterns=["weather.*"]) as messages:
        ready.set()
        async for message in messages:
            heard.append(message.channel + b": " + message.data)
            if len(heard) == 2:
                break
    return heard


async def main(port: int) -> None:
    async with resp.Client("127.0.0.1", port, name="example") as client:
        await client.set("greeting", "hello", ex=60)
        print(await client.get("greeting"), await client.get("nothing"))

        # Many tasks on one connection: what they ask for in a turn is one send.
        print(await asyncio.gather(*(client.incr("visits") for _ in range(3))))

        print(await client.pipeline([("SET", "a", 1), ("INCR", "greeting"), ("GET", "a")]))
        print(await client.transaction([("INCR", "a"), ("HSET", "h", "field", 1.5)]))
        print(await client.hgetall("h"))
        try:
            await client.execute("LPUSH", "a", "no list")
        except resp.ReplyError as error:
            print(error.code)

        ready = asyncio.Event()
        listening = asyncio.create_task(listen(client, ready))
        await ready.wait()
        await client.publish("news", "all is well")
        await client.publish("weather.here", "rain")
        print(await listening)

        try:
            async with asyncio.timeout(0.05):
                await client.blpop("queue")  # on a connection of its own
        except TimeoutError:
            print("nothing in the queue")


asyncio.run(main(int(sys.argv[1])))
