"""The embedded broker: rooms of one process, in its memory."""

import asyncio
import hashlib
import secrets
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..observe.log import fields, logger
from ..protocol.envelope import Position
from .base import Departure, Entry, Guarantees, History, Receiver, Renewal, Retention

MAX_KEYS = 100_000
"""Deduplication keys remembered for each room; the oldest is forgotten first."""

LIVES = 16_384
"""Parts in which it is counted how many rooms were forgotten; in which one a room is, its name says."""


@dataclass(slots=True)
class _Stream:
    """One room: its offsets, its history and who is subscribed."""

    epoch: str
    offset: int = 0
    entries: deque[tuple[float, Entry]] = field(default_factory=deque)
    retention: Retention | None = None
    keys: "OrderedDict[str, tuple[float, Position]]" = field(default_factory=OrderedDict)
    subscribers: dict[str, Receiver] = field(default_factory=dict)
    members: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    """Member -> connection -> (instance, details), in the order in which they came."""


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class MemoryStore:
    """The rooms themselves; brokers that share a store see each other as instances do.

    `clock` returns seconds; it is the running event loop's, which a test can move. `window` is the
    deduplication window and `lease` the time after which an instance that did not renew is gone, both in
    seconds.
    """

    def __init__(
        self, *, window: float = 300.0, lease: float = 10.0, clock: Callable[[], float] = _loop_time
    ) -> None:
        self.window = window
        self.lease = lease
        self.clock = clock
        self.streams: OrderedDict[str, _Stream] = OrderedDict()
        self._life = secrets.token_bytes(16)
        self._forgotten = array("Q", bytes(8 * LIVES))
        self.secret = secrets.token_bytes(32)
        self.instances: dict[str, tuple[Receiver, float]] = {}

    def stream(self, room: str) -> _Stream:
        """Return the room's stream, begun anew if there is none."""
        stream = self.streams.get(room)
        if stream is None:
            stream = self.streams[room] = _Stream(self.epoch(room))
        return stream

    def epoch(self, room: str) -> str:
        """Return the epoch of a room that begins now.

        It is the same until the room was used and is forgotten, or another that is counted with it. So one
        that never was can be forgotten and begin again, and whoever comes back to it has missed nothing.
        """
        name = room.encode(errors="surrogatepass")
        forgotten = self._forgotten[hash(room) % LIVES].to_bytes(16)
        return hashlib.blake2b(name, key=self._life, salt=forgotten, digest_size=6).hexdigest()

    def forget(self, room: str) -> None:
        """Drop a room's stream."""
        if self.streams.pop(room).offset:
            self._forgotten[hash(room) % LIVES] += 1

    def trim(self, stream: _Stream, now: float) -> None:
        """Forget entries and keys that are too many or too old."""
        if stream.retention is not None:
            oldest = now - stream.retention.age
            entries = stream.entries
            while entries and (len(entries) > stream.retention.count or entries[0][0] < oldest):
                entries.popleft()
        keys = stream.keys
        while keys and (len(keys) > MAX_KEYS or next(iter(keys.values()))[0] < now - self.window):
            keys.popitem(last=False)

    def forget_unused(self, now: float) -> None:
        """Drop streams that nobody is in and that remember nothing, if it is their turn to be looked at.

        Two looks for each publish, which makes one stream at most: what is forgotten keeps up with what is
        made, and no publish waits for a walk through all rooms.
        """
        for _ in range(min(2, len(self.streams))):
            room = next(iter(self.streams))
            stream = self.streams[room]
            self.trim(stream, now)
            if stream.entries or stream.keys or stream.subscribers or stream.members:
                self.streams.move_to_end(room)
            else:
                self.forget(room)


class MemoryBroker:
    """One instance's part in a :class:`MemoryStore`; without one it has its own."""

    guarantees = Guarantees(shared=False, durable=False)
    available = True

    def __init__(self, store: MemoryStore | None = None, *, instance: str | None = None) -> None:
        self.store = store or MemoryStore()
        self.instance = instance or secrets.token_hex(6)
        self._receiver: Receiver | None = None

    async def start(self, receiver: Receiver | None) -> None:
        """Deliver to `receiver` from now on."""
        self._receiver = receiver
        if receiver is not None:
            self.store.instances[self.instance] = (receiver, self.store.clock() + self.store.lease)

    async def stop(self) -> None:
        """Take this instance out of every room."""
        self.store.instances.pop(self.instance, None)
        for stream in self.store.streams.values():
            stream.subscribers.pop(self.instance, None)
        self._remove_members(lambda instance: instance == self.instance)

    async def secret(self) -> bytes:
        """Return 32 random bytes that all instances share."""
        return self.store.secret

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        """Publish and return the message's position (see :meth:`.base.Broker.publish`)."""
        store = self.store
        stream = store.stream(room)
        now = store.clock()
        if key is not None:
            store.trim(stream, now)
            repeated = stream.keys.get(key)
            if repeated is not None:
                return repeated[1]
        if keep is not None:
            stream.offset += 1
            entry = Entry(stream.offset, payload, sender)
            stream.retention = keep
            stream.entries.append((now, entry))
            store.trim(stream, now)
        else:
            entry = Entry(None, payload, sender)
        position = Position(stream.epoch, stream.offset)
        if key is not None:
            stream.keys[key] = (now, position)
        for instance, receiver in list(stream.subscribers.items()):
            try:
                receiver.deliver(room, entry, stream.epoch)
            except Exception:
                # It is published; one instance's trouble is not the publisher's, nor the others'.
                logger.exception("error", extra=fields(during="delivery", room=room, instance=instance))
        store.forget_unused(now)
        return position

    async def subscribe(self, room: str) -> Position:
        """Return the position from which on every message of the room will be delivered."""
        stream = self.store.stream(room)
        assert self._receiver is not None
        stream.subscribers[self.instance] = self._receiver
        return Position(stream.epoch, stream.offset)

    async def unsubscribe(self, room: str) -> None:
        """Stop the deliveries of a room."""
        stream = self.store.streams.get(room)
        if stream is not None:
            stream.subscribers.pop(self.instance, None)
            self._forget_if_untouched(room, stream)

    async def history(self, room: str, since: Position | None, limit: int) -> History:
        """Return kept messages (see :meth:`.base.Broker.history`)."""
        stream = self.store.streams.get(room)
        if stream is None:
            # Nobody published or subscribed here: an answer must not make a room that then stays.
            stream = _Stream(self.store.epoch(room))
        self.store.trim(stream, self.store.clock())
        kept = [entry for _, entry in stream.entries]
        oldest = stream.offset - len(kept)
        if since is None:
            entries, complete = kept[-limit:], True
            start = stream.offset - len(entries)
        elif since.epoch != stream.epoch or since.offset > stream.offset:
            entries, complete, start = kept[:limit], False, oldest
        else:
            start = max(since.offset, oldest)
            first = start - oldest
            entries, complete = kept[first : first + limit], since.offset >= oldest
        return History(entries, Position(stream.epoch, start + len(entries)), complete)

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""
        members = self.store.stream(room).members
        connections = members.setdefault(member, {})
        connections[connection] = (self.instance, details)
        return len(connections) == 1

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""
        stream = self.store.streams.get(room)
        connections = stream.members.get(member) if stream else None
        if stream is None or connections is None or connections.pop(connection, None) is None or connections:
            return False
        del stream.members[member]
        self._forget_if_untouched(room, stream)
        return True

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room, each with the details of their first connection."""
        stream = self.store.streams.get(room)
        if stream is None:
            return {}
        return {member: next(iter(connections.values()))[1] for member, connections in stream.members.items()}

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, as far as leases tell."""
        return list(self.store.instances)

    async def renew(self) -> Renewal:
        """Keep this instance for another lease; remove the members of those whose lease ran out."""
        store, now = self.store, self.store.clock()
        assert self._receiver is not None
        # Also where it was late and taken for gone: it is back, without the members it had.
        forgotten = self.instance not in store.instances
        store.instances[self.instance] = (self._receiver, now + store.lease)
        gone = [instance for instance, (_, until) in store.instances.items() if until < now]
        for instance in gone:
            del store.instances[instance]
        departures = self._remove_members(lambda instance: instance not in store.instances) if gone else []
        return Renewal(departures, forgotten)

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        """Send to the one instance of that name, or with None to all."""
        for name, (receiver, _) in list(self.store.instances.items()):
            if instance in (None, name):
                receiver.control(payload)

    def _remove_members(self, is_gone: Callable[[str], bool]) -> list[Departure]:
        departures = []
        for room, stream in list(self.store.streams.items()):
            for member, connections in list(stream.members.items()):
                gone = {name: held for name, held in connections.items() if is_gone(held[0])}
                for name in gone:
                    del connections[name]
                if not connections:
                    del stream.members[member]
                    departures.append(Departure(room, member, next(iter(gone.values()))[1]))
        return departures

    def _forget_if_untouched(self, room: str, stream: _Stream) -> None:
        if not (stream.offset or stream.keys or stream.subscribers or stream.members):
            self.store.forget(room)
