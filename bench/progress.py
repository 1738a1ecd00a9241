"""A bar on the terminal: how far a run is, who is measured, and how long it will take.

Where nobody looks, or rich is not installed, there is none; what is said goes to the output as ever.
"""

import sys
from types import TracebackType
from typing import Self

try:
    from rich import progress as rich
except ImportError:
    rich = None  # type: ignore[assignment]


class Progress:
    """Of a run of some rows; `with` shows it."""

    def __init__(self, rows: int) -> None:
        self._rows, self._done, self._name = rows, 0, ""
        self._bar = None
        if rich is not None and sys.stderr.isatty():
            from rich.console import Console

            self._bar = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(bar_width=16),
                rich.TextColumn("{task.percentage:3.0f} %, left:"),
                rich.TimeRemainingColumn(),
                console=Console(stderr=True),
                speed_estimate_period=600,
            )
            self._task = self._bar.add_task("", total=rows)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str) -> None:
        self._name = name
        self.at(0, "starts")

    def at(self, part: float, what: str) -> None:
        """Of the row that has begun, this part is done."""
        if self._bar is not None:
            text = f"{self._done + 1}/{self._rows} {self._name}: {what}"
            self._bar.update(self._task, description=f"{text:44}", completed=self._done + part)

    def end(self, said: str) -> None:
        """The row is over, and this is what it has shown."""
        self._done += 1
        self.say(said + "\n")

    def say(self, text: str) -> None:
        if self._bar is not None and sys.stdout.isatty():
            self._bar.console.file.flush()
            self._bar.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)
