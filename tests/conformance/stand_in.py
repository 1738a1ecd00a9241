"""Takes uvloop's name in uvloop's own tests: behind each of its names is the loop that asyncio makes here.

What its tests share, `uvloop._testbase`, is the real one, from its source distribution. What it
compiles is not here: tests of that alone cannot import it, on stock neither.
"""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

__path__ = [os.environ["CONFORMANCE_UVLOOP"]]

Loop = asyncio.SelectorEventLoop
EventLoopPolicy = asyncio.DefaultEventLoopPolicy


def new_event_loop() -> Any:
    return Loop()


def run(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    with asyncio.Runner(**options) as runner:
        return runner.run(main)
