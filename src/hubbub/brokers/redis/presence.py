"""Who is in which room, and whose instance is gone.

An instance that takes part does so as an *owner*: its name and a number, a new one whenever it was taken for
gone, so that what is removed of the old one is never what it has entered since. What has to be removed is
known from a list of the owner's rooms, in which a room is noted before somebody is entered there.
"""

import asyncio

from ...errors import Unavailable
from ..base import Departure, Renewal
from .names import Names, decoded, encoded
from .replies import Reply
from .scripts import ENTER, LEAVE, MEMBERS, NOTE, REMOVE, RENEW
from .servers import Servers

NEW, USUAL, PATIENT = b"new", b"usual", b"patient"
"""How a lease is renewed: as a new one, with a look at the others', or without one."""
ROOMS_TOGETHER = 200
"""Rooms of an owner who is gone that are seen to at once."""
MEMBERS_KEPT = 3600.0
"""Seconds that a room's members are kept after anybody looked at the room (see :data:`.scripts.HEADS`)."""


class Presence:
    """The members of one instance, and what it does for the others'. `lease` is in seconds."""

    def __init__(self, servers: Servers, names: Names, instance: str, lease: float) -> None:
        self._servers = servers
        self._names = names
        self._instance = encoded(instance)
        self._lease = lease
        self._slot = names.slot(names.leases)
        self._number = 0
        self._owner: bytes | None = None
        self._renewed_at = 0.0
        self._forgotten = False
        self._rooms: dict[str, dict[tuple[str, str], object]] = {}
        """The rooms that are noted, and whom we entered there on which connection, by what call."""
        self._doubtful: dict[tuple[str, str, str], None] = {}
        """Whom we may have entered, without an answer."""
        self._departed: list[Departure] = []
        self._taking_part = asyncio.Lock()

    async def take_part(self) -> bytes:
        """Return the owner that we are, a new one if there is none."""
        async with self._taking_part:
            if self._owner is None:
                self._number += 1
                owner = b"%b.%d" % (self._instance, self._number)
                await self._renew(owner, NEW)
                key = self._names.owner(owner)
                await self._servers.ask(self._names.slot(key), b"SADD", key, b"")
                self._owner = owner
            return self._owner

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note that a member is in the room on a connection; tell whether it is the member's first."""
        names = self._names.room(room)
        while True:
            owner = await self.take_part()
            if room in self._rooms:
                break
            key = self._names.owner(owner)
            if await self._servers.step(self._names.slot(key), NOTE, [key], encoded(room)) == 1:
                if self._owner == owner:
                    self._rooms.setdefault(room, {})
                    break
            else:
                self._lost_lease(owner)
        held = self._rooms[room]
        call = held[member, connection] = object()
        self._doubtful.pop((room, member, connection), None)
        try:
            reply = await self._servers.step(
                names.slot, ENTER, [names.members], encoded(member), encoded(connection), owner, details
            )
        except BaseException:
            # Nobody may take out whom a later call has entered.
            if self._rooms.get(room, {}).get((member, connection)) is call:
                self._doubtful[room, member, connection] = None
            raise
        return reply == 1

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection of a member left; tell whether it was the member's last."""
        names = self._names.room(room)
        call = self._rooms.get(room, {}).get((member, connection))
        reply = await self._servers.step(
            names.slot, LEAVE, [names.members], encoded(member), encoded(connection)
        )
        held = self._rooms.get(room, {})
        if call is not None and held.get((member, connection)) is call:
            # Otherwise it has been entered again meanwhile.
            del held[member, connection]
            self._doubtful.pop((room, member, connection), None)
        return reply == 1

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in the room, each with the details of their first connection."""
        names = self._names.room(room)
        return dict(_pairs(await self._servers.step(names.slot, MEMBERS, [names.members])))

    async def instances(self) -> list[str]:
        """Return the names of the instances that take part, as far as leases tell."""
        reply = await self._servers.ask(self._slot, b"ZRANGE", self._names.leases, b"0", b"-1")
        return list(dict.fromkeys(decoded(owner.rpartition(b".")[0]) for owner in _words(reply)))

    async def renew(self) -> Renewal:
        """Keep this instance's members; remove the members of those whose lease ran out."""
        owner = await self.take_part()
        now = asyncio.get_running_loop().time()
        # After that long, what Redis kept of our members may have expired.
        gone = None if now - self._renewed_at > MEMBERS_KEPT / 2 else await self._renew(owner, self._mode())
        if gone is None:
            self._lost_lease(owner)
            # What was entered after it was taken for gone is removed too.
            await self._servers.ask(self._slot, b"ZADD", self._names.gone, b"0", owner)
            owner = await self.take_part()
            gone = await self._renew(owner, self._mode()) or []
        try:
            for other in gone:
                await self._remove(other)
            await self._tidy(owner)
        except Unavailable:
            # What could not be removed now is ours for another lease, and then somebody else's.
            if not self._departed and not self._forgotten:
                raise
        departures, self._departed = self._departed, []
        forgotten, self._forgotten = self._forgotten, False
        return Renewal(departures, forgotten)

    async def stop(self) -> None:
        """Take this instance out of every room."""
        owner, self._owner = self._owner, None
        if owner is not None:
            await self._remove(owner)
            await self._servers.ask(self._slot, b"ZREM", self._names.leases, owner)

    def _mode(self) -> bytes:
        """Return whether others whose lease ran out are to be taken for gone: not after an outage.

        Nobody could renew meanwhile, so all are given the length of a lease to do so.
        """
        returned_at = self._servers.of(self._slot).returned_at
        now = asyncio.get_running_loop().time()
        return USUAL if returned_at is None or now - returned_at > self._lease else PATIENT

    async def _renew(self, owner: bytes, mode: bytes) -> list[bytes] | None:
        """Renew a lease; return whose members are to be removed, or None if it was taken for gone."""
        reply = await self._servers.step(
            self._slot,
            RENEW,
            [self._names.leases, self._names.gone],
            owner,
            b"%d" % max(1, round(self._lease * 1000)),
            mode,
        )
        if not isinstance(reply, list) or reply[:1] != [1]:
            return None
        self._renewed_at = asyncio.get_running_loop().time()
        return _words(reply[1:])

    def _lost_lease(self, owner: bytes) -> None:
        if self._owner == owner:
            self._owner = None
            self._forgotten = True
            self._rooms.clear()
            self._doubtful.clear()

    async def _remove(self, owner: bytes) -> None:
        """Remove an owner's members from all rooms, and then the owner."""
        key = self._names.owner(owner)
        slot = self._names.slot(key)
        # From now on no more rooms are noted.
        await self._servers.ask(slot, b"SREM", key, b"")
        while rooms := _words(await self._servers.ask(slot, b"SRANDMEMBER", key, b"%d" % ROOMS_TOGETHER)):
            removals = [self._remove_from(room, owner) for room in rooms]
            problems = await asyncio.gather(*removals, return_exceptions=True)
            done = [room for room, problem in zip(rooms, problems, strict=True) if problem is None]
            if done:
                await self._servers.ask(slot, b"SREM", key, *done)
            for problem in filter(None, problems):
                raise problem
        await self._servers.ask(self._slot, b"ZREM", self._names.gone, owner)

    async def _remove_from(self, encoded_room: bytes, owner: bytes) -> None:
        room = decoded(encoded_room)
        names = self._names.room(room)
        departed = names.departed(owner)
        reply = await self._servers.step(names.slot, REMOVE, [names.members, departed], owner)
        if found := [Departure(room, member, details) for member, details in _pairs(reply)]:
            self._departed += found
            await self._servers.ask(names.slot, b"DEL", departed)

    async def _tidy(self, owner: bytes) -> None:
        """Take out who may have been entered, and forget rooms where nobody of ours is."""
        for room, member, connection in list(self._doubtful):
            if (room, member, connection) in self._doubtful:
                await self.leave(room, member, connection)
        empty = [room for room, held in self._rooms.items() if not held]
        for room in empty:
            del self._rooms[room]
        if empty:
            key = self._names.owner(owner)
            await self._servers.ask(self._names.slot(key), b"SREM", key, *map(encoded, empty))
            # Where a step had to be tried again, the note of who entered meanwhile may have come before.
            again = [encoded(room) for room in empty if room in self._rooms]
            if again:
                await self._servers.step(self._names.slot(key), NOTE, [key], *again)


def _words(reply: Reply) -> list[bytes]:
    return [word for word in reply if isinstance(word, bytes)] if isinstance(reply, list) else []


def _pairs(reply: Reply) -> list[tuple[str, bytes]]:
    words = _words(reply)
    return [(decoded(member), details) for member, details in zip(words[::2], words[1::2], strict=True)]
