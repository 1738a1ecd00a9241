"""The reference's pages, out of what headers.py and the Python package tell: reStructuredText for Sphinx.

A page a header. Each public name has its full signature, what awaiting it gives, its words, and its labels
as a list; the names that words mention in backticks, or as in `send()`, are links.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import headers
from headers import ROOT, Header, Name

# What the pages are called in the table of contents, and the headers in each.
CHAPTERS = {
    "Loop and time": "loop sleep core/timer testing config",
    "Tasks": "task job nursery when cancel sync channel generator async_generator backtrace",
    "Threads": "offload thread_channel on runtime",
    "Streams and sockets": "address socket listener datagram pipe foreign_stream watch connect resolve",
    "Messages and bytes": "stream buffered_reader copy send_file",
    "TLS": "tls tls/context tls/error",
    "Processes and signals": "process kernel/command kernel/child signal",
    "Python": "pybind11 python python/object python/buffer python/iteration",
    "Errors": "error",
    "Tests": "testing/scripted testing/script testing/faults testing/interpose",
}
REST = "For extending zloop"

SPACES = {"zloop", "zloop::tls", "zloop::testing", "zloop::python"}
WORD = re.compile(r"(?<!`)`([^`]+)`(?!`)|\b([a-z_]\w+)\(\)|\b((?:\w+/)*\w+\.hpp)\b")


@dataclass
class Index:
    """Where a name leads: its full names by its simple one."""

    pages: dict[str, str] = field(default_factory=dict)  # by header
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    parameters: set[str] = field(default_factory=set)  # of what is being shown: they are no links

    @classmethod
    def of(cls, found: Iterable[Header]) -> Index:
        index = cls()
        for header in found:
            index.pages[header.path] = page_of(header.path)
            for name in header.walk():
                for simple in {name.name, *name.others}:
                    above = name.qualified.removesuffix(name.name)
                    if f"{above}{simple}" not in index.names[simple]:
                        index.names[simple].append(f"{above}{simple}")
        return index

    def find(self, spelled: str, scope: str) -> str:
        """The full name that is meant in `scope`: the nearest, or the only one; else none."""
        plain = re.sub(r"<.*>$|\(\)$", "", spelled.strip()).removeprefix("zloop::")
        if plain in self.parameters or not re.fullmatch(r"[a-zA-Z_]\w*(::\w+)*", plain):
            return ""
        full = [
            name
            for name in self.names[plain.rpartition("::")[2]]
            if f"::{name}".endswith(f"::{plain}")
        ]
        while scope:
            if f"{scope}::{plain}" in full:
                return f"{scope}::{plain}"
            scope = scope.rpartition("::")[0]
        # Elsewhere a word like `on` is rarely that member; a call is.
        certain = spelled.endswith("()") or "::" in plain
        outer = full if certain else [name for name in full if name.rpartition("::")[0] in SPACES]
        return outer[0] if len(outer) == 1 else ""


def page_of(header: str) -> str:
    return header.removesuffix(".hpp").replace("/", "_")


def reference(found: Iterable[Header]) -> Iterator[tuple[str, str]]:
    """Each page's name and text."""
    shown = [h for h in found if h.is_for_users and h.path != headers.UMBRELLA]
    index = Index.of(shown)
    for header in shown:
        yield f"cpp/{page_of(header.path)}.rst", "\n".join(_page(header, index)) + "\n"
    yield from _contents(shown)
    yield "python.rst", "\n".join(_python()) + "\n"


def _contents(shown: list[Header]) -> Iterator[tuple[str, str]]:
    """The list of all headers, and the same by chapter: pages that the table of contents can fold."""
    by_path = {header.path: header for header in shown}
    chapters = {
        title: [f"{name}.hpp" for name in names.split()] for title, names in CHAPTERS.items()
    }
    placed = {path for paths in chapters.values() for path in paths}
    chapters[REST] = [path for path in by_path if path not in placed]
    lines = [
        *_heading("C++", "="),
        "``#include <zloop/zloop.hpp>`` has all of these but those for tests, TLS and Python. All names are in",
        "``namespace zloop``, but those for TLS in ``zloop::tls``, those for tests in ``zloop::testing``, and those",
        "for Python in ``zloop::python``.",
        "",
    ]
    for title, paths in chapters.items():
        table = [".. list-table::", "   :widths: 30 70", "   :class: names", ""]
        for path in paths:
            table.append(f"   * - :doc:`{path} <{page_of(path)}>`")
            table.append(f"     - {_inline(by_path[path].title, Index(), '')}")
        table.append("")
        lines += [*_heading(title, "-"), *table]
        tree = [".. toctree::", "   :hidden:", "", *(f"   {page_of(path)}" for path in paths)]
        yield f"cpp/{_chapter(title)}.rst", "\n".join([*_heading(title, "="), *table, *tree]) + "\n"
    lines += [".. toctree::", "   :hidden:", "", *(f"   {_chapter(title)}" for title in chapters)]
    yield "cpp/index.rst", "\n".join(lines) + "\n"


def _chapter(title: str) -> str:
    return f"chapter-{title.lower().replace(' ', '-')}"


def _page(header: Header, index: Index) -> Iterator[str]:
    yield from _heading(header.path, "=")
    yield _inline(header.title, index, "zloop")
    yield ""
    yield from [".. code-block:: cpp", "", f"   #include <zloop/{header.path}>", ""]
    yield from _prose(header.intro, index, "zloop")
    top = [name for name in header.names if name.kind != "macro" or name.words]
    summed = {name.qualified: name for name in reversed(top)}
    if len(summed) > 1:
        yield from [".. list-table::", "   :widths: 30 70", "   :class: names", ""]
        for name in top:
            if summed.pop(name.qualified, None) is None or _scope(name) not in {"", *SPACES}:
                continue
            role = "c:macro" if name.kind == "macro" else "cpp:any"
            yield f"   * - :{role}:`{name.name} <{name.qualified}>`"
            yield f"     - {_inline(_first_sentence(_words_of(name, top)), index, _scope(name))}"
        yield ""
    for name in top:
        yield from _entry(name, index, "")


def _words_of(name: Name, siblings: list[Name]) -> str:
    """The words of a name: an overload may have them."""
    for each in siblings:
        if each.qualified == name.qualified and each.words:
            return each.words.prose or each.words.labels[0][1]
    return ""


def _first_sentence(text: str) -> str:
    paragraph = text.split("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=[a-z`\w\)])[.:;] ", paragraph)[0]
    return sentence.rstrip(".:;")


def _entry(name: Name, index: Index, indent: str) -> Iterator[str]:
    scope = name.qualified if name.members else _scope(name)
    directive = {"macro": "c:macro"}.get(name.kind, f"cpp:{name.kind}")
    above = _scope(name)
    index.parameters = {
        word for text in name.signatures for word in re.findall(r"(\w+)(?= = [^,]+|,|\)|$)", text)
    } - {name.name}
    if not indent and name.kind != "macro":
        yield f".. cpp:namespace:: {above}"
        yield ""
    opening = f"{indent}.. {directive}:: "
    yield opening + f"\n{' ' * len(opening)}".join(name.signatures)
    inner = f"{indent}   "
    yield ""
    lines: list[str] = []
    if name.body:
        lines += [".. code-block:: cpp", "", *(f"   {line}" for line in name.body.splitlines()), ""]
    lines += _prose(name.words.prose, index, scope)
    fields = [(label, _label(label, text, index, scope)) for label, text in name.words.labels]
    if not any(label == "Example" for label, _ in fields) and (program := _user_of(name)):
        fields.append(("Example", f":doc:`{program} </source/{program}>`"))
    if name.awaited:
        fields.insert(0, ("co_await", f"``{name.awaited}``"))
    lines += [f":{label}: {text}" for label, text in fields]
    if fields:
        lines.append("")
    yield from (f"{inner}{line}" if line else "" for line in lines)
    for member in name.members:
        yield from _entry(member, index, inner)


def _user_of(name: Name) -> str:
    """The shortest program that says the whole name, for what has no label of its own."""
    if _scope(name) not in SPACES:
        return ""
    spelled = re.compile(rf"\b{re.escape(name.qualified)}\b")
    found = [path for path, text in _programs().items() if spelled.search(text)]
    return min(found, key=lambda path: len(_programs()[path]), default="")


@cache
def _programs() -> dict[str, str]:
    paths = sorted((ROOT / "examples" / "cpp").glob("*.cpp"))
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def _scope(name: Name) -> str:
    return name.qualified.removesuffix(name.name).removesuffix("::")


def _label(label: str, text: str, index: Index, scope: str) -> str:
    if label == "Example":
        return re.sub(r"([\w./]+\.(?:cpp|py))", r":doc:`\1 </source/\1>`", text)
    return _inline(text, index, scope)


def _heading(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def _prose(text: str, index: Index, scope: str) -> list[str]:
    """Paragraphs, lists and indented code, as the comments have them."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text) if text else []:
        rows = paragraph.split("\n")
        if all(row.startswith("    ") for row in rows):
            language = "cpp" if "include/" not in paragraph else "text"
            lines += [f".. code-block:: {language}", "", *(f"   {row[4:]}" for row in rows), ""]
        elif re.match(r"\s*- ", rows[0]) or any(re.match(r"- ", row) for row in rows):
            for row in rows:
                if (
                    row.startswith("- ")
                    and lines
                    and lines[-1]
                    and not lines[-1].startswith(("- ", "  "))
                ):
                    lines.append("")
                lines.append(_inline(row, index, scope))
            lines.append("")
        else:
            lines += [
                *_inline("\n".join(row.strip() for row in rows), index, scope).split("\n"),
                "",
            ]
    return lines


def _inline(text: str, index: Index, scope: str) -> str:
    made = []
    end = 0
    for found in WORD.finditer(text):
        made.append(_escaped(text[end : found.start()]))
        made.append(_word(found, index, scope))
        end = found.end()
        if text[end : end + 1].isalnum():
            made.append("\\ ")
    made.append(_escaped(text[end:]))
    return "".join(made)


def _word(found: re.Match[str], index: Index, scope: str) -> str:
    code, call, header = found.groups()
    if header:
        path = header.removeprefix("zloop/")
        page = index.pages.get(path)
        return f":doc:`{header} </reference/cpp/{page}>`" if page else header
    spelled = code or f"{call}()"
    full = index.find(spelled, scope)
    if full and full != scope:
        shown = spelled.replace("<", "\\<")
        return f":cpp:any:`{shown} <{full}>`"
    if code:
        return f"``{code}``"
    return _escaped(spelled)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)


# Python: signatures from the stubs, words from what the names say of themselves.


def python_names() -> dict[str, tuple[str, str]]:
    """Each public name's directive with its signature, and its words."""
    import zloop

    package = ast.parse((ROOT / "zloop" / "__init__.py").read_text())
    found = {}
    for node in ast.walk(package):
        if isinstance(node, ast.FunctionDef) and node.name in zloop.__all__:
            signature = (
                _python_signature(node).replace("_typing.", "").replace("_Coroutine", "Coroutine")
            )
            found[node.name] = (f"py:function:: {signature}", ast.get_docstring(node) or "")
    found["Loop"] = ("py:class:: Loop()", inspect.getdoc(zloop.Loop) or "")
    found["__version__"] = ("py:data:: __version__\n   :type: str", 'The version, as in "1.2.3".')
    policy = ast.parse((ROOT / "zloop" / "policy.py").read_text())
    for node in ast.walk(policy):
        if isinstance(node, ast.ClassDef) and node.name == "EventLoopPolicy":
            words = f"{ast.get_docstring(node) or ''} Up to Python 3.15."
            found[node.name] = ("py:class:: EventLoopPolicy()", words)
    return {name: found.get(name, ("", "")) for name in zloop.__all__}


def loop_names() -> dict[str, tuple[str, str]]:
    """What zloop.Loop does itself, by the stub of its compiled half, and its words there."""
    from zloop._zloop import LoopCore

    stub = ast.parse((ROOT / "zloop" / "_zloop.pyi").read_text())
    core = next(n for n in stub.body if isinstance(n, ast.ClassDef) and n.name == "LoopCore")
    found = {}
    for node in core.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        words = (getattr(LoopCore, node.name).__doc__ or "").strip()
        if re.fullmatch(r"asyncio\.[\w.]+", words):
            words = f"As ``{words}``."
        is_property = any(
            isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list
        )
        if is_property:
            returns = ast.unparse(node.returns) if node.returns else ""
            directive = f"py:property:: {node.name}\n   :type: {returns.replace('_Stats', 'dict[str, int]')}"
        else:
            directive = f"py:method:: {_python_signature(node)}"
        found[node.name] = (directive, words)
    return found


def _python_signature(node: ast.FunctionDef) -> str:
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^self(, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({arguments}){returns}"


def _python() -> Iterator[str]:
    import zloop.__main__

    yield from _heading("Python", "=")
    yield "``import zloop``. Everything else of asyncio stays as it is: see :doc:`/compatibility`."
    yield ""
    yield ".. py:module:: zloop"
    yield ""
    for name, (directive, words) in python_names().items():
        yield from _python_entry(directive, words, "")
        if name == "Loop":
            for inner, said in loop_names().values():
                yield from _python_entry(inner, said, "   ")
    yield from _heading("Command line", "-")
    yield inspect.getdoc(zloop.__main__) or ""
    yield ""


def _python_entry(directive: str, words: str, indent: str) -> Iterator[str]:
    for line in f".. {directive}".splitlines():
        yield indent + line
    yield ""
    for line in words.splitlines():
        yield f"{indent}   {line}" if line.strip() else ""
    yield ""


def write(folder: Path) -> None:
    """Makes the reference in `folder`."""
    for name, text in reference(headers.read().values()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
