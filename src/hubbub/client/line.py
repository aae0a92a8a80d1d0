"""The port below the client: a line over which WebSocket messages pass, and the dialling of one."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Line(Protocol):
    """A connection that is open. One task receives, one sends; a cancelled `recv` has taken nothing."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server agreed to, if any."""

    async def send(self, message: str | bytes) -> None:
        """Send a text or a binary message; wait while the other side reads slowly.

        Raises :exc:`LineLost` if the line has ended.
        """

    async def recv(self) -> str | bytes:
        """Return the next message; :exc:`LineLost` if the line has ended and all that came was received."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a code, within some seconds; 1006, which is never sent, lets go without a handshake.

        On a line that has ended it does nothing.
        """


Dial = Callable[[str | None], Awaitable[Line]]
"""Opens a line with a login's token; raises :exc:`NotConnected` if it can't, or not in a time of its own."""


class LineLost(Exception):
    """A line has ended: with the close code and reason that were received, or 1006 where there were none."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class NotConnected(Exception):
    """No line could be opened. `comes_back` is whether another attempt makes sense.

    `status` is that of the HTTP response with which the server refused, if it did, and `after` the seconds
    for which it wants the client to stay away.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, comes_back: bool = True, after: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.reason = reason
        self.status = status
        self.comes_back = comes_back
