"""What the event loop asks of the two threads, and what they answer."""

from dataclasses import dataclass

from ...protocol.envelope import Position
from ..base import Entry, Receiver, Retention

OVERHEAD = 300
"""Bytes that a request takes besides its payload, about."""


@dataclass(slots=True, eq=False)
class Publish:
    """Asks for a message to be published; see :meth:`hubbub.brokers.base.Broker.publish`."""

    room: str
    payload: bytes
    sender: str | None
    key: str | None
    keep: Retention | None

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits."""
        return len(self.payload) + OVERHEAD


@dataclass(slots=True, eq=False)
class Published:
    """Says where a message is, and what is to be spread: nothing if it was a repeated one."""

    position: Position
    entry: Entry | None


@dataclass(slots=True, eq=False)
class Hold:
    """Asks for a room's position, for a receiver; the room is not forgotten until it is let go."""

    room: str
    instance: str
    receiver: Receiver
    size: int = OVERHEAD


@dataclass(slots=True, eq=False)
class LetGo:
    """Gives back as many holds of a room."""

    room: str
    holds: int
    size: int = 0


@dataclass(slots=True, eq=False)
class Read:
    """Asks for history; see :meth:`hubbub.brokers.base.Broker.history`.

    `epoch` is that of a room that is held, should nothing have been published there.
    """

    room: str
    since: Position | None
    limit: int
    epoch: str | None
    size: int = OVERHEAD
