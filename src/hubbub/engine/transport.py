"""The ports between a line and the engine: what each side may ask of the other."""

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from typing import NamedTuple, Protocol

from ..protocol.bookmarks import Bookmark
from .outbox import Chunk, Framing, Outbox, Writer


class Ending(NamedTuple):
    """How a line ended: code and reason of the close frames that came and went, if any."""

    received: tuple[int, str] | None = None
    sent: tuple[int, str] | None = None
    received_first: bool = False


class Served(NamedTuple):
    """The task that serves a line, and the context that it runs in."""

    task: asyncio.Task[None]
    context: Context


class Driven(Protocol):
    """A line at which the session's own task receives and sends, since both may have to be waited for."""

    @property
    def pulling(self) -> bool:
        """Whether the task waits in :meth:`pull`."""

    def pull(self) -> Awaitable[str | bytes | None]:
        """Receive a message; None where none comes in this way now: it may have been told the listener."""

    def settle(self, outbox: Outbox) -> Awaitable[None] | None:
        """Write what waits in an outbox; return what is left to be awaited, None if it is done."""

    def busy(self) -> None:
        """Take that the task waits for something else: what comes in meanwhile is told the listener."""


class Transport(Writer, Protocol):
    """A client's line, as the engine sees it."""

    @property
    def framing(self) -> Framing:
        """The same object for all transports whose chunks look alike, so that one chunk serves them all."""

    @property
    def pings(self) -> bool:
        """Whether :meth:`ping` asks the client for a sign of life."""

    @property
    def driven(self) -> "Driven | None":
        """What the session's task does for the line; None where that takes no task, or has one of its own."""

    @property
    def served_by(self) -> Served | None:
        """By what the line is served; None where another task tells the listener what comes in."""

    def accept(self, listener: "Listener", subprotocol: str | None) -> Awaitable[None]:
        """Finish the opening handshake; from now on `listener` is told what comes in."""

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order, at once."""

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; :meth:`Listener.ended` follows."""

    def abort(self) -> None:
        """End the line at once; :meth:`Listener.ended` follows."""

    def ping(self) -> None:
        """Send a ping frame, where :attr:`pings`."""

    def pause_reading(self) -> None:
        """Take in nothing more, so that the client's line fills up."""

    def resume_reading(self) -> None:
        """Take in again."""


class Listener(Protocol):
    """Who a transport tells what happens."""

    max_message: int
    """Size in bytes of the largest message to let in."""

    def heard_from(self, control_frames: int = 0) -> None:
        """Note a sign of life that is no message: control frames, or a good part of a large message."""

    def received(self, message: str | bytes, more: bool = False) -> bool:
        """Take a message; false if it had the transport pause reading or close: no more may come now.

        `more` says that more has come in behind it, so that it may be worth while to wait for that.
        """

    def bookmark(self) -> Bookmark | None:
        """Return what takes the session up right after all that was written; None if there is none yet.

        It holds within :meth:`Writer.write`: everything that was sent to the client is in the chunks.
        """

    def pause_writing(self) -> None:
        """Write nothing for now: the transport's buffer is full."""

    def resume_writing(self) -> None:
        """Write again."""

    def failing(self) -> None:
        """Take that the client broke the protocol: nothing more can be sent, :meth:`ended` follows."""

    def ended(self, ending: "Ending") -> None:
        """Take that the line is gone. Called once."""

    def shut_down(self) -> None:
        """Leave: the server stops."""


class SessionListener(Listener, Protocol):
    """A listener that has a session, as every line that the hub lets in."""

    @property
    def session(self) -> str:
        """Identifies the session, which outlives the line; it is no secret."""
