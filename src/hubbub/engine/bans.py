"""Bans: who may not join which room, until when, as the broker remembers it."""

import msgspec

from ..brokers.base import Broker, Retention
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, pack
from .sessions import wall_time

LONGEST_BAN = 366 * 24 * 3600.0
"""Seconds that a ban may last."""


class _Ban(msgspec.Struct, frozen=True, array_like=True):
    """The newest message in a ban's own room; `until` is Unix time, 0 once the ban was lifted."""

    until: float
    reason: str


_unpack = msgspec.msgpack.Decoder(_Ban).decode


class Bans:
    """Keeps each ban as the one message of a room of its own, for as long as it lasts.

    So all instances know it, and a broker that keeps history keeps it over a restart.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def of(self, room: str, user: str) -> str | None:
        """Return the reason why a user may not join a room now, None if they may."""
        history = await self._broker.history(_room_of(room, user), None, 1)
        for entry in history.entries:
            try:
                ban = _unpack(entry.payload)
            except UNREADABLE:
                logger.warning("error", extra=fields(during="reading a ban", room=room, user=user))
                continue
            if ban.until > wall_time():
                return ban.reason
        return None

    async def set(self, room: str, user: str, seconds: float, reason: str) -> None:
        """Ban a user from a room; it takes the place of a ban that there is."""
        await self._record(room, user, _Ban(wall_time() + seconds, reason), seconds)

    async def lift(self, room: str, user: str) -> None:
        """End a ban; nothing if there is none."""
        await self._record(room, user, _Ban(0, ""), 60.0)  # it has only to take the ban's place

    async def _record(self, room: str, user: str, ban: _Ban, seconds: float) -> None:
        keep = Retention(1, seconds)
        await self._broker.publish(_room_of(room, user), pack(ban), sender=None, key=None, keep=keep)


def _room_of(room: str, user: str) -> str:
    # Both names may have slashes, and no two pairs of them may share a record.
    return f"$ban/{len(room)}/{room}/{user}"
