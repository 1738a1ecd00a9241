"""The Redis client of examples/extension/resp: built as its user builds it, against a real server and broken ones.

Everything that waits runs on asyncio's own loop, where the C++ loop is a guest, and on zloop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import importlib
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import bridge_build
import pytest
from helpers import PATIENCE, ROOT, environment, environment_of_others, turns
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.slow, pytest.mark.without_module]

PROJECT = ROOT / "examples" / "extension" / "resp"
HELLO = b"%1\r\n+server\r\n+scripted\r\n"


def run(*command: object, folder: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**environment(**environment_of_others()), **more},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the project's wheel is installed, built outside of the tree: once for all workers."""
    folder = bridge_build.folder_of_the_run(tmp_path_factory) / "resp"
    folder.mkdir(parents=True, exist_ok=True)
    where = folder / "installed"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not where.exists():
            project = folder / "project"
            shutil.rmtree(project, ignore_errors=True)
            shutil.copytree(PROJECT, project)
            quick = "-Csetup-args=-Doptimization=0"
            pip = ("-m", "pip", "--disable-pip-version-check")
            run(
                *pip, "wheel", "-q", "--no-build-isolation", "--no-deps", quick, ".", folder=project
            )
            wheel = next(project.glob("resp-*.whl"))
            run(*pip, "install", "-q", "--no-deps", "--target", where, wheel, folder=project)
    return where


@pytest.fixture(scope="session")
def resp(installed: Path) -> Any:
    sys.path.insert(0, str(installed))
    return importlib.import_module("resp")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Redis server of our own: its port, and its Unix socket."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server: tools/setup installs it where it may")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", "redis.sock"]
    command += ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (folder / "redis.sock").exists():
            assert process.poll() is None and time.monotonic() < deadline, (
                folder / "log"
            ).read_text()
            time.sleep(0.02)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.connect(str(folder / "redis.sock"))
        yield port, folder / "redis.sock"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def port(server: Any) -> int:
    return int(server[0])


@pytest.fixture
def client(loop: Any, resp: Any, port: int) -> Iterator[Any]:
    client = resp.Client("127.0.0.1", port)

    async def do(command: Awaitable[Any]) -> None:
        await command

    loop.run_until_complete(do(client.execute("FLUSHALL")))
    yield client
    loop.run_until_complete(do(client.close()))


# The protocol.

SPOKEN: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", "OK"),
    (b"+\r\n", ""),
    (b":0\r\n", 0),
    (b":-9223372036854775808\r\n", -(2**63)),
    (b":+7\r\n", 7),
    (b"$5\r\nhello\r\n", b"hello"),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"_\r\n", None),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b",-1e-7\r\n", -1e-7),
    (b",10\r\n", 10.0),
    (b",inf\r\n", math.inf),
    (b",-inf\r\n", -math.inf),
    (
        b"(3492890328409238509324850943850943825024385\r\n",
        3492890328409238509324850943850943825024385,
    ),
    (b"(-1\r\n", -1),
    (b"=15\r\ntxt:Some string\r\n", "Some string"),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n$1\r\na\r\n*1\r\n_\r\n", [1, b"a", [None]]),
    (b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n%0\r\n", {"a": 1, b"b": {}}),
    (b"~3\r\n:1\r\n:2\r\n:1\r\n", {1, 2}),
    (b"%1\r\n*2\r\n:1\r\n%1\r\n:2\r\n:3\r\n:4\r\n", {(1, ((2, 3),)): 4}),
    (b"~1\r\n~1\r\n:1\r\n", {frozenset({1})}),
    (b">3\r\n+message\r\n+a\r\n+b\r\n", ["message", "a", "b"]),
    (b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n", b"v"),
    (b"|0\r\n|1\r\n+a\r\n*1\r\n:1\r\n:5\r\n", 5),
    (b"*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n", [1, 2]),
    (b"$?\r\n;4\r\nHell\r\n;5\r\no wor\r\n;1\r\nd\r\n;0\r\n", b"Hello word"),
    (b"$?\r\n;0\r\n", b""),
    (b"*?\r\n:1\r\n*?\r\n.\r\n:2\r\n.\r\n", [1, [], 2]),
    (b"%?\r\n+a\r\n:1\r\n+b\r\n|1\r\n+x\r\n+y\r\n:2\r\n.\r\n", {"a": 1, "b": 2}),
    (b"~?\r\n+a\r\n.\r\n", {"a"}),
    (b"*1\r\n" * 32 + b":1\r\n", reduce(lambda inner, _: [inner], range(32), 1)),
]

NOT_SPOKEN = [
    b"hello\r\n",
    b"\r\n",
    b"+OK\n",
    b"+O\rK\r\n",
    b":\r\n",
    b":1.5\r\n",
    b":+-1\r\n",
    b":9223372036854775808\r\n",
    b"$-2\r\n",
    b"$1\r\nab\r\n",
    b"$abc\r\n",
    b"*-2\r\n",
    b"%-1\r\n",
    b"~x\r\n",
    b"_x\r\n",
    b"#x\r\n",
    b",\r\n",
    b",1.5.5\r\n",
    b",0x10\r\n",
    b",1e\r\n",
    b"(12a\r\n",
    b"=3\r\nabc\r\n",
    b"=4\r\nabcd\r\n",
    b"*1\r\n>0\r\n",
    b".\r\n",
    b"*1\r\n.\r\n",
    b"%?\r\n+a\r\n.\r\n",
    b"*?\r\n|1\r\n+a\r\n+b\r\n.\r\n",
    b">?\r\n",
    b"|?\r\n",
    b";4\r\n",
    b"$?\r\n:1\r\n",
    b"$?\r\n;-1\r\n",
    b"*1\r\n" * 33,
    b"$537919489\r\n",
    b"*179306497\r\n",
    b"%99999999999999\r\n",
    b"*9223372036854775807\r\n",
    b"+" + b"a" * 65536,
]


def parsed(resp: Any, pieces: list[bytes]) -> list[Any]:
    parser = resp.Parser()
    return [value for piece in pieces for value in parser.feed(piece)]


def test_every_type_is_read_wherever_its_bytes_are_split(resp: Any) -> None:
    for spoken, value in SPOKEN:
        both = spoken + b"+next\r\n"
        for at in range(len(both) + 1):
            assert parsed(resp, [both[:at], both[at:]]) == [value, "next"], spoken
        assert parsed(resp, [bytes([each]) for each in both]) == [value, "next"], spoken


def test_a_nan_and_an_error_are_values(resp: Any) -> None:
    nan, short, long = parsed(resp, [b",nan\r\n-ERR no\r\n!8\r\nBAD a\r\nb\r\n"])

    assert math.isnan(nan)
    assert isinstance(short, resp.ReplyError) and (str(short), short.code) == ("ERR no", "ERR")
    assert isinstance(long, resp.ReplyError) and (str(long), long.code) == ("BAD a\r\nb", "BAD")


@pytest.mark.parametrize("wrong", NOT_SPOKEN, ids=lambda wrong: repr(wrong[:12]))
def test_what_is_no_resp3_is_refused_however_it_is_split(resp: Any, wrong: bytes) -> None:
    with pytest.raises(resp.ProtocolError):
        parsed(resp, [b":1\r\n" + wrong])
    with pytest.raises(resp.ProtocolError):
        parsed(resp, [bytes([each]) for each in wrong])


def test_nothing_is_read_behind_what_was_refused(resp: Any) -> None:
    parser = resp.Parser()
    with pytest.raises(resp.ProtocolError):
        parser.feed(b"*2\r\n$9000000000\r\n")
    for more in (b"+a\r\n+b\r\n", b""):
        with pytest.raises(resp.ProtocolError, match="behind what was refused"):
            parser.feed(more)


def test_attributes_are_passed_over_without_depth(resp: Any) -> None:
    assert resp.Parser().feed(b"|1\r\n" + b"|0\r\n" * 300_000 + b"+k\r\n+v\r\n+x\r\n") == ["x"]


def test_limits_are_the_users(resp: Any) -> None:
    small = {"limit_bytes": 100, "line_limit_bytes": 20, "depth": 2}

    assert resp.Parser(**small).feed(b"*1\r\n*1\r\n:1\r\n") == [[[1]]]
    for wrong in (
        b"*1\r\n" * 3,
        b"$101\r\n",
        b"*34\r\n",
        b"+" + b"a" * 21,
        b"*?\r\n" + b":1\r\n" * 30,
    ):
        with pytest.raises(resp.ProtocolError):
            resp.Parser(**small).feed(wrong)


def said(value: Any) -> bytes:
    """A value as a server says it."""
    match value:
        case None:
            return b"_\r\n"
        case bool():
            return b"#t\r\n" if value else b"#f\r\n"
        case int() if -(2**63) <= value < 2**63:
            return b":%d\r\n" % value
        case int():
            return b"(%d\r\n" % value
        case float():
            return b",%s\r\n" % repr(value).encode()
        case str():
            return b"=%d\r\ntxt:%s\r\n" % (len(value.encode()) + 4, value.encode())
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(said, value))
        case dict():
            pairs = (said(key) + said(each) for key, each in value.items())
            return b"%%%d\r\n" % len(value) + b"".join(pairs)
    raise AssertionError(value)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=50)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(VALUES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_what_was_said_is_read_in_pieces_of_any_size(
    resp: Any, values: list[Any], chance: random.Random
) -> None:
    stream = b"".join(map(said, values))
    pieces = []
    while stream:
        size = chance.randint(1, 20)
        pieces.append(stream[:size])
        stream = stream[size:]

    assert parsed(resp, pieces) == values


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_noise_is_read_alike_whole_and_byte_by_byte_or_refused(
    resp: Any, data: st.DataObject
) -> None:
    stream = bytearray(
        b"".join(
            data.draw(
                st.lists(st.sampled_from([each for each, _ in SPOKEN]), min_size=1, max_size=4)
            )
        )
    )
    for _ in range(data.draw(st.integers(0, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(
            st.sampled_from(b"+-:$*_#,(!=%~|>.;?0123459\r\ntxab")
        )

    def outcome(pieces: list[bytes]) -> tuple[list[str], bool]:
        parser, values = resp.Parser(), []
        for piece in pieces:
            try:
                values += map(repr, parser.feed(piece))
            except resp.ProtocolError:
                return values, True
        return values, False

    whole, by_byte = outcome([bytes(stream)]), outcome([bytes([each]) for each in stream])

    assert whole[1] == by_byte[1]
    if not whole[1]:  # else the first ones of a piece that is refused are not given
        assert whole == by_byte


# Commands.


async def test_commands_give_what_the_server_has(client: Any) -> None:
    assert await client.ping() == "PONG"
    assert await client.set("key", b"\0\xff\r\n") is True
    assert await client.get("key") == b"\0\xff\r\n"
    assert await client.get(b"nothing") is None
    assert await client.set("key", 1, nx=True) is False
    assert await client.set("key", 1, xx=True, ex=100) is True
    assert 98 <= await client.ttl("key") <= 100
    assert await client.incr("key") == 2
    assert await client.incr("key", 40) == 42
    assert await client.mset({"a": 1.5, b"b": memoryview(b"two")}) is True
    assert await client.mget("a", "no", "b") == [b"1.5", None, b"two"]
    assert await client.exists("a", "b", "c") == 2
    assert await client.expire("a", 0.001) is True
    assert await client.delete("b", "c") == 1
    assert await client.getdel("key") == b"42"
    assert await client.hset("h", {"f": 1, "g": "é"}) == 2
    assert await client.hget("h", "f") == b"1"
    assert await client.hgetall("h") == {b"f": b"1", b"g": "é".encode()}
    assert await client.hdel("h", "f", "x") == 1
    assert await client.rpush("l", "a", "b") == 2
    assert await client.lpush("l", "z") == 3
    assert await client.lrange("l") == [b"z", b"a", b"b"]
    assert await client.sadd("s", 1, 2, 2) == 2
    assert await client.smembers("s") == {b"1", b"2"}
    assert await client.execute("OBJECT", "ENCODING", "s") == b"intset"


async def test_every_type_comes_from_a_real_server(client: Any) -> None:
    expected: dict[str, Any] = {
        "string": b"Hello World",
        "integer": 12345,
        "double": 3.141,
        "null": None,
        "array": [0, 1, 2],
        "set": {0, 1, 2},
        "map": {0: False, 1: True, 2: False},
        "attrib": b"Some real reply following the attribute",
        "verbatim": "This is a verbatim\nstring",
        "bignum": 1234567999999999999999999999999999999,
        "true": True,
        "false": False,
    }

    for kind, value in expected.items():
        assert await client.execute("DEBUG", "PROTOCOL", kind) == value, kind


async def test_an_error_is_raised_where_the_command_is_alone(resp: Any, client: Any) -> None:
    await client.rpush("list", 1)

    with pytest.raises(resp.ReplyError, match="WRONGTYPE Operation") as caught:
        await client.get("list")

    assert caught.value.code == "WRONGTYPE"


async def test_an_error_is_a_value_among_the_replies_of_a_pipeline(resp: Any, client: Any) -> None:
    set_a, failed, got = await client.pipeline(
        [("SET", "a", "x"), ["INCR", "a"], iter(("GET", "a"))]
    )

    assert (set_a, got) == ("OK", b"x")
    assert isinstance(failed, resp.ReplyError)
    assert await client.pipeline([]) == []


async def test_a_transaction_is_done_as_one(resp: Any, client: Any) -> None:
    assert await client.transaction([("INCR", "a"), ("INCR", "a")]) == [1, 2]
    with pytest.raises(resp.ReplyError, match="unknown command"):
        await client.transaction([("INCR", "a"), ("NONSENSE",)])
    assert await client.get("a") == b"2"


async def test_a_watched_key_that_changes_ends_the_transaction(client: Any) -> None:
    async with client.connection() as alone:
        await alone.execute("WATCH", "a")
        await client.set("a", 1)
        assert await alone.transaction([("SET", "a", 2)]) is None
        await alone.execute("WATCH", "a")
        assert await alone.transaction([("SET", "a", 2)]) == ["OK"]
        assert await alone.pipeline([("GET", "a")]) == [b"2"]

    with pytest.raises(RuntimeError, match="was left"):
        await alone.execute("PING")


@pytest.mark.parametrize("wrong", [None, True, object(), ["a"], 1j])
async def test_what_has_no_bytes_is_refused(client: Any, wrong: Any) -> None:
    with pytest.raises(TypeError):
        await client.execute("SET", "a", wrong)
    with pytest.raises(TypeError):
        await client.set("a", wrong)
    assert await client.get("a") is None


async def test_commands_that_would_take_the_shared_connection_are_refused(client: Any) -> None:
    for command in ("multi", "WATCH a", "SELECT 1", "SUBSCRIBE a", "MONITOR", "Client Reply off"):
        with pytest.raises(ValueError):
            await client.execute(*command.split())
        with pytest.raises(ValueError):
            await client.pipeline([("PING",), command.split()])
    with pytest.raises(ValueError):
        await client.execute()


async def test_a_large_value_comes_as_it_went(client: Any) -> None:
    for size in (16_383, 65_536, 1_000_003, 20_000_000):
        value = os.urandom(size)
        assert await client.set("large", value)
        assert await client.get("large") == value
    assert await client.pipeline([("GET", "large"), ("PING",)]) == [value, "PONG"]


async def test_a_reply_of_many_elements_is_read(client: Any) -> None:
    await client.rpush("many", *range(100_000))

    assert await client.lrange("many") == [b"%d" % each for each in range(100_000)]


# Connections.


async def test_a_client_says_who_it_is(loop: Any, resp: Any, client: Any, port: int) -> None:
    await client.execute("ACL", "SETUSER", "tester", "on", ">secret", "~*", "&*", "+@all")
    of = {"username": "tester", "password": "secret", "name": "by-name", "database": 3}
    async with resp.Client("127.0.0.1", port, **of) as known:
        assert await known.execute("ACL", "WHOAMI") == b"tester"
        assert await known.execute("CLIENT", "GETNAME") == b"by-name"
        assert "db=3" in await known.execute("CLIENT", "INFO")

    async with resp.Client("127.0.0.1", port, username="tester", password="wrong") as unknown:
        with pytest.raises(resp.ReplyError, match="WRONGPASS"):
            await unknown.get("a")


async def test_it_speaks_over_a_unix_socket(loop: Any, resp: Any, server: Any) -> None:
    async with resp.Client(path=str(server[1])) as client:
        assert await client.ping() == "PONG"


async def test_who_waits_in_the_server_keeps_nobody_waiting(client: Any) -> None:
    waiting = [asyncio.create_task(client.blpop("queue")) for _ in range(3)]
    await turns(3)

    assert await client.rpush("queue", "a", "b", "c") in (1, 2, 3)

    assert sorted([await each for each in waiting]) == [
        [b"queue", each] for each in (b"a", b"b", b"c")
    ]
    assert await client.blpop("queue", timeout=0.01) is None
    assert await client.execute("XREAD", "BLOCK", 10, "STREAMS", "x", "0") is None


async def test_a_pool_has_so_many_connections_and_no_more(
    loop: Any, resp: Any, client: Any, port: int
) -> None:
    async with resp.Client("127.0.0.1", port, connections=2, name="pooled") as few:
        waiting = [asyncio.create_task(few.blpop("queue")) for _ in range(5)]

        async def connected() -> int:
            return str(await client.execute("CLIENT", "LIST")).count("name=pooled")

        while await connected() < 2:
            await asyncio.sleep(0)
        for index in range(5):
            await client.rpush("queue", index)

        assert sorted([(await each)[1] for each in waiting]) == [b"%d" % each for each in range(5)]
        assert await connected() == 2


async def test_a_timeout_ends_a_wait_and_leaves_the_client_in_order(client: Any) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.blpop("queue")
    while "blocked_clients:0" not in await client.execute("INFO", "clients"):
        await asyncio.sleep(0)  # the server has seen that it is gone

    await client.rpush("queue", "kept")
    assert await client.blpop("queue") == [b"queue", b"kept"]


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def scripted(talk: Talk, port: int = 0, hello: bytes = HELLO) -> AsyncIterator[int]:
    """A server that says hello, and then what the test says."""

    served: list[tuple[Any, asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append((asyncio.current_task(), writer))
        try:
            await commands(reader, 1)
            writer.write(hello)
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    serving = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield serving.sockets[0].getsockname()[1]
    finally:
        serving.close()
        for serves, writer in served:
            writer.close()
            await serves


async def commands(reader: asyncio.StreamReader, count: int) -> list[list[bytes]]:
    read = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        command = []
        for _ in range(size):
            length = int((await reader.readuntil(b"\r\n"))[1:])
            command.append((await reader.readexactly(length + 2))[:-2])
        read.append(command)
    return read


async def test_what_tasks_ask_in_a_turn_is_sent_in_one_piece(loop: Any, resp: Any) -> None:
    pieces = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            pieces.append(piece.count(b"GET"))
            writer.write(b"+v\r\n" * pieces[-1])

    async with scripted(talk) as port, resp.Client("127.0.0.1", port) as client:
        await client.get("first")
        assert await asyncio.gather(*(client.get(f"{each}") for each in range(50))) == ["v"] * 50

    assert pieces == [1, 50]


async def test_the_reply_of_who_was_cancelled_is_nobodys(loop: Any, resp: Any) -> None:
    go_on = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await commands(reader, 3)
        await go_on.wait()
        for _, key in asked:
            writer.write(b"$1\r\n%s\r\n" % key)
        await reader.read()

    async with scripted(talk) as port, resp.Client("127.0.0.1", port) as client:
        first, second, third = (asyncio.create_task(client.get(key)) for key in "abc")
        await asyncio.sleep(0.02)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()

        assert (await first, await third) == (b"a", b"c")


async def test_a_command_that_may_be_done_is_not_sent_twice(loop: Any, resp: Any) -> None:
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (command,) = await commands(reader, 1)
        seen.append(command[0])
        if len(seen) > 2:
            writer.write(b"$1\r\nv\r\n")
            await reader.read()

    async with scripted(talk) as port, resp.Client("127.0.0.1", port) as client:
        with pytest.raises(ConnectionResetError):
            await client.incr("a")
        assert seen == [b"INCRBY"]

        assert await client.get("a") == b"v"  # which changes nothing: asked again
        assert seen == [b"INCRBY", b"GET", b"GET"]


async def test_a_lost_connection_is_made_again(client: Any) -> None:
    await client.set("a", 1)
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            await client.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")

        assert await client.get("a") == b"1"


async def test_who_needs_a_connection_waits_for_a_server_that_comes_back(
    loop: Any, resp: Any
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await commands(reader, 1):
            writer.write(b":1\r\n")

    port = free_port()
    async with resp.Client("127.0.0.1", port) as client:
        waiting = [asyncio.create_task(client.incr("a")) for _ in range(5)]
        await asyncio.sleep(0.03)
        assert not any(each.done() for each in waiting)
        async with scripted(talk, port):
            assert [await each for each in waiting] == [1] * 5


async def test_a_server_that_stays_away_is_an_error(loop: Any, resp: Any) -> None:
    async with resp.Client("127.0.0.1", free_port(), retries=2) as client:
        with pytest.raises(ConnectionRefusedError):
            await client.get("a")


@pytest.mark.parametrize(
    "said", [b"-ERR unknown command `HELLO`\r\n", b"-NOPROTO sorry\r\n", b"+OK\r\n"]
)
async def test_a_server_that_speaks_no_resp3_is_refused_in_words(
    loop: Any, resp: Any, said: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with scripted(talk, hello=said) as port, resp.Client("127.0.0.1", port) as client:
        with pytest.raises(
            resp.ProtocolError, match=r"no RESP3, as Redis does from 6\.0 on|HELLO was not"
        ):
            await client.get("a")


@pytest.mark.parametrize("said", [b"nonsense\r\n", b"$10\r\nhalf", b"*3\r\n:1\r\n"])
async def test_a_broken_reply_ends_the_connection(loop: Any, resp: Any, said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await commands(reader, 1)
        writer.write(said)

    async with scripted(talk) as port, resp.Client("127.0.0.1", port, retries=1) as client:
        for _ in range(2):
            with pytest.raises(ConnectionError):  # which a ProtocolError is
                await client.incr("a")


async def test_closing_fails_who_waits_and_refuses_who_comes(loop: Any, resp: Any) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with scripted(talk) as port:
        client = resp.Client("127.0.0.1", port)
        waiting = [asyncio.create_task(each) for each in (client.get("a"), client.blpop("b"))]
        await asyncio.sleep(0.02)

        await client.close()

        for each in waiting:
            with pytest.raises(ConnectionAbortedError):
                await each
        for command in (client.get("a"), client.blpop("b"), client.execute("PING")):
            with pytest.raises(OSError, match="closed"):
                await command
        await client.close()


async def test_a_client_that_is_dropped_leaves_no_connection(loop: Any, resp: Any) -> None:
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await commands(reader, 1)
        writer.write(b"+v\r\n")
        await reader.read()
        gone.set()

    async with scripted(talk) as port:
        client = resp.Client("127.0.0.1", port)
        await client.get("a")
        del client
        gc.collect()

        await asyncio.wait_for(gone.wait(), PATIENCE)


def test_a_client_outlives_its_loop_and_is_used_on_another(resp: Any, port: int) -> None:
    client = resp.Client("127.0.0.1", port)

    async def use() -> Any:
        return await client.ping(), await client.blpop("nothing", timeout=0.01)

    for _ in range(2):
        assert asyncio.run(use()) == ("PONG", None)
    asyncio.run(client.close())


# Messages.


async def test_messages_come_in_order(client: Any) -> None:
    async with client.subscribe("a", "b", patterns=["p.*"]) as messages:
        for index in range(2000):  # more than are kept for who is slow
            await client.publish("ab"[index % 2], index)
        await client.publish("p.1", "last")

        heard = []
        async for message in messages:
            heard.append((message.channel, message.data, message.pattern))
            if message.pattern:
                break

    assert heard[:2] == [(b"a", b"0", None), (b"b", b"1", None)]
    assert [int(data) for _, data, _ in heard[:-1]] == list(range(2000))
    assert heard[-1] == (b"p.1", b"last", b"p.*")


async def test_a_subscription_begins_again_on_another_connection(client: Any) -> None:
    async with client.subscribe("a") as messages:
        following = asyncio.create_task(anext(aiter(messages)))
        await client.execute("CLIENT", "KILL", "TYPE", "pubsub")
        while not await client.publish("a", "again"):
            await asyncio.sleep(0.001)

        assert (await following).data == b"again"


async def test_leaving_a_subscription_ends_who_waits(client: Any) -> None:
    async with client.subscribe("a") as messages:

        async def listen() -> list[Any]:
            return [message async for message in messages]

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.01)

    assert await listening == []
    with pytest.raises(ValueError):
        client.subscribe()


async def test_a_wait_for_a_message_can_be_cancelled(client: Any) -> None:
    async with client.subscribe("a") as messages:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(aiter(messages))
        await client.publish("a", "kept")

        assert (await anext(aiter(messages))).data == b"kept"


async def test_a_subscription_that_is_refused_says_why(
    loop: Any, resp: Any, client: Any, port: int
) -> None:
    await client.execute("ACL", "SETUSER", "deaf", "on", "nopass", "~*", "resetchannels", "+@all")
    async with resp.Client("127.0.0.1", port, username="deaf", password="any") as deaf:
        with pytest.raises(resp.ReplyError, match="NOPERM"):
            async with deaf.subscribe("a"):
                pass


# The project.

SAID = """\
b'hello' None
[1, 2, 3]
['OK', ReplyError('ERR value is not an integer or out of range'), b'1']
[2, 1]
{b'field': b'1.5'}
WRONGTYPE
[b'news: all is well', b'weather.here: rain']
nothing in the queue
"""


@pytest.mark.parametrize("where", ["asyncio", "zloop", "uvloop"])
def test_the_program_runs_on_every_loop(
    where: str, installed: Path, port: int, tmp_path: Path
) -> None:
    if where == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is in the environment of the benchmarks")
    by_uvloop = (
        "import runpy, sys, uvloop; uvloop.install(); del sys.argv[0]; runpy.run_path(sys.argv[0])"
    )
    program = PROJECT / "program.py"
    start = {
        "asyncio": [program],
        "zloop": ["-m", "zloop", program],
        "uvloop": ["-c", by_uvloop, program],
    }[where]
    path = os.pathsep.join([str(installed), *filter(None, [environment().get("PYTHONPATH")])])
    flush = socket.create_connection(("127.0.0.1", port))
    with contextlib.closing(flush):
        flush.sendall(b"FLUSHALL\r\n")
        assert flush.recv(100) == b"+OK\r\n"

    assert run(*start, port, folder=tmp_path, PYTHONPATH=path) == SAID


def test_the_stub_is_what_the_module_says_and_types_the_program(
    installed: Path, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(installed), *filter(None, [environment().get("PYTHONPATH")])])
    stubgen = ["-m", "pybind11_stubgen", "resp._resp", "-o", tmp_path, "--exit-code"]
    run(*stubgen, folder=tmp_path, PYTHONPATH=path)
    stub = (tmp_path / "resp" / "_resp.pyi").read_text()

    assert stub == (PROJECT / "python" / "_resp.pyi").read_text()
    shutil.copytree(PROJECT / "python", tmp_path / "typed" / "resp")
    mypy = ["-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", PROJECT / "program.py"]
    run(*mypy, folder=tmp_path, MYPYPATH=str(tmp_path / "typed"))
