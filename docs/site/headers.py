"""What the C++ headers declare for users: clang reads the names, the `///` lines above are their words.

Public is what stands in namespace zloop or below it, in no `detail`, is not private to a class, and is in
a header that does not say "Nothing in it is for users." in its first lines. Declarations that follow each
other without an empty line share the words of the first.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pybind11
from clang import cindex
from clang.cindex import AccessSpecifier, Cursor, CursorKind

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
NOT_FOR_USERS = "Nothing in it is for users."
UMBRELLA = "zloop.hpp"
WHOLE_FILE_ONLY = "testing/interpose.hpp"  # defines the system's own functions

# A label at the start of a line of words, as in "Fails: when the backend does".
LABELS = ["Completes", "Fails", "Throws", "Cancelled", "Owns", "Overlap", "Thread", "Example"]
LABEL = re.compile(rf"({'|'.join(LABELS)}):\s+(.*)")

CLASSES = {
    CursorKind.CLASS_DECL: "class",
    CursorKind.STRUCT_DECL: "struct",
    CursorKind.CLASS_TEMPLATE: "class",
    CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION: "class",
}
FUNCTIONS = {
    CursorKind.FUNCTION_DECL,
    CursorKind.FUNCTION_TEMPLATE,
    CursorKind.CXX_METHOD,
    CursorKind.CONSTRUCTOR,
    CursorKind.DESTRUCTOR,
    CursorKind.CONVERSION_FUNCTION,
}
VARIABLES = {CursorKind.VAR_DECL, CursorKind.FIELD_DECL}
ALIASES = {CursorKind.TYPE_ALIAS_DECL, CursorKind.TYPEDEF_DECL, CursorKind.TYPE_ALIAS_TEMPLATE_DECL}

# What the language calls itself: the reference says instead what awaiting gives.
PROTOCOL = {"await_ready", "await_suspend", "await_resume", "begin", "end", "promise_type"}


@dataclass
class Words:
    """What stands above a declaration: prose, then what the labels say."""

    prose: str = ""
    labels: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.prose or self.labels)

    @classmethod
    def of(cls, lines: list[str]) -> Words:
        prose: list[str] = []
        labels: list[tuple[str, str]] = []
        for line in lines:
            if label := LABEL.match(line):
                labels.append((label[1], label[2]))
            elif labels and line.startswith("  "):
                labels[-1] = (labels[-1][0], f"{labels[-1][1]} {line.strip()}")
            elif labels and line:
                # Prose after the labels: it belongs to the rest of it.
                prose += ["", line] if prose and prose[-1] else [line]
            else:
                prose.append(line)
        return cls("\n".join(prose).strip(), labels)


@dataclass
class Name:
    """A public name; or some, that share their words."""

    kind: str  # class, struct, function, member, type, enum-class, enumerator, concept, macro
    name: str
    qualified: str
    header: str
    line: int
    last_line: int
    signatures: list[str]
    words: Words
    others: list[str] = field(default_factory=list)  # simple names that share the words
    body: str = ""  # of a concept
    awaited: str = ""  # what co_await gives
    members: list[Name] = field(default_factory=list)
    needs_words: bool = True

    def walk(self) -> Iterator[Name]:
        yield self
        for member in self.members:
            yield from member.walk()


@dataclass
class Header:
    path: str  # as it is included, without zloop/
    title: str
    intro: str
    names: list[Name] = field(default_factory=list)

    @property
    def is_for_users(self) -> bool:
        return NOT_FOR_USERS not in self.intro.replace("\n", " ")

    def walk(self) -> Iterator[Name]:
        for name in self.names:
            yield from name.walk()


class Source:
    """The text of one header."""

    def __init__(self, path: Path) -> None:
        self.bytes = path.read_bytes()
        self.text = self.bytes.decode()
        self.lines = ["", *self.text.splitlines()]

    def words_at(self, first: int, last: int) -> Words:
        """The `///` lines above a declaration, or the `///<` behind it."""
        above = first
        while (
            self.lines[above - 1].lstrip().startswith("///") and "///<" not in self.lines[above - 1]
        ):
            above -= 1
        if above < first:
            return Words.of([re.sub(r"^\s*/// ?", "", line) for line in self.lines[above:first]])
        behind = []
        at = last
        while at < len(self.lines) and (found := re.search(r"///<\s?(.*)", self.lines[at])):
            if at > last and not self.lines[at].lstrip().startswith("///<"):
                break
            behind.append(found[1])
            at += 1
        return Words.of(behind)


def introduction(source: Source) -> tuple[str, str]:
    """The first lines of a header: what it is, and the rest of what they say."""
    lines = []
    for line in source.lines[1:]:
        if not line.startswith("//"):
            break
        lines.append(line[2:].removeprefix(" "))
    text = "\n".join(lines).strip()
    first, _, rest = text.partition("\n\n")
    title = re.sub(r"^zloop/[\w/]+\.hpp:\s*", "", first.replace("\n", " "))
    return title[:1].upper() + title[1:], rest.strip()


def _kqueue() -> list[tuple[str, str]]:
    """kqueue.hpp is empty here: what stands in for the system, as far as declarations need it."""
    config = (INCLUDE / "zloop" / "config.hpp").read_text()
    config = config.replace("#define ZLOOP_HAS_KQUEUE 0", "#define ZLOOP_HAS_KQUEUE 1")
    members = "unsigned long ident; short filter; unsigned short flags; unsigned fflags; long data; void* udata;"
    return [
        (str(INCLUDE / "zloop" / "config.hpp"), config),
        ("/kqueue/sys/event.h", f"struct kevent {{ {members} }};"),
    ]


class Reader:
    def __init__(self) -> None:
        self.paths = sorted((INCLUDE / "zloop").rglob("*.hpp"), key=_place)
        self.sources = {str(path): Source(path) for path in self.paths}
        self.headers: dict[str, Header] = {}
        for path in self.paths:
            name = str(path.relative_to(INCLUDE / "zloop"))
            self.headers[name] = Header(name, *introduction(self.sources[str(path)]))

    @cached_property
    def _arguments(self) -> list[str]:
        """Where this machine's g++ has what belongs to the compiler: the clang package has only clang."""
        asked = ["g++", "-print-file-name=include"]
        own = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        python = [sysconfig.get_path("include"), pybind11.get_include()]
        others = [word for folder in (own, *python) for word in ("-isystem", folder)]
        return ["-std=c++20", "-ferror-limit=0", "-I", str(INCLUDE), *others]

    def read(self) -> dict[str, Header]:
        shown = [h for h in self.headers if h != WHOLE_FILE_ONLY]
        problems = self._parse(shown, [])
        if problems:
            raise SystemExit("\n".join(problems))
        self._parse(["kernel/kqueue.hpp"], _kqueue(), only="kernel/kqueue.hpp")
        return self.headers

    def _parse(
        self, headers: list[str], unsaved: list[tuple[str, str]], only: str = ""
    ) -> list[str]:
        program = "".join(f"#include <zloop/{name}>\n" for name in headers)
        unit = cindex.Index.create().parse(
            "/every.cpp",
            [*self._arguments, "-isystem", "/kqueue"] if unsaved else self._arguments,
            unsaved_files=[("/every.cpp", program), *unsaved],
            options=cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD,
        )
        self.unit = unit if not only else self.unit
        for cursor in unit.cursor.get_children():
            path = str(cursor.location.file) if cursor.location.file else ""
            if path not in self.sources:
                continue
            header = self.headers[str(Path(path).relative_to(INCLUDE / "zloop"))]
            if only and header.path != only:
                continue
            if cursor.kind == CursorKind.NAMESPACE and cursor.spelling == "zloop":
                self._namespace(cursor, header.names)
            elif cursor.kind == CursorKind.MACRO_DEFINITION:
                self._macro(cursor, header)
        # A system's C++ library may be newer than this clang: what it stumbles on there is not ours.
        return [
            str(said)
            for said in unit.diagnostics
            if said.severity >= cindex.Diagnostic.Error and str(said.location.file) in self.sources
        ]

    def _macro(self, cursor: Cursor, header: Header) -> None:
        if any(name.name == cursor.spelling for name in header.names):
            return
        source = self.sources[str(cursor.location.file)]
        line = cursor.location.line
        start = line  # the words stand above the whole of #if … #endif
        while source.lines[start - 1].startswith("#") or source.lines[start - 1].startswith("///"):
            start -= 1
        lines = [text for text in source.lines[start:line] if text.startswith("///")]
        words = Words.of([text[3:].removeprefix(" ") for text in lines])
        header.names.append(
            Name(
                "macro",
                cursor.spelling,
                cursor.spelling,
                header.path,
                line,
                line,
                [cursor.spelling],
                words,
            )
        )

    def _namespace(self, space: Cursor, into: list[Name]) -> None:
        for cursor in space.get_children():
            if cursor.kind == CursorKind.NAMESPACE:
                if cursor.spelling != "detail":
                    self._namespace(cursor, into)
            else:
                self._add(cursor, into)

    def _add(self, cursor: Cursor, into: list[Name]) -> None:
        if cursor.kind == CursorKind.FRIEND_DECL:
            for child in cursor.get_children():
                if child.kind in FUNCTIONS and child.is_definition():
                    self._add(child, into)
            return
        if cursor.kind == CursorKind.USING_DECLARATION or cursor.spelling in PROTOCOL:
            return
        if cursor.spelling.startswith("<deduction guide"):
            return
        made = self._make(cursor)
        if made is None:
            return
        for before in into:
            if before.qualified == made.qualified and made.signatures[0] in before.signatures:
                return  # declared above, defined here
        last = into[-1] if into else None
        adjoins = last and last.header == made.header and made.line == last.last_line + 1
        is_plain = made.kind in {"function", "member", "type"}
        if (
            last
            and adjoins
            and not made.words
            and last.words
            and last.kind == made.kind
            and is_plain
        ):
            last.signatures += made.signatures
            last.others.append(made.name)
            last.last_line = made.last_line
            return
        into.append(made)

    def _make(self, cursor: Cursor) -> Name | None:
        kind = cursor.kind
        is_class = kind in CLASSES
        if is_class and (not cursor.is_definition() or not cursor.spelling):
            return None
        if kind in FUNCTIONS and _is_in_namespace(cursor) and _is_member(cursor):
            return None  # the definition of what its class declares
        source = self.sources[str(cursor.location.file)]
        first, last = cursor.extent.start.line, cursor.extent.end.line
        words = source.words_at(first, last)
        qualified = _qualified(cursor)
        name = qualified.rpartition("::")[2]
        made = Name("", name, qualified, self._header(cursor), first, last, [], words)
        if is_class:
            if _is_specialization(cursor, source) and not words:
                return None
            made.kind = (
                "struct" if re.search(r"\bstruct\b", _class_head(cursor, source)) else "class"
            )
            made.signatures = [_class_signature(cursor, source)]
            made.awaited = _awaited_by(cursor)
            self._members(cursor, made)
        elif kind in FUNCTIONS:
            if cursor.is_deleted_method() or (_is_given(cursor) and not words):
                return None
            made.kind = "function"
            made.signatures = [_function_signature(cursor, source)]
            made.awaited = _awaited_by(cursor.result_type.get_canonical().get_declaration())
            is_known = " override" in made.signatures[0]  # its words are those of the base
            made.needs_words = not (_is_given(cursor) or _is_constructor(cursor) or is_known)
        elif kind in VARIABLES:
            made.kind = "member"
            made.signatures = [
                re.sub(r"^([\w:<>, ]+ \w+)\(.*", r"\1", _tidy(_text(cursor, source)))
            ]
        elif kind in ALIASES:
            made.kind = "type"
            made.signatures = [re.sub(r"\busing ", "", _tidy(_text(cursor, source)))]
        elif kind == CursorKind.CONCEPT_DECL:
            made.kind = "concept"
            head, _, made.body = _text(cursor, source).partition("=")
            made.signatures = [re.sub(r"\bconcept ", "", _tidy(head))]
            made.body = f"{head}={made.body};"
        elif kind == CursorKind.ENUM_DECL:
            made.kind = "enum-class" if cursor.is_scoped_enum() else "enum"
            made.signatures = [cursor.spelling]
            for child in cursor.get_children():
                line = child.extent.start.line
                words = source.words_at(line, child.extent.end.line)
                made.members.append(
                    Name(
                        "enumerator",
                        child.spelling,
                        _qualified(child),
                        made.header,
                        line,
                        line,
                        [child.spelling],
                        words,
                        needs_words=not made.words,  # a word above may say them all
                    )
                )
        else:
            return None
        return made

    def _members(self, cursor: Cursor, into: Name) -> None:
        for child in cursor.get_children():
            is_public = child.access_specifier == AccessSpecifier.PUBLIC
            if is_public or child.kind == CursorKind.FRIEND_DECL:
                self._add(child, into.members)

    def _header(self, cursor: Cursor) -> str:
        return str(Path(str(cursor.location.file)).relative_to(INCLUDE / "zloop"))


def _place(path: Path) -> tuple[int, str]:
    """The face first, then what is behind its doors."""
    relative = path.relative_to(INCLUDE / "zloop")
    return len(relative.parts), str(relative)


def _qualified(cursor: Cursor) -> str:
    spelling = cursor.spelling
    if cursor.kind in {CursorKind.CONSTRUCTOR, CursorKind.FUNCTION_TEMPLATE}:
        spelling = re.sub(r"(?<!operator)<.*", "", spelling)
    parts = [spelling]
    above = cursor.semantic_parent
    while above is not None and above.kind != CursorKind.TRANSLATION_UNIT:
        parts.append(above.spelling)
        above = above.semantic_parent
    return "::".join(reversed(parts))


def _is_in_namespace(cursor: Cursor) -> bool:
    return cursor.lexical_parent is not None and cursor.lexical_parent.kind == CursorKind.NAMESPACE


def _is_member(cursor: Cursor) -> bool:
    return cursor.semantic_parent.kind in CLASSES


def _is_specialization(cursor: Cursor, source: Source) -> bool:
    if cursor.kind == CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION:
        return True
    return re.match(r"template\s*<\s*>", _text(cursor, source)) is not None


def _is_given(cursor: Cursor) -> bool:
    """Copying, moving, destroying, the default constructor: nothing to say but what the language says."""
    if cursor.kind == CursorKind.DESTRUCTOR:
        return True
    if cursor.kind == CursorKind.CONSTRUCTOR:
        is_copy = cursor.is_copy_constructor() or cursor.is_move_constructor()
        return is_copy or cursor.is_default_constructor()
    if cursor.spelling == "operator=":
        return True
    return cursor.is_default_method()


def _is_constructor(cursor: Cursor) -> bool:
    """Its name is that of the class, which has the words."""
    is_template = cursor.kind == CursorKind.FUNCTION_TEMPLATE and _is_member(cursor)
    parent = cursor.semantic_parent.spelling
    return cursor.kind == CursorKind.CONSTRUCTOR or (
        is_template and re.sub("<.*", "", cursor.spelling) == parent
    )


def _awaited_by(awaiter: Cursor) -> str:
    """What `co_await` gives: the type of await_resume, in the class or in what it derives from."""
    if awaiter.kind not in CLASSES:
        return ""
    for child in awaiter.get_children():
        if child.spelling == "await_resume":
            return child.result_type.spelling.replace("zloop::", "")
    for child in awaiter.get_children():
        if child.kind == CursorKind.CXX_BASE_SPECIFIER and (
            found := _awaited_by(child.type.get_canonical().get_declaration())
        ):
            return found
    return ""


def _text(cursor: Cursor, source: Source) -> str:
    return source.bytes[cursor.extent.start.offset : cursor.extent.end.offset].decode()


def _tidy(text: str) -> str:
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"\b(inline|virtual) ", "", text)
    return re.sub(r"\s+", " ", text).strip().removesuffix(";").strip()


def _function_signature(cursor: Cursor, source: Source) -> str:
    end = cursor.extent.end.offset
    for child in cursor.get_children():
        if child.kind.is_statement():  # the body, a coroutine's too
            end = min(end, child.extent.start.offset)
    depth, closed = 0, False
    for token in cursor.get_tokens():
        if token.extent.start.offset >= end:
            break
        depth += {"(": 1, ")": -1}.get(token.spelling, 0)
        closed = closed or (depth == 0 and token.spelling == ")")
        if closed and depth == 0 and token.spelling == ":":  # a constructor's initializers
            end = token.extent.start.offset
    signature = _tidy(source.bytes[cursor.extent.start.offset : end].decode())
    before = source.bytes[: cursor.extent.start.offset].decode()
    if before.endswith("[[nodiscard]] "):
        signature = f"[[nodiscard]] {signature}"
    return re.sub(r" = defaul$", " = default", signature)  # clang ends it a letter early


def _class_head(cursor: Cursor, source: Source) -> str:
    text = _tidy(_text(cursor, source).partition("{")[0])
    return re.sub(r"(?<!:):(?!:).*", "", text).strip()


def _class_signature(cursor: Cursor, source: Source) -> str:
    head = re.sub(
        r"\b(class|struct) (?=(\[\[\w+\]\] )?\w+( final)?(<.*>)?$)", "", _class_head(cursor, source)
    )
    bases = [
        child.type.spelling.replace("zloop::", "")
        for child in cursor.get_children()
        if child.kind == CursorKind.CXX_BASE_SPECIFIER
        and child.access_specifier == AccessSpecifier.PUBLIC
        and "detail::" not in child.type.get_canonical().spelling
    ]
    return head + (f" : {', '.join(f'public {base}' for base in bases)}" if bases else "")


def read() -> dict[str, Header]:
    """Every header by its name below zloop/, with what it declares for users."""
    return Reader().read()
