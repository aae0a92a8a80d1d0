"""A room of the broker as a log: what was kept of it, and then all that comes, in the order that all see."""

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...brokers.base import Entry, Retention
from ...protocol.envelope import Position

if TYPE_CHECKING:
    from .station import Station


class Followed:
    """A room that is followed, and how far its feed has come."""

    def __init__(self, station: "Station", room: str) -> None:
        self.room = room
        self.followed = False
        self.lock = asyncio.Lock()
        self._station = station
        self._position = Position("", 0)
        self._moved = asyncio.Event()

    async def reached(self, position: Position) -> None:
        """Wait until all up to a position was taken; :exc:`TimeoutError` if the broker takes too long."""
        async with asyncio.timeout(self._station.options.timeout):
            while self.is_before(position):
                await self._moved.wait()

    def is_before(self, position: Position) -> bool:
        """Tell whether something up to a position has yet to come."""
        return position.epoch == self._position.epoch and position.offset > self._position.offset

    def _move(self, position: Position) -> None:
        self._position = position
        self._moved.set()
        self._moved = asyncio.Event()


class Log(Followed):
    """It is opened when it is needed. Subclasses say what is to be done with what is in it."""

    def __init__(self, station: "Station", room: str, keep: Retention) -> None:
        super().__init__(station, room)
        self.keep = keep
        self._early: list[Callable[[], None]] | None = None
        """What came while it was looked what there is; None at other times."""

    def take(self, entry: Entry, *, live: bool) -> None:
        """Do what an entry says; `live` is false for what was there when the log was opened."""
        raise NotImplementedError

    def dropped(self) -> None:
        """Take that some of what was before is unknown, and will be."""

    async def open(self) -> None:
        """Follow it, unless it is; :exc:`hubbub.Unavailable` if the broker can't be reached."""
        async with self.lock:
            if not self.followed:
                await self._begin()

    async def _begin(self) -> None:
        early = self._early = []
        try:
            start = await self._station.follow(self.room, self)
            found = await self._station.broker.history(self.room, None, self.keep.count)
            self.dropped()
            if found.position.epoch == start.epoch:
                for entry in found.entries:
                    if entry.offset is not None and entry.offset <= start.offset:
                        self.take(entry, live=False)
            self._move(start)
            self.followed = True
        finally:
            self._early = None
        for event in early:
            event()

    async def close(self) -> None:
        """Follow it no more; :exc:`hubbub.Unavailable` if the broker can't be told."""
        async with self.lock:
            if self.followed:
                await self._station.leave(self.room)
                self.followed = False

    def deliver(self, entry: Entry, epoch: str) -> None:
        """Take an entry from the broker."""
        if self._early is not None:
            self._early.append(functools.partial(self.deliver, entry, epoch))
            return
        if entry.offset is None or (epoch == self._position.epoch and entry.offset <= self._position.offset):
            return
        if epoch != self._position.epoch:
            self.dropped()
        self.take(entry, live=True)
        self._move(Position(epoch, entry.offset))

    def lost(self, position: Position) -> None:
        """Take from the broker that entries up to a position don't come."""
        if self._early is not None:
            self._early.append(functools.partial(self.lost, position))
            return
        self.dropped()
        self._move(position)

    async def publish(self, payload: bytes, key: str | None = None) -> Position:
        """Add an entry, and return its position."""
        return await self._station.broker.publish(self.room, payload, sender=None, key=key, keep=self.keep)
