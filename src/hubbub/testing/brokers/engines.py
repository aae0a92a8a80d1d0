"""What the broker tests ask of a driver's engine, and what its deliveries arrive at."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...brokers.base import Broker, Entry, Retention
from ...protocol.envelope import Position

ARRIVES_WITHIN = 10.0
"""Seconds that a delivery may take before a test fails."""

KEEP = Retention(100, 3600.0)


class Inbox:
    """A receiver (:class:`hubbub.brokers.base.Receiver`) that keeps what it was given, in order."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, Entry, str]] = []
        """Room, entry and epoch of each."""
        self.losses: list[tuple[str, Position]] = []
        """Room and position of each."""
        self.controls: list[bytes] = []
        self._arrived = asyncio.Event()

    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        """Take a room message."""
        self.deliveries.append((room, entry, epoch))
        self._arrived.set()

    def lost(self, room: str, position: Position) -> None:
        """Take note that messages before a position will not come."""
        self.losses.append((room, position))
        self._arrived.set()

    def control(self, payload: bytes) -> None:
        """Take a control message."""
        self.controls.append(payload)
        self._arrived.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until enough has arrived; :exc:`AssertionError` with what did if that takes 10 seconds."""
        try:
            async with asyncio.timeout(ARRIVES_WITHIN):
                while not enough():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            arrived = f"{self.deliveries[-20:]} and {self.controls[-20:]}"
            raise AssertionError(f"This is all that arrived, or the end of it: {arrived}") from None

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

    Times are in seconds, by the engine's own clock. An engine whose time can't be moved gives them small
    values and really waits in :meth:`pass_time`.
    """

    window: float
    """The deduplication window."""
    lease: float
    """Time after which the members of an instance that does not renew are gone."""

    async def open(self) -> Instance:
        """Return a new instance, started with an :class:`Inbox`."""

    async def crash(self, instance: Instance) -> None:
        """End an instance as if its process were killed; the last one's end is the whole program's.

        What is opened after that finds what a durable engine has kept.
        """

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for keys, history and leases."""

    async def close(self) -> None:
        """Stop every instance that is left."""


async def publish(
    instance: Instance,
    payload: bytes,
    *,
    room: str = "room",
    sender: str | None = None,
    key: str | None = None,
    keep: Retention | None = KEEP,
) -> Position:
    """Publish with what a test does not care about filled in."""
    return await instance.broker.publish(room, payload, sender=sender, key=key, keep=keep)


async def payloads(instance: Instance, room: str = "room") -> list[bytes]:
    """Return what history keeps of a room."""
    history = await instance.broker.history(room, None, 1000)
    return [entry.payload for entry in history.entries]
