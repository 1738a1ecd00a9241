"""`python -m zloop`: an unmodified program, with zloop as the loop that asyncio makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

import zloop

PROGRAM = """
import asyncio, sys

async def main():
    print(type(asyncio.get_running_loop()).__module__.split(".")[0], sys.argv, __name__)

asyncio.run(main())
"""


def command(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zloop", *args],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(),
        cwd=cwd,
    )


def said(*args: str, cwd: Path | None = None) -> str:
    done = command(*args, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_program_runs_with_its_arguments(program):
    args = ["one", "--two", "-m", "--version"]
    assert said(str(program), *args) == f"zloop {[str(program), *args]} __main__\n"


def test_a_module_runs_with_its_arguments(program, tmp_path):
    out = said("-m", "program", "one", "-x", cwd=tmp_path)
    assert out.startswith("zloop [") and out.endswith("'one', '-x'] __main__\n")
    assert "program.py" in out


def test_a_package_runs(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(PROGRAM)
    assert said("-m", "package", cwd=tmp_path).startswith("zloop [")
    assert said(str(tmp_path / "package")).startswith("zloop [")


def test_a_program_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("value = 'found'")
    (tmp_path / "program.py").write_text("import beside; print(beside.value)")
    assert said(str(tmp_path / "program.py"), cwd=Path("/")) == "found\n"


@pytest.mark.parametrize(
    "make",
    [
        "asyncio.run(main())",
        "asyncio.Runner().run(main())",
        "asyncio.new_event_loop().run_until_complete(main())",
    ],
)
def test_every_way_of_making_a_loop_makes_ours(tmp_path, make):
    (tmp_path / "program.py").write_text(
        "import asyncio, os, warnings\n"
        "async def main():\n"
        "    print(type(asyncio.get_running_loop()).__module__)\n"
        f"{make}\nimport sys; sys.stdout.flush(); os._exit(0)\n"
    )
    assert said(str(tmp_path / "program.py")).startswith("zloop")


def test_from_asyncio_import_run(tmp_path):
    (tmp_path / "program.py").write_text(
        "from asyncio import run, get_running_loop\n"
        "async def main():\n    print(type(get_running_loop()).__module__)\n"
        "run(main())\n"
    )
    assert said(str(tmp_path / "program.py")).startswith("zloop")


@pytest.mark.parametrize(("code", "status"), [("", 0), ("import sys; sys.exit(3)", 3), ("1/0", 1)])
def test_the_status_is_the_programs(tmp_path, code, status):
    (tmp_path / "program.py").write_text(code)
    done = command(str(tmp_path / "program.py"))
    assert done.returncode == status
    assert ("ZeroDivisionError" in done.stderr) == (code == "1/0")


def test_version_and_include():
    assert said("--version") == f"zloop {zloop.__version__}\n"
    assert said("--include") == f"{zloop.get_include()}\n"


def test_help_and_misuse():
    out = said("--help")
    assert "--include" in out and "--version" in out and "-m" in out
    for args in ((), ("--unknown",)):
        done = command(*args)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: python -m zloop")


def test_a_missing_program_is_told_in_one_line_or_as_python_does(tmp_path):
    done = command(str(tmp_path / "missing.py"))
    assert done.returncode != 0
    assert "missing.py" in done.stderr
