"""Loops of several interpreters, each with its own GIL, and of several threads, all at once."""

from __future__ import annotations

import asyncio
import socket
import sys
import textwrap
import threading

import pytest
from helpers import BACKEND, PATIENCE, check_program

own_gils = pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="before 3.12 all interpreters share a GIL, and asyncio its state",
)

PRELUDE = """
import faulthandler, mmap, os, socket, sys, threading, time
faulthandler.dump_traceback_later(25, exit=True)

if sys.version_info >= (3, 14):
    from concurrent import interpreters

    def run_in_another(code):
        made = interpreters.create()
        made.exec(code)
        made.close()
elif sys.version_info >= (3, 13):
    import _interpreters

    def run_in_another(code):
        made = _interpreters.create()
        failed = _interpreters.exec(made, code)
        assert failed is None, failed.errdisplay
        _interpreters.destroy(made)
else:
    import _xxsubinterpreters

    def run_in_another(code):
        made = _xxsubinterpreters.create()
        _xxsubinterpreters.run_string(made, code)
        _xxsubinterpreters.destroy(made)

def run_here(code):
    exec(code, {})

def all_at_once(*calls):
    '''Run each `(function, code)` in a thread of its own.'''
    done = []
    def run(function, code):
        function(code)
        done.append(code)
    threads = [threading.Thread(target=run, args=each) for each in calls]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(done) == len(calls)

def finish():
    print("done", flush=True)
    if sys.version_info < (3, 13):
        os._exit(0)  # asyncio alone crashes a process in which it ran in two interpreters, at its end

"""


def check(body: str) -> None:
    source = PRELUDE + textwrap.dedent(body) + "\nfinish()"
    assert check_program(source, PYTHONMALLOC="debug") == "done\n"


# What an interpreter does with one end of a pair of sockets, {0}, and itself. Neither gets anywhere alone.
TALK = """
    talk = '''if True:
        import asyncio, socket, sys, zloop

        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport
            def datagram_received(self, data, address):
                self.transport.sendto(data, address)

        async def echo(reader, writer):
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        async def main():
            loop = asyncio.get_running_loop()
            assert type(loop) is zloop.Loop
            ours, other = await asyncio.open_connection(sock=socket.socket(fileno={0}))
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            endpoint, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
            asked = socket.socket(type=socket.SOCK_DGRAM)
            asked.setblocking(False)
            asked.connect(endpoint.get_extra_info("sockname"))
            for number in range(100):
                line = b"%d\\\\n" % number
                writer.write(line)
                await loop.sock_sendall(asked, line)
                assert await reader.readline() == line
                assert await loop.sock_recv(asked, 100) == line
                other.write(line)
                assert await ours.readline() == line
                await asyncio.sleep(0)
            assert await loop.run_in_executor(None, sum, [1, 2]) == 3
            for each in writer, other, endpoint, asked, server:
                each.close()
            await server.wait_closed()
            await asyncio.sleep(0)

        zloop.run(main())
    '''
"""


@own_gils
def test_loops_of_two_interpreters_talk_to_each_other():
    check(
        TALK
        + """
    one, other = socket.socketpair()
    all_at_once((run_in_another, talk.format(one.detach())), (run_in_another, talk.format(other.detach())))
    """
    )


@own_gils
def test_the_main_interpreters_loops_run_beside_those_of_others():
    check(
        TALK
        + """
    calls = []
    for here in (run_here, run_in_another, run_here):
        one, other = socket.socketpair()
        calls += [(here, talk.format(one.detach())), (run_in_another, talk.format(other.detach()))]
    all_at_once(*calls)
    """
    )


@own_gils
def test_a_loop_turns_while_another_interpreter_holds_its_gil():
    check("""
    # All of the loop over the byte is one call, into C: no other thread of its interpreter runs meanwhile.
    hold = '''if True:
        import collections, functools, mmap, operator
        shared = mmap.mmap({0}, 1)
        shared[0] = 1
        collections.deque(iter(functools.partial(operator.getitem, shared, 0), 2), maxlen=0)
    '''
    turn = '''if True:
        import asyncio, mmap, socket, zloop

        async def main():
            shared = mmap.mmap({0}, 1)
            while shared[0] != 1:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            one, other = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=one)
            _, answers = await asyncio.open_connection(sock=other)
            for _ in range(100):
                answers.write(b"!")
                assert await reader.read(1) == b"!"
                await asyncio.sleep(0.0001)
            writer.close(), answers.close()
            shared[0] = 2

        zloop.run(main())
    '''
    memory = os.memfd_create("shared")
    os.ftruncate(memory, 1)
    all_at_once((run_in_another, hold.format(memory)), (run_in_another, turn.format(memory)))
    """)


@own_gils
@pytest.mark.parametrize("end", ["loop.close()", ""], ids=["closed", "open"])
def test_interpreters_end_whatever_their_loops_are_at_and_leave_no_descriptor(end):
    check(f"""
    life = '''if True:
        import asyncio, os, socket, warnings, zloop
        warnings.simplefilter("ignore", ResourceWarning)  # that they are open is the point

        class Protocol(asyncio.Protocol, asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Protocol, "127.0.0.1", 0)
            name = server.sockets[0].getsockname()
            stream, _ = await loop.create_connection(Protocol, *name)
            messages, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
            ends = [open(fd, mode) for fd, mode in zip(os.pipe(), ("rb", "wb"))]
            pipe, _ = await loop.connect_read_pipe(Protocol, ends[0])
            sock = socket.create_connection(name)
            sock.setblocking(False)
            stream.write(b"x" * 10_000_000)
            messages.sendto(b"x", messages.get_extra_info("sockname"))
            waiting = loop.create_task(loop.sock_recv(sock, 10))
            await asyncio.sleep(0.001)
            handles = [loop.call_soon_threadsafe(id, number) for number in range(100)]
            handles += [loop.call_later(1000, id, number) for number in range(100)]
            return server, stream, messages, pipe, ends, sock, waiting, handles

        loop = zloop.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # nor does anybody care for the task
        kept = loop.run_until_complete(main())
        {end}
    '''
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = None
    for _ in range(3):
        all_at_once(*[(run_in_another, life)] * 2)
        before = before or descriptors()
        assert descriptors() == before
    """)


@pytest.mark.skipif(
    BACKEND == "io_uring", reason="a loop that ran in a thread runs in no other, to end it, say"
)
def test_four_loops_in_four_threads(new_loop):
    """Each serves one of the others, posts to all, and is stopped by another."""
    loops = [new_loop() for _ in range(4)]
    names, posted, served = {}, [[] for _ in loops], []
    ready = threading.Barrier(len(loops))

    async def main(own):
        ended = asyncio.Queue()

        async def echo(reader, writer):
            while line := await reader.readline():
                writer.write(line)
            writer.close()
            await writer.wait_closed()
            ended.put_nowait(True)

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        names[own] = server.sockets[0].getsockname()
        await loops[own].run_in_executor(None, ready.wait, PATIENCE)
        reader, writer = await asyncio.open_connection(*names[(own + 1) % len(loops)])
        sock = socket.create_connection(names[(own + 2) % len(loops)])
        sock.setblocking(False)
        for number in range(300):
            line = b"%d\n" % number
            writer.write(line)
            await loops[own].sock_sendall(sock, line)
            assert await reader.readline() == line
            assert await loops[own].sock_recv(sock, 100) == line
            for other, numbers in enumerate(posted):
                loops[other].call_soon_threadsafe(numbers.append, (own, number))
            timer = loops[own].call_later(1000, print)
            await asyncio.sleep(0.0001)
            timer.cancel()
        await loops[own].run_in_executor(None, ready.wait, PATIENCE)  # all have posted all
        writer.close()
        sock.close()
        await writer.wait_closed()
        for _ in range(2):
            await asyncio.wait_for(ended.get(), PATIENCE)
        server.close()
        served.append(own)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=loop.run_until_complete, args=(main(own),))
            for own, loop in enumerate(loops)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(served) == [0, 1, 2, 3]
    for numbers in posted:
        for sender in range(len(loops)):
            assert [number for own, number in numbers if own == sender] == [*range(300)]


def test_loops_are_made_and_dropped_in_four_threads_at_once(new_loop):
    kind, done = type(new_loop()), []

    async def main():
        one, other = socket.socketpair()
        _reader, writer = await asyncio.open_connection(sock=one)
        with other:
            writer.write(b"x")
            await asyncio.sleep(0)
            assert other.recv(1) == b"x"
        writer.close()
        await writer.wait_closed()

    def run():
        for _ in range(25):
            loop = kind()
            loop.run_until_complete(main())
            loop.close()
        done.append(True)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(done) == 4
