"""What is delivered: each room's messages in order, and what Pub/Sub lost fetched from the room's log.

Pub/Sub only says that there is something new, and mostly what. A room is held while it is not known that it
is complete: what comes meanwhile waits, what is missing is fetched, and then it goes on.
"""

import asyncio
from collections import deque

from redis.exceptions import ResponseError

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Entry
from ..guarded import Guarded
from .feed import Feed, Page
from .messages import Unreadable, entry_of, spread
from .names import Names
from .publishing import positions_of
from .repair import Repair
from .scripts import HEADS, HISTORY
from .servers import Servers

HELD = 1_000
"""Messages of a room that wait while what is missing is fetched; past that, they are fetched too."""
PAGE = 500
"""Messages that are fetched at once."""
BYTES = 8 * 1024 * 1024
"""Bytes that are fetched at once, about."""
FETCHERS = 16
"""Rooms for which is fetched at once."""


class Rooms:
    """The rooms of one instance. It listens to channels (:class:`.channels.Listener`)."""

    def __init__(self, names: Names, instance: str) -> None:
        self._names = names
        self.channel = names.instance(instance)
        self._control = (names.everybody, self.channel)
        self.feeds: dict[bytes, Feed] = {}
        """By their channels."""
        self.held: set[Feed] = set()
        """Those that wait for what is missing."""
        self.repair = Repair(self, names, self._control)
        self._behind: asyncio.Queue[Feed] = asyncio.Queue()
        self._servers: Servers | None = None
        self._receiver: Guarded | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unreadable: set[str] = set()

    @property
    def servers(self) -> Servers:
        """The servers on which the rooms lie."""
        assert self._servers is not None
        return self._servers

    def start(self, servers: Servers, receiver: Guarded) -> None:
        """Deliver to `receiver` from now on."""
        self._servers = servers
        self._receiver = receiver
        self._tasks = [
            asyncio.create_task(self._fetch(), name="hubbub: what is missing from a room")
            for _ in range(FETCHERS)
        ]
        self._tasks.append(asyncio.create_task(self.repair.run(), name="hubbub: a look at the rooms"))

    async def stop(self) -> None:
        """Deliver no more."""
        self._receiver = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.feeds.clear()

    # What a subscriber does

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""
        names = self._names.room(room)
        while (feed := self.feeds.get(names.head)) is not None:
            if feed.joining is None:
                return feed.position
            await asyncio.wait([feed.joining])
        feed = self.feeds[names.head] = Feed(room, names)
        joining = feed.joining
        assert joining is not None
        try:
            await self._join(feed)
        except BaseException:
            self._drop(feed)
            raise
        finally:
            joining.set_result(None)
            feed.joining = None
        # What came meanwhile, when whoever subscribed has taken the position.
        asyncio.get_running_loop().call_soon(self.release, feed)
        return feed.position

    def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""
        feed = self.feeds.get(self._names.room(room).head)
        if feed is not None:
            self._drop(feed)

    async def _join(self, feed: Feed) -> None:
        servers, names = self.servers, feed.names
        loop = asyncio.get_running_loop()
        until = loop.time() + servers.timeout
        while True:
            feed.channels = channels = servers.of(names.slot).channels
            refused = await channels.subscribe(names.head)
            if refused is None:
                reply = await servers.room_step(names.slot, HEADS, (names.head, names.log, names.members), ())
                position = positions_of(reply, 1)[0]
                if position is not None and self.has_line(feed):
                    feed.epoch, feed.offset = position.epoch, position.offset
                    return
            else:
                self.refused(refused)
            if self.feeds.get(names.head) is not feed:
                raise Unavailable("The room was unsubscribed meanwhile.")
            if loop.time() > until:
                raise Unavailable("Redis does not let us listen to the room.")
            await asyncio.sleep(0)

    def has_line(self, feed: Feed) -> bool:
        """Tell whether what is published in the room comes over the line that it was subscribed on."""
        try:
            return feed.channels is self.servers.of(feed.names.slot).channels
        except Unavailable:
            return False

    def is_live(self, feed: Feed) -> bool:
        """Tell whether a room's messages are handed on as they come."""
        return feed.held is None and self.feeds.get(feed.names.head) is feed

    def _drop(self, feed: Feed) -> None:
        if self.feeds.get(feed.names.head) is feed:
            del self.feeds[feed.names.head]
            self.held.discard(feed)
            if feed.channels is not None:
                feed.channels.unsubscribe(feed.names.head)

    def refused(self, problem: ResponseError) -> None:
        """Take note of why a server does not let us listen; :exc:`Unavailable` if trying again is no use."""
        kind, _, rest = str(problem).partition(" ")
        if kind == "MOVED":
            self.servers.moved(rest)
        elif kind not in ("CLUSTERDOWN", "TRYAGAIN", "LOADING"):
            raise Unavailable(f"Redis does not let us listen: {str(problem)[:100]}")

    # What comes over the channels

    def message(self, channel: bytes, data: bytes) -> None:
        """Take what was published on a channel."""
        feed = self.feeds.get(channel)
        if feed is None:
            if channel in self._control and self._receiver is not None:
                self._receiver.control(data)
            return
        try:
            for epoch, entry in spread(data):
                self._take(feed, epoch, entry)
        except Unreadable as problem:
            self._skipped(feed, str(problem))
            self.fell_behind(feed)

    def let_go(self, channel: bytes) -> None:
        """Take note that a channel has moved to another server."""
        feed = self.feeds.get(channel)
        if feed is not None:
            feed.channels = None
            self.fell_behind(feed, fetch=False)
        self.repair.let_go(channel)
        self.servers.stale()

    def _take(self, feed: Feed, epoch: str, entry: Entry) -> None:
        if feed.held is not None:
            if len(feed.held) < HELD:
                feed.held.append((epoch, entry))
            else:
                feed.overflown = True
        elif epoch != feed.epoch:
            self.fell_behind(feed)
        elif entry.offset is None:
            self._deliver(feed, entry)
        elif entry.offset == feed.offset + 1:
            feed.offset += 1
            self._deliver(feed, entry)
        elif entry.offset > feed.offset:
            self.fell_behind(feed)

    def _deliver(self, feed: Feed, entry: Entry) -> None:
        if self._receiver is not None:
            self._receiver.deliver(feed.room, entry, feed.epoch)

    def _lose(self, feed: Feed, epoch: str, offset: int) -> None:
        feed.epoch, feed.offset = epoch, offset
        if self._receiver is not None:
            self._receiver.lost(feed.room, feed.position)

    def _skipped(self, feed: Feed, because: str) -> None:
        if feed.room not in self._unreadable and len(self._unreadable) < 1000:
            self._unreadable.add(feed.room)
            logger.warning("broker unreadable", extra=fields(room=feed.room, because=because))

    # What is missing

    def fell_behind(self, feed: Feed, *, fetch: bool = True) -> None:
        """Hold a room, as something of it may be missing, and have that fetched."""
        if feed.held is None:
            feed.held = deque()
        self.held.add(feed)
        if fetch and not feed.queued and feed.joining is None:
            feed.queued = True
            self._behind.put_nowait(feed)

    def release(self, feed: Feed) -> None:
        """Let a room go on that is complete."""
        held, feed.held = feed.held, None
        self.held.discard(feed)
        if self.feeds.get(feed.names.head) is not feed:
            return
        if feed.overflown:
            feed.overflown = False
            self.fell_behind(feed)
        for epoch, entry in held or ():
            if self.feeds.get(feed.names.head) is not feed:
                return
            self._take(feed, epoch, entry)

    async def _fetch(self) -> None:
        while True:
            feed = await self._behind.get()
            feed.queued = False
            try:
                await self._catch_up(feed)
            except Unavailable:
                # It stays held, and has its turn when there is a connection, or with the next look.
                continue
            except Exception:
                logger.exception("error", extra=fields(during="broker", room=feed.room))

    async def _catch_up(self, feed: Feed) -> None:
        names = feed.names
        while self.feeds.get(names.head) is feed and feed.held is not None and self.has_line(feed):
            arguments = (feed.epoch.encode(), b"%d" % feed.offset, b"%d" % PAGE, b"%d" % BYTES, b"1")
            page = Page(await self.servers.room_step(names.slot, HISTORY, (names.head, names.log), arguments))
            if self.feeds.get(names.head) is not feed:
                return
            if not self.has_line(feed):
                # What was published since may have come over no line of ours.
                return
            if page.epoch != feed.epoch or page.start > feed.offset:
                self._lose(feed, page.epoch, page.start)
            for offset, body in page.bodies:
                if offset <= feed.offset:
                    continue
                if offset > feed.offset + 1:
                    self._lose(feed, page.epoch, offset - 1)
                try:
                    entry = entry_of(offset, body)
                except Unreadable as problem:
                    self._skipped(feed, str(problem))
                    self._lose(feed, page.epoch, offset)
                    continue
                feed.offset = offset
                self._deliver(feed, entry)
            if not page.bodies and feed.offset < page.newest:
                self._lose(feed, page.epoch, page.newest)
            if feed.offset >= page.newest:
                # If it has its turn once more, its line may be newer than this page.
                if not feed.queued:
                    self.release(feed)
                return
