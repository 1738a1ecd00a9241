"""An asyncio program as any: sockets, timers, a child process, TLS, threads. embedding.cpp runs it."""

import asyncio
import os
import ssl
import sys
import time


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def there_and_back(**tls: ssl.SSLContext) -> int:
    serving = {"ssl": tls["server"]} if tls else {}
    asking = {"ssl": tls["client"], "server_hostname": "localhost"} if tls else {}
    server = await asyncio.start_server(echo, "127.0.0.1", 0, **serving)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **asking)
        data = os.urandom(300_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()
    return len(data)


def contexts() -> dict[str, ssl.SSLContext]:
    folder = os.environ["CERTIFICATES"]
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(f"{folder}/localhost.pem")
    return {
        "server": server,
        "client": ssl.create_default_context(cafile=f"{folder}/authority.pem"),
    }


async def child() -> str:
    code = "print(input().upper())"
    process = await asyncio.create_subprocess_exec(
        os.environ["PROGRAM"],
        "-c",
        code,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(b"from a child\n")
    assert process.returncode == 0
    return said.decode().strip()


async def datagrams() -> bytes:
    came = asyncio.get_running_loop().create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: object) -> None:
            came.set_result(data)

    loop = asyncio.get_running_loop()
    receiver, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.get_extra_info("sockname")
    )
    sender.sendto(b"datagram")
    try:
        return await came
    finally:
        sender.close()
        receiver.close()


async def main() -> str:
    assert type(asyncio.get_running_loop()).__module__ == "zloop.loop"
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        plain = group.create_task(there_and_back())
        secret = group.create_task(there_and_back(**contexts()))
        said = group.create_task(child())
        told = group.create_task(datagrams())
        thread = group.create_task(asyncio.to_thread(time.sleep, 0.01))
        naps = [group.create_task(asyncio.sleep(0.05 + n / 1000)) for n in range(100)]
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(3600)
    except TimeoutError:
        pass
    assert time.monotonic() - began >= 0.15
    assert thread.done() and all(nap.done() for nap in naps)
    assert "zloop" in sys.modules
    return f"{plain.result()} {secret.result()} {said.result()} {told.result()!r}"
