"""Draws the charts of the newest kept run into docs/pictures, and its figures into docs/performance.md."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end -->)", re.DOTALL)


def newest_run() -> Path:
    """The dated results of `make bench` that the pages show."""
    return max((ROOT / "bench" / "results").glob("*.json"))


def draw(folder: Path) -> None:
    subprocess.run([sys.executable, ROOT / "bench" / "chart.py", newest_run(), folder], check=True)


def figures() -> str:
    """The same in figures, as Markdown."""
    command = [sys.executable, ROOT / "bench" / "chart.py", newest_run(), "--tables"]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"\n{said.stdout}\n"


if __name__ == "__main__":
    draw(ROOT / "docs" / "pictures")
    PAGE.write_text(FIGURES.sub(lambda _: figures(), PAGE.read_text()))
