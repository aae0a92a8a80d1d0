"""What iteration over a room or a client yields, and the states that a client goes through."""

from enum import Enum

from msgspec import Struct

from ..errors import RequestFailed
from ..protocol.envelope import Member, Position


class Received(Struct, frozen=True):
    """A message from the server.

    `message` is an instance of the class that the client was given for this `type`, else plain data: what
    JSON or MessagePack has. `room` is None for a message to this connection alone, `offset` None for one
    that has no place in the room's history. `sender` is who it is from, if that is told.
    """

    room: str | None
    message: object
    type: str
    sender: str | None = None
    offset: int | None = None


class Gap(Struct, frozen=True):
    """Messages are lost to this client: those of the room between what was yielded before and `position`.

    What the application shows of the room should be fetched anew. For messages to this connection alone,
    which have no history, `room` and `position` are None: more came than could wait for the iteration.
    """

    room: str | None
    position: Position | None


class Joined(Struct, frozen=True):
    """Somebody has come into a room that shows who is there."""

    room: str
    member: Member


class Left(Struct, frozen=True):
    """Somebody has left a room that shows who is there."""

    room: str
    member: Member


class Refused(Struct, frozen=True):
    """The client is in the room no more: it was taken out of it, or not let in again after a reconnect.

    Iteration over the client yields it; iteration over the room raises `error`, whose `code` is ``kicked`` or
    ``banned`` where it was taken out. Nothing more comes from the room; the client can join it anew.
    """

    room: str
    error: RequestFailed


RoomEvent = Received | Gap | Joined | Left
"""What iteration over a room yields."""

Event = RoomEvent | Refused | str | bytes
"""What iteration over a client yields; plain text and bytes come from a server that is no hubbub."""


class State(Enum):
    """What a client is doing."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    """The line was lost; the next attempt comes later."""
    CLOSED = "closed"
    """It is over: by `close`, or since the client has stopped trying."""


class StateChange(Struct, frozen=True):
    """A client's state, and why.

    With OPEN, `resumed` is whether the session of the connection before goes on, and `line` what kind of line
    the connection is, as URLs name it: ``wss``, ``sse+https`` and so on. With WAITING, `wait` is
    how many seconds. With WAITING and CLOSED, `code` and `reason` are why the last connection ended: the
    close code, or None if there was no connection.
    """

    state: State
    resumed: bool = False
    wait: float = 0.0
    code: int | None = None
    reason: str = ""
    line: str = ""
