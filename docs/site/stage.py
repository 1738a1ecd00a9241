"""Lays out what Sphinx reads: the pages of docs/, the reference, charts, and each file that a page links to.

    python docs/site/stage.py build/docs/source

A page of the repository keeps its words; its links lead to the page here that shows the file. A file that
is no page gets one with its text, so nothing of the site leads to another place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import charts
import reference
from reference import ROOT

# Pages that do not lie in docs/, and what they are called here.
OTHERS = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changes.md",
    "bench/README.md": "project/benchmarks.md",
    "tests/conformance/README.md": "project/conformance.md",
}
# The table of contents: a heading, and the pages below it, or a pattern.
CONTENTS = {
    "Learn": ["tutorials/*"],
    "How to": ["guide", "howto/*"],
    "Reference": ["reference", "reference/python", "reference/cpp/index"],
    "Know": ["compatibility", "performance", "design"],
    "Project": [
        "project/contributing",
        "project/benchmarks",
        "project/conformance",
        "project/changes",
    ],
}
# What the reference shows better than the files do.
MADE = {"include/zloop": "reference/cpp/index.rst", "zloop/__init__.py": "reference/python.rst"}
LANGUAGES = {".cpp": "cpp", ".hpp": "cpp", ".c": "c", ".h": "c", ".py": "python", ".toml": "toml"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
PICTURE = re.compile(r"<picture>.*?</picture>", re.DOTALL)


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = {name: place for name, place in OTHERS.items() if (ROOT / name).exists()}
        for page in sorted((ROOT / "docs").rglob("*.md")):
            self.places[str(page.relative_to(ROOT))] = str(page.relative_to(ROOT / "docs"))
        self.headers: set[str] = set()

    def run(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        reference.write(self.folder / "reference")
        self.headers = {path.stem for path in (self.folder / "reference" / "cpp").glob("*.rst")}
        for program in sorted((ROOT / "examples").rglob("*.[cp][py]*")):
            if program.suffix in LANGUAGES:
                self.show(program)
        for name, place in self.places.items():
            self.write(place, self.page(ROOT / name, Path(place)))
        shutil.copytree(ROOT / "docs" / "pictures", self.folder / "pictures")
        charts.draw(self.folder / "pictures")

    def page(self, page: Path, place: Path) -> str:
        text = page.read_text()
        parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
        for at in range(0, len(parts), 2):
            parts[at] = PICTURE.sub(lambda found: self.picture(found[0], page, place), parts[at])
            parts[at] = LINK.sub(lambda found: self.link(found, page, place), parts[at])
        text = "".join(parts)
        if place == Path("index.md"):
            text += self.contents()
        return text

    def contents(self) -> str:
        made = ""
        for title, pages in CONTENTS.items():
            listed = [p for p in pages if "*" not in p or any((ROOT / "docs").glob(f"{p}.md"))]
            if listed:
                lines = "\n".join(listed)
                made += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {title}\n\n{lines}\n```\n"
        return made

    def link(self, found: re.Match[str], page: Path, place: Path) -> str:
        words, target = found.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        there = (page.parent / path).resolve()
        shown = self.places.get(str(there.relative_to(ROOT))) or self.show(there)
        where = os.path.relpath(shown, place.parent)
        return f"[{words}]({where}{'#' + anchor if anchor else ''})"

    def show(self, there: Path) -> str:
        """The page with a file's text, or a folder's files; a header's is in the reference."""
        name = str(there.relative_to(ROOT))
        if name in MADE:
            return MADE[name]
        if name.startswith("include/zloop/"):
            stem = reference.page_of(name.removeprefix("include/zloop/"))
            if stem in self.headers:
                return f"reference/cpp/{stem}.rst"
        place = f"source/{name}.rst"
        if (self.folder / place).exists():
            return place
        if there.is_dir():
            asked = ["git", "ls-files", "--", name]
            said = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True)
            files = [line for line in said.stdout.splitlines() if (ROOT / line).is_file()]
            body = "".join(f"- :doc:`{file} </{self.show(ROOT / file)[:-4]}>`\n" for file in files)
        else:
            language = LANGUAGES.get(there.suffix, "text")
            up = os.path.relpath(there, (self.folder / place).parent)
            body = f".. literalinclude:: {up}\n   :language: {language}\n"
        self.write(place, f":orphan:\n\n{name}\n{'=' * len(name)}\n\n{body}")
        return place

    def picture(self, text: str, page: Path, place: Path) -> str:
        """GitHub's picture of two colour schemes, as furo has it."""
        dark = re.search(r'srcset="([^"]+)"', text)
        light = re.search(r'<img[^>]*\bsrc="([^"]+)"', text)
        words = re.search(r'alt="([^"]*)"', text)
        if not (dark and light and words):
            raise SystemExit(f"{page.name}: a picture needs two schemes and words:\n{text}")
        made = ""
        for scheme, source in (("light", light[1]), ("dark", dark[1])):
            there = (page.parent / source).resolve().relative_to(ROOT / "docs")
            where = os.path.relpath(there, place.parent)
            made += f"\n```{{image}} {where}\n:class: only-{scheme}\n:alt: {words[1]}\n```\n"
        return made

    def write(self, place: str, text: str) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    Stage(Path(sys.argv[1]).resolve()).run()
