"""Presence: who is in a room, on any instance."""

import msgspec

from ..brokers.base import Broker, Departure
from ..protocol.codecs import pack
from ..protocol.envelope import Member, Publication
from .connection import Connection

_unpack_member = msgspec.msgpack.Decoder(Member).decode


class Presence:
    """Notes comings and goings at the broker, and announces them to the room as ``$joined`` and ``$left``.

    A user counts once, however many connections they have.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._owed: list[tuple[str, Member, Connection]] = []
        """Those whose leaving could not be told to the broker."""
        self._departed: list[Departure] = []
        """Those whose instance is gone, and whose rooms have not been told."""

    async def enter(self, room: str, member: Member, connection: Connection) -> None:
        """Note that a connection is in the room; announce the user if it is their first."""
        details = pack(member)
        if await self._broker.enter(room, member.user, connection.id, details):
            await self._announce("$joined", room, details, connection.session)

    async def leave(self, room: str, member: Member, connection: Connection) -> None:
        """Note that a connection left; announce it if it was the user's last.

        What the broker can't be told now it is told with the next renewal.
        """
        try:
            last = await self._broker.leave(room, member.user, connection.id)
        except BaseException:
            self._owed.append((room, member, connection))
            raise
        if last:
            await self._announce("$left", room, pack(member), connection.session)

    async def members(self, room: str) -> list[Member]:
        """Return who is in the room."""
        found = await self._broker.members(room)
        return [_unpack_member(details) for details in found.values()]

    async def renew(self) -> None:
        """Keep the members of this instance; announce the end of those whose instance is gone."""
        # First of all: the rest may take long, or fail, and the lease must not run out meanwhile.
        self._departed += await self._broker.renew()
        while self._departed:
            departure = self._departed[-1]
            await self._announce("$left", departure.room, departure.details, None)
            self._departed.pop()
        owed, self._owed = self._owed, []
        while owed:
            try:
                await self.leave(*owed.pop())
            except BaseException:
                self._owed += owed
                raise

    async def _announce(self, kind: str, room: str, details: bytes, session: str | None) -> None:
        payload = pack(Publication(kind, msgspec.Raw(details), None, session))
        await self._broker.publish(room, payload, sender=session, key=None, keep=None)
