"""Says lines to a server and prints what comes back: python streams_client.py port line..."""

import asyncio
import sys

import zloop


async def main(port, lines):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for line in lines:
        writer.write(line.encode() + b"\n")
        await writer.drain()
        async with asyncio.timeout(5):
            answer = await reader.readline()
        print(answer.decode().rstrip("\n"))
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    zloop.run(main(int(sys.argv[1]), sys.argv[2:]))
