import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from socket import socket
from typing import Any, ClassVar, TypedDict, TypeVar, final

from typing_extensions import Buffer, TypeVarTuple, Unpack, disjoint_base

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

__version__: str

class _Stats(TypedDict):
    turns: int
    ops: int
    polls: int
    waits: int

@final
class Handle(asyncio.Handle):
    _callback: Callable[..., object] | None
    _source_traceback: list[Any] | None

@final
class TimerHandle(asyncio.TimerHandle):
    _callback: Callable[..., object] | None
    _source_traceback: list[Any] | None

if sys.version_info >= (3, 14):
    @final
    class _ThreadSafeHandle(asyncio.Handle): ...

@final
class SocketTransport(asyncio.Transport):
    _start_tls_compatible: ClassVar[bool]
    @property
    def _loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def _sock_fd(self) -> int: ...

@final
class DatagramTransport(asyncio.transports._FlowControlMixin, asyncio.DatagramTransport):
    @property
    def _loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def _sock_fd(self) -> int: ...

@final
class SSLTransport(asyncio.transports._FlowControlMixin):
    _start_tls_compatible: ClassVar[bool]
    @property
    def _loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def _protocol_paused(self) -> bool: ...
    @property
    def _ssl_protocol(self) -> SSLTransport: ...
    @property
    def _transport(self) -> asyncio.Transport | None: ...
    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_read_buffer_limits(self) -> tuple[int, int]: ...
    def get_read_buffer_size(self) -> int: ...
    def connection_made(self, transport: asyncio.BaseTransport, /) -> None: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...
    def data_received(self, data: bytes, /) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

@final
class SockOperation:  # registered as a collections.abc.Coroutine
    __name__: str
    __qualname__: str
    @property
    def cr_running(self) -> bool: ...
    @property
    def cr_suspended(self) -> bool: ...
    def send(self, value: object) -> asyncio.Future[Any]: ...
    def throw(
        self, type: type[BaseException] | BaseException, value: Any = ..., traceback: Any = ..., /
    ) -> asyncio.Future[Any]: ...
    def close(self) -> None: ...
    def __await__(self) -> Generator[asyncio.Future[Any], object, Any]: ...
    def __iter__(self) -> Generator[asyncio.Future[Any], object, Any]: ...
    def __next__(self) -> asyncio.Future[Any]: ...

@final
class ReadPipeTransport(asyncio.ReadTransport):
    @property
    def _fileno(self) -> int: ...
    @property
    def _loop(self) -> asyncio.AbstractEventLoop: ...

@final
class WritePipeTransport(asyncio.transports._FlowControlMixin, asyncio.WriteTransport):
    @property
    def _fileno(self) -> int: ...

@disjoint_base
class LoopCore:
    _debug: bool
    _closed: bool
    _stopping: bool
    _thread_id: int | None
    _task_factory: Any
    @property
    def backend(self) -> str: ...
    @property
    def stats(self) -> _Stats: ...
    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle: ...
    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def create_task(
        self, coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T], **kwargs: Any
    ) -> asyncio.Task[_T]: ...
    def time(self) -> float: ...
    def stop(self) -> None: ...
    def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Coroutine[
        Any, Any, Any
    ]: ...  # what typeshed says, which is not the same in each of its versions
    def sock_recv(self, sock: socket, n: int) -> Coroutine[Any, Any, bytes]: ...
    def sock_recv_into(self, sock: socket, buf: Buffer) -> Coroutine[Any, Any, int]: ...
    def sock_recvfrom(
        self, sock: socket, bufsize: int
    ) -> Coroutine[Any, Any, tuple[bytes, Any]]: ...
    def sock_recvfrom_into(
        self, sock: socket, buf: Buffer, nbytes: int = 0
    ) -> Coroutine[Any, Any, tuple[int, Any]]: ...
    def sock_sendall(self, sock: socket, data: Buffer) -> Coroutine[Any, Any, None]: ...
    def sock_sendto(self, sock: socket, data: Buffer, address: Any) -> Coroutine[Any, Any, int]: ...
    def sock_connect(self, sock: socket, address: Any) -> Coroutine[Any, Any, None]: ...
    def sock_accept(self, sock: socket) -> Coroutine[Any, Any, tuple[socket, Any]]: ...
