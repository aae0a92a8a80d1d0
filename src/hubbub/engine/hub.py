"""The hub: one process's connections, and the way from a publish to the broker."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

from ..brokers.base import Broker, Entry, Retention
from ..errors import ConfigurationError, Unavailable
from ..observe.log import fields, hide_secrets, logger
from ..protocol.codecs import JSON, UNREADABLE, Codec
from ..protocol.envelope import Page, Position
from ..protocol.messages import Sendable, wire_type_of
from ..protocol.publications import packed
from ..settings import Settings
from .attempt import ATTEMPT
from .bans import Bans
from .connection import Connection
from .control import Answer, Ask, Controls, Disconnect, Kick, Moved, Relayed, Returned
from .lines import Lines
from .outbox import Flusher
from .presence import Presence, Shown
from .questions import Questions
from .relay import Relay
from .sessions import Sessions
from .subscriptions import Subscriptions, envelope_of, publication_of
from .sweep import Sweep
from .users import Users


class Running:
    """What a hub has only while it runs: the broker, what stands on it, and what the broker delivers to."""

    def __init__(self, broker: Broker, hub: "Hub") -> None:
        sessions, subscriptions = hub.sessions, Subscriptions(broker, hub.sessions.connections, hub.flusher)
        self.broker = broker
        self.looking = asyncio.Lock()
        """Held while a large message is looked through in a thread: one at a time."""
        self.subscriptions = subscriptions
        self.presence = Presence(broker, subscriptions.holds, hub.shown)
        subscriptions.on_news = self.presence.heard
        self.bans = Bans(broker)
        self.questions = questions = Questions(broker, hub.settings.lease / 2)
        self.users = users = Users(questions, hub.connections, sessions.revoke)
        self.relay = relay = Relay(questions, hub.settings, hub.lines.answer)
        self.deliver = subscriptions.deliver
        self.lost = subscriptions.lost
        self._controls = Controls(
            {
                Moved: sessions.moved,
                Ask: users.asked,
                Disconnect: users.disconnected,
                Kick: users.kicked,
                Answer: questions.answered,
                Relayed: relay.asked,
                Returned: questions.answered,
            }
        )
        self.control = self._controls.take

    async def look(self) -> None:
        """Give up what other instances were to say, and will not."""
        self._controls.joining.expire()
        await self.questions.look()


class Hub:
    """One process's live state."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.flusher = Flusher()
        self.connections: dict[str, Connection] = {}
        """All open connections by their id."""
        self.sessions = Sessions(settings)
        self.lines = Lines(lambda: self._running.broker.instance if self._running is not None else "")
        self.sweep = Sweep(settings, self.connections.values)
        self._turn = self._published = 0
        self._emptied: asyncio.Future[None] | None = None
        """Done once no connection is left, if that is waited for."""
        self._running: Running | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, broker: Broker) -> None:
        """Connect to the broker and begin the heartbeats."""
        # From here on, and not when logging is set up: that may be another program's doing.
        hide_secrets()
        running = Running(broker, self)
        await broker.start(running)
        self.sessions.start(broker)
        self.lines.relay = running.relay.ask
        self._running = running
        self.sweep.start()
        running.presence.start()
        self._renewal = asyncio.create_task(self._renew(running), name="hubbub: presence leases")

    def forget(self, connection: Connection) -> None:
        """Take note that a connection has ended, and has left its rooms."""
        del self.connections[connection.id]
        if not self.connections and self._emptied is not None:
            self._emptied.set_result(None)
            self._emptied = None

    async def until_empty(self) -> None:
        """Wait until all connections have ended and left their rooms, or for :data:`LEFT_WITHIN`.

        A line that is closed is not the end of it: leaving takes hooks and the broker, and not every server
        waits for them.
        """
        if self.connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._emptied,), timeout=LEFT_WITHIN)

    async def stop(self) -> None:
        """Give everything back to the broker."""
        self.sweep.stop()
        try:
            # In the order from the last one to the first, and each also where one before it fails.
            async with AsyncExitStack() as parts:
                if self._running is not None:
                    parts.push_async_callback(self._running.broker.stop)
                    parts.push_async_callback(self._running.presence.stop)
                    patience = self.settings.close_timeout
                    parts.push_async_callback(self._running.questions.stop, patience)
                    parts.push_async_callback(self._running.users.stop, patience)
                    parts.push_async_callback(self._running.relay.stop)
                parts.push_async_callback(self.sessions.stop)
                if self._renewal is not None:
                    self._renewal.cancel()
                    await asyncio.wait((self._renewal,))
        finally:
            # What fails to stop is not stopped a second time.
            self._running = self._renewal = self.lines.relay = None

    @property
    def runs(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._running is not None

    @property
    def running(self) -> Running:
        """What there is only while the hub runs; :exc:`ConfigurationError` when it does not."""
        if self._running is None:
            raise ConfigurationError(
                "The hub is not started. Serve it, or put `async with hub.lifespan():` around the code that "
                "publishes."
            )
        return self._running

    def shown(self) -> Iterator[Shown]:
        """Yield all connections that are shown in a room's presence, room by room."""
        for connection in self.connections.values():
            if connection.memberships is not None:
                yield from connection.memberships.shown()

    async def _renew(self, running: Running) -> None:
        while True:
            await asyncio.sleep(self.settings.lease / 5)
            try:
                if await running.presence.renew():
                    self.sessions.doubt_secret()
                await running.subscriptions.settle()
                await self.sessions.renew_secret()
                await running.look()
            except Unavailable:
                pass  # the broker has logged it; the next turn tries again
            except Exception:
                # The next turn tries again; until a lease is over there are three of them.
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
        payload = packed(
            wire_type_of(type(message)),
            message,
            sender=None if sender is None else sender.name,
            exclude=None if exclude is None else exclude.session,
            conflation_key=conflation_key,
        )
        attempt = ATTEMPT.get()
        key = None if attempt is None else attempt.key(room, payload)
        try:
            position = await self.running.broker.publish(
                room, payload, sender=None if sender is None else sender.session, key=key, keep=keep
            )
        except BaseException:
            if attempt is not None and key is not None:
                attempt.unsure_of(room, payload, key)
            raise
        if self._is_greedy():
            await asyncio.sleep(0)
        return position

    async def publish_from_outside(
        self, room: str, payload: bytes, *, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish what is packed already, and is nobody's here."""
        position = await self.running.broker.publish(room, payload, sender=None, key=key, keep=keep)
        if self._is_greedy():
            await asyncio.sleep(0)
        return position

    def _is_greedy(self) -> bool:
        """Count a publish; tell whether others should have a turn.

        A broker in memory never waits: who publishes in a loop would let nobody else have one.
        """
        if self._turn != self.flusher.turn:
            self._turn, self._published = self.flusher.turn, 0
        self._published += 1
        return self._published % BURST == 0

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


LEFT_WITHIN = 2.0
"""Seconds for which a hub that stops waits until its connections have left their rooms."""

BURST = 128
"""Publishes in one turn of the event loop after which others have theirs."""


def _page(entries: list[Entry], newest: bool, size: int) -> list[Entry]:
    """Return the newest or the first entries that have `size` bytes together, one at the least."""
    chosen: list[Entry] = []
    for entry in reversed(entries) if newest else entries:
        size -= len(entry.payload)
        if chosen and size < 0:
            break
        chosen.append(entry)
    return chosen[::-1] if newest else chosen
