"""What is too old goes out of the file, a little at a time, so that no publish waits for it long."""

import sqlite3
from collections.abc import Callable

from .rooms import Head, after

EVERY = 0.25
"""Least seconds between two sweeps."""

ROOMS, KEYS = 100, 1000
"""What a sweep looks at, besides twice of what has come since the last one: so it keeps up."""

MOST_ENTRIES = 1000
"""Entries that one look at a room takes away."""


class Sweep:
    """Goes round the rooms and the keys. `window` is the keys' age; held rooms are not forgotten."""

    def __init__(self, window: float, is_held: Callable[[bytes], bool]) -> None:
        self._window = window
        self._is_held = is_held
        self._room = 0
        self._last = float("-inf")
        self._rooms = self._keys = 0

    def expect(self, *, rooms: int, keys: int) -> None:
        """Note what has come into the file."""
        self._rooms += rooms
        self._keys += keys

    def is_due(self, now: float) -> bool:
        """Tell whether the last sweep is long enough ago."""
        return now >= self._last + EVERY

    def run(self, connection: sqlite3.Connection, now: float) -> tuple[list[Head], list[Head]]:
        """Sweep; return the rooms that are not what they were, and those of them that were forgotten."""
        self._last = now
        rooms, self._rooms = ROOMS + 2 * self._rooms, 0
        keys, self._keys = KEYS + 2 * self._keys, 0
        # Keys lie in the order of their time.
        (old,) = connection.execute(
            "SELECT max(id) FROM (SELECT id, at FROM keys ORDER BY id LIMIT ?) WHERE at<?",
            (keys, now - self._window),
        ).fetchone()
        if old is not None:
            connection.execute("DELETE FROM keys WHERE id<=?", (old,))
        changed, forgotten = [], []
        heads = after(connection, self._room, rooms)
        for head in heads:
            cut = self._cut(connection, head, now)
            if head.first > head.offset and self._is_over(head, now):
                for table, column in (("keys", "room"), ("rooms", "id")):
                    connection.execute(f"DELETE FROM {table} WHERE {column}=?", (head.id,))  # noqa: S608
                forgotten.append(head)
            elif cut:
                head.save(connection)
            else:
                continue
            changed.append(head)
        self._room = heads[-1].id if len(heads) == rooms else 0
        return changed, forgotten

    def _cut(self, connection: sqlite3.Connection, head: Head, now: float) -> bool:
        """Take away entries of a room that are older than its age."""
        if head.first > head.offset:
            return False
        (old,) = connection.execute(
            "SELECT max(offset) FROM (SELECT offset, at FROM entries WHERE room=? ORDER BY offset LIMIT ?) "
            "WHERE at<?",
            (head.id, MOST_ENTRIES, now - head.age),
        ).fetchone()
        if old is None:
            return False
        connection.execute("DELETE FROM entries WHERE room=? AND offset<=?", (head.id, old))
        head.first = old + 1
        return True

    def _is_over(self, head: Head, now: float) -> bool:
        return head.at < now - max(head.age, self._window) and not self._is_held(head.name)
