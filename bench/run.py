"""Measures every event loop and the raw epoll floor in one interleaved run.

For each mode there are some rounds, and in each round every contender has one turn, in processes
of its own. The order rotates by one from round to round, so nobody is always first, or always
behind the same neighbour's heat. Losses are printed like wins, and who is absent is printed with
the reason.
"""

import argparse
import datetime
import fnmatch
import json
import os
import platform
import ssl
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import loops
import modes
import native
import report
from processes import two_cores

# zloop stands between the two that its bars refer to: in a rotation they stay its neighbours.
CONTENDERS = [*loops.LOOPS, loops.FLOOR]
QUICK_MODES = "echo-1KiB-1,echo-1KiB-64,streams-1KiB-64,tls-*,uvicorn-*,call_soon,call_later_cancel"
START_SECONDS = 0.5  # what a process costs beside its measurement, to tell how long a run takes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="modes: " + ", ".join(mode.name for mode in modes.MODES),
    )
    parser.add_argument("--modes", help="names or patterns, with commas: 'echo-*-64,call_*'")
    parser.add_argument("--contenders", help="names, with commas: " + ",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--seconds", type=float, help="of each measurement; default: 2")
    parser.add_argument("--quick", action="store_true", help="few modes, 2 rounds of half a second")
    parser.add_argument(
        "--json", metavar="PATH", help="write every sample, the machine and the versions"
    )
    parser.add_argument("--png", metavar="PATH", help="draw a chart (needs matplotlib)")
    arguments = parser.parse_args()

    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    arguments.seconds = arguments.seconds or (0.5 if arguments.quick else 2.0)
    if arguments.rounds < 1 or not 0.05 <= arguments.seconds <= 600:
        parser.error("there must be a round, of 0.05 to 600 seconds")
    patterns = (arguments.modes or (QUICK_MODES if arguments.quick else "*")).split(",")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(mode.name, pattern) for mode in modes.MODES):
            parser.error(f"no mode is called {pattern!r}")
    arguments.modes = [
        mode
        for mode in modes.MODES
        if any(fnmatch.fnmatchcase(mode.name, pattern) for pattern in patterns)
    ]
    chosen = arguments.contenders.split(",") if arguments.contenders else CONTENDERS
    if unknown := set(chosen) - set(CONTENDERS):
        parser.error(f"no contender is called {', '.join(sorted(unknown))}")
    arguments.contenders = [c for c in CONTENDERS if c in chosen]
    return arguments


def machine(cores: tuple[int, int]) -> dict[str, str | int | float]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {kernel()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 1,
        "openssl": " ".join(ssl.OPENSSL_VERSION.split()[:2]),
        "commit": commit(),
        "server_core": cores[0],
        "client_core": cores[1],
        "load_before": os.getloadavg()[0],
    }


def kernel() -> str:
    """Its version, without what a distribution or a host has added."""
    return platform.release().partition("-")[0]


def commit() -> str:
    """Of this checkout, with a + where something was changed in it since; "" outside of one."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    said = subprocess.run(asked, cwd=native.HERE, capture_output=True, text=True)
    return said.stdout.strip()


def find_present(contenders: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of those that work here, and the reasons of those that do not."""
    present, absent = {}, {}
    for name in contenders:
        version, reason = ("C", "") if name == loops.FLOOR else loops.probe(name)
        if version is None:
            absent[name] = reason
        else:
            present[name] = version
    return present, absent


def run_mode(
    mode: modes.Mode,
    contenders: list[str],
    rounds: int,
    seconds: float,
    cores: tuple[int, int],
) -> list[modes.Sample]:
    able = [c for c in contenders if mode.has(c)]
    samples = []
    for round in range(rounds):
        turn = round % len(able) if able else 0
        for contender in able[turn:] + able[:turn]:
            if sys.stderr.isatty():
                print(
                    f"\r\033[K{mode.name} {round + 1}/{rounds} {contender}", end="", file=sys.stderr
                )
            samples.append(modes.measure(mode, round + 1, contender, seconds, cores))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return samples


def main() -> None:
    arguments = parse()
    cores = two_cores()
    for name in ("floor", "load"):
        native.program(name)
    about = machine(cores)
    present, absent = find_present(arguments.contenders)

    print(f"{about['python']}, {about['system']}, {about['processor']}, {about['cores']} cores")
    print(f"server on core {cores[0]}, client on core {cores[1]}")
    if float(about["load_before"]) > report.QUIET_LOAD:
        print(f"the machine is busy (load {about['load_before']:.1f}): the figures will be noisy")
    print(", ".join(f"{name} {version}" for name, version in present.items()))
    for name, reason in absent.items():
        print(f"{name} is absent: {reason}")
    turns = arguments.rounds * sum(mode.has(c) for mode in arguments.modes for c in present)
    minutes = turns * (arguments.seconds + modes.WARMUP_SECONDS + START_SECONDS) / 60
    print(
        f"{len(arguments.modes)} modes, {arguments.rounds} rounds of {arguments.seconds:g} s,"
        f" about {minutes:.0f} min\n",
        flush=True,
    )

    samples: list[modes.Sample] = []
    for mode in arguments.modes:
        samples += run_mode(mode, list(present), arguments.rounds, arguments.seconds, cores)
        print(report.table(samples, mode.name, list(present)), end="\n\n", flush=True)

    verdicts = report.bars(samples)
    print("bars of zloop")
    for verdict in verdicts:
        measured = verdict["measured"]
        figure = "" if measured is None else f"measured {measured:.2f}, "
        print(f"  {verdict['bar']}: {figure}{verdict['verdict']}")

    if arguments.json:
        result = {
            "machine": about,
            "versions": present,
            "absent": absent,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "bars": verdicts,
            "samples": [asdict(sample) for sample in samples],
        }
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    if arguments.png:
        try:
            import chart
            import matplotlib  # noqa: F401
        except ImportError as error:
            print(f"no chart: {error}")
            return
        title = f"{about['python']}, {about['system']}, {about['processor']}"
        names = [mode.name for mode in arguments.modes]
        chart.draw(samples, names, list(present), title, arguments.png)


if __name__ == "__main__":
    main()
