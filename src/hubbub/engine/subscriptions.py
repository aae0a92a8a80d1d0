"""The rooms this process has members of: one subscription each, and the fan-out to the members."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping

import msgspec

from ..brokers.base import Broker, Entry
from ..errors import Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, Codec
from ..protocol.envelope import Envelope, Position, Publication
from .connection import Connection
from .form import Form
from .held import HeldMessage, Slow
from .outbox import Chunk, Flusher, Outbox, fan_out

_unpack = msgspec.msgpack.Decoder(Publication).decode

MAX_OWED = 100_000
"""Rooms remembered whose end the broker has to be told. Of more than these, deliveries are dropped."""

SETTLED_AT_ONCE = 1_000
SETTLED_WITHIN = 1.0
"""How many of them it is told of at a time, and in how many seconds, as other work is to be done between."""

LOST = Publication("", msgspec.Raw())
"""Stands for what a broker brought and nobody can read: a broker's store may hold anything."""


def publication_of(entry: Entry) -> Publication:
    """Return what was published, or :data:`LOST`."""
    try:
        return _unpack(entry.payload)
    except UNREADABLE:
        return LOST


def envelope_of(room: str, entry: Entry, publication: Publication, codec: Codec) -> Envelope:
    """Return a room message as a client is shown it; :exc:`ValueError` for what is none."""
    if publication is LOST:
        raise ValueError(f"The {len(entry.payload)} bytes that the broker brought are no message.")
    return Envelope(
        publication.type,
        room=room,
        offset=entry.offset,
        sender=publication.sender,
        data=codec.data(publication.data),
    )


def chunk_of(
    room: str, epoch: str, entry: Entry, publication: Publication, form: Form
) -> tuple[Chunk, int] | None:
    """Return a room message in a form, and its size in bytes.

    Publishing lets nothing through that a codec can't carry. Should a broker bring such a message all the
    same, or what is no message, members are told of a gap; of one that was not kept, nothing.
    """
    try:
        return form.chunk(envelope_of(room, entry, publication, form.codec))
    except (TypeError, ValueError, RecursionError):
        logger.exception("error", extra=fields(during="encoding", room=room, codec=form.codec.subprotocol))
        if entry.offset is None:
            return None
        return form.chunk(gap(room, Position(epoch, entry.offset)))


def gap(room: str, position: Position) -> Envelope:
    """Return what tells a member that it has lost messages, up to a position."""
    return Envelope("$gap", room=room, data=position)


class Subscription:
    """A room of which this process has members: where its feed is, and their outboxes by form."""

    __slots__ = (
        "_moved", "asked", "epoch", "forms", "holders", "lock", "name", "offset", "slow", "subscribed",
    )  # fmt: skip

    def __init__(self, name: str, slow: Slow) -> None:
        self.name = name
        self.slow = slow
        self.holders = 0
        """Memberships, those under way included; at none the subscription ends."""
        self.lock = asyncio.Lock()
        self.subscribed = False
        self.asked = False
        """Whether the broker may be delivering: it was asked to, and not, with success, to stop."""
        self.epoch = ""
        self.offset = 0
        """Position of the newest message that was delivered."""
        self.forms: dict[Form, set[Outbox]] = {}
        self._moved: asyncio.Future[None] | None = None

    @property
    def position(self) -> Position:
        """Where the feed is."""
        return Position(self.epoch, self.offset)

    def advance(self, epoch: str, offset: int) -> None:
        """Note how far the feed came."""
        self.offset = max(self.offset, offset) if epoch == self.epoch else offset
        self.epoch = epoch
        if self._moved is not None:
            self._moved.set_result(None)
            self._moved = None

    def skips(self, epoch: str, offset: int) -> bool:
        """Tell whether the feed is not yet right before that position: what is between is lost."""
        return offset > self.offset + 1 or epoch != self.epoch

    def moved(self) -> asyncio.Future[None]:
        """Return what is done as soon as the feed comes further. It is everybody's: don't cancel it."""
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        return self._moved

    def add(self, connection: Connection) -> None:
        """Deliver to a connection from now on."""
        assert connection.form is not None
        self.forms.setdefault(connection.form, set()).add(connection.outbox)

    def remove(self, connection: Connection) -> None:
        """Deliver to it no more, nor what waits for it in a room that would rather leave something out."""
        connection.outbox.forget(self.name)
        assert connection.form is not None
        outboxes = self.forms.get(connection.form)
        if outboxes is not None:
            outboxes.discard(connection.outbox)
            if not outboxes:
                del self.forms[connection.form]


class Subscriptions:
    """All subscriptions of a process, each asked of the broker once, however many members it has.

    `sessions` is who is connected, by session id; `flusher` that of their outboxes.
    """

    def __init__(self, broker: Broker, sessions: Mapping[str, Connection], flusher: Flusher) -> None:
        self._broker = broker
        self._sessions = sessions
        self._flusher = flusher
        self._by_room: dict[str, Subscription] = {}
        self.on_news: Callable[[str, Entry, Publication], None] = _ignore
        """Called with what is announced of who is in a room."""
        self._owed: set[Subscription] = set()
        """Those that nobody holds, and whose end the broker could not be told."""

    def holds(self, room: str) -> bool:
        """Tell whether the room's feed comes here."""
        subscription = self._by_room.get(room)
        return subscription is not None and subscription.subscribed

    async def subscribe(self, room: str, slow: Slow = "disconnect") -> Subscription:
        """Return the room's subscription with one more holder; the broker is asked once for all of them.

        `slow` is what the room has done to members that read too slowly.
        """
        subscription = self._by_room.get(room)
        if subscription is None:
            subscription = self._by_room[room] = Subscription(room, slow)
        subscription.holders += 1
        try:
            if not subscription.subscribed:
                async with subscription.lock:
                    if not subscription.subscribed:
                        subscription.asked = True
                        position = await self._broker.subscribe(room)
                        subscription.advance(position.epoch, position.offset)
                        subscription.subscribed = True
        except BaseException:
            await self.release(subscription)
            raise
        return subscription

    async def release(self, subscription: Subscription) -> None:
        """Give a holder's part back.

        Where the broker can't be told now that there is none any more, it is with :meth:`settle`.
        """
        subscription.holders -= 1
        if subscription.holders == 0:
            async with subscription.lock:
                await self._end(subscription)

    async def _end(self, subscription: Subscription) -> None:
        if subscription.holders or not self._is_there(subscription):
            return
        if subscription.subscribed:
            subscription.subscribed = False
            await self._unsubscribe(subscription)
        elif subscription.asked:
            # Whoever could not have it, or did not wait for it, is not to wait for this either.
            self._owe(subscription)
        else:
            self._forget(subscription)

    def _is_there(self, subscription: Subscription) -> bool:
        return self._by_room.get(subscription.name) is subscription

    async def _unsubscribe(self, subscription: Subscription) -> None:
        try:
            await self._broker.unsubscribe(subscription.name)
        except Unavailable:
            self._owe(subscription)
            return
        except BaseException:
            self._forget(subscription)
            raise
        subscription.asked = False
        self._forget(subscription)

    def _owe(self, subscription: Subscription) -> None:
        # It stays, so that what the broker may go on to deliver has an owner that ends it.
        if len(self._owed) < MAX_OWED:
            self._owed.add(subscription)
        else:
            self._forget(subscription)

    def _forget(self, subscription: Subscription) -> None:
        # Somebody may have come while the broker was asked; then it is theirs.
        if subscription.holders == 0:
            self._owed.discard(subscription)
            del self._by_room[subscription.name]

    async def settle(self) -> None:
        """End subscriptions that nobody holds any more, and whose end the broker could not be told."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLED_WITHIN
        for _ in range(min(SETTLED_AT_ONCE, len(self._owed))):
            # While it was waited for, others may have ended it, and the room may have another one by now.
            subscription = self._owed.pop()
            async with subscription.lock:
                if not (subscription.holders or subscription.subscribed) and self._is_there(subscription):
                    await self._unsubscribe(subscription)
            if subscription in self._owed or loop.time() > until:
                break  # it is still away, or slow: there are as many calls as there are rooms

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        """Take a message from the broker and put it into every member's outbox: encoded once per form."""
        subscription = self._by_room.get(room)
        if subscription is None:
            return
        if entry.offset is not None:
            if subscription.skips(epoch, entry.offset):
                self._tell_gap(subscription, Position(epoch, entry.offset - 1))
            subscription.advance(epoch, entry.offset)
        publication = publication_of(entry)
        excluded = None if publication.exclude is None else self._sessions.get(publication.exclude)
        # What a member knows of who is in the room has to be right: of such news it is told the loss too.
        told = entry.offset is not None
        if not told and publication.type.startswith("$"):
            told = True
            self.on_news(room, entry, publication)
        for form in subscription.forms:
            chunk = chunk_of(room, epoch, entry, publication, form)
            if chunk is not None:
                self._spread(subscription, form, chunk, publication.conflation_key, excluded, told=told)

    def lost(self, room: str, position: Position) -> None:
        """Take note that the broker will bring nothing more of what was before a position."""
        subscription = self._by_room.get(room)
        if subscription is not None and subscription.skips(position.epoch, position.offset + 1):
            self._tell_gap(subscription, position)

    def _tell_gap(self, subscription: Subscription, position: Position) -> None:
        subscription.advance(position.epoch, position.offset)
        for form in subscription.forms:
            self._spread(subscription, form, form.chunk(gap(subscription.name, position)), told=True)

    def _spread(
        self,
        subscription: Subscription,
        form: Form,
        chunk: tuple[Chunk, int],
        key: str | None = None,
        excluded: Connection | None = None,
        *,
        told: bool,
    ) -> None:
        """Put a chunk into the outbox of every member of a form but one; `told` is of the chunk's loss."""
        outboxes, paused = subscription.forms[form], self._flusher.paused
        if subscription.slow == "disconnect" or paused.isdisjoint(outboxes):
            if excluded is None or excluded.outbox not in outboxes:
                fan_out(outboxes, *chunk)
            else:
                fan_out(_others(outboxes, excluded.outbox), *chunk)
            return
        slow = paused & outboxes
        quick = outboxes - slow
        if excluded is not None:
            slow.discard(excluded.outbox)
            quick.discard(excluded.outbox)
        fan_out(quick, *chunk)
        lost = functools.partial(form.chunk, gap(subscription.name, subscription.position)) if told else None
        message = HeldMessage(subscription.name, subscription.slow, key, *chunk, lost)
        for outbox in slow:
            outbox.hold(message)


def _ignore(room: str, entry: Entry, publication: Publication) -> None:
    pass


def _others(outboxes: set[Outbox], excluded: Outbox) -> Iterable[Outbox]:
    return (outbox for outbox in outboxes if outbox is not excluded)
