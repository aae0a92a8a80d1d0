"""What the log comes to: rooms, members and instances. A pure function of the log's messages, in their order.

Nothing here looks at a clock of its own, at random numbers or at another instance: whoever applies the same
messages to the same state has the same state, and gives the same answers.
"""

import hashlib
import itertools
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ...protocol.envelope import Position
from ..base import Departure, Entry, History, Retention
from .records import (
    Batch,
    Beat,
    Bye,
    Enter,
    Gone,
    Hold,
    Leave,
    LetGo,
    Look,
    Publish,
    Record,
    Relive,
    Secret,
)

MAX_KEYS = 100_000
"""Deduplication keys remembered for each room; the oldest is forgotten first."""

LIVES = 16_384
"""Parts in which it is counted how many rooms were forgotten; in which one a room is, its name says."""

MAX_WRITERS = 10_000
"""Writers of which the newest batch is remembered; the one that was silent for longest is forgotten first.

Not by time: one clock that is wrong would have all writers forgotten at once, and what they send again
applied twice.
"""

Result = Position | bool | bytes | list[Departure] | None
"""What a record has come to."""


@dataclass(slots=True)
class Stream:
    """One room: its offsets, its history, and who is in it."""

    epoch: str
    offset: int = 0
    retention: Retention | None = None
    entries: deque[tuple[float, Entry]] = field(default_factory=deque)
    keys: "OrderedDict[str, tuple[float, Position]]" = field(default_factory=OrderedDict)
    """Key -> until when it is remembered, and the position."""
    members: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    """Member -> connection -> (instance, details), in the order in which they came."""
    holders: set[str] = field(default_factory=set)
    """Instances that are subscribed."""

    @property
    def unused(self) -> bool:
        """Whether nobody is here and nothing is remembered."""
        return not (self.entries or self.keys or self.members or self.holders)

    def trim(self, now: float) -> None:
        """Forget entries and keys that are too many or too old."""
        entries, keys = self.entries, self.keys
        if self.retention is not None:
            oldest, count = now - self.retention.age, self.retention.count
            while entries and (len(entries) > count or entries[0][0] < oldest):
                entries.popleft()
        while keys and (len(keys) > MAX_KEYS or next(iter(keys.values()))[0] < now):
            keys.popitem(last=False)

    def expired(self, now: float) -> int:
        """Return how many entries are too old now, without forgetting them."""
        if self.retention is None:
            return 0
        oldest = now - self.retention.age
        return sum(1 for _ in itertools.takewhile(lambda entry: entry[0] < oldest, self.entries))


@dataclass(slots=True)
class Member:
    """An instance that takes part."""

    beats: int = 0
    forgotten: bool = False
    """Whether it was taken for gone and has not been told."""
    rooms: dict[str, int] = field(default_factory=dict)
    """Room -> how many connections of its members are there, and one more if it is subscribed."""
    heard: float = 0.0
    """When its newest beat was applied, by the reader's own clock: the one thing that readers don't share."""


class State:
    """What the log comes to, from its beginning or from a snapshot on.

    `spread` is called with each message of a room as it is applied, and `clock` for when an instance was
    heard of.
    """

    def __init__(self, spread: Callable[[str, Entry, str], None], clock: Callable[[], float]) -> None:
        self._spread = spread
        self._clock = clock
        self.life = ""
        """A name for this log, made of the first batch; epochs are made of it."""
        self.now = 0.0
        """Seconds since 1970: the greatest time that a batch had."""
        self.secret = b""
        self.grown = 0
        """Bytes of batches in the log since a snapshot was due."""
        self.image = 0
        """Bytes of the newest snapshot in the log."""
        self.forgotten: dict[int, int] = {}
        self.streams: OrderedDict[str, Stream] = OrderedDict()
        self.instances: dict[str, Member] = {}
        self.writers: OrderedDict[str, int] = OrderedDict()
        self.newest = -1
        """Offset in the log of the newest batch."""

    def turn(self, batch: Batch) -> bool:
        """Begin a batch, and return whether it is its turn: if not, none of it may be applied."""
        if batch.number != self.writers.get(batch.writer, 0) + 1:
            return False
        self.now = max(self.now, batch.time)
        self.writers[batch.writer] = batch.number
        self.writers.move_to_end(batch.writer)
        if len(self.writers) > MAX_WRITERS:
            self.writers.popitem(last=False)
        if not self.life:
            self.life = f"{batch.writer}/{batch.number}"
        return True

    def epoch(self, room: str) -> str:
        """Return the epoch of a room that begins now.

        It is the same until the room was used and is forgotten, or another that is counted with it.
        """
        name = room.encode(errors="surrogatepass")
        times = self.forgotten.get(zlib.crc32(name) % LIVES, 0)
        return hashlib.blake2b(
            name, key=self.life.encode()[:64], salt=times.to_bytes(16), digest_size=6
        ).hexdigest()

    def position(self, room: str) -> Position:
        """Return where a room is."""
        stream = self.streams.get(room)
        return Position(self.epoch(room), 0) if stream is None else Position(stream.epoch, stream.offset)

    def history(self, room: str, since: Position | None, limit: int, now: float) -> History:
        """Return kept messages (see :meth:`hubbub.brokers.base.Broker.history`)."""
        stream = self.streams.get(room) or Stream(self.epoch(room))
        expired = stream.expired(max(self.now, now))
        count = len(stream.entries) - expired
        oldest = stream.offset - count
        if since is None:
            start, complete = stream.offset - min(limit, count), True
        elif since.epoch != stream.epoch or since.offset > stream.offset:
            start, complete = oldest, False
        else:
            start, complete = max(since.offset, oldest), since.offset >= oldest
        first = start - oldest + expired
        entries = [entry for _, entry in itertools.islice(stream.entries, first, first + limit)]
        return History(entries, Position(stream.epoch, start + len(entries)), complete)

    def members(self, room: str) -> dict[str, bytes]:
        """Return who is in a room, each with the details of their first connection."""
        stream = self.streams.get(room)
        members = {} if stream is None else stream.members
        return {member: next(iter(connections.values()))[1] for member, connections in members.items()}

    def held(self, instance: str) -> list[str]:
        """Return the rooms that an instance is subscribed to."""
        member = self.instances.get(instance)
        rooms = () if member is None else member.rooms
        return [room for room in rooms if instance in self.streams[room].holders]

    def apply(self, record: Record, batch: Batch) -> Result:
        """Carry out a record of a batch that has begun, and return what it has come to."""
        match record:
            case Publish():
                return self._publish(record)
            case Enter():
                return self._enter(record)
            case Leave():
                return self._leave(record)
            case Hold(room, instance):
                stream = self._stream(room)
                if instance not in stream.holders:
                    stream.holders.add(instance)
                    self._count(instance, room, 1)
                return Position(stream.epoch, stream.offset)
            case LetGo(room, instance):
                self._let_go(room, instance)
                return None
            case Beat(instance):
                return self._beat(instance)
            case Gone(instance, beats):
                member = self.instances.get(instance)
                return [] if member is None or member.beats != beats else self._remove(instance)
            case Bye(instance):
                self._remove(instance)
                return None
            case Secret(proposed):
                self.secret = self.secret or proposed
                return self.secret
            case Relive():
                self._relive(f"{batch.writer}/{batch.number}")
                return None
            case Look():
                return None

    def _stream(self, room: str) -> Stream:
        stream = self.streams.get(room)
        if stream is None:
            stream = self.streams[room] = Stream(self.epoch(room))
        return stream

    def _publish(self, record: Publish) -> Position:
        room, key, keep = record.room, record.key, record.keep
        stream, now = self._stream(room), self.now
        if key is not None:
            stream.trim(now)
            repeated = stream.keys.get(key)
            if repeated is not None:
                return repeated[1]
        if keep is not None:
            stream.offset += 1
            entry = Entry(stream.offset, record.payload, record.sender)
            stream.retention = keep
            stream.entries.append((now, entry))
            stream.trim(now)
        else:
            entry = Entry(None, record.payload, record.sender)
        position = Position(stream.epoch, stream.offset)
        if key is not None:
            stream.keys[key] = (now + record.window, position)
        self._spread(room, entry, stream.epoch)
        self._forget_unused()
        return position

    def _forget_unused(self) -> None:
        # Two looks for each publish, which makes one stream at most: what is forgotten keeps up with what is
        # made.
        for _ in range(min(2, len(self.streams))):
            room, stream = next(iter(self.streams.items()))
            stream.trim(self.now)
            if stream.unused:
                self._forget(room)
            else:
                self.streams.move_to_end(room)

    def _forget(self, room: str) -> None:
        if self.streams.pop(room).offset:
            part = zlib.crc32(room.encode(errors="surrogatepass")) % LIVES
            self.forgotten[part] = self.forgotten.get(part, 0) + 1

    def _forget_if_untouched(self, room: str, stream: Stream) -> None:
        if stream.unused and not stream.offset:
            self._forget(room)

    def _enter(self, record: Enter) -> bool:
        connections = self._stream(record.room).members.setdefault(record.member, {})
        before = connections.get(record.connection)
        if before is not None:
            self._count(before[0], record.room, -1)
        connections[record.connection] = (record.instance, record.details)
        self._count(record.instance, record.room, 1)
        return len(connections) == 1

    def _leave(self, record: Leave) -> bool:
        stream = self.streams.get(record.room)
        connections = stream.members.get(record.member) if stream else None
        if stream is None or connections is None:
            return False
        left = connections.pop(record.connection, None)
        if left is None:
            return False
        self._count(left[0], record.room, -1)
        if connections:
            return False
        del stream.members[record.member]
        self._forget_if_untouched(record.room, stream)
        return True

    def _let_go(self, room: str, instance: str) -> None:
        stream = self.streams.get(room)
        if stream is not None and instance in stream.holders:
            stream.holders.discard(instance)
            self._count(instance, room, -1)
            self._forget_if_untouched(room, stream)

    def _count(self, instance: str, room: str, change: int) -> None:
        member = self.instances.get(instance)
        if member is None:
            if change < 0:
                return
            # It was taken for gone, and does not know it yet.
            member = self.instances[instance] = Member(forgotten=True, heard=self._clock())
        there = member.rooms.get(room, 0) + change
        if there > 0:
            member.rooms[room] = there
        else:
            member.rooms.pop(room, None)

    def _beat(self, instance: str) -> bool:
        member = self.instances.get(instance)
        forgotten = member is None or member.forgotten
        if member is None:
            member = self.instances[instance] = Member()
        member.beats += 1
        member.forgotten = False
        member.heard = self._clock()
        return forgotten

    def _remove(self, instance: str) -> list[Departure]:
        member = self.instances.pop(instance, None)
        departures = []
        for room in member.rooms if member else ():
            stream = self.streams[room]
            stream.holders.discard(instance)
            for name, connections in list(stream.members.items()):
                gone = [key for key, (owner, _) in connections.items() if owner == instance]
                details = [connections.pop(key)[1] for key in gone]
                if not connections:
                    del stream.members[name]
                    departures.append(Departure(room, name, details[0]))
            self._forget_if_untouched(room, stream)
        return departures

    def _relive(self, life: str) -> None:
        self.life = life
        for room, stream in self.streams.items():
            stream.epoch = self.epoch(room)
            # What the keys lead to may be other messages now.
            stream.keys.clear()
