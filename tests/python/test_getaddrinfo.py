"""loop.getaddrinfo(): what is numeric is answered at once, and as Python's function answers it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import socket

import pytest

ours = pytest.mark.parametrize("new_loop", ["zloop"], indirect=True)

LITERALS = [
    "127.0.0.1",
    "192.0.2.255",
    "0.0.0.0",
    "::1",
    "::",
    "2001:0DB8:0000::0001",
    "::ffff:192.0.2.1",
    "fe80::1",
]
# What looks numeric, and is judged by the C library.
ALMOST = [
    "127.1",
    "0x7f.0.0.1",
    "010.0.0.1",
    "127.0.0.1.",
    "1.2.3.4.5",
    "256.0.0.1",
    "::1%1",
    "::g",
]
PORTS = [0, 80, 65535, 65536, -1, None, "80", b"80", "http", True]
FAMILIES = [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 99]
KINDS = [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 99]
PROTOCOLS = [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 99]
FLAGS = [
    0,
    socket.AI_PASSIVE,
    socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    socket.AI_CANONNAME,
    socket.AI_V4MAPPED,
    socket.AI_V4MAPPED | socket.AI_ALL,
    1 << 20,
]


def asked(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error), error.args


async def answer(loop, host, port, family, kind, protocol, flags):
    try:
        return await loop.getaddrinfo(
            host, port, family=family, type=kind, proto=protocol, flags=flags
        )
    except Exception as error:
        return type(error), error.args


async def check(loop, *question):
    expected, given = asked(socket.getaddrinfo, *question), await answer(loop, *question)
    assert given == expected, question
    if isinstance(given, list):
        assert [[*map(type, entry)] for entry in given] == [
            [*map(type, entry)] for entry in expected
        ]


@pytest.mark.parametrize("host", LITERALS)
async def test_a_numeric_host_is_answered_exactly(loop, host):
    for port, family, kind in itertools.product((0, 80, 65535), FAMILIES, KINDS):
        for protocol, flags in itertools.product(PROTOCOLS, FLAGS):
            await check(loop, host, port, family, kind, protocol, flags)


@pytest.mark.parametrize("host", LITERALS + ALMOST + [b"127.0.0.1", None, "", "localhost"])
async def test_so_is_every_port_and_what_is_almost_numeric(loop, host):
    numeric = 0 if host in ("localhost", None, "") else socket.AI_NUMERICHOST  # no name server
    for port, family in itertools.product(PORTS, (0, socket.AF_INET, socket.AF_INET6)):
        await check(loop, host, port, family, socket.SOCK_STREAM, 0, numeric)


async def test_each_answer_is_the_callers_own(loop):
    first = await loop.getaddrinfo("127.0.0.1", 80)
    first.clear()
    assert await loop.getaddrinfo("127.0.0.1", 80) == socket.getaddrinfo("127.0.0.1", 80)


async def test_what_stands_for_pythons_function_is_asked(loop, monkeypatch):
    await loop.getaddrinfo("127.0.0.1", 80)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *question: [question])
    assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM) == [
        ("127.0.0.1", 80, 0, socket.SOCK_STREAM, 0, 0)
    ]


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        ("loop", "run_in_executor"),
        ("class", "run_in_executor"),
        (asyncio.BaseEventLoop, "run_in_executor"),
        (asyncio.BaseEventLoop, "getaddrinfo"),
    ],
)
async def test_a_step_that_is_replaced_is_called(loop, monkeypatch, owner, step):
    where = {"loop": loop, "class": type(loop)}.get(owner, owner)
    made, called = getattr(where, step), []

    def replaced(*args, **keywords):
        called.append(step)
        return made(*args, **keywords)

    monkeypatch.setattr(where, step, replaced)
    assert await loop.getaddrinfo("127.0.0.1", 80) == socket.getaddrinfo("127.0.0.1", 80)
    assert called


async def test_who_has_shut_the_executor_down_has_no_names(loop):
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="shutdown"):
        await loop.getaddrinfo("127.0.0.1", 80)


@pytest.mark.parametrize("keywords", [{"kind": 1}, {"family": "inet"}, {"flags": None}])
async def test_bad_arguments_are_refused(loop, keywords):
    with pytest.raises(TypeError):
        await loop.getaddrinfo("127.0.0.1", 80, **keywords)


async def test_it_is_a_coroutine(loop):
    assert inspect.iscoroutinefunction(loop.getaddrinfo)  # mock asks
    assert asyncio.iscoroutine(asking := loop.getaddrinfo("::1", 80, type=socket.SOCK_STREAM))
    assert await asyncio.create_task(asking) == socket.getaddrinfo(
        "::1", 80, type=socket.SOCK_STREAM
    )


@ours
async def test_no_thread_is_asked(loop):
    class Nobody(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *_):
            raise AssertionError("a thread was asked")

    loop.set_debug(False)  # else the times of threads are told
    loop.set_default_executor(Nobody())
    for host in LITERALS:
        assert await loop.getaddrinfo(host, 80) == socket.getaddrinfo(host, 80)


@ours
async def test_more_ways_to_ask_than_are_remembered(loop):
    for protocol in range(200):
        await check(loop, "127.0.0.1", 80, 0, socket.SOCK_RAW, protocol, 0)


def test_a_closed_loop_refuses(new_loop):
    loop = new_loop()
    loop.close()
    asking = loop.getaddrinfo("127.0.0.1", 80)
    with pytest.raises(RuntimeError, match="closed"):
        asking.send(None)
