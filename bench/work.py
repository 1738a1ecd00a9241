"""A process that measures what its loop does: `python bench/work.py uvloop call_soon`.

It prints `ready`, and then answers each line `WARMUP SECONDS` with a line of JSON: the figures of
that long. So it is started once and measured in turn with others, and none inherits another's heap.

    python bench/work.py uvloop spawn <<< '0.1 1'
    python bench/work.py uvloop redis 16 --address=6379
"""

import argparse
import functools
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import clients
import descriptors
import loops
import micro
from stopwatch import Stopwatch

PLAIN: dict[str, Callable[..., None]] = {**micro.ROWS, **descriptors.ROWS}
ADDRESSED: dict[str, Callable[..., None]] = {**descriptors.ADDRESSED, **clients.ADDRESSED}
ROWS = [*PLAIN, *ADDRESSED, *micro.LOOPLESS]


def answer(measure: Callable[[Stopwatch], None]) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        warmup, seconds = map(float, line.split())
        watch = Stopwatch(warmup, seconds)
        try:
            measure(watch)
            said: dict[str, Any] = watch.figures()
        except Exception as error:  # a contender that breaks is part of the result
            said = {"failure": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("arguments", nargs="*", help="of that row")
    parser.add_argument("--address", help="of the service that the row asks")
    arguments = parser.parse_args()

    make = loops.factory(arguments.loop)
    if arguments.row in micro.LOOPLESS:
        return answer(functools.partial(micro.LOOPLESS[arguments.row], make))
    row = {**PLAIN, **ADDRESSED}[arguments.row]
    if arguments.row in clients.NEEDS:
        importlib.import_module(clients.NEEDS[arguments.row])
    loop = make()
    given = [arguments.address] if arguments.row in ADDRESSED else []
    answer(lambda watch: row(loop, watch, *given, *arguments.arguments))
    loop.close()


if __name__ == "__main__":
    main()
