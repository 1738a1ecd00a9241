"""Clients that others wrote, on the loop: rows of `bench/work.py`, beside a service on the other core.

redis [N]      redis-py, with hiredis' parser where it is installed: GET of 100 bytes by N (1) tasks
asyncpg [N]    asyncpg: a prepared SELECT of one row by N (1) tasks, a connection each
"""

import asyncio
from collections.abc import Awaitable, Callable

from micro import Loop
from stopwatch import Stopwatch

Ask = Callable[[], Awaitable[object]]


async def ask_all(watch: Stopwatch, asks: list[Ask]) -> None:
    """Let each ask again and again; all are done with a batch before the next begins."""
    each = 50
    watch.batch = each * len(asks)

    async def repeat(ask: Ask) -> None:
        for _ in range(each):
            await ask()

    while watch.goes_on():
        await asyncio.gather(*map(repeat, asks))


def redis(loop: Loop, watch: Stopwatch, address: str, count: str = "1") -> None:
    from redis.asyncio import Redis

    async def main() -> None:
        async with Redis(port=int(address), max_connections=int(count)) as client:
            await client.set("key", bytes(100))

            async def ask() -> None:
                if len(await client.get("key")) != 100:
                    raise RuntimeError("redis gave another value")

            await ask_all(watch, [ask] * int(count))

    loop.run_until_complete(main())


def asyncpg(loop: Loop, watch: Stopwatch, address: str, count: str = "1") -> None:
    from asyncpg import connect

    async def main() -> None:
        connections, asks = [], []
        for _ in range(int(count)):
            connection = await connect(
                host="127.0.0.1", port=int(address), user="postgres", database="postgres", ssl=False
            )
            connections.append(connection)
            statement = await connection.prepare("SELECT $1::int + 1, 'some text'")
            asks.append(lambda statement=statement: statement.fetchrow(41))
        await ask_all(watch, asks)
        for connection in connections:
            await connection.close()

    loop.run_until_complete(main())


ADDRESSED = {"redis": redis, "asyncpg": asyncpg}
NEEDS = {"redis": "redis.asyncio", "asyncpg": "asyncpg"}  # who lacks these cannot do the row
