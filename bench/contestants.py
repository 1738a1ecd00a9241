"""One contender's part in a row: a process of its own, started once, then measured in turn.

    Served    a server on the contender's loop on one core, a load client on the other
    Wrk       the same, loaded by wrk
    Worked    a process that measures what its loop does, perhaps asking a service on the other core

All are context managers with `measure(seconds)`, which returns figures by the names of a sample.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Self

import loops
import native
from processes import HERE, Crowd, Failure, Server, last_line, output_of, prepare
from rows import Row

WARMUP_SECONDS = 0.15
FAREWELL_SECONDS = 0.02  # for a server to see that the connections of its load are closed
PATIENCE_SECONDS = 20.0
Figures = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a run takes place."""

    server_core: int
    client_core: int
    pythons: dict[str, str]  # the interpreter of each contender


class Served:
    """A server, perhaps with a crowd of idle connections, and the C program that loads it.

    Out of its turn it is stopped: what it does beside, or a loop that never rests, is no burden to others.
    """

    def __init__(self, row: Row, contender: str, place: Place) -> None:
        self._row, self._place = row, place
        what = row.floor if contender == loops.FLOOR else row.server
        self._server = Server(contender, what, place.server_core, place.pythons[contender])
        self._constant: Figures = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._server)
            if self._row.crowd:
                self._let_in(stack)
            self._warm_up()
            self._ticks = self._server.cpu_ticks()  # of what has led up to the first round
            self._server.pause()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _let_in(self, stack: contextlib.ExitStack) -> None:
        """A few first: they pay for arenas and pools, and are not weighed."""
        core = self._place.client_core
        stack.enter_context(Crowd(self._server, 200, core))
        before = self._server.resident_bytes()
        stack.enter_context(Crowd(self._server, self._row.crowd, core))
        grown = self._server.resident_bytes() - before
        self._constant["connection_bytes"] = grown / self._row.crowd

    def _warm_up(self) -> None:
        native.program(self._row.load.split()[0])  # it is there; and it warms up itself, each time

    def measure(self, seconds: float) -> Figures:
        self._server.resume()
        try:
            figures = self._load(seconds)
            return figures | self._parts(figures["cpu_us"]) | self._constant
        finally:
            time.sleep(FAREWELL_SECONDS)
            self._server.pause()

    def _parts(self, cpu_us: float) -> Figures:
        """Divide CPU time into user and system: by the kernel's ticks of all rounds, as they are coarse."""
        now = self._server.cpu_ticks()
        user, system = (b - a for a, b in zip(self._ticks, now, strict=True))
        if user + system == 0:
            return {}
        user_us = cpu_us * user / (user + system)
        return {"user_us": user_us, "system_us": cpu_us - user_us}

    def _load(self, seconds: float) -> Figures:
        program, *load = self._row.load.split()
        command = [native.program(program), *load, self._server.address]
        command += [f"--seconds={seconds}", f"--warmup={WARMUP_SECONDS}"]
        command += [f"--server-pid={self._server.pid}"]
        said = output_of(command, self._place.client_core, seconds + PATIENCE_SECONDS)
        shown = json.loads(said)
        if shown["messages"] == 0:
            raise Failure(self._server.complaint() or "no message came back")
        timed = ("p50_us", "p99_us", "p999_us", "client_busy", "server_busy", "errors")
        return {
            "rate": shown["messages_per_second"],
            "cpu_us": shown["server_cpu_us"],
            "waited": max(shown["client_waited"], shown["server_waited"]),
            **{name: shown.get(name) for name in timed},
        }


class Wrk(Served):
    """The same for HTTP. wrk knows whole seconds only, and nothing of the server: we look at that."""

    def _warm_up(self) -> None:
        if shutil.which("wrk") is None:
            raise Failure("wrk is not installed")
        self._load(1)

    def _load(self, seconds: float) -> Figures:
        _, connections, path, *options = self._row.load.split()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{self._server.address}{path}"]
        command += ["--", *options]
        began, before = time.monotonic_ns(), self._clocks()
        children = os.times()
        said = output_of(command, self._place.client_core, seconds + PATIENCE_SECONDS)
        client = os.times()
        elapsed_ns, after = time.monotonic_ns() - began, self._clocks()
        shown = json.loads(last_line(said))
        if shown["messages"] == 0:
            raise Failure(self._server.complaint() or "no response came back")
        cpu_ns, waited_ns = (b - a for a, b in zip(before, after, strict=True))
        used = client.children_user + client.children_system
        used -= children.children_user + children.children_system
        return {
            "rate": shown["messages"] / shown["seconds"],
            "cpu_us": cpu_ns / shown["messages"] / 1000,
            "server_busy": cpu_ns / elapsed_ns,
            "client_busy": used / (elapsed_ns / 1e9),
            "waited": waited_ns / elapsed_ns,
            "errors": shown["errors"],
            # Of requests that are under way together wrk knows no latency.
            **{name: shown[name] or None for name in ("p50_us", "p99_us", "p999_us")},
        }

    def _clocks(self) -> tuple[int, int]:
        return self._server.cpu_ns(), self._server.waited_ns()


class Worked:
    """A worker process, with the address of the service that it asks."""

    def __init__(self, row: Row, contender: str, place: Place, address: int | None) -> None:
        command = [place.pythons[contender], str(HERE / "work.py"), contender, *row.worker.split()]
        self._command = [*command, f"--address={address}"] if address is not None else command
        self._core = place.server_core

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            preexec_fn=prepare(self._core),
        )
        try:
            if self._line(30) != "ready\n":
                raise Failure(self._complaint() or "the process did not start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()  # it may be in a loop that does not end
        self._process.communicate()
        self._said.close()

    def measure(self, seconds: float) -> Figures:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(f"{WARMUP_SECONDS} {seconds}\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # its last words tell
        line = self._line(seconds + PATIENCE_SECONDS)
        if not line:
            raise Failure(self._complaint() or "the process has ended")
        figures: Figures = json.loads(line)
        if "failure" in figures:
            raise Failure(figures["failure"])
        return figures

    def _line(self, patience: float) -> str:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], patience)[0]:
            raise Failure(f"no answer within {patience:.0f} s")
        return stdout.readline()

    def _complaint(self) -> str:
        self._said.seek(0)
        return last_line(self._said.read())


Contestant = Served | Worked


def contestant(row: Row, contender: str, place: Place, address: int | None) -> Contestant:
    if row.worker:
        return Worked(row, contender, place, address)
    kind = Wrk if row.load.startswith("wrk ") else Served
    return kind(row, contender, place)
