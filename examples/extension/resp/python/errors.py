"""What can go wrong but a lost connection, which is a ConnectionError or another OSError."""

from __future__ import annotations


class ReplyError(Exception):
    """The server's answer is an error: raised for a command that is alone, a value among others' replies."""

    @property
    def code(self) -> str:
        """The word that it begins with, such as `WRONGTYPE`."""
        return str(self).partition(" ")[0]


class ProtocolError(ConnectionError):
    """What the server sends is no RESP3, or too large: the connection is ended."""
