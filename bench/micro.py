"""What a loop costs without a socket: `python bench/micro.py uvloop call_soon`.

One loop and one mode a process, so that no measurement inherits the heap of another. Every mode
works in batches until the time is over and prints JSON: nanoseconds for one operation, from asking
for it to its end.

    call_soon              schedule a Python function that does nothing, and run it
    call_later_cancel      start a timeout of a minute, then cancel it: what most timeouts come to
    call_soon_threadsafe   as call_soon, from the loop's own thread: no fight for the GIL in it
    future_wake            a task waits for a future that the next callback resolves
    sleep0                 await asyncio.sleep(0)
    spawn                  start a program, read what it prints, wait for its end; one after another
"""

import argparse
import asyncio
import json
import subprocess
from collections.abc import Callable
from time import perf_counter_ns

import loops

BATCH = 1000
WARMUP_SECONDS = 0.1


def nothing() -> None:
    pass


class Stopwatch:
    """Counts the batches that end between the warm-up and the deadline."""

    def __init__(self, seconds: float) -> None:
        self.batch = BATCH
        self.began_ns = 0
        self.batches = 0
        self.ns_per_op = 0.0
        self._warm_ns = perf_counter_ns() + int(WARMUP_SECONDS * 1e9)
        self._deadline_ns = self._warm_ns + int(seconds * 1e9)

    def goes_on(self) -> bool:
        """Say, at the end of each batch, whether another should follow."""
        now = perf_counter_ns()
        if self.began_ns:
            self.batches += 1
        elif now >= self._warm_ns:
            self.began_ns = now
        if now < self._deadline_ns or not self.batches:
            return True
        self.ns_per_op = (now - self.began_ns) / (self.batches * self.batch)
        return False


def turn_by_turn(
    loop: asyncio.AbstractEventLoop, watch: Stopwatch, batch: Callable[[], None]
) -> None:
    """Call `batch` once a turn; what it schedules has run when it is called again."""

    def turn() -> None:
        if watch.goes_on():
            batch()
            loop.call_soon(turn)
        else:
            loop.stop()

    loop.call_soon(turn)
    loop.run_forever()


def call_soon(loop: asyncio.AbstractEventLoop, watch: Stopwatch) -> None:
    def batch() -> None:
        for _ in range(BATCH):
            loop.call_soon(nothing)

    turn_by_turn(loop, watch, batch)


def call_soon_threadsafe(loop: asyncio.AbstractEventLoop, watch: Stopwatch) -> None:
    def batch() -> None:
        for _ in range(BATCH):
            loop.call_soon_threadsafe(nothing)

    turn_by_turn(loop, watch, batch)


def call_later_cancel(loop: asyncio.AbstractEventLoop, watch: Stopwatch) -> None:
    def batch() -> None:
        # All are pending at once, as with a timeout for each connection: the heap is no empty one.
        for timer in [loop.call_later(60, nothing) for _ in range(BATCH)]:
            timer.cancel()

    turn_by_turn(loop, watch, batch)


def future_wake(loop: asyncio.AbstractEventLoop, watch: Stopwatch) -> None:
    async def main() -> None:
        while watch.goes_on():
            for _ in range(BATCH):
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future

    loop.run_until_complete(main())


def sleep0(loop: asyncio.AbstractEventLoop, watch: Stopwatch) -> None:
    async def main() -> None:
        while watch.goes_on():
            for _ in range(BATCH):
                await asyncio.sleep(0)

    loop.run_until_complete(main())


def spawn(loop: asyncio.AbstractEventLoop, watch: Stopwatch) -> None:
    watch.batch = 10

    async def child() -> None:
        started = await asyncio.create_subprocess_exec("/bin/echo", stdout=subprocess.PIPE)
        written, _ = await started.communicate()
        if (written, started.returncode) != (b"\n", 0):
            raise RuntimeError(f"a child printed {written!r} and ended with {started.returncode}")

    async def main() -> None:
        while watch.goes_on():
            for _ in range(watch.batch):
                await child()

    loop.run_until_complete(main())


MODES = {
    mode.__name__: mode
    for mode in (call_soon, call_later_cancel, call_soon_threadsafe, future_wake, sleep0, spawn)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("loop", choices=loops.LOOPS)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()

    loop = loops.factory(arguments.loop)()
    watch = Stopwatch(arguments.seconds)
    MODES[arguments.mode](loop, watch)
    loop.close()
    print(json.dumps({"ns_per_op": watch.ns_per_op, "operations": watch.batches * watch.batch}))


if __name__ == "__main__":
    main()
