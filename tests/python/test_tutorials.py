"""The tutorials' programs run, each step of them, and do what the pages say of them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from helpers import PATIENCE, ROOT, environment

PYTHON = ROOT / "examples" / "python" / "chat"
CPP = ROOT / "examples" / "cpp" / "chat"


class Server:
    """A chat server in a process of its own."""

    def __init__(self, *command: str | Path) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment(PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.fullmatch(r"chat at 127\.0\.0\.1:(\d+)\n", said)
        assert found, said
        self.port = int(found[1])

    def ends(self, number: int) -> None:
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, said) == (0, "")


@contextmanager
def serving(*command: str | Path) -> Iterator[Server]:
    server = Server(*command)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


class Guest:
    """Somebody at a server, who reads when the test does."""

    def __init__(self, server: Server, name: str | None = None) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # soon full
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", server.port))
        self.unread = b""
        if name is not None:
            assert self.hears() == "your name?"
            self.says(name)
            assert self.hears() == f"* {name} comes in"

    def says(self, line: str) -> None:
        self.socket.sendall(f"{line}\n".encode())

    def hears(self) -> str:
        """The next line; the empty one at the end."""
        while b"\n" not in self.unread:
            try:
                came = self.socket.recv(65536)
            except ConnectionError:
                came = b""
            if not came:
                return ""
            self.unread += came
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def program(name: str) -> tuple[str, ...]:
    return (sys.executable, str(PYTHON / f"{name}.py"), "0")


def two_talk(server: Server) -> None:
    with Guest(server, "ann") as ann:
        with Guest(server, "bob") as bob:
            assert ann.hears() == "* bob comes in"
            bob.says("hello")
            assert (ann.hears(), bob.hears()) == ("bob: hello", "bob: hello")
        assert ann.hears() == "* bob leaves"
        with Guest(server) as other:
            assert other.hears() == "your name?"
            other.says("ann")
            assert other.hears() == "that is no name, or somebody else's"
            assert other.hears() == "your name?"


def a_sleepy_guest_is_sent_away(server: Server) -> bool:
    """Whether the others are heard in the meantime; ends when it has gone, or all stand still."""
    with Guest(server, "ann") as ann, Guest(server, "sleepy"):
        assert ann.hears() == "* sleepy comes in"
        ann.socket.settimeout(1)
        with suppress(TimeoutError):
            while True:
                ann.says("x" * 50_000)
                if ann.hears() == "* sleepy leaves":
                    return True
    return False


def a_pasted_text_arrives(server: Server) -> None:
    with Guest(server, "ann") as ann, Guest(server, "bob") as bob:
        assert ann.hears() == "* bob comes in"
        bob.says("\n".join(f"line {number}" for number in range(1000)))
        for guest in (ann, bob):
            heard = [guest.hears() for _ in range(1000)]
            assert heard == [f"bob: line {number}" for number in range(1000)]


def it_says_good_night(server: Server, number: int) -> None:
    with Guest(server, "ann") as ann, Guest(server) as nobody:
        assert nobody.hears() == "your name?"
        server.process.send_signal(number)
        assert ann.hears() == "* good night"
        assert ann.hears() == ""
        assert nobody.hears() == ""
    server.ends(0)  # it does by itself


# In Python.


def test_at_step_1_each_guest_hears_itself() -> None:
    with serving(*program("step1_echo")) as server, Guest(server) as ann, Guest(server) as bob:
        ann.says("one")
        bob.says("two")
        assert (ann.hears(), bob.hears()) == ("one", "two")


@pytest.mark.parametrize("name", ["step1_echo", "step2_room", "step3_slow"])
def test_ctrl_c_ends_an_empty_server_quietly(name: str) -> None:
    # With guests asyncio 3.11 says of each that its task was cancelled; from step 4 on none is.
    with serving(*program(name)) as server:
        server.ends(signal.SIGINT)


@pytest.mark.parametrize("name", ["step2_room", "step3_slow", "chat", "chat_protocol"])
def test_from_step_2_on_guests_with_names_hear_each_other(name: str) -> None:
    with serving(*program(name)) as server:
        two_talk(server)


def test_at_step_2_a_guest_who_does_not_read_stops_all() -> None:
    with serving(*program("step2_room")) as server:
        assert not a_sleepy_guest_is_sent_away(server)


@pytest.mark.parametrize("name", ["step3_slow", "chat", "chat_protocol"])
def test_from_step_3_on_a_guest_who_does_not_read_is_sent_away(name: str) -> None:
    with serving(*program(name)) as server:
        assert a_sleepy_guest_is_sent_away(server)


@pytest.mark.parametrize("name", ["step2_room", "step3_slow", "chat", "chat_protocol"])
def test_a_text_of_many_lines_in_one_packet_arrives(name: str) -> None:
    with serving(*program(name)) as server:
        a_pasted_text_arrives(server)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["chat", "chat_protocol"])
def test_at_the_end_the_server_says_good_night(name: str, number: int) -> None:
    with serving(*program(name)) as server:
        it_says_good_night(server, number)


@pytest.mark.slow
def test_the_tutorials_own_tests_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", PYTHON, "test_chat.py"],
        cwd=PYTHON,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE * 4,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


# In C++.


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Compile a program of the tutorial, once."""

    @cache
    def make(name: str) -> str:
        binary = tmp_path_factory.mktemp("chat") / name
        cxx = shlex.split(os.environ.get("CXX", "g++"))
        options = ["-std=c++20", "-pthread", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "include"]
        subprocess.run([*cxx, *options, "-o", binary, CPP / f"{name}.cpp"], check=True)
        return str(binary)

    return make


Compiled = Callable[[str], str]


@pytest.mark.slow
@pytest.mark.without_module
def test_at_step_1_in_cpp_each_guest_hears_itself(compiled: Compiled) -> None:
    with serving(compiled("step1_lines"), "0") as server, Guest(server) as a, Guest(server) as b:
        a.says("one")
        b.says("two")
        assert (a.hears(), b.hears()) == ("one", "two")


@pytest.mark.slow
@pytest.mark.without_module
@pytest.mark.parametrize("name", ["step2_room", "chat"])
def test_from_step_2_on_in_cpp_a_slow_guest_keeps_nobody_waiting(
    name: str, compiled: Compiled
) -> None:
    with serving(compiled(name), "0") as server:
        two_talk(server)
        a_pasted_text_arrives(server)
        assert a_sleepy_guest_is_sent_away(server)


@pytest.mark.slow
@pytest.mark.without_module
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_the_end_the_server_in_cpp_says_good_night(number: int, compiled: Compiled) -> None:
    with serving(compiled("chat"), "0") as server:
        it_says_good_night(server, number)
