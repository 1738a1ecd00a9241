"""Where a run takes place, and with what: what its file says of the machine."""

import datetime
import os
import platform
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import native

QUIET_LOAD = 0.5  # above, other work takes part in what is measured, and a report says so


def describe(server_core: int, client_core: int, python: str) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": said_by(python, "-c", PYTHON_SAYS),
        "system": f"{platform.system()} {kernel()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 1,
        "openssl": " ".join(ssl.OPENSSL_VERSION.split()[:2]),
        "compiler": said_by(*native.cxx(), "--version"),
        "wrk": said_by("wrk", "-v").partition("[")[0].strip(),
        "redis": said_by("redis-server", "--version"),
        "postgres": said_by("postgres", "--version"),
        "commit": said_by("git", "describe", "--always", "--dirty=+", "--exclude=*"),
        "server_core": server_core,
        "client_core": client_core,
        "load_before": os.getloadavg()[0],
    }


PYTHON_SAYS = "import platform as p; print(p.python_implementation(), p.python_version(), f'({p.python_compiler()})')"


def kernel() -> str:
    """Its version, without what a distribution or a host has added."""
    return platform.release().partition("-")[0]


def said_by(*command: str) -> str:
    """The first line that a program prints, "" where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=native.HERE, capture_output=True, text=True)
    failed = done.returncode != 0 and command[0] != "wrk"  # which says its version, and fails
    return "" if failed else done.stdout.partition("\n")[0]
