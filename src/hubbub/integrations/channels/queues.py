"""Queues: channels that are no process's own. Each message goes to one of those who receive, on any process.

A queue is a room of the broker, in which messages are put and claimed. All processes see both in the same
order, so that they agree who was the first to claim a message: nobody else has it.
"""

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from channels.exceptions import ChannelFull

from ...brokers.base import Entry, Retention
from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.codecs import UNREADABLE, pack
from .log import Log
from .records import Claim, Put, read_queued

if TYPE_CHECKING:
    from .station import Station

KEPT_FOR_QUEUE = 1_000
"""Entries that the broker keeps for a queue, or eight times its capacity."""

AGAIN = 1.0
"""Seconds after which a broker that could not be reached is tried again."""


class Queue(Log):
    """What this process knows of a queue."""

    def __init__(self, station: "Station", name: str) -> None:
        capacity = station.options.capacity(name)
        keep = Retention(max(KEPT_FOR_QUEUE, 8 * capacity), station.options.expiry)
        super().__init__(station, f"$channels/queue/{name}", keep)
        self.name = name
        self.used = time.monotonic()
        self._capacity = capacity
        self._pending: OrderedDict[int, Put] = OrderedDict()
        """Messages that nobody has claimed, by their offset."""
        self._sending = 0
        """Messages that are being put."""
        self._unseen: set[int] = set()
        """Offsets of messages that this process has put and that have not come back yet."""
        self._claiming = False

    def take(self, entry: Entry, *, live: bool) -> None:
        """Take a message or a claim."""
        assert entry.offset is not None
        try:
            record = read_queued(entry.payload)
        except UNREADABLE:
            logger.warning("error", extra=fields(during="channel layer", room=self.room))
            return
        self._unseen.discard(entry.offset)
        if isinstance(record, Put):
            if live or record.at >= self._station.flushed_at:
                self._pending[entry.offset] = record
                if live:
                    self.attend()
            return
        put = self._pending.pop(record.offset, None)
        # One of before was received then, or is lost.
        if live and put is not None and record.process == self._station.process:
            left = put.at + self._station.options.expiry - time.time()
            self._station.mailboxes.put(self.name, self.name, put.message, max(left, 1.0))

    def dropped(self) -> None:
        """Drop what is before: somebody may have claimed it, and never is it to be had twice."""
        self._pending.clear()
        self._unseen.clear()

    async def send(self, message: bytes) -> None:
        """Put a message; :exc:`ChannelFull` if there are too many."""
        self.used = time.monotonic()
        await self.open()
        self._expire()
        under_way = self._sending + len(self._unseen)
        if len(self._pending) + under_way + self._station.mailboxes.count(self.name) >= self._capacity:
            raise ChannelFull(self.name)
        self._sending += 1
        try:
            position = await self.publish(pack(Put(time.time(), message)))
        finally:
            self._sending -= 1
        if self.is_before(position):
            self._unseen.add(position.offset)

    def attend(self) -> None:
        """See to it that who waits here is brought messages."""
        if not self._claiming and self._station.mailboxes.wanted(self.name):
            self._claiming = self._station.begin(self._claim())

    async def _claim(self) -> None:
        """Claim messages for as long as somebody waits and there are any."""
        try:
            while self._station.mailboxes.wanted(self.name):
                self.used = time.monotonic()
                try:
                    await self.open()
                    self._expire()
                    if not self._pending:
                        return
                    await self._claim_first()
                except (Unavailable, TimeoutError):
                    await asyncio.sleep(AGAIN)
        finally:
            self._claiming = False

    async def _claim_first(self) -> None:
        offset = next(iter(self._pending))
        claim = pack(Claim(offset, self._station.process))
        # With a key: who repeats it, because the answer was lost, has claimed it once.
        await self.reached(await self.publish(claim, key=f"{self._position.epoch}/{offset}"))
        # If it is still there, whose it is was not to be seen; then it is nobody's.
        self._pending.pop(offset, None)

    def _expire(self) -> None:
        oldest = time.time() - self._station.options.expiry
        while self._pending and next(iter(self._pending.values())).at <= oldest:
            self._pending.popitem(last=False)

    @property
    def idle(self) -> bool:
        """Whether nothing has to be known of it any more."""
        self._expire()
        unused = time.monotonic() - self.used > self._station.options.expiry
        busy = self._claiming or self.lock.locked() or self._station.mailboxes.wanted(self.name)
        return unused and not busy and not self._pending

    def forget_all(self) -> None:
        """Drop what waits."""
        self._pending.clear()


class Queues:
    """The queues that this process sends to or receives from."""

    def __init__(self, station: "Station") -> None:
        self._station = station
        self._queues: dict[str, Queue] = {}

    def queue(self, name: str) -> Queue:
        """Return a queue; it is opened when it is used."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(self._station, name)
        queue.used = time.monotonic()
        return queue

    async def tidy(self) -> None:
        """Follow queues no more that have not been used for as long as messages live."""
        for queue in list(self._queues.values()):
            if queue.idle:
                await queue.close()
                if queue.idle:
                    del self._queues[queue.name]

    def forget_all(self) -> None:
        """Drop what waits in any."""
        for queue in self._queues.values():
            queue.forget_all()
