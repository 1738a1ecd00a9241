"""zloop's wheel, built with options of its own and unpacked where a run of the tests finds it first."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path, options: Iterable[str], **variables: str) -> tuple[Path, Path]:
    """Build and unpack the module; returns the folder of the wheel and that to import from."""
    wheels, site = folder / "wheel", folder / "site"
    shutil.rmtree(wheels, ignore_errors=True)
    shutil.rmtree(site, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    setup = [f"-Csetup-args={option}" for option in options]
    arguments = ["--no-build-isolation", "--no-deps", f"-Cbuild-dir={folder / 'build'}", *setup]
    subprocess.run(
        [*pip, "wheel", *arguments, "-w", wheels, ROOT], env=os.environ | variables, check=True
    )
    subprocess.run([*pip, "install", "--no-deps", "--target", site, *wheels.glob("*")], check=True)
    return wheels, site
