"""`python -m benchmarks.brokers`: publishes a second, on the broker in memory and on the one on a file."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.report import number
from hubbub.brokers.base import Broker, Entry, Retention
from hubbub.brokers.memory import MemoryBroker
from hubbub.brokers.sqlite import SqliteBroker, SqliteStore

KEEP = Retention(1000, 3600.0)
PAGE = 100

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Counter:
    """A receiver that only counts."""

    delivered = 0

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:  # noqa: ARG002
        self.delivered += 1

    def control(self, payload: bytes) -> None:
        raise NotImplementedError


class Load:
    """Publishers that each wait for one publish before the next, in rooms that one instance subscribes to."""

    def __init__(self, broker: Broker, rooms: int, size: int) -> None:
        self._broker = broker
        self._rooms = [f"room/{number}" for number in range(rooms)]
        self._payload = b"x" * size
        self._counter = Counter()
        self._sequence = 0

    async def start(self) -> None:
        await self._broker.start(self._counter)
        for room in self._rooms:
            await self._broker.subscribe(room)

    async def publish(self, *, keyed: bool) -> None:
        self._sequence += 1
        key = f"5f2b7c11d9e04a6f/{self._sequence}/0" if keyed else None
        room = self._rooms[self._sequence % len(self._rooms)]
        await self._broker.publish(room, self._payload, sender="5f2b7c11d9e04a6f", key=key, keep=KEEP)

    async def read(self) -> None:
        self._sequence += 1
        await self._broker.history(self._rooms[self._sequence % len(self._rooms)], None, PAGE)

    async def rate(self, tasks: int, seconds: float, work: Callable[[], Awaitable[None]]) -> float:
        """Return how often a second so many tasks get a work done."""
        done, until = 0, time.perf_counter() + seconds

        async def repeat() -> None:
            nonlocal done
            while time.perf_counter() < until:
                for _ in range(20):
                    await work()
                    done += 1
                await asyncio.sleep(0)

        began, delivered = time.perf_counter(), self._counter.delivered
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(repeat())
        elapsed = time.perf_counter() - began
        if self._counter.delivered - delivered not in (0, done):
            raise AssertionError(f"{done} were published, {self._counter.delivered - delivered} delivered")
        return done / elapsed


async def measure(
    name: str, folder: Path, seconds: float, rooms: int, size: int, tasks: int
) -> dict[str, float]:
    """Return the rates of a broker."""
    broker = MemoryBroker() if name == "memory" else SqliteBroker(SqliteStore(folder / "rooms.db"))
    load = Load(broker, rooms, size)
    await load.start()
    try:
        return {
            f"{tasks} publishers": await load.rate(tasks, seconds, lambda: load.publish(keyed=False)),
            f"{tasks} publishers, with keys": await load.rate(
                tasks, seconds, lambda: load.publish(keyed=True)
            ),
            "one publisher": await load.rate(1, seconds, lambda: load.publish(keyed=False)),
            f"{tasks} readers of {PAGE} messages": await load.rate(tasks, seconds, load.read),
        }
    finally:
        await broker.stop()


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="How many times each broker has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measured window.")] = 5.0,
    tasks: Annotated[int, typer.Option(min=1, help="Publishers at once.")] = 200,
    rooms: Annotated[int, typer.Option(min=1, help="Rooms that they publish to, in turn.")] = 20,
    size: Annotated[int, typer.Option(min=0, help="Bytes of a message.")] = 100,
    folder: Annotated[Path | None, typer.Option(help="Folder on the disk to measure.")] = None,
) -> None:
    """Measure the brokers that need no server, in turns, each with a subscriber of every room."""
    readings: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name in ("memory", "sqlite"):
            with TemporaryDirectory(dir=folder) as made:
                rates = asyncio.run(measure(name, Path(made), seconds, rooms, size, tasks))
            for work, rate in rates.items():
                readings.setdefault(work, {}).setdefault(name, []).append(rate)
    shown = Table(title="A second", title_justify="left", box=SIMPLE)
    shown.add_column("", no_wrap=True)
    for heading in ("memory", "sqlite", "sqlite, lowest to highest"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for work, rates in readings.items():
        sqlite = rates["sqlite"]
        shown.add_row(
            work,
            number(median(rates["memory"])),
            number(median(sqlite)),
            f"{number(min(sqlite))} to {number(max(sqlite))}",
        )
    Console().print(shown)


if __name__ == "__main__":
    app()
