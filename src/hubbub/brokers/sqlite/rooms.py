"""What the file says of a room, and what the numbers in it prove."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from secrets import token_bytes

from .trouble import Damage

PARTS = 2048
"""Parts in which it is counted how many rooms were forgotten; in which one a room is, its name says."""

_KEY, _COUNT = 16, 4
"""Bytes of a life's key, and of each count behind it."""

_COLUMNS = "id, name, epoch, offset, first, count, age, at, checksum"


@dataclass(slots=True)
class Head:
    """A room: how far it has come, and what it keeps."""

    id: int
    name: bytes
    epoch: str
    offset: int = 0
    first: int = 1
    """Offset of the first message that is not trimmed away; one more than `offset` where there is none."""
    count: int = 0
    age: float = 0.0
    at: float = 0.0
    """Time of the last publish that the file knows of."""
    stored: bool = False

    @property
    def checksum(self) -> int:
        """Checksum of what makes a position."""
        return zlib.crc32(
            self.name, zlib.crc32(f"{self.id} {self.epoch} {self.offset} {self.first}".encode())
        )

    def save(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        if self.stored:
            sql = (
                "UPDATE rooms SET epoch=?, offset=?, first=?, count=?, age=?, at=?, checksum=? "
                "WHERE id=? AND name=?"
            )
        else:
            sql = (
                "INSERT INTO rooms(epoch, offset, first, count, age, at, checksum, id, name) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            )
        connection.execute(
            sql,
            (
                self.epoch,
                self.offset,
                self.first,
                self.count,
                self.age,
                self.at,
                self.checksum,
                self.id,
                self.name,
            ),
        )
        self.stored = True


def encoded(text: str) -> bytes:
    """Return a name as the file has it: any text there can be."""
    return text.encode(errors="surrogatepass")


def find(connection: sqlite3.Connection, name: bytes) -> Head | None:
    """Return a room; None if the file has none of that name."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM rooms WHERE name=?", (name,)).fetchone()  # noqa: S608
    return None if row is None else _head(row)


def after(connection: sqlite3.Connection, room: int, limit: int) -> list[Head]:
    """Return the rooms whose ids follow that of one."""
    sql = f"SELECT {_COLUMNS} FROM rooms WHERE id>? ORDER BY id LIMIT ?"  # noqa: S608
    return [_head(row) for row in connection.execute(sql, (room, limit))]


def every(connection: sqlite3.Connection) -> Iterator[Head]:
    """Yield all rooms."""
    room = 0
    while heads := after(connection, room, 1000):
        yield from heads
        room = heads[-1].id


def _head(row: tuple[object, ...]) -> Head:
    *values, checksum = row
    head = Head(*values)  # type: ignore[arg-type]  # the checksum tells
    head.stored = True
    try:
        sound = head.checksum == checksum
    except TypeError:
        sound = False
    if not sound:
        raise Damage(f"checksum of room {head.id}")
    return head


def checksum_of(room: int, offset: int, data: bytes, sender: bytes | None = None) -> int:
    """Return the checksum of an entry, or of a key."""
    return zlib.crc32(data, zlib.crc32(sender or b"", (room * 2_654_435_761 + offset) & 0xFFFFFFFF))


def new_life() -> bytes:
    """Return what the epochs of a file's rooms come from: a key, and how often rooms were forgotten."""
    return token_bytes(_KEY) + bytes(_COUNT * PARTS)


def epoch_of(name: bytes, life: bytes) -> str:
    """Return the epoch of a room that begins now.

    It is the same until the room was used and is forgotten, or another that is counted with it: so one that
    never was used can be forgotten and begin again, and whoever comes back to it has missed nothing.
    """
    part = _part(name)
    return hashlib.blake2b(name, key=life[:_KEY], salt=life[part : part + _COUNT], digest_size=6).hexdigest()


def forgetting(life: bytes, names: Iterable[bytes]) -> bytes:
    """Return a life after which these rooms, should they begin again, do so with an epoch of their own."""
    changed = bytearray(life)
    for name in names:
        part = _part(name)
        count = (int.from_bytes(changed[part : part + _COUNT]) + 1) % 256**_COUNT
        changed[part : part + _COUNT] = count.to_bytes(_COUNT)
    return bytes(changed)


def _part(name: bytes) -> int:
    return _KEY + zlib.crc32(name) % PARTS * _COUNT
