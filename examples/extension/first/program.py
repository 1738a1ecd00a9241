"""Awaits what first.cpp has: `python program.py` on asyncio's loop, `python -m zloop program.py` on zloop's."""

import asyncio

import first


async def fetch(name):
    await asyncio.sleep(0.001)
    return {"a": "one", "b": "three"}[name]


async def main():
    print(await first.greet("you"))
    print(await asyncio.gather(*(first.greet(str(i)) for i in range(3))))
    print(await first.total_length(fetch, ["a", "nobody", "b"]))
    print(await first.count_zeros(b"\0one\0"))
    async with first.Ticker(3) as ticker:
        print([tick async for tick in ticker])
    try:
        async with asyncio.timeout(0.001):
            await first.greet("nobody")
    except TimeoutError:
        print("too late")


asyncio.run(main())
