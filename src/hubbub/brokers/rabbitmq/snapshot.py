"""A whole state in pieces, and a state made of them: so a reader can begin in the middle of the log."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from ...protocol.envelope import Position
from ..base import Entry, Retention
from .state import Member, State, Stream

PIECE = 256 * 1024
"""Bytes of a piece, about."""

_Connection = tuple[str, str, bytes]


class _Head(Struct, frozen=True, array_like=True):
    life: str
    now: float
    secret: bytes
    grown: int
    image: int
    forgotten: dict[int, int]
    instances: list[tuple[str, int, bool]]
    writers: list[tuple[str, int]]
    newest: int


class _Room(Struct, frozen=True, array_like=True):
    name: str
    epoch: str
    offset: int
    retention: tuple[int, float] | None
    entries: list[tuple[float, int, bytes, str | None]]
    keys: list[tuple[str, float, str, int]]
    members: list[tuple[str, list[_Connection]]]
    holders: list[str]


_encoder = msgspec.msgpack.Encoder()
_heads = msgspec.msgpack.Decoder(_Head)
_rooms = msgspec.msgpack.Decoder(_Room)


def capture(state: State) -> list[Callable[[], bytes]]:
    """Note what a state is now; calling what is returned encodes it, one after the other.

    The state may change meanwhile: what changes is copied here, messages themselves are not.
    """
    head = _Head(
        state.life,
        state.now,
        state.secret,
        state.grown,
        state.image,
        dict(state.forgotten),
        [(name, member.beats, member.forgotten) for name, member in state.instances.items()],
        list(state.writers.items()),
        state.newest,
    )
    return [
        lambda: _encoder.encode(head),
        *(_capture(room, stream) for room, stream in state.streams.items()),
    ]


def _capture(name: str, stream: Stream) -> Callable[[], bytes]:
    epoch, offset, retention = stream.epoch, stream.offset, stream.retention
    entries, keys, holders = list(stream.entries), list(stream.keys.items()), sorted(stream.holders)
    members = [(member, list(connections.items())) for member, connections in stream.members.items()]

    def encode() -> bytes:
        return _encoder.encode(
            _Room(
                name,
                epoch,
                offset,
                None if retention is None else (retention.count, retention.age),
                [(at, entry.offset or 0, entry.payload, entry.sender) for at, entry in entries],
                [(key, until, at.epoch, at.offset) for key, (until, at) in keys],
                [
                    (member, [(key, owner, details) for key, (owner, details) in connections])
                    for member, connections in members
                ],
                holders,
            )
        )

    return encode


def pieces(captured: list[Callable[[], bytes]]) -> Iterator[tuple[bytes, bool]]:
    """Yield a captured state as pieces of some 256 KiB, and whether each is the last."""
    buffer = bytearray()
    for encode in captured:
        item = encode()
        buffer += len(item).to_bytes(4) + item
        while len(buffer) > PIECE:
            yield bytes(buffer[:PIECE]), False
            del buffer[:PIECE]
    yield bytes(buffer), True


def restore(whole: bytes, spread: Callable[[str, Entry, str], None], clock: Callable[[], float]) -> State:
    """Return the state that pieces, joined, were made of; :exc:`msgspec.MsgspecError` if it can't be read."""
    view = memoryview(whole)
    at = 4 + int.from_bytes(view[:4])
    head = _heads.decode(view[4:at])
    state = State(spread, clock)
    state.life, state.now, state.secret = head.life, head.now, head.secret
    state.grown, state.image = head.grown, head.image
    state.forgotten = head.forgotten
    now = clock()
    state.instances = {name: Member(beats, forgotten, {}, now) for name, beats, forgotten in head.instances}
    state.writers, state.newest = OrderedDict(head.writers), head.newest
    while at < len(view):
        size = int.from_bytes(view[at : at + 4])
        _restore(state, _rooms.decode(view[at + 4 : at + 4 + size]))
        at += 4 + size
    return state


def _restore(state: State, room: _Room) -> None:
    stream = Stream(room.epoch, room.offset, None if room.retention is None else Retention(*room.retention))
    stream.entries = deque(
        (at, Entry(offset, payload, sender)) for at, offset, payload, sender in room.entries
    )
    for key, until, epoch, offset in room.keys:
        stream.keys[key] = (until, Position(epoch, offset))
    stream.members = {
        member: {key: (owner, details) for key, owner, details in connections}
        for member, connections in room.members
    }
    stream.holders = set(room.holders)
    state.streams[room.name] = stream
    owners = [owner for connections in stream.members.values() for owner, _ in connections.values()]
    for owner in [*owners, *stream.holders]:
        rooms = state.instances[owner].rooms
        rooms[room.name] = rooms.get(room.name, 0) + 1
