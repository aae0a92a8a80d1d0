"""What an instance knows of a room, and the publishes that wait in it."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import HubbubError
from ...protocol.envelope import Position
from .records import Batch, Message, token

MAX_KEYS = 100_000
"""Deduplication keys remembered for each room; the oldest is forgotten first."""
MOST_IDLE = 4096
"""Rooms that nobody here is subscribed to and that are remembered."""
EARLIER = 24
"""Batches before it that a batch knows the places of."""
MARKS = 16
"""Places in a room's past, within the deduplication window, up to which it can be purged."""


class Publish:
    """A publish that waits, or with no message the wish that the room be begun."""

    __slots__ = ("age", "count", "message", "result", "size")

    def __init__(self, message: Message | None, count: int, age: float) -> None:
        self.message = message
        self.count = count
        self.age = age
        self.size = 64
        if message is not None:
            # A character may take four bytes.
            names = len(message.sender or "") + len(message.key or "")
            self.size += len(message.payload) + 4 * names + 9 * len(message.parts)
        self.result: asyncio.Future[Position] = asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class Attempt:
    """A batch on its way: after which sequence, and whose each of its messages is."""

    after: int
    owners: list[list[Publish]]
    beginners: list[Publish]

    def is_awaited(self) -> bool:
        """Tell whether somebody still wants to know."""
        everyone = (*self.beginners, *(publish for owners in self.owners for publish in owners))
        return not all(publish.result.done() for publish in everyone)


@dataclass(slots=True, eq=False)
class Room:
    """A room, as of the batch with the sequence `sequence`."""

    name: str
    shard: int
    token: str
    known: bool = False
    """Whether what follows was read from the stream."""
    sequence: int = 0
    epoch: str | None = None
    """None where there is no batch, or none that can be gone on from: the next one begins an epoch."""
    offset: int = 0
    time: float = 0.0
    keyed: float = 0.0
    """Time of the newest batch that has a message with a key."""
    earlier: tuple[int, ...] = ()
    """Sequences of the batches before the next one, newest first."""
    count: int = -1
    age: float = 0.0
    keys: "OrderedDict[str, tuple[float, int]]" = field(default_factory=OrderedDict)
    """Time and offset by key, oldest first."""
    has_keys: bool = False
    """Whether these are all of the window."""
    marks: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, sequence and offset of batches; what lies before one is purged when nobody needs it."""
    purged: int = 0
    subscription: int | None = None
    live: bool = False
    """Whether what comes is delivered."""
    pending: list[Publish] = field(default_factory=list)
    """Oldest first; no deque, as an empty one takes more memory than all the rest of a room."""
    attempts: dict[int, Attempt] = field(default_factory=dict)
    flying: int = 0
    """Number of the attempt that an answer is awaited for; 0 if there is none."""
    lost_races: int = 0
    waits: bool = False
    """Whether it was told to try later."""
    scheduled: bool = False
    mending: "asyncio.Task[None] | None" = None
    held: list[tuple[int, Batch]] = field(default_factory=list)
    """What arrived while it is read."""
    trouble: HubbubError | None = None
    """Why it could not be read, the last time."""
    stale: bool = False
    """Whether something came that does not follow."""

    @property
    def position(self) -> Position:
        """Where the room is."""
        return Position(self.epoch or "", self.offset)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for something here."""
        return bool(self.pending or self.flying or self.mending or self.live or self.subscription)

    def forget(self) -> None:
        """Know nothing of the stream any more."""
        self.sequence, self.epoch, self.offset, self.time, self.keyed = 0, None, 0, 0.0, 0.0
        self.earlier, self.count, self.age = (), -1, 0.0
        self.keys.clear()
        self.marks.clear()
        self.has_keys = False

    def trim_keys(self, oldest: float) -> None:
        """Forget keys that are too old or too many."""
        keys = self.keys
        while keys and (len(keys) > MAX_KEYS or next(iter(keys.values()))[0] < oldest):
            keys.popitem(last=False)

    def go_to(self, sequence: int, batch: Batch) -> None:
        """Take a batch for the newest one, whatever was known before."""
        if batch.epoch != self.epoch:
            self.keys.clear()
            self.marks.clear()
            # There is nothing before an epoch's first batch.
            self.has_keys = not batch.previous
        elif batch.previous != self.sequence:
            self.keys.clear()
            self.has_keys = False
        self.sequence, self.epoch, self.time = sequence, batch.epoch, batch.time
        self.earlier = (sequence, *batch.earlier[: EARLIER - 1])
        self.count, self.age = batch.count, batch.age
        offset, keyed = batch.before, False
        for message in batch.messages:
            offset += message.kept
            if message.key is not None:
                keyed = True
                # At the end, also one that was there: they are in the order of their times.
                self.keys.pop(message.key, None)
                self.keys[message.key] = (batch.time, offset)
        self.offset = offset
        self.keyed = batch.time if keyed else batch.keyed


class Rooms:
    """The rooms that somebody here is subscribed to, and those that were used last."""

    def __init__(self, shard: Callable[[str], int]) -> None:
        self.subscribed: dict[str, Room] = {}
        self.others: OrderedDict[str, Room] = OrderedDict()
        self._shard = shard

    def find(self, name: str) -> Room:
        """Return what is known of a room."""
        room = self.subscribed.get(name)
        if room is not None:
            return room
        room = self.others.get(name)
        if room is None:
            room = self.others[name] = Room(name, self._shard(name), token(name))
            self._forget_idle_ones()
        else:
            self.others.move_to_end(name)
        return room

    def take(self, room: Room) -> None:
        """Note that somebody is subscribed to a room."""
        self.others.pop(room.name, None)
        self.subscribed[room.name] = room

    def release(self, name: str) -> Room | None:
        """Note that nobody is any more; return the room if somebody was."""
        room = self.subscribed.pop(name, None)
        if room is not None:
            self.others[name] = room
            self._forget_idle_ones()
        return room

    def all(self) -> list[Room]:
        """Return all of them."""
        return [*self.subscribed.values(), *self.others.values()]

    def clear(self) -> None:
        """Forget all of them."""
        self.subscribed.clear()
        self.others.clear()

    def _forget_idle_ones(self) -> None:
        """Two looks for each room that comes, so that it keeps up."""
        for _ in range(min(2, len(self.others) - MOST_IDLE)):
            name = next(iter(self.others))
            if self.others[name].busy:
                self.others.move_to_end(name)
            else:
                del self.others[name]
