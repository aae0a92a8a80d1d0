"""The port below the client: a line over which WebSocket messages pass, and the dialling of one."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Line(Protocol):
    """A connection that is open. One task receives, one sends; a cancelled `recv` has taken nothing."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server agreed to, if any; where the line has but one, that one."""

    @property
    def name(self) -> str:
        """What kind of line it is, as the schemes of URLs name them: ``wss``, ``sse+https`` and so on."""

    @property
    def heard_at(self) -> float:
        """When the server gave its last sign of life that is no message, by the loop's clock; 0 for never.

        Heartbeats of some lines are none that :meth:`recv` returns. Whoever watches for silence looks here
        when a message is overdue, so a line that has nothing to tell costs nothing.
        """

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


UNAUTHORIZED = 401
"""HTTP status of a server that was reached and refuses the login."""

Dial = Callable[[str | None], Awaitable[Line]]
"""Opens a line with a login's token; raises :exc:`NotConnected` if it can't, or not in a time of its own."""


class LineLost(Exception):
    """A line has ended: with the close code and reason that were received, or 1006 where there were none."""

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class LineMoved(LineLost):
    """A line has not ended, but a better one is open, on which the session can go on.

    That one is logged in with `token`. It is closed together with the line that it replaces, unless
    :meth:`take` was called.
    """

    def __init__(self, token: str | None, take: Callable[[], Line]) -> None:
        super().__init__(1000, "a better line is open")
        self.token = token
        self.take = take


class NotConnected(Exception):
    """No line could be opened. `comes_back` is whether another attempt makes sense.

    `status` is that of the HTTP response with which the server refused, if it did, and `after` the seconds
    for which it wants the client to stay away. `for_all` is whether every other kind of line to the same
    server would fail for the same reason: its certificate is not trusted, say, or the login was refused.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        comes_back: bool = True,
        after: float = 0.0,
        for_all: bool = False,
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.reason = reason
        self.status = status
        self.comes_back = comes_back
        # A server that says when to come back was reached, and is full or stops.
        self.for_all = for_all or status == UNAUTHORIZED or after > 0
