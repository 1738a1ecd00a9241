"""Fixtures: every test of asyncio behaviour runs on asyncio's own loop, then on ours.

If it fails on asyncio's, the test is wrong. Around each test: nothing that the loop reports may go
unexpected, no descriptor may leak, no garbage may warn, and nothing may hang.
"""

from __future__ import annotations

import asyncio
import dataclasses
import faulthandler
import gc
import inspect
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from helpers import FACTORIES, LIBKQUEUE, PATIENCE, ROOT, Peer, tcp_pair
from slowest import print_slowest

HANG_SECONDS = 25  # of a test; of one marked slow, four times that


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "may_leak: the test leaves descriptors open, on purpose")
    config.addinivalue_line("markers", "slow(hours=0): takes seconds, or so many hours")
    config.addinivalue_line("markers", "without_module: only compilers and the like run in it")
    config.addinivalue_line("markers", "without_debug: asyncio differs in debug mode")
    config.addinivalue_line("markers", "hostile: a long search for crashes, a check of its own")
    config.addinivalue_line("markers", "bench: every row of the benchmark, a check of its own")


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.collect()
    gc.freeze()  # what is here already, no test has made: collecting after each costs less


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the slowest files, for tools/test."""
    terminalreporter.line("")
    print_slowest(
        (report.nodeid.partition("::")[0], report.duration)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    slow = item.get_closest_marker("slow")
    hours = slow.kwargs.get("hours", 0) if slow else 0
    seconds = hours * 3600 or HANG_SECONDS * (4 if slow else 1)

    def hung(*_: Any) -> None:
        raise KeyboardInterrupt(f"hung for {seconds} s")  # what every loop lets through

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + 15, exit=True)  # stuck outside Python
    try:
        return (yield)
    except KeyboardInterrupt as exc:
        if "hung for" not in str(exc):
            raise
        raise AssertionError(str(exc)) from exc
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests on the loop they ask for."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    loop = pyfuncitem.funcargs.get("loop") or pyfuncitem.funcargs["zloop_loop"]
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    loop.run_until_complete(pyfuncitem.obj(**arguments))
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what libkqueue does otherwise than a kernel: each test, and why, stands in a list."""
    if LIBKQUEUE:
        why, left_out = "", {}
        for line in (ROOT / "tests" / "libkqueue" / "left-out.txt").read_text().splitlines():
            if line.startswith("# "):
                why = line[2:]
            elif line:
                left_out[line] = pytest.mark.skip(reason=f"libkqueue: {why}")
        for item in items:
            if mark := left_out.get(getattr(item, "originalname", item.name)):
                item.add_marker(mark)


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one of listdir itself
    return found


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """No descriptor stays open; what is dropped is collected here, where the warning has a name."""
    before = open_descriptors()
    yield
    gc.collect()
    if request.node.get_closest_marker("may_leak") is None:
        # libkqueue closes what a queue of its own consists of in a thread, a moment behind us.
        patience = PATIENCE if LIBKQUEUE else 0
        begin = time.monotonic()
        while leaked := {
            fd: name for fd, name in open_descriptors().items() if before.get(fd) != name
        }:
            waited = time.monotonic() - begin
            assert waited < patience, f"descriptors left open: {leaked}"
            time.sleep(0.001)


def finish(loop: Any) -> None:
    """The end of asyncio.run()."""
    if loop.is_closed():
        return
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(params=FACTORIES)
def new_loop(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[Callable[[], Any]]:
    """Make loops, closed after the test, which have their own exception handler."""
    made = []

    def make() -> Any:
        made.append(FACTORIES[request.param]())
        if request.node.get_closest_marker("without_debug"):
            made[-1].set_debug(False)  # whatever the environment says
        return made[-1]

    yield make
    for each in made:
        finish(each)


@pytest.fixture
def errors() -> Iterator[list[dict[str, Any]]]:
    """What the loop told its exception handler. A test takes out what it expects."""
    reported: list[dict[str, Any]] = []
    yield reported
    assert reported == [], "unexpected calls of the exception handler"


def _reporting(make: Callable[[], Any], errors: list[dict[str, Any]]) -> Iterator[Any]:
    loop = make()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    yield loop
    finish(loop)


@pytest.fixture
def loop(new_loop: Callable[[], Any], errors: list[dict[str, Any]]) -> Iterator[Any]:
    """A loop: asyncio's, then ours."""
    yield from _reporting(new_loop, errors)


@pytest.fixture
def zloop_loop(errors: list[dict[str, Any]], no_leaks: None) -> Iterator[Any]:
    """Our loop, for what asyncio's does not promise."""
    yield from _reporting(FACTORIES["zloop"], errors)


Connect = Callable[..., Coroutine[Any, Any, tuple[Any, Peer]]]


@pytest.fixture(params=["connected", "accepted"])
def connect(request: pytest.FixtureRequest, loop: Any) -> Iterator[Connect]:
    """Give a protocol a TCP connection, made by us or accepted: `transport, peer = await connect(p)`."""
    open_peers: list[Peer] = []
    servers: list[Any] = []

    async def make(protocol: asyncio.BaseProtocol) -> tuple[Any, Peer]:
        if request.param == "connected":
            ours, theirs = tcp_pair()
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        else:
            made: asyncio.Future[Any] = loop.create_future()

            def factory() -> asyncio.BaseProtocol:
                loop.call_soon(lambda: loop.call_soon(made.set_result, None))
                return protocol

            server = await loop.create_server(factory, "127.0.0.1", 0)
            servers.append(server)
            theirs = socket.create_connection(server.sockets[0].getsockname())
            await made
            transport = protocol.transport  # type: ignore[attr-defined]
        peer = Peer(loop, theirs)
        open_peers.append(peer)
        return transport, peer

    yield make
    for peer in open_peers:
        peer.close()
    for server in servers:
        server.close()

    async def settle() -> None:  # each connection ends before the loop does
        for _ in range(3):
            await asyncio.sleep(0)

    if not loop.is_closed():
        loop.run_until_complete(settle())


@dataclasses.dataclass
class Contexts:
    """Of a server called localhost, and of a client that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def certificates() -> Any:
    trustme = pytest.importorskip("trustme", reason="trustme makes the certificates")
    authority = trustme.CA()
    return authority, authority.issue_cert("localhost", "127.0.0.1")


@pytest.fixture
def tls(certificates: Any) -> Contexts:
    authority, certificate = certificates
    contexts = Contexts(
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    )
    certificate.configure_cert(contexts.server)
    authority.configure_trust(contexts.client)
    return contexts
