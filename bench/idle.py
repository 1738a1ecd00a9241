"""Watches a server with nothing to do: 100 connections are open and silent for 2 s.

A loop that waits properly is never scheduled: no CPU time, no context switch, in any thread.
Exit status 1 if there was any.
"""

import argparse
import sys
import time

import loops
from processes import Crowd, Failure, Server


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loop", default="zloop", choices=[loops.FLOOR, *loops.LOOPS])
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()

    try:
        with Server(arguments.loop, "echo") as server, Crowd(server, arguments.connections):
            cpu_ns, switches = server.cpu_ns(), server.context_switches()
            time.sleep(arguments.seconds)
            cpu_ns, switches = server.cpu_ns() - cpu_ns, server.context_switches() - switches
    except Failure as failure:
        print(f"{arguments.loop}: failed: {failure}")
        return 1
    print(
        f"{arguments.loop}: {arguments.connections} idle connections for {arguments.seconds:g} s:"
        f" {cpu_ns / 1000:.0f} us of CPU, {switches} context switches"
    )
    rests = cpu_ns == 0 and switches == 0
    print(f"bar: none of either: {'holds' if rests else 'falls short'}")
    return 0 if rests else 1


if __name__ == "__main__":
    sys.exit(main())
