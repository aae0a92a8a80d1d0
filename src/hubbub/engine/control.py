"""Control messages: what instances say to each other through the broker, and who takes which of them."""

from collections.abc import Callable
from typing import Any

import msgspec

from ..brokers.base import Broker
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, pack
from ..protocol.envelope import Failure
from .connection import Rank

MAX_CONTROL = 512 * 1024
"""Bytes that a control message may have; a larger one is not looked at."""


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
    """Close a user's connections."""

    user: str
    reason: str


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


_read = msgspec.msgpack.Decoder(Moved | Ask | Disconnect | Kick | Answer).decode

Takers = dict[type[msgspec.Struct], Callable[[Any], None]]
"""Who takes a control message, by its class."""


class Controls:
    """Reads what other instances say to this one, and hands it to who takes it."""

    def __init__(self, takers: Takers) -> None:
        self._takers = takers

    def take(self, payload: bytes) -> None:
        """Take a control message. One that can't be read is logged, and does nothing."""
        try:
            if len(payload) > MAX_CONTROL:
                raise ValueError("too large")
            message = _read(payload)
        except (ValueError, *UNREADABLE):
            logger.warning("error", extra=fields(during="control message", size=len(payload)))
            return
        self._takers[type(message)](message)


async def send(broker: Broker, instance: str | None, message: msgspec.Struct) -> None:
    """Say something to an instance, or with None to all."""
    await broker.send_control(instance, pack(message))
