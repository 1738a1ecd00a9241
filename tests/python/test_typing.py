"""Types: the stubs say what is there, and a strict program checks."""

from __future__ import annotations

import re
import site
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

import zloop

HERE = ["--pythonpath", sys.executable]  # whose zloop pyright looks at
CHECKERS = {"mypy": ["--strict"], "pyright": HERE}
checkers = pytest.mark.parametrize("checker", CHECKERS)

PROGRAM = Path(__file__).with_name("typed_program.py")

WRONG = """
import zloop

zloop.run(5)
text: int = zloop.get_include()
zloop.new_event_loop().call_soon()
zloop.nothing
"""


def tool(*args: str, cwd: Path, module: bool = True) -> subprocess.CompletedProcess[str]:
    path = str(Path(zloop.__file__).resolve().parents[1])
    where = {} if path in site.getsitepackages() else {"MYPYPATH": path}
    return subprocess.run(
        [sys.executable, *(["-m"] if module else []), *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=environment(**where, MYPY_CACHE_DIR=str(cwd / "cache")),
    )


def check(program: str, checker: str, folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip(checker, reason=f"{checker} checks the types")
    (folder / "program.py").write_text(program)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    return tool(checker, *CHECKERS[checker], "program.py", cwd=folder)


@pytest.mark.slow
def test_the_stubs_say_what_is_there(tmp_path):
    pytest.importorskip("mypy", reason="mypy checks the stubs")
    done = tool("mypy.stubtest", "zloop", "--concise", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.without_module
@checkers
def test_a_strict_program_checks(checker, tmp_path):
    done = check(PROGRAM.read_text(), checker, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_strict_program_runs(tmp_path):
    done = tool(str(PROGRAM), cwd=tmp_path, module=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.without_module
@checkers
def test_a_wrong_program_does_not(checker, tmp_path):
    done = check(WRONG, checker, tmp_path)
    assert {"4", "5", "6", "7"} <= set(re.findall(r"program\.py:(\d+)\b.* error:", done.stdout))


@pytest.mark.slow
@pytest.mark.without_module
def test_every_public_name_has_a_type(tmp_path):
    pytest.importorskip("pyright", reason="pyright looks for what has none")
    done = tool("pyright", *HERE, "--verifytypes", "zloop", "--ignoreexternal", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
