"""Publishing from programs that run no server: workers of a task queue, scripts, what cron starts.

>>> async with hubbub.Publisher("redis://localhost", rooms=hub) as publisher:
...     await publisher.send("chat/lobby", Say(text="hi"))
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import msgspec

from .brokers import open_broker
from .brokers.base import Broker, Retention
from .errors import ConfigurationError
from .protocol.envelope import Envelope, Position
from .protocol.messages import Sendable, wire_type_of
from .protocol.publications import DEFAULT_AGE, check_key, inbox_of, outside_key, packed
from .settings import Settings

LONGEST_NAME = 255
"""Characters of a room's name."""


class DeclaredRooms(Protocol):
    """The rooms of one pattern, as :class:`hubbub.Rooms` declares them."""

    @property
    def retention(self) -> Retention:
        """How much history they keep."""

    def match(self, name: str) -> tuple[str, ...] | None:
        """Return something if `name` is one of them."""

    def check_key(self, key: str) -> None:
        """Raise what :meth:`hubbub.Room.send` raises for a key that can't be."""


class Declarations(Protocol):
    """An application's declarations: a :class:`hubbub.Hubbub`, which need not be started."""

    @property
    def settings(self) -> Settings:
        """Its settings."""

    @property
    def rooms(self) -> Sequence[DeclaredRooms]:
        """Its rooms."""


class Publisher:
    """Publishes to rooms and users through a broker that the servers share: an async context manager.

    `broker` is its URL, or a broker object of your own; without one it is what the setting `broker` says
    (``HUBBUB_BROKER``). `rooms` is the application: it says which rooms there are and how much history they
    keep, and its settings apply. A program that does not have its code says the history with each message.

    Raises :exc:`ConfigurationError` for ``memory://`` and ``sqlite://``, which are one process's own. An
    engine that can't be reached is no error as it is entered; then :meth:`send` raises
    :exc:`hubbub.Unavailable`.
    """

    def __init__(
        self,
        broker: str | Broker | None = None,
        *,
        rooms: Declarations | None = None,
        settings: Settings | None = None,
    ) -> None:
        if settings is None and rooms is not None:
            settings = rooms.settings
        self.settings = Settings.load(settings)
        if isinstance(broker, str):
            self.settings = msgspec.structs.replace(self.settings, broker=broker)
        self._rooms = rooms
        self.broker = open_broker(self.settings) if broker is None or isinstance(broker, str) else broker
        """Its connection to the broker."""
        if self.broker is not broker and not self.broker.guarantees.shared:
            raise ConfigurationError(
                f"A publisher can't reach rooms at {self.settings.broker.partition(':')[0]}://: they are in "
                "the process that serves them. Give the servers and the publisher a broker that they share: "
                "redis://, amqp:// or nats://."
            )
        self._entered = False

    async def __aenter__(self) -> Self:
        await self.broker.start(None)
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        await self.broker.stop()

    async def send(
        self,
        room: str,
        message: Sendable,
        *,
        ephemeral: bool = False,
        key: str | None = None,
        idempotency_key: str | None = None,
        history: int | None = None,
        history_age: float | None = None,
    ) -> Position:
        """Publish to all members of a room, on every instance; return the message's position.

        The members see no sender. `ephemeral` and `key` are as in :meth:`hubbub.Room.send`: without a trace,
        and what slow readers are sent the newest of. With an `idempotency_key` that the room was sent within
        the deduplication window, nothing is published, and the position is the first one's: who repeats a
        call that raised :exc:`hubbub.Unavailable` needs one.

        `history` and `history_age` (seconds; a day if only `history` is given) are what the room's
        declaration says. A publisher with `rooms` knows it. Others have to say it, but for ephemeral
        messages: a room keeps what its newest message says, and forgets what is past that.

        Raises :exc:`ConfigurationError` for a room that is not declared or whose history is not known,
        :exc:`TypeError` for what is no message, :exc:`hubbub.InvalidMessage` for one that can't be encoded,
        :exc:`ValueError` for a name or a key that is too long or empty, and :exc:`hubbub.Unavailable` if the
        broker can't be reached.
        """
        if not 1 <= len(room) <= LONGEST_NAME:
            raise ValueError(f"A room's name has 1 to {LONGEST_NAME} characters, not {len(room)}.")
        if room.startswith("$"):
            raise ConfigurationError(
                f"{room!r}: names that start with $ are the protocol's own. To a user, send with user()."
            )
        declared = self._declared(room)
        if key is not None and declared is not None:
            declared.check_key(key)
        keep = None
        if declared is not None:
            if history is not None or history_age is not None:
                raise ConfigurationError(f"How much history {room!r} keeps is declared: leave it out here.")
            keep = declared.retention
        elif history is not None:
            age = DEFAULT_AGE if history_age is None else history_age
            if history < 0 or not 0 < age < float("inf"):
                raise ConfigurationError("history is at least 0, history_age more than 0 seconds.")
            keep = Retention(history, age)
        elif not ephemeral:
            raise ConfigurationError(
                f"How much history {room!r} keeps is not known here, and a wrong number would drop "
                "messages. Make the Publisher with rooms=hub, or say history= and history_age= as the room's "
                "declaration does, or send with ephemeral=True."
            )
        return await self._publish(room, message, None if ephemeral else keep, key, idempotency_key)

    async def user(
        self, user: str, message: Sendable, *, ephemeral: bool = False, idempotency_key: str | None = None
    ) -> Position:
        """Publish to all connections of a user, as :meth:`hubbub.Hubbub.user`; return the message's position.

        An inbox keeps as many messages as the setting `inbox_history` says, which has to be the servers'.
        Raises what :meth:`send` raises.
        """
        inbox = inbox_of(user)
        if not user or len(inbox) > LONGEST_NAME:
            raise ValueError(f"A user's id has 1 to {LONGEST_NAME - len(inbox_of(''))} characters.")
        keep = None if ephemeral else Retention(self.settings.inbox_history, DEFAULT_AGE)
        return await self._publish(inbox, message, keep, None, idempotency_key)

    def _declared(self, room: str) -> DeclaredRooms | None:
        """Return the declaration of a room, if there are any; :exc:`ConfigurationError` if it is in none."""
        if self._rooms is None:
            return None
        for rooms in self._rooms.rooms:
            if rooms.match(room) is not None:
                return rooms
        raise ConfigurationError(f"No declared pattern has a room {room!r}.")

    async def _publish(
        self,
        room: str,
        message: Sendable,
        keep: Retention | None,
        key: str | None,
        idempotency_key: str | None,
    ) -> Position:
        if not self._entered:
            raise ConfigurationError("The publisher is not open: use it in an `async with` block.")
        if key is not None:
            check_key(key)
        if isinstance(message, Envelope):
            payload = packed(message.type, _data_of(message), conflation_key=key)
        else:
            payload = packed(wire_type_of(type(message)), message, conflation_key=key)
        return await self.broker.publish(
            room,
            payload,
            sender=None,
            key=None if idempotency_key is None else outside_key(idempotency_key),
            keep=keep,
        )


def _data_of(envelope: Envelope) -> object:
    """Return the data of an envelope, in which a program says what it has no class for."""
    if not envelope.type or envelope.type.startswith("$"):
        raise ConfigurationError("A type is not empty; those that start with $ are the protocol's own.")
    return {} if envelope.data is msgspec.UNSET else envelope.data
