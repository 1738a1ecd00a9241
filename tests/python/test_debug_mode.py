"""Debug mode: wrong threads, slow callbacks, where things came from."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading

import pytest
from helpers import Recorder, check_program, tcp_pair


@pytest.fixture
def debug_loop(loop):
    loop.set_debug(True)
    return loop


def run_a_turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


def in_a_thread(function):
    raised = []

    def work():
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_debug_is_asked_of_the_environment(loop):
    del loop
    for value, expected in (("1", "True"), ("", "False")):
        program = (
            "import zloop; loop = zloop.new_event_loop(); print(loop.get_debug()); loop.close()"
        )
        assert (
            check_program(program, PYTHONASYNCIODEBUG=value, PYTHONDEVMODE="").strip() == expected
        )


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
async def test_scheduling_from_another_thread_raises(loop, method):
    loop.set_debug(True)
    arguments = (print,) if method == "call_soon" else (1, print)
    exc = in_a_thread(lambda: getattr(loop, method)(*arguments))
    assert isinstance(exc, RuntimeError)
    assert str(exc) == (
        "Non-thread-safe operation invoked on an event loop other than the current one"
    )
    loop.set_debug(False)
    assert in_a_thread(lambda: getattr(loop, method)(*arguments).cancel()) is None


async def test_call_soon_threadsafe_is_allowed_from_another_thread(loop):
    loop.set_debug(True)
    assert in_a_thread(lambda: loop.call_soon_threadsafe(int)) is None


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_coroutines_are_no_callbacks(debug_loop, method):
    async def coroutine_function(): ...

    coroutine = coroutine_function()
    before = () if method.startswith("call_soon") else (1,)
    for wrong in (coroutine, coroutine_function):
        with pytest.raises(TypeError) as raised:
            getattr(debug_loop, method)(*before, wrong)
        told = "call_at" if method == "call_later" else method
        assert str(raised.value) == f"coroutines cannot be used with {told}()"
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="a callable object was expected by"):
            getattr(debug_loop, method)(*before, wrong)
    coroutine.close()


def slow(*args):
    pass


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_soon_threadsafe"])
def test_slow_callbacks_are_logged_in_asyncios_words(debug_loop, caplog, method):
    debug_loop.slow_callback_duration = 0.0
    arguments = (0, slow, 1) if method == "call_later" else (slow, 1)
    with caplog.at_level(logging.WARNING, "asyncio"):
        getattr(debug_loop, method)(*arguments)
        debug_loop.call_soon(debug_loop.call_soon, debug_loop.stop)
        debug_loop.run_forever()
    words = [message for message in caplog.messages if "slow" in message]
    kind = "TimerHandle when=[0-9.]+" if method == "call_later" else "Handle"
    if method == "call_soon_threadsafe" and sys.version_info >= (3, 14):
        kind = "_ThreadSafeHandle"
    assert re.fullmatch(
        rf"Executing <{kind} slow\(1\) at .*:\d+ created at .*:\d+> took \d\.\d\d\d seconds",
        words[0],
    ), words


def test_slow_tasks_are_logged_by_their_name(debug_loop, caplog):
    async def slow_task(): ...

    debug_loop.slow_callback_duration = 0.0
    with caplog.at_level(logging.WARNING, "asyncio"):
        debug_loop.run_until_complete(slow_task())
    assert any(
        re.match(r"Executing <Task (pending|finished) name='.*' coro=<.*slow_task\(\)", message)
        for message in caplog.messages
    ), caplog.messages


def test_quick_callbacks_are_not_logged(debug_loop, caplog):
    debug_loop.slow_callback_duration = 60
    with caplog.at_level(logging.WARNING, "asyncio"):
        debug_loop.call_soon(slow)
        run_a_turn(debug_loop)
    assert caplog.messages == []


def test_reports_tell_where_the_callback_was_scheduled(debug_loop, errors):
    def fail():
        raise ZeroDivisionError

    handle = debug_loop.call_soon(fail)
    assert handle._source_traceback
    assert handle._source_traceback[-1].name == (
        "test_reports_tell_where_the_callback_was_scheduled"
    )
    timer = debug_loop.call_later(0, fail)
    assert timer._source_traceback[-1].filename == __file__
    safe = debug_loop.call_soon_threadsafe(fail)
    assert safe._source_traceback[-1].filename == __file__
    debug_loop.call_soon(debug_loop.call_soon, debug_loop.stop)
    debug_loop.run_forever()
    assert len(errors) == 3
    for context in errors:
        assert context["source_traceback"][-1].filename == __file__
    errors.clear()


def test_a_report_tells_it_also_when_debug_mode_has_ended(debug_loop, errors):
    debug_loop.call_soon(divmod, 1, 0)
    debug_loop.set_debug(False)
    run_a_turn(debug_loop)
    assert errors.pop()["source_traceback"][-1].filename == __file__


def test_the_repr_tells_where_a_handle_was_made(debug_loop):
    handle = debug_loop.call_soon(slow)
    assert re.search(r" created at .*test_debug_mode\.py:\d+>$", repr(handle))
    handle.cancel()
    assert re.search(r"^<Handle cancelled slow\(\) at .* created at .*>$", repr(handle)), repr(
        handle
    )
    assert handle.cancelled()


def test_a_callback_that_cancels_itself_in_debug_mode(debug_loop):
    handles = []
    handles.append(debug_loop.call_soon(lambda: handles[0].cancel()))
    run_a_turn(debug_loop)
    assert handles[0].cancelled()


def test_fatal_exceptions_leave_at_once_in_debug_mode_too(debug_loop):
    def leave():
        raise SystemExit("out")

    seen = []
    debug_loop.call_soon(leave)
    debug_loop.call_soon(seen.append, "rest")
    with pytest.raises(SystemExit, match="out"):
        debug_loop.run_forever()
    assert seen == []
    run_a_turn(debug_loop)
    assert seen == ["rest"]


def test_coroutine_origins_are_tracked_while_the_loop_runs(debug_loop):
    async def main():
        return sys.get_coroutine_origin_tracking_depth()

    before = sys.get_coroutine_origin_tracking_depth()
    assert debug_loop.run_until_complete(main()) > 0
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_debug_can_be_switched_while_the_loop_runs(loop):
    async def main():
        depths = [sys.get_coroutine_origin_tracking_depth()]
        for debug in (True, False):
            loop.set_debug(debug)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            depths.append(sys.get_coroutine_origin_tracking_depth())
            assert loop.get_debug() is debug
        return depths

    loop.set_debug(False)
    before, during, after = loop.run_until_complete(main())
    assert during > 0 and before == after == 0


def test_futures_and_tasks_remember_where_they_were_made(debug_loop):
    async def main():
        future = debug_loop.create_future()
        task = debug_loop.create_task(asyncio.sleep(0))
        for made in (future, task):
            assert __file__ in [frame.filename for frame in made._source_traceback[-2:]]
        await task

    debug_loop.run_until_complete(main())


def test_connections_work_in_debug_mode(debug_loop, caplog):
    async def main():
        ours, theirs = tcp_pair()
        with theirs:
            protocol = Recorder()
            transport, _ = await debug_loop.create_connection(lambda: protocol, sock=ours)
            transport.pause_reading()
            transport.resume_reading()
            theirs.send(b"hello")
            await protocol.until_received(5)
        await protocol.until("connection_lost")

    with caplog.at_level(logging.DEBUG, "asyncio"):
        debug_loop.run_until_complete(main())
    assert any(message.endswith(" pauses reading") for message in caplog.messages)
    assert any(message.endswith(" resumes reading") for message in caplog.messages)
    assert any(message.endswith(" received EOF") for message in caplog.messages)


def test_a_task_destroyed_while_it_waits_is_told(debug_loop, errors):
    import gc

    async def wait():
        await debug_loop.create_future()

    debug_loop.create_task(wait())
    run_a_turn(debug_loop)
    run_a_turn(debug_loop)
    gc.collect()
    context = errors.pop()
    assert context["message"] == "Task was destroyed but it is pending!"
    assert context["source_traceback"]
