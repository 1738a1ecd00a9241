"""A Redis client: RESP3 in C++ coroutines, on the loop that runs."""

from ._resp import Client, Connection, Message, Parser, Subscription
from .errors import ProtocolError, ReplyError

__all__ = [
    "Client",
    "Connection",
    "Message",
    "Parser",
    "ProtocolError",
    "ReplyError",
    "Subscription",
]
