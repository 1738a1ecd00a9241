"""The how-tos are true: what their pages show is written to files, started, and asked; and it is on zloop.

The packages that they are about are the dependency group `howto`; without one of them its tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import PATIENCE, ROOT, environment
from pages import command, files

httpx = pytest.importorskip("httpx", reason="httpx drives these tests")

HOWTO = ROOT / "docs" / "howto"
LOOP = "zloop.loop.Loop"
CXX = shlex.split(os.environ.get("CXX", "g++"))


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not here: pip install --group howto")


def lay_out(folder: Path, page: str) -> Path:
    """Write the files of a page into the folder."""
    for name, code in files(HOWTO / f"{page}.md").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def words_of(line: str) -> list[str]:
    """A command line of a page; its program is the one of this environment."""
    program, *options = shlex.split(line)
    found = Path(sys.executable).with_name(program)
    return [sys.executable if program == "python" else str(found), *options]


@contextmanager
def serving(folder: Path, words: list[str], port: int) -> Iterator[str]:
    """What the words start in the folder, until it has answered and been told to end; gives its address."""
    log = folder / "log"
    home = environment(HOME=str(folder), PYTHONUNBUFFERED="1")
    with log.open("w") as out:
        server = subprocess.Popen(words, cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=home)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE)
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        status = server.wait(PATIENCE)
        assert status in (0, -signal.SIGTERM), log.read_text()  # uvicorn raises it again at its end
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        server.kill()
        server.wait()


@contextmanager
def command_of(folder: Path, page: str, beginning: str, flag: str) -> Iterator[str]:
    """Serve by a command line of the page, on a port that is free."""
    port = free_port()
    where = f"127.0.0.1:{port}" if flag == "--bind" else str(port)
    line = command(HOWTO / f"{page}.md", beginning)
    with serving(folder, [*words_of(line), flag, where], port) as address:
        yield address


@contextmanager
def program_of(folder: Path, name: str) -> Iterator[str]:
    """Serve by a program of the page, on a port that is free."""
    port = free_port()
    program = folder / name
    assert "8000" in program.read_text()
    program.write_text(program.read_text().replace("8000", str(port)))
    with serving(folder, [sys.executable, name], port) as address:
        yield address


def loop_of(address: str) -> str:
    answer = httpx.get(f"http://{address}/", timeout=PATIENCE)
    assert answer.status_code == 200
    return str(answer.text)


async def say_to(address: str, text: str) -> str:
    websockets = pytest.importorskip("websockets", reason="websockets talks to the server")
    async with websockets.connect(f"ws://{address}/ws") as connection:
        await connection.send(text)
        async with asyncio.timeout(PATIENCE):
            return str(await connection.recv())


# Servers.


def test_uvicorns_command_serves_on_zloop(tmp_path: Path) -> None:
    needs("uvicorn")
    lay_out(tmp_path, "uvicorn")

    with command_of(tmp_path, "uvicorn", "uvicorn --loop", "--port") as address:
        assert loop_of(address) == f"{LOOP}\n"


@pytest.mark.parametrize("name", ["serve.py", "inside.py"])
def test_a_program_serves_by_uvicorn_on_zloop(name: str, tmp_path: Path) -> None:
    needs("uvicorn")
    lay_out(tmp_path, "uvicorn")

    with program_of(tmp_path, name) as address:
        assert loop_of(address) == f"{LOOP}\n"


def test_uvicorn_says_when_there_is_no_such_factory(tmp_path: Path) -> None:
    needs("uvicorn")
    lay_out(tmp_path, "uvicorn")

    words = words_of("uvicorn --loop zloop:nothing app:app")
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )

    assert done.returncode != 0
    assert "Error loading custom loop setup function" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("beginning", ["gunicorn --workers", "python -m zloop -m gunicorn"])
def test_gunicorns_command_serves_on_zloop(beginning: str, tmp_path: Path) -> None:
    needs("gunicorn", "uvicorn_worker")
    lay_out(tmp_path, "uvicorn")
    lay_out(tmp_path, "gunicorn")
    (tmp_path / "gunicorn.conf.py").unlink()  # which it would read

    with command_of(tmp_path, "gunicorn", beginning, "--bind") as address:
        assert {loop_of(address) for _ in range(5)} == {f"{LOOP}\n"}


@pytest.mark.slow
def test_gunicorns_configuration_serves_on_zloop(tmp_path: Path) -> None:
    needs("gunicorn")
    lay_out(tmp_path, "uvicorn")
    lay_out(tmp_path, "gunicorn")

    with command_of(tmp_path, "gunicorn", "gunicorn app:app", "--bind") as address:
        assert {loop_of(address) for _ in range(5)} == {f"{LOOP}\n"}


def test_gunicorn_knows_no_loop_of_our_name(tmp_path: Path) -> None:
    needs("gunicorn")

    words = words_of("gunicorn --asgi-loop zloop app:app")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)

    assert (done.returncode, done.stderr.strip()) == (1, "Error: Invalid ASGI loop: zloop")


def test_hypercorn_serves_on_zloop_inside_of_a_program(tmp_path: Path) -> None:
    needs("hypercorn")
    lay_out(tmp_path, "uvicorn")
    lay_out(tmp_path, "hypercorn")

    with program_of(tmp_path, "serve.py") as address:
        assert loop_of(address) == f"{LOOP}\n"


def test_hypercorns_command_serves_on_zloop(tmp_path: Path) -> None:
    needs("hypercorn")
    lay_out(tmp_path, "uvicorn")

    line = "python -m zloop -m hypercorn"
    with command_of(tmp_path, "hypercorn", line, "--bind") as address:
        assert loop_of(address) == f"{LOOP}\n"


def test_the_containers_command_serves_on_zloop(tmp_path: Path) -> None:
    needs("uvicorn")
    lay_out(tmp_path, "uvicorn")
    recipe = files(HOWTO / "docker.md")["Dockerfile"]
    words = json.loads(recipe.rpartition("CMD ")[2])
    port = free_port()

    with serving(tmp_path, [*words_of(words[0]), *words[1:], "--port", str(port)], port) as address:
        assert loop_of(address) == f"{LOOP}\n"


def test_the_container_is_made_of_stages_and_files_that_there_are() -> None:
    shown = files(HOWTO / "docker.md")
    recipe = shown["Dockerfile"].replace("\\\n", " ")
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", recipe, re.MULTILINE))
    copied = re.findall(r"^COPY (\S+) \S+$", recipe, re.MULTILINE)

    assert set(re.findall(r"from=(\w+)", recipe)) == stages
    assert set(copied) == {"zloop", "requirements.txt", "app.py"}
    for line in recipe.splitlines():
        assert re.match(r"(FROM|COPY|RUN|USER|WORKDIR|EXPOSE|CMD) |$", line), line


# Frameworks.


def test_aiohttp_serves_on_zloop(tmp_path: Path) -> None:
    needs("aiohttp")
    lay_out(tmp_path, "aiohttp")

    with program_of(tmp_path, "server.py") as address:
        assert loop_of(address) == f"{LOOP}\n"
        assert asyncio.run(say_to(address, "hello")) == "hello"


def test_fastapi_is_served_on_zloop(tmp_path: Path) -> None:
    needs("fastapi", "uvicorn")
    lay_out(tmp_path, "fastapi")

    with command_of(tmp_path, "fastapi", "uvicorn --loop", "--port") as address:
        assert loop_of(address) == f'{{"loop":"{LOOP}"}}'
        assert asyncio.run(say_to(address, "hello")) == "hello"


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_channels_is_served_on_zloop(server: str, tmp_path: Path) -> None:
    needs("django", "channels", server)
    lay_out(tmp_path, "django-channels")
    port = free_port()
    words = words_of(command(HOWTO / "django-channels.md", "uvicorn"))
    if server == "hypercorn":
        line = command(HOWTO / "hypercorn.md", "python -m zloop")
        words = [*words_of(line)[:-1], "asgi:application"]
    where = ["--port", str(port)] if server == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]

    with serving(tmp_path, [*words, *where], port) as address:
        assert loop_of(address) == f"{LOOP}\n"
        assert asyncio.run(say_to(address, "hello")) == "hello"


# Tests in pytest.


def run_pytest(folder: Path, *options: str) -> dict[str, int]:
    """How many tests passed, failed and so on, of those in the folder."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
        if "no:asyncio" not in options
        else "[pytest]\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    summary = done.stdout.strip().splitlines()[-1]
    found = {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", summary)}
    assert "passed" in found, done.stdout + done.stderr
    return {word: count for word, count in found.items() if not word.startswith("warning")}


@pytest.mark.slow
def test_pytest_asyncio_runs_tests_on_zloop(tmp_path: Path) -> None:
    needs("pytest_asyncio")
    shown = files(HOWTO / "pytest.md")
    for name in ("conftest.py", "test_sleep.py"):
        (tmp_path / name).write_text(shown[name])

    assert run_pytest(tmp_path) == {"passed": 3}


@pytest.mark.slow
def test_pytest_asyncio_takes_a_policy(tmp_path: Path) -> None:
    needs("pytest_asyncio")
    (tmp_path / "conftest.py").write_text(
        files(HOWTO / "pytest.md")["conftest_of_older_versions.py"]
    )
    (tmp_path / "test_it.py").write_text(
        "import asyncio, pytest\n\n"
        "@pytest.mark.asyncio\n"
        "async def test_this_is_zloop():\n"
        "    assert type(asyncio.get_running_loop()).__module__ == 'zloop.loop'\n"
    )
    if sys.version_info >= (3, 14):
        pytest.skip("asyncio deprecates policies from 3.14 on")

    assert run_pytest(tmp_path) == {"passed": 1}


@pytest.mark.slow
def test_anyios_plugin_runs_tests_on_zloop(tmp_path: Path) -> None:
    needs("anyio")
    shown = files(HOWTO / "pytest.md")
    (tmp_path / "conftest.py").write_text(shown["conftest_of_anyio.py"])
    (tmp_path / "test_anyio.py").write_text(shown["test_anyio.py"])

    assert run_pytest(tmp_path, "-p", "no:asyncio") == {"passed": 2}


@pytest.mark.slow
def test_fastapis_test_client_is_on_zloop(tmp_path: Path) -> None:
    needs("fastapi")
    lay_out(tmp_path, "fastapi")

    assert run_pytest(tmp_path, "-p", "no:asyncio") == {"passed": 2}


# C++.


def say(*words: str | Path, folder: Path) -> str:
    done = subprocess.run(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def compile_program(source: Path, *options: str) -> Path:
    program = source.with_suffix("")
    command = [*CXX, "-std=c++20", "-pthread", "-Wall", "-Wextra", *options]
    say(*command, "-I", ROOT / "include", "-o", program, source, folder=source.parent)
    return program


@pytest.mark.slow
@pytest.mark.without_module
@pytest.mark.parametrize("build", ["meson", "cmake"])
def test_the_page_about_a_build_system_builds_its_program(build: str, tmp_path: Path) -> None:
    if subprocess.run([build, "--version"], capture_output=True).returncode != 0:
        pytest.skip(f"there is no {build}: tools/setup installs it where it may")
    lay_out(tmp_path, build)
    there = tmp_path / {"meson": "subprojects", "cmake": "third_party"}[build] / "zloop"
    there.parent.mkdir()
    there.symlink_to(ROOT)

    for line in {
        "meson": ("meson setup build", "meson compile"),
        "cmake": ("cmake -S . -B build", "cmake --build build"),
    }[build]:
        say(*shlex.split(command(HOWTO / f"{build}.md", line)), folder=tmp_path)
    said = say(*shlex.split(command(HOWTO / f"{build}.md", "./build")), folder=tmp_path)

    assert said == "hello from zloop\n"


def has_asio() -> bool:
    found = subprocess.run(
        [*CXX, "-E", "-x", "c++", "-std=c++20", "-"],
        input="#include <asio/version.hpp>",
        text=True,
        capture_output=True,
    )
    return found.returncode == 0


@pytest.mark.slow
@pytest.mark.without_module
@pytest.mark.parametrize("library", ["asio", "zloop"])
def test_both_echo_servers_answer_send_silent_guests_away_and_end(
    library: str, tmp_path: Path
) -> None:
    if library == "asio" and not has_asio():
        pytest.skip("asio is absent: no asio.hpp (libasio-dev)")
    lay_out(tmp_path, "moving-from-asio")
    options = ["-DASIO_STANDALONE"] if library == "asio" else ["-Werror"]
    program = compile_program(tmp_path / f"echo_{library}.cpp", *options)
    port = free_port()

    server = subprocess.Popen([program, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as talker,
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as silent,
        ):
            began = time.monotonic()
            for word in (b"hello", b"again"):
                talker.sendall(word)
                assert talker.recv(100) == word
            assert silent.recv(100) == b""  # sent away
            assert time.monotonic() - began > 0.9
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as present:
            present.sendall(b"hello")
            assert present.recv(100) == b"hello"
            server.send_signal(signal.SIGTERM)
            assert present.recv(100) == b""
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        server.communicate()


def test_every_page_that_shows_files_has_a_test_here() -> None:
    text = Path(__file__).read_text()
    for page in sorted(HOWTO.glob("*.md")):
        if files(page):
            assert re.search(rf'"{page.stem}(?:\.md)?"', text), page.name
