"""Sockets of a class of their own: asyncio calls their methods, so zloop does, and not the kernel."""

from __future__ import annotations

import asyncio
import re
import socket

from helpers import Recorder, tcp_pair


class Shouting(socket.socket):
    """What goes in or out changes its case: whoever reads the descriptor sees the difference."""

    def recv(self, *args):
        return super().recv(*args).upper()

    def send(self, data, *args):
        return super().send(bytes(data).lower(), *args)

    def accept(self):
        conn, address = super().accept()
        return Shouting(fileno=conn.detach()), address


def shouting(sock):
    return Shouting(fileno=sock.detach())


async def echoes(peer):
    """Send in lower case, read back what the peer's protocol received and sent again."""
    loop = asyncio.get_running_loop()
    peer.setblocking(False)
    await loop.sock_sendall(peer, b"hello")
    return await asyncio.wait_for(loop.sock_recv(peer, 100), 10)


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data + b" AGAIN")


async def test_a_transport_reads_and_writes_with_the_methods_of_its_socket(loop):
    ours, theirs = tcp_pair()
    echo = Echo()
    with theirs:
        transport, _ = await loop.create_connection(lambda: echo, sock=shouting(ours))
        assert await echoes(theirs) == b"hello again"
        assert echo.data == b"HELLO"
        transport.close()
        await echo.until("connection_lost")


async def test_its_transport_says_who_is_watched_for_what(loop):
    ours, theirs = tcp_pair()
    with theirs:
        transport, protocol = await loop.create_connection(Recorder, sock=shouting(ours))
        await protocol.until("connection_made")
        await asyncio.sleep(0)
        assert "read=polling write=<idle, bufsize=0>" in repr(transport)
        transport.pause_reading()
        assert "read=idle write=<idle, bufsize=0>" in repr(transport)
        transport.write(b"x" * 10_000_000)
        assert re.search(r"read=idle write=<polling, bufsize=\d{5,}>", repr(transport))
        transport.abort()
        await protocol.until("connection_lost")


async def test_a_server_accepts_with_the_method_of_its_socket(loop):
    listener = shouting(socket.create_server(("127.0.0.1", 0)))
    echo = Echo()
    server = await loop.create_server(lambda: echo, sock=listener)
    with socket.create_connection(listener.getsockname()) as peer:
        assert await echoes(peer) == b"hello again"
        assert echo.data == b"HELLO"
    await echo.until("connection_lost")
    server.close()
    await server.wait_closed()
