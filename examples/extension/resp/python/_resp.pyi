"""
A Redis client of C++ coroutines.
"""
from __future__ import annotations
import builtins
import collections.abc
import typing
__all__: list[str] = ['Client', 'Connection', 'Message', 'Parser', 'Subscription']
class Message:
    """
    What somebody has published.
    """
    @property
    def channel(self) -> bytes:
        ...
    @property
    def data(self) -> bytes:
        ...
    @property
    def pattern(self) -> bytes | None:
        """
        That the channel matches; None: it was subscribed by its name.
        """
class Subscription:
    """
    Messages, by `async for` inside of its `async with`.
    """
    def __aenter__(self) -> collections.abc.Coroutine[typing.Any, typing.Any, Subscription]:
        ...
    def __aexit__(self, arg0: typing.Any, arg1: typing.Any, arg2: typing.Any) -> collections.abc.Coroutine[typing.Any, typing.Any, None]:
        ...
    def __aiter__(self) -> collections.abc.AsyncIterator[Message]:
        ...
class Connection:
    """
    A connection of one's own, inside of its `async with`: for WATCH and the like.
    """
    def __aenter__(self) -> collections.abc.Coroutine[typing.Any, typing.Any, Connection]:
        ...
    def __aexit__(self, arg0: typing.Any, arg1: typing.Any, arg2: typing.Any) -> collections.abc.Coroutine[typing.Any, typing.Any, None]:
        ...
    def execute(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, typing.Any]:
        ...
    def pipeline(self, commands: collections.abc.Iterable[collections.abc.Iterable[bytes | bytearray | memoryview | str | int | float]]) -> collections.abc.Coroutine[typing.Any, typing.Any, list[typing.Any]]:
        ...
    def transaction(self, commands: collections.abc.Iterable[collections.abc.Iterable[bytes | bytearray | memoryview | str | int | float]]) -> collections.abc.Coroutine[typing.Any, typing.Any, list[typing.Any] | None]:
        ...
class Client:
    """
    A server, and the connections to it that are needed.
    """
    def __aenter__(self) -> collections.abc.Coroutine[typing.Any, typing.Any, Client]:
        ...
    def __aexit__(self, arg0: typing.Any, arg1: typing.Any, arg2: typing.Any) -> collections.abc.Coroutine[typing.Any, typing.Any, None]:
        ...
    def __init__(self, host: str = '127.0.0.1', port: typing.SupportsInt | typing.SupportsIndex = 6379, *, path: str = '', username: str = '', password: str = '', name: str = '', database: typing.SupportsInt | typing.SupportsIndex = 0, retries: typing.SupportsInt | typing.SupportsIndex = 6, connections: typing.SupportsInt | typing.SupportsIndex = 16) -> None:
        ...
    def blpop(self, *args: bytes | bytearray | memoryview | str | int | float, timeout: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> collections.abc.Coroutine[typing.Any, typing.Any, list[bytes] | None]:
        """
        The key and the value, or None after `timeout` seconds; 0: none at all.
        """
    def brpop(self, *args: bytes | bytearray | memoryview | str | int | float, timeout: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> collections.abc.Coroutine[typing.Any, typing.Any, list[bytes] | None]:
        ...
    def close(self) -> collections.abc.Coroutine[typing.Any, typing.Any, None]:
        ...
    def connection(self) -> Connection:
        """
        A connection of one's own.
        """
    def delete(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def execute(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, typing.Any]:
        """
        The reply to any command; an error is raised.
        """
    def exists(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def expire(self, key: bytes | bytearray | memoryview | str | int | float, seconds: typing.SupportsFloat | typing.SupportsIndex) -> collections.abc.Coroutine[typing.Any, typing.Any, bool]:
        ...
    def get(self, key: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, bytes | None]:
        ...
    def getdel(self, key: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, bytes | None]:
        ...
    def hdel(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def hget(self, key: bytes | bytearray | memoryview | str | int | float, field: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, bytes | None]:
        ...
    def hgetall(self, key: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, dict[bytes, bytes]]:
        ...
    def hset(self, key: bytes | bytearray | memoryview | str | int | float, values: dict[bytes | bytearray | memoryview | str | int | float, bytes | bytearray | memoryview | str | int | float]) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def incr(self, key: bytes | bytearray | memoryview | str | int | float, by: typing.SupportsInt | typing.SupportsIndex = 1) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def lpush(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def lrange(self, key: bytes | bytearray | memoryview | str | int | float, start: typing.SupportsInt | typing.SupportsIndex = 0, stop: typing.SupportsInt | typing.SupportsIndex = -1) -> collections.abc.Coroutine[typing.Any, typing.Any, list[bytes]]:
        ...
    def mget(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, list[bytes | None]]:
        ...
    def mset(self, values: dict[bytes | bytearray | memoryview | str | int | float, bytes | bytearray | memoryview | str | int | float]) -> collections.abc.Coroutine[typing.Any, typing.Any, bool]:
        ...
    def ping(self) -> collections.abc.Coroutine[typing.Any, typing.Any, str]:
        ...
    def pipeline(self, commands: collections.abc.Iterable[collections.abc.Iterable[bytes | bytearray | memoryview | str | int | float]]) -> collections.abc.Coroutine[typing.Any, typing.Any, list[typing.Any]]:
        """
        The replies to commands, each a sequence of arguments, that are sent together. Errors are values.
        """
    def publish(self, channel: bytes | bytearray | memoryview | str | int | float, data: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def rpush(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def sadd(self, *args: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        ...
    def set(self, key: bytes | bytearray | memoryview | str | int | float, value: bytes | bytearray | memoryview | str | int | float, *, ex: typing.SupportsFloat | typing.SupportsIndex | None = None, nx: bool = False, xx: bool = False, keepttl: bool = False) -> collections.abc.Coroutine[typing.Any, typing.Any, bool]:
        """
        Whether it was set, for `ex` seconds: with `nx` only a new key is, with `xx` only one that is there.
        """
    def smembers(self, key: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, builtins.set[bytes]]:
        ...
    def subscribe(self, *args: bytes | bytearray | memoryview | str | int | float, patterns: collections.abc.Iterable[bytes | bytearray | memoryview | str | int | float] = (), shards: collections.abc.Iterable[bytes | bytearray | memoryview | str | int | float] = ()) -> Subscription:
        """
        Messages of channels: `async with client.subscribe("news") as messages`.
        """
    def transaction(self, commands: collections.abc.Iterable[collections.abc.Iterable[bytes | bytearray | memoryview | str | int | float]]) -> collections.abc.Coroutine[typing.Any, typing.Any, list[typing.Any] | None]:
        """
        The same in MULTI and EXEC. None: a key that was watched has changed.
        """
    def ttl(self, key: bytes | bytearray | memoryview | str | int | float) -> collections.abc.Coroutine[typing.Any, typing.Any, int]:
        """
        Seconds; -1: it stays, -2: there is no such key.
        """
class Parser:
    """
    RESP3 alone, for who has the bytes from elsewhere.
    """
    def __init__(self, *, limit_bytes: typing.SupportsInt | typing.SupportsIndex = 537919488, line_limit_bytes: typing.SupportsInt | typing.SupportsIndex = 65536, depth: typing.SupportsInt | typing.SupportsIndex = 32) -> None:
        ...
    def feed(self, data: bytes | bytearray | memoryview | str | int | float) -> list[typing.Any]:
        """
        The replies that have ended in what came so far.
        """
