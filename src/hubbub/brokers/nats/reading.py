"""Reading rooms from the stream: backwards, as each batch knows the places of those before it."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence

import msgspec

from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Entry, History
from .records import VERSION, Batch, Message
from .rooms import Room
from .streams import Streams

CACHED = 32 * 2**20
"""Bytes of batches that are kept in memory."""
PAGE = 8 * 2**20
"""Bytes of a page of history; one message may be larger."""
MOST_TOLD = 1024
"""Places of what can't be read that are remembered, to be told in the log once."""
OVERHEAD = 400
"""Bytes that a batch costs besides its payloads."""

_decode = msgspec.msgpack.Decoder(Batch).decode


class Reader:
    """Reads batches, and remembers those that were read or came last."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._cached: OrderedDict[tuple[int, int], Batch] = OrderedDict()
        self._bytes = 0
        self._told: OrderedDict[tuple[str | None, int], None] = OrderedDict()

    def forget(self) -> None:
        """Forget what was remembered: the stream is another one."""
        self._cached.clear()
        self._told.clear()
        self._bytes = 0

    def remember(self, shard: int, sequence: int, batch: Batch) -> None:
        """Keep a batch in memory for a while."""
        known = self._cached.get((shard, sequence))
        if known is None or known.epoch != batch.epoch:
            if known is not None:
                self._bytes -= _size(known)
            self._cached[shard, sequence] = batch
            self._bytes += _size(batch)
            while self._bytes > CACHED:
                self._bytes -= _size(self._cached.popitem(last=False)[1])

    def _remembered(self, room: Room, sequence: int, epoch: str | None) -> Batch | None:
        """Return a batch of an epoch that is in memory; the stream may be another one since it was read."""
        batch = self._cached.get((room.shard, sequence))
        return batch if batch is not None and batch.epoch == epoch and batch.room == room.name else None

    def read(self, data: bytes, room: str | None, sequence: int) -> Batch | None:
        """Return what a message of the stream says; None, with a line in the log, if it can't be read."""
        try:
            batch = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            batch = None
        if batch is not None and batch.version == VERSION and room in (None, batch.room):
            return batch
        self._tell(room, sequence)
        return None

    def _tell(self, room: str | None, sequence: int) -> None:
        """Say in the log that something can't be read: once, however often it is come across."""
        if (room, sequence) in self._told:
            return
        self._told[room, sequence] = None
        if len(self._told) > MOST_TOLD:
            self._told.popitem(last=False)
        logger.warning(
            "broker", extra=fields(broker="nats", during="reading", room=room, unreadable=sequence)
        )

    async def last(self, room: Room) -> tuple[int, Batch | None] | None:
        """Return the room's newest batch, None in its place if it can't be read; None if there is none."""
        stored = await self._streams.last(self._streams.rooms[room.shard], self.subject(room))
        if stored is None:
            return None
        batch = self.read(stored.data, room.name, stored.sequence)
        if batch is not None:
            batch = await self.whole(room, batch)
        if batch is not None:
            self.remember(room.shard, stored.sequence, batch)
        return stored.sequence, batch

    def subject(self, room: Room) -> str:
        """Return where the room's batches are stored."""
        return f"{self._streams.prefix}.room.{room.shard}.{room.token}"

    def live_subject(self, room: Room) -> str:
        """Return where they are sent on, and messages that are not stored."""
        return f"{self._streams.prefix}.live.{room.shard}.{room.token}"

    def part_subject(self, room: Room) -> str:
        """Return where parts of large messages are stored."""
        return f"{self._streams.prefix}.part.{room.shard}.{room.token}"

    async def _get(self, room: Room, sequence: int) -> Batch | None:
        stored = await self._streams.get(self._streams.rooms[room.shard], sequence)
        batch = None if stored is None else self.read(stored.data, room.name, sequence)
        if batch is not None:
            batch = await self.whole(room, batch)
        if batch is not None:
            self.remember(room.shard, sequence, batch)
        return batch

    async def whole(self, room: Room, batch: Batch) -> Batch | None:
        """Return a batch with the messages that lie elsewhere; None if one of those is gone."""
        if not any(message.parts for message in batch.messages):
            return batch
        messages: list[Message] = []
        stream = self._streams.rooms[room.shard]
        for message in batch.messages:
            if message.parts:
                parts = await asyncio.gather(*(self._streams.get(stream, part) for part in message.parts))
                found = [part.data for part in parts if part is not None]
                if len(found) < len(parts):
                    self._tell(room.name, message.parts[0])
                    return None
                message = msgspec.structs.replace(message, payload=b"".join(found), parts=())
            messages.append(message)
        return msgspec.structs.replace(batch, messages=tuple(messages))

    async def back(
        self, room: Room, epoch: str | None, earlier: Sequence[int], until: int = 0
    ) -> AsyncGenerator[tuple[int, Batch], None]:
        """Yield batches of an epoch, the newest first, as long as none is missing, down to `until`."""
        async for batches in self._steps(room, epoch, earlier, until):
            for found in batches:
                yield found

    async def _steps(
        self, room: Room, epoch: str | None, earlier: Sequence[int], until: int = 0
    ) -> AsyncGenerator[list[tuple[int, Batch]], None]:
        """Yield the same, so many at once as a batch knows the places of."""
        while wanted := [sequence for sequence in earlier if sequence > until]:
            batches = {sequence: self._remembered(room, sequence, epoch) for sequence in wanted}
            missing = [sequence for sequence, batch in batches.items() if batch is None]
            if missing:
                read = await asyncio.gather(*(self._get(room, sequence) for sequence in missing))
                batches.update(zip(missing, read, strict=True))
            found: list[tuple[int, Batch]] = []
            for sequence in wanted:
                batch = batches[sequence]
                if batch is None or batch.epoch != epoch:
                    break
                found.append((sequence, batch))
            yield found
            if len(found) < len(wanted):
                return
            earlier = found[-1][1].earlier

    async def history(self, room: Room, since: Position | None, limit: int, unused: str) -> History:
        """Return messages of a room (see :meth:`hubbub.brokers.base.Broker.history`)."""
        last = await self.last(room)
        if last is None or (newest := last[1]) is None:
            return History([], Position(unused, 0), since is None or since == Position(unused, 0))
        position = Position(newest.epoch, newest.before + newest.kept)
        known = since is not None and since.epoch == position.epoch and since.offset <= position.offset
        after = since.offset if since is not None and known else 0
        down_to = max(after, position.offset - max(newest.count, 0))
        if since is None:
            down_to = max(down_to, position.offset - limit)
        page = _Page(limit, position.offset, oldest_first=since is not None)
        oldest = self._streams.now() - newest.age
        steps = self._steps(room, newest.epoch, newest.earlier)
        try:
            step = [(last[0], newest)]
            while step and all(batch.time >= oldest and page.take(batch, down_to) for _, batch in step):
                step = await anext(steps, [])
        finally:
            await steps.aclose()
        entries = list(page.entries)
        end = entries[-1].offset if entries else position.offset
        return History(
            entries, Position(position.epoch, end or 0), since is None or (known and page.begins <= after)
        )


class _Page:
    """A page of history that is filled from the newest message on, backwards.

    Where the oldest ones are wanted, the newest are dropped again as older ones come.
    """

    def __init__(self, limit: int, newest: int, *, oldest_first: bool) -> None:
        self.entries: deque[Entry] = deque()
        self.begins = newest
        """Offset before the oldest one taken."""
        self._limit = limit
        self._oldest_first = oldest_first
        self._bytes = 0

    def take(self, batch: Batch, down_to: int) -> bool:
        """Take a batch's messages down to an offset; tell whether it is worth going further back."""
        if batch.before + batch.kept != self.begins:
            return False
        for message in reversed(batch.messages):
            if self.begins <= down_to:
                return False
            if not message.kept:
                continue
            size = len(message.payload)
            if not self._oldest_first and self.entries and self._bytes + size > PAGE:
                return False
            self.entries.appendleft(Entry(self.begins, message.payload, message.sender))
            self.begins -= 1
            self._bytes += size
            while self._oldest_first and (
                len(self.entries) > self._limit or (self._bytes > PAGE and len(self.entries) > 1)
            ):
                self._bytes -= len(self.entries.pop().payload)
        return self.begins > down_to


def _size(batch: Batch) -> int:
    return OVERHEAD + sum(len(message.payload) + 100 for message in batch.messages)
