"""Sees to it that all rooms are listened to, complete, and not forgotten, whatever servers do."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from .channels import Channels
from .feed import Feed
from .names import Names
from .node import Node
from .publishing import positions_of
from .scripts import HEADS

if TYPE_CHECKING:
    from .rooms import Rooms

TOGETHER = 200
"""Rooms that are asked for their newest position at once."""
ROUND = 600.0
"""Seconds in which every room is looked at once."""
LOOKS = 1.0
"""Seconds between two looks."""


class Repair:
    """Listens anew where a server was away or a room has moved, and looks at the rooms again and again.

    `control` are the channels that are listened to besides.
    """

    def __init__(self, rooms: "Rooms", names: Names, control: tuple[bytes, ...]) -> None:
        self._rooms = rooms
        self._names = names
        self._control = control
        self._control_lines: dict[bytes, Channels] = {}
        self._moved = asyncio.Event()
        self._attaching = asyncio.Lock()
        self._attached_at = -1
        """At which of the servers' changes all rooms were listened to; -1 if some are not."""
        self._round: Iterator[Feed] = iter(())
        self._late: list[tuple[Feed, Position]] = []
        self._canaries: dict[int, Feed] = {}

    def let_go(self, channel: bytes) -> None:
        """Take note that a channel is listened to no more: its slot has moved to another server."""
        self._control_lines.pop(channel, None)
        self._attached_at = -1
        self._moved.set()

    # Servers that are there again, and rooms that moved

    async def ready(self, node: Node) -> None:  # noqa: ARG002
        """Listen on a server that is there (again), and find out what is missing of its rooms."""
        self._attached_at = -1
        await self._attach()

    async def listening(self) -> None:
        """Return when control messages are listened to, as far as there are servers."""
        await self._attach()

    async def _attach(self) -> None:
        """Listen to all that is not listened to on the server where it is now."""
        async with self._attaching:
            if self._attached_at != self._rooms.servers.changes:
                # What changes from here on is for the next time.
                self._attached_at = self._rooms.servers.changes
                try:
                    await self._attach_all()
                except BaseException:
                    self._attached_at = -1
                    raise

    async def _attach_all(self) -> None:
        servers = self._rooms.servers
        for channel in self._control:
            slot = self._names.slot(channel)
            try:
                channels = servers.of(slot).channels
                if self._control_lines.get(channel) is not channels:
                    self._control_lines[channel] = channels
                    refused = await channels.subscribe(channel)
                    if refused is not None:
                        self._control_lines.pop(channel, None)
                        self._attached_at = -1
                        self._rooms.refused(refused)
            except Unavailable:
                # It has its turn when the server is there.
                self._control_lines.pop(channel, None)
        astray = [
            feed
            for feed in self._rooms.feeds.values()
            if feed.joining is None and not self._rooms.has_line(feed)
        ]
        for some in _batches(astray, TOGETHER):
            asked = []
            for feed in some:
                try:
                    channels = servers.of(feed.names.slot).channels
                    future = channels.subscribe(feed.names.head)
                except Unavailable:
                    continue
                self._rooms.fell_behind(feed, fetch=False)
                asked.append((feed, channels, future))
            await asyncio.gather(*(future for *_, future in asked), return_exceptions=True)
            there = []
            for feed, channels, future in asked:
                if future.exception() is not None:
                    continue
                refused = future.result()
                if refused is not None:
                    self._attached_at = -1
                    with suppress(Unavailable):
                        # The others are listened to all the same; this one is tried again.
                        self._rooms.refused(refused)
                elif self._rooms.feeds.get(feed.names.head) is feed:
                    feed.channels = channels
                    there.append(feed)
                elif feed.names.head not in self._rooms.feeds:
                    # It was unsubscribed meanwhile.
                    channels.unsubscribe(feed.names.head)
            await self._compare(there)

    async def _compare(self, feeds: list[Feed]) -> None:
        """Let those go on that have missed nothing, and fetch what the others have."""
        for feed, position in zip(feeds, await self._heads(feeds), strict=True):
            if self._rooms.feeds.get(feed.names.head) is not feed or position is None:
                continue
            if position != feed.position:
                self._rooms.fell_behind(feed)
            elif feed.held is not None and not feed.queued:
                self._rooms.release(feed)

    async def _heads(self, feeds: list[Feed]) -> list[Position | None]:
        """Return the newest position of rooms, None where it can't be known now."""
        servers = self._rooms.servers
        if servers.is_cluster:
            steps = [self._heads_of([feed]) for feed in feeds]
            return list(itertools.chain.from_iterable(await asyncio.gather(*steps)))
        return await self._heads_of(feeds) if feeds else []

    async def _heads_of(self, feeds: list[Feed]) -> list[Position | None]:
        keys = [key for feed in feeds for key in (feed.names.head, feed.names.log, feed.names.members)]
        try:
            reply = await self._rooms.servers.room_step(feeds[0].names.slot, HEADS, keys, ())
        except Unavailable:
            return [None] * len(feeds)
        return positions_of(reply, len(feeds))

    # A look at the rooms

    async def run(self) -> None:
        """See to it again and again that all rooms are listened to, complete, and not forgotten."""
        while True:
            try:
                async with asyncio.timeout(LOOKS):
                    await self._moved.wait()
            except TimeoutError:
                pass
            self._moved.clear()
            try:
                await self._look_once()
            except Unavailable:
                continue
            except Exception:
                logger.exception("error", extra=fields(during="broker"))

    async def _look_once(self) -> None:
        await self._attach()
        for feed in list(self._rooms.held):
            if self._rooms.has_line(feed):
                self._rooms.fell_behind(feed)
        late, self._late = self._late, []
        for feed, position in late:
            if self._rooms.is_live(feed) and feed.epoch == position.epoch and feed.offset < position.offset:
                self._rooms.fell_behind(feed)
        some = self._some()
        if self._has_another_life(some, await self._heads(some)):
            # A server was emptied, or another one took over: not only of these rooms.
            for batch in _batches(
                [feed for feed in self._rooms.feeds.values() if self._rooms.is_live(feed)], TOGETHER
            ):
                self._has_another_life(batch, await self._heads(batch))

    def _has_another_life(self, feeds: list[Feed], positions: list[Position | None]) -> bool:
        """See to rooms whose deliveries are not where they should be; tell whether any has begun anew."""
        found = False
        for feed, position in zip(feeds, positions, strict=True):
            if position is None or not self._rooms.is_live(feed):
                continue
            if position.epoch != feed.epoch or position.offset < feed.offset:
                found = found or position.epoch != feed.epoch
                self._rooms.fell_behind(feed)
            elif position.offset > feed.offset:
                # It may be under way.
                self._late.append((feed, position))
        return found

    def _some(self) -> list[Feed]:
        """Return the rooms whose turn it is, and one of each server."""
        count = max(1, round(len(self._rooms.feeds) * LOOKS / ROUND))
        some = list(itertools.islice(self._round, count))
        if len(some) < count:
            self._round = iter(list(self._rooms.feeds.values()))
            some += itertools.islice(self._round, count - len(some))
        for feed in some:
            self._canaries[id(feed.channels)] = feed
        self._canaries = {
            id(feed.channels): feed for feed in self._canaries.values() if self._rooms.is_live(feed)
        }
        return list(
            dict.fromkeys(
                [feed for feed in some if self._rooms.is_live(feed)] + list(self._canaries.values())
            )
        )


def _batches(feeds: list[Feed], size: int) -> Iterable[list[Feed]]:
    return (feeds[at : at + size] for at in range(0, len(feeds), size))
