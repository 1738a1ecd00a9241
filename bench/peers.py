"""Installs the peers of requirements.txt into this Python, each on its own.

One that cannot be installed is reported and left out: the benchmarks then name it as absent. So
the exit status is 0 whatever happened; run.py says what is missing where it matters.
"""

import re
import subprocess
import sys
from pathlib import Path

TIMEOUT_SECONDS = 600


def install(requirement: str) -> str:
    """Return what became of one line, in a few words."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--prefer-binary", requirement]
    try:
        pip = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"absent: not installed within {TIMEOUT_SECONDS} s"
    if pip.returncode == 0:
        return "not for this Python" if "Ignoring " in pip.stdout else "installed"
    return f"absent: {reason(pip.stderr)}"


def reason(said: str) -> str:
    """What pip says is wrong, or what the build says, of which pip says only that it failed."""
    lines = [line.strip() for line in said.splitlines()]
    own = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    built = [line for line in lines if re.search(r"not installed|not found|requires", line)]
    return (own or built or ["pip failed"])[-1]


def main() -> None:
    lines = (Path(__file__).resolve().parent / "requirements.txt").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            print(f"{line.split(';')[0]:20}  {install(line)}", flush=True)


if __name__ == "__main__":
    main()
