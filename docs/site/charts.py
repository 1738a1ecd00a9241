"""Draws the charts of the newest kept run into docs/pictures, and its figures into docs/performance.md."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
PARTS = {  # between <!-- name --> and <!-- end -->: what chart.py prints with that option
    "figures": "--tables",
    "promises": "--promises",
}


def newest_run() -> Path:
    """The dated results of `make bench` that the pages show."""
    return max((ROOT / "bench" / "results").glob("*.json"))


def draw(folder: Path) -> None:
    subprocess.run([sys.executable, ROOT / "bench" / "chart.py", newest_run(), folder], check=True)


def printed(option: str) -> str:
    """The same as Markdown."""
    command = [sys.executable, ROOT / "bench" / "chart.py", newest_run(), option]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"\n{said.stdout}\n"


def filled(page: str) -> str:
    """The page with the newest run's figures in their places."""
    for name, option in PARTS.items():
        place = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        page, places = place.subn(lambda _, option=option: printed(option), page)
        assert places == 1, name
    return page


if __name__ == "__main__":
    draw(ROOT / "docs" / "pictures")
    PAGE.write_text(filled(PAGE.read_text()))
