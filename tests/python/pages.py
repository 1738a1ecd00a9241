"""The pages as tests read them: which there are, and the blocks of code on each.

A block whose first line is a comment that names a file is that file: `# app.py`, `// chat.cpp`. What runs
it is the test of its page. One that names a file of examples/ is a part of that file, and a line `# ...` stands for
lines that are left out.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md", "tests/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]

# In a list, a block is indented.
FENCE = re.compile(r"^( *)```(\S+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r"(?:#|//) ([\w./-]+\.(?:py|cpp|hpp|build|ini|toml|txt)|Dockerfile)\n")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    title: str | None  # the file that it is, or is a part of
    code: str  # without its title

    @property
    def id(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        code = textwrap.dedent(match[3])
        title = _TITLE.match(code)
        if title:
            code = code[title.end() :].lstrip("\n")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, match[2], title[1] if title else None, code))
    return found


def files(page: Path) -> dict[str, str]:
    """The files that the page shows whole, by name; the same name again is a mistake."""
    found: dict[str, str] = {}
    for block in blocks(page):
        if block.title is not None and not block.title.startswith("examples/"):
            assert block.title not in found, block.id
            found[block.title] = block.code
    return found


def command(page: Path, beginning: str) -> str:
    """The first line of the page's shell blocks that begins so."""
    for block in blocks(page):
        if block.language == "sh":
            for line in block.code.splitlines():
                if line.startswith(beginning):
                    return line
    raise AssertionError(f"no command on {name_of(page)} begins with {beginning!r}")
