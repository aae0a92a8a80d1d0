"""The hub: one process's connections, and the way from a publish to the broker."""

import asyncio
from contextlib import suppress

import msgspec

from ..brokers.base import Broker, Entry, Retention
from ..errors import ConfigurationError, InvalidMessage
from ..observe.log import fields, hide_secrets, logger
from ..protocol.codecs import JSON, UNREADABLE, Codec, pack
from ..protocol.envelope import Envelope, Page, Position, Publication
from ..protocol.messages import Sendable, wire_type_of
from ..settings import Settings
from .attempt import ATTEMPT
from .connection import Connection
from .outbox import Flusher
from .presence import Presence
from .sessions import Sessions
from .subscriptions import Subscriptions, envelope_of, publication_of
from .sweep import Sweep


class Running:
    """What a hub has only while it runs: the broker, what stands on it, and what the broker delivers to."""

    def __init__(self, broker: Broker, sessions: Sessions, flusher: Flusher) -> None:
        self.broker = broker
        self.presence = Presence(broker)
        self.subscriptions = Subscriptions(broker, sessions.connections, flusher)
        self.deliver = self.subscriptions.deliver
        self.control = sessions.control


class Hub:
    """One process's live state."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.flusher = Flusher()
        self.connections: dict[str, Connection] = {}
        """All open connections by their id."""
        self.sessions = Sessions(settings)
        self.sweep = Sweep(settings, self.connections.values)
        self._turn = self._published = 0
        self._running: Running | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, broker: Broker) -> None:
        """Connect to the broker and begin the heartbeats."""
        # From here on, and not when logging is set up: that may be another program's doing.
        hide_secrets()
        running = Running(broker, self.sessions, self.flusher)
        await broker.start(running)
        try:
            await self.sessions.start(broker)
        except BaseException:
            await broker.stop()
            raise
        self._running = running
        self.sweep.start()
        self._renewal = asyncio.create_task(self._renew(running.presence), name="hubbub: presence leases")

    async def stop(self) -> None:
        """Give everything back to the broker."""
        self.sweep.stop()
        try:
            if self._renewal is not None:
                self._renewal.cancel()
                with suppress(asyncio.CancelledError):
                    await self._renewal
            if self._running is not None:
                await self._running.broker.stop()
        finally:
            # What fails to stop is not stopped a second time.
            self._running = self._renewal = None

    @property
    def running(self) -> Running:
        """What there is only while the hub runs; :exc:`ConfigurationError` when it does not."""
        if self._running is None:
            raise ConfigurationError(
                "The hub is not started. Serve it, or put `async with hub.lifespan():` around the code that "
                "publishes."
            )
        return self._running

    async def _renew(self, presence: Presence) -> None:
        while True:
            await asyncio.sleep(self.settings.lease / 3)
            try:
                await presence.renew()
            except Exception:
                # The next turn tries again; the lease spans three of them.
                logger.exception("error", extra=fields(during="renewing presence leases"))

    async def publish(
        self,
        room: str,
        message: Sendable,
        *,
        sender: Connection | None = None,
        exclude: Connection | None = None,
        keep: Retention | None = None,
        conflation_key: str | None = None,
    ) -> Position:
        """Publish a message; see :meth:`hubbub.Room.send`."""
        kind = wire_type_of(type(message))
        data = _packed(kind, message)
        publication = Publication(
            kind,
            data,
            None if sender is None else sender.name,
            None if exclude is None else exclude.session,
            conflation_key,
        )
        attempt = ATTEMPT.get()
        position = await self.running.broker.publish(
            room,
            pack(publication),
            sender=None if sender is None else sender.session,
            key=None if attempt is None else attempt.key(room),
            keep=keep,
        )
        if self._turn != self.flusher.turn:
            self._turn, self._published = self.flusher.turn, 0
        self._published += 1
        if self._published % BURST == 0:
            # A broker in memory never waits: who publishes in a loop would let nobody else have a turn.
            await asyncio.sleep(0)
        return position

    async def history(
        self,
        room: str,
        since: Position | None,
        limit: int,
        *,
        codec: Codec = JSON,
        size: int | None = None,
    ) -> Page:
        """Return kept messages of a room, as a client is shown them: `size` bytes of them, if given."""
        found = await self.running.broker.history(room, since, limit)
        entries, position = found.entries, found.position
        if size is not None and entries:
            entries = _page(entries, since is None, size)
            position = Position(position.epoch, entries[-1].offset or 0)
        messages = []
        for entry in entries:
            try:
                messages.append(envelope_of(room, entry, publication_of(entry), codec))
            except (ValueError, *UNREADABLE):
                logger.exception("error", extra=fields(during="reading history", room=room))
        complete = found.complete and len(messages) == len(entries)
        return Page(position.epoch, position.offset, complete, messages)


BURST = 128
"""Publishes in one turn of the event loop after which others have theirs."""

MARGIN = 64
"""Levels of nesting that are left for whatever a message is put into later."""


def _packed(kind: str, message: Sendable) -> msgspec.Raw:
    """Encode a message; :exc:`InvalidMessage` for what MessagePack or JSON can't say.

    It would be missing for those who speak the one that can't.
    """
    try:
        data = msgspec.Raw(pack(message))
        value = JSON.data(data)
        if len(data) > 500:
            # So much could be nested nearly as deep as can be encoded.
            for _ in range(MARGIN):
                value = [value]
        JSON.encode(Envelope(kind, data=value))
    except (TypeError, ValueError, OverflowError, RecursionError) as problem:
        raise InvalidMessage(f"A {kind!r} can't be sent: {problem}.", [("$", str(problem))]) from None
    return data


def _page(entries: list[Entry], newest: bool, size: int) -> list[Entry]:
    """Return the newest or the first entries that have `size` bytes together, one at the least."""
    chosen: list[Entry] = []
    for entry in reversed(entries) if newest else entries:
        size -= len(entry.payload)
        if chosen and size < 0:
            break
        chosen.append(entry)
    return chosen[::-1] if newest else chosen
