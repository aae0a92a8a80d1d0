"""The broker on a file, as the conformance suite wants it; and what its tests do to the file."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from hubbub.brokers.sqlite import SqliteBroker, SqliteStore
from hubbub.testing.brokers import Inbox, Instance

HERE = Path(__file__).parent
BEGINS = 1_800_000_000.0


class SqliteEngine:
    """A store on a file, and the hand on its clock."""

    window = 20.5
    lease = 10.0

    def __init__(self, directory: Path) -> None:
        self.now = BEGINS
        self.path = directory / "rooms.db"
        self.instances: list[Instance] = []
        self.crashed: list[str] = []
        self.store = self.make_store()

    def make_store(self) -> SqliteStore:
        return SqliteStore(self.path, window=self.window, lease=self.lease, clock=lambda: self.now)

    async def open(self) -> Instance:
        broker, inbox = SqliteBroker(self.store), Inbox()
        await broker.start(inbox)
        instance = Instance(broker.instance, broker, inbox)
        self.instances.append(instance)
        return instance

    async def crash(self, instance: Instance) -> None:
        self.instances.remove(instance)
        if self.instances:
            self.crashed.append(instance.name)
            return
        # What a kill leaves: the files as they are at this moment.
        left = self.path.parent / f"{self.path.stem}-after"
        left.mkdir()
        for path in self.path.parent.glob(f"{self.path.name}*"):
            shutil.copy(path, left)
        await instance.broker.stop()
        self.path = left / self.path.name
        self.store = self.make_store()

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds

    async def close(self) -> None:
        for instance in self.instances:
            await instance.broker.stop()
        for name in self.crashed:
            await self.store.close(name)


def rows(path: Path, sql: str, *values: object) -> list[tuple]:
    """Ask the file itself, beside the broker."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql, values).fetchall()


def child(script: str, *arguments: object, prefix: list[str] | None = None) -> subprocess.Popen[str]:
    """Run a script of this directory in a process of its own."""
    return subprocess.Popen(
        [*(prefix or []), sys.executable, str(HERE / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
