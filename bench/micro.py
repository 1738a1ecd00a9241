"""What a loop costs without a descriptor: rows of `bench/work.py`.

Every row works in batches until the time is over. An operation goes from asking for it to its end.

    call_soon              schedule a Python function that does nothing, and run it
    call_soon_2            the same with two arguments
    call_soon_chain        each callback schedules the next: a turn for one callback
    call_later_cancel      start a timeout of a minute, then cancel it: what most timeouts come to
    timers_fire            timers that are due within a millisecond, in no order, and run
    timer_lateness         how long after its time a timer's callback runs, in a loop at rest
    call_soon_threadsafe   as call_soon, from the loop's own thread: no fight for the GIL in it
    threadsafe_flood       another thread schedules as fast as it can
    threadsafe_pingpong    another thread schedules one callback, and waits until it has run
    future_wake            a task waits for a future that the next callback resolves
    sleep0                 await asyncio.sleep(0)
    gather                 create_task of a coroutine that ends at once, a hundred in a gather
    run_in_executor        a function that does nothing, in the default executor
    loop_start_close       a new loop that runs one callback, and its close
"""

import asyncio
import threading
from collections.abc import Callable
from time import monotonic

from stopwatch import BATCH, Stopwatch

Loop = asyncio.AbstractEventLoop


def nothing() -> None:
    pass


def nothing_of_two(_: object, __: object) -> None:
    pass


async def nothing_awaited() -> None:
    pass


def turn_by_turn(loop: Loop, watch: Stopwatch, batch: Callable[[], None]) -> None:
    """Call `batch` once a turn; what it schedules has run when it is called again."""

    def turn() -> None:
        if watch.goes_on():
            batch()
            loop.call_soon(turn)
        else:
            loop.stop()

    loop.call_soon(turn)
    loop.run_forever()


def call_soon(loop: Loop, watch: Stopwatch) -> None:
    def batch() -> None:
        for _ in range(BATCH):
            loop.call_soon(nothing)

    turn_by_turn(loop, watch, batch)


def call_soon_2(loop: Loop, watch: Stopwatch) -> None:
    def batch() -> None:
        for _ in range(BATCH):
            loop.call_soon(nothing_of_two, loop, watch)

    turn_by_turn(loop, watch, batch)


def call_soon_chain(loop: Loop, watch: Stopwatch) -> None:
    left = 0

    def link() -> None:
        nonlocal left
        if left:
            left -= 1
            loop.call_soon(link)
        elif watch.goes_on():
            left = BATCH - 1
            loop.call_soon(link)
        else:
            loop.stop()

    loop.call_soon(link)
    loop.run_forever()


def call_soon_threadsafe(loop: Loop, watch: Stopwatch) -> None:
    def batch() -> None:
        for _ in range(BATCH):
            loop.call_soon_threadsafe(nothing)

    turn_by_turn(loop, watch, batch)


def call_later_cancel(loop: Loop, watch: Stopwatch) -> None:
    def batch() -> None:
        # All are pending at once, as with a timeout for each connection: the heap is no empty one.
        for timer in [loop.call_later(60, nothing) for _ in range(BATCH)]:
            timer.cancel()

    turn_by_turn(loop, watch, batch)


def timers_fire(loop: Loop, watch: Stopwatch) -> None:
    # More than are due in the time that it takes to start them. The wait for the last is in the
    # wall clock, so CPU time is what tells loops apart.
    watch.batch = 4 * BATCH
    delays = [(i * 7919 % watch.batch) / watch.batch / 1000 for i in range(watch.batch)]
    left = 0

    def fired() -> None:
        nonlocal left
        left -= 1
        if not left:
            start()

    def start() -> None:
        nonlocal left
        if not watch.goes_on():
            return loop.stop()
        left = len(delays)
        for delay in delays:
            loop.call_later(delay, fired)

    loop.call_soon(start)
    loop.run_forever()


def timer_lateness(loop: Loop, watch: Stopwatch) -> None:
    watch.batch = 1
    count = 0

    def fired(due: float) -> None:
        watch.lateness_us.append((monotonic() - due) * 1e6)
        if watch.goes_on():
            start()
        else:
            loop.stop()

    def start() -> None:
        nonlocal count
        count += 1
        delay = (1 + count * 7919 % 1000 / 250) / 1000  # 1 to 5 ms, in no order
        loop.call_later(delay, fired, monotonic() + delay)

    loop.call_soon(start)
    loop.run_forever()


def threadsafe_flood(loop: Loop, watch: Stopwatch) -> None:
    room = threading.Semaphore(0)  # taken a batch at a time: the queue stays short
    over = False

    def flood() -> None:
        while room.acquire() and not over:
            for _ in range(BATCH):
                loop.call_soon_threadsafe(nothing)
            loop.call_soon_threadsafe(batch_ended)

    def batch_ended() -> None:
        nonlocal over
        if over:  # this one was under way at the end
            return
        if not watch.goes_on():
            over = True
            loop.stop()
        room.release()

    with_thread(loop, flood, lambda: room.release(2))


def threadsafe_pingpong(loop: Loop, watch: Stopwatch) -> None:
    watch.batch = 100
    answered = threading.Semaphore(0)
    over = False

    def ask() -> None:
        while not over:
            for _ in range(watch.batch - 1):
                loop.call_soon_threadsafe(answered.release)
                answered.acquire()
            loop.call_soon_threadsafe(batch_ended)
            answered.acquire()

    def batch_ended() -> None:
        nonlocal over
        if not watch.goes_on():
            over = True
            loop.stop()
        answered.release()

    with_thread(loop, ask, nothing)


def with_thread(loop: Loop, work: Callable[[], None], begin: Callable[[], None]) -> None:
    """Run the loop beside a thread that works until it is told to end, and then ends."""
    thread = threading.Thread(target=work)
    loop.call_soon(begin)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.run_until_complete(asyncio.sleep(0.001))  # what it had asked for is not left to the next


def future_wake(loop: Loop, watch: Stopwatch) -> None:
    async def main() -> None:
        while watch.goes_on():
            for _ in range(BATCH):
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future

    loop.run_until_complete(main())


def sleep0(loop: Loop, watch: Stopwatch) -> None:
    async def main() -> None:
        while watch.goes_on():
            for _ in range(BATCH):
                await asyncio.sleep(0)

    loop.run_until_complete(main())


def gather(loop: Loop, watch: Stopwatch) -> None:
    watch.batch = 100

    async def main() -> None:
        while watch.goes_on():
            tasks = [asyncio.create_task(nothing_awaited()) for _ in range(watch.batch)]
            await asyncio.gather(*tasks)

    loop.run_until_complete(main())


def run_in_executor(loop: Loop, watch: Stopwatch) -> None:
    watch.batch = 100

    async def main() -> None:
        while watch.goes_on():
            for _ in range(watch.batch):
                await loop.run_in_executor(None, nothing)

    loop.run_until_complete(main())


def loop_start_close(make: Callable[[], Loop], watch: Stopwatch) -> None:
    watch.batch = 10
    while watch.goes_on():
        for _ in range(watch.batch):
            loop = make()
            loop.run_until_complete(nothing_awaited())
            loop.close()


ROWS = {
    row.__name__: row
    for row in (
        call_soon,
        call_soon_2,
        call_soon_chain,
        call_later_cancel,
        timers_fire,
        timer_lateness,
        call_soon_threadsafe,
        threadsafe_flood,
        threadsafe_pingpong,
        future_wake,
        sleep0,
        gather,
        run_in_executor,
    )
}
LOOPLESS = {"loop_start_close": loop_start_close}  # they make their loops themselves
