"""zloop.Loop: asyncio's loop, with LoopCore in front of it.

What runs once per callback or per message is in LoopCore, compiled. What runs once per loop or per
connection is here, or better still asyncio's own, of the running Python version: argument checks,
address order, happy eyeballs, signals and child processes are inherited.

The base is asyncio.SelectorEventLoop, without a selector: all of its Python code stands on
_add_reader, _remove_reader and their sisters, which LoopCore has.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import contextlib
import errno
import functools
import inspect
import io
import operator
import os
import selectors
import socket
import threading
from asyncio import base_events, constants, format_helpers, sslproto, trsock, unix_events
from asyncio.log import logger
from collections.abc import Iterable, Iterator
from typing import Any

from . import _zloop
from ._zloop import LoopCore, _Way
from .child import ChildTransport, is_ours_to_watch, thread_watcher


class _LastAtExit:
    """Stops the loops of daemon threads between the last atexit callback and the interpreter's end.

    The callbacks may be waiting for an answer of such a loop, those too that were registered before us and
    so are called after us. What runs after all of them is the end of the registry's references.
    """

    registered = False

    @classmethod
    def register(cls) -> None:
        cls.registered = True
        atexit.register(cls())

    def __call__(self) -> None:
        """Nothing yet."""

    def __del__(self) -> None:
        if threading.main_thread().is_alive():
            # A program has emptied the registry, and goes on. The next loop sees to it, not we, amid that.
            type(self).registered = False
        else:
            _zloop._end_interpreter()


class _Selector:
    """What others ask a loop's selector.

    asyncio's transports, in their repr(), who is watched for what. nest_asyncio, and whoever else has
    a _run_once() of their own, what has happened: that is queued, behind what is ready already.
    """

    def __init__(self, core: LoopCore) -> None:
        self._core = core

    def select(self, timeout: float | None = None) -> list[Any]:
        self._core._gather(timeout)
        return []

    def get_key(self, fd: int) -> selectors.SelectorKey:
        events = self._core._watched_events(fd)
        if not events:
            raise KeyError(f"{fd!r} is not registered")
        return selectors.SelectorKey(fd, fd, events, None)

    def close(self) -> None:
        """Nothing is open here."""


class _Front:
    """The first that is ready, where that is no handle: it stays in the queue until it is run."""

    _cancelled = False
    _context = None

    def __init__(self, core: LoopCore) -> None:
        self._core = core

    def _run(self) -> None:
        self._core._run_ready()


class _Ready:
    """The deque of handles that wait for their turn, for a _run_once() written in Python."""

    def __init__(self, core: LoopCore) -> None:
        self._core = core

    def __len__(self) -> int:
        return self._core._count_ready()

    def __iter__(self) -> Iterator[asyncio.Handle]:
        return iter(self._core._list_ready())

    def popleft(self) -> asyncio.Handle | _Front:
        return self._core._take_ready() or _Front(self._core)

    def append(self, handle: asyncio.Handle) -> None:
        if not self._core._put_back(handle, False):
            self._core._add_callback(handle)

    def appendleft(self, handle: asyncio.Handle) -> None:
        if not self._core._put_back(handle, True):
            self._core._add_callback(handle)

    def extendleft(self, handles: Iterable[asyncio.Handle]) -> None:
        for handle in handles:
            self.appendleft(handle)

    def clear(self) -> None:
        if not self._core._closed:  # close() has its own way
            for handle in self:
                handle.cancel()


def _file_to_send(file) -> tuple[int, int]:
    """Descriptor and size of what sendfile(2) may know how to read, or asyncio's refusal."""
    if not hasattr(unix_events.os, "sendfile"):  # a program took it away, to have the fallback
        raise asyncio.SendfileNotAvailableError("os.sendfile() is not available")
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        raise asyncio.SendfileNotAvailableError("not a regular file") from None
    try:
        return descriptor, os.fstat(descriptor).st_size
    except OSError:
        raise asyncio.SendfileNotAvailableError("not a regular file") from None


# Newer versions of asyncio move a file's position also where nothing was sent.
_MOVES_ALWAYS = asyncio.SelectorEventLoop._sock_sendfile_update_filepos.__code__.co_argcount == 3


def _file_was_sent(descriptor: int, offset: int, count: int) -> None:
    """Leave the file's position behind what was sent, whatever came of the rest."""
    if count or _MOVES_ALWAYS:
        with contextlib.suppress(OSError):  # of a pipe, say, which has none
            os.lseek(descriptor, offset + count, os.SEEK_SET)


# Newer versions of asyncio show a callback's arguments in debug mode only.
_DEBUG_SHOWS_ARGUMENTS = (
    "debug" in inspect.signature(format_helpers._format_callback_source).parameters
)

ssl = sslproto.ssl  # None where Python was built without

# What the native TLS reaches around: where any of it was replaced or derived, asyncio's own serves.
_STOCK_TLS = [
    (owner, look, look(owner))
    for owner, names in (
        [
            (sslproto, ("ssl", "SSLProtocol")),
            (ssl, ("MemoryBIO", "SSLObject")),
            (ssl.SSLObject, ("read", "write", "pending", "do_handshake", "unwrap", "getpeercert")),
            (
                sslproto.SSLProtocol,
                (
                    "__init__",
                    "connection_made",
                    "connection_lost",
                    "buffer_updated",
                    "eof_received",
                ),
            ),
        ]
        if ssl is not None
        else ()
    )
    for look in [operator.attrgetter(*names)]  # a third of the time of getattr for each
]
_STOCK_WRAP_BIO = ssl and ssl.SSLContext.wrap_bio

# Newer versions of asyncio hand over what a StreamReader holds already.
_HANDS_OVER = "_stream_reader" in asyncio.SelectorEventLoop.start_tls.__code__.co_consts


def _is_plain_tls(context: Any) -> bool:
    """Whether connections of this ssl.SSLContext are what ssl itself makes of them, and no more."""
    for owner, look, known in _STOCK_TLS:
        if look(owner) != known:
            return False
    return (
        ssl is not None
        and isinstance(context, ssl.SSLContext)
        and getattr(context.wrap_bio, "__func__", None) is _STOCK_WRAP_BIO
        and context.sslobject_class is ssl.SSLObject
    )


def _timeout(name: str, seconds: float | None, default: float) -> float:
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


def _timeouts(handshake: float | None, shutdown: float | None) -> tuple[float, float]:
    return (
        _timeout("ssl_handshake_timeout", handshake, constants.SSL_HANDSHAKE_TIMEOUT),
        _timeout("ssl_shutdown_timeout", shutdown, constants.SSL_SHUTDOWN_TIMEOUT),
    )


def _clear_frame_below(failure):
    """Drop what the frame has that the calling one has called. A function: its names keep nothing."""
    inner = failure.__traceback__ and failure.__traceback__.tb_next
    if inner is not None:
        inner.tb_frame.clear()


class Loop(LoopCore, asyncio.SelectorEventLoop):
    """An asyncio event loop on zloop's C++ core.

    Everything asyncio documents for its loops holds. Beyond it: ``backend``, the kernel interface in
    use, ``stats``, counters of turns, callbacks and system polls, and ``writes``, when a transport's
    write() sends: ``"now"``, as asyncio's, or ``"turn"``, at the end of the loop's turn. Not given, the
    environment's ``ZLOOP_WRITES`` says it.
    """

    _thread_watcher: Any = None  # of children for whom there was no pidfd

    def __init__(self, *, writes: str | None = None) -> None:
        if not _LastAtExit.registered:
            _LastAtExit.register()
        try:
            super().__init__(_Selector(self))
            self.writes = os.environ.get("ZLOOP_WRITES", "now") if writes is None else writes
        except BaseException:
            # No descriptor left, say: nothing stays of it, and __del__ finds it closed.
            for end in (getattr(self, "_ssock", None), getattr(self, "_csock", None)):
                if end is not None:
                    end.close()
            self._selector = None  # a cycle
            self._closed = True
            self._drop()
            raise
        self._ready = _Ready(self)

    def run_forever(self) -> None:
        """asyncio.BaseEventLoop.run_forever; its turns are one call, where _run_once() is nobody's but ours."""
        self._turns_until_stop = (
            type(self)._run_once is LoopCore._run_once and "_run_once" not in self.__dict__
        )
        try:
            super().run_forever()
        finally:
            self._turns_until_stop = False

    def close(self) -> None:
        """asyncio.BaseEventLoop.close"""
        self._check_idle()
        super().close()  # refuses while the loop runs
        self._drop()
        self._ready = collections.deque()  # what was there has the loop: no cycle through that

    def _end(self) -> None:
        """Close as asyncio.run() does, tasks, generators and threads first: for a C++ program's loop."""
        if not self.is_closed():
            with asyncio.Runner(loop_factory=lambda: self):
                pass

    # Callbacks: what is left to Python is what goes wrong, and debug mode.

    def _callback_failed(self, handle: asyncio.Handle | None, exc: BaseException) -> None:
        """The end of asyncio.Handle._run; the traceback begins in the callback."""
        if handle is None:
            self.call_exception_handler({"message": "Exception in callback", "exception": exc})
            return
        # One that was cancelled meanwhile still has both, for the call; asyncio's has not.
        called = (None, None) if handle._cancelled else (handle._callback, handle._args)
        more = {"debug": self.get_debug()} if _DEBUG_SHOWS_ARGUMENTS else {}
        words = format_helpers._format_callback_source(*called, **more)
        context = {"message": f"Exception in callback {words}", "exception": exc, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _run_in_debug(self, handle: asyncio.Handle) -> None:
        """Run one callback and say when it was slow; the middle of asyncio's _run_once."""
        self._current_handle = handle
        try:
            begin = self.time()
            handle._run()
            seconds = self.time() - begin
            if seconds >= self.slow_callback_duration:
                base_events.logger.warning(
                    "Executing %s took %.3f seconds", base_events._format_handle(handle), seconds
                )
        finally:
            self._current_handle = None
            handle = None  # a traceback may keep this frame: no cycle through it

    def _add_callback(self, handle: asyncio.Handle) -> None:
        """Queue a handle that asyncio made, as its signal handling does."""
        if not handle._cancelled:
            self.call_soon(handle._run)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing to count: a cancelled timer leaves the heap by itself."""

    # Transports.

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        super()._ensure_fd_no_transport(fd)  # those that asyncio's own code made
        transport = self._transport_on(fd if isinstance(fd, int) else int(fd.fileno()))
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _make_socket_transport(
        self, sock, protocol, waiter=None, *, extra=None, server=None, context=None
    ):
        if type(sock) is not socket.socket:
            # Its recv() and send() may be its own: asyncio calls them.
            more = {} if context is None else {"context": context}
            return super()._make_socket_transport(
                sock, protocol, waiter, extra=extra, server=server, **more
            )
        self._ensure_fd_no_transport(sock)
        return self._new_socket_transport(sock, protocol, waiter, extra, server, context)

    @functools.wraps(asyncio.SelectorEventLoop.getaddrinfo)
    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        if not self._executor_shutdown_called and _TO_ASK.is_as_made_for(self):
            answer = self._literal_info(host, port, family, type, proto, flags)
            if answer is not None:
                return answer
        return await super().getaddrinfo(
            host, port, family=family, type=type, proto=proto, flags=flags
        )

    @functools.wraps(asyncio.SelectorEventLoop.create_connection)
    async def create_connection(self, protocol_factory, host=None, port=None, **options):
        # What is numeric is ours, unless somebody has another idea of any step of asyncio's way.
        connecting = (
            self._connect(protocol_factory, host, port)
            if not options and _TO_CONNECT.is_as_made_for(self)
            else None
        )
        if connecting is None:
            return await super().create_connection(protocol_factory, host, port, **options)
        transport, protocol, waiter = await connecting
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _create_connection_transport(self, *args, **kwargs):
        """asyncio's; what it raises lies in a future of its frame: no cycle through that frame."""
        try:
            return await super()._create_connection_transport(*args, **kwargs)
        except BaseException as failure:
            _clear_frame_below(failure)
            raise

    def _make_ssl_transport(
        self,
        rawsock,
        protocol,
        sslcontext,
        waiter=None,
        *,
        server_side=False,
        server_hostname=None,
        extra=None,
        server=None,
        ssl_handshake_timeout=constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout=constants.SSL_SHUTDOWN_TIMEOUT,
        context=None,
    ):
        self._ensure_fd_no_transport(rawsock)
        if sslproto.ssl and not sslcontext:
            sslcontext = sslproto._create_transport_context(server_side, server_hostname)
        arguments = (protocol, sslcontext, waiter, server_side, server_hostname)
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        if type(rawsock) is socket.socket and _is_plain_tls(sslcontext):
            tls = self._make_tls(*arguments, *timeouts, True)
            self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
            return tls
        stock = sslproto.SSLProtocol(
            self,
            *arguments,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, stock, extra=extra, server=server, context=context)
        return stock._app_transport

    def _make_tls(
        self, protocol, context, waiter, server_side, hostname, handshake, shutdown, introduces
    ):
        """Make what is asyncio's SSLProtocol and its transport in one; checks as that does."""
        return self._new_tls_transport(
            protocol,
            context,
            waiter,
            bool(server_side),
            hostname if hostname and not server_side else None,
            *_timeouts(handshake, shutdown),
            introduces,
        )

    async def start_tls(
        self,
        transport,
        protocol,
        sslcontext,
        *,
        server_side=False,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    ):
        """asyncio.loop.start_tls, with our own TLS over transports of our own."""
        ours = (_zloop.SocketTransport, _zloop.SSLTransport)
        if not (isinstance(transport, ours) and _is_plain_tls(sslcontext)):
            return await super().start_tls(
                transport,
                protocol,
                sslcontext,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        waiter = self.create_future()
        tls = self._make_tls(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            False,
        )
        transport.pause_reading()  # nothing may come before connection_made()
        if _HANDS_OVER and server_side and isinstance(protocol, asyncio.StreamReaderProtocol):
            reader = getattr(protocol, "_stream_reader", None)
            if reader is not None and reader._buffer:
                tls._begin_with(reader._buffer)
                reader._buffer.clear()
        transport.set_protocol(tls)
        if transport._protocol_paused:
            tls._begin_paused()
        connected = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            connected.cancel()
            resumed.cancel()
            waiter = None  # no cycle through its exception
            raise
        return tls if tls._transport is not None else None  # it is over already

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        self._ensure_fd_no_transport(sock)
        families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        plain = type(sock) is socket.socket and sock.type == socket.SOCK_DGRAM
        if plain and sock.family in families:
            return self._new_datagram_transport(sock, protocol, address, waiter, extra)
        # Netlink, raw sockets, others' classes: their messages, and how they write addresses, are Python's.
        return super()._make_datagram_transport(sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return self._new_read_pipe_transport(pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return self._new_write_pipe_transport(pipe, protocol, waiter, extra)

    # Child processes.

    async def _make_subprocess_transport(
        self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra=None, **kwargs
    ):
        if not is_ours_to_watch(self):
            return await super()._make_subprocess_transport(
                protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
            )
        waiter = self.create_future()
        transport = ChildTransport(
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=waiter,
            extra=extra,
            **kwargs,
        )
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await asyncio.shield(transport._end())  # reaped, even when we are cancelled again
            raise
        return transport

    def _watch_in_thread(self, pid: int, transport: ChildTransport) -> None:
        if self._thread_watcher is None:
            self._thread_watcher = thread_watcher()
        self._thread_watcher.add_child_handler(pid, self._child_watcher_callback, transport)

    # What transports have to say.

    def _protocol_raised(self, transport, exc: BaseException, method: str) -> None:
        """asyncio calls error_received and datagram_received without a try, in callbacks of its own."""
        self._callback_failed(asyncio.Handle(getattr(transport, method), (), self), exc)

    def _transport_failed(self, transport, exc: BaseException, message: str) -> None:
        self.call_exception_handler(
            {
                "message": message,
                "exception": exc,
                "transport": transport,
                "protocol": transport.get_protocol(),
            }
        )

    def _tls_failed(self, tls, transport, exc: BaseException, message: str) -> None:
        """As asyncio's SSLProtocol, which calls itself the protocol."""
        self.call_exception_handler(
            {"message": message, "exception": exc, "transport": transport, "protocol": tls}
        )

    def _log_handshake(self, tls, milliseconds: float) -> None:
        logger.debug("%r: SSL handshake took %.1f ms", tls, milliseconds)

    def _log_failure(self, transport, exc: BaseException, message: str) -> None:
        logger.debug("%r: %s", transport, message, exc_info=exc)

    def _warn_lost_writes(self, words: str) -> None:
        logger.warning(words)

    def _log_debug(self, transport, what: str) -> None:
        logger.debug("%r %s", transport, what)

    def _log_info(self, transport, what: str) -> None:
        logger.info("%r %s", transport, what)

    # Files: once a file, so Python sees to its descriptor and to its position.

    async def _sock_sendfile_native(self, sock, file, offset, count):
        if type(sock) is not socket.socket:
            return await super()._sock_sendfile_native(sock, file, offset, count)
        descriptor, size = _file_to_send(file)
        if not (count or size):
            return 0
        sending = self._sock_sendfile(sock, descriptor, offset, count)
        try:
            return await sending
        finally:
            _file_was_sent(descriptor, offset, sending._done)

    async def _sendfile_native(self, transp, file, offset, count):
        if not isinstance(transp, _zloop.SocketTransport):
            return await super()._sendfile_native(transp, file, offset, count)
        self._check_sendfile_params(transp.get_extra_info("socket"), file, offset, count)
        descriptor, size = _file_to_send(file)
        if not (count or size):
            return 0
        reads = transp.is_reading()
        transp.pause_reading()
        try:
            sending = transp._begin_sendfile(descriptor, offset, count)
            try:
                return await sending
            finally:
                _file_was_sent(descriptor, offset, transp._end_sendfile())
        finally:
            if reads:
                transp.resume_reading()

    # Serving.

    def _start_serving(
        self,
        protocol_factory,
        sock,
        sslcontext=None,
        server=None,
        backlog=100,
        ssl_handshake_timeout=constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout=constants.SSL_SHUTDOWN_TIMEOUT,
        context=None,  # from 3.15 on
    ):
        if type(sock) is not socket.socket:  # it has an accept() of its own, perhaps
            more = [] if context is None else [context]
            super()._start_serving(
                protocol_factory,
                sock,
                sslcontext,
                server,
                backlog,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
                *more,
            )
            return
        tls = hand_over = None
        if sslcontext is not None:
            # Of wrong timeouts asyncio's coroutine tells, for each connection.
            with contextlib.suppress(Exception):
                tls = (sslcontext, *_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout))
            hand_over = functools.partial(
                self._accept_tls,
                protocol_factory,
                sslcontext,
                server,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
            )
        self._start_accepting(sock, protocol_factory, server, tls, hand_over, context)

    def _accepts_tls(self, terms: tuple[Any, float, float]) -> bool:
        """Whether what the acceptor makes of a connection is what asyncio's coroutine would make."""
        return _TO_ACCEPT_TLS.is_as_made_for(self) and _is_plain_tls(terms[0])

    def _accept_tls(
        self, protocol_factory, sslcontext, server, handshake, shutdown, conn, peername
    ):
        """Hand what is not plain TLS to asyncio's own coroutine, which waits for the handshake."""
        extra = {"peername": peername}
        self.create_task(
            self._accept_connection2(
                protocol_factory, conn, extra, sslcontext, server, handshake, shutdown
            )
        )

    def _stop_serving(self, sock) -> None:
        self._stop_accepting(sock)
        super()._stop_serving(sock)

    def _birth_failed(self, exc: BaseException, protocol, transport) -> None:
        """asyncio tells of what fails before a connection is made in debug mode only."""
        context = {
            "message": "Error on transport creation for incoming connection",
            "exception": exc,
        }
        if protocol is not None:
            context["protocol"] = protocol
        if transport is not None:
            context["transport"] = transport
        self.call_exception_handler(context)

    def _accept_failed(self, exc: OSError, sock: socket.socket) -> None:
        """No connection could be accepted; the next try is a second away."""
        resources = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
        self.call_exception_handler(
            {
                "message": "socket.accept() out of system resource"
                if exc.errno in resources
                else "socket.accept() failed",
                "exception": exc,
                "socket": trsock.TransportSocket(sock),
            }
        )


# asyncio's ways to names, connections and accepted ones, whose steps programs override, and tests and firewalls
# replace. Nobody has touched them: then ours are shorter.
_ASKING = (
    (asyncio.SelectorEventLoop, "getaddrinfo"),
    (Loop, "getaddrinfo"),
    (Loop, "run_in_executor"),
    (base_events, "socket"),
    (socket, "getaddrinfo"),
)
_TO_ASK = _Way(Loop, _ASKING)
_TO_CONNECT = _Way(
    Loop,
    (
        *_ASKING,
        (asyncio.SelectorEventLoop, "create_connection"),
        (asyncio.SelectorEventLoop, "_create_connection_transport"),
        (asyncio.SelectorEventLoop, "_make_socket_transport"),
        (asyncio.SelectorEventLoop, "sock_connect"),
        (Loop, "_connect_sock"),
        (Loop, "_create_connection_transport"),
        (Loop, "_ensure_resolved"),
        (Loop, "_make_socket_transport"),
        (Loop, "sock_connect"),
        (base_events, "_ipaddr_info"),
        (base_events, "_set_nodelay"),
        (socket, "socket"),
        (socket.socket, "__init__"),
        (socket.socket, "connect"),
        (socket.socket, "setblocking"),
    ),
)
_TO_ACCEPT_TLS = _Way(
    Loop,
    (
        (Loop, "_accept_connection2"),
        (Loop, "_make_ssl_transport"),
        (Loop, "_make_socket_transport"),
    ),
)
