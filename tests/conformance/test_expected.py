"""The list of differences keeps its rules: few tests, each of which touches the private name it is listed for."""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
from compare import Entry, load_expected

# Modules about private parts of the stock loop; the others may have few tests on the list.
ABOUT_PRIVATE_PARTS = (
    "test_selector_events",
    "test_proactor_events",
    "test_base_events",
    "test_windows_*",
)
MOST = 40

EVERY_VERSION = [(3, minor, 0) for minor in range(11, 16)]

package = importlib.util.find_spec("test.test_asyncio")
needs_the_suite = pytest.mark.skipif(package is None, reason="CPython's tests are not installed")


@cache
def classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module of test.test_asyncio, by name."""
    assert package is not None and package.submodule_search_locations
    source = Path(package.submodule_search_locations[0], f"{module}.py").read_text()
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def method(module: str, name: str, test: str) -> ast.AST | None:
    """The source of a test, which may be a base's: of the classes in its module."""
    found = classes(module).get(name)
    if found is None:
        return None
    for node in found.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == test:
            return node
    bases = (base.id for base in found.bases if isinstance(base, ast.Name))
    return next(filter(None, (method(module, base, test) for base in bases)), None)


def covered(entry: Entry) -> Iterator[tuple[str, ast.AST]]:
    """The tests, by name, that an entry stands for in this Python, with their source."""
    module, pattern, test = entry.test.split(".")
    for name in classes(module):
        if fnmatchcase(name, pattern) and (source := method(module, name, test)) is not None:
            yield f"{module}.{name}.{test}", source


def words(source: ast.AST) -> set[str]:
    """The names that a piece of source uses; of strings too, for mock.patch() takes such."""
    found = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(node.value.split("."))
    return found


LISTED = load_expected("cpython", sys.version_info[:3])


@needs_the_suite
@pytest.mark.parametrize("entry", LISTED, ids=lambda entry: entry.test)
def test_a_listed_test_touches_the_private_names_that_it_is_listed_for(entry: Entry) -> None:
    tests = dict(covered(entry))

    assert tests, "there is no such test"
    for name, source in tests.items():
        assert set(entry.touches.split(", ")) <= words(source), name


@pytest.mark.parametrize("version", EVERY_VERSION)
def test_each_line_for_cpython_names_private_names(version: tuple[int, ...]) -> None:
    for entry in load_expected("cpython", version):
        assert entry.touches, entry.test
        assert all(name.startswith("_") for name in entry.touches.split(", ")), entry.test


@needs_the_suite
def test_few_tests_are_listed_outside_of_the_modules_about_private_parts() -> None:
    tests = {
        name
        for entry in LISTED
        for name, _ in covered(entry)
        if not any(fnmatchcase(name.partition(".")[0], module) for module in ABOUT_PRIVATE_PARTS)
    }

    assert len(tests) <= MOST, sorted(tests)
