"""The file: found or made, locked, and judged before anything in it is believed."""

import errno
import fcntl
import os
import secrets
import sqlite3
import struct
import threading
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from ...errors import ConfigurationError
from .rooms import new_life
from .trouble import Damage, Moved, refusal

APPLICATION = 0x48554242
VERSION = 1

SCHEMA = {
    "meta": "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "rooms": "CREATE TABLE rooms(id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, epoch TEXT NOT NULL,"
    " offset INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL, age REAL NOT NULL,"
    " at REAL NOT NULL, checksum INTEGER NOT NULL)",
    "entries": "CREATE TABLE entries(room INTEGER, offset INTEGER, at REAL NOT NULL, sender BLOB,"
    " checksum INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(room, offset)) WITHOUT ROWID",
    "keys": "CREATE TABLE keys(id INTEGER PRIMARY KEY, room INTEGER NOT NULL, key BLOB NOT NULL,"
    " at REAL NOT NULL, offset INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    "keys_by_name": "CREATE UNIQUE INDEX keys_by_name ON keys(room, key)",
}
"""What a file has, and nothing else: a trigger or a view would be executed.

`rooms.offset` is the newest message's, `first` the first one's that is not trimmed away; `count` and `age`
are the room's retention, `at` the time of its last publish. `keys` are in the order of their time.
"""

BUSY = 2.0
"""Seconds for which another program that holds the file, a backup for example, is waited for."""

LARGEST_LOG = 64 * 1024 * 1024
"""Bytes that SQLite's log keeps of the disk when it was larger for a while."""

_MARK = struct.Struct("<dq")

Kind = TypeVar("Kind")

_taken: set[Path] = set()
_taking = threading.Lock()


def meta(connection: sqlite3.Connection, name: str, kind: type[Kind]) -> Kind:
    """Return one of the things that are there once."""
    row = connection.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
    if row is None or not isinstance(row[0], kind):
        raise Damage(name)
    return row[0]


class File:
    """A database file, and beside it the file that locks it and holds the mark.

    The mark is the time of the last commit. It is written after the commit, so a database that is older
    than its mark, or has none, is not the one that was last written: a backup, or one whose log is gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self._lock_path = self.path.with_name(self.path.name + "-lock")
        self._lock: int | None = None
        self._identity: tuple[object, object] | None = None
        self.mark: float | None = None
        """The mark that was there when the file was taken."""

    def take(self) -> None:
        """Lock the file for this process, and make it if there is none; :exc:`ConfigurationError`."""
        with _taking:
            if self.path in _taken:
                raise self._in_use("this process")
            _taken.add(self.path)
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Not flock: a child made by fork would hold it on after this process was killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark = self._read_mark()
            self.mark = mark[0] if mark else None
            if not self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._identity = self._identified()
        except OSError as problem:
            refused = refusal(self.path, problem)
            if self._lock is not None and problem.errno in (errno.EAGAIN, errno.EACCES):
                mark = self._read_mark()
                refused = self._in_use(f"process {mark[1]}" if mark else "another process")
            self.release()
            raise refused from problem

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        with _taking:
            _taken.discard(self.path)

    def write_mark(self, at: float) -> None:
        """Note the time of the last commit."""
        assert self._lock is not None
        os.pwrite(self._lock, _MARK.pack(at, os.getpid()), 0)

    def check_in_place(self) -> None:
        """Raise :exc:`.trouble.Moved` if the path leads elsewhere by now: what was written would be lost."""
        try:
            moved = self._identified() != self._identity
        except FileNotFoundError:
            moved = True
        if moved:
            raise Moved

    def connect(self) -> sqlite3.Connection:
        """Open the file; nothing is believed of it yet."""
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode=rw", uri=True, timeout=BUSY, isolation_level=None
        )
        try:
            for pragma in ("trusted_schema=OFF", "cell_size_check=ON"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def connect_durably(self) -> sqlite3.Connection:
        """Open the file so that what is committed is on the disk."""
        connection = self.connect()
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise ConfigurationError(
                    f"{self.path} can't have a write-ahead log. Put it on a local disk, not on a network's."
                )
            for pragma in (
                "synchronous=FULL",
                "fullfsync=ON",
                "checkpoint_fullfsync=ON",
                f"journal_size_limit={LARGEST_LOG}",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def prepare(self) -> None:
        """Fill a new file, or judge it; :exc:`ConfigurationError` says what is wrong with it."""
        try:
            self._identify()
            connection = self.connect_durably()
            try:
                (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                if verdict != "ok":
                    raise Damage(verdict)
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as problem:
            raise refusal(self.path, problem) from problem

    def _identify(self) -> None:
        """See that it is a file of ours, before anything is changed in it."""
        connection = self.connect()
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            found = {
                name: sql
                for name, sql in connection.execute("SELECT name, sql FROM sqlite_master")
                if not str(name).startswith("sqlite_")
            }
            if not (found or application or version):
                self._fill(connection)
            elif application != APPLICATION:
                raise ConfigurationError(
                    f"{self.path} is another program's database. Name another file; hubbub makes it."
                )
            elif version != VERSION:
                raise ConfigurationError(
                    f"{self.path} was made by another version of hubbub (format {version}, not {VERSION})."
                )
            elif found != SCHEMA:
                raise ConfigurationError(
                    f"{self.path} has tables, indexes or triggers that hubbub did not make. Remove them."
                )
        finally:
            connection.close()

    def _fill(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.values():
            connection.execute(statement)
        made = {"secret": secrets.token_bytes(32), "life": new_life(), "at": 0.0}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", made.items())
        connection.execute(f"PRAGMA application_id={APPLICATION}")
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")

    def _identified(self) -> tuple[object, object]:
        file, lock = os.stat(self.path), os.stat(self._lock_path)
        return (file.st_dev, file.st_ino), (lock.st_dev, lock.st_ino)

    def _read_mark(self) -> tuple[float, int] | None:
        assert self._lock is not None
        written = os.pread(self._lock, _MARK.size, 0)
        return _MARK.unpack(written) if len(written) == _MARK.size else None

    def _in_use(self, by: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path}, which the setting broker names, is in use by {by}. A file is for one process: "
            "stop that one, name another file, or use a broker that processes share."
        )
