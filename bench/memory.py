"""Weighs an idle connection: resident bytes of the server for each of 10,000 accepted ones.

A connection is what a service keeps for one: socket, transport, and a protocol object that holds
its transport. Over TLS, 1,000 of which each has had a message echoed, it is also what OpenSSL keeps. First
a small crowd is let in and stays, which pays for imports, first arenas and pools; then the many come,
and the growth of the resident set is divided among them. Kernel memory is not in it: it is the same
for every loop.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import loops
import samples
from processes import Crowd, Failure, Server


@dataclass(frozen=True)
class Kind:
    """What is weighed, and the bar for zloop: in bytes, or what `bar_is_of` weighs in the same run."""

    mode: str
    title: str
    program: str
    warm_up_connections: int
    connections: int
    bar_bytes: int | None = None
    bar_is_of: str = ""


KINDS = {
    "plain": Kind("echo", "TCP", "crowd", 200, 10_000, bar_bytes=900),
    "tls": Kind("tls_echo", "TLS", "tls_crowd", 50, 1_000, bar_is_of="asyncio"),
}


def bytes_per_connection(kind: Kind, name: str, count: int) -> float:
    with (
        Server(name, kind.mode) as server,
        Crowd(server, kind.warm_up_connections, program=kind.program),
    ):
        before = server.resident_bytes()
        with Crowd(server, count, program=kind.program):
            return (server.resident_bytes() - before) / count


def weigh(
    kind: Kind, names: list[str], count: int, rounds: int, asked: bool, weights: dict[str, float]
) -> bool:
    """Print what each loop needs. False: zloop, or one that was asked for, falls short or fails."""
    holds = True
    for name in names:
        version, reason = ("C", "") if name == loops.FLOOR else loops.probe(name)
        if version is None:
            print(f"{name:8}  absent: {reason}")
            holds = holds and not asked
            continue
        try:
            weighed = [bytes_per_connection(kind, name, count) for _ in range(rounds)]
        except Failure as failure:
            print(f"{name:8}  {kind.title} failed: {failure}")
            holds = holds and name != "zloop"
            continue
        weights[name] = statistics.median(weighed)
        verdict = ""
        if name == "zloop":
            bar = kind.bar_bytes or weights.get(kind.bar_is_of)
            if bar is None:
                verdict = f"   bar: at most {kind.bar_is_of}'s: not measured"
            else:
                within = weights[name] <= bar
                holds = holds and within
                verdict = f"   bar: at most {bar:,.0f}: {'holds' if within else 'falls short'}"
        spread = f"({min(weighed):,.0f} to {max(weighed):,.0f})"
        print(
            f"{name:8} {weights[name]:9,.0f} bytes a {kind.title} connection {spread}{verdict}",
            flush=True,
        )
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [loops.FLOOR, *loops.LOOPS]
    parser.add_argument("--loop", action="append", choices=names, help="default: all that work")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--connections", type=int, help="default: 10,000; over TLS 1,000")
    parser.add_argument("--rounds", type=int, default=3, help="processes a loop; the median counts")
    parser.add_argument("--json", type=Path, help="add the medians to what run.py wrote there")
    arguments = parser.parse_args()

    holds = True
    weights: dict[str, dict[str, float]] = {}
    for name in arguments.kind or KINDS:
        kind = KINDS[name]
        count = arguments.connections or kind.connections
        chosen = [each for each in names if each in (arguments.loop or names)]
        asked, weights[name] = bool(arguments.loop), {}
        holds = weigh(kind, chosen, count, arguments.rounds, asked, weights[name]) and holds
    if arguments.json:
        run = samples.read(arguments.json)
        run.memory = weights
        run.write(arguments.json)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
