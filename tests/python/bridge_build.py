"""Builds what the tests of the bridge import, or run: each once a run, whoever needs it first."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, environment, environment_of_others

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SANITIZED = os.environ.get("ZLOOP_BRIDGE_FLAGS", "").split()  # what tools/sanitize adds
FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wshadow", "-Werror"]


def includes() -> list[str]:
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 binds the coroutines")
    return [
        f"-I{ROOT / 'include'}",
        *(f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))),
    ]


def build(source: Path, folder: Path, *flags: str) -> Path:
    """Compile a module into `folder`."""
    return compiled(source, folder / f"{source.stem}{SUFFIX}", *(flags or ("-O1",)), "-shared")


def build_program(source: Path, folder: Path) -> Path:
    """Compile a program that has Python in it into `folder`."""
    library = sysconfig.get_config_var("LIBDIR")
    python = [
        f"-L{library}",
        f"-Wl,-rpath,{library}",
        f"-lpython{sysconfig.get_config_var('LDVERSION')}",
    ]
    return compiled(source, folder / source.stem, "-O0", *python)


def compiled(source: Path, made: Path, *flags: str) -> Path:
    """Compile, or wait for the tests of another process, which do."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with open(made.parent / f"{source.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            command = ["g++", *FLAGS, *SANITIZED, *includes(), str(source), *flags]
            done = subprocess.run(
                [*command, "-o", str(made)],
                env=environment_of_others(),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-8000:]
    return made


def installed(project: Path, folder: Path) -> Path:
    """Make a wheel of a project, outside of the tree, and install it into a folder of its own."""
    where = folder / f"{project.name}-installed"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{project.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not where.exists():
            copied = folder / project.name
            shutil.copytree(project, copied)
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-build-isolation",
                "--no-deps",
            ]
            quick = "-Csetup-args=-Doptimization=0"
            done = subprocess.run(
                [*pip, quick, "--target", f"{where}.new", str(copied)],
                env=environment(**environment_of_others()),
                cwd=folder,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            Path(f"{where}.new").rename(where)
    return where


def load(path: Path) -> ModuleType:
    name = path.name.removesuffix(SUFFIX)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def folder_of_the_run(factory: pytest.TempPathFactory) -> Path:
    """One for all workers of pytest-xdist."""

    base = factory.getbasetemp()
    return (base.parent if base.name.startswith("popen-") else base) / "bridge"
