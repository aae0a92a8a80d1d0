"""`python -m benchmarks.brokers`: publishes and reads a second, on each broker."""

import asyncio
import importlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.activity import Watch
from benchmarks.report import RESULTS, number, save
from hubbub.brokers import open_broker
from hubbub.brokers.base import Broker, Entry, Retention
from hubbub.errors import ConfigurationError
from hubbub.protocol.envelope import Position
from hubbub.settings import Settings

KEEP = Retention(1000, 3600.0)
PAGE = 100
ARRIVES_WITHIN = 10.0
"""Seconds for what was published to be delivered as well."""
SERVERS = {"redis": "RedisServer", "rabbitmq": "RabbitServer", "nats": "NatsServer"}
"""The brokers that are servers: the classes of `hubbub.testing.servers` that run private ones."""
OPTIONS: dict[str, dict[str, object]] = {"redis": {"synced": "everysec"}}
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Counter:
    """A receiver that only counts."""

    delivered = 0

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:  # noqa: ARG002
        self.delivered += 1

    def lost(self, room: str, position: Position) -> None:
        raise AssertionError(f"Messages of {room} were lost, up to {position}.")

    def control(self, payload: bytes) -> None:
        raise NotImplementedError


class Load:
    """Publishers that each wait for one publish before the next, in rooms that one instance subscribes to."""

    def __init__(self, broker: Broker, rooms: int, size: int) -> None:
        self._broker = broker
        self._rooms = [f"room/{number}" for number in range(rooms)]
        self._payload = b"x" * size
        self._counter = Counter()
        self._sequence = self._published = 0

    async def start(self) -> None:
        await self._broker.start(self._counter)
        for room in self._rooms:
            await self._broker.subscribe(room)

    async def publish(self, *, keyed: bool) -> None:
        self._sequence += 1
        key = f"5f2b7c11d9e04a6f/{self._sequence}/0" if keyed else None
        room = self._rooms[self._sequence % len(self._rooms)]
        self._published += 1
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

        began, delivered, published = time.perf_counter(), self._counter.delivered, self._published
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(repeat())
        if self._published != published:
            await self._until_delivered(delivered + self._published - published)
        return done / (time.perf_counter() - began)

    async def _until_delivered(self, count: int) -> None:
        """Wait until so many were delivered; no more may be."""
        try:
            async with asyncio.timeout(ARRIVES_WITHIN):
                # An event would cost each delivery something.
                while self._counter.delivered < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        except TimeoutError:
            pass
        if self._counter.delivered != count:
            raise AssertionError(f"{count} were published, {self._counter.delivered} delivered")


@dataclass(frozen=True)
class Place:
    """Where a broker is: its URL, and the process that serves it, if it is a server."""

    url: str
    pid: int | None = None


@asynccontextmanager
async def placed(name: str, folder: Path) -> AsyncIterator[Place]:
    """Start what a broker needs; `name` is one of those in `SERVERS`, `memory`, `sqlite` or a URL."""
    if name == "memory":
        yield Place("memory://")
    elif name == "sqlite":
        yield Place(f"sqlite:///{folder / 'rooms.db'}")
    elif name in SERVERS:
        kind = getattr(importlib.import_module(f"hubbub.testing.servers.{name}"), SERVERS[name])
        async with kind(**OPTIONS.get(name, {})) as server:
            bind(server.pid, min(CORES))
            yield Place(server.url, server.pid)
    else:
        yield Place(name)


def bind(pid: int, core: int) -> None:
    """Have a process that is there already, and what it has started, work on one core only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
        for child in thread.joinpath("children").read_text().split():
            bind(int(child), core)


async def measure(
    name: str, folder: Path, seconds: float, rooms: int, size: int, tasks: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the rates of a broker, and for one that is a server its share of a core meanwhile."""
    async with placed(name, folder) as place:
        broker = open_broker(Settings(broker=place.url))
        load = Load(broker, rooms, size)
        works: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            f"{tasks} publishers": (tasks, lambda: load.publish(keyed=False)),
            f"{tasks} publishers, with keys": (tasks, lambda: load.publish(keyed=True)),
            "one publisher": (1, lambda: load.publish(keyed=False)),
            f"{tasks} readers of {PAGE} messages": (tasks, load.read),
        }
        rates: dict[str, float] = {}
        shares: dict[str, float] = {}
        await load.start()
        try:
            for work, (count, once) in works.items():
                watch = None if place.pid is None else Watch(place.pid, children=True)
                rates[work] = await load.rate(count, seconds, once)
                if watch is not None:
                    shares[work] = watch.activity().working
        finally:
            await broker.stop()
        return rates, shares


@app.command()
def main(
    broker: Annotated[
        list[str] | None,
        typer.Option(
            help=f"memory, sqlite, {', '.join(SERVERS)}, or a URL; may be repeated. By default the first two."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many times each broker has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measured window.")] = 5.0,
    tasks: Annotated[int, typer.Option(min=1, help="Publishers at once.")] = 200,
    rooms: Annotated[int, typer.Option(min=1, help="Rooms that they publish to, in turn.")] = 20,
    size: Annotated[int, typer.Option(min=0, help="Bytes of a message.")] = 100,
    folder: Annotated[Path | None, typer.Option(help="Folder on the disk to measure, for sqlite.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Write the figures to results/brokers/<date>-<name>.json.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder for that.")] = RESULTS / "brokers",
) -> None:
    """Measure brokers in turns, each with a subscriber of every room. Servers are private, with one core."""
    names = list(dict.fromkeys(broker or ("memory", "sqlite")))
    readings: dict[tuple[str, str], list[float]] = {}
    busy: dict[tuple[str, str], list[float]] = {}
    missing: dict[str, str] = {}
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES - {min(CORES)} if set(names) & set(SERVERS) else CORES)
    for _ in range(rounds):
        for engine in (each for each in names if each not in missing):
            with TemporaryDirectory(dir=folder) as made:
                try:
                    rates, shares = asyncio.run(measure(engine, Path(made), seconds, rooms, size, tasks))
                except ConfigurationError as problem:
                    missing[engine] = str(problem)
                    continue
            for work, rate in rates.items():
                readings.setdefault((work, engine), []).append(rate)
            for work, share in shares.items():
                busy.setdefault((work, engine), []).append(share)
    for engine, reason in missing.items():
        Console().print(f"Without {engine}: {reason}", highlight=False, soft_wrap=True)
    shown = Table(title="A second", title_justify="left", box=SIMPLE, pad_edge=False, collapse_padding=True)
    for number_of, heading in enumerate(("", "", "median", "lowest to highest", "server")):
        shown.add_column(heading, justify="right" if number_of > 1 else "left", no_wrap=True)
    for work in dict.fromkeys(work for work, _ in readings):
        for engine in (each for each in names if each not in missing):
            rates, share = readings[work, engine], busy.get((work, engine))
            shown.add_row(
                work,
                engine.partition("://")[0],
                number(median(rates)),
                f"{number(min(rates))} to {number(max(rates))}",
                f"{median(share):.0%}" if share else "",
            )
    Console().print(shown)
    if name is not None:
        works = [
            {
                "work": work,
                "broker": engine.partition("://")[0],
                "rounds": rates,
                "server": busy.get((work, engine)),
            }
            for (work, engine), rates in readings.items()
        ]
        options = {"seconds": seconds, "tasks": tasks, "rooms": rooms, "size": size}
        save(results, name, {"packages": {"hubbub": version("hubbub")}, "options": options, "works": works})


if __name__ == "__main__":
    app()
