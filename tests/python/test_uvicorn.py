"""uvicorn serves on zloop: over HTTP and WebSocket, under load, and ends when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import PATIENCE, ROOT, environment, environment_of_others

httpx = pytest.importorskip("httpx", reason="httpx drives these tests")
pytest.importorskip("uvicorn", reason="these tests are about uvicorn")
pytest.importorskip("websockets", reason="websockets drives these tests")

APP = """
import asyncio, json

async def body_of(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("shut down", flush=True)
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        return
    body = await body_of(receive)
    path = scope["path"]
    if path == "/raise":
        raise ZeroDivisionError("the app's own")
    kind = b"application/json" if path == "/json" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if path == "/stream":
        for number in range(50):
            await send({"type": "http.response.body", "body": b"line %d\\n" % number, "more_body": True})
            if number % 10 == 0:
                await asyncio.sleep(0.001)
        await send({"type": "http.response.body"})
    elif path == "/big":
        await send({"type": "http.response.body", "body": b"x" * 20_000_000})
    elif path == "/json":
        loop = asyncio.get_running_loop()
        answer = {"loop": type(loop).__module__, "length": len(body)}
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
    elif path == "/slow":
        print("slow began", flush=True)
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"slow"})
    else:
        await send({"type": "http.response.body", "body": body or b"hello"})
"""


class Served:
    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@contextlib.contextmanager
def uvicorn(folder: Path, *options: str) -> Iterator[Served]:
    """uvicorn on zloop in a process of its own; ends it by SIGINT, and it must end well."""
    (folder / "the_app.py").write_text(APP)
    port, log = free_port(), folder / "uvicorn.log"
    command = [sys.executable, "-m", "uvicorn", "the_app:app", "--app-dir", str(folder)]
    command += ["--loop", "zloop:new_event_loop", "--port", str(port), "--no-access-log", *options]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment(), text=True
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while "Application startup complete" not in (text := log.read_text()) or (
            "Uvicorn running" not in text
        ):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Served(process, port, log)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE)
        words = log.read_text()
        assert status in (0, -signal.SIGINT), words  # uvicorn raises the signal again at its end
        assert "Finished server process" in words and "shut down" in words
        for bad in ("Traceback", "ERROR", "Exception", "Warning"):
            assert bad not in words, words
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=["h11", "httptools"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with uvicorn(folder, "--http", request.param, "--ws", "websockets-sansio") as server:
        yield server


def test_it_runs_on_zloop(served):
    assert httpx.get(served.url + "/json").json()["loop"].startswith("zloop")


def test_get(served):
    answer = httpx.get(served.url)
    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["server"] == "uvicorn"


@pytest.mark.parametrize("size", [1, 1000, 65536, 5_000_000])
def test_post_bodies_of_any_size(served, size):
    body = os.urandom(size)
    answer = httpx.post(served.url + "/echo", content=body)
    assert answer.content == body


def test_a_chunked_request(served):
    answer = httpx.post(served.url + "/json", content=(b"x" * 1000 for _ in range(100)))
    assert answer.json()["length"] == 100_000


def test_a_streamed_answer(served):
    with httpx.stream("GET", served.url + "/stream") as answer:
        lines = list(answer.iter_lines())
    assert lines == [f"line {number}" for number in range(50)]


def test_a_big_answer(served):
    assert len(httpx.get(served.url + "/big").content) == 20_000_000


def test_keep_alive(served):
    with httpx.Client() as client:
        for number in range(50):
            body = b"request %d" % number
            assert client.post(served.url + "/echo", content=body).content == body


def test_pipelined_requests_are_answered_in_order(served):
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
        sock.sendall(b"".join(request % number for number in range(10)))
        received = b""
        while received.count(b"HTTP/1.1 200") < 10 or not received.endswith(b"0\r\n\r\n"):
            more = sock.recv(65536)
            assert more, received
            received += more
    answers = re.findall(rb"1\r\n(\d)\r\n0\r\n\r\n", received)
    assert answers == [b"%d" % number for number in range(10)]


async def concurrently(url: str, verify: ssl.SSLContext | bool = True) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE, verify=verify) as client:
        answers = await asyncio.gather(
            *(client.post(url + "/echo", content=b"%d" % number) for number in range(100))
        )
    assert [answer.content for answer in answers] == [b"%d" % number for number in range(100)]


def test_concurrent_requests(served):
    asyncio.run(concurrently(served.url))


def test_a_client_on_zloop(served):
    import zloop

    zloop.run(concurrently(served.url))


@pytest.mark.parametrize("when", ["before the request", "in the request", "in the answer"])
def test_clients_that_go_away(served, when):
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
            if when == "in the request":
                sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nstart")
            if when == "in the answer":
                sock.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
                sock.recv(100)
    assert httpx.get(served.url).text == "hello"


def test_a_request_that_is_none(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
        sock.sendall(b"\x16\x03\x01 what is this?\r\n\r\n")
        assert b"400 Bad Request" in sock.recv(65536)
    assert httpx.get(served.url).text == "hello"


@pytest.mark.parametrize("size", [0, 5, 1000, 500_000])
def test_websocket_echo(served, size):
    from websockets.sync.client import connect

    text, data = "x" * size, os.urandom(size)
    with connect(f"ws://127.0.0.1:{served.port}/ws", max_size=None) as socket_:
        for _ in range(3):
            socket_.send(text)
            assert socket_.recv(PATIENCE) == text
            socket_.send(data)
            assert socket_.recv(PATIENCE) == data


def test_many_websockets(served):
    from websockets.asyncio.client import connect

    async def one(number: int) -> None:
        async with connect(f"ws://127.0.0.1:{served.port}/ws") as socket_:
            for count in range(20):
                await socket_.send(f"{number} {count}")
                assert await socket_.recv() == f"{number} {count}"

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(30)))

    asyncio.run(main())


# TLS.


class Secure(NamedTuple):
    url: str
    authority: str  # a PEM file
    context: ssl.SSLContext  # which trusts it


@pytest.fixture(scope="module")
def secure(certificates, tmp_path_factory: pytest.TempPathFactory):
    authority, certificate = certificates
    folder = tmp_path_factory.mktemp("tls")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    certificate.private_key_pem.write_to_path(str(folder / "key"))
    authority.cert_pem.write_to_path(str(folder / "ca"))
    files = ("--ssl-certfile", str(folder / "cert"), "--ssl-keyfile", str(folder / "key"))
    with uvicorn(folder, *files) as served:
        trust = ssl.create_default_context(cafile=str(folder / "ca"))
        yield Secure(served.url.replace("http:", "https:"), str(folder / "ca"), trust)


def test_httpx_over_tls(secure):
    with httpx.Client(verify=secure.context) as client:
        for _ in range(5):
            assert client.get(secure.url).text == "hello"
        assert len(client.get(secure.url + "/big").content) == 20_000_000
        body = os.urandom(2_000_000)
        assert client.post(secure.url + "/echo", content=body).content == body


def test_concurrent_httpx_over_tls_on_zloop(secure):
    import zloop

    zloop.run(concurrently(secure.url, secure.context))


def test_httpx_without_verification(secure):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(secure.url)
    assert httpx.get(secure.url, verify=False).text == "hello"


def test_curl_over_tls(secure, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl: tools/setup installs it where it may")
    body = tmp_path / "body"
    body.write_bytes(os.urandom(5_000_000))

    def curl(*options: str) -> subprocess.CompletedProcess[bytes]:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", *options]
        return subprocess.run(
            command, capture_output=True, timeout=PATIENCE, env=environment_of_others()
        )

    trust = ("--cacert", secure.authority)
    requests = [f"{secure.url}/?{number}" for number in range(5)]
    done = curl(*trust, "-w", " %{num_connects};", *requests)
    assert (done.stdout, done.stderr) == (b"hello 1;" + b"hello 0;" * 4, b"")
    done = curl(*trust, "--data-binary", f"@{body}", secure.url + "/echo")
    assert (done.stdout == body.read_bytes(), done.stderr) == (True, b"")
    assert curl(secure.url).returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
    assert curl(*trust, secure.url).stdout == b"hello"


def test_websocket_over_tls(secure):
    from websockets.sync.client import connect

    url = secure.url.replace("https:", "wss:") + "/ws"
    with connect(url, ssl=secure.context, max_size=None) as socket_:
        for size in (0, 5, 1000, 65536, 2_000_000):
            data = os.urandom(size)
            socket_.send(data)
            assert socket_.recv(PATIENCE) == data


# Load.


def load(served: Served, *options: str) -> dict[str, float]:
    if shutil.which("cc") is None:
        pytest.skip("the load client needs a C compiler")
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import native
    finally:
        sys.path.pop(0)
    done = subprocess.run(
        [native.program("load"), "http", str(served.port), *options],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("options", [[], ["--close"]], ids=["keep-alive", "close"])
def test_load_without_an_error(served, options):
    result = load(served, "--connections", "64", "--seconds", "1.5", *options)
    assert result["errors"] == 0
    assert result["messages"] > 100
    assert httpx.get(served.url).text == "hello"


def test_wrk_without_an_error(served):
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    done = subprocess.run(
        ["wrk", "-t1", "-c64", "-d1s", served.url], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0
    assert "Socket errors" not in done.stdout and "Non-2xx" not in done.stdout, done.stdout
    assert int(re.search(r"(\d+) requests in", done.stdout)[1]) > 100


# The end.


def test_ending_while_connections_are_open(tmp_path):
    with uvicorn(tmp_path) as served:
        idle = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        alive = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        alive.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b"hello" not in answer and (more := alive.recv(65536)):
            answer += more
        assert b"hello" in answer
    idle.close()
    alive.close()


def test_a_request_under_way_is_answered_before_the_end(tmp_path):
    with uvicorn(tmp_path) as served:
        sock = socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE)
        sock.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        while "slow began" not in served.log.read_text():
            time.sleep(0.01)
    received = b""
    with sock:
        while more := sock.recv(65536):
            received += more
    assert b"slow" in received


def test_an_app_that_raises_costs_its_request_only(tmp_path):
    (tmp_path / "the_app.py").write_text(APP)
    with pytest.raises(AssertionError, match="ZeroDivisionError"), uvicorn(tmp_path) as served:
        assert httpx.get(served.url + "/raise").status_code == 500
        assert httpx.get(served.url).text == "hello"


def test_uvicorn_run_inside_a_program(tmp_path):
    """Config(loop=…) and Server.serve() on zloop.run."""
    (tmp_path / "the_app.py").write_text(APP)
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(tmp_path)!r})
import httpx, uvicorn, zloop
from the_app import app

async def main():
    asyncio.get_running_loop().slow_callback_duration = 10  # debug mode would tell of imports
    config = uvicorn.Config(app, port={free_port()}, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{{config.port}}/json")
    assert answer.json()["loop"].startswith("zloop")
    server.should_exit = True
    await task

zloop.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
