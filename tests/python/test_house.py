"""The house stands: each header lies on its floor, and no arrow points up or goes round."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT

FOLDERS = {"library": ROOT / "include" / "zloop", "module": ROOT / "module"}
INCLUDE = re.compile(r'^ *# *include +(?:<zloop/(.+?)>|"(.+?)")', re.MULTILINE)

# From the ground up. A name with a slash is a room, with all that is in it.
FLOORS = (
    {"config.hpp", "error.hpp", "address.hpp"},
    {"core/"},
    {"kernel/"},
    {"loop.hpp", "task.hpp"},
    {"wait/"},
    {"the face"},  # what lies beside the rooms, unless it is named here
    {"tls/", "testing/", "python/"},
    {"tls.hpp", "testing.hpp", "python.hpp", "zloop.hpp"},
    {"pybind11.hpp"},
)


def floor_of(header: str) -> int:
    room, slash, _ = header.partition("/")
    for floor, names in enumerate(FLOORS):
        if (room + slash) in names:
            return floor
    assert not slash, f"{room}/ has no floor"
    return FLOORS.index({"the face"})


@cache
def includes(folder: Path, file: str) -> frozenset[str]:
    """What of the same folder a file includes, by names from that folder."""
    found = set()
    for ours, quoted in INCLUDE.findall((folder / file).read_text()):
        path = folder / ours if ours else (folder / file).parent / quoted
        if path.is_file():
            found.add(str(path.resolve().relative_to(folder)))
    return frozenset(found)


def files(kind: str) -> list[str]:
    folder = FOLDERS[kind]
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.hpp"))


@pytest.mark.parametrize("header", files("library"))
def test_no_header_includes_one_of_a_floor_above(header: str) -> None:
    above = {
        each for each in includes(FOLDERS["library"], header) if floor_of(each) > floor_of(header)
    }

    assert not above


@pytest.mark.parametrize("kind", FOLDERS)
def test_no_header_includes_itself_by_way_of_others(kind: str) -> None:
    done: set[str] = set()

    def visit(file: str, way: tuple[str, ...]) -> None:
        assert file not in way, " -> ".join((*way, file))
        if file not in done:
            for each in includes(FOLDERS[kind], file):
                visit(each, (*way, file))
            done.add(file)

    for header in files(kind):
        visit(header, ())

    assert done == set(files(kind))


def knows_python(header: str) -> bool:
    return header.startswith("python/") or header in {"python.hpp", "pybind11.hpp"}


def test_the_library_does_not_know_python_but_in_its_room() -> None:
    for header in files("library"):
        text = (FOLDERS["library"] / header).read_text()
        includes_it = re.search(r"# *include *<(Python\.h|frameobject\.h|pybind11/)", text)
        assert not includes_it or knows_python(header), header
        others = {each for each in includes(FOLDERS["library"], header) if knows_python(each)}
        assert not others or knows_python(header), header


def test_only_one_header_knows_a_binding_library() -> None:
    for header in files("library"):
        text = (FOLDERS["library"] / header).read_text()
        assert header == "pybind11.hpp" or not re.search(r"pybind11::|<pybind11/", text), header


def test_what_goes_into_every_extension_is_of_no_other_one() -> None:
    """An inline variable in a hidden namespace: two extensions of one process never share it."""
    for header in files("library"):
        if knows_python(header):
            text = (FOLDERS["library"] / header).read_text()
            hidden = text.count("#pragma GCC visibility push(hidden)\nnamespace detail {")
            assert text.count("namespace detail {") == hidden, header


def test_who_opens_the_folder_sees_what_a_program_includes() -> None:
    beside = [path for path in FOLDERS["library"].iterdir() if path.is_file()]
    umbrella = includes(FOLDERS["library"], "zloop.hpp")

    assert len(beside) <= 38
    assert {path.name for path in beside} - umbrella == {
        "pybind11.hpp",
        "python.hpp",
        "testing.hpp",
        "tls.hpp",
        "zloop.hpp",
    }


def test_every_header_is_installed() -> None:
    include = ROOT / "include"
    listed = re.findall(r"'(zloop/.+?\.hpp)'", (include / "meson.build").read_text())
    assert sorted(listed) == sorted(
        str(path.relative_to(include)) for path in include.rglob("*.hpp")
    )


def test_a_test_file_is_where_its_header_is() -> None:
    """But those of several headers, and what tests share."""
    folder = ROOT / "tests" / "cpp"
    tests = {str(path.relative_to(folder)) for path in folder.rglob("*.cpp")}
    headers = {str(Path(header).with_suffix(".cpp")) for header in files("library")}

    assert tests - headers == {"main.cpp", "probes.cpp", "fault_sweep.cpp"}
