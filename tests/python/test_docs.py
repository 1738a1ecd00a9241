"""The pages are true: links lead somewhere, programs run. test_reference.py has the reference."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT
from pages import FENCE, PAGES, Block, blocks, name_of

import zloop


def programs(language: str) -> list[object]:
    """The blocks of a language that are programs; one with a title is a file, or a part of one."""
    return [
        pytest.param(block.code, id=block.id)
        for page in PAGES
        for block in blocks(page)
        if block.language == language and block.title is None
    ]


def parts_of_examples() -> list[object]:
    return [
        pytest.param(block, id=block.id)
        for page in PAGES
        for block in blocks(page)
        if block.title is not None and block.title.startswith("examples/")
    ]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)]+)\)", prose):  # a lambda looks like one
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("program", programs("python"))
def test_every_python_program_of_the_pages_runs(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]

    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)

    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.without_module
@pytest.mark.parametrize("program", programs("cpp"))
def test_every_cpp_program_of_the_pages_compiles_and_runs(program: str, tmp_path: Path) -> None:
    source, binary = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text(program)
    compiler = [
        *shlex.split(os.environ.get("CXX", "g++")),
        "-std=c++20",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]

    libraries = ["-lssl", "-lcrypto"] if "zloop/tls.hpp" in program else []
    command = [*compiler, "-I", ROOT / "include", "-o", binary, source, *libraries]

    subprocess.run(command, check=True)
    said = subprocess.run([binary], capture_output=True, text=True, timeout=20)

    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("block", parts_of_examples())
def test_every_part_of_an_example_that_a_page_shows_is_in_the_example(block: Block) -> None:
    assert block.title is not None
    example = (ROOT / block.title).read_text()
    at = 0
    for part in re.split(r"^[ \t]*(?:#|//) \.\.\.\n", block.code, flags=re.MULTILINE):
        found = example.find(part.strip("\n"), at)
        assert found >= 0, f"not in {block.title}, or not in this order:\n{part}"
        at = found + len(part.strip("\n"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`(?:\w+=\S+ )?make ([a-z]+)", page.read_text())) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_picture_of_a_page_is_there_in_both_schemes(page: Path) -> None:
    text = page.read_text()
    for source in re.findall(r'\b(?:src|srcset)="([^"]+)"', text):
        assert (page.parent / source).is_file(), source
    for picture in re.findall(r"<picture>.*?</picture>", text, re.DOTALL):
        dark, light = re.findall(r'\b(?:srcset|src)="([^"]+)"', picture)
        assert dark.replace("-dark.", "-light.") == light
        assert 'alt="' in picture


def test_the_charts_and_the_figures_are_those_of_the_newest_run() -> None:
    newest = max((ROOT / "bench" / "results").glob("*.json"))
    result = json.loads(newest.read_text())
    data = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
    command = [sys.executable, ROOT / "bench" / "chart.py", newest, "--tables"]
    figures = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    for chart in (ROOT / "docs" / "pictures").glob("*.svg"):
        assert data in chart.read_text(), f"make charts: {chart.name} is of another run"
    assert figures in (ROOT / "docs" / "performance.md").read_text()


def test_the_version_is_the_same_everywhere() -> None:
    meson = re.search(r"version: '([\d.]+)'", (ROOT / "meson.build").read_text())
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert meson and newest
    assert meson[1] == newest[1] == zloop.__version__


def test_a_commit_is_checked_by_the_tools_that_make_lint_uses() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    pinned = {requirement.partition("==")[2] for requirement in groups["lint"]}
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()

    assert set(re.findall(r"rev: v(.*)", hooks)) == pinned


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "python").rglob("*.py")), ids=name_of)
def test_every_example_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
