"""The reader: reads history beside the writer, without waiting for it. It lives in a thread."""

import sqlite3
from collections.abc import Callable, Sequence

from ...protocol.envelope import Position
from ..base import Entry, History
from .file import File, meta
from .requests import Read
from .rooms import Head, checksum_of, encoded, epoch_of, find
from .trouble import Damage, Trouble

LARGEST_PAGE = 8 * 1024 * 1024
"""Bytes of payload after which a page ends, however many messages were asked for."""


_OLDEST = (
    "SELECT offset, payload, sender, checksum FROM entries WHERE room=? AND offset>? AND offset<=? "
    "ORDER BY offset"
)
_NEWEST = f"{_OLDEST} DESC"


class Reader:
    """Answers from what is committed. `clock` is the writer's."""

    def __init__(self, file: File, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock
        self._trouble = Trouble(file.path, "reading")
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Connect to a file that the writer has judged."""
        self._connected()

    def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def rest(self) -> None:
        """Do nothing while nobody asks."""

    def answer(self, asked: Sequence[Read]) -> list[History | BaseException]:
        """Read for each of those who wait."""
        return [self._answer(read) for read in asked]

    def _answer(self, read: Read) -> History | BaseException:
        try:
            connection = self._connected()
            # One view of the file for all that belongs together.
            connection.execute("BEGIN")
            history = self._read(connection, read)
            connection.execute("COMMIT")
        except Exception as problem:
            self.close()
            if isinstance(problem, sqlite3.Error | OSError):
                return self._trouble.began(problem)
            return problem
        self._trouble.is_over()
        return history

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.check_in_place()
            self._connection = self._file.connect()
        return self._connection

    def _read(self, connection: sqlite3.Connection, read: Read) -> History:
        name, since = encoded(read.room), read.since
        head = find(connection, name)
        if head is None:
            epoch = read.epoch
            if epoch is None:
                epoch = epoch_of(name, meta(connection, "life", bytes))
            head = Head(0, name, epoch)
        gone = self._gone(connection, head)
        complete = True
        if since is None:
            first = max(gone, head.offset - read.limit)
        elif since.epoch != head.epoch or since.offset > head.offset:
            first, complete = gone, False
        else:
            first, complete = max(since.offset, gone), since.offset >= gone
        last = min(head.offset, first + read.limit)
        entries = self._entries(connection, head.id, first, last, newest=since is None)
        reached = entries[-1].offset if entries else None
        return History(entries, Position(head.epoch, first if reached is None else reached), complete)

    def _gone(self, connection: sqlite3.Connection, head: Head) -> int:
        """Return the offset up to which a room's messages are gone: trimmed away, or too old."""
        if head.first <= head.offset:
            row = connection.execute(
                "SELECT offset FROM entries WHERE room=? AND offset>=? AND at>=? ORDER BY offset LIMIT 1",
                (head.id, head.first, self._clock() - head.age),
            ).fetchone()
            if row is not None:
                return int(row[0]) - 1
        return head.offset

    def _entries(
        self, connection: sqlite3.Connection, room: int, first: int, last: int, *, newest: bool
    ) -> list[Entry]:
        """Return the entries after `first` up to `last`, from one end as many as make a page."""
        rows = connection.execute(_NEWEST if newest else _OLDEST, (room, first, last))
        entries: list[Entry] = []
        size, step = 0, -1 if newest else 1
        expected = last if newest else first + 1
        for offset, payload, sender, checksum in rows:
            if (
                offset != expected
                or type(payload) is not bytes
                or not (sender is None or type(sender) is bytes)
                or checksum != checksum_of(room, offset, payload, sender)
            ):
                raise Damage(f"message {expected} of room {room}")
            size += len(payload)
            if entries and size > LARGEST_PAGE:
                break
            entries.append(
                Entry(offset, payload, None if sender is None else sender.decode(errors="surrogatepass"))
            )
            expected += step
        else:
            if len(entries) != last - first:
                raise Damage(f"message {expected} of room {room}")
        if newest:
            entries.reverse()
        return entries
