"""Measures the C++ library: beside asio, and beside the raw C epoll server, in interleaved runs.

    python bench/cxx.py scheduling   what awaiting, spawning, timers and channels cost
    python bench/cxx.py timeouts     with_timeout around operations, and a runtime of two loops
    python bench/cxx.py echo         TCP echo of 1 KiB: the floor, zloop on each backend, asio
    python bench/cxx.py compile      what the umbrella header costs a compile
    python bench/cxx.py memory       bytes of a sleeping task and of an idle connection

Without a name, all of them. asio is Debian's libasio-dev, without Boost.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import contestants
import native
from memory import bytes_per_connection
from processes import Failure, Program, output_of, two_cores

FLOOR = "C, epoll"
EPOLL, URING, ASIO = "zloop, epoll", "zloop, io_uring", "asio"


@dataclass(frozen=True)
class EchoBar:
    connections: int
    contender: str
    reference: str
    at_least: float


ECHO_BARS = [
    EchoBar(64, EPOLL, FLOOR, 0.98),
    EchoBar(64, EPOLL, ASIO, 1.05),
    EchoBar(1000, EPOLL, FLOOR, 0.98),
    EchoBar(1000, EPOLL, ASIO, 1.05),
    EchoBar(64, URING, FLOOR, 0.98),
    EchoBar(256, URING, FLOOR, 1.08),
]


def scheduling(rounds: int) -> None:
    program = native.cxx_program("scheduling", "scheduling_asio", "scheduling_zloop")
    subprocess.run([program, str(rounds)], check=True)


def timeouts(rounds: int) -> None:
    subprocess.run([native.cxx_program("timeouts"), str(rounds)], check=True)


def has_uring(program: str) -> bool:
    """Whether a loop that is asked for io_uring gets it."""
    shown = subprocess.run(
        [program, "--backend"],
        env={**os.environ, "ZLOOP_BACKEND": "io_uring"},
        capture_output=True,
        text=True,
    )
    return shown.stdout.strip() == "io_uring"


def echo(rounds: int, seconds: float) -> None:
    zloop = native.cxx_program("echo_zloop")
    cores = two_cores()
    servers: dict[str, Callable[[], Program]] = {
        FLOOR: lambda: Program([native.program("floor")], cores[0]),
        EPOLL: lambda: Program([zloop], cores[0], ZLOOP_BACKEND="epoll"),
    }
    if has_uring(zloop):
        servers[URING] = lambda: Program([zloop], cores[0], ZLOOP_BACKEND="io_uring")
    else:
        print(f"{URING} is absent: the kernel does not allow it")
    if native.has_asio():
        asio = native.cxx_program("echo_asio")
        servers[ASIO] = lambda: Program([asio], cores[0])
    else:
        print("asio is absent: no asio.hpp (libasio-dev)")
    load = native.program("load")

    def rate(name: str, connections: int) -> float:
        with servers[name]() as server:
            command = [
                load,
                "echo",
                "--size=1024",
                f"--connections={connections}",
                str(server.port),
            ]
            command += [f"--seconds={seconds}", f"--warmup={contestants.WARMUP_SECONDS}"]
            shown = json.loads(output_of(command, cores[1], seconds + contestants.PATIENCE_SECONDS))
        if shown["errors"] or not shown["messages"]:
            raise Failure(f"{name}: {shown['errors']} errors, {shown['messages']} messages")
        return float(shown["messages_per_second"])

    for connections in (64, 256, 1000):
        rates: dict[str, list[float]] = {name: [] for name in servers}
        names = list(servers)
        for round in range(rounds):
            turn = round % len(names)
            for name in names[turn:] + names[:turn]:
                rates[name].append(rate(name, connections))

        def ratio(one: str, other: str, rates: dict[str, list[float]] = rates) -> float:
            pairs = zip(rates[one], rates[other], strict=True)
            return statistics.median(ours / theirs for ours, theirs in pairs)

        print(f"\necho of 1 KiB, {connections} connections: messages a second, x the floor")
        for name in names:
            middle = statistics.median(rates[name])
            print(f"  {name:16} {middle:10,.0f}  {ratio(name, FLOOR):5.2f}")
        for bar in ECHO_BARS:
            if bar.connections == connections and {bar.contender, bar.reference} <= rates.keys():
                measured = ratio(bar.contender, bar.reference)
                verdict = "holds" if measured >= bar.at_least else "FALLS SHORT"
                print(
                    f"  {bar.contender}: >= {bar.at_least:.2f} x {bar.reference}:"
                    f" measured {measured:.2f}, {verdict}"
                )


def standard_headers() -> str:
    """Return the standard and system headers that the umbrella includes, by itself or through others."""
    shown = subprocess.run(
        [*native.cxx(), "-std=c++20", f"-I{native.INCLUDE}", "-E", "-x", "c++", "-"],
        input="#include <zloop/zloop.hpp>",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    own = {
        line.split('"')[1]
        for line in shown.splitlines()
        if line.startswith("# ") and "zloop/" in line
    }
    wanted: dict[str, None] = {}
    for path in own:
        if os.path.exists(path):
            with open(path) as header:
                for line in header:
                    if line.startswith("#include <") and "<zloop/" not in line:
                        wanted[line.split(">")[0] + ">"] = None
    return "\n".join(f"#if __has_include({line[9:]})\n{line}\n#endif" for line in wanted)


def compile_time(rounds: int) -> None:
    sources = {"std headers": standard_headers(), "zloop.hpp": "#include <zloop/zloop.hpp>"}
    if native.has_asio():
        sources["asio.hpp"] = "#include <asio.hpp>"
    times: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(rounds):
        for name, text in sources.items():
            begin = time.monotonic()
            subprocess.run(
                [*native.cxx(), *native.CXX_FLAGS, "-x", "c++", "-", "-c", "-o", os.devnull],
                input=text,
                text=True,
                check=True,
            )
            times[name].append(time.monotonic() - begin)
    print("seconds to compile a file that only includes it, the least of", rounds)
    for name, each in times.items():
        print(f"  {name:12} {min(each):5.2f}")
    cost = min(times["zloop.hpp"]) - min(times["std headers"])
    verdict = "holds" if cost <= 1.0 else "FALLS SHORT"
    print(f"  the umbrella over its std headers: <= 1.0 s: measured {cost:.2f}, {verdict}")


def memory(rounds: int) -> None:
    subprocess.run([native.cxx_program("sleepers"), "100000"], check=True)
    program = native.cxx_program("echo_zloop")
    backends = ["epoll", "io_uring"] if has_uring(program) else ["epoll"]
    for backend in backends:
        weighed = [
            bytes_per_connection(Program([program], ZLOOP_BACKEND=backend), 10_000)
            for _ in range(rounds)
        ]
        print(f"an idle connection, {backend}: {statistics.median(weighed):.0f} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["scheduling", "timeouts", "echo", "compile", "memory"]
    parser.add_argument("names", nargs="*", choices=[*names, []])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each echo measurement")
    arguments = parser.parse_args()
    chosen = arguments.names or names
    if "scheduling" in chosen:
        if native.has_asio():
            scheduling(arguments.rounds)
        else:
            print("scheduling needs asio.hpp (libasio-dev)")
    if "timeouts" in chosen:
        timeouts(arguments.rounds)
    if "echo" in chosen:
        echo(arguments.rounds, arguments.seconds)
    if "compile" in chosen:
        compile_time(arguments.rounds)
    if "memory" in chosen:
        memory(min(arguments.rounds, 3))


if __name__ == "__main__":
    sys.exit(main())
