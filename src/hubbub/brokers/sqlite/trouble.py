"""What SQLite's errors mean, and what is to be done about them: for the log, and for those who wait."""

import sqlite3
from pathlib import Path

from ...errors import ConfigurationError, Unavailable
from ...observe.log import fields, logger

_NOT_WRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}


class Damage(sqlite3.DatabaseError):
    """What the file holds is not what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class Moved(OSError):
    """The path leads to another file by now."""


def is_damage(problem: BaseException) -> bool:
    """Tell whether an error says that the file is damaged."""
    return _code(problem) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def refusal(path: Path, problem: Exception) -> ConfigurationError:
    """Return what an error at start means."""
    what, remedy = _explained(path, problem)
    return ConfigurationError(f"{path}, which the setting broker names, {what}. {remedy}")


class Trouble:
    """Says once in the log that work on the file fails, and once that it does not any more."""

    def __init__(self, path: Path, during: str) -> None:
        self._path = path
        self._during = during
        self._told: str | None = None

    def began(self, problem: Exception) -> Unavailable:
        """Note a failure; return what those who wait are told: clients too, so not where the file is."""
        what, remedy = _explained(self._path, problem)
        if self._told != what:
            self._told = what
            logger.error(
                "broker unavailable",
                extra=fields(during=self._during, file=str(self._path), because=what, remedy=remedy),
            )
        return Unavailable(f"The file that keeps the rooms {what}.")

    def is_over(self) -> None:
        """Note a success."""
        if self._told is not None:
            self._told = None
            logger.info("broker available", extra=fields(during=self._during, file=str(self._path)))


def _code(problem: BaseException) -> int:
    return int(getattr(problem, "sqlite_errorcode", 0)) & 0xFF


def _explained(path: Path, problem: Exception) -> tuple[str, str]:
    """Return what is wrong with the file, and the remedy."""
    code = _code(problem)
    told = getattr(problem, "sqlite_errorname", None) or getattr(problem, "strerror", None) or "no reason"
    if code == sqlite3.SQLITE_FULL:
        return "lies on a disk that is full", "Make room there; no restart is needed."
    if is_damage(problem):
        what = f"is damaged ({problem})"
        if code == sqlite3.SQLITE_NOTADB:
            what = "is no SQLite database, or its beginning is damaged"
        return what, (
            "Stop hubbub, then restore a backup, or move the file away together with its -wal and -shm: "
            "hubbub makes a new one, and clients are told of the gap."
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "is locked by another program", "End that one, or wait for it."
    if isinstance(problem, Moved):
        return "was moved, replaced or removed", "Put it and its -lock back, or start hubbub anew."
    if not path.parent.is_dir():
        return "lies in a directory that there is not", "Make the directory, or name another file."
    if path.is_dir():
        return "is a directory", "Name a file in it."
    if code in _NOT_WRITABLE or isinstance(problem, PermissionError):
        remedy = "Let the user that runs hubbub write the file and its directory."
        return f"can't be written ({told})", remedy
    return f"can't be read or written ({told})", "Look at the disk, and at the process's limits."
