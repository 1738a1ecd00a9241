"""C++ projects outside of this tree get zloop by every customary road, and need nothing else.

The projects are in tests/packaging, and share one main.cpp. They are built as their authors would,
without a network: at -O0, in a temporary folder, from this checkout or from an installation of it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, environment

import zloop

PROJECTS = ROOT / "tests" / "packaging"
CXX = shlex.split(os.environ.get("CXX", "g++"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]

pytestmark = [pytest.mark.slow, pytest.mark.without_module]


def say(*command: str | Path, **more: str) -> str:
    """Run a command that must succeed; returns what it said. `more` is its environment beside ours."""
    done = subprocess.run(
        command,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def tool(name: str, oldest: tuple[int, ...] = (0,)) -> str:
    """The name, if there is such a program and it works; otherwise the test is skipped."""
    try:
        found = re.search(r"\d+(\.\d+)+", say(name, "--version"))
    except (OSError, AssertionError):
        found = None
    if found is None or tuple(map(int, found[0].split("."))) < oldest:
        wanted = f" from {'.'.join(map(str, oldest))} on" if any(oldest) else ""
        pytest.skip(f"there is no {name}{wanted}: tools/setup installs it where it may")
    return name


@pytest.fixture
def cmake() -> str:
    return tool("cmake", (3, 21))


def customer(folder: Path, project: str | None = None) -> Path:
    """Fill the folder with a project of tests/packaging and the program; or the program alone."""
    if project is not None:
        shutil.copytree(PROJECTS / project, folder, dirs_exist_ok=True)
    shutil.copy(PROJECTS / "main.cpp", folder)
    return folder


def check(program: Path) -> None:
    assert say(program) == f"zloop {zloop.__version__} says hello\n"


def configure_with_cmake(project: Path, *options: str) -> str:
    flags = ["-DCMAKE_BUILD_TYPE=Debug", f"-DCMAKE_CXX_FLAGS={shlex.join(WARNINGS)}"]
    return say("cmake", "-G", "Ninja", "-S", project, "-B", project / "build", *flags, *options)


def build_with_cmake(project: Path) -> None:
    say("cmake", "--build", project / "build")
    check(project / "build" / "customer")


def install_with_meson(folder: Path, prefix: Path) -> None:
    say("meson", "setup", folder, ROOT, f"--prefix={prefix}")
    say("meson", "install", "-C", folder)


def install_with_cmake(folder: Path, prefix: Path) -> None:
    say("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, f"-DCMAKE_INSTALL_PREFIX={prefix}")
    say("cmake", "--install", folder)


def headers(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.hpp")}


@pytest.mark.parametrize("form", ["meson", "meson_fallback"])
def test_a_checkout_is_a_meson_subproject(form: str, tmp_path: Path) -> None:
    project = customer(tmp_path, form)
    (project / "subprojects").mkdir()
    (project / "subprojects" / "zloop").symlink_to(ROOT)

    say("meson", "setup", "--wrap-mode=nodownload", project / "build", project)
    say("meson", "compile", "-C", project / "build")

    check(project / "build" / "customer")


def test_meson_installs_for_pkg_config(tmp_path: Path) -> None:
    pkg_config = tool("pkg-config")
    project = customer(tmp_path)
    install_with_meson(project / "build", project / "prefix")
    where = {"PKG_CONFIG_PATH": str(project / "prefix" / "share" / "pkgconfig")}

    flags = shlex.split(say(pkg_config, "--cflags", "--libs", "zloop", **where))
    say(*CXX, *WARNINGS, "-o", project / "customer", project / "main.cpp", *flags)

    check(project / "customer")
    assert say(pkg_config, "--modversion", "zloop", **where) == f"{zloop.__version__}\n"
    assert headers(project / "prefix" / "include") == headers(ROOT / "include")


@pytest.mark.parametrize("install", [install_with_meson, install_with_cmake])
def test_cmake_finds_an_installation_also_after_it_moved(
    install: Callable[[Path, Path], None], tmp_path: Path, cmake: str
) -> None:
    project = customer(tmp_path, "find_package")
    install(project / "there", project / "prefix")
    prefix = (project / "prefix").rename(project / "moved")

    said = configure_with_cmake(project, f"-DCMAKE_PREFIX_PATH={prefix}")
    build_with_cmake(project)

    assert f"zloop {zloop.__version__} in {prefix}/include\n" in said
    assert headers(prefix / "include") == headers(ROOT / "include")


def test_cmake_finds_an_installation_of_a_version_that_will_do(tmp_path: Path, cmake: str) -> None:
    project = customer(tmp_path, "find_package")
    install_with_cmake(project / "there", project / "prefix")
    major, minor, patch = map(int, re.findall(r"\d+", zloop.__version__)[:3])
    found = {
        f"{major}": True,
        f"{major}.{minor}": True,
        f"{major}.{minor}.{patch}": True,
        f"{major}.{minor}.{patch}@EXACT": True,
        f"{major}.{minor}.{patch + 1}": False,
        f"{major}.{minor + 1}": False,
        f"{major + 1}": False,
        f"{major}.{minor}...<{major}.{minor + 1}": True,
        f"0...{major}.{minor}.{patch}": True,
        f"0...<{major}.{minor}.{patch}": False,
    }

    said = configure_with_cmake(
        project, f"-DCMAKE_PREFIX_PATH={project / 'prefix'}", f"-DASKED={';'.join(found)}"
    )

    answers = re.findall(r"zloop (\S+): (\d)", said)
    assert {asked: answer == "1" for asked, answer in answers} == found


def test_a_checkout_is_a_subdirectory_for_cmake(tmp_path: Path, cmake: str) -> None:
    project = customer(tmp_path, "add_subdirectory")
    (project / "third_party").mkdir()
    (project / "third_party" / "zloop").symlink_to(ROOT)

    configure_with_cmake(project)

    build_with_cmake(project)


def test_a_checkout_is_content_that_cmake_fetches(tmp_path: Path, cmake: str) -> None:
    project = customer(tmp_path, "fetch_content")

    configure_with_cmake(project, f"-DCHECKOUT={ROOT}")

    build_with_cmake(project)
    say("cmake", "--install", project / "build", "--prefix", project / "prefix")
    assert headers(project / "prefix" / "include") == headers(ROOT / "include")


def test_the_python_package_says_where_its_headers_are(tmp_path: Path) -> None:
    project = customer(tmp_path)

    include = say(sys.executable, "-m", "zloop", "--include").strip()
    command = [*CXX, "-std=c++20", "-pthread", f"-I{include}", *WARNINGS]
    say(*command, "-o", project / "customer", project / "main.cpp")

    check(project / "customer")
    assert headers(Path(include)) == headers(ROOT / "include")


@pytest.mark.parametrize("header", sorted(headers(ROOT / "include")))
def test_a_compiler_that_is_set_to_an_older_standard_says_what_is_missing(
    header: str, tmp_path: Path
) -> None:
    program = tmp_path / "main.cpp"
    program.write_text(f"#include <{header}>\n")
    command = [
        *CXX,
        "-std=c++17",
        "-fsyntax-only",
        "-Wfatal-errors",
        f"-I{ROOT / 'include'}",
        program,
    ]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode != 0
    first = next(line for line in done.stderr.splitlines() if "error: " in line)
    assert "zloop needs C++20" in first


def test_the_amalgamated_header_is_all_that_a_program_needs(tmp_path: Path) -> None:
    project = customer(tmp_path)
    program = (project / "main.cpp").read_text().replace("<zloop/zloop.hpp>", '"zloop.hpp"')
    (project / "main.cpp").write_text(program)

    say(ROOT / "tools" / "amalgamate", project)
    command = [*CXX, "-std=c++20", "-pthread", *WARNINGS]
    say(*command, "-o", project / "customer", project / "main.cpp")

    check(project / "customer")


def test_the_amalgamated_files_have_each_header_once(tmp_path: Path) -> None:
    say(ROOT / "tools" / "amalgamate", tmp_path)

    assert headers(tmp_path) >= {"zloop.hpp", "zloop_testing.hpp"}
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "#include <zloop/" not in text
    for header in (ROOT / "include" / "zloop").rglob("*.hpp"):
        title = header.read_text().splitlines()[0]
        assert text.count(f"{title}\n") == 1, title
