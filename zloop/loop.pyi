import asyncio

from ._zloop import LoopCore

class Loop(LoopCore, asyncio.SelectorEventLoop):
    def __init__(self) -> None: ...
