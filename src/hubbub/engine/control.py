"""Control messages: what instances say to each other through the broker, and who takes which of them."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..brokers.base import Broker
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, pack
from ..protocol.envelope import Failure
from .connection import Rank
from .joining import PIECE, Joining, Part
from .lines import LineAnswer, LineRequest

MAX_CONTROL = 512 * 1024
"""Bytes that a control message may have; a larger one is not looked at. What is larger is sent in parts."""


class ConnectionInfo(msgspec.Struct, frozen=True):
    """A connection of a user, on any instance, as :meth:`hubbub.Hubbub.connections` shows it."""

    id: str
    """The connection's id, as the log has it."""
    user: str
    """Who it is: the user, or a guest's name, ``guest:`` and a few characters."""
    instance: str
    """Name of the instance that it is on."""
    session: str
    """The first characters of its session's id, as the log has them; two connections never share one."""
    remote_address: tuple[str, int] | None
    """Address and port of the client; None over a Unix domain socket."""
    connected_at: float
    """When it connected: Unix time in seconds, by its instance's clock."""
    rooms: list[str]
    """Rooms that it is in, by name, 100 at the most; not the user's inbox."""


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="moved"):
    """A session is on the sender now; connections of a lower rank have to go."""

    session: str
    rank: Rank


class Question(msgspec.Struct, frozen=True, array_like=True):
    """What every instance is asked to do or tell; each answers the instance that asks."""

    question: str
    instance: str


class Ask(Question, frozen=True, array_like=True, tag="ask"):
    """Tell which connections a user has."""

    user: str


class Disconnect(Question, frozen=True, array_like=True, tag="disconnect"):
    """Close a user's connections; with `login`, those of that one."""

    user: str
    reason: str
    login: str | None = None


class Kick(Question, frozen=True, array_like=True, tag="kick"):
    """Take a user out of a room; `failure` is what their clients are told."""

    user: str
    room: str
    failure: Failure


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """The answer of one instance: of how many connections it is, and which, if that was asked.

    `count` is greater than the number of `connections` where those were too many to be told.
    """

    question: str
    instance: str
    count: int
    connections: list[ConnectionInfo] = []


class Relayed(Question, frozen=True, array_like=True, tag="relay"):
    """Answer a request of a client whose line is with you, and which came to the sender."""

    request: LineRequest


class Returned(msgspec.Struct, frozen=True, array_like=True, tag="returned"):
    """The answer to it."""

    question: str
    instance: str
    reply: LineAnswer


class Several(msgspec.Struct, frozen=True, array_like=True, tag="several"):
    """Messages that are each packed already, and sent as one."""

    messages: list[bytes]


Plain = Moved | Ask | Disconnect | Kick | Answer | Relayed | Returned
"""What is no wrapping around others."""

_read = msgspec.msgpack.Decoder(Plain | Several | Part).decode
_read_plain = msgspec.msgpack.Decoder(Plain).decode

Takers = dict[type[msgspec.Struct], Callable[[Any], None]]
"""Who takes a control message, by its class."""


class Controls:
    """Reads what other instances say to this one, and hands it to who takes it."""

    def __init__(self, takers: Takers) -> None:
        self._takers = takers
        self.joining = Joining()
        """Messages of which some parts have come."""

    def take(self, payload: bytes) -> None:
        """Take a control message. One that can't be read is logged, and does nothing."""
        try:
            if len(payload) > MAX_CONTROL:
                raise ValueError("too large")
            for message in self._messages(payload):
                self._takers[type(message)](message)
        except (ValueError, *UNREADABLE):
            logger.warning("error", extra=fields(during="control message", size=len(payload)))

    def _messages(self, payload: bytes) -> Iterator[Plain]:
        message = _read(payload)
        if isinstance(message, Several):
            yield from map(_read_plain, message.messages)
        elif isinstance(message, Part):
            whole = self.joining.add(message)
            if whole is not None:
                yield _read_plain(whole)
        else:
            yield message


async def send(broker: Broker, instance: str | None, message: msgspec.Struct) -> None:
    """Say something to an instance, or with None to all."""
    await send_packed(broker, instance, pack(message))


async def send_packed(broker: Broker, instance: str | None, payload: bytes) -> None:
    """Say what is packed already; in parts, if it is larger than a control message may be."""
    if len(payload) <= MAX_CONTROL:
        await broker.send_control(instance, payload)
        return
    name, count = secrets.token_hex(8), -(-len(payload) // PIECE)
    for number in range(count):
        piece = payload[number * PIECE : (number + 1) * PIECE]
        await broker.send_control(instance, pack(Part(name, number, count, piece)))
