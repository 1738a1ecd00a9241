"""Weighs an idle connection: resident bytes of the server for each of 10,000 accepted ones.

A connection is what a service keeps for one: socket, transport, and a protocol object that holds
its transport. First a small crowd is let in and stays, which pays for imports, first arenas and
pools; then the many come, and the growth of the resident set is divided among them. Kernel memory
is not in it: it is the same for every loop.
"""

import argparse
import statistics
import sys

import loops
from processes import Crowd, Failure, Server

WARM_UP_CONNECTIONS = 200
BAR_BYTES = 900


def bytes_per_connection(echo: Server, count: int) -> float:
    with echo as server, Crowd(server, WARM_UP_CONNECTIONS):
        before = server.resident_bytes()
        with Crowd(server, count):
            return (server.resident_bytes() - before) / count


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [loops.FLOOR, *loops.LOOPS]
    parser.add_argument("--loop", action="append", choices=names, help="default: all that work")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="processes a loop; the median counts")
    arguments = parser.parse_args()

    holds = True
    for name in arguments.loop or names:
        version, reason = ("C", "") if name == loops.FLOOR else loops.probe(name)
        if version is None:
            print(f"{name:8}  absent: {reason}")
            holds = holds and not arguments.loop
            continue
        try:
            weighed = [
                bytes_per_connection(Server(name, "echo"), arguments.connections)
                for _ in range(arguments.rounds)
            ]
        except Failure as failure:
            print(f"{name:8}  failed: {failure}")
            holds = holds and name != "zloop"
            continue
        median = statistics.median(weighed)
        verdict = ""
        if name == "zloop":
            holds = holds and median <= BAR_BYTES
            verdict = f"   bar: at most {BAR_BYTES}: {'holds' if holds else 'falls short'}"
        spread = f"({min(weighed):.0f} to {max(weighed):.0f})"
        print(f"{name:8} {median:6.0f} bytes a connection {spread}{verdict}", flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
