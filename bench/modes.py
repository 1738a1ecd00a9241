"""What is measured: the modes by name, and how one sample of a mode is taken.

A sample is one contender, once, in processes of its own: a server on one core and the load client
on another, or a micro benchmark on the server's core.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field

import loops
import micro
import native
from processes import HERE, Failure, Server, output_of

WARMUP_SECONDS = 0.3
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Mode:
    name: str
    server: str = ""  # what servers.py should serve; none for a micro mode
    load: list[str] = field(default_factory=list)  # arguments of the load client
    client: str = "load"

    def has(self, contender: str) -> bool:
        return contender != loops.FLOOR or self.server in (
            "echo",
            "datagram",
            "sock",
            "tls_echo",
            "tls_bulk",
        )


@dataclass(frozen=True)
class Sample:
    """What one process showed; None is what this mode does not measure."""

    mode: str
    round: int
    contender: str
    rate: float | None = None  # messages, requests or operations per second
    cpu_us: float | None = None  # CPU time of the server per message
    p50_us: float | None = None
    p99_us: float | None = None
    client_busy: float | None = None  # of its core: near 1 it was the client that set the rate
    server_busy: float | None = None
    waited: float | None = None  # of the time client or server had no core: others were at work
    errors: int = 0
    failure: str = ""


def _echo_modes() -> list[Mode]:
    sizes = {"64B": 64, "1KiB": 1024, "16KiB": 16 * 1024, "100KiB": 100 * 1024}
    return [
        Mode(f"echo-{label}-{count}", "echo", ["echo", f"--size={size}", f"--connections={count}"])
        for label, size in sizes.items()
        for count in (1, 64, 256)
    ]


def _datagram_modes() -> list[Mode]:
    # More at once than these would not fit into the socket that serves them all.
    return [
        Mode(
            f"datagram-{label}-{count}",
            "datagram",
            ["datagram", f"--size={size}", f"--connections={count}"],
        )
        for label, size in {"64B": 64, "1KiB": 1024}.items()
        for count in (1, 64)
    ]


def _tls_modes() -> list[Mode]:
    echoes = [
        Mode(
            f"tls-echo-{label}-64",
            "tls_echo",
            ["echo", f"--size={size}", "--connections=64"],
            "tls_load",
        )
        for label, size in {"1KiB": 1024, "16KiB": 16 * 1024}.items()
    ]
    return [
        *echoes,
        Mode("tls-bulk-1", "tls_bulk", ["bulk"], "tls_load"),
        Mode("tls-handshake-16", "tls_echo", ["handshake", "--connections=16"], "tls_load"),
    ]


MODES = [
    *_echo_modes(),
    *(
        Mode(f"parts-1KiB-{count}", "parts", ["echo", "--size=1024", f"--connections={count}"])
        for count in (1, 64)
    ),
    *_datagram_modes(),
    Mode("streams-1KiB-64", "streams", ["echo", "--size=1024", "--connections=64"]),
    Mode("sock-1KiB-1", "sock", ["echo", "--size=1024", "--connections=1"]),
    Mode("sock-1KiB-64", "sock", ["echo", "--size=1024", "--connections=64"]),
    *_tls_modes(),
    Mode("uvicorn-64", "uvicorn", ["http", "--connections=64"]),
    Mode("uvicorn-tls-64", "uvicorn_tls", ["http", "--connections=64"], "tls_load"),
    *(Mode(name) for name in micro.MODES),
]


def _micro(mode: Mode, contender: str, seconds: float, core: int) -> dict[str, float]:
    command = [sys.executable, str(HERE / "micro.py"), contender, mode.name, f"--seconds={seconds}"]
    shown = json.loads(output_of(command, core, seconds + PATIENCE_SECONDS))
    return {"rate": 1e9 / shown["ns_per_op"]}


def _served(
    mode: Mode, contender: str, seconds: float, cores: tuple[int, int]
) -> dict[str, float | None]:
    server_core, client_core = cores
    with Server(contender, mode.server, server_core) as server:
        command = [native.program(mode.client), *mode.load, str(server.port)]
        command += [f"--seconds={seconds}", f"--warmup={WARMUP_SECONDS}"]
        command += [f"--server-pid={server.pid}"]
        shown = json.loads(output_of(command, client_core, seconds + PATIENCE_SECONDS))
    if shown["messages"] == 0:
        raise Failure("no message came back")
    names = ["cpu_us", "p50_us", "p99_us", "client_busy", "server_busy", "errors"]
    renamed = {"cpu_us": "server_cpu_us"}
    figures = {name: shown.get(renamed.get(name, name)) for name in names}
    figures["waited"] = max(shown["client_waited"], shown["server_waited"])
    return {"rate": shown["messages_per_second"], **figures}


def measure(
    mode: Mode, round: int, contender: str, seconds: float, cores: tuple[int, int]
) -> Sample:
    """Take one sample. A contender that breaks is part of the result, not the end of the run."""
    try:
        if mode.server:
            figures = _served(mode, contender, seconds, cores)
        else:
            figures = dict(_micro(mode, contender, seconds, cores[0]))
    except (Failure, subprocess.CalledProcessError) as failure:  # a program that does not compile
        return Sample(mode.name, round, contender, failure=str(failure))
    return Sample(mode.name, round, contender, **figures)  # type: ignore[arg-type]
