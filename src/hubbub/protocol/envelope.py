"""The envelope, and the data of every control message: what is said on the wire, version 1."""

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct

VERSION = 1

MessageId = int | Annotated[str, Meta(max_length=128)]
"""What a client names its request by; the answer carries it again."""

MOST_ATTEMPTS = 2**53 - 1
"""The highest integer that every JSON reader has as it is."""

RoomName = Annotated[str, Meta(min_length=1, max_length=255)]

ABSENT = Raw(b"")
"""The ``data`` of an envelope that has none."""


class Incoming(Struct, frozen=True, gc=False):
    """A message from a client; `data` stays encoded until it is known what it should be."""

    type: Annotated[str, Meta(min_length=1, max_length=128)]
    data: Raw = ABSENT
    room: RoomName | None = None
    id: MessageId | None = None


class Envelope(Struct, frozen=True, omit_defaults=True, rename={"sender": "from"}):
    """A message to a client."""

    type: str
    id: MessageId | None = None
    room: str | None = None
    offset: int | None = None
    sender: str | None = None
    data: object = UNSET


class RawEnvelope(Struct, omit_defaults=True, gc=False, rename={"sender": "from"}):
    """A message in either direction, for who passes it on: `data` stays as it is."""

    type: str
    id: int | str | None = None
    room: str | None = None
    offset: int | None = None
    sender: str | None = None
    data: Raw = ABSENT


class Position(Struct, frozen=True):
    """A place in a room's sequence of messages: after `offset`, in the life `epoch` of that sequence.

    Offsets count 1, 2, 3 ... within an epoch. A new epoch means that the sequence began anew, so that
    offsets of the old one say nothing.
    """

    epoch: Annotated[str, Meta(max_length=64)]
    offset: Annotated[int, Meta(ge=0)]


class Publication(Struct, frozen=True, array_like=True, gc=False):
    """A room message as a broker carries it: the payload, encoded as MessagePack.

    `data` is MessagePack too. `sender` is who members are told it is from, `exclude` the session that
    doesn't get it. `conflation_key` is the key that a slow reader is kept only the newest message of; it has
    nothing to do with a broker's key for dropping repeated messages.
    """

    type: str
    data: Raw
    sender: str | None = None
    exclude: str | None = None
    conflation_key: str | None = None


class Join(Struct, frozen=True):
    """Data of ``$join``: `since` is the last position the client has seen."""

    since: Position | None = None


class Resume(Struct, frozen=True):
    """Data of ``$resume``: the session's token, and the last position seen in each of its rooms.

    A room without a position is joined as if the client came for the first time. `attempt` is higher each
    time that the client shows the same token.
    """

    session: Annotated[str, Meta(max_length=4096)]
    rooms: dict[RoomName, Position | None] = {}
    attempt: Annotated[int, Meta(ge=0, le=MOST_ATTEMPTS)] = 0


class Since(Struct, frozen=True):
    """Data of ``$history``: the messages after `since`, or the newest ones; `limit` at the most."""

    since: Position | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class Login(Struct, frozen=True):
    """Data of ``$auth``."""

    token: Annotated[str, Meta(min_length=1, max_length=16_384)]


class Welcome(Struct, frozen=True, omit_defaults=True):
    """Data of ``$welcome``, the first message of all, and of the answer to ``$resume``.

    `session` is the token with which the client takes its session up on another connection. It is of use
    for `lifetime` seconds; ``$session`` brings a new one. A request that is sent again within `window`
    seconds is carried out once. `heartbeat` is in seconds, `max_message` in bytes. `rooms` and `refused` are
    of a session that was resumed: where in each room its messages go on, and why it is not in others.
    """

    protocol: int
    session: str
    connection: str
    resumed: bool
    heartbeat: float
    max_message: int
    lifetime: float
    window: float
    user: str | None = None
    inbox: "Inbox | None" = None
    rooms: dict[str, Position] = {}
    refused: "dict[str, Failure]" = {}


class Ticket(Struct, frozen=True):
    """Data of the answer to ``$session``: a new token of the session, of use for `lifetime` seconds."""

    session: str
    lifetime: float


class Inbox(Struct, frozen=True):
    """The room in which messages to the connection's user arrive, and the position they start after."""

    room: str
    epoch: str
    offset: int


class Identity(Struct, frozen=True, omit_defaults=True):
    """Data of the answer to ``$auth``; `inbox` and a new token where a guest has become a user by it."""

    user: str | None
    inbox: Inbox | None = None
    session: str | None = None


class Page(Struct, frozen=True):
    """Data of the answer to ``$history``: `messages` in order, up to the position they reach to.

    `complete` is false where messages between `since` and the first of these are no longer kept.
    """

    epoch: str
    offset: int
    complete: bool
    messages: list[Envelope]


class Member(Struct, frozen=True, omit_defaults=True):
    """Somebody in a room: once, however many connections they have. ``$joined`` and ``$left`` list them."""

    user: str
    info: object = None


class Members(Struct, frozen=True):
    """Data of the answer to ``$presence``."""

    members: list[Member]


class Problem(Struct, frozen=True):
    """What is wrong where in a message's data (``$.text``)."""

    path: str
    message: str


class Failure(Struct, frozen=True, omit_defaults=True):
    """Data of ``$error``, and of ``$kicked``."""

    code: str
    message: str
    retry: bool
    errors: list[Problem] = []


class Drain(Struct, frozen=True):
    """Data of ``$drain``: seconds to wait after the close before coming back."""

    after: float
