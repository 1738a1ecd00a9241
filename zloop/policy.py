"""The event loop policy, for Python versions and programs that still use one."""

import asyncio
import warnings
from typing import TYPE_CHECKING

from .loop import Loop

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as _DefaultPolicy
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _DefaultPolicy = getattr(asyncio, "_DefaultEventLoopPolicy", None)
        if _DefaultPolicy is None:
            _DefaultPolicy = asyncio.DefaultEventLoopPolicy


class EventLoopPolicy(_DefaultPolicy):
    """asyncio.DefaultEventLoopPolicy, but new loops are zloop's."""

    _loop_factory = Loop
