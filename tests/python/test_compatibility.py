"""The map in docs/compatibility.md says whose code each method is, and the code says the same."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
from helpers import ROOT

from zloop import Loop, _zloop

PAGE = (ROOT / "docs" / "compatibility.md").read_text()


def table(first_line: str) -> list[list[str]]:
    """The rows of the table that begins so, each a list of cells."""
    rows = PAGE.partition(first_line + "\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def public_methods(of: type) -> set[str]:
    found = inspect.getmembers(of, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")}


def owner(of: type, name: str) -> type | None:
    return next((each for each in of.__mro__ if name in vars(each)), None)


def whose(of: type, name: str) -> str:
    """zloop or asyncio: where the method of that name is defined; "-" where it is nowhere."""
    found = owner(of, name)
    if found is None:
        return "-"
    method = vars(found)[name]
    if inspect.isfunction(method) and "NotImplementedError" in method.__code__.co_names:
        return "-"
    return found.__module__.partition(".")[0]


LOOP = {
    name: (code, set(names(over)))
    for methods, code, over, _ in table("| method | code | over zloop's | uvloop |")
    for name in names(methods)
}
TRANSPORTS = {
    name: cells
    for methods, *cells in table(
        "| method | stream socket | TLS | datagrams | reading pipe | writing pipe |"
    )
    for name in names(methods)
}


def used(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from used(constant)


def replaced(name: str, seen: set[str]) -> set[str]:
    """zloop's private methods that a method of asyncio's comes to, over others of asyncio's."""
    found = set()
    function: Any = inspect.unwrap(getattr(Loop, name))
    for each in set(used(function.__code__)) - seen:
        seen.add(each)
        method = getattr(Loop, each, None)
        if owner(Loop, each) in (Loop, _zloop.LoopCore):
            # It only checks, and asks asyncio's first.
            if callable(method) and each.startswith("_") and each != "_ensure_fd_no_transport":
                found.add(each)
        elif inspect.isfunction(method):
            found |= replaced(each, seen)
    return found


def test_the_map_has_each_method_of_a_loop() -> None:
    assert LOOP.keys() == public_methods(asyncio.AbstractEventLoop)


@pytest.mark.parametrize("method", LOOP)
def test_the_map_says_whose_code_a_method_of_the_loop_is(method: str) -> None:
    code, over = LOOP[method]

    assert code == whose(Loop, method)
    assert over == (set() if code == "zloop" else replaced(method, set()))


def test_the_map_has_each_method_of_a_transport() -> None:
    of_both = public_methods(asyncio.Transport) | public_methods(asyncio.DatagramTransport)
    assert TRANSPORTS.keys() == of_both


@pytest.mark.parametrize("method", TRANSPORTS)
def test_the_map_says_whose_code_a_method_of_a_transport_is(method: str) -> None:
    ours = [
        _zloop.SocketTransport,
        _zloop.SSLTransport,
        _zloop.DatagramTransport,
        _zloop.ReadPipeTransport,
        _zloop.WritePipeTransport,
    ]

    assert TRANSPORTS[method] == [whose(transport, method) for transport in ours]
