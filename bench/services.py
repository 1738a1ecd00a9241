"""What clients ask: Redis, PostgreSQL, and the C echo server, on a core of their own.

Each runs on a free port of 127.0.0.1 and keeps its data in a folder that goes with it. PostgreSQL
refuses to be root's: then it runs as the user that its package has made.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import native
from processes import Failure, Program, last_line, prepare

PATIENCE_SECONDS = 30
POSTGRES_USER = "postgres"
POSTGRES_SETTINGS = {
    "fsync": "off",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "jit": "off",
}


def program(name: str, *folders: str) -> str:
    """Return where the newest program of that name is; Failure says that it is not installed."""
    elsewhere = [path for folder in folders for path in Path("/").glob(f"{folder}/{name}")]
    if elsewhere:
        return str(max(elsewhere))
    found = shutil.which(name)
    if found is None:
        raise Failure(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def folder_of(user: str | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="zloop-bench-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        yield folder


@contextlib.contextmanager
def running(
    command: list[str], port: int, core: int, user: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A service from when it takes connections until it has ended, by its own process id."""
    with tempfile.TemporaryFile("w+") as said:

        def complaint() -> str:
            said.seek(0)
            return last_line(said.read())

        process = subprocess.Popen(
            command, stdout=said, stderr=said, text=True, preexec_fn=prepare(core), user=user
        )
        try:
            _wait_for(port, process, complaint)
            yield process
        finally:
            process.send_signal(signal.SIGINT)  # to PostgreSQL: at once, but in order
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(port: int, process: subprocess.Popen[str], complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failure(complaint() or f"ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Failure("it takes no connection")


@contextlib.contextmanager
def redis(core: int) -> Iterator[int]:
    command = [program("redis-server"), "--save", "", "--appendonly", "no"]
    port = free_port()
    with folder_of(None) as folder:
        command += ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        with running(command, port, core):
            yield port


@contextlib.contextmanager
def postgres(core: int) -> Iterator[int]:
    installed = "usr/lib/postgresql/*/bin"
    server, initdb = program("postgres", installed), program("initdb", installed)
    user = POSTGRES_USER if os.geteuid() == 0 else None
    try:
        pwd.getpwnam(user or pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        raise Failure(f"there is no user {user}, as whom to run PostgreSQL") from None
    port = free_port()
    with folder_of(user) as folder:
        data = f"{folder}/data"
        made = subprocess.run(
            [initdb, "-D", data, "-U", POSTGRES_USER, "-A", "trust", "--no-sync", "--locale=C"],
            capture_output=True,
            text=True,
            user=user,
            cwd=folder,
        )
        if made.returncode != 0:
            raise Failure(last_line(made.stderr))
        command = [server, "-D", data, "-p", str(port)]
        for name, value in POSTGRES_SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with running(command, port, core, user):
            yield port


@contextlib.contextmanager
def echo(core: int) -> Iterator[int]:
    with Program([native.program("floor"), "echo"], core) as server:
        yield int(server.address)


SERVICES: dict[str, Callable[[int], contextlib.AbstractContextManager[int]]] = {
    "redis": redis,
    "postgres": postgres,
    "echo": echo,
}
