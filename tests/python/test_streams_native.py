"""asyncio's streams on our loop: without asyncio's Python, and a program cannot tell.

All that can be seen of a stream is asyncio's: its attributes, which programs and tests read and replace, its
methods, which they wrap, its errors and their words. So each test runs on asyncio's loop as well.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import contextvars
import copy
import gc
import os
import pickle
import socket
import struct
import sys
import weakref
from asyncio import streams
from unittest import mock

import pytest
from helpers import PATIENCE, check_program, turns

NATIVE = pytest.mark.skipif(
    bool(os.environ.get("PYTHONASYNCIODEBUG")) or sys.flags.dev_mode,
    reason="in debug mode streams are asyncio's own",
)
FLOW = streams.FlowControlMixin


@contextlib.asynccontextmanager
async def connected(ended_by=(), **options):
    """The streams of both ends of a connection: the server's, then the client's."""
    made = asyncio.get_running_loop().create_future()

    def accept(reader, writer):
        made.set_result((reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, **options) as server:
        ours, theirs = None, None
        try:
            theirs = await asyncio.open_connection(*server.sockets[0].getsockname())
            ours = await asyncio.wait_for(made, PATIENCE)
            yield *ours, *theirs
        finally:
            for writer in [each[1] for each in (ours, theirs) if each]:
                writer.close()
                with contextlib.suppress(ConnectionError, *ended_by):
                    await asyncio.wait_for(writer.wait_closed(), PATIENCE)


async def arrived(reader, count=1):
    """Wait until so many bytes have come, without a task that waits for them."""
    async with asyncio.timeout(PATIENCE):
        while len(reader._buffer) < count:
            await asyncio.sleep(0.001)


def outcome(coroutine):
    """What awaiting gives that need not wait; "waits" otherwise."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    coroutine.close()
    return "waits"


# What they are.


async def test_streams_are_asyncios(loop):
    async with connected() as ends:
        for reader, writer in (ends[:2], ends[2:]):
            assert isinstance(reader, asyncio.StreamReader)
            assert isinstance(writer, asyncio.StreamWriter)
            assert type(writer.transport.get_protocol()) is asyncio.StreamReaderProtocol
            assert repr(reader) == f"<StreamReader transport={writer.transport!r}>"
            assert (
                repr(writer) == f"<StreamWriter transport={writer.transport!r} reader={reader!r}>"
            )
            assert list(vars(reader)) == list(vars(asyncio.StreamReader(loop=loop)))


@NATIVE
async def test_a_message_runs_no_python_of_asyncios(zloop_loop):
    async with connected() as (reader, writer, from_server, to_server):
        ran = []

        def note(frame, event, _):
            if event == "call" and frame.f_code.co_filename == streams.__file__:
                ran.append(frame.f_code.co_name)

        async def echo():
            for _ in range(3):
                writer.write(await reader.read(100))
                await writer.drain()

        echoing = asyncio.create_task(echo())
        transport = to_server.transport
        transport.write(b"before")
        assert await from_server.read(100) == b"before"
        sys.setprofile(note)
        try:
            for message in (b"one", b"two"):
                transport.write(message)
                assert await from_server.readexactly(3) == message
        finally:
            sys.setprofile(None)
        await echoing

        assert ran == []


async def test_what_is_there_is_read_without_a_turn(loop):
    async with connected() as (reader, writer, _, to_server):
        to_server.write(b"abcdefline\nuntil;rest")
        await arrived(reader, 21)

        assert outcome(reader.read(3)) == b"abc"
        assert outcome(reader.readexactly(3)) == b"def"
        assert outcome(reader.readline()) == b"line\n"
        assert outcome(reader.readuntil(b";")) == b"until;"
        assert outcome(reader.read(0)) == b""
        assert outcome(reader.read(100)) == b"rest"
        assert outcome(reader.read(100)) == "waits"
        assert outcome(writer.drain()) is None


async def test_a_read_is_a_coroutine(loop):
    async with connected() as (reader, writer, _, to_server):
        reading = reader.read(5)
        assert asyncio.iscoroutine(reading)
        assert isinstance(reading, collections.abc.Coroutine)
        assert reading.__name__ == "read"
        assert reading.__qualname__ == "StreamReader.read"
        task = asyncio.create_task(reading)
        await asyncio.sleep(0)
        assert "StreamReader.read" in repr(task)
        to_server.write(b"first")
        assert await task == b"first"

        to_server.write(b"second\n")
        assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"second\n"
        to_server.write(b"third")
        gathered = await asyncio.gather(reader.readexactly(5), writer.drain())
        assert gathered == [b"third", None]


async def test_one_that_nobody_awaits_warns(loop):
    async with connected() as (reader, writer, *_):
        for make in (lambda: reader.read(1), lambda: reader.readline(), writer.drain):
            with pytest.warns(
                RuntimeWarning, match=r"coroutine 'Stream\w+\.\w+' was never awaited"
            ):
                make()


async def test_one_is_awaited_once(loop):
    async with connected() as (reader, writer, *_):
        reader.feed_data(b"there")
        for each in (reader.read(5), writer.drain()):
            await each
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                await each
        unstarted = reader.read(1)
        with pytest.raises(TypeError, match="can't send non-None value to a just-started"):
            unstarted.send(1)
        unstarted.close()


async def test_errors_that_are_thrown_in_come_out_and_leave_no_waiter(loop):
    async with connected() as (reader, *_):
        for make in (
            lambda: reader.read(9),
            lambda: reader.readexactly(9),
            reader.readline,
            lambda: reader.readuntil(b"x"),
        ):
            waiting = make()
            future = waiting.send(None)
            assert reader._waiter is future
            with pytest.raises(ZeroDivisionError):
                waiting.throw(ZeroDivisionError())
            assert reader._waiter is None

            waiting = make()
            waiting.send(None)
            waiting.close()
            assert reader._waiter is None

            waiting = make()
            waiting.send(None)
            del waiting
            assert reader._waiter is None

            with pytest.raises(ZeroDivisionError):
                make().throw(ZeroDivisionError())


async def test_who_sends_before_the_waiter_is_done_is_told(loop):
    async with connected() as (reader, *_):
        waiting = reader.read(9)
        waiting.send(None)
        with pytest.raises(RuntimeError, match="await wasn't used with future"):
            waiting.send(None)


# Reading.


async def test_messages_in_pieces(loop):
    async with connected() as (reader, _, _, to_server):
        exactly = asyncio.create_task(reader.readexactly(6))
        for piece in (b"ab", b"cd", b"ef"):
            to_server.write(piece)
            await arrived(reader, 0)
            await turns(5)
        assert await exactly == b"abcdef"

        until = asyncio.create_task(reader.readuntil(b"--end"))
        for piece in (b"text-", b"-en", b"d and more"):
            to_server.write(piece)
            await turns(5)
        assert await until == b"text--end"
        await arrived(reader, 9)
        assert await reader.read(100) == b" and more"


async def test_reading_to_the_end(loop):
    async with connected(limit=16) as (reader, _, _, to_server):
        to_server.write(b"x" * 1000)
        to_server.write_eof()
        assert await reader.read() == b"x" * 1000
        assert reader.at_eof()
        assert await reader.read(5) == b""
        assert await reader.readline() == b""


async def test_lines_by_iteration(loop):
    async with connected() as (reader, _, _, to_server):
        to_server.write(b"one\ntwo\nrest")
        to_server.write_eof()
        assert [line async for line in reader] == [b"one\n", b"two\n", b"rest"]


async def test_the_end_within_a_message(loop):
    async with connected() as (reader, _, _, to_server):
        to_server.write(b"abc")
        to_server.write_eof()
        with pytest.raises(asyncio.IncompleteReadError) as told:
            await reader.readexactly(5)
        assert (told.value.partial, told.value.expected) == (b"abc", 5)
        assert str(told.value) == "3 bytes read on a total of 5 expected bytes"
        assert await reader.read(5) == b""


async def test_the_end_before_a_separator(loop):
    async with connected() as (reader, _, _, to_server):
        waiting = asyncio.create_task(reader.readuntil(b";"))
        to_server.write(b"abc")
        to_server.write_eof()
        with pytest.raises(asyncio.IncompleteReadError) as told:
            await waiting
        assert (told.value.partial, told.value.expected) == (b"abc", None)


async def test_limits_of_a_message(loop):
    async with connected(limit=8) as (reader, _, _, to_server):
        to_server.write(b"0123456789abc;next\n")
        await arrived(reader, 19)
        with pytest.raises(asyncio.LimitOverrunError) as told:
            await reader.readuntil(b";")
        assert str(told.value) == "Separator is found, but chunk is longer than limit"
        assert told.value.consumed == 13
        with pytest.raises(asyncio.LimitOverrunError) as told:
            await reader.readuntil(b"?")
        assert str(told.value) == "Separator is not found, and chunk exceed the limit"
        with pytest.raises(ValueError, match="Separator is found, but chunk is longer than limit"):
            await reader.readline()
        assert bytes(reader._buffer) == b""


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("readexactly", (-1,), "readexactly size can not be less than zero"),
        ("readuntil", (b"",), "Separator should be at least one-byte string"),
    ],
)
async def test_wrong_values(loop, method, arguments, words):
    async with connected() as (reader, *_):
        with pytest.raises(ValueError, match=words):
            await getattr(reader, method)(*arguments)


@pytest.mark.parametrize(
    ("of", "method", "arguments", "keywords", "words"),
    [
        ("reader", "read", (1, 2), {}, "takes from 1 to 2 positional arguments but 3 were given"),
        ("reader", "readexactly", (), {}, "missing 1 required positional argument: 'n'"),
        ("reader", "readline", (1,), {}, "takes 1 positional argument but 2 were given"),
        ("reader", "read", (), {"size": 1}, "got an unexpected keyword argument 'size'"),
        ("writer", "write", (), {}, "missing 1 required positional argument: 'data'"),
        ("writer", "drain", (1,), {}, "takes 1 positional argument but 2 were given"),
        ("writer", "write", ("text",), {}, "data argument must be a bytes"),
    ],
)
async def test_wrong_arguments(loop, of, method, arguments, keywords, words):
    async with connected() as (reader, writer, *_):
        with pytest.raises(TypeError, match=words):
            getattr({"reader": reader, "writer": writer}[of], method)(*arguments, **keywords)


async def test_arguments_of_other_types(loop):
    async with connected() as (reader, writer, _, to_server):
        to_server.write(b"abcdef;gh")
        await arrived(reader, 9)
        assert await reader.read(n=1) == b"a"
        assert await reader.read(True) == b"b"
        assert await reader.readexactly(n=1) == b"c"
        assert await reader.readuntil(bytearray(b"e")) == b"de"
        assert await reader.readuntil(separator=b";") == b"f;"
        with pytest.raises(TypeError):
            await reader.read("1")
        assert await reader.read(10**30) == b"gh"
        assert writer.write(data=b"by its name") is None
        assert writer.write(bytearray(b"changing")) is None


async def test_two_cannot_wait_at_once(loop):
    async with connected() as (reader, _, _, to_server):
        first = asyncio.create_task(reader.read(5))
        await asyncio.sleep(0)
        for second, name in (
            (reader.read(5), "read"),
            (reader.readexactly(5), "readexactly"),
            (reader.readline(), "readuntil"),
        ):
            with pytest.raises(RuntimeError) as told:
                await second
            assert str(told.value) == (
                f"{name}() called while another coroutine is already waiting for incoming data"
            )
        to_server.write(b"whole")
        assert await first == b"whole"


@pytest.mark.parametrize("gap", [False, True], ids=["while it waits", "once it was woken"])
@pytest.mark.parametrize("method", ["read", "readexactly", "readline"])
async def test_a_cancelled_read_takes_nothing(loop, method, gap):
    async with connected() as (reader, _, _, to_server):
        arguments = () if method == "readline" else (5,)
        task = asyncio.create_task(getattr(reader, method)(*arguments))
        await asyncio.sleep(0)
        if gap:
            reader.feed_data(b"line\n")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reader._waiter is None
        if not gap:
            to_server.write(b"line\n")
        assert await getattr(reader, method)(*arguments) == b"line\n"


async def test_a_read_within_a_timeout(loop):
    async with connected() as (reader, _, _, to_server):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(5), 0.001)
        to_server.write(b"after")
        assert await reader.readexactly(5) == b"after"


async def test_reading_is_paused_beyond_twice_the_limit(loop):
    async with connected(limit=1000) as (reader, writer, _, to_server):
        to_server.write(bytes(500_000))
        await arrived(reader, 2001)
        assert reader._paused
        assert not writer.transport.is_reading()
        came = len(reader._buffer)
        await turns(5)
        assert len(reader._buffer) == came

        taken = len(await reader.read(came - 1000))
        assert not reader._paused
        assert writer.transport.is_reading()
        rest = await reader.readexactly(500_000 - taken)
        assert not any(rest)


async def test_who_needs_more_than_the_limit_resumes_reading(loop):
    async with connected(limit=10) as (reader, _, _, to_server):
        to_server.write(bytes(5000))
        await arrived(reader, 21)
        assert await reader.readexactly(5000) == bytes(5000)


async def test_a_read_sees_its_tasks_context(loop):
    variable = contextvars.ContextVar("variable", default="nothing")
    async with connected() as (reader, _, _, to_server):

        async def read():
            variable.set("the task's")
            await reader.read(1)
            return variable.get()

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        to_server.write(b"x")
        assert await task == "the task's"
        assert variable.get() == "nothing"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
async def test_eager_tasks(loop):
    loop.set_task_factory(asyncio.eager_task_factory)
    async with connected() as (reader, writer, _, to_server):
        to_server.write(b"there")
        await arrived(reader, 5)
        assert loop.create_task(reader.read(5)).done()
        assert loop.create_task(writer.drain()).done()
        waiting = loop.create_task(reader.read(5))
        assert not waiting.done()
        to_server.write(b"later")
        assert await waiting == b"later"


# Writing.


async def test_drain_waits_while_the_transport_is_full(loop):
    async with connected() as (_, writer, from_server, _):
        writer.transport.set_write_buffer_limits(high=0)
        while not writer.transport.get_write_buffer_size():
            writer.write(bytes(1 << 20))
        draining = [asyncio.create_task(writer.drain()) for _ in range(2)]
        await turns(3)
        assert not any(task.done() for task in draining)
        draining.pop().cancel()
        reading = asyncio.create_task(from_server.read())
        assert await asyncio.wait_for(draining[0], PATIENCE) is None
        writer.close()
        assert await reading


async def test_drain_gives_a_turn_once_the_transport_closes(loop):
    async with connected() as (_, writer, *_):
        writer.close()
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            while True:
                await writer.drain()


async def test_a_broken_connection(loop):
    async with connected() as (reader, writer, _, to_server):
        reading = asyncio.create_task(reader.read(5))
        await asyncio.sleep(0)
        writing = to_server.get_extra_info("socket").dup()
        with writing:
            writing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        to_server.transport.abort()
        with pytest.raises(ConnectionResetError):
            await reading
        for each in (reader.read(5), reader.readexactly(5), reader.readline(), writer.drain()):
            with pytest.raises(ConnectionResetError):
                await each


async def test_an_error_of_the_reader_that_readline_knows(loop):
    async with connected() as (reader, *_):
        reading = asyncio.create_task(reader.readline())
        await asyncio.sleep(0)
        reader.set_exception(asyncio.IncompleteReadError(b"part", None))
        assert await reading == b"part"


# What a program has changed.


async def test_attributes_that_were_replaced(loop):
    async with connected() as (reader, _, _, to_server):
        reader._buffer = bytearray(b"other")
        assert await reader.read(5) == b"other"

        waiter = reader._waiter = loop.create_future()
        to_server.write(b"come")
        await asyncio.wait_for(waiter, PATIENCE)
        assert reader._waiter is None
        assert bytes(reader._buffer) == b"come"

        reader._limit = 1.5  # of readuntil()
        with pytest.raises(asyncio.LimitOverrunError):
            await reader.readuntil(b"e")
        reader._exception = ZeroDivisionError()
        for each in (reader.read(1), reader.readexactly(1), reader.readline()):
            with pytest.raises(ZeroDivisionError):
                await each
        reader._exception = None
        reader._eof = True
        assert await reader.read(10) == b"come"
        assert await reader.read(10) == b""
        reader._eof = False


async def test_a_buffer_of_another_class_is_asked(loop):
    class Noting(bytearray):
        def extend(self, data):
            noted.append(bytes(data))
            super().extend(data)

    noted = []
    async with connected() as (reader, _, _, to_server):
        reader._buffer = Noting()
        to_server.write(b"come")
        assert await reader.read(4) == b"come"
        assert noted == [b"come"]


async def test_a_transport_of_the_readers_that_was_replaced(loop):
    async with connected(limit=4) as (reader, _, _, to_server):
        reader._transport = mock.Mock()
        to_server.write(b"too much of it")
        await arrived(reader, 14)
        reader._transport.pause_reading.assert_called_once_with()
        assert reader._paused
        assert await reader.read(14) == b"too much of it"
        reader._transport.resume_reading.assert_called_once_with()

        reader._transport.pause_reading.side_effect = NotImplementedError
        to_server.write(b"too much of it")
        await arrived(reader, 14)
        assert reader._transport is None
        assert not reader._paused


async def test_a_transport_of_the_writers_that_was_replaced(loop):
    async with connected() as (_, writer, *_):
        transport, writer._transport = writer._transport, mock.Mock()
        writer._transport.is_closing.return_value = False
        writer.write(b"data")
        await writer.drain()
        writer._transport.write.assert_called_once_with(b"data")
        writer._transport = transport
        with mock.patch.object(transport, "write", create=True) as write:
            writer.write(b"data")
        write.assert_called_once_with(b"data")
        with mock.patch.object(transport, "is_closing", return_value=True) as is_closing:
            await writer.drain()
        is_closing.assert_called()


async def test_methods_of_an_instance_that_were_replaced(loop):
    async with connected() as (reader, writer, _, to_server):
        for owner, name in (
            (reader, "feed_data"),
            (reader, "_wakeup_waiter"),
            (reader, "_wait_for_data"),
            (reader, "_maybe_resume_transport"),
            (reader, "exception"),
            (reader, "readuntil"),
            (reader, "readline"),
            (writer, "write"),
            (writer, "drain"),
            (writer.transport.get_protocol(), "data_received"),
            (writer.transport.get_protocol(), "_drain_helper"),
        ):
            with mock.patch.object(owner, name, side_effect=getattr(owner, name)) as spy:
                reading = asyncio.create_task(reader.readline())
                await asyncio.sleep(0)
                to_server.write(b"line\n")
                assert await reading == b"line\n"
                writer.write(b"answer")
                await writer.drain()
            spy.assert_called()
        reader.note = "a program's own"
        to_server.write(b"line\n")
        assert await reader.readline() == b"line\n"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (asyncio.StreamReader, "read"),
        (asyncio.StreamReader, "readexactly"),
        (asyncio.StreamReader, "readline"),
        (asyncio.StreamReader, "readuntil"),
        (asyncio.StreamReader, "feed_data"),
        (asyncio.StreamReader, "_wakeup_waiter"),
        (asyncio.StreamReader, "_wait_for_data"),
        (asyncio.StreamReader, "_maybe_resume_transport"),
        (asyncio.StreamReader, "exception"),
        (asyncio.StreamWriter, "write"),
        (asyncio.StreamWriter, "drain"),
        (asyncio.StreamReaderProtocol, "data_received"),
        (FLOW, "_drain_helper"),
    ],
)
async def test_methods_of_a_class_that_were_replaced(loop, owner, name, when):
    called = []
    made = getattr(owner, name)

    def spy(self, *args, **kwargs):
        called.append(name)
        return made(self, *args, **kwargs)

    with contextlib.ExitStack() as patched:
        if when == "before":
            patched.enter_context(mock.patch.object(owner, name, spy))
        async with connected() as (reader, writer, _, to_server):
            to_server.write(b"before")
            assert await reader.readexactly(6) == b"before"
            if when == "after":
                patched.enter_context(mock.patch.object(owner, name, spy))
            called.clear()
            for read, message in (
                (lambda: reader.read(5), b"piece"),
                (lambda: reader.readexactly(5), b"exact"),
                (reader.readline, b"line\n"),
            ):
                reading = asyncio.create_task(read())
                await asyncio.sleep(0)
                to_server.transport.write(message)
                assert await reading == message
            writer.write(b"answer")
            await writer.drain()
            assert called
            patched.close()
            called.clear()
            to_server.transport.write(b"after\n")
            assert await reader.readline() == b"after\n"
            writer.write(b"answer")
            await writer.drain()
            assert not called


async def test_an_attribute_that_a_class_computes(loop):
    seen = []

    class Computed:
        def __get__(self, reader, _=None):
            if reader is None:
                return self
            seen.append("read")
            return reader.__dict__["_eof"]

        def __set__(self, reader, value):
            reader.__dict__["_eof"] = value

    async with connected() as (reader, _, _, to_server):
        with mock.patch.object(asyncio.StreamReader, "_eof", Computed(), create=True):
            to_server.write(b"come")
            assert await reader.read(4) == b"come"
        assert seen


async def test_classes_of_a_program(loop):
    called = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            called.append("feed_data")
            super().feed_data(data)

        async def read(self, n=-1):
            called.append("read")
            return await super().read(n)

    class Protocol(asyncio.StreamReaderProtocol):
        def data_received(self, data):
            called.append("data_received")
            super().data_received(data)

    class Writer(asyncio.StreamWriter):
        def write(self, data):
            called.append("write")
            super().write(data)

    async with (
        connected() as (_, to_us, *_),
        await asyncio.start_server(
            lambda *streams: made.set_result(streams), "127.0.0.1", 0
        ) as server,
    ):
        del to_us
        made = loop.create_future()
        reader = Reader(loop=loop)
        transport, protocol = await loop.create_connection(
            lambda: Protocol(reader), *server.sockets[0].getsockname()
        )
        writer = Writer(transport, protocol, reader, loop)
        assert (type(reader), type(protocol)) == (Reader, Protocol)
        _, other = await made
        other.write(b"come")
        assert await reader.read(4) == b"come"
        writer.write(b"go")
        await writer.drain()
        assert called == ["read", "data_received", "feed_data", "write"]
        for each in (writer, other):
            each.close()
            await each.wait_closed()


async def test_another_protocol_takes_over(loop):
    async with connected() as (reader, writer, _, to_server):
        second = asyncio.StreamReader(loop=loop)
        first = writer.transport.get_protocol()
        protocol = asyncio.StreamReaderProtocol(second, loop=loop)
        writer.transport.set_protocol(protocol)
        protocol.connection_made(writer.transport)
        to_server.write(b"for the second")
        assert await second.readexactly(14) == b"for the second"
        assert not reader._buffer

        writer.transport.set_protocol(first)
        to_server.write(b"for the first")
        assert await reader.readexactly(13) == b"for the first"


async def test_a_reader_without_a_transport(loop):
    async with connected() as (reader, *_):
        for kind in (asyncio.StreamReader, type(reader)):
            alone = kind(limit=4, loop=loop)
            reading = asyncio.create_task(alone.readline())
            await asyncio.sleep(0)
            alone.feed_data(b"by ")
            alone.feed_data(b"hand\nand rest")
            with pytest.raises(ValueError, match="longer than limit"):
                await reading
            alone.feed_eof()
            assert await alone.read() == b"and rest"


async def test_a_view_of_the_buffer_refuses_as_in_asyncio(loop, errors):
    async with connected(ended_by=[BufferError]) as (reader, writer, _, to_server):
        reader.feed_data(b"held")
        view = memoryview(reader._buffer)
        with pytest.raises(BufferError):
            await reader.read(2)
        to_server.write(b"more")
        async with asyncio.timeout(PATIENCE):
            while not errors:
                await asyncio.sleep(0.001)
        told = errors.pop()
        assert told["message"] == "Fatal error: protocol.data_received() call failed."
        assert isinstance(told["exception"], BufferError)
        assert told["transport"] is writer.transport
        view.release()


async def test_bytes_behind_the_end(loop, errors):
    async with connected(ended_by=[AssertionError]) as (reader, _, _, to_server):
        reader.feed_eof()
        to_server.write(b"more")
        async with asyncio.timeout(PATIENCE):
            while not errors:
                await asyncio.sleep(0.001)
        assert str(errors.pop()["exception"]) == "feed_data after feed_eof"


# Who is called back.


async def test_the_servers_callback_is_the_protocols(loop):
    seen = []

    class Callback:
        def __call__(self, reader, writer):
            protocol = writer.transport.get_protocol()
            seen.append((protocol._client_connected_cb, writer._protocol is protocol))
            writer.close()

    callback = Callback()
    async with await asyncio.start_server(callback, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    assert seen == [(callback, True)]


async def test_a_servers_callback_that_fails_is_told_of(loop, errors):
    def fails(reader, writer):
        writer.close()
        raise ZeroDivisionError

    async with await asyncio.start_server(fails, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    told = errors.pop()
    assert told["message"].startswith("Exception in callback StreamReaderProtocol.connection_made(")
    assert isinstance(told["exception"], ZeroDivisionError)


# Lives.


async def test_a_reader_can_go_before_its_connection(loop):
    ours, theirs = socket.socketpair()
    with theirs:
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        gone = weakref.ref(reader)
        del reader
        gc.collect()
        assert gone() is None
        theirs.send(b"for nobody")
        await asyncio.sleep(0.01)
        transport.close()
        await turns(3)


async def test_copies_and_pickles(loop):
    async with connected() as (reader, *_):
        reader.feed_data(b"there")
        other = copy.copy(reader)
        assert type(other) is type(reader)
        assert vars(other) == vars(reader)
        assert await other.read(2) == b"th"
        assert await reader.read(5) == b"ere"
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(reader)


async def test_cycles_through_an_operation_are_collected(loop):
    async with connected() as (reader, *_):
        alone = type(reader)(loop=loop)
        alone.operation = alone.read(5)
        alone.operation.send(None)
        gone = weakref.ref(alone)
        del alone
        gc.collect()
        assert gone() is None


async def test_a_waiter_that_does_anything(loop, errors):
    class Waiter:
        def __init__(self, does):
            self.does = does

        def cancelled(self):
            return False

        def set_result(self, _):
            self.does()

    async with connected(limit=2) as (reader, writer, _, to_server):

        def raises():
            raise ZeroDivisionError

        def empties():
            reader._buffer = bytearray()
            reader._limit = 10**6

        reader._waiter = Waiter(empties)
        to_server.write(b"a" * 10)
        await turns(10)
        await asyncio.sleep(0.01)
        assert reader._waiter is None
        assert not reader._paused

        def ends():
            vars(reader).clear()
            writer.transport.abort()
            vars(writer.transport.get_protocol())["_stream_reader_wr"] = None

        kept = dict(vars(reader))
        reader._waiter = Waiter(ends)
        to_server.write(b"a" * 10)
        async with asyncio.timeout(PATIENCE):
            while "_buffer" in vars(reader):
                await asyncio.sleep(0.001)
        await turns(5)
        vars(reader).update(kept)
        errors.clear()  # asyncio's feed_data() misses its attributes


async def test_debug_mode_that_is_turned_on_later(loop):
    async with connected() as (reader, writer, from_server, to_server):
        loop.set_debug(True)
        to_server.write(b"line\n")
        await to_server.drain()
        assert await reader.readline() == b"line\n"
        writer.write(b"answer")
        await writer.drain()
        assert await from_server.readexactly(6) == b"answer"
        loop.set_debug(False)


async def test_tls_from_the_start_and_later(loop, tls):
    for late in (False, True):
        made = loop.create_future()

        async def accept(reader, writer, made=made, late=late):
            if late:
                assert await reader.readline() == b"go\n"
                writer.write(b"ok\n")
                await writer.start_tls(tls.server)
            made.set_result((reader, writer))

        if late and sys.version_info < (3, 12):
            continue  # asyncio's start_tls() on a server's stream loses it
        server = await asyncio.start_server(
            accept, "127.0.0.1", 0, ssl=None if late else tls.server
        )
        async with server:
            more = {} if late else {"ssl": tls.client, "server_hostname": "localhost"}
            theirs, to_server = await asyncio.open_connection(
                *server.sockets[0].getsockname(), **more
            )
            if late:
                to_server.write(b"go\n")
                assert await theirs.readline() == b"ok\n"
                await to_server.start_tls(tls.client, server_hostname="localhost")
            reader, writer = await asyncio.wait_for(made, PATIENCE)
            for _ in range(3):
                to_server.write(b"question")
                assert await reader.readexactly(8) == b"question"
                writer.write(b"answer\n")
                await writer.drain()
                assert await theirs.readline() == b"answer\n"
            for each in (to_server, writer):
                each.close()
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(each.wait_closed(), PATIENCE)


def test_an_auditor_that_refuses_leaves_asyncios_classes():
    check_program("""
        import asyncio, sys, zloop

        def refuse(event, arguments):
            if event == "object.__setattr__" and arguments[1] == "__class__":
                raise RuntimeError("no class is changed here")

        async def main():
            async def echo(reader, writer):
                kinds.append((type(reader), type(writer)))
                writer.write(await reader.readline())
                await writer.drain()
                writer.close()

            kinds = []
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"line\\n")
                assert await reader.readline() == b"line\\n"
                writer.close()
                await writer.wait_closed()
            assert kinds == [(asyncio.StreamReader, asyncio.StreamWriter)], kinds

        sys.addaudithook(refuse)
        zloop.run(main())
    """)


class Unwilling:
    """A transport that pauses, and does not resume."""

    def pause_reading(self):
        pass

    def resume_reading(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("method", ["read", "readexactly"])
async def test_a_transport_that_fails_to_resume_fails_the_read(loop, method):
    async with connected(limit=4) as (reader, _, _, to_server):
        to_server.write(bytes(64))
        await arrived(reader, 64)
        reader._transport, reader._paused = Unwilling(), True
        task = asyncio.create_task(getattr(reader, method)(64))
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(task, PATIENCE)
        reader.feed_data(bytes(64))
        with pytest.raises(ZeroDivisionError):
            await getattr(reader, method)(64)


@pytest.mark.parametrize(
    ("method", "arguments", "late"),
    [
        ("readexactly", [100], "the end"),
        *(("readuntil", [b";"], late) for late in ("the end", "too much")),
        *(("readline", [], late) for late in ("the end", "too much")),
    ],
)
async def test_an_exception_that_comes_after_the_wait_is_the_next_reads(
    loop, method, arguments, late
):
    async def play(reader):
        reading = asyncio.create_task(getattr(reader, method)(*arguments))
        await asyncio.sleep(0)
        reader.feed_data(b"abc" if late == "the end" else b"x" * 60)
        if late == "the end":
            reader.feed_eof()
        reader.set_exception(ConnectionResetError("late"))
        (result,) = await asyncio.gather(reading, return_exceptions=True)
        (following,) = await asyncio.gather(reader.read(1), return_exceptions=True)
        return repr(result), bytes(reader._buffer), repr(following)

    async with connected(limit=16) as (reader, *_):
        stock = asyncio.StreamReader(limit=16, loop=loop)
        stock.set_transport(mock.Mock())
        assert await play(reader) == await play(stock)
