"""Wears a server out: 200,000 connections come and go, and must leave nothing behind.

The first 20,000 fill every cache and pool. From then on neither the resident set may grow by more
than 2 MiB nor may a single descriptor stay open. Exit status 1 if something leaks.
"""

import argparse
import sys

import loops
import native
from processes import Failure, Server, output_of

ALLOWED_BYTES = 2 * 1024 * 1024
TIMEOUT_SECONDS = 600


def churn(server: Server, count: int) -> tuple[int, int]:
    """Let `count` connections come and go; return (resident bytes, descriptors) afterwards."""
    command = [native.program("crowd"), "churn", str(server.port), str(count)]
    output_of(command, None, TIMEOUT_SECONDS)
    server.settle()
    return server.resident_bytes(), server.descriptors()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loop", default="zloop", choices=[loops.FLOOR, *loops.LOOPS])
    parser.add_argument("--mode", default="echo", choices=["echo", "streams"])
    parser.add_argument("--connections", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=20_000, help="those that only warm it up")
    arguments = parser.parse_args()

    try:
        with Server(arguments.loop, arguments.mode) as server:
            bytes_before, open_before = churn(server, arguments.first)
            bytes_after, open_after = churn(server, arguments.connections - arguments.first)
    except Failure as failure:
        print(f"{arguments.loop}: failed: {failure}")
        return 1
    grown, stayed = bytes_after - bytes_before, open_after - open_before
    print(
        f"{arguments.loop}: after {arguments.first:,} connections"
        f" {bytes_before / 1024:,.0f} KiB resident and {open_before} descriptors;"
        f" after {arguments.connections:,} {grown / 1024:+,.0f} KiB and {stayed:+d} descriptors"
    )
    leaks = grown > ALLOWED_BYTES or stayed > 0
    print(f"bar: at most +{ALLOWED_BYTES // 1024:,} KiB, +0: {'falls short' if leaks else 'holds'}")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
