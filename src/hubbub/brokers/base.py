"""The broker contract: what orders, stores and spreads room messages between processes.

A broker knows rooms by name and messages as bytes. Each :class:`Broker` object is one instance's
connection to it. The contract, which every driver keeps or says in its :class:`Guarantees` that it can't:

* Publishing is one atomic step: a repeated key is dropped, the next offset is given, the message is
  appended to the history, and it is spread.
* All instances are delivered a room's kept messages in the order of their offsets, without gap or repeat,
  from the position that :meth:`Broker.subscribe` returned.
* When the engine behind it can't be reached, calls raise :exc:`hubbub.errors.Unavailable`, at once if that
  is known; once it is back, subscriptions repair themselves: what was published meanwhile is delivered, and
  what can't be is told as lost. A publish that fails so may have been carried out all the same; who repeats
  it with its `key` has it published once.
* No two messages ever have the same position, also where the engine forgot some that it had acknowledged: a
  room that could go back begins a new epoch.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..protocol.envelope import Position


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history a room keeps: the newest `count` messages, none older than `age` seconds."""

    count: int
    age: float


class Entry(NamedTuple):
    """A room message as it is stored and delivered; `offset` is None if it was not kept."""

    offset: int | None
    payload: bytes
    sender: str | None


class History(NamedTuple):
    """Entries in order, and what they mean.

    `position` is that of the last entry; where there is none, the position asked for, or the room's newest
    if what was there is gone or that is of another epoch. `complete` is whether no message between `since`
    and the first entry is missing.
    """

    entries: list[Entry]
    position: Position
    complete: bool


class Departure(NamedTuple):
    """A member whose instance is gone."""

    room: str
    member: str
    details: bytes


class Renewal(NamedTuple):
    """What became of leases."""

    departures: list[Departure]
    forgotten: bool
    """Whether this instance's own members were removed: its lease ran out, or the engine has lost them.

    They have to be entered again.
    """


class Receiver(Protocol):
    """What a broker delivers to: one instance's hub. All methods are called on its event loop."""

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        """Take a message of a room the instance subscribed to."""

    def lost(self, room: str, position: Position) -> None:
        """Take note that a room's feed goes on after `position`, and that messages before it will not come.

        Of a room the instance subscribed to, where the engine no longer has what was missed, or has lost
        the room and begun a new epoch.
        """

    def control(self, payload: bytes) -> None:
        """Take what another instance sent to this one."""


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a driver's engine gives, however it is set up; ``hubbub routes`` shows it."""

    shared: bool
    """Other processes can take part.

    Who needs that is refused at the start without it: several workers that have rooms or users, a publisher.
    """
    durable: bool
    """History, keys and the secret survive the end of all processes that take part.

    Not that of the engine, if it is a server: whether it writes to the disk is for its operator to decide.
    What it forgets is told as lost, as everywhere, so nothing has to ask for this.
    """


class Broker(Protocol):
    """One instance's connection to a broker."""

    guarantees: Guarantees
    instance: str
    """Name of this instance, by which others can send to it."""
    available: bool
    """Whether the engine answers, as far as is known. A driver logs each change."""

    async def start(self, receiver: Receiver | None) -> None:
        """Connect and deliver to `receiver` from now on; without one, only publish and send control messages.

        An engine that can't be reached is no error: it is tried again, ever after, and calls raise
        :exc:`hubbub.errors.Unavailable` meanwhile. :exc:`hubbub.errors.ConfigurationError` says in one
        sentence why an engine that answers is of no use: a wrong password, a version that is too old.
        """

    async def stop(self) -> None:
        """Give everything back: subscriptions, this instance's members, connections."""

    async def secret(self) -> bytes:
        """Return 32 random bytes that all instances share, made by the first that asks.

        They are kept for as long as history is: session tokens are signed with them.
        """

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish and return the message's position.

        A `key` that the room has seen within the deduplication window publishes nothing and returns the
        first one's position. With `keep` None the message is spread but gets no offset and no place in
        history; the position returned is then the room's newest.
        """

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""

    async def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        """Return up to `limit` kept messages: the first ones after `since`, or the newest if it is None.

        A `since` of another epoch, or beyond the newest message, is answered from the oldest message that
        is kept, as not complete.
        """

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room on any instance, each with the details of their first connection."""

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, this one among them, as far as leases tell."""

    async def renew(self) -> Renewal:
        """Keep this instance's members for another lease; return those removed whose instance is gone.

        Each departure is returned to one instance only.
        """

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        """Send to the one instance of that name, or with None to all, this one too.

        Nothing happens if it is gone. Control messages may be lost while the engine can't be reached.
        """
