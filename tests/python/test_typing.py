"""Types: the stubs say what is there, and a strict program checks."""

from __future__ import annotations

import site
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

import zloop

pytest.importorskip("mypy", reason="mypy checks the types")

PROGRAM = """
import asyncio

import zloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main() -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    server.close()
    return 5


result: int = zloop.run(main())
checked: int = zloop.run(main(), debug=True)
loop: zloop.Loop = zloop.new_event_loop()
as_stock: asyncio.AbstractEventLoop = loop
handle: asyncio.Handle = loop.call_soon(print, 1)
timer: asyncio.TimerHandle = loop.call_later(1.0, print)
name: str = loop.backend
turns: int = loop.stats["turns"]
folder: str = zloop.get_include()
version: str = zloop.__version__
with asyncio.Runner(loop_factory=zloop.new_event_loop) as runner:
    again: int = runner.run(main())
loop.close()
"""

WRONG = """
import zloop

zloop.run(5)
text: int = zloop.get_include()
zloop.new_event_loop().call_soon()
zloop.nothing
"""


def tool(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = str(Path(zloop.__file__).resolve().parents[1])
    where = {} if path in site.getsitepackages() else {"MYPYPATH": path}
    return subprocess.run(
        [sys.executable, "-m", *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=environment(**where, MYPY_CACHE_DIR=str(cwd / "cache")),
    )


@pytest.mark.slow
def test_the_stubs_say_what_is_there(tmp_path):
    done = tool("mypy.stubtest", "zloop", "--concise", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_strict_program_checks(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = tool("mypy", "--strict", "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_program_does_not(tmp_path):
    (tmp_path / "program.py").write_text(WRONG)
    done = tool("mypy", "--strict", "program.py", cwd=tmp_path)
    lines = {line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line}
    assert {"4", "5", "6", "7"} <= lines, done.stdout
