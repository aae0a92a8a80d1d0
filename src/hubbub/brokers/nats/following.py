"""Following rooms: each batch that was stored is taken once, in order, whichever way it comes."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine

import msgspec
from nats.aio.msg import Msg

from ...errors import HubbubError
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Entry
from ..guarded import Guarded
from .client import header
from .line import Line
from .purging import Purger
from .reading import Reader
from .records import VERSION, Batch, Fleeting
from .rooms import MAX_KEYS, Room
from .streams import Streams

MOST_HELD = 128
"""Batches of a room that are held while it is read; past that it is read once more."""
TRIES_AGAIN = 0.2
"""Seconds after which a room that could not be read is read again."""

_decode_fleeting = msgspec.msgpack.Decoder(Fleeting).decode


class Follower:
    """Takes what arrives, reads what did not, and hands it to the receiver.

    `schedule` is called with a room whose publishes may go on.
    """

    def __init__(
        self,
        line: Line,
        streams: Streams,
        reader: Reader,
        receiver: Guarded | None,
        *,
        writer: str,
        window: float,
        timeout: float,
        schedule: Callable[[Room], None],
        begin: Callable[[Room], None],
    ) -> None:
        self._line = line
        self._streams = streams
        self._reader = reader
        self._receiver = receiver
        self._purger = Purger(streams, reader, window=window, timeout=timeout)
        self._writer = writer
        self._window = window
        self._schedule = schedule
        self._begin = begin
        self.tasks: set[asyncio.Task[None]] = set()

    # What arrives

    def on_live(self, room: Room, message: Msg) -> None:
        """Take what arrived on a room's live subject."""
        number = header(message, b"Nats-Sequence")
        if number is None:
            self._fleeting(room, message.data)
            return
        sequence = int(number)
        if room.known and sequence <= room.sequence and not room.stale:
            return
        batch = self._reader.read(message.data, room.name, sequence)
        if batch is None or any(piece.parts for piece in batch.messages):
            room.stale = True
            self.mend(room)
            return
        self.arrived(room, sequence, batch)

    def _fleeting(self, room: Room, data: bytes) -> None:
        try:
            record = _decode_fleeting(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.warning("broker", extra=fields(broker="nats", during="reading", room=room.name))
            return
        if record.room == room.name and record.version == VERSION and room.live:
            self._deliver(room, Entry(None, record.payload, record.sender), room.epoch or record.epoch)

    def arrived(self, room: Room, sequence: int, batch: Batch) -> None:
        """Take a batch that was stored: apply it if it is the next one, else have the room read."""
        if room.mending is not None:
            if len(room.held) < MOST_HELD:
                room.held.append((sequence, batch))
            else:
                room.stale = True
        elif not room.known or room.stale or not self._follows(room, sequence, batch):
            room.stale = True
            self.mend(room)

    def _follows(self, room: Room, sequence: int, batch: Batch) -> bool:
        """Apply a batch if it is the next one; tell whether it is, or is known already."""
        if sequence <= room.sequence:
            return True
        if any(message.parts for message in batch.messages):
            return False
        # Where an epoch begins, nothing is before it that could be missing.
        if batch.previous != room.sequence and not (room.epoch is None and not batch.previous):
            return False
        self.apply(room, sequence, batch)
        return True

    def apply(self, room: Room, sequence: int, batch: Batch) -> None:
        """Take a batch for the newest: deliver it, and tell those whose publishes are in it."""
        before = room.position
        if room.live and not (batch.epoch == before.epoch and batch.before == before.offset):
            self._lost(room, Position(batch.epoch, batch.before))
        room.go_to(sequence, batch)
        if room.live:
            offset = batch.before
            self._reader.remember(room.shard, sequence, batch)
            for message in batch.messages:
                offset += message.kept
                entry = Entry(offset if message.kept else None, message.payload, message.sender)
                self._deliver(room, entry, batch.epoch)
        self._settle(room, batch)
        oldest = batch.time - self._window
        if room.keys:
            room.trim_keys(oldest)
        until = self._purger.mark(room, batch, oldest)
        if until and batch.writer == self._writer:
            self.own(self._purger.purge(room, until))

    def _settle(self, room: Room, batch: Batch) -> None:
        """Tell those whose publishes are in a batch, and forget attempts that can't succeed any more."""
        if not room.attempts:
            return
        attempt = room.attempts.pop(batch.number, None) if batch.writer == self._writer else None
        if attempt is not None:
            offset = batch.before
            for message, owners in zip(batch.messages, attempt.owners, strict=True):
                offset += message.kept
                for publish in owners:
                    if not publish.result.done():
                        publish.result.set_result(Position(batch.epoch, offset))
            for publish in attempt.beginners:
                if not publish.result.done():
                    publish.result.set_result(Position(batch.epoch, batch.before))
        room.attempts = {
            number: other for number, other in room.attempts.items() if other.after >= room.sequence
        }

    def _deliver(self, room: Room, entry: Entry, epoch: str) -> None:
        assert self._receiver is not None
        self._receiver.deliver(room.name, entry, epoch)

    def _lost(self, room: Room, position: Position) -> None:
        assert self._receiver is not None
        self._receiver.lost(room.name, position)

    # Reading what came in between

    def later(self, room: Room, seconds: float) -> None:
        """Let a room's publishes wait, then go on."""
        room.waits = True
        asyncio.get_running_loop().call_later(seconds, self._again, room)

    def _again(self, room: Room) -> None:
        room.waits = False
        if room.pending:
            self._schedule(room)
        elif room.stale and room.live and self._line.up:
            self.mend(room)

    def own(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        """Start a task that is ended with this, and whose failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            logger.error("error", exc_info=problem, extra=fields(during="reading", broker="nats"))

    def mend(self, room: Room) -> "asyncio.Task[None]":
        """Read the room from the stream, in a task; the one that is at it if there is one."""
        if room.mending is None:
            room.mending = self.own(self._read(room))
        return room.mending

    async def _read(self, room: Room) -> None:
        room.trouble = None
        try:
            while True:
                room.stale = False
                await self._catch_up(room)
                held, room.held = room.held, []
                if not all(self._follows(room, sequence, batch) for sequence, batch in held):
                    room.stale = True
                if not room.stale:
                    break
        except HubbubError as problem:
            room.stale, room.trouble = True, problem
            if self._line.up and (room.live or room.pending):
                self.later(room, TRIES_AGAIN)
        finally:
            room.mending = None
            room.held.clear()
        if room.pending:
            self._schedule(room)

    async def _catch_up(self, room: Room) -> None:
        before = room.sequence
        wants_keys = any(
            publish.message is not None and publish.message.key is not None for publish in room.pending
        )
        sequence, newest = await self._reader.last(room) or (0, None)
        if newest is None or (room.known and sequence < before and newest.epoch == room.epoch):
            # Nothing there, nothing that can be read, or less than there was: it begins anew.
            self._begin_anew(room, sequence)
            return
        if sequence < before:
            # The stream was made anew, and another instance has begun an epoch in it.
            room.sequence = 0
        if sequence > room.sequence or not room.known:
            chain: list[tuple[int, Batch]] = [(sequence, newest)]
            if room.known and room.sequence and (room.live or room.attempts or room.has_keys):
                oldest = self._streams.now() - self._window
                batches = self._reader.back(room, newest.epoch, newest.earlier, room.sequence)
                async for place, batch in batches:
                    if not room.live and batch.time < oldest:
                        break
                    chain.append((place, batch))
            oldest_read = chain[-1][1]
            follows = oldest_read.previous >= room.sequence and oldest_read.before >= room.offset
            if room.known and oldest_read.epoch == room.epoch and not follows:
                # Two batches that follow the same one: offsets were given twice, and never will be again.
                logger.error("broker", extra=fields(broker="nats", room=room.name, because="it has two ends"))
                self._begin_anew(room, sequence)
                return
            room.known = True
            for place, batch in reversed(chain):
                if place > room.sequence or room.epoch is None:
                    self.apply(room, place, batch)
        if wants_keys and not room.has_keys:
            await self._load_keys(room)

    def _begin_anew(self, room: Room, sequence: int) -> None:
        room.forget()
        room.known, room.sequence, room.has_keys = True, sequence, True
        if room.live:
            self._begin(room)

    async def _load_keys(self, room: Room) -> None:
        """Read the keys of the window."""
        oldest = self._streams.now() - self._window
        batches: list[Batch] = []
        epoch = room.epoch
        # Keys of what comes meanwhile are added by whoever takes it.
        count = 0
        async for _, batch in self._reader.back(room, epoch, room.earlier):
            if batch.time < oldest:
                break
            batches.append(batch)
            count += sum(message.key is not None for message in batch.messages)
            if batch.keyed < oldest or count > MAX_KEYS:
                break
        if room.epoch != epoch:
            room.stale = True
            return
        keys: OrderedDict[str, tuple[float, int]] = OrderedDict()
        for batch in reversed(batches):
            offset = batch.before
            for message in batch.messages:
                offset += message.kept
                if message.key is not None:
                    keys[message.key] = (batch.time, offset)
                    keys.move_to_end(message.key)
        for key, known in room.keys.items():
            keys[key] = known
            keys.move_to_end(key)
        room.keys, room.has_keys = keys, True

    async def stop(self) -> None:
        """End what is read."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
