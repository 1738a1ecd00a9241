"""Loops that are turned by somebody else: nest_asyncio from inside of a callback, GUI toolkits turn by turn."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap

import pytest
from helpers import FACTORIES, PATIENCE

# Both packages patch asyncio and a loop's class, for good: a process for each.
NESTS = """
    import asyncio, importlib, socket, sys

    loops, package, when = sys.argv[1:]
    nest = importlib.import_module(package)
    new_event_loop = importlib.import_module(loops).new_event_loop
    errors = []

    async def wait(value):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.001, future.set_result, value)
        return await future + await loop.run_in_executor(None, int)

    async def talk():
        async def echo(reader, writer):
            writer.write(await reader.read(5))
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    async def pass_on():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            other.setblocking(False)
            receiving = asyncio.ensure_future(loop.sock_recv(one, 10))
            await asyncio.sleep(0)
            await loop.sock_sendall(other, b"x")
            return await receiving

    class Nests(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            loop = asyncio.get_running_loop()
            self.transport.write(b"x" * 3_000_000)
            assert loop.run_until_complete(wait(1)) == 1
            assert loop.run_until_complete(talk()) == b"hello"
            self.transport.close()

    async def serve():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Nests, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"?")
            count = len(await reader.read())
            writer.close()
            return count

    async def main():
        loop = asyncio.get_running_loop()
        if when == "inside":
            nest.apply(loop)
        task = asyncio.current_task()
        assert loop.run_until_complete(wait(1)) == 1
        assert asyncio.current_task() is task

        async def deeper():
            return loop.run_until_complete(wait(2)) + await wait(3)

        assert loop.run_until_complete(deeper()) == 5
        assert loop.run_until_complete(talk()) == b"hello"
        assert loop.run_until_complete(pass_on()) == b"x"
        several = asyncio.gather(wait(4), asyncio.create_task(deeper()), talk())
        assert await several == [4, 5, b"hello"]
        assert await serve() == 3_000_000
        try:
            loop.run_until_complete(fail())
        except ZeroDivisionError:
            return "done"

    async def fail():
        await asyncio.sleep(0)
        1 / 0

    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _, context: errors.append(context))
    if when == "before":
        nest.apply(loop)
    assert loop.run_until_complete(main()) == "done"
    loop.close()

    later = new_event_loop()
    assert later.run_until_complete(wait(5)) == 5
    assert later.run_until_complete(talk()) == b"hello"
    later.call_soon(later.stop)
    later.run_forever()
    later.close()
    assert not errors, errors
    print("ok")
"""


@pytest.mark.parametrize("when", ["before", "inside"])
@pytest.mark.parametrize("package", ["nest_asyncio", "nest_asyncio2"])
@pytest.mark.parametrize("loops", ["asyncio", "zloop"])
def test_a_loop_runs_inside_of_its_own_callbacks_under_nest_asyncio(loops, package, when):
    pytest.importorskip(package)
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(NESTS), loops, package, when],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ran.stdout, ran.stderr) == ("ok\n", "")


def test_a_callback_waits_in_ready_until_its_turn(loop):
    seen = []
    first, second = loop.call_soon(seen.append, 1), loop.call_soon(seen.append, 2)
    assert list(loop._ready)[-2:] == [first, second] and second in loop._ready

    waiting = len(loop._ready)
    taken = [loop._ready.popleft() for _ in range(waiting)]
    assert not loop._ready and len(loop._ready) == 0
    with pytest.raises(IndexError):
        loop._ready.popleft()
    loop._ready.append(taken[-1])
    loop._ready.extendleft([taken[-2]])
    loop.call_soon(loop.stop)
    loop.run_forever()

    assert seen == [1, 2]


def test_a_selector_tells_of_what_happens_within_its_timeout(loop):
    one, other = socket.socketpair()
    seen = []
    with one, other:
        loop.add_reader(one, seen.append, "readable")
        loop.call_later(0.001, seen.append, "due")
        other.send(b"x")
        begin = loop.time()
        while "readable" not in seen or "due" not in seen:
            if not loop._scheduled:  # ours has its own timers, and knows of their time
                loop._process_events(loop._selector.select(PATIENCE))
            else:
                loop._process_events(loop._selector.select(0))
            while loop._scheduled and loop._scheduled[0].when() <= loop.time():
                loop._ready.append(loop._scheduled.pop(0))
            for _ in range(len(loop._ready)):
                loop._ready.popleft()._run()
        assert loop.time() - begin < PATIENCE
        loop.remove_reader(one)


def test_what_is_cleared_from_ready_does_not_run(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop._ready.clear()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == []


class Hosted:
    """A GUI toolkit's loop: its own events come between the turns."""

    events = 0

    def process_events(self):
        self.events += 1
        self.call_later(0.001, int)  # a turn is to wait no longer


@pytest.mark.parametrize("loops", FACTORIES)
def test_a_host_turns_the_loop_by_run_once_until_stop(loops):
    probe = FACTORIES[loops]()
    probe.close()
    if not hasattr(probe, "_run_forever_setup"):
        pytest.skip("this asyncio has no such pieces")

    class Loop(Hosted, type(probe)):
        def run_forever(self):
            self._run_forever_setup()
            try:
                while True:
                    self._run_once()
                    self.process_events()
                    if self._stopping:
                        break
            finally:
                self._run_forever_cleanup()

    loop = Loop()
    assert loop.run_until_complete(asyncio.sleep(0.02, "slept")) == "slept"
    assert loop.events >= 5
    loop.close()


@pytest.mark.parametrize("loops", FACTORIES)
def test_run_forever_calls_a_run_once_of_ones_own_each_turn(loops):
    probe = FACTORIES[loops]()
    probe.close()

    class Loop(Hosted, type(probe)):
        def _run_once(self):
            self.process_events()
            super()._run_once()

    loop = Loop()
    assert loop.run_until_complete(asyncio.sleep(0.02, "slept")) == "slept"
    assert loop.events >= 5
    loop.close()


def test_run_once_is_one_turn(loop):
    seen = []
    loop.call_soon(seen.append, "this turn")
    loop.call_soon(loop.call_soon, seen.append, "next turn")
    loop._run_once()
    assert seen == ["this turn"]
    loop._run_once()
    assert seen == ["this turn", "next turn"]
