"""Publishing: a batch is stored if it follows the one that its writer knew, so no offset is given twice."""

import asyncio
import secrets
from collections import deque
from functools import partial

from nats.aio.msg import Msg

from ...errors import Unavailable
from ...protocol.envelope import Position
from ..base import Retention
from ..guarded import Guarded
from .following import Follower
from .line import Line
from .reading import Reader
from .records import VERSION, Batch, Fleeting, Message, distances, encode
from .rooms import EARLIER, Attempt, Publish, Room, Rooms
from .streams import Gone, Streams, WrongSequence, sequence_of

MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 2**20
"""Publishes that may wait, and their bytes; further ones are refused at once."""
MOST_IN_A_BATCH = 512
MOST_BYTES_IN_A_BATCH = 256 * 2**10
MOST_IN_A_PIECE = 8 * 2**20
BESIDES = 2**14
"""Bytes of a message of NATS that are left for what comes with a payload."""
MOST_ATTEMPTS = 8
"""Batches of a room that are remembered without an answer, where nobody waits for them any more."""
PAUSE = 0.0003
MOST_LOST_RACES = 10
"""Seconds that a publisher waits at most, at random, for each race it has lost to others, up to so many."""
MOST_KEPT_FROM_FADING = 4096
"""Rooms that a word is put into at a time: those that were entered together would all fade together."""
AT_ONCE = 256
"""Rooms that are looked at again at the same time when the line is back."""


class RoomLog:
    """Publishes to rooms, and subscribes to them."""

    def __init__(
        self,
        line: Line,
        streams: Streams,
        reader: Reader,
        receiver: Guarded | None,
        *,
        window: float,
        timeout: float,
    ) -> None:
        self._line = line
        self._streams = streams
        self._reader = reader
        self._window = window
        self._timeout = timeout
        self._writer = secrets.token_urlsafe(9)
        self._number = 0
        self.rooms = Rooms(streams.shard)
        self.follower = Follower(
            line,
            streams,
            reader,
            receiver,
            writer=self._writer,
            window=window,
            timeout=timeout,
            schedule=self._schedule,
            begin=self._begin_soon,
        )
        self._dirty: list[Room] = []
        # Of the results only: what has been published needs no memory until its time is over.
        self._deadlines: deque[tuple[float, asyncio.Future[Position]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._waiting_bytes = 0
        self._fresh: list[Room] = []

    # Publish

    async def publish(
        self, name: str, payload: bytes, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish a message that has its place in the stream."""
        if self._waiting >= MOST_WAITING or self._waiting_bytes + len(payload) > MOST_WAITING_BYTES:
            raise Unavailable("Too many publishes wait for NATS.")
        room = self.rooms.find(name)
        stream = self._streams.rooms[room.shard]
        if keep is not None and keep.age * 1.1 > self._streams.age(stream):
            await self._streams.widen(stream, keep.age * 1.25)
        parts: tuple[int, ...] = ()
        message = Message(payload, sender, key, keep is not None)
        size = min(self._line.max_payload, MOST_IN_A_PIECE) - BESIDES
        if len(payload) > size:
            parts = await self._store_parts(room, payload, size)
            message = Message(b"", sender, key, keep is not None, parts)
        count, age = (-1, 0.0) if keep is None else (min(keep.count, 2**60), min(keep.age, 1e15))
        # It may have been forgotten meanwhile, while nothing waited in it.
        return await self._wait(self.rooms.find(name), Publish(message, count, age))

    async def _store_parts(self, room: Room, payload: bytes, size: int) -> tuple[int, ...]:
        subject = self._reader.part_subject(room)
        pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
        return tuple([await self._streams.append(subject, piece, None) for piece in pieces])

    async def spread(self, name: str, payload: bytes, sender: str | None, unused: str) -> Position:
        """Send a message on without storing it."""
        room = self.rooms.find(name)
        if not room.live:
            # Others may have published; the position is the newest.
            last = await self._reader.last(room)
            epoch, offset = unused, 0
            if last is not None and last[1] is not None:
                epoch, offset = last[1].epoch, last[1].before + last[1].kept
        else:
            epoch, offset = room.epoch or unused, room.offset
        record = Fleeting(VERSION, name, epoch, payload, sender)
        self._line.send(self._reader.live_subject(room), encode(record))
        return Position(epoch, offset)

    async def _wait(self, room: Room, publish: Publish) -> Position:
        self._waiting += 1
        self._waiting_bytes += publish.size
        self._add(room, publish)
        try:
            return await publish.result
        finally:
            self._waiting -= 1
            self._waiting_bytes -= publish.size

    def _add(self, room: Room, publish: Publish) -> None:
        loop = asyncio.get_running_loop()
        self._deadlines.append((loop.time() + self._timeout, publish.result))
        if self._timer is None:
            self._timer = loop.call_later(self._timeout, self._give_up)
        room.pending.append(publish)
        self._schedule(room)

    def _begin_soon(self, room: Room) -> None:
        """Have an epoch begun in a room, or a word put into it, for those who are in it here."""
        if not any(publish.message is None for publish in room.pending):
            publish = Publish(None, -1, 0.0)
            publish.result.add_done_callback(_seen)
            self._add(room, publish)

    def _give_up(self) -> None:
        """Fail what has waited for too long."""
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._deadlines:
            until, result = self._deadlines[0]
            if not result.done():
                if until > loop.time():
                    self._timer = loop.call_at(until, self._give_up)
                    return
                result.set_exception(Unavailable("NATS did not answer in time."))
            self._deadlines.popleft()

    def _schedule(self, room: Room) -> None:
        """Have a room's publishes sent when this turn of the event loop is over."""
        if not room.scheduled:
            room.scheduled = True
            if not self._dirty:
                asyncio.get_running_loop().call_soon(self._push_all)
            self._dirty.append(room)

    def _push_all(self) -> None:
        dirty, self._dirty = self._dirty, []
        for room in dirty:
            room.scheduled = False
            self._push(room)

    def _push(self, room: Room) -> None:
        """Send the next batch of a room, if there is one and none is on its way."""
        pending = room.pending
        done = next((at for at, publish in enumerate(pending) if not publish.result.done()), len(pending))
        del pending[:done]
        if not pending or room.flying or room.mending or room.waits or not self._line.up:
            return
        if not room.known or room.stale:
            self.follower.mend(room)
            return
        now = max(self._streams.now(), room.time)
        oldest = now - self._window
        room.trim_keys(oldest)
        if not room.has_keys and any(p.message is not None and p.message.key is not None for p in pending):
            if room.keyed >= oldest:
                self.follower.mend(room)
                return
            room.has_keys = True
        self._send(room, now)

    def _send(self, room: Room, now: float) -> None:
        messages: list[Message] = []
        owners: list[list[Publish]] = []
        beginners: list[Publish] = []
        keyed: dict[str, int] = {}
        size, count, age = 0, room.count, room.age
        most = min(MOST_BYTES_IN_A_BATCH, self._line.max_payload // 2)
        for publish in room.pending:
            message = publish.message
            if publish.result.done():
                continue
            if message is None:
                beginners.append(publish)
                continue
            if message.key is not None:
                known = room.keys.get(message.key)
                if known is not None:
                    publish.result.set_result(Position(room.epoch or "", known[1]))
                    continue
                if message.key in keyed:
                    owners[keyed[message.key]].append(publish)
                    continue
            if messages and (size + publish.size > most or len(messages) >= MOST_IN_A_BATCH):
                break
            if message.key is not None:
                keyed[message.key] = len(messages)
            messages.append(message)
            owners.append([publish])
            size += publish.size
            if publish.count >= 0:
                count, age = publish.count, publish.age
        fades = now - room.time > self._streams.age(self._streams.rooms[room.shard]) / 2
        if not messages and not (beginners and (room.epoch is None or fades)):
            for publish in beginners:
                publish.result.set_result(room.position)
            return
        self._number += 1
        anew = room.epoch is None
        earlier = () if anew else room.earlier[:EARLIER]
        batch = Batch(
            VERSION,
            room.name,
            self._writer,
            self._number,
            secrets.token_hex(6) if anew else room.epoch or "",
            room.offset,
            now,
            earlier[0] if earlier else 0,
            distances(earlier),
            room.keyed,
            count,
            age,
            tuple(messages),
        )
        if len(room.attempts) > MOST_ATTEMPTS:
            # Of streams that are no more; nobody waits for them.
            room.attempts = {number: one for number, one in room.attempts.items() if one.is_awaited()}
        room.flying = self._number
        room.attempts[self._number] = Attempt(room.sequence, owners, beginners)
        sent = self._streams.append_soon(self._reader.subject(room), encode(batch), room.sequence)
        sent.add_done_callback(partial(self._answered, room, batch, room.sequence))

    def _answered(self, room: Room, batch: Batch, sent_after: int, sent: "asyncio.Future[Msg]") -> None:
        """Take the answer to a batch."""
        if room.flying == batch.number:
            room.flying = 0
        if sent.cancelled():
            return
        try:
            sequence = sequence_of(sent.result())
        except WrongSequence as wrong:
            self._lost_race(room, sent_after, str(wrong))
            return
        except Gone:
            room.stale = True
            self._line.drop("the stream is gone")
            return
        except Unavailable as problem:
            # Perhaps it is stored: the room is read before anything is sent again.
            room.stale = True
            if self._line.up:
                if type(problem) is Unavailable:
                    # Refused, so it is not stored, and would be refused again.
                    self._fail(room, problem)
                self._schedule(room)
            return
        room.lost_races = 0
        self.follower.arrived(room, sequence, batch)
        if room.pending:
            self._schedule(room)

    def _fail(self, room: Room, problem: Unavailable) -> None:
        pending, room.pending = room.pending, []
        for publish in pending:
            if not publish.result.done():
                publish.result.set_exception(Unavailable(str(problem)))

    def _lost_race(self, room: Room, sent_after: int, told: str) -> None:
        """Go on after another instance's batch, which the live feed has brought or will bring.

        Unless what this one followed is gone: then the newest is an older one, or none (0).
        """
        number = told.rpartition(" ")[2]
        room.lost_races += 1
        if not number.isdecimal() or not sent_after < int(number) <= room.sequence:
            room.stale = True
        most = PAUSE * min(room.lost_races, MOST_LOST_RACES)
        self.follower.later(room, most * secrets.randbelow(1000) / 1000)

    # Subscribe

    async def subscribe(self, name: str) -> Position:
        """Have a room's messages delivered; return after which."""
        room = self.rooms.find(name)
        if room.live and room.epoch is not None:
            return room.position
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        if room.subscription is None:
            self.rooms.take(room)
            handler = partial(self.follower.on_live, room)
            room.subscription = self._line.subscribe(self._reader.live_subject(room), handler)
        try:
            # The server takes the subscription first, then the request for the newest batch.
            room.stale = True
            while room.stale or not room.known:
                await asyncio.wait([self.follower.mend(room)])
                if room.trouble is not None or loop.time() > until:
                    raise Unavailable(str(room.trouble or "NATS did not answer in time."))
            if room.epoch is None:
                await self._wait(room, Publish(None, -1, 0.0))
        except BaseException:
            if not room.live:
                self.unsubscribe(name)
            raise
        if room.subscription is None:
            raise Unavailable("The room was left before it was entered.")
        room.live = True
        if self._line.clustered:
            self._fresh.append(room)
        return room.position

    def unsubscribe(self, name: str) -> None:
        """End the deliveries of a room."""
        room = self.rooms.release(name)
        if room is not None:
            if room.subscription is not None:
                self._line.unsubscribe(room.subscription)
            # From now on it is not heard what others publish.
            room.subscription, room.live = None, False

    def look_twice(self) -> None:
        """Read rooms again that were subscribed to on a cluster.

        Another server may have sent on a message before it heard of the subscription, and after the newest
        batch was read; if it was the last one for long, nothing would show the hole.
        """
        fresh, self._fresh = self._fresh, []
        self._look_again(fresh)

    def look_for_lost_ones(self, shard: int, first: int) -> None:
        """Read rooms again whose newest batch the stream can't have any more, as it begins with `first`."""
        rooms = self.rooms.subscribed.values()
        self._look_again([room for room in rooms if room.shard == shard and 0 < room.sequence < first])

    def keep_from_fading(self) -> None:
        """Have a word put into rooms that are so quiet that the stream would forget their newest batch.

        Or that could not be begun when they were lost. And forget keys of quiet ones, after the window.
        """
        now = self._streams.now()
        for room in self.rooms.all():
            room.trim_keys(now - self._window)
        begun = 0
        for room in self.rooms.subscribed.values():
            age = self._streams.age(self._streams.rooms[room.shard])
            if room.live and (room.epoch is None or now - room.time > age / 2):
                self._begin_soon(room)
                begun += 1
                if begun == MOST_KEPT_FROM_FADING:
                    return

    def line_is_back(self) -> None:
        """Read again what somebody is subscribed to or waits in."""
        self._look_again([room for room in self.rooms.all() if room.live or room.pending])

    def _look_again(self, rooms: list[Room]) -> None:
        for room in rooms:
            room.stale = True
        if rooms:
            self.follower.own(self._read_again(rooms))

    async def _read_again(self, rooms: list[Room]) -> None:
        """Read rooms, so many at once."""
        for start in range(0, len(rooms), AT_ONCE):
            chunk = [room for room in rooms[start : start + AT_ONCE] if room.stale and room.busy]
            if chunk:
                await asyncio.wait([self.follower.mend(room) for room in chunk])

    async def stop(self) -> None:
        """End everything; publishes that wait fail."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, result in self._deadlines:
            if not result.done():
                result.set_exception(Unavailable("The broker has been stopped."))
        self._deadlines.clear()
        await self.follower.stop()
        self.rooms.clear()


def _seen(result: "asyncio.Future[Position]") -> None:
    """Look at how it went, so that nobody is told that nobody did: the room is read again anyway."""
    if not result.cancelled():
        result.exception()
