"""Every program in examples/python does what its first line says."""

from __future__ import annotations

import asyncio
import json
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import websockets
from helpers import BACKEND, PATIENCE, ROOT

EXAMPLES = ROOT / "examples" / "python"


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A program that serves; Ctrl-C ends it, quietly and with status 0."""
    program = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield program
        program.send_signal(signal.SIGINT)
        said, _ = program.communicate(timeout=PATIENCE)
        assert (program.returncode, said) == (0, "")
    finally:
        program.kill()
        program.communicate()


def test_the_streams_client_gets_its_lines_back_from_the_echo_server() -> None:
    with running(EXAMPLES / "echo_server.py", 0) as server:
        assert server.stdout is not None
        port = server.stdout.readline().rpartition(":")[2].strip()

        client = [sys.executable, EXAMPLES / "streams_client.py", port, "hello", "again"]
        said = subprocess.run(client, capture_output=True, text=True, timeout=PATIENCE)

        assert (said.returncode, said.stdout, said.stderr) == (0, "hello\nagain\n", "")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def hello() -> Iterator[str]:
    """The address of examples/python/hello_asgi.py, as `make run` serves it."""
    port = free_port()
    options = ["--app-dir", EXAMPLES, "--port", port, "--log-level", "warning"]
    uvicorn = Path(sys.executable).with_name("uvicorn")  # -m would find the checkout's zloop
    with running(uvicorn, "--loop", "zloop:new_event_loop", *options, "hello_asgi:app") as server:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/json")
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"


def test_hello_says_what_serves_it(hello: str) -> None:
    python = f"{platform.python_implementation()} {platform.python_version()}"

    answer = httpx.get(f"http://{hello}/json")
    page = httpx.get(f"http://{hello}/")

    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text) == {"loop": "zloop.Loop", "backend": BACKEND, "python": python}
    assert page.headers["content-type"].startswith("text/html")
    for word in ("zloop.Loop", BACKEND, python):
        assert word in page.text


def test_hello_streams_in_chunks(hello: str) -> None:
    with httpx.stream("GET", f"http://{hello}/stream") as answer:
        chunks = list(answer.iter_text())

    assert answer.headers["transfer-encoding"] == "chunked"
    assert "".join(chunks) == "".join(f"chunk {n}\n" for n in range(1, 11))
    assert len(chunks) > 1


def test_hello_echoes_on_its_websocket(hello: str) -> None:
    async def talk() -> tuple[str | bytes, str | bytes]:
        async with websockets.connect(f"ws://{hello}/ws") as connection:
            await connection.send("text")
            text = await connection.recv()
            await connection.send(b"\0bytes")
            return text, await connection.recv()

    assert asyncio.run(talk()) == ("text", b"\0bytes")


def test_hello_has_no_other_page_and_no_other_websocket(hello: str) -> None:
    async def knock() -> None:
        async with websockets.connect(f"ws://{hello}/elsewhere"):
            pass

    assert httpx.get(f"http://{hello}/elsewhere").status_code == 404
    with pytest.raises(websockets.InvalidStatus, match="403"):
        asyncio.run(knock())
