import asyncio
from typing import Literal

from ._zloop import LoopCore

class Loop(LoopCore, asyncio.SelectorEventLoop):
    def __init__(self, *, writes: Literal["now", "turn"] | None = None) -> None: ...
