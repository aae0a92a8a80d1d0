"""A batch: publishes that are committed together."""

import sqlite3

from ...protocol.envelope import Position
from ..base import Entry
from .requests import Publish, Published
from .rooms import Head, checksum_of, encoded
from .trouble import Damage

MOST_COUNT, MOST_AGE = 2**53, 1e12
"""Larger numbers say no more, and the file could not hold them."""


class Batch:
    """Gives each publish its place, then writes all of them: each kind of row in one go."""

    def __init__(self, connection: sqlite3.Connection, now: float, window: float) -> None:
        self._connection = connection
        self._now = now
        self._oldest = now - window
        self._entries: list[tuple[Head, int, bytes | None, bytes]] = []
        self._keys: dict[tuple[int, bytes], Position] = {}
        self._touched: dict[int, tuple[Head, int]] = {}
        """Rooms by id, each with its `first` on the disk."""

    def add(self, publish: Publish, head: Head) -> Published:
        """Give a publish its place."""
        key, keep = None, publish.keep
        if publish.key is not None:
            key = (head.id, encoded(publish.key))
            repeated = self._keys.get(key) or self._seen(head, key)
            if repeated is not None:
                return Published(repeated, None)
        if keep is not None or key is not None:
            self._touched.setdefault(head.id, (head, head.first))
            head.at = self._now
        if keep is not None:
            offset = head.offset = head.offset + 1
            head.count = min(keep.count, MOST_COUNT)
            head.age = min(keep.age, MOST_AGE)
            head.first = max(head.first, offset - head.count + 1)
            sender = None if publish.sender is None else encoded(publish.sender)
            self._entries.append((head, offset, sender, publish.payload))
            entry = Entry(offset, publish.payload, publish.sender)
        else:
            entry = Entry(None, publish.payload, publish.sender)
        position = Position(head.epoch, head.offset)
        if key is not None:
            self._keys[key] = position
        return Published(position, entry)

    def write(self) -> tuple[int, int]:
        """Write it all; return how many rooms and keys are new."""
        connection, now = self._connection, self._now
        new = 0
        for head, first in self._touched.values():
            new += not head.stored
            if head.first > first:
                connection.execute("DELETE FROM entries WHERE room=? AND offset<?", (head.id, head.first))
            head.save(connection)
        connection.executemany(
            "INSERT INTO entries(room, offset, at, sender, checksum, payload) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (head.id, offset, now, sender, checksum_of(head.id, offset, payload, sender), payload)
                for head, offset, sender, payload in self._entries
                if offset >= head.first
            ],
        )
        # An older one of the same name is past the window.
        connection.executemany(
            "INSERT OR REPLACE INTO keys(room, key, at, offset, checksum) VALUES (?, ?, ?, ?, ?)",
            [
                (room, key, now, position.offset, checksum_of(room, position.offset, key))
                for (room, key), position in self._keys.items()
            ],
        )
        return new, len(self._keys)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._touched

    def _seen(self, head: Head, key: tuple[int, bytes]) -> Position | None:
        if not head.stored:
            return None
        row = self._connection.execute(
            "SELECT at, offset, checksum FROM keys WHERE room=? AND key=?", key
        ).fetchone()
        if row is None:
            return None
        at, offset, checksum = row
        if checksum != checksum_of(head.id, offset, key[1]):
            raise Damage(f"checksum of a key of room {head.id}")
        return Position(head.epoch, offset) if at >= self._oldest else None
