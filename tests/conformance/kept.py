"""What stock asyncio did with a suite, remembered for as long as the Python and the suite are the same."""

import json
from pathlib import Path

from compare import Outcome, Outcomes


class Kept:
    """What passed on stock, or was skipped.

    What failed is run again next time: a bad day of the machine must not excuse us for ever.
    """

    def __init__(self, path: Path, build: str, fresh: bool = False) -> None:
        self.path, self.build = path, build
        self.outcomes: dict[str, Outcome] = {}
        if path.exists() and not fresh:
            kept = json.loads(path.read_text())
            if kept["build"] == build:
                self.outcomes = {test: Outcome(*outcome) for test, outcome in kept["tests"].items()}

    def add(self, outcomes: Outcomes) -> None:
        self.outcomes |= {t: o for t, o in outcomes.items() if o.kind in ("ok", "skip")}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"build": self.build, "tests": dict(sorted(self.outcomes.items()))}
        self.path.write_text(json.dumps(kept, indent=0))
