"""Real clients and servers of TLS: openssl, curl, httpx, aiohttp and websockets, against a loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import ssl
from typing import NamedTuple

import pytest
from helpers import PATIENCE, Recorder, environment_of_others
from tls_helpers import Echo, connect_tls, serving, told_in_debug_mode

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is both client and server here")
from aiohttp import web  # noqa: E402

SIZES = [0, 1, 125, 126, 1000, 16384, 65535, 65536, 1_000_000]  # where frames and records change


class Files(NamedTuple):
    """PEM files, as programs take them."""

    authority: str
    certificate: str  # of localhost, with its key
    stranger: str  # another authority


@pytest.fixture
def files(certificates, tmp_path):
    authority, certificate = certificates
    (tmp_path / "authority").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "certificate").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    (tmp_path / "stranger").write_bytes(type(authority)().cert_pem.bytes())
    return Files(*(str(tmp_path / name) for name in Files._fields))


class Program:
    """A running program: what it prints, in a queue of lines; killed when the test is over."""

    def __init__(self, process):
        self.process = process
        self.printed = b""

    async def send(self, data):
        self.process.stdin.write(data)
        await asyncio.wait_for(self.process.stdin.drain(), PATIENCE)

    async def until_printed(self, pattern):
        while not (found := re.search(pattern, self.printed)):
            more = await asyncio.wait_for(self.process.stdout.read(1 << 20), PATIENCE)
            assert more, self.printed
            self.printed += more
        return found

    async def ended(self):
        """Close its input, and wait for its end; returns its exit code and all that it printed."""
        rest, _ = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        self.printed += rest
        return self.process.returncode, self.printed


@contextlib.asynccontextmanager
async def running(name, *arguments, **options):
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}: tools/setup installs it where it may")
    process = await asyncio.create_subprocess_exec(
        name,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        env=environment_of_others(),
        **{"stderr": asyncio.subprocess.STDOUT} | options,
    )
    try:
        yield Program(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def s_client(address, files, *options):
    """What openssl says goes to its output beside what the server sends, but for `-quiet`."""
    trust = ("-CAfile", files.authority, "-verify_return_error", "-verify_hostname", "localhost")
    name = ("-servername", "localhost")
    return running(
        "openssl",
        "s_client",
        "-connect",
        "{}:{}".format(*address),
        *trust,
        *name,
        "-ign_eof",
        *options,
        # Where nothing but the server's words is wanted: from OpenSSL 3.4 on it says whom it connects to.
        **{"stderr": asyncio.subprocess.DEVNULL} if "-quiet" in options else {},
    )


class Conversation(Echo):
    """Echoes, and closes at the word "bye"."""

    def data_received(self, data):
        super().data_received(data)
        if self.data.endswith(b"bye\n"):
            self.transport.close()


# openssl s_client.


@pytest.mark.parametrize("version", ["1_2", "1_3"])
async def test_s_client_is_echoed(loop, tls, files, version):
    async with serving(loop, tls, Conversation) as (address, protocols):
        async with s_client(address, files, "-quiet", "-verify_quiet", f"-tls{version}") as client:
            await client.send(b"hello\n")
            await client.until_printed(b"^hello\n$")
            await client.send(b"bye\n")
            assert await client.ended() == (0, b"hello\nbye\n")
        (protocol,) = protocols
        await protocol.until("connection_lost")
        assert protocol.losses == [None]
        object_ = protocol.transport.get_extra_info("ssl_object")
        assert object_.version() == "TLSv" + version.replace("_", ".")


async def test_s_client_is_echoed_a_megabyte(loop, tls, files):
    message = os.urandom(1_000_000) + b"bye\n"
    async with (
        serving(loop, tls, Conversation) as (address, _),
        s_client(address, files, "-quiet", "-verify_quiet") as client,
    ):
        sending = asyncio.ensure_future(client.send(message))
        await client.until_printed(re.escape(message[-20:]) + b"$")
        await sending
        assert await client.ended() == (0, message)


@pytest.mark.parametrize("version", ["1_2", "1_3"])
async def test_s_client_resumes_its_session(loop, tls, files, tmp_path, version):
    session = str(tmp_path / "session")
    async with serving(loop, tls, Conversation) as (address, protocols):
        for option, word in (("-sess_out", b"New"), ("-sess_in", b"Reused")):
            async with s_client(address, files, f"-tls{version}", option, session) as client:
                await client.send(b"bye\n")
                code, printed = await client.ended()
            assert code == 0 and word + b", TLSv" in printed
        reused = [each.transport.get_extra_info("ssl_object").session_reused for each in protocols]
        assert reused == [False, True]


async def test_s_client_and_the_server_agree_on_a_protocol(loop, tls, files):
    tls.server.set_alpn_protocols(["ours", "http/1.1"])
    async with serving(loop, tls, Conversation) as (address, protocols):
        async with s_client(address, files, "-alpn", "h2,http/1.1") as client:
            await client.send(b"bye\n")
            assert b"ALPN protocol: http/1.1\n" in (await client.ended())[1]
        (protocol,) = protocols
        object_ = protocol.transport.get_extra_info("ssl_object")
        assert object_.selected_alpn_protocol() == "http/1.1"


async def test_s_client_gets_the_certificate_of_the_name_that_it_asks_for(
    loop, tls, files, certificates
):
    names = []
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificates[0].issue_cert("other.example").configure_cert(other)

    def choose(object_, name, context):
        names.append(name)
        if name == "other.example":
            object_.context = other

    tls.server.sni_callback = choose
    async with serving(loop, tls, Conversation) as (address, protocols):
        for name in ("localhost", "other.example"):
            names_it = ("-servername", name, "-verify_hostname", name)
            async with s_client(address, files, "-quiet", "-verify_quiet", *names_it) as client:
                await client.send(b"bye\n")
                assert await client.ended() == (0, b"bye\n")
        assert names == ["localhost", "other.example"]
        contexts = [each.transport.get_extra_info("ssl_object").context for each in protocols]
        assert contexts == [tls.server, other]


@pytest.mark.parametrize("version", ["1_2", "1_3"])
async def test_s_client_shows_its_certificate(loop, tls, files, version):
    tls.server.verify_mode = ssl.CERT_REQUIRED
    tls.server.load_verify_locations(files.authority)
    shown = ("-cert", files.certificate, "-key", files.certificate)
    async with serving(loop, tls, Conversation) as (address, protocols):
        async with s_client(
            address, files, "-quiet", "-verify_quiet", f"-tls{version}", *shown
        ) as client:
            await client.send(b"bye\n")
            assert await client.ended() == (0, b"bye\n")
        (protocol,) = protocols
        names = protocol.transport.get_extra_info("peercert")["subjectAltName"]
        assert ("DNS", "localhost") in names


@pytest.mark.parametrize("version", ["1_2", "1_3"])
async def test_s_client_without_a_certificate_is_refused(loop, tls, files, errors, version):
    tls.server.verify_mode = ssl.CERT_REQUIRED
    tls.server.load_verify_locations(files.authority)
    async with serving(loop, tls, Conversation) as (address, protocols):
        async with s_client(address, files, f"-tls{version}") as client:
            code, _ = await client.ended()
        assert code == 1
        (protocol,) = protocols
        assert protocol.seen == []
        await told_in_debug_mode(loop, errors)


async def test_s_client_asks_for_new_keys(loop, tls, files):
    async with (
        serving(loop, tls, Conversation) as (address, protocols),
        running(
            *("openssl", "s_client", "-tls1_3", "-CAfile", files.authority),
            *("-connect", "{}:{}".format(*address)),
        ) as client,
    ):
        for number in range(3):
            await client.send(b"K\n")
            await client.until_printed(b"(?s)" + b"KEYUPDATE.*" * (number + 1))
            await client.send(b"hello %d\n" % number)
            await client.until_printed(b"hello %d\n" % number)
        await client.send(b"bye\n")
        assert (await client.ended())[0] == 0
        assert protocols[0].data == b"hello 0\nhello 1\nhello 2\nbye\n"


# openssl s_server.


@contextlib.asynccontextmanager
async def s_server(files, *options, **more):
    """A server of openssl, and its address."""
    certificate = ("-cert", files.certificate, "-key", files.certificate)
    async with running(
        "openssl", "s_server", "-accept", "127.0.0.1:0", *certificate, *options, **more
    ) as server:
        port = int((await server.until_printed(rb"ACCEPT 127\.0\.0\.1:(\d+)"))[1])
        yield ("127.0.0.1", port), server


@pytest.mark.parametrize("version", ["1_2", "1_3"])
async def test_s_server_answers(loop, tls, files, version):
    """It turns each line around."""
    async with s_server(files, "-rev", f"-tls{version}") as (address, _):
        for line in (b"hello", b"x" * 1000 + b"y"):
            transport, protocol = await connect_tls(loop, tls, address)
            transport.write(line + b"\n")
            await protocol.until_received(len(line) + 1)
            assert protocol.data == line[::-1] + b"\n"
            assert transport.get_extra_info("ssl_object").version()[4:].replace(".", "_") == version
            transport.close()
            await protocol.until("connection_lost")
            assert protocol.losses == [None]


async def test_s_server_sends_a_file_and_closes(loop, tls, files, tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "file.bin").write_bytes(content)
    async with s_server(files, "-WWW", cwd=tmp_path) as (address, _):
        for _ in range(2):
            transport, protocol = await connect_tls(loop, tls, address)
            transport.write(b"GET /file.bin HTTP/1.0\r\n\r\n")
            await protocol.until("connection_lost")
            assert protocol.losses == [None]
            assert bytes(protocol.data).partition(b"\r\n\r\n")[2] == content


async def test_s_server_and_the_client_agree_on_a_protocol(loop, tls, files):
    tls.client.set_alpn_protocols(["unknown", "known"])
    async with s_server(files, "-rev", "-alpn", "known,h2") as (address, _):
        transport, protocol = await connect_tls(loop, tls, address)
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "known"
        transport.close()
        await protocol.until("connection_lost")


async def test_s_server_sees_the_certificate_of_the_client(loop, tls, files):
    tls.client.load_cert_chain(files.certificate)
    wanted = ("-Verify", "1", "-verify_return_error", "-CAfile", files.authority)
    async with s_server(files, "-rev", *wanted) as (address, _):
        transport, protocol = await connect_tls(loop, tls, address)
        transport.write(b"in\n")
        await protocol.until_received(3)
        assert protocol.data == b"ni\n"
        transport.close()
        await protocol.until("connection_lost")


async def test_s_server_of_a_stranger_is_refused(loop, tls, files):
    async with s_server(files, "-rev") as (address, _):
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
            await loop.create_connection(
                Recorder, *address, ssl=ssl.create_default_context(cafile=files.stranger)
            )
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await connect_tls(loop, tls, address, server_hostname="elsewhere.example")


# HTTP: curl, httpx and aiohttp, of a server of aiohttp.


@contextlib.asynccontextmanager
async def site(context):
    """A web site at https://localhost:…; yields its port, and its requests' connections."""
    connections = []

    async def hello(request):
        connections.append(request.transport)
        return web.Response(text="hello")

    async def echo(request):
        connections.append(request.transport)
        return web.Response(body=await request.read())

    async def talk(request):
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type == web.WSMsgType.TEXT:
                await socket.send_str(message.data)
            else:
                await socket.send_bytes(message.data)
        return socket

    application = web.Application(client_max_size=1 << 30)
    application.router.add_get("/", hello)
    application.router.add_post("/echo", echo)
    application.router.add_get("/talk", talk)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1], connections
    finally:
        await runner.cleanup()


def curl(port, files, *options, authority=None):
    """Of https://localhost/… at this port; `ended()` gives what it printed."""
    return running(
        *("curl", "--silent", "--show-error", "--noproxy", "*"),
        *("--connect-to", f"localhost:443:127.0.0.1:{port}"),
        *("--cacert", authority or files.authority, *options),
    )


async def test_curl_makes_several_requests_on_one_connection(loop, tls, files):
    urls = [f"https://localhost/?{number}" for number in range(5)]
    async with site(tls.server) as (port, connections):
        async with curl(port, files, "--http1.1", "-w", " %{num_connects};", *urls) as client:
            assert await client.ended() == (0, b"hello 1;" + b"hello 0;" * 4)
        assert len(connections) == 5 and len(set(connections)) == 1


async def test_curl_sends_and_gets_a_large_body(loop, tls, files, tmp_path):
    body = os.urandom(20_000_000)
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(body)
    upload = ("-H", "Expect:", "--data-binary", f"@{sent}", "-o", str(got))
    async with (
        site(tls.server) as (port, _),
        curl(port, files, *upload, "https://localhost/echo") as client,
    ):
        assert await client.ended() == (0, b"")
        assert got.read_bytes() == body


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_curl_speaks_both_versions(loop, tls, files, version):
    only = (f"--tlsv{version}", "--tls-max", version)
    async with site(tls.server) as (port, connections):
        async with curl(port, files, *only, "https://localhost/") as client:
            assert await client.ended() == (0, b"hello")
        assert len(connections) == 1


async def test_curl_refuses_the_certificate_of_a_stranger(loop, tls, files, errors):
    async with site(tls.server) as (port, connections):
        async with curl(port, files, "https://localhost/", authority=files.stranger) as client:
            code, printed = await client.ended()
        assert code == 60 and b"certificate" in printed  # CURLE_PEER_FAILED_VERIFICATION
        async with curl(port, files, "https://localhost/") as client:
            assert await client.ended() == (0, b"hello")
        assert len(connections) == 1
        await told_in_debug_mode(loop, errors)


async def test_httpx_with_verification_and_without(loop, tls, files, errors):
    httpx = pytest.importorskip("httpx")
    body = os.urandom(2_000_000)
    async with site(tls.server) as (port, _):
        url = f"https://127.0.0.1:{port}"
        for verify in (tls.client, False):
            async with httpx.AsyncClient(verify=verify, timeout=PATIENCE) as client:
                for _ in range(3):
                    assert (await client.get(url)).text == "hello"
                assert (await client.post(url + "/echo", content=body)).content == body
        stranger = ssl.create_default_context(cafile=files.stranger)
        async with httpx.AsyncClient(verify=stranger, timeout=PATIENCE) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(url)
        await told_in_debug_mode(loop, errors)


def session():
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE))


async def test_aiohttp_over_https(loop, tls):
    body = os.urandom(5_000_000)
    async with site(tls.server) as (port, connections), session() as client:
        url = f"https://127.0.0.1:{port}"
        for _ in range(10):
            async with client.get(url, ssl=tls.client) as answer:
                assert await answer.text() == "hello"
        async with client.post(url + "/echo", data=io.BytesIO(body), ssl=tls.client) as answer:
            assert await answer.read() == body
        assert len(set(connections)) == 1


async def test_aiohttp_makes_many_requests_at_once(loop, tls):
    async with site(tls.server) as (port, _), session() as client:

        async def ask(number):
            body = b"%d" % number * 100
            url = f"https://127.0.0.1:{port}/echo"
            async with client.post(url, data=body, ssl=tls.client) as answer:
                assert await answer.read() == body

        await asyncio.gather(*(ask(number) for number in range(50)))


async def test_aiohttp_refuses_the_certificate_of_a_stranger(loop, tls, files, errors):
    stranger = ssl.create_default_context(cafile=files.stranger)
    async with site(tls.server) as (port, _), session() as client:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.get(f"https://127.0.0.1:{port}", ssl=stranger)
        await told_in_debug_mode(loop, errors)


@pytest.mark.parametrize("compress", [0, 15], ids=["plain", "compressed"])
async def test_aiohttp_over_wss(loop, tls, compress):
    async with site(tls.server) as (port, _), session() as client:
        url = f"wss://127.0.0.1:{port}/talk"
        async with client.ws_connect(
            url, ssl=tls.client, compress=compress, max_msg_size=0
        ) as socket:
            assert socket.compress == compress
            for size in SIZES:
                data = os.urandom(size)
                await socket.send_bytes(data)
                assert await socket.receive_bytes(timeout=PATIENCE) == data
                text = "word " * (size // 5)
                await socket.send_str(text)
                assert await socket.receive_str(timeout=PATIENCE) == text


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_websockets_over_wss(loop, tls, compression):
    server_module = pytest.importorskip("websockets.asyncio.server")
    client_module = pytest.importorskip("websockets.asyncio.client")

    async def talk(socket):
        async for message in socket:
            await socket.send(message)

    options = {"compression": compression, "max_size": None}
    async with server_module.serve(talk, "127.0.0.1", 0, ssl=tls.server, **options) as server:
        port = server.sockets[0].getsockname()[1]
        async with client_module.connect(
            f"wss://127.0.0.1:{port}", ssl=tls.client, **options
        ) as socket:
            for size in SIZES:
                for message in (os.urandom(size), "word " * (size // 5)):
                    await socket.send(message)
                    assert await asyncio.wait_for(socket.recv(), PATIENCE) == message
