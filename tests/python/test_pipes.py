"""What the ends of pipes promise as transports: FIFOs, sockets, terminals, character devices."""

from __future__ import annotations

import array
import asyncio
import contextvars
import errno
import gc
import io
import logging
import os
import pty
import socket
import tty

import pytest
from helpers import Recorder, check_program, kernel_was_asked, turns
from test_memory_safety import check

HIGH = 64 * 1024  # asyncio's high-water mark
KINDS = ["pipe", "fifo", "socket", "terminal"]


def reading_end(number, **more):
    return open(number, "rb", 0, **more)


def writing_end(number, **more):
    return open(number, "wb", 0, **more)


class Ends:
    """A reading and a writing end, as file objects, neither connected yet."""

    def __init__(self, kind, folder):
        if kind == "pipe":
            reader, writer = os.pipe()
        elif kind == "fifo":
            os.mkfifo(folder / "fifo")
            reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
            writer = os.open(folder / "fifo", os.O_WRONLY)
        elif kind == "socket":
            reader, writer = (sock.detach() for sock in socket.socketpair())
        else:
            reader, writer = pty.openpty()
            tty.setraw(writer)
        self.reader = reading_end(reader)
        self.writer = writing_end(writer)

    def close(self):
        self.reader.close()
        self.writer.close()


@pytest.fixture
def pipe(tmp_path):
    ends = Ends("pipe", tmp_path)
    yield ends
    ends.close()


@pytest.fixture(params=KINDS)
def any_pipe(request, tmp_path):
    ends = Ends(request.param, tmp_path)
    ends.kind = request.param
    yield ends
    ends.close()


async def connect_reader(loop, file, **hooks):
    return await loop.connect_read_pipe(lambda: Recorder(**hooks), file)


async def connect_writer(loop, file, **hooks):
    return await loop.connect_write_pipe(lambda: Recorder(**hooks), file)


async def close(transport, protocol):
    transport.close()
    await protocol.until("connection_lost")


def fill(transport, beyond=0):
    """Write until a backlog of more than `beyond` bytes stays with us; returns what was written."""
    written = bytearray()
    while transport.get_write_buffer_size() <= beyond:
        part = bytes(range(256)) * 64
        transport.write(part)
        written += part
    return bytes(written)


def drain(file):
    """What is in the pipe now."""
    os.set_blocking(file.fileno(), False)
    data = bytearray()
    while part := file.read(1 << 20):
        data += part
    return bytes(data)


async def drain_until(file, count):
    """The next `count` bytes, however many turns they take."""
    data = bytearray()
    while len(data) < count:
        data += drain(file)
        await asyncio.sleep(0)
    return bytes(data)


# What a transport is.


async def test_each_end_is_a_transport_of_its_kind(loop, pipe):
    reader, reading = await connect_reader(loop, pipe.reader)
    writer, writing = await connect_writer(loop, pipe.writer)
    assert isinstance(reader, asyncio.ReadTransport)
    assert not isinstance(reader, asyncio.WriteTransport)
    assert isinstance(writer, asyncio.WriteTransport)
    await close(reader, reading)
    await close(writer, writing)


async def test_extra_info_has_the_file_and_no_more(loop, pipe):
    reader, reading = await connect_reader(loop, pipe.reader)
    writer, writing = await connect_writer(loop, pipe.writer)
    assert reader.get_extra_info("pipe") is pipe.reader
    assert writer.get_extra_info("pipe") is pipe.writer
    assert reader.get_extra_info("peername") is None
    assert writer.get_extra_info("socket", "none") == "none"
    await close(reader, reading)
    await close(writer, writing)
    assert reader.get_extra_info("pipe") is pipe.reader


async def test_the_descriptor_becomes_non_blocking(loop, pipe):
    assert os.get_blocking(pipe.reader.fileno())
    reader, reading = await connect_reader(loop, pipe.reader)
    writer, writing = await connect_writer(loop, pipe.writer)
    assert not os.get_blocking(pipe.reader.fileno())
    assert not os.get_blocking(pipe.writer.fileno())
    await close(reader, reading)
    await close(writer, writing)


async def test_the_protocol_can_be_asked_for_and_changed(loop, pipe):
    reader, first = await connect_reader(loop, pipe.reader)
    second = Recorder()
    assert reader.get_protocol() is first
    reader.set_protocol(second)
    assert reader.get_protocol() is second
    pipe.writer.write(b"to the second")
    await second.until_received(13)
    assert "data_received" not in first.seen
    await close(reader, second)
    assert reader.get_protocol() is None


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
async def test_wrong_arguments_are_refused_in_asyncio_s_words(loop, connect, pipe):
    file = pipe.reader if connect is connect_reader else pipe.writer
    transport, protocol = await connect(loop, file)
    kind = "Read" if connect is connect_reader else "Write"
    name = rf"_Unix{kind}PipeTransport.set_protocol\(\)"
    with pytest.raises(TypeError, match=name + " missing 1 required positional argument"):
        transport.set_protocol()
    with pytest.raises(TypeError, match=name + " got an unexpected keyword argument 'proto'"):
        transport.set_protocol(proto=protocol)
    await close(transport, protocol)


async def test_attributes_can_be_set_and_methods_replaced(loop, pipe):
    reader, reading = await connect_reader(loop, pipe.reader)
    reader.note = "mine"
    reader.is_reading = lambda: "replaced"
    assert (reader.note, reader.is_reading()) == ("mine", "replaced")
    await close(reader, reading)


async def test_repr_names_the_descriptor_and_what_it_does(loop, pipe):
    number, other = pipe.reader.fileno(), pipe.writer.fileno()
    reader, reading = await connect_reader(loop, pipe.reader)
    assert repr(reader).endswith(f"ReadPipeTransport fd={number} polling>")
    reader.pause_reading()
    assert repr(reader).endswith(f"ReadPipeTransport fd={number} idle>")
    writer, writing = await connect_writer(loop, pipe.writer)
    assert repr(writer).endswith(f"WritePipeTransport fd={other} idle bufsize=0>")
    fill(writer)
    size = writer.get_write_buffer_size()
    assert repr(writer).endswith(f"WritePipeTransport fd={other} polling bufsize={size}>")
    writer.close()
    assert repr(writer).endswith(f"WritePipeTransport closing fd={other} polling bufsize={size}>")
    writer.abort()
    await writing.until("connection_lost")
    assert repr(writer).endswith(f"WritePipeTransport closed fd={other} closed>")
    await close(reader, reading)
    assert repr(reader).endswith(f"ReadPipeTransport closed fd={number} closed>")


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
async def test_a_regular_file_is_no_pipe_and_is_left_alone(loop, connect, tmp_path):
    words = {
        connect_reader: r"Pipe transport is for pipes/sockets only\.",
        connect_writer: r"Pipe transport is only for pipes, sockets and character devices",
    }
    with open(tmp_path / "file", "w+b", 0) as file:
        with pytest.raises(ValueError, match=words[connect]):
            await connect(loop, file)
        assert os.get_blocking(file.fileno())
        assert not file.closed


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
async def test_what_has_no_descriptor_is_no_pipe(zloop_loop, connect, pipe):
    """As on asyncio, whose half-made transports warn beside."""
    with pytest.raises(AttributeError, match="fileno"):
        await connect(zloop_loop, object())
    pipe.close()
    with pytest.raises(ValueError, match="closed file"):
        await connect(zloop_loop, pipe.reader)


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
async def test_a_wait_for_the_connection_that_is_cancelled_closes(loop, connect, pipe):
    file = pipe.reader if connect is connect_reader else pipe.writer
    task = loop.create_task(connect(loop, file))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns(2)
    assert file.closed


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
async def test_connection_made_comes_before_the_connecting_task(loop, connect, pipe):
    seen = []
    file = pipe.reader if connect is connect_reader else pipe.writer
    transport, protocol = await connect(
        loop, file, connection_made=lambda self: seen.append("made")
    )
    seen.append("connected")
    assert seen == ["made", "connected"]
    await close(transport, protocol)


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
@pytest.mark.without_debug
async def test_a_transport_that_connection_made_closes_is_lost_at_once(loop, connect, pipe):
    file = pipe.reader if connect is connect_reader else pipe.writer
    pipe.writer.write(b"never seen")
    _, protocol = await connect(loop, file, connection_made=lambda self: self.transport.close())
    await protocol.until("connection_lost")
    assert protocol.seen == ["connection_made", "connection_lost"]
    assert protocol.losses == [None]
    assert file.closed


async def test_the_protocol_is_called_in_the_context_of_whoever_connected(loop, pipe):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    async def connect():
        variable.set("inside")
        return await connect_reader(
            loop, pipe.reader, data_received=lambda *_: seen.append(variable.get())
        )

    reader, reading = await loop.create_task(connect())
    pipe.writer.write(b"x")
    await reading.until("data_received")
    assert seen == ["inside"]
    await close(reader, reading)


@pytest.mark.parametrize("connect", [connect_reader, connect_writer])
def test_a_transport_nobody_closed_warns_and_closes_its_file(new_loop, connect, pipe):
    loop = new_loop()
    file = pipe.reader if connect is connect_reader else pipe.writer
    transport, _ = loop.run_until_complete(connect(loop, file))
    loop.close()
    with pytest.warns(ResourceWarning, match=r"unclosed transport <.*PipeTransport fd=\d+ open>"):
        del transport, _
        gc.collect()
    assert file.closed


async def test_a_paused_transport_that_nobody_holds_is_collected(loop, pipe):
    reader, _ = await connect_reader(loop, pipe.reader)
    reader.pause_reading()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del reader, _
        gc.collect()
    assert pipe.reader.closed


# Reading.


async def test_what_is_written_arrives(loop, any_pipe):
    reader, reading = await connect_reader(loop, any_pipe.reader)
    for part in (b"one", b"two", b"three"):
        any_pipe.writer.write(part)
        await reading.until_received(len(reading.data) + len(part))
    assert reading.data == b"onetwothree"
    assert reading.seen == ["connection_made"] + ["data_received"] * 3
    await close(reader, reading)


async def test_one_read_takes_all_that_a_pipe_holds(loop, pipe):
    sent = os.urandom(60_000)
    pipe.writer.write(sent)
    received = []
    reader, reading = await connect_reader(
        loop, pipe.reader, data_received=lambda self, data: received.append(data)
    )
    await reading.until_received(len(sent))
    assert received == [sent]
    await close(reader, reading)


async def test_what_was_written_before_the_end_arrives_before_it(loop, any_pipe):
    if any_pipe.kind == "terminal":
        return  # it forgets; its end has a test of its own
    reader, reading = await connect_reader(loop, any_pipe.reader)
    any_pipe.writer.write(b"the last words")
    any_pipe.writer.close()
    await reading.until("connection_lost")
    assert reading.data == b"the last words"
    assert reading.seen == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert reading.losses == [None]
    assert any_pipe.reader.closed
    assert reader.is_closing()


async def test_a_true_eof_received_keeps_no_pipe_open(loop, pipe):
    _, reading = await connect_reader(loop, pipe.reader, eof_received=lambda self: True)
    pipe.writer.close()
    await reading.until("connection_lost")
    assert reading.losses == [None]


async def test_the_end_comes_in_turns_of_its_own(loop, pipe):
    order = []
    reader, reading = await connect_reader(
        loop,
        pipe.reader,
        eof_received=lambda self: order.append("eof") or loop.call_soon(order.append, "after eof"),
        connection_lost=lambda self, exc: order.append("lost"),
    )
    pipe.writer.close()
    await reading.until("connection_lost")
    await turns()
    assert order == ["eof", "lost", "after eof"]
    assert reader.is_closing()


async def test_closing_in_eof_received_loses_the_connection_once(loop, pipe):
    _, reading = await connect_reader(
        loop, pipe.reader, eof_received=lambda self: self.transport.close()
    )
    pipe.writer.close()
    await reading.until("connection_lost")
    await turns(2)
    assert reading.losses == [None]


async def test_the_end_of_a_terminal_is_an_error_that_is_not_shouted(loop, tmp_path):
    ends = Ends("terminal", tmp_path)
    reader, reading = await connect_reader(loop, ends.reader)
    ends.writer.close()
    await reading.until("connection_lost")
    (lost,) = reading.losses
    assert isinstance(lost, OSError)
    assert lost.errno == errno.EIO
    assert "eof_received" not in reading.seen
    assert ends.reader.closed
    assert reader.is_closing()


async def test_other_errors_of_reading_are_told(loop, errors):
    ours, theirs = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 0))
    ours.close(), theirs.close()
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    listener.close()
    file = reading_end(one.detach())
    _, reading = await connect_reader(loop, file)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    other.close()
    await reading.until("connection_lost")
    (lost,) = reading.losses
    assert isinstance(lost, ConnectionResetError)
    (told,) = errors
    errors.clear()
    assert told["message"] == "Fatal read error on pipe transport"
    assert told["exception"] is lost
    assert told["protocol"] is reading
    assert repr(told["transport"]).endswith("closed>")


async def test_an_exception_of_data_received_is_told_and_reading_goes_on(loop, pipe, errors):
    def fail_once(self, data):
        if self.seen.count("data_received") == 1:
            raise ZeroDivisionError

    reader, reading = await connect_reader(loop, pipe.reader, data_received=fail_once)
    pipe.writer.write(b"one")
    await reading.until("data_received")
    pipe.writer.write(b"two")
    await reading.until("data_received", 2)
    (told,) = errors
    errors.clear()
    assert told["message"].startswith("Exception in callback")
    assert isinstance(told["exception"], ZeroDivisionError)
    await close(reader, reading)


async def test_a_paused_transport_reads_nothing_until_it_is_resumed(loop, any_pipe):
    reader, reading = await connect_reader(loop, any_pipe.reader)
    assert reader.is_reading()
    reader.pause_reading()
    reader.pause_reading()
    assert not reader.is_reading()
    any_pipe.writer.write(b"waits")
    await kernel_was_asked()
    assert not reading.data
    reader.resume_reading()
    reader.resume_reading()
    assert reader.is_reading()
    await reading.until_received(5)
    await close(reader, reading)
    assert not reader.is_reading()


async def test_reading_can_be_paused_before_it_begins(loop, pipe):
    pipe.writer.write(b"waits")
    reader, reading = await connect_reader(
        loop, pipe.reader, connection_made=lambda self: self.transport.pause_reading()
    )
    await kernel_was_asked()
    assert not reading.data
    reader.resume_reading()
    await reading.until_received(5)
    await close(reader, reading)


async def test_pausing_in_data_received_leaves_the_rest_in_the_pipe(loop, pipe):
    reader, reading = await connect_reader(
        loop, pipe.reader, data_received=lambda self, _: self.transport.pause_reading()
    )
    pipe.writer.write(b"first")
    await reading.until_received(5)
    pipe.writer.write(b"second")
    await kernel_was_asked()
    assert reading.data == b"first"
    reader.resume_reading()
    await reading.until_received(11)
    await close(reader, reading)


async def test_pausing_and_resuming_a_closed_transport_does_nothing(loop, pipe):
    reader, reading = await connect_reader(loop, pipe.reader)
    await close(reader, reading)
    reader.pause_reading()
    reader.resume_reading()
    reader.close()
    await turns(2)
    assert reading.losses == [None]


async def test_a_transport_that_is_closed_reads_no_more(loop, pipe):
    reader, reading = await connect_reader(loop, pipe.reader)
    pipe.writer.write(b"too late")
    reader.close()
    assert reader.is_closing()
    await reading.until("connection_lost")
    assert reading.seen == ["connection_made", "connection_lost"]
    assert reading.losses == [None]


@pytest.mark.parametrize("mode", ["rb", "wb"])
async def test_a_file_that_fails_to_close_is_told_of(zloop_loop, errors, pipe, mode):
    # asyncio tells of it as well, and then believes that the transport is still open.
    class Failing(io.FileIO):
        def close(self):
            if not self.closed:
                super().close()
                raise OSError("no")

    connect, end = (connect_reader, pipe.reader) if mode == "rb" else (connect_writer, pipe.writer)
    transport, protocol = await connect(zloop_loop, Failing(os.dup(end.fileno()), mode))
    await close(transport, protocol)
    await turns(2)
    (told,) = errors
    errors.clear()
    assert told["message"].startswith("Exception in callback")
    assert str(told["exception"]) == "no"


async def test_a_device_that_cannot_be_watched_is_told_of_and_can_be_closed(loop, errors):
    file = reading_end("/dev/null")
    reader, reading = await connect_reader(loop, file)
    (told,) = errors
    errors.clear()
    assert isinstance(told["exception"], PermissionError)
    assert told["message"].startswith("Exception in callback")
    assert reader.is_reading()
    await close(reader, reading)
    assert file.closed


async def test_closing_behind_the_transport_ends_nothing_but_can_be_followed_by_close(loop, pipe):
    reader, reading = await connect_reader(loop, pipe.reader)
    pipe.reader.close()
    await asyncio.sleep(0.001)  # asks the kernel, and opens nothing
    assert not reading.losses
    await close(reader, reading)
    assert reading.losses == [None]


# Writing.


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_write_takes_every_bytes_like_object(loop, pipe, kind):
    writer, writing = await connect_writer(loop, pipe.writer)
    writer.write(kind(b"hello "))
    writer.write(kind(b""))
    writer.writelines([kind(b"wor"), kind(b"ld")])
    assert drain(pipe.reader) == b"hello world"
    await close(writer, writing)


async def test_what_is_written_leaves_at_once(loop, any_pipe):
    writer, writing = await connect_writer(loop, any_pipe.writer)
    writer.write(b"now")
    assert any_pipe.reader.read(10) == b"now"
    assert writer.get_write_buffer_size() == 0
    await close(writer, writing)


async def test_writes_of_one_callback_stay_apart(loop):
    """Whoever shares a pipe relies on it: up to PIPE_BUF, a write is not torn."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, writing_end(ours.detach()) as file:
        writer, writing = await connect_writer(loop, file)
        writer.write(b"one")
        writer.write(b"two")
        assert [theirs.recv(100), theirs.recv(100)] == [b"one", b"two"]
        await close(writer, writing)


@pytest.mark.parametrize("wrong", ["text", 7, None, array.array("b", [1])])
async def test_write_refuses_what_is_no_bytes(loop, pipe, wrong):
    writer, writing = await connect_writer(loop, pipe.writer)
    with pytest.raises(AssertionError) as raised:
        writer.write(wrong)
    assert str(raised.value) == repr(wrong)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'data'"):
        writer.write()
    await close(writer, writing)


async def test_what_the_pipe_does_not_take_is_kept_and_sent_in_order(loop, pipe):
    writer, writing = await connect_writer(loop, pipe.writer)
    written = fill(writer, beyond=100_000)
    more = bytearray(b"changed later")
    writer.write(more)
    more[:] = bytes(len(more))
    whole = written + b"changed later"
    assert await drain_until(pipe.reader, len(whole)) == whole
    await writing.until("resume_writing")
    assert writer.get_write_buffer_size() == 0
    await close(writer, writing)


async def test_the_protocol_is_paused_above_the_limit_and_resumed_once_all_is_sent(loop, pipe):
    writer, writing = await connect_writer(loop, pipe.writer)
    assert writer.get_write_buffer_limits() == (HIGH // 4, HIGH)
    written = fill(writer, beyond=HIGH)
    assert writing.seen == ["connection_made", "pause_writing"]
    await drain_until(pipe.reader, len(written))
    await writing.until("resume_writing")
    assert writer.get_write_buffer_size() == 0
    assert writing.seen == ["connection_made", "pause_writing", "resume_writing"]
    await close(writer, writing)


async def test_limits_can_be_set_and_hold_at_once(loop, pipe):
    writer, writing = await connect_writer(loop, pipe.writer)
    fill(writer)
    assert "pause_writing" not in writing.seen
    writer.set_write_buffer_limits(high=0)
    assert writer.get_write_buffer_limits() == (0, 0)
    assert "pause_writing" in writing.seen
    writer.set_write_buffer_limits(high=100, low=10)
    assert writer.get_write_buffer_limits() == (10, 100)
    with pytest.raises(ValueError, match="must be >= low"):
        writer.set_write_buffer_limits(high=1, low=2)
    writer.abort()
    await writing.until("connection_lost")


async def test_an_exception_of_pause_writing_is_told_and_nothing_else(loop, pipe, errors):
    def fail(self):
        raise ZeroDivisionError

    writer, writing = await connect_writer(loop, pipe.writer, pause_writing=fail)
    written = fill(writer, beyond=HIGH)
    (told,) = errors
    errors.clear()
    assert told["message"] == "protocol.pause_writing() failed"
    assert await drain_until(pipe.reader, len(written)) == written
    await writing.until("resume_writing")
    await close(writer, writing)


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_what_is_kept_is_sent_before_the_end(loop, pipe, end):
    writer, writing = await connect_writer(loop, pipe.writer)
    assert writer.can_write_eof()
    written = fill(writer, beyond=100_000)
    getattr(writer, end)()
    assert writer.is_closing()
    getattr(writer, end)()
    writer.close()
    writer.write(b"ignored")
    assert await drain_until(pipe.reader, len(written)) == written
    await writing.until("connection_lost")
    assert writing.losses == [None]
    assert pipe.reader.read() == b""  # the end
    assert pipe.writer.closed


async def test_abort_forgets_what_is_kept(loop, pipe):
    writer, writing = await connect_writer(loop, pipe.writer)
    written = fill(writer, beyond=100_000)
    writer.abort()
    assert writer.get_write_buffer_size() == 0
    assert writer.is_closing()
    await writing.until("connection_lost")
    assert writing.losses == [None]
    assert len(drain(pipe.reader)) < len(written)


async def test_writes_to_a_transport_that_is_closed_vanish_and_warn_from_the_sixth_on(
    loop, pipe, caplog
):
    writer, writing = await connect_writer(loop, pipe.writer)
    writer.close()
    for _ in range(7):
        writer.write(b"lost")
    await writing.until("connection_lost")
    writer.write(b"lost")
    words = "pipe closed by peer or os.write(pipe, data) raised exception."
    assert [record.getMessage() for record in caplog.records] == [words] * 3
    assert pipe.reader.read() == b""


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
async def test_a_writer_is_told_that_its_readers_are_gone(loop, tmp_path, kind):
    ends = Ends(kind, tmp_path)
    writer, writing = await connect_writer(loop, ends.writer)
    ends.reader.close()
    await writing.until("connection_lost")
    assert writing.losses == [None]
    assert ends.writer.closed
    assert writer.is_closing()


async def test_a_writer_whose_bytes_were_not_read_is_told_so(loop, pipe):
    writer, writing = await connect_writer(loop, pipe.writer)
    fill(writer)
    pipe.reader.close()
    await writing.until("connection_lost")
    (lost,) = writing.losses
    assert isinstance(lost, BrokenPipeError)
    assert lost.args == ()
    assert writer.get_write_buffer_size() == 0


async def test_writing_before_the_end_of_the_readers_was_noticed_ends_the_connection(loop, pipe):
    writer, writing = await connect_writer(loop, pipe.writer)
    pipe.reader.close()
    writer.write(b"x")
    assert writer.is_closing()
    writer.write(b"y")
    await writing.until("connection_lost")
    (lost,) = writing.losses
    assert isinstance(lost, BrokenPipeError)
    assert lost.errno == errno.EPIPE


async def test_a_peer_that_writes_to_a_writer_counts_as_gone(loop):
    """A socket's other side can; to asyncio it is the sign that it watches for."""
    ours, theirs = socket.socketpair()
    with theirs, writing_end(ours.detach()) as file:
        _, writing = await connect_writer(loop, file)
        theirs.send(b"!")
        await writing.until("connection_lost")
        assert writing.losses == [None]


async def test_a_character_device_takes_what_is_written(loop):
    with writing_end("/dev/null") as file:
        writer, writing = await connect_writer(loop, file)
        writer.write(bytes(1_000_000))
        assert writer.get_write_buffer_size() == 0
        await close(writer, writing)
        assert file.closed


async def test_both_directions_of_one_terminal(loop):
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    reader, reading = await connect_reader(loop, reading_end(ours, closefd=False))
    writer, writing = await connect_writer(loop, writing_end(ours))
    writer.write(b"question")
    assert os.read(theirs, 100) == b"question"
    os.write(theirs, b"answer")
    await reading.until_received(6)
    writer.write(b"another")
    assert os.read(theirs, 100) == b"another"
    await close(reader, reading)
    await close(writer, writing)
    os.close(theirs)


async def test_streams_over_a_pipe(loop, pipe):
    stream = asyncio.StreamReader()
    reader, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), pipe.reader
    )
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, pipe.writer
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def write():
        for number in range(1000):
            writer.write(b"%6d\n" % number * 100)
            await writer.drain()
        writer.close()

    task = loop.create_task(write())
    read = await stream.read()
    assert read == b"".join(b"%6d\n" % number * 100 for number in range(1000))
    await task
    reader.close()
    await turns(2)


# Debug mode.


async def test_debug_mode_logs_what_happens_to_a_pipe(loop, pipe, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    reader, reading = await connect_reader(loop, pipe.reader)
    writer, _ = await connect_writer(loop, pipe.writer)
    reader.pause_reading()
    reader.resume_reading()
    writer.close()
    await reading.until("connection_lost")
    loop.set_debug(False)
    said = [record.getMessage().rsplit(">", 1)[-1].strip() for record in caplog.records]
    assert [words for words in said if words in ("pauses reading", "resumes reading")] == [
        "pauses reading",
        "resumes reading",
    ]
    assert "was closed by peer" in said


# What asyncio's own transports do not promise.


async def test_connection_lost_comes_once_whatever_is_called(zloop_loop, pipe):
    writer, writing = await connect_writer(zloop_loop, pipe.writer)
    fill(writer)
    writer.close()
    writer.abort()
    writer.abort()
    pipe.reader.close()
    await writing.until("connection_lost")
    writer.abort()
    writer.close()
    await turns(3)
    assert writing.losses == [None]


async def test_closing_in_resume_writing_loses_the_connection_once(zloop_loop, pipe):
    writer, writing = await connect_writer(
        zloop_loop, pipe.writer, resume_writing=lambda self: self.transport.close()
    )
    written = fill(writer, beyond=HIGH)
    await drain_until(pipe.reader, len(written))
    await writing.until("connection_lost")
    await turns(3)
    assert writing.losses == [None]


async def test_a_number_that_is_another_s_by_now_is_neither_read_nor_written(zloop_loop, pipe):
    reader, reading = await connect_reader(zloop_loop, pipe.reader)
    writer, writing = await connect_writer(zloop_loop, pipe.writer)
    numbers = pipe.reader.fileno(), pipe.writer.fileno()
    pipe.writer.close()
    pipe.reader.close()  # both behind their transports
    r, w = os.pipe()
    assert (r, w) == numbers
    seen = []
    zloop_loop.add_reader(r, lambda: seen.append(os.read(r, 100)))
    writer.write(b"not into the new pipe")
    reader.pause_reading()
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.resume_reading()
    reader.close()
    await reading.until("connection_lost")
    await writing.until("connection_lost")
    (lost,) = writing.losses
    assert lost.errno == errno.EBADF
    assert seen == []
    os.write(w, b"for its owner")
    while not seen:
        await turns()
    assert seen == [b"for its owner"]
    zloop_loop.remove_reader(r)
    os.close(r), os.close(w)


def test_keyboard_interrupt_in_data_received_leaves_the_loop_at_once():
    source = """
    import asyncio, os, zloop

    class Interrupted(asyncio.Protocol):
        def data_received(self, data):
            raise KeyboardInterrupt

    async def main():
        loop = asyncio.get_running_loop()
        r, w = os.pipe()
        transport, _ = await loop.connect_read_pipe(Interrupted, open(r, "rb", 0))
        os.write(w, b"x")
        try:
            await asyncio.sleep(10)
        finally:
            transport.close()

    try:
        zloop.run(main())
    except KeyboardInterrupt:
        print("interrupted")
    """
    assert check_program(source) == "interrupted\n"


# Hot scenarios, as in test_memory_safety.py.


@pytest.mark.parametrize("debug", [False, True])
def test_anything_may_happen_in_any_callback_of_a_pipe(debug):
    check(
        """
    debug = sys.argv[1] == "True"
    ACTIONS = {
        "close": lambda p: p.transport.close(),
        "abort": lambda p: getattr(p.transport, "abort", p.transport.close)(),
        "end": lambda p: getattr(p.transport, "write_eof", p.transport.close)(),
        "raise": lambda p: 1 / 0,
        "pause": lambda p: p.transport.pause_reading(),
        "write": lambda p: p.transport.write(b"x" * 1_000_000),
        "write and abort": lambda p: (p.transport.write(b"x" * 10), p.transport.abort()),
        "drop": lambda p: p.__dict__.pop("transport", None),
        "swap": lambda p: p.transport.set_protocol(Base()),
        "collect": lambda p: gc.collect(),
        "close the file": lambda p: p.transport.get_extra_info("pipe").close() if p.ready else None,
        "repr": lambda p: repr(p.transport),
    }
    HOOKS = ["connection_made", "data_received", "eof_received", "connection_lost", "pause_writing",
             "resume_writing"]

    class Acting(Base):
        hook, action, ready = "", None, False

    def acting(name):
        def method(self, *args):
            if name == "connection_made":
                Base.connection_made(self, *args)
            if self.hook == name and self.transport is not None:
                ACTIONS[self.action](self)
        return method

    for name in HOOKS:
        setattr(Acting, name, acting(name))

    async def main():
        loop = asyncio.get_running_loop()
        quiet(loop)
        for hook in HOOKS[1:] if debug else HOOKS:  # asyncio's debug mode wants a file that is open
            for action in ACTIONS:
                for ends in (False, True):
                    def factory():
                        protocol = Acting()
                        protocol.hook, protocol.action = hook, action
                        return protocol
                    r, w = os.pipe()
                    reader, one = await loop.connect_read_pipe(factory, open(r, "rb", 0))
                    writer, other = await loop.connect_write_pipe(factory, open(w, "wb", 0))
                    one.ready = other.ready = True
                    writer.write(b"x" * 300_000)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    if ends:
                        reader.close()
                        await asyncio.sleep(0.001)
                    writer.close()
                    await asyncio.sleep(0.001)
                    writer.abort()
                    reader.close()
                    del reader, writer, one, other
                    await asyncio.sleep(0)
        gc.collect()

    warnings.simplefilter("ignore", ResourceWarning)  # some drop what they should close
    zloop.run(main(), debug=debug)
    """,
        str(debug),
    )


def test_closing_a_loop_with_pipes_in_every_state():
    check("""
    warnings.simplefilter("ignore", ResourceWarning)  # that they were open is the point

    for round in range(10):
        loop = zloop.new_event_loop()
        kept = []
        for state in ("idle", "paused", "full", "closing", "unread", "ended"):
            r, w = os.pipe()
            reader, _ = loop.run_until_complete(loop.connect_read_pipe(Base, open(r, "rb", 0)))
            writer, _ = loop.run_until_complete(loop.connect_write_pipe(Base, open(w, "wb", 0)))
            if state != "unread":
                reader.pause_reading()
            if state not in ("idle", "paused"):
                writer.write(b"x" * 1_000_000)
            if state == "closing":
                writer.close()
            if state == "ended":
                writer.abort()
                reader.close()
            kept += [reader, writer, _] if round % 2 else [reader]
            del reader, writer, _
        loop.close()
        for transport in kept:
            repr(transport)
            if isinstance(transport, asyncio.BaseTransport):
                transport.get_extra_info("pipe").fileno
                transport.is_closing()
        del transport, loop
        gc.collect()
        kept.clear()
        gc.collect()
    """)


def test_a_loop_that_is_dropped_takes_its_pipes_along():
    check("""
    warnings.simplefilter("ignore", ResourceWarning)

    def one():
        loop = zloop.new_event_loop()
        r, w = os.pipe()
        reader, _ = loop.run_until_complete(loop.connect_read_pipe(Base, open(r, "rb", 0)))
        writer, _ = loop.run_until_complete(loop.connect_write_pipe(Base, open(w, "wb", 0)))
        writer.write(b"x" * 1_000_000)
        return weakref.ref(loop), weakref.ref(reader), weakref.ref(writer)

    before = len(os.listdir("/proc/self/fd"))
    references = [reference for _ in range(20) for reference in one()]
    gc.collect()
    assert [reference() for reference in references] == [None] * 60
    assert len(os.listdir("/proc/self/fd")) == before
    """)
