"""
A small HTTP/1.1 server in C++; its handlers are functions of Python, async or not.
"""
from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['Request', 'Response', 'Server']
class Request:
    """
    What a client has asked.
    """
    @property
    def body(self) -> bytes:
        ...
    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """
        Pairs of a name in lower case and a value, as they came.
        """
    @property
    def method(self) -> str:
        ...
    @property
    def path(self) -> str:
        """
        Without the query, and as it was sent: %20 is not decoded.
        """
    @property
    def query(self) -> str:
        ...
class Response:
    """
    An answer of a handler.
    """
    def __init__(self, body: str = '', status: typing.SupportsInt | typing.SupportsIndex = 200, type: str = 'text/plain; charset=utf-8', headers: collections.abc.Sequence[tuple[str, str]] = []) -> None:
        ...
class Server:
    """
    Serves on the running asyncio loop.
    """
    def __aenter__(self) -> collections.abc.Coroutine[typing.Any, typing.Any, Server]:
        ...
    def __aexit__(self, arg0: typing.Any, arg1: typing.Any, arg2: typing.Any) -> collections.abc.Coroutine[typing.Any, typing.Any, None]:
        ...
    def __init__(self, *, head_bytes: typing.SupportsInt | typing.SupportsIndex = 16384, body_bytes: typing.SupportsInt | typing.SupportsIndex = 1048576, head_timeout: typing.SupportsFloat | typing.SupportsIndex = 10.0, body_timeout: typing.SupportsFloat | typing.SupportsIndex = 30.0, write_timeout: typing.SupportsFloat | typing.SupportsIndex = 30.0, idle_timeout: typing.SupportsFloat | typing.SupportsIndex = 75.0) -> None:
        ...
    def close(self, patience: typing.SupportsFloat | typing.SupportsIndex = 10.0) -> collections.abc.Coroutine[typing.Any, typing.Any, None]:
        """
        Accept nothing more; let what was asked be answered, for so many seconds.
        """
    def route(self, method: str, path: str, handler: typing.Any) -> None:
        """
        Have `handler(request)`, async or not, answer; it gives a Response, str, bytes or None.
        """
    def start(self, host: str = '127.0.0.1', port: typing.SupportsInt | typing.SupportsIndex = 0) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        """
        Listen at a numeric address; gives the port.
        """
    def text(self, path: str, body: str, type: str = 'text/plain; charset=utf-8') -> None:
        """
        Have C++ answer GET with this text.
        """
    @property
    def answered(self) -> int:
        ...
    @property
    def connections(self) -> int:
        ...
