"""Signals: Ctrl-C, add_signal_handler, and what is left as it was."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers import PATIENCE, environment

PRELUDE = """
import asyncio, os, signal, sys, threading, time
import zloop
new_loop = zloop.new_event_loop if sys.argv[1] == "zloop" else asyncio.SelectorEventLoop

def run(main):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)

"""


@pytest.fixture(params=["asyncio", "zloop"])
def interrupt(request):
    """Run a program, send it a signal once it prints "ready"; its status, output and errors."""

    def run(body: str, number: int = signal.SIGINT) -> tuple[int, str, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + body, request.param],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line == "ready\n", process.communicate()
            deadline = time.monotonic() + PATIENCE
            while True:  # until it has been seen: it may come right before the loop sleeps
                process.send_signal(number)
                try:
                    out, err = process.communicate(timeout=1.0)
                    return process.returncode, out, err
                except subprocess.TimeoutExpired:
                    assert time.monotonic() < deadline, "the signal did not wake it"
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    return run


def test_ctrl_c_raises_keyboard_interrupt_out_of_run(interrupt):
    status, out, err = interrupt("""
async def main():
    print("ready", flush=True)
    await asyncio.sleep(60)

try:
    run(main())
except KeyboardInterrupt:
    print("interrupted")
""")
    assert (status, out, err) == (0, "interrupted\n", "")


def test_ctrl_c_cancels_the_main_task_which_may_clean_up(interrupt):
    status, out, err = interrupt("""
async def main():
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        print("cleaned up")
        raise

try:
    run(main())
except KeyboardInterrupt:
    print("interrupted")
""")
    assert (status, out, err) == (0, "cleaned up\ninterrupted\n", "")


def test_ctrl_c_leaves_run_forever(interrupt):
    status, out, err = interrupt("""
loop = new_loop()
loop.call_soon(lambda: print("ready", flush=True))
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted")
print(loop.is_running(), loop.run_until_complete(asyncio.sleep(0, "usable")))
loop.close()
""")
    assert (status, out, err) == (0, "interrupted\nFalse usable\n", "")


def test_ctrl_c_interrupts_a_busy_loop(interrupt):
    status, out, err = interrupt("""
loop = new_loop()
def spin():
    loop.call_soon(spin)
loop.call_soon(spin)
loop.call_soon(lambda: print("ready", flush=True))
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted")
loop.close()
""")
    assert (status, out, err) == (0, "interrupted\n", "")


def test_ctrl_c_interrupts_a_loop_that_only_runs_c_functions(interrupt):
    status, out, err = interrupt("""
loop = new_loop()
loop.call_soon(lambda: print("ready", flush=True))
import functools
spin = functools.partial(print)
spin.__setstate__((loop.call_soon, (spin,), {}, {}))  # schedules itself; no bytecode is run
loop.call_soon(spin)
try:
    loop.run_forever()
except KeyboardInterrupt:
    print("interrupted")
loop.close()
""")
    assert (status, out, err) == (0, "interrupted\n", "")


def test_ctrl_c_without_anybody_to_catch_it(interrupt):
    status, _out, err = interrupt("""
async def main():
    print("ready", flush=True)
    await asyncio.sleep(60)
run(main())
""")
    assert status in (130, -signal.SIGINT)
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_with_connections_open(interrupt):
    status, out, err = interrupt("""
async def main():
    served = asyncio.Event()
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        served.set()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        await reader.readexactly(1)
        print("ready", flush=True)
        try:
            await asyncio.sleep(60)
        finally:
            writer.close()
            await writer.wait_closed()
            await served.wait()
try:
    run(main())
except KeyboardInterrupt:
    print("interrupted")
""")
    assert (status, out, err) == (0, "interrupted\n", "")


def test_a_python_signal_handler_runs_while_the_loop_sleeps(interrupt):
    status, out, err = interrupt(
        """
loop = new_loop()
signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(loop.stop))
loop.call_soon(lambda: print("ready", flush=True))
loop.run_forever()
print("stopped")
loop.close()
""",
        signal.SIGUSR1,
    )
    assert (status, out, err) == (0, "stopped\n", "")


# In this process.


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGTERM])
async def test_a_signal_handler_is_called_with_its_arguments(loop, number):
    called = loop.create_future()
    loop.add_signal_handler(number, lambda *args: called.set_result(args), 1, "two")
    try:
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(called, PATIENCE) == (1, "two")
    finally:
        assert loop.remove_signal_handler(number) is True
    assert loop.remove_signal_handler(number) is False


async def test_a_signal_wakes_a_sleeping_loop(loop):
    called = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, called.set_result, True)
    thread = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1))
    loop.call_later(0.01, thread.start)
    await asyncio.wait_for(called, PATIENCE)
    thread.join()
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_many_signals(loop):
    count = 0
    done = asyncio.Event()

    def called():
        nonlocal count
        count += 1
        if count == 100:
            done.set()
        else:
            os.kill(os.getpid(), signal.SIGUSR1)

    loop.add_signal_handler(signal.SIGUSR1, called)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(done.wait(), PATIENCE)
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_adding_again_replaces_the_handler(loop):
    called = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, called.set_result, "first")
    loop.add_signal_handler(signal.SIGUSR1, called.set_result, "second")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await asyncio.wait_for(called, PATIENCE) == "second"
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_signal_handler_that_raises_is_reported(loop, errors):
    def fail():
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, fail)
    os.kill(os.getpid(), signal.SIGUSR1)
    async with asyncio.timeout(PATIENCE):
        while not errors:
            await asyncio.sleep(0.001)
    assert isinstance(errors.pop()["exception"], ZeroDivisionError)
    loop.remove_signal_handler(signal.SIGUSR1)


def test_removing_restores_the_default(loop):
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    loop.add_signal_handler(signal.SIGUSR1, print)
    assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
    loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler is before


def test_closing_the_loop_removes_its_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_the_wakeup_descriptor_of_somebody_else_is_left_alone(loop):
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        signal.set_wakeup_fd(one.fileno())
        try:
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            assert signal.set_wakeup_fd(-1) == one.fileno()


def test_the_wakeup_descriptor_is_gone_with_the_last_handler(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGUSR2, print)
    loop.remove_signal_handler(signal.SIGUSR1)
    before = signal.set_wakeup_fd(-1)
    assert before != -1
    signal.set_wakeup_fd(before)
    loop.remove_signal_handler(signal.SIGUSR2)
    assert signal.set_wakeup_fd(-1) == -1


async def test_only_the_main_thread_handles_signals(loop, new_loop):
    other = new_loop()
    raised = []

    def work():
        try:
            other.add_signal_handler(signal.SIGUSR1, print)
        except BaseException as exc:
            raised.append(exc)

    await asyncio.to_thread(work)
    assert isinstance(raised[0], (ValueError, RuntimeError))


async def test_sigchld_of_ours_and_child_processes_live_together(loop):
    called = asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, called.set)
    process = subprocess.Popen([sys.executable, "-c", ""])
    await asyncio.wait_for(called.wait(), PATIENCE)
    process.wait()
    loop.remove_signal_handler(signal.SIGCHLD)


def interrupt_it(loop):
    raise KeyboardInterrupt


# What a handler may ask for; each ends run_forever().
ASKS = {
    "stop": lambda loop: loop.stop(),
    "call_soon": lambda loop: loop.call_soon(loop.stop),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(loop.stop),
    "call_later": lambda loop: loop.call_later(0.001, loop.stop),
    "raise": interrupt_it,
}


@pytest.mark.parametrize("asks", ASKS)
def test_a_signal_between_the_last_bytecode_and_the_wait_is_handled_before_it(loop, asks):
    """The signal comes in a callback that runs no bytecode, and nothing else is there to run."""
    kill = ctypes.CDLL(None).kill
    slept = []

    def sleeps_on():
        slept.append("until the next event")
        loop.stop()

    def handle(*_):
        ASKS[asks](loop)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        timer = loop.call_later(PATIENCE, sleeps_on)
        for _ in range(3):
            loop.call_soon(kill, os.getpid(), int(signal.SIGUSR1))
            try:
                loop.run_forever()
            except KeyboardInterrupt:
                assert asks == "raise"
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.cancel()
    assert slept == []


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there cancel() waits for the callback")
def test_ctrl_c_ends_the_wait_for_a_callback_in_another_thread(loop):
    """As it ends asyncio's wait for the handle's lock."""
    begun, goes_on = threading.Event(), threading.Event()

    def callback():
        begun.set()
        goes_on.wait(PATIENCE)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    handle = loop.call_soon_threadsafe(callback)
    assert begun.wait(PATIENCE)
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            handle.cancel()
        assert not goes_on.is_set()
    finally:
        goes_on.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
