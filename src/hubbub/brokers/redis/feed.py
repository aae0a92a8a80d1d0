"""One room of an instance: how far its deliveries are, and a page of what its log has."""

import asyncio
from collections import deque

from ...errors import Unavailable
from ...protocol.envelope import Position
from ..base import Entry
from .channels import Channels
from .names import RoomNames
from .replies import Reply


class Page:
    """What a room's log has: entries with their offsets, and what they follow."""

    def __init__(self, reply: Reply) -> None:
        if not isinstance(reply, list) or not reply or not isinstance(reply[0], bytes):
            raise Unavailable("Redis gave no answer that can be read.")
        epoch, newest, start, complete = reply[0].split(b" ")
        self.epoch = epoch.decode("ascii")
        self.newest = int(newest)
        self.start = int(start)
        self.complete = complete == b"1"
        self.bodies = [
            (int(identity.partition(b"-")[0]), body)
            for identity, body in zip(reply[1::2], reply[2::2], strict=True)
            if isinstance(identity, bytes) and isinstance(body, bytes)
        ]


class Feed:
    """A room that this instance is subscribed to, and how far its deliveries are."""

    __slots__ = ("channels", "epoch", "held", "joining", "names", "offset", "overflown", "queued", "room")

    def __init__(self, room: str, names: RoomNames) -> None:
        self.room = room
        self.names = names
        self.epoch = ""
        self.offset = 0
        self.channels: Channels | None = None
        """The line over which it comes."""
        self.held: deque[tuple[str, Entry]] | None = deque()
        """What waits, if something may be missing before it."""
        self.overflown = False
        self.queued = False
        self.joining: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    @property
    def position(self) -> Position:
        """Where its deliveries are."""
        return Position(self.epoch, self.offset)
