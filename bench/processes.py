"""Server processes: started on a core of their own, watched from outside, always ended.

Everything here reads what the kernel knows of a process. A server never measures itself, so the
floor, which is no Python, is measured in the same way as the rest.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import loops
import native

HERE = Path(__file__).resolve().parent
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Failure(Exception):
    """A measurement did not happen; the message says why, in one line."""


def two_cores() -> tuple[int, int]:
    """Return a core for the server and one for the client, not two threads of one if possible."""
    cores = sorted(os.sched_getaffinity(0))
    server = cores[-1]
    path = Path(f"/sys/devices/system/cpu/cpu{server}/topology/thread_siblings_list")
    siblings = path.read_text().strip() if path.exists() else ""
    own = {int(core) for part in siblings.split(",") if part for core in part.split("-")}
    others = [core for core in cores if core not in own] or cores
    return server, others[0]


def prepare(core: int | None) -> Callable[[], None]:
    """Return what a child does before it starts: go to its core, and never outlive us."""

    def child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return child


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def output_of(command: list[str], core: int | None, timeout: float) -> str:
    """Run a client on its core and return what it printed; Failure if it found anything wrong."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, preexec_fn=prepare(core)
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"no end within {timeout:.0f} s") from None
    if done.returncode != 0 and not done.stdout:
        raise Failure(last_line(done.stderr) or f"ended with status {done.returncode}")
    return done.stdout


class Program:
    """A server that is a program, in an environment; `with` starts and ends it."""

    def __init__(self, command: list[str], core: int | None = None, **environment: str) -> None:
        self._command, self._core, self._environment = command, core, environment
        self.address = ""  # a port, or the path of a Unix socket

    @property
    def port(self) -> int:
        return int(self.address)

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, **self._environment},
            preexec_fn=prepare(self._core),
        )
        self.pid = self._process.pid
        stdout = self._process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], 30)
        words = stdout.readline().split() if readable else []
        if words[:1] not in (["port"], ["path"]):
            self._end()
            raise Failure(self.complaint() or "the server did not start")
        self.address = words[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        self._stderr.close()

    def _end(self) -> None:
        self._process.terminate()
        self.resume()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        if self.address.startswith("/"):
            Path(self.address).unlink(missing_ok=True)

    def pause(self) -> None:
        """Let it do nothing at all, until it is resumed: it is not its turn."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def complaint(self) -> str:
        """Return the last line that the server wrote to its standard error."""
        self._stderr.seek(0)
        return last_line(self._stderr.read())

    def resident_bytes(self) -> int:
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        line = next(line for line in rollup.splitlines() if line.startswith("Rss:"))
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_ticks(self) -> tuple[int, int]:
        """Return how the kernel shares that out between user and system code, in its coarse ticks."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])

    def waited_ns(self) -> int:
        """Return how long the main thread could have run, but had no core."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1])

    def cpu_ns(self) -> int:
        """Return the CPU time of all threads: the clock of clock_getcpuclockid(3), in ns."""
        scheduler_clock_of_process = 2
        return time.clock_gettime_ns((~self.pid << 3) | scheduler_clock_of_process)

    def context_switches(self) -> int:
        total = 0
        for status in Path(f"/proc/{self.pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
        return total

    def settle(self, quiet_seconds: float = 0.3, timeout: float = 30) -> None:
        """Wait until the server has used no CPU for a while: it has done all there was to do.

        A loop that never rests settles when it used next to nothing, 1 % of one core.
        """
        deadline = time.monotonic() + timeout
        used = self.cpu_ns()
        while time.monotonic() < deadline:
            time.sleep(quiet_seconds)
            before, used = used, self.cpu_ns()
            if used - before <= quiet_seconds * 1e9 * 0.01:
                return
        raise Failure("the server does not come to rest")


class Server(Program):
    """A server on a contender's loop, or the floor's; `what` names it and its arguments."""

    def __init__(
        self, loop: str, what: str, core: int | None = None, python: str = sys.executable
    ) -> None:
        if loop != loops.FLOOR:
            command = [python, str(HERE / "serve.py"), loop, *what.split()]
        elif what.startswith("tls_"):
            command = [native.program("tls_floor"), what, native.certificate()]
        else:
            command = [native.program("floor"), what]
        super().__init__(command, core)


class Crowd:
    """Connections that are open and silent for as long as `with` lasts."""

    def __init__(
        self, server: Program, count: int, core: int | None = None, program: str = "crowd"
    ) -> None:
        self._server, self._count, self._core, self._program = server, count, core, program

    def __enter__(self) -> "Crowd":
        wanted = self._server.descriptors() + self._count
        self._process = subprocess.Popen(
            [native.program(self._program), "idle", str(self._server.port), str(self._count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=prepare(self._core),
        )
        try:
            self._wait_until_accepted(wanted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_accepted(self, wanted: int) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], 60)
        if not readable or stdout.readline() != "ready\n":
            raise Failure(f"could not open {self._count} connections")
        deadline = time.monotonic() + 30
        while self._server.descriptors() < wanted:  # connect() ends before accept() begins
            if time.monotonic() > deadline:
                raise Failure(f"the server did not accept {self._count} connections")
            time.sleep(0.05)
        self._server.settle()

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its standard input, which ends it
