"""Callbacks that a program sets in an SSLContext: OpenSSL calls them while it works, and they may do anything."""

from __future__ import annotations

import os
import ssl

import pytest
from helpers import Recorder, kernel_was_asked
from test_memory_safety import check
from tls_helpers import close, connect_tls, serving


class Trap:
    """A `_msg_callback` that acts once, at the first message of a kind once it is armed."""

    def __init__(self, direction, action):
        self.direction, self.action = direction, action
        self.armed = False

    def __call__(self, conn, direction, version, content_type, msg_type, data):
        if self.armed and direction == self.direction:
            self.armed = False
            self.action()


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_what_is_written_in_a_callback_goes_behind(zloop_loop, tls, direction):
    """asyncio enters OpenSSL a second time, which crashes."""
    loop, big = zloop_loop, os.urandom(100_000)

    def write():
        transport.write(b"two")
        transport.writelines([b"three", big])

    trap = tls.client._msg_callback = Trap(direction, write)
    async with serving(loop, tls, Recorder) as (name, accepted):
        transport, protocol = await connect_tls(loop, tls, name)
        await accepted[0].until("connection_made")
        trap.armed = True
        if direction == "write":
            transport.write(b"one" * 10_000)
            transport.write(b"four")
            expected = b"one" * 10_000 + b"twothree" + big + b"four"
        else:
            accepted[0].transport.write(b"go on")
            await protocol.until_received(5)
            expected = b"twothree" + big
        await accepted[0].until_received(len(expected))
        assert accepted[0].data == expected
        await close(protocol)
        assert protocol.losses == accepted[0].losses == [None]


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_a_close_in_a_callback_comes_when_openssl_is_through(zloop_loop, tls, direction):
    """asyncio enters OpenSSL a second time, and the connection fails."""
    loop = zloop_loop

    def close_it():
        transport.close()
        assert transport.is_closing()
        transport.write(b"lost")

    trap = tls.client._msg_callback = Trap(direction, close_it)
    async with serving(loop, tls, Recorder) as (name, accepted):
        transport, protocol = await connect_tls(loop, tls, name)
        await accepted[0].until("connection_made")
        trap.armed = True
        if direction == "write":
            transport.write(b"x" * 100_000)
        else:
            accepted[0].transport.write(b"go on")
        await protocol.until("connection_lost")
        await accepted[0].until("connection_lost")
        assert protocol.losses == accepted[0].losses == [None]
        assert accepted[0].data == (b"x" * 100_000 if direction == "write" else b"")


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_an_abort_in_a_callback_ends_the_connection(loop, tls, direction):
    trap = tls.client._msg_callback = Trap(direction, lambda: transport.abort())
    async with serving(loop, tls, Recorder) as (name, accepted):
        transport, protocol = await connect_tls(loop, tls, name)
        await accepted[0].until("connection_made")
        trap.armed = True
        if direction == "write":
            transport.write(b"x")
        else:
            accepted[0].transport.write(b"x")
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
        await accepted[0].until("connection_lost")


async def test_a_callback_that_raises_ends_the_connection(loop, tls, errors):
    trap = tls.client._msg_callback = Trap("write", lambda: 1 / 0)
    async with serving(loop, tls, Recorder) as (name, accepted):
        transport, protocol = await connect_tls(loop, tls, name)
        await accepted[0].until("connection_made")
        trap.armed = True
        transport.write(b"x")
        await protocol.until("connection_lost")
        await accepted[0].until("connection_lost")
        assert isinstance(protocol.losses[0], ZeroDivisionError)
    assert [context["message"] for context in errors] == ["Fatal error on SSL protocol"]
    errors.clear()


@pytest.mark.parametrize("answer", [ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME, "raises"])
async def test_a_callback_for_the_name_may_refuse(loop, tls, errors, monkeypatch, answer):
    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    def refuse(*_):
        if answer == "raises":
            raise ZeroDivisionError
        return answer

    tls.server.sni_callback = refuse
    async with serving(loop, tls, Recorder) as (name, accepted):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect_tls(loop, tls, name)
        await kernel_was_asked()
        assert accepted[0].seen == []
    assert told == ([ZeroDivisionError] if answer == "raises" else [])
    errors.clear()  # whether a server tells of it depends on the version


ANYTHING = """
import ssl
certificate, authority, action = sys.argv[1:]
warnings.simplefilter("ignore", ResourceWarning)  # of what is dropped

class Echo(Base):
    lost = 0
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, exc):
        self.lost += 1

class Sink(Base):
    lost = 0
    def connection_lost(self, exc):
        self.lost += 1

def drop(tls):
    if not holder:
        return  # the timer of the handshake keeps it, and start_tls() would wait for ever
    holder.clear()
    below = tls._transport
    if below is not None:
        below.set_protocol(Base())
    del tls, below
    gc.collect()

ACTIONS = {
    "abort": lambda tls: tls.abort(),
    "close": lambda tls: tls.close(),
    "close twice": lambda tls: (tls.close(), tls.close()),
    "write": lambda tls: tls.write(b"y" * 100_000),
    "writelines": lambda tls: tls.writelines([b"y" * 100, b"z"]),
    "write and abort": lambda tls: (tls.write(b"y" * 100), tls.abort()),
    "pause": lambda tls: (tls.pause_reading(), tls.get_extra_info("cipher")),
    "raise": lambda tls: 1 / 0,
    "drop": drop,
    "swap": lambda tls: tls.set_protocol(Sink()),
    "received": lambda tls: tls.data_received(b"\\x17\\x03\\x03\\x00\\x01x"),
    "read": lambda tls: tls._do_read(),
    "end of stream": lambda tls: tls.eof_received(),
    "lost": lambda tls: (tls.abort(), tls.close(), tls.close(), tls.connection_lost(None)),
}

def contexts(version):
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate)
    client.load_verify_locations(authority)
    client.maximum_version = client.minimum_version = version
    return server, client

async def talk(loop, server, client, side, at):
    '''Act at the message of that number; returns how many there were.'''
    global holder
    holder = []
    count, inside = 0, False

    def message(*_):
        nonlocal count, inside
        if inside:
            return
        count += 1
        tls = ours.get_protocol() if count == at else None
        if tls is not None and hasattr(tls, "_ssl_protocol"):
            inside = True
            try:
                ACTIONS[action](tls)
            finally:
                inside = False

    (server if side == "server" else client)._msg_callback = message
    one, other = pair()
    accepted, serving = await loop.create_connection(Echo, sock=one)
    connected, asking = await loop.create_connection(Sink, sock=other)
    ours = accepted if side == "server" else connected
    timeouts = {"ssl_handshake_timeout": 2, "ssl_shutdown_timeout": 2}
    holder = await asyncio.gather(
        loop.start_tls(accepted, serving, server, server_side=True, **timeouts),
        loop.start_tls(connected, asking, client, server_hostname="localhost", **timeouts),
        return_exceptions=True,
    )
    began = not any(each is None or isinstance(each, Exception) for each in holder)
    if began and len(holder) == 2:
        serving.transport = holder[0]
        holder[1].writelines([b"x" * 100, b"x" * 20_000])
        for _ in range(5):
            await asyncio.sleep(0)
        if len(holder) == 2:
            holder[1].close()
        for _ in range(5):
            await asyncio.sleep(0)
    holder.clear()
    serving.transport = None
    accepted.abort()
    connected.abort()
    for _ in range(3):
        await asyncio.sleep(0)
    assert serving.lost <= 1 and asking.lost <= 1
    return count

async def main():
    loop = asyncio.get_running_loop()
    quiet(loop)
    first = 0
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for side in ("server", "client"):
            server, client = contexts(version)
            at = first = 1 if first == 3 else first + 1
            while await talk(loop, server, client, side, at) >= at:
                at += 3  # each is acted at within three runs
            assert at > 20
    gc.collect()

zloop.run(main())
"""

ACTIONS = [
    *("abort", "close", "close twice", "write", "writelines", "write and abort", "pause"),
    *("raise", "drop", "swap", "received", "read", "end of stream", "lost"),
]


@pytest.mark.slow
@pytest.mark.parametrize("action", ACTIONS)
def test_anything_may_happen_in_a_callback_of_openssl(action, certificates, tmp_path):
    authority, certificate = certificates
    (tmp_path / "authority").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "certificate").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    check(ANYTHING, str(tmp_path / "certificate"), str(tmp_path / "authority"), action)
