"""examples/extension/http: a wheel of its own, and an HTTP/1.1 server that real clients and bad ones talk to."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bridge_build
import h11
import pytest
from helpers import PATIENCE, ROOT, environment, environment_of_others

PROJECT = ROOT / "examples" / "extension" / "http"

pytestmark = [pytest.mark.slow, pytest.mark.without_module]

SERVER = """
import asyncio, json, signal, sys
import httpd, zloop

def split(request):
    return httpd.Response("", headers=[("X", "a\\r\\nContent-Length: 0")])

def about(request):
    return json.dumps([request.method, request.path, request.query,
                       [(name, value.decode()) for name, value in request.headers], request.body.decode()])

async def slow(request):
    print("asked", flush=True)
    try:
        await asyncio.sleep(float(request.query))
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
    return "slept"

def fail(request):
    raise LookupError("no such thing")

async def fail_later(request):
    await asyncio.sleep(0)
    raise LookupError("no such thing")

async def main(options, patience):
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    loop.set_exception_handler(lambda loop, context: print(repr(context["exception"]), flush=True))
    server = httpd.Server(**options)
    server.text("/text", "of C++")
    server.route("GET", "/function", lambda request: "of a function")
    server.route("GET", "/slow", slow)
    server.route("POST", "/length", lambda request: str(len(request.body)))
    server.route("POST", "/about/*", about)
    server.route("GET", "/about/*", about)
    server.route("GET", "/nothing", lambda request: None)
    server.route("GET", "/bytes", lambda request: b"bytes")
    server.route("GET", "/big", lambda request: b"x" * 50_000_000)
    server.route("GET", "/fail", fail)
    server.route("GET", "/exit", lambda request: sys.exit(3))
    server.route("GET", "/fail_later", fail_later)
    server.route("GET", "/wrong", lambda request: 7)
    server.route("GET", "/split", split)
    server.route("GET", "/connections", lambda request: str(server.connections))
    print("port", await server.start(), flush=True)
    try:
        server.route("GET", "/late", about)
    except RuntimeError:
        pass
    await ending.wait()
    await server.close(patience)
    print("closed", server.connections, flush=True)

zloop.run(main(json.loads(sys.argv[1]), float(sys.argv[2])))
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel of the project is, that was built outside of the tree."""
    return bridge_build.installed(PROJECT, bridge_build.folder_of_the_run(tmp_path_factory))


class Server:
    def __init__(self, installed: Path, *command: str) -> None:
        path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=environment(PYTHONPATH=path, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            text=True,
            cwd=installed,
        )
        self.port = int(self.says().removeprefix("port "))

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def ask(self, data: bytes) -> bytes:
        """All that the server says until it hangs up."""
        with self.connect() as peer:
            with contextlib.suppress(ConnectionError):
                peer.sendall(data)
            return read_all(peer)

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def get(self, path: str) -> tuple[int, bytes]:
        with contextlib.closing(self.client()) as client:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def read_all(peer: socket.socket) -> bytes:
    data = b""
    while some := peer.recv(65536):
        data += some
    return data


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


@pytest.fixture(scope="session")
def serving(installed: Path) -> Callable[..., Server]:
    def serve(*, patience: float = 5, **options: Any) -> Server:
        import json

        return Server(installed, "-c", SERVER, json.dumps(options), str(patience))

    return serve


@pytest.fixture(scope="module")
def server(serving: Callable[..., Server]) -> Iterator[Server]:
    with serving(body_bytes=1_000_000) as made:
        yield made


# What it answers, to clients that others wrote.


def test_one_connection_is_served_by_both_languages(server: Server) -> None:
    with contextlib.closing(server.client()) as client:
        for method, path, body, expected in [
            ("GET", "/text", None, (200, b"of C++")),
            ("GET", "/function", None, (200, b"of a function")),
            ("GET", "/slow?0.001", None, (200, b"slept")),
            ("POST", "/length", b"x" * 700_000, (200, b"700000")),
            ("POST", "/length", iter([b"in", b"chunks"]), (200, b"8")),
            ("GET", "/nothing", None, (204, b"")),
            ("GET", "/bytes", None, (200, b"bytes")),
            ("HEAD", "/text", None, (200, b"")),
            ("HEAD", "/bytes", None, (200, b"")),
            ("GET", "/none", None, (404, b"Not Found\n")),
            ("PUT", "/bytes", None, (405, b"Method Not Allowed\n")),
            ("GET", "/text?with=query", None, (200, b"of C++")),
        ]:
            client.request(method, path, body)
            answer = client.getresponse()
            assert (answer.status, answer.read()) == expected, path
            sock = client.sock
        assert client.sock is sock is not None, "it was kept alive"


def test_a_handler_sees_the_request_as_it_was(server: Server) -> None:
    answer = server.ask(
        b"POST http://a.example/about/it%20self?a=1&b HTTP/1.1\r\nHost: a.example\r\nX-Two:  words  here \r\n"
        b"x-two: again\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"
    )

    assert answer.endswith(
        b'["POST", "/about/it%20self", "a=1&b", [["host", "a.example"], ["x-two", "words  here"], '
        b'["x-two", "again"], ["connection", "close"], ["content-length", "4"]], "body"]'
    )


def test_answers_to_pipelined_requests_come_in_order_as_h11_reads_them(server: Server) -> None:
    paths = ["/text", "/slow?0.02", "/text", "/function", "/none", "/slow?0", "/text"] * 20
    ours = h11.Connection(h11.CLIENT)
    with server.connect() as peer:
        lines = [f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths]
        peer.sendall(b"".join(lines))
        for path in paths:
            ours.send(h11.Request(method="GET", target=path, headers=[("Host", "a")]))
            ours.send(h11.EndOfMessage())
            body = b""
            while not isinstance(event := ours.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    ours.receive_data(peer.recv(65536))
                elif isinstance(event, h11.Response):
                    assert event.status_code == (404 if path == "/none" else 200)
                else:
                    body += event.data
            expected = {"/text": b"of C++", "/function": b"of a function", "/none": b"Not Found\n"}
            assert body == expected.get(path, b"slept")
            ours.start_next_cycle()


def test_aiohttp_s_client_is_served_by_a_hundred_at_once(server: Server) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    url = f"http://127.0.0.1:{server.port}"

    async def one(client: Any, number: int) -> None:
        async with client.get(f"{url}/slow?0.01") as answer:
            assert await answer.text() == "slept"
        async with client.post(f"{url}/length", data=b"x" * number * 1000) as answer:
            assert await answer.text() == str(number * 1000)

    async def all_of_them() -> None:
        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(one(client, number) for number in range(100)))

    asyncio.run(all_of_them())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is one of the clients")
@pytest.mark.parametrize("more", [(), ("-H", "Transfer-Encoding: chunked")])
def test_curl_is_told_to_continue_and_sends_its_body(
    server: Server, tmp_path: Path, more: Any
) -> None:
    (tmp_path / "body").write_bytes(b"x" * 900_000)
    command = ["curl", "-sS", "--fail", "-v", "-H", "Expect: 100-continue", *more]

    done = subprocess.run(
        [*command, "--data-binary", f"@{tmp_path}/body", f"http://127.0.0.1:{server.port}/length"],
        env=environment_of_others(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.stdout == "900000", done.stderr
    assert "100 Continue" in done.stderr


def test_what_comes_byte_by_byte_is_the_same(server: Server) -> None:
    whole = (
        b"POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;some=extension\r\nabc\r\n0a\r\n0123456789\r\n0\r\nA-Trailer: x\r\n\r\n"
        b"GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    with server.connect() as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in whole:
            peer.sendall(bytes([byte]))
        answer = read_all(peer)

    assert answer.count(b"HTTP/1.1 200 OK") == 2 and b"\r\n\r\n13HTTP" in answer


def test_an_empty_line_in_front_is_passed_over_however_it_is_cut(server: Server) -> None:
    request = b"GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for cut in (0, 1, 2, 3):
        with server.connect() as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            whole = b"\r\n" + request
            peer.sendall(whole[:cut])
            assert server.get("/text")[0] == 200  # it has been seen meanwhile
            peer.sendall(whole[cut:])
            assert status_of(read_all(peer)) == 200


def test_a_handler_may_end_the_program(serving: Callable[..., Server]) -> None:
    with serving() as server:
        assert server.get("/exit")[0] == 500
        assert server.process.wait(PATIENCE) == 3


def test_a_server_belongs_to_the_loop_it_was_made_on(installed: Path) -> None:
    program = """
import math
import httpd, zloop

async def made():
    return httpd.Server()

server = zloop.run(made())

async def start():
    try:
        await server.start()
    except RuntimeError as error:
        print(error)
    async with httpd.Server() as own:
        await own.start()
        for patience in (-1, math.nan):
            try:
                await own.close(patience)
            except ValueError as error:
                print(error)
        await own.close(math.inf)

zloop.run(start())
"""
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(PYTHONPATH=path),
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    wrong = "patience is a number of seconds, 0 at least"
    assert done.stdout.splitlines() == ["the server was made on another event loop", wrong, wrong]
    assert (done.returncode, done.stderr) == (0, "")


def test_handlers_that_fail_are_500_and_told_to_the_loop(serving: Callable[..., Server]) -> None:
    with serving() as server:
        for path, told in [
            ("/fail", "LookupError('no such thing')"),
            ("/fail_later", "LookupError('no such thing')"),
            ("/wrong", "TypeError("),
        ]:
            assert server.get(path) == (500, b"Internal Server Error\n")
            assert server.says().startswith(told)
        assert server.get("/split") == (500, b"Internal Server Error\n")


# What it refuses.

HOST = b"Host: a\r\n"
CHUNKED = b"POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /text\r\n\r\n", 400),
        (b"GET  /text HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET text HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"G(T /text HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /te\x00xt HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /text HTTP/1.1\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
        (b"GET /text HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", 417),
        (b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
        (b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx", 400),
        (
            b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            400,
        ),
        (
            b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /length HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (CHUNKED + b"x\r\n", 400),
        (CHUNKED + b"-1\r\n", 400),
        (CHUNKED + b" 1\r\na\r\n", 400),
        (CHUNKED + b"1\na\r\n", 400),
        (CHUNKED + b"1\r\nab\r\n", 400),
        (CHUNKED + b"ffffffffffffffffff\r\n", 400),
        (CHUNKED + b"1" + b";" * 2000 + b"\r\n", 400),
        (CHUNKED + b"f4241\r\n", 413),
        (b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1000001\r\n\r\n", 413),
        (b"GET /text HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000, 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"x" * 20_000, 414),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 431),
    ],
)
def test_what_could_be_read_in_two_ways_or_is_too_much_is_refused(
    server: Server, request_: bytes, status: int
) -> None:
    answer = server.ask(request_ + b"GET /text HTTP/1.1\r\nHost: a\r\n\r\n")

    assert status_of(answer) == status
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1, "nothing behind it is a request"


def test_a_body_that_nobody_wants_is_not_asked_for(server: Server) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"

    assert status_of(server.ask(head % (b"/length", 2_000_000))) == 413
    assert status_of(server.ask(head % (b"/none", 10))) == 404
    with server.connect() as peer:
        peer.sendall(head % (b"/length", 3))
        assert peer.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(b"abc")
        assert peer.recv(1000).endswith(b"\r\n\r\n3")


def test_an_old_client_is_answered_and_left(server: Server) -> None:
    answer = server.ask(b"GET /text HTTP/1.0\r\n\r\n")

    assert status_of(answer) == 200 and answer.endswith(b"of C++")


# Who is slow, and who is too many.


@pytest.fixture(scope="module")
def impatient(serving: Callable[..., Server]) -> Iterator[Server]:
    times = dict.fromkeys(["head_timeout", "body_timeout", "write_timeout", "idle_timeout"], 0.3)
    with serving(**times) as made:
        yield made


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /te", 408),
        (b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", 408),
        (b"", None),
        (b"GET /text HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    ],
)
def test_a_slow_client_is_left_in_time(impatient: Server, sent: bytes, status: int | None) -> None:
    began = time.monotonic()

    answer = impatient.ask(sent)

    assert 0.3 <= time.monotonic() - began < 5
    assert answer == b"" if status is None else status_of(answer) == status


def test_a_trickle_of_bytes_does_not_hold_a_connection(impatient: Server) -> None:
    with impatient.connect() as peer:
        peer.settimeout(0.02)
        for _ in range(1000):
            try:
                peer.sendall(b"x")
                if peer.recv(1000):
                    break
            except TimeoutError:
                continue
        else:
            pytest.fail("it was not left")


def test_who_does_not_read_is_cut_and_others_are_served(impatient: Server) -> None:
    with impatient.connect() as peer:
        peer.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        until = time.monotonic() + PATIENCE
        while impatient.get("/connections")[1] != b"1":
            assert time.monotonic() < until
            time.sleep(0.02)
        assert impatient.get("/slow?0.5") == (200, b"slept"), "a handler has its own time"


def test_without_descriptors_it_goes_on_with_those_it_has(serving: Callable[..., Server]) -> None:
    with serving() as server, contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(server.client()))
        first.request("GET", "/text")
        first.getresponse().read()
        used = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 5, used + 5))
        many = [stack.enter_context(server.connect()) for _ in range(30)]
        for _ in range(20):
            first.request("GET", "/function")
            assert first.getresponse().read() == b"of a function"
        for each in many[:28]:
            each.close()

        assert server.get("/text") == (200, b"of C++")


# The end.


def test_the_end_waits_for_answers_and_for_nothing_else(serving: Callable[..., Server]) -> None:
    with serving(patience=PATIENCE) as server, server.connect() as idle, server.connect() as busy:
        busy.sendall(
            b"GET /slow?0.3 HTTP/1.1\r\nHost: a\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert server.says() == "asked"
        began = time.monotonic()

        server.process.send_signal(signal.SIGTERM)

        assert read_all(idle) == b""
        answer = read_all(busy)
        assert answer.endswith(b"Connection: close\r\n\r\nslept") and answer.count(b"HTTP/1.1") == 1
        assert server.says() == "closed 0"
        assert time.monotonic() - began < PATIENCE / 2
        assert server.process.wait(PATIENCE) == 0


def test_the_end_has_a_deadline(serving: Callable[..., Server]) -> None:
    with serving(patience=0.2) as server, server.connect() as busy:
        busy.sendall(b"GET /slow?3600 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.says() == "asked"

        server.process.send_signal(signal.SIGTERM)

        assert read_all(busy) == b""
        assert [server.says(), server.says()] == ["cancelled", "closed 0"]
        assert server.process.wait(PATIENCE) == 0


def test_the_program_of_the_example_serves_beside_an_asyncio_program(installed: Path) -> None:
    with Server(installed, str(PROJECT / "program.py")) as server:
        assert server.get("/plaintext") == (200, b"Hello, World!")
        assert server.get("/slow?0.05") == (200, b'{"slept": "0.05"}')
        assert int(server.get("/ticks")[1]) > 0
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0


def test_the_stubs_are_those_of_the_module(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("pybind11_stubgen")
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])

    done = subprocess.run(
        [sys.executable, "-m", "pybind11_stubgen", "httpd", "-o", tmp_path, "--exit-code"],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "httpd.pyi").read_text() == (PROJECT / "httpd.pyi").read_text()
