"""One event loop for two languages: asyncio on zloop's C++ core.

``zloop.run(main())`` is asyncio.run() on zloop; ``zloop.new_event_loop`` is the loop factory for
everything that takes one. The C++ headers are in ``zloop.get_include()``.
"""

import asyncio as _asyncio
import os as _os
import sys as _sys
import typing as _typing
import warnings as _warnings
from collections.abc import Coroutine as _Coroutine

from ._zloop import __version__
from .loop import Loop

_T = _typing.TypeVar("_T")

if _typing.TYPE_CHECKING:
    from .policy import EventLoopPolicy as EventLoopPolicy

__all__ = ["Loop", "__version__", "get_include", "new_event_loop", "run"]

if _sys.version_info < (3, 16):  # asyncio's policies are deprecated in 3.14, and end there
    __all__ += ["EventLoopPolicy", "install"]

    def install() -> None:
        """Make zloop's loops those of asyncio.run() and asyncio.new_event_loop(), by its policy.

        What ``uvloop.install()`` is to uvloop; deprecated from Python 3.12 on: ``zloop.run()`` needs no
        policy, and asyncio's end with 3.16.
        """
        from .policy import EventLoopPolicy

        if _sys.version_info >= (3, 12):
            _warnings.warn(
                "zloop.install() is deprecated in favor of zloop.run() starting with Python 3.12.",
                DeprecationWarning,
                stacklevel=2,
            )
        with _warnings.catch_warnings():
            _warnings.simplefilter("ignore", DeprecationWarning)  # said already
            _asyncio.set_event_loop_policy(EventLoopPolicy())


def new_event_loop(*, writes: _typing.Literal["now", "turn"] | None = None) -> Loop:
    """A new loop, not running, not set as the current one: a ``loop_factory``.

    ``writes="turn"`` has transports send at the end of the loop's turn, what asyncio's send at once:
    see ``Loop.writes``.
    """
    return Loop(writes=writes)


def run(main: _Coroutine[_typing.Any, _typing.Any, _T], *, debug: bool | None = None) -> _T:
    """asyncio.run() on a zloop loop, on 3.11 too, whose run() takes no loop_factory."""
    if _asyncio._get_running_loop() is not None:
        # Runner's own words name asyncio.Runner.run(); these are asyncio.run()'s.
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")
    with _asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


def get_include() -> str:
    """The folder to give to a C++ compiler: ``#include <zloop/zloop.hpp>`` is found in it."""
    return _os.path.join(_os.path.dirname(__file__), "include")


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        # On demand: from 3.14 on, a look at asyncio's policy classes warns.
        if name == "EventLoopPolicy" and name in __all__:
            from .policy import EventLoopPolicy

            return EventLoopPolicy
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
