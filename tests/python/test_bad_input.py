"""Wrong types and arguments raise what asyncio raises, in asyncio's words, and leave the loop usable.

Each case is a bad call, made on both loops; their answers are compared.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from helpers import FACTORIES, Recorder, tcp_pair


def tidy(words: str) -> str:
    """Without what rightly differs: addresses, descriptor numbers, class names of the loops."""
    words = re.sub(r"0x[0-9a-f]+", "0x…", words)
    words = re.sub(r"fd=\d+|laddr=[^)]*\)|raddr=[^)]*\)", "…", words)
    words = re.sub(r"_?(Base|Unix)?_?(SelectorEventLoop|EventLoop|LoopCore|Loop)\b", "Loop", words)
    return re.sub(r"\b\w+\.(\w+\(\))", r"\1", words)


def told(call: Callable[[], Any]) -> Any:
    try:
        result = call()
    except Exception as exc:
        return type(exc), tidy(str(exc))
    if isinstance(result, asyncio.Handle):
        result.cancel()
        return "a handle"
    return type(result)


async def told_async(call: Callable[[], Any]) -> Any:
    try:
        result = await call()
    except Exception as exc:
        return type(exc), tidy(str(exc))
    return type(result)


def both(ask: Callable[[Any], Any]) -> tuple[Any, Any]:
    answers = []
    for make in FACTORIES.values():
        loop = make()
        try:
            answers.append(ask(loop))
            assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"
        finally:
            loop.close()
    return answers[0], answers[1]


class File:
    """A file object, whose number is `given`, or is none because `given` was raised."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def __repr__(self) -> str:
        return "File()"

    def fileno(self) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


LOOP_CALLS: dict[str, Callable[[Any], Any]] = {
    "call_soon()": lambda loop: loop.call_soon(),
    "call_soon(unknown=)": lambda loop: loop.call_soon(print, unknown=1),
    "call_soon(callback=)": lambda loop: loop.call_soon(callback=print),
    "call_soon(context=5)": lambda loop: loop.call_soon(print, context=None),
    "call_soon_threadsafe()": lambda loop: loop.call_soon_threadsafe(),
    "call_soon_threadsafe(unknown=)": lambda loop: loop.call_soon_threadsafe(print, unknown=1),
    "call_later()": lambda loop: loop.call_later(),
    "call_later(1)": lambda loop: loop.call_later(1),
    "call_later(None)": lambda loop: loop.call_later(None, print),
    "call_later(text)": lambda loop: loop.call_later("soon", print),
    "call_later(delay=)": lambda loop: loop.call_later(delay=1, callback=print),
    "call_later(callback=)": lambda loop: loop.call_later(1, callback=print),
    "call_later(unknown=)": lambda loop: loop.call_later(1, print, unknown=1),
    "call_later(True)": lambda loop: loop.call_later(True, print),
    "call_at()": lambda loop: loop.call_at(),
    "call_at(1)": lambda loop: loop.call_at(1),
    "call_at(None)": lambda loop: loop.call_at(None, print),
    "call_at(when=)": lambda loop: loop.call_at(when=1, callback=print),
    "call_at(unknown=)": lambda loop: loop.call_at(1, print, unknown=1),
    "create_task()": lambda loop: loop.create_task(),
    "create_task(5)": lambda loop: loop.create_task(5),
    "create_task(function)": lambda loop: loop.create_task(print),
    "create_future(1)": lambda loop: loop.create_future(1),
    "set_task_factory(5)": lambda loop: loop.set_task_factory(5),
    "set_exception_handler(5)": lambda loop: loop.set_exception_handler(5),
    "set_default_executor(5)": lambda loop: loop.set_default_executor(5),
    "run_until_complete(5)": lambda loop: loop.run_until_complete(5),
    "run_until_complete()": lambda loop: loop.run_until_complete(),
    "run_in_executor(None, coroutine function)": lambda loop: loop.run_in_executor(None, 5),
    "time(1)": lambda loop: loop.time(1),
    "stop(1)": lambda loop: loop.stop(1),
    "close(1)": lambda loop: loop.close(1),
    "is_running(1)": lambda loop: loop.is_running(1),
    "add_reader()": lambda loop: loop.add_reader(),
    "add_reader(0)": lambda loop: loop.add_reader(0),
    "add_reader(-1)": lambda loop: loop.add_reader(-1, print),
    "add_reader(None)": lambda loop: loop.add_reader(None, print),
    "add_reader(text)": lambda loop: loop.add_reader("0", print),
    "add_reader(1.5)": lambda loop: loop.add_reader(1.5, print),
    "add_reader(closed number)": lambda loop: loop.add_reader(987, print),
    "add_reader(huge)": lambda loop: loop.add_reader(1 << 40, print),
    "add_reader(huger)": lambda loop: loop.add_reader(1 << 80, print),
    "add_reader(file without a number)": lambda loop: loop.add_reader(File(None), print),
    "add_reader(closed file)": lambda loop: loop.add_reader(File(-1), print),
    "add_reader(file, text)": lambda loop: loop.add_reader(File("987"), print),
    "add_reader(broken file)": lambda loop: loop.add_reader(File(OSError("broken")), print),
    "add_reader(bad file)": lambda loop: loop.add_reader(File(ValueError("bad")), print),
    "remove_reader(file, text)": lambda loop: loop.remove_reader(File("987")),
    "add_writer(-1)": lambda loop: loop.add_writer(-1, print),
    "add_writer(None)": lambda loop: loop.add_writer(None, print),
    "remove_reader()": lambda loop: loop.remove_reader(),
    "remove_reader(-1)": lambda loop: loop.remove_reader(-1),
    "remove_reader(None)": lambda loop: loop.remove_reader(None),
    "remove_reader(text)": lambda loop: loop.remove_reader("0"),
    "remove_reader(closed number)": lambda loop: loop.remove_reader(987),
    "remove_reader(huge)": lambda loop: loop.remove_reader(1 << 40),
    "remove_writer(-1)": lambda loop: loop.remove_writer(-1),
    "remove_writer(huger)": lambda loop: loop.remove_writer(1 << 80),
    "add_signal_handler(0)": lambda loop: loop.add_signal_handler(0, print),
    "add_signal_handler(text)": lambda loop: loop.add_signal_handler("INT", print),
    "add_signal_handler(9)": lambda loop: loop.add_signal_handler(9, print),
    "add_signal_handler(coroutine)": lambda loop: loop.add_signal_handler(10, asyncio.sleep),
    "remove_signal_handler(10)": lambda loop: loop.remove_signal_handler(10),
    "call_exception_handler()": lambda loop: loop.call_exception_handler(),
}


def check_answers(stock: Any, ours: Any) -> None:
    """The same, but that a method in C does not count `self`, and takes no argument by its name."""
    if isinstance(stock, tuple) and "positional argument" in stock[1]:
        assert isinstance(ours, tuple) and ours[0] is stock[0]
    else:
        assert ours == stock


@pytest.mark.parametrize("name", LOOP_CALLS)
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_bad_calls_of_the_loop(name, debug):
    def ask(loop):
        loop.set_debug(debug)
        return told(lambda: LOOP_CALLS[name](loop))

    check_answers(*both(ask))


def test_calling_something_that_is_not_callable_is_reported_alike():
    for callback in (None, 5, "text"):

        def ask(loop, callback=callback):
            reported = []
            loop.set_exception_handler(lambda _, context: reported.append(context))
            first = told(lambda: loop.call_soon(callback))
            loop.call_soon(callback) if first == "a handle" else None
            loop.call_soon(loop.stop)
            loop.run_forever()
            return first, [(type(c["exception"]), str(c["exception"])) for c in reported]

        stock, ours = both(ask)
        assert ours == stock


ASYNC_CALLS: dict[str, Callable[[Any], Any]] = {
    "create_server(): nothing": lambda loop: loop.create_server(Recorder),
    "create_server(): port type": lambda loop: loop.create_server(Recorder, "127.0.0.1", []),
    "create_server(): port range": lambda loop: loop.create_server(Recorder, "127.0.0.1", 99999),
    "create_server(): host type": lambda loop: loop.create_server(Recorder, 5, 0),
    "create_server(): bad host": lambda loop: loop.create_server(Recorder, "256.1.1.1", 0),
    "create_server(): foreign address": lambda loop: loop.create_server(Recorder, "192.0.2.1", 0),
    "create_server(): ssl type": lambda loop: loop.create_server(
        Recorder, "127.0.0.1", 0, ssl=True
    ),
    "create_server(): timeout without ssl": lambda loop: loop.create_server(
        Recorder, "127.0.0.1", 0, ssl_handshake_timeout=1
    ),
    "create_server(): sock and host": lambda loop: loop.create_server(
        Recorder, "127.0.0.1", 0, sock=socket.socket
    ),
    "create_server(): unknown": lambda loop: loop.create_server(
        Recorder, "127.0.0.1", 0, unknown=1
    ),
    "create_connection(): nothing": lambda loop: loop.create_connection(Recorder),
    "create_connection(): host type": lambda loop: loop.create_connection(Recorder, 5, 80),
    "create_connection(): port type": lambda loop: loop.create_connection(
        Recorder, "127.0.0.1", []
    ),
    "create_connection(): port range": lambda loop: loop.create_connection(
        Recorder, "127.0.0.1", 99999
    ),
    "create_connection(): no name for ssl": lambda loop: loop.create_connection(Recorder, ssl=True),
    "create_connection(): name without ssl": lambda loop: loop.create_connection(
        Recorder, "127.0.0.1", 1, server_hostname="x"
    ),
    "create_connection(): handshake timeout without ssl": lambda loop: loop.create_connection(
        Recorder, "127.0.0.1", 1, ssl_handshake_timeout=1
    ),
    "create_connection(): shutdown timeout without ssl": lambda loop: loop.create_connection(
        Recorder, "127.0.0.1", 1, ssl_shutdown_timeout=1
    ),
    "create_connection(): local_addr": lambda loop: loop.create_connection(
        Recorder, "127.0.0.1", 1, local_addr=("192.0.2.1", 0)
    ),
    "create_connection(): refused": lambda loop: loop.create_connection(Recorder, "127.0.0.1", 1),
    "start_tls(): context type": lambda loop: loop.start_tls(None, None, None),
    "getaddrinfo(): nothing": lambda loop: loop.getaddrinfo(),
    "getaddrinfo(): port": lambda loop: loop.getaddrinfo("127.0.0.1", []),
    "sock_recv(): nothing": lambda loop: loop.sock_recv(),
    "sendfile(): transport": lambda loop: loop.sendfile(None, None),
    "subprocess_exec(): type": lambda loop: loop.subprocess_exec(asyncio.SubprocessProtocol, 5),
    "subprocess_exec(): missing": lambda loop: loop.subprocess_exec(
        asyncio.SubprocessProtocol, "/nowhere/at/all"
    ),
    "subprocess_shell(): type": lambda loop: loop.subprocess_shell(asyncio.SubprocessProtocol, 5),
    "create_unix_server(): nothing": lambda loop: loop.create_unix_server(Recorder),
    "create_unix_connection(): missing": lambda loop: loop.create_unix_connection(
        Recorder, "/nowhere"
    ),
    "create_datagram_endpoint(): nothing": lambda loop: loop.create_datagram_endpoint(Recorder),
    "connect_accepted_socket(): ssl": lambda loop: loop.connect_accepted_socket(
        Recorder, None, ssl_handshake_timeout=1
    ),
}


@pytest.mark.parametrize("name", ASYNC_CALLS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_calls_of_coroutines(name):
    stock, ours = both(
        lambda loop: loop.run_until_complete(told_async(lambda: ASYNC_CALLS[name](loop)))
    )
    assert ours == stock
    assert isinstance(ours, tuple), "this call is not bad"


@pytest.mark.parametrize("kind", ["datagram", "listening", "unconnected", "closed", "text"])
@pytest.mark.parametrize(
    "method", ["create_connection", "create_server", "connect_accepted_socket"]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.may_leak
def test_sockets_that_do_not_fit(kind, method):
    if (kind, method) == ("listening", "create_server"):
        pytest.skip("that fits")

    def ask(loop):
        made: Any = "text"
        if kind != "text":
            made = socket.socket(
                type=socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
            )
        if kind == "listening":
            made.bind(("127.0.0.1", 0))
            made.listen()
        if kind == "closed":
            made.close()
        try:
            if method == "connect_accepted_socket":
                call = lambda: loop.connect_accepted_socket(Recorder, made)  # noqa: E731
            elif method == "create_server":
                call = lambda: loop.create_server(Recorder, sock=made)  # noqa: E731
            else:
                call = lambda: loop.create_connection(Recorder, sock=made)  # noqa: E731
            loop.set_exception_handler(lambda *_: None)

            async def main():
                answer = await told_async(call)
                await asyncio.sleep(0.001)
                return answer

            return loop.run_until_complete(main())
        finally:
            if kind != "text":
                made.close()

    stock, ours = both(ask)
    assert ours == stock


TRANSPORT_CALLS: dict[str, Callable[[Any], Any]] = {
    "write()": lambda t: t.write(),
    "write(text)": lambda t: t.write("text"),
    "write(None)": lambda t: t.write(None),
    "write(5)": lambda t: t.write(5),
    "write(list)": lambda t: t.write([1, 2]),
    "write(1, 2)": lambda t: t.write(b"1", b"2"),
    "write(array)": lambda t: t.write(__import__("array").array("B", [1])),
    "writelines()": lambda t: t.writelines(),
    "writelines(5)": lambda t: t.writelines(5),
    "writelines([text])": lambda t: t.writelines(["text"]),
    "writelines([5])": lambda t: t.writelines([5]),
    "writelines([list])": lambda t: t.writelines([[1]]),
    "set_write_buffer_limits(-1)": lambda t: t.set_write_buffer_limits(-1),
    "set_write_buffer_limits(1, 2)": lambda t: t.set_write_buffer_limits(1, 2),
    "set_write_buffer_limits(low=-1)": lambda t: t.set_write_buffer_limits(low=-1),
    "set_write_buffer_limits(text)": lambda t: t.set_write_buffer_limits("9"),
    "set_write_buffer_limits(low=text)": lambda t: t.set_write_buffer_limits(low="9"),
    "set_write_buffer_limits(high=list)": lambda t: t.set_write_buffer_limits(high=[]),
    "set_write_buffer_limits(3 arguments)": lambda t: t.set_write_buffer_limits(3, 2, 1),
    "set_write_buffer_limits(unknown=)": lambda t: t.set_write_buffer_limits(unknown=1),
    "set_write_buffer_limits(twice)": lambda t: t.set_write_buffer_limits(3, high=3),
    "get_extra_info()": lambda t: t.get_extra_info(),
    "get_extra_info(list)": lambda t: t.get_extra_info([]),
    "get_extra_info(unknown=)": lambda t: t.get_extra_info("socket", unknown=1),
    "get_extra_info(3 arguments)": lambda t: t.get_extra_info("socket", 1, 2),
    "get_extra_info(twice)": lambda t: t.get_extra_info("socket", name="socket"),
    "get_extra_info(5)": lambda t: t.get_extra_info(5),
    "set_protocol()": lambda t: t.set_protocol(),
    "close(1)": lambda t: t.close(1),
    "abort(1)": lambda t: t.abort(1),
    "pause_reading(1)": lambda t: t.pause_reading(1),
    "is_closing(1)": lambda t: t.is_closing(1),
    "write_eof(1)": lambda t: t.write_eof(1),
}


@pytest.mark.parametrize("name", TRANSPORT_CALLS)
def test_bad_calls_of_a_transport(name):
    def ask(loop):
        async def main():
            ours, theirs = tcp_pair()
            with theirs:
                transport, protocol = await loop.create_connection(Recorder, sock=ours)
                answer = told(lambda: TRANSPORT_CALLS[name](transport))
                theirs.sendall(b"x")
                await protocol.until_received(1)  # the connection is usable
                transport.close()
                await protocol.until("connection_lost")
                return answer

        return loop.run_until_complete(main())

    stock, ours = both(ask)
    if name.startswith("writelines") and sys.version_info < (3, 12):
        assert (
            isinstance(ours, tuple) and ours[0] is stock[0]
        )  # asyncio joined the parts; its words are 3.12's now
    else:
        check_answers(stock, ours)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # both drop it open
@pytest.mark.parametrize("protocol", [None, 5, object()], ids=["None", "5", "object"])
def test_a_protocol_that_is_none(protocol):
    def ask(loop):
        reported = []
        loop.set_exception_handler(lambda _, context: reported.append(context))

        async def main():
            ours, theirs = tcp_pair()
            with theirs:
                answer = await told_async(
                    lambda: asyncio.wait_for(loop.create_connection(lambda: protocol, sock=ours), 1)
                )
                ours.close()
                return answer

        return loop.run_until_complete(main())

    stock, ours = both(ask)
    assert ours == stock


def test_a_signal_handler_that_is_a_coroutine_is_refused(loop):
    async def handler(): ...

    coroutine = handler()
    with pytest.raises(TypeError, match=r"^coroutines cannot be used with add_signal_handler\(\)$"):
        loop.add_signal_handler(10, coroutine)
    coroutine.close()
