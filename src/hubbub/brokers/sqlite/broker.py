"""The event loop's side: who is subscribed, what is spread, and what is asked of the two threads."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Entry, Guarantees, History, Receiver, Renewal, Retention
from ..clock import wall_clock
from ..memory import MemoryBroker, MemoryStore
from .file import File
from .reader import Reader
from .requests import Hold, LetGo, Publish, Published, Read
from .worker import Worker
from .writer import Answer, Asked, Writer

PUBLISHES = 512
"""Publishes that are committed together, at most."""

PAGES = 16
"""Pages of history that are read before the first of them is handed over, at most."""


@dataclass(slots=True)
class _Feed:
    """A room that somebody here is subscribed to: how far its deliveries are, and whose they are."""

    epoch: str
    offset: int
    holds: int = 0
    """What the writer granted and is to get back."""
    receivers: dict[str, Receiver] = field(default_factory=dict)


class SqliteStore:
    """A file and the two threads that work on it, shared by the brokers of one event loop.

    It is opened with the first broker that starts, and given back with the last one that stops. `window` is
    the deduplication window and `lease` the time after which an instance that did not renew is gone, both in
    seconds. `clock` returns seconds since the epoch, and never goes back; it is called in the threads too.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        window: float = 300.0,
        lease: float = 10.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.path = Path(path)
        self.window = window
        self.clock = clock or wall_clock()
        # Members and control messages are one process's, and gone with it: as memory:// has them.
        self.local = MemoryStore(lease=lease) if clock is None else MemoryStore(lease=lease, clock=clock)
        self.feeds: dict[str, _Feed] = {}
        self.secret = b""
        self._instances: set[str] = set()
        self._changing = asyncio.Lock()
        self._writer: Worker[Asked, Answer] | None = None
        self._reader: Worker[Read, History | BaseException] | None = None

    async def open(self, instance: str) -> None:
        """Open the file for an instance; :exc:`ConfigurationError` says why it can't be used."""
        async with self._changing:
            if self._writer is None:
                await self._start()
            self._instances.add(instance)

    async def close(self, instance: str) -> None:
        """Give an instance's part back: when the last one's is, all is on the disk and the file is closed."""
        async with self._changing:
            self._instances.discard(instance)
            if not self._instances:
                await self._stop()

    async def _start(self) -> None:
        file = File(self.path)
        desk = Writer(file, self.window, self.clock)
        writer = Worker("sqlite writer", desk, self._written, at_once=PUBLISHES)
        await writer.start()
        self._writer = writer
        try:
            reader = Worker("sqlite reader", Reader(file, self.clock), at_once=PAGES)
            await reader.start()
            self._reader = reader
        except BaseException:
            await self._stop()
            raise
        self.secret = desk.secret

    async def _stop(self) -> None:
        reader, writer = self._reader, self._writer
        self._reader = self._writer = None
        try:
            if reader is not None:
                await reader.stop()
        finally:
            # The last to close, so that SQLite puts its log into the file.
            if writer is not None:
                await writer.stop()
            self.feeds.clear()

    @property
    def writer(self) -> Worker[Asked, Answer]:
        """The thread that changes the file; :exc:`Unavailable` while it is not open."""
        if self._writer is None:
            raise Unavailable("The broker is not started.")
        return self._writer

    async def read(self, room: str, since: Position | None, limit: int) -> History:
        """Read history in the other thread."""
        if self._reader is None:
            raise Unavailable("The broker is not started.")
        feed = self.feeds.get(room)
        history = await self._reader.ask(Read(room, since, limit, None if feed is None else feed.epoch))
        assert isinstance(history, History)
        return history

    def spread(self, room: str, entry: Entry) -> Position | None:
        """Deliver to all subscribers; return where the room is, if there is any."""
        feed = self.feeds.get(room)
        if feed is None:
            return None
        if entry.offset is not None:
            feed.offset = entry.offset
        for instance, receiver in list(feed.receivers.items()):
            try:
                receiver.deliver(room, entry, feed.epoch)
            except Exception:
                # It is published; one instance's trouble is not the publisher's, nor the others'.
                logger.exception("error", extra=fields(during="delivery", room=room, instance=instance))
        return Position(feed.epoch, feed.offset)

    def drop(self, room: str, instance: str) -> None:
        """Deliver a room's messages to an instance no more."""
        feed = self.feeds.get(room)
        if feed is not None and feed.receivers.pop(instance, None) is not None and not feed.receivers:
            self._let_go(room, feed)

    def _let_go(self, room: str, feed: _Feed) -> None:
        del self.feeds[room]
        if self._writer is not None:
            self._writer.tell(LetGo(room, feed.holds))

    def _written(self, asked: Asked, answer: Answer, waits: bool) -> None:
        """Do what follows from an answer of the writer, in the order in which it was written."""
        if isinstance(asked, Publish):
            if isinstance(answer, Published) and answer.entry is not None:
                self.spread(asked.room, answer.entry)
        elif isinstance(asked, Hold) and isinstance(answer, Position):
            feed = self.feeds.setdefault(asked.room, _Feed(answer.epoch, answer.offset))
            feed.holds += 1
            if waits:
                feed.receivers[asked.instance] = asked.receiver
            elif not feed.receivers:
                self._let_go(asked.room, feed)


class SqliteBroker:
    """One instance's part in a :class:`SqliteStore`."""

    guarantees = Guarantees(shared=False, durable=True)
    available = True

    def __init__(self, store: SqliteStore, *, instance: str | None = None) -> None:
        self.store = store
        self._local = MemoryBroker(store.local, instance=instance)
        self.instance = self._local.instance
        self._receiver: Receiver | None = None

    async def start(self, receiver: Receiver | None) -> None:
        """Open the file and deliver to `receiver` from now on.

        Raises :exc:`ConfigurationError` if the file can't be used: another process has it, it can't be
        written, it is damaged, or is none of hubbub's.
        """
        await self.store.open(self.instance)
        self._receiver = receiver
        await self._local.start(receiver)

    async def stop(self) -> None:
        """Take this instance out of every room; with the last one, put all on the disk and close the file."""
        for room in list(self.store.feeds):
            self.store.drop(room, self.instance)
        await self._local.stop()
        await self.store.close(self.instance)

    async def secret(self) -> bytes:
        """Return the 32 random bytes that are kept in the file."""
        return self.store.secret

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish and return the message's position (see :meth:`.base.Broker.publish`).

        It is on the disk by then. Raises :exc:`Unavailable` if it can't be, or if too many wait for it.
        """
        if keep is None and key is None:
            # The file has no part in it.
            position = self.store.spread(room, Entry(None, payload, sender))
            return position or (await self.store.read(room, None, 0)).position
        published = await self.store.writer.ask(Publish(room, payload, sender, key, keep))
        assert isinstance(published, Published)
        return published.position

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""
        assert self._receiver is not None
        feed = self.store.feeds.get(room)
        if feed is not None:
            feed.receivers[self.instance] = self._receiver
            return Position(feed.epoch, feed.offset)
        try:
            position = await self.store.writer.ask(Hold(room, self.instance, self._receiver))
        except asyncio.CancelledError:
            # It may have been granted in this very turn.
            self.store.drop(room, self.instance)
            raise
        assert isinstance(position, Position)
        return position

    async def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""
        self.store.drop(room, self.instance)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        """Return kept messages (see :meth:`.base.Broker.history`), at most 8 MiB of them."""
        return await self.store.read(room, since, limit)

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""
        return await self._local.enter(room, member, connection, details)

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""
        return await self._local.leave(room, member, connection)

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room, each with the details of their first connection."""
        return await self._local.members(room)

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, as far as leases tell."""
        return await self._local.instances()

    async def renew(self) -> Renewal:
        """Keep this instance for another lease; remove the members of those whose lease ran out."""
        return await self._local.renew()

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        """Send to the one instance of that name, or with None to all."""
        await self._local.send_control(instance, payload)
