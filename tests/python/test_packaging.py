"""What an installation brings: version, headers, types. test_consumers.py builds with them."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from helpers import ROOT, check_program

import zloop

PACKAGE = Path(zloop.__file__).parent


def test_the_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", zloop.__version__)
    try:
        installed = importlib.metadata.version("zloop")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("zloop is not installed here, only importable")
    assert installed == zloop.__version__


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()
    stub = PACKAGE / "_zloop.pyi"
    assert stub.is_file()
    assert "class LoopCore" in stub.read_text()


def test_get_include_has_the_headers():
    folder = Path(zloop.get_include())
    assert folder.is_absolute()
    assert (folder / "zloop" / "zloop.hpp").is_file(), folder
    checkout = ROOT / "include"
    wanted = {path.relative_to(checkout) for path in checkout.rglob("*.hpp")}
    assert wanted == {path.relative_to(folder) for path in folder.rglob("*.hpp")}


def test_importing_zloop_needs_only_the_standard_library():
    out = check_program(
        "import sys, asyncio; before = set(sys.modules); import zloop; zloop.new_event_loop().close();"
        "print(*sorted(name.split('.')[0] for name in set(sys.modules) - before))"
    )
    assert set(out.split()) <= {"zloop", *sys.stdlib_module_names}
