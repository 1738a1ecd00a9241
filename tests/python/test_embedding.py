"""A C++ program with a loop of its own has Python in it, and asyncio on that very loop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import bridge_build
import pytest
from helpers import PATIENCE, ROOT, environment

SOURCE = ROOT / "tests" / "python" / "bridge" / "embedding.cpp"
SHARED = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.without_module,
    pytest.mark.skipif(
        not (sysconfig.get_config_var("Py_ENABLE_SHARED") and SHARED.exists()),
        reason="to embed this Python takes its shared library",
    ),
]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bridge_build.build_program(SOURCE, bridge_build.folder_of_the_run(tmp_path_factory))


@pytest.fixture
def command(program: Path) -> tuple[Path, dict[str, str]]:
    return program, environment(
        PYTHONPATH=os.pathsep.join([str(SOURCE.parent), *filter(None, sys.path)]),
        PROGRAM=sys.executable,
    )


def says(command: tuple[Path, dict[str, str]], scenario: str, **more: str) -> list[str]:
    program, around = command
    done = subprocess.run(
        [program, scenario], env=around | more, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


def test_an_asyncio_program_runs_beside_tasks_of_cpp(command, certificates, tmp_path) -> None:
    """Streams, TLS, datagrams, a child process, a thread, a hundred timers."""
    authority, certificate = certificates
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "localhost.pem")

    assert says(command, "python_runs", CERTIFICATES=str(tmp_path)) == [
        "300000 300000 FROM A CHILD b'datagram'",
        "C++ ran beside",
    ]


def test_cpp_runs_the_loop_and_python_with_it(command) -> None:
    assert says(command, "cpp_runs") == [
        "awaited True",
        "['started', 'True']",
        "Python has stopped it",
        "C++ has stopped it",
        "turn by turn",
        "(None, False, False)",
    ]


def test_exceptions_leave_the_run_that_they_would_leave_in_python(command) -> None:
    assert says(command, "exceptions") == [
        "KeyError: 'a'",
        "[\"KeyError('b')\"]",
        "SystemExit: 3",
        "[]",
        "['behind']",
        "KeyboardInterrupt: ",
        "FileNotFoundError: [Errno 2] no such thing",
        "RuntimeError: This event loop is already running",
        "RuntimeError: Cannot close a running event loop",
        "RuntimeError: this C++ loop has asyncio on it already",
        "the clock of this loop is its owner's, in C++",
    ]


CLOSED = "RuntimeError: Event loop is closed"


def test_python_s_half_ends_as_that_of_asyncio_run_and_cpp_s_goes_on(command) -> None:
    assert says(command, "closes") == [
        "what extensions have spawned has ended",
        "(True, ['generator', 'task'])",
        CLOSED,
        "None",
        "1 timer, nothing ready",
        "C++ goes on",
    ]


def test_python_may_close_its_half_and_no_more(command) -> None:
    assert says(command, "python_closes") == [
        "what extensions have spawned has ended",
        "(True, [])",
        CLOSED,
        "None",
        "1 timer, nothing ready",
        "C++ goes on",
    ]


def test_a_loop_that_ends_first_ends_python_s_tasks(command) -> None:
    assert says(command, "loop_ends_first") == ["(True, ['generator', 'task'])"]


def test_the_gil_is_taken_for_turns_and_let_go_of_in_waits(command) -> None:
    assert says(command, "threads") == ["True", "(['PermissionError'], False)", "True"]


def test_hooks_clock_and_signals_stay_the_owner_s(command) -> None:
    assert says(command, "owners") == [
        "the hook is called without the GIL",
        "True",
        "SIGINT is as it was",
        "and afterwards",
    ]


# A C++ server whose handlers are functions of Python: examples/extension/embedding.

SCRIPT = """
import asyncio

ticks = 0

async def main():
    global ticks
    try:
        while True:
            await asyncio.sleep(0.001)
            ticks += 1
    finally:
        await asyncio.sleep(0)
        print("the end", flush=True)

async def slowly(line):
    await asyncio.sleep(0.01)
    if line == "slowly raise":
        raise LookupError(line)
    return f"{line}, by {asyncio.current_task() is not None}"

def answer(line):
    if line == "raise":
        raise KeyError(line)
    if line == "ticks":
        return ticks > 5
    return slowly(line) if line.startswith("slowly") else f"{line}, at once"
"""


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    source = ROOT / "examples" / "extension" / "embedding" / "embedding.cpp"
    folder = bridge_build.folder_of_the_run(tmp_path_factory) / "example"
    program = bridge_build.build_program(source, folder)
    (tmp_path / "script.py").write_text(SCRIPT)
    around = environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    with subprocess.Popen(
        [program, tmp_path / "script.py"], env=around, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().removeprefix("port "))
        finally:
            process.kill()


def test_a_cpp_server_s_handlers_are_functions_of_python_async_or_not(server) -> None:
    process, port = server
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as peer,
        peer.makefile("rw", newline="\n") as lines,
    ):

        def ask(line: str) -> str:
            lines.write(f"{line}\n")
            lines.flush()
            return lines.readline().rstrip("\n")

        assert ask("one") == "one, at once"
        assert ask("slowly two") == "slowly two, by True"
        assert ask("raise").startswith("error: KeyError")
        assert ask("slowly raise").startswith("error: LookupError")
        assert ask("ticks") == "True"
        process.send_signal(signal.SIGTERM)
        assert lines.readline() == ""
    assert process.wait(PATIENCE) == 0
    assert process.stdout.read() == "the end\n"
