"""The reference has each public name that the compiler finds in the headers, with words.

The pages are made as `make docs` makes them; the names come from clang, by another way than the pages do.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("clang.cindex", reason="the libclang package has nothing for this machine")
sys.path.insert(0, str(ROOT / "docs" / "site"))

import headers
import reference
from clang.cindex import AccessSpecifier, Cursor, CursorKind

# Members that the language calls, and that nobody names.
UNSPOKEN = headers.PROTOCOL | {"operator="}
PASSED_THROUGH = {CursorKind.NAMESPACE, *headers.CLASSES, CursorKind.ENUM_DECL}
NAMED = {
    *headers.CLASSES,
    *headers.FUNCTIONS,
    *headers.VARIABLES,
    *headers.ALIASES,
    CursorKind.CONCEPT_DECL,
    CursorKind.ENUM_DECL,
    CursorKind.ENUM_CONSTANT_DECL,
}


@pytest.fixture(scope="module")
def reader() -> headers.Reader:
    reader = headers.Reader()
    reader.read()
    return reader


@pytest.fixture(scope="module")
def pages(reader: headers.Reader) -> dict[str, str]:
    return dict(reference.reference(reader.headers.values()))


def declared(cursor: Cursor) -> Iterator[tuple[Path, str]]:
    """Each public name below a cursor, with its header."""
    for child in cursor.get_children():
        if child.access_specifier in {AccessSpecifier.PRIVATE, AccessSpecifier.PROTECTED}:
            continue
        if child.kind in NAMED and child.spelling:
            yield Path(str(child.location.file)), re.sub(r"(?<!operator)<.*", "", child.spelling)
        if child.kind in PASSED_THROUGH and child.spelling != "detail":
            yield from declared(child)


def shown(page: str) -> set[str]:
    """The words in all signatures of a page."""
    blocks = re.findall(r"^( *)\.\. (?:cpp|c):[\w-]+:: (.*(?:\n\1 {8,}\S.*)*)", page, re.MULTILINE)
    words: set[str] = set()
    for _, signatures in blocks:
        words |= set(
            re.findall(r"operator\s*(?:\(\)|[^\w\s(]+|bool|co_await|task)|~?\w+", signatures)
        )
    return words


def test_every_public_name_of_the_headers_is_in_the_reference(
    reader: headers.Reader, pages: dict[str, str]
) -> None:
    missing = defaultdict(set)
    of_header = {
        path: shown(pages.get(f"cpp/{reference.page_of(path)}.rst", "")) for path in reader.headers
    }
    count = 0
    for space in reader.unit.cursor.get_children():
        if space.kind != CursorKind.NAMESPACE or space.spelling != "zloop":
            continue
        for file, name in declared(space):
            header = str(file.relative_to(headers.INCLUDE / "zloop"))
            is_unspoken = name in UNSPOKEN or not name or name.startswith("~")
            if is_unspoken or not reader.headers[header].is_for_users:
                continue
            count += 1
            if name not in of_header[header]:
                missing[header].add(name)

    assert count > 500
    assert not missing


def test_every_public_name_of_the_headers_has_words(reader: headers.Reader) -> None:
    wordless = defaultdict(list)
    for header in reader.headers.values():
        if not header.is_for_users:
            continue
        spoken = {name.qualified for name in header.walk() if name.words}
        for name in header.walk():
            if name.needs_words and name.qualified not in spoken:
                wordless[header.path].append(f"{name.line}: {name.qualified}")

    assert not wordless, "\n".join(f"{path}:{n}" for path in wordless for n in wordless[path])


def test_every_header_for_users_has_a_page_that_says_what_it_is(
    reader: headers.Reader, pages: dict[str, str]
) -> None:
    contents = pages["cpp/index.rst"]
    for header in reader.headers.values():
        if header.is_for_users and header.path != headers.UMBRELLA:
            assert header.title
            assert f"<{reference.page_of(header.path)}>`" in contents


def test_every_header_for_users_names_a_program_that_shows_it(reader: headers.Reader) -> None:
    for header in reader.headers.values():
        if header.is_for_users and header.path not in {headers.UMBRELLA, headers.WHOLE_FILE_ONLY}:
            labels = [label for name in header.walk() for label, _ in name.words.labels]
            assert "Example" in labels, header.path


def test_every_example_that_a_label_names_is_a_program_that_the_tests_run(
    reader: headers.Reader,
) -> None:
    named = [
        (name, text)
        for header in reader.headers.values()
        for name in header.walk()
        for label, text in name.words.labels
        if label == "Example"
    ]

    assert named
    for name, text in named:
        for program in re.findall(r"[\w./]+\.(?:cpp|py)", text):
            assert program.startswith("examples/"), name.qualified
            assert (ROOT / program).is_file(), f"{name.qualified}: {program}"


def test_every_name_of_the_python_package_has_a_signature_and_words() -> None:
    names = reference.python_names() | reference.loop_names()

    assert [name for name, (signature, words) in names.items() if not (signature and words)] == []


def test_labels_become_a_list_and_the_prose_stays() -> None:
    words = headers.Words.of(
        ["Sends all.", "", "Fails:   as send", "         does.", "Owns: nothing."]
    )

    assert words.prose == "Sends all."
    assert words.labels == [("Fails", "as send does."), ("Owns", "nothing.")]
