"""Groups: each is a room of the broker, which a process follows while it has a channel in it."""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from ...brokers.base import Entry, Retention
from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.codecs import UNREADABLE
from ...protocol.envelope import Position
from .log import Followed
from .records import as_publication, from_publication, unpack

if TYPE_CHECKING:
    from .station import Station

KEPT_FOR_GROUP = 1_000
"""Messages to a group that the broker keeps for as long as messages live."""


class Group(Followed):
    """A group of which this process has channels: it is the feed of the group's room."""

    def __init__(self, station: "Station", name: str) -> None:
        room, self.mapped = station.options.room_of(name)
        super().__init__(station, room)
        self.name = name
        self.channels: dict[str, float] = {}
        """Until when each is in it: seconds of :func:`time.monotonic`."""

    def deliver(self, entry: Entry, epoch: str) -> None:
        """Put a message of the group into the mailboxes of this process's channels."""
        self._spread(entry)
        if entry.offset is not None:
            self._move(Position(epoch, entry.offset))

    def lost(self, position: Position) -> None:
        """Take that messages don't come: at most once; it is logged."""
        self._move(position)

    async def follow(self) -> None:
        """Begin to be brought the group's messages; :exc:`hubbub.Unavailable` if the broker is away."""
        start = await self._station.follow(self.room, self)
        if self._position.epoch != start.epoch or self.is_before(start):
            self._move(start)
        self.followed = True

    def _spread(self, entry: Entry) -> None:
        try:
            message = from_publication(entry.payload) if self.mapped else entry.payload
        except UNREADABLE:
            logger.warning("error", extra=fields(during="channel layer", room=self.room))
            return
        if message is None:
            return
        now = time.monotonic()
        for channel, until in list(self.channels.items()):
            if until > now:
                self._station.receive(channel, message)
            else:
                del self.channels[channel]


class Groups:
    """The groups that this process has channels of its own in."""

    def __init__(self, station: "Station") -> None:
        self._station = station
        self._groups: dict[str, Group] = {}

    async def add(self, name: str, channel: str) -> None:
        """Put a channel of this process into a group."""
        while True:
            group = self._groups.get(name)
            if group is None:
                group = self._groups[name] = Group(self._station, name)
            async with group.lock:
                if self._groups.get(name) is not group:
                    continue  # it was ended while this waited
                if not group.followed:
                    try:
                        await group.follow()
                    except BaseException:
                        del self._groups[name]
                        raise
                group.channels[channel] = time.monotonic() + self._station.options.group_expiry
                return

    async def discard(self, name: str, channel: str) -> None:
        """Take a channel of this process out of a group; nothing if it is not in it."""
        group = self._groups.get(name)
        if group is not None and group.channels.pop(channel, None) is not None and not group.channels:
            with suppress(Unavailable):  # what still comes is for nobody; the next tidying-up tries again
                await self._end(group)

    async def _end(self, group: Group) -> None:
        async with group.lock:
            if group.channels or self._groups.get(group.name) is not group:
                return
            await self._station.leave(group.room)
            del self._groups[group.name]

    async def send(self, name: str, message: bytes) -> None:
        """Send a message to all channels of a group that are a process's own."""
        station = self._station
        room, mapped = station.options.room_of(name)
        if mapped:
            keep = station.options.retention_of(room)
            message = as_publication(unpack(message))
        else:
            keep = Retention(KEPT_FOR_GROUP, station.options.expiry)
        position = await station.broker.publish(room, message, sender=None, key=None, keep=keep)
        group = self._groups.get(name)
        if group is not None and group.followed:
            # Who sends something to one of its channels next has that come after this.
            with suppress(TimeoutError):
                await group.reached(position)

    async def tidy(self, gone: Iterable[str]) -> None:
        """Take out channels that are gone, or whose time in a group is over, and end what is empty."""
        now = time.monotonic()
        lost = frozenset(gone)
        for group in list(self._groups.values()):
            for channel, until in list(group.channels.items()):
                if until <= now or channel in lost:
                    del group.channels[channel]
            if not group.channels and not group.lock.locked():
                await self._end(group)

    def forget_all(self) -> None:
        """Take all channels out of all groups; what is empty is ended with the next tidying-up."""
        for group in self._groups.values():
            group.channels.clear()
