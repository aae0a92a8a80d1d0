"""What the broker tests ask of a driver's engine, and what its deliveries arrive at."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hubbub.brokers.base import Broker, Entry

ARRIVES_WITHIN = 10.0


class Inbox:
    """A receiver that keeps what it was given, in order."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, Entry, str]] = []
        self.controls: list[bytes] = []
        self._arrived = asyncio.Event()

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        self.deliveries.append((room, entry, epoch))
        self._arrived.set()

    def control(self, payload: bytes) -> None:
        self.controls.append(payload)
        self._arrived.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until enough has arrived."""
        async with asyncio.timeout(ARRIVES_WITHIN):
            while not enough():
                self._arrived.clear()
                await self._arrived.wait()

    def of(self, room: str) -> list[Entry]:
        """Return the entries of a room that arrived."""
        return [entry for name, entry, _ in self.deliveries if name == room]

    async def entries(self, room: str, count: int) -> list[Entry]:
        """Wait for `count` entries of a room; return all there are."""
        await self.until(lambda: len(self.of(room)) >= count)
        return self.of(room)


@dataclass
class Instance:
    """One instance that takes part, and what arrives at it."""

    name: str
    broker: Broker
    inbox: Inbox


class Engine(Protocol):
    """A driver's engine under test: all instances that it opens share their rooms.

    Times are in seconds, by the engine's own clock.
    """

    window: float
    lease: float

    async def open(self) -> Instance:
        """Return a new instance, started."""

    async def crash(self, instance: Instance) -> None:
        """End an instance as if its process were killed."""

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for keys, history and leases."""

    async def close(self) -> None:
        """Stop every instance that is left."""
