"""Members and leases: one record for each member of a room, and one for each instance that takes part."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgspec

from ...errors import Unavailable
from ...observe.log import fields, logger
from ..base import Departure, Renewal
from .records import VERSION, Lease, Member, encode, token
from .streams import Streams, WrongSequence

TRIES = 100
"""How often a record is written anew because another instance was faster."""
PATIENCE = 2.0
"""Seconds after a new connection within which no other lease is ended: NATS was away for the others, too."""
AT_ONCE = 200
"""Records that are read at the same time."""
LOOKED_TWICE = 3.0
"""Leases after its last renewal when an instance's members are looked for once more."""

_decode_member = msgspec.msgpack.Decoder(Member).decode
_decode_lease = msgspec.msgpack.Decoder(Lease).decode

Connections = tuple[tuple[str, str, bytes], ...]


class Presence:
    """Who is in which room, kept for as long as the instance that they are on renews its lease.

    Each change of a record is made only if nobody else changed it meanwhile, so of two instances that see
    a member leave, one has the last connection.
    """

    def __init__(self, streams: Streams, instance: str, lease: float) -> None:
        self._streams = streams
        self._instance = instance
        self._lease = lease
        self._id = ""
        self._sequence = 0
        self._beginning = asyncio.Lock()
        self._patient_until = 0.0
        self._sweeping: set[str] = set()
        self._to_sweep: list[str] = []
        """Records of members that are still to be looked at, for these leases."""
        self._held: dict[tuple[str, str], set[str]] = {}
        self._places: dict[tuple[str, str], tuple[int, Connections]] = {}

    # Leases

    async def begin(self) -> None:
        """Take part from now on, unless that has begun already.

        Nothing is noted with a lease that is not stored: nobody would ever find that it ran out.
        """
        async with self._beginning:
            if not self._id:
                lease = f"{self._instance}.{secrets.token_hex(4)}"
                self._sequence = await self._write_lease(lease, 0)
                self._id = lease

    async def line_is_back(self) -> None:
        """Keep the lease on a new connection, before others find that it ran out while NATS was away."""
        if not self._id:
            await self.begin()
            return
        self._patient_until = asyncio.get_running_loop().time() + PATIENCE
        with suppress(WrongSequence):
            # Otherwise the next renewal finds out what became of it.
            self._sequence = await self._write_lease(self._id, self._sequence)

    async def _write_lease(self, lease: str, expected: int) -> int:
        record = Lease(VERSION, self._instance, self._streams.now())
        return await self._streams.append(self._lease_subject(lease), encode(record), expected)

    def _lease_subject(self, lease: str) -> str:
        return f"{self._streams.prefix}.lease.{token(lease)}"

    async def renew(self) -> Renewal:
        """Keep the lease, and end those that ran out."""
        forgotten = False
        await self._streams.read_clock()
        for _ in range(3):
            try:
                if not self._id:
                    await self.begin()
                else:
                    self._sequence = await self._write_lease(self._id, self._sequence)
                break
            except WrongSequence:
                stored = await self._streams.last(self._streams.members, self._lease_subject(self._id))
                lease = None if stored is None else self._read_lease(stored.data)
                if stored is not None and lease is not None and not lease.gone:
                    # Its own, whose acknowledgement was lost.
                    self._sequence = stored.sequence
                    continue
                # Others took it for gone, or everything is.
                forgotten, self._id = True, ""
                self._held.clear()
                self._places.clear()
        return Renewal(await self._end_those_that_ran_out(), forgotten)

    async def instances(self) -> list[str]:
        """Return the names of those whose lease has not run out."""
        now = self._streams.now()
        taking_part = [
            lease.instance
            for _, _, lease in await self._leases()
            if not lease.gone and lease.time >= now - self._lease
        ]
        # One may have a second lease, where the answer to the first was lost.
        return list(dict.fromkeys(taking_part))

    async def _leases(self) -> list[tuple[str, int, Lease]]:
        pattern = f"{self._streams.prefix}.lease.*"
        found = []
        for subject in await self._streams.subjects(self._streams.members, pattern):
            stored = await self._streams.last(self._streams.members, subject)
            lease = None if stored is None else self._read_lease(stored.data)
            if stored is not None and lease is not None:
                found.append((subject, stored.sequence, lease))
        return found

    def _read_lease(self, data: bytes) -> Lease | None:
        try:
            return _decode_lease(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.warning("broker", extra=fields(broker="nats", during="reading", unreadable="lease"))
            return None

    async def _end_those_that_ran_out(self) -> list[Departure]:
        """Remove the members of instances that are gone, for a part of the lease at most; the rest next time.

        An instance that was taken for gone, and lives, may enter members until it hears of it. So it is
        looked twice, the second time when it must have heard.
        """
        if asyncio.get_running_loop().time() < self._patient_until:
            return []
        now = self._streams.now()
        gone: dict[str, tuple[str, int, Lease]] = {}
        for subject, sequence, lease in await self._leases():
            marked = sequence
            if lease.gone:
                if lease.swept and now < lease.time + LOOKED_TWICE * self._lease:
                    continue
            elif lease.time >= now - self._lease or subject == self._lease_subject(self._id):
                continue
            else:
                # From here on the instance hears that it was taken for gone.
                record = encode(Lease(VERSION, lease.instance, lease.time, gone=True))
                try:
                    marked = await self._streams.append(subject, record, sequence)
                except WrongSequence:
                    continue
            gone[subject.rpartition(".")[2]] = (subject, marked, lease)
        if gone.keys() != self._sweeping:
            self._sweeping = set(gone)
            pattern = f"{self._streams.prefix}.presence.>"
            self._to_sweep = await self._streams.subjects(self._streams.members, pattern) if gone else []
        departures = await self._sweep(lambda lease: token(lease) in gone)
        if not self._to_sweep:
            self._sweeping = set()
            for subject, sequence, lease in gone.values():
                # Last, so that another one goes on where this one is killed before.
                await self._swept(subject, sequence, lease)
        return departures

    async def _sweep(self, is_gone: Callable[[str], bool]) -> list[Departure]:
        """Take the connections of leases out of rooms."""
        departures: list[Departure] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + self._lease / 4
        while self._to_sweep and loop.time() < until:
            subjects = self._to_sweep[-AT_ONCE:]
            found = await asyncio.gather(*(self._remove_from(subject, is_gone) for subject in subjects))
            del self._to_sweep[-AT_ONCE:]
            departures += [departure for departure in found if departure is not None]
        return departures

    async def _swept(self, subject: str, sequence: int, lease: Lease) -> None:
        if lease.swept:
            await self._streams.delete(self._streams.members, sequence)
            return
        record = Lease(VERSION, lease.instance, lease.time, gone=True, swept=True)
        try:
            await self._streams.append(subject, encode(record), sequence)
        except WrongSequence:
            # Another one was faster.
            return

    async def _remove_from(self, subject: str, is_gone: Callable[[str], bool]) -> Departure | None:
        for _ in range(TRIES):
            sequence, record = await self._read(subject)
            if record is None:
                return None
            gone = [connection for connection in record.connections if is_gone(connection[1])]
            left = tuple(connection for connection in record.connections if not is_gone(connection[1]))
            if not gone:
                return None
            if await self._replace(subject, sequence, record, left):
                return None if left else Departure(record.room, record.member, gone[0][2])
        raise Unavailable("Too many instances change the same member's record.")

    # Members

    async def enter(self, room: str, member: str, connection: str, details: bytes) -> bool:
        """Note a connection; tell whether it is the member's first."""
        subject = self._subject(room, member)
        sequence, connections = self._places.get((room, member), (0, ()))
        for _ in range(TRIES):
            # Each time: it may have heard meanwhile that it was taken for gone.
            await self.begin()
            kept = [known for known in connections if known[0] != connection]
            place = next((n for n, known in enumerate(connections) if known[0] == connection), len(kept))
            kept.insert(place, (connection, self._id, details))
            record = Member(VERSION, room, member, tuple(kept))
            self._held.setdefault((room, member), set()).add(connection)
            try:
                stored = await self._streams.append(subject, encode(record), sequence)
            except WrongSequence:
                sequence, found = await self._read(subject)
                connections = found.connections if found is not None else ()
                continue
            self._places[room, member] = (stored, record.connections)
            return len(kept) == 1
        raise Unavailable("Too many instances change the same member's record.")

    async def leave(self, room: str, member: str, connection: str) -> bool:
        """Note that a connection left; tell whether it was the member's last."""
        subject = self._subject(room, member)
        place = self._places.pop((room, member), None)
        for _ in range(TRIES):
            if place is not None:
                sequence, connections = place
                record: Member | None = Member(VERSION, room, member, connections)
                place = None
            else:
                sequence, record = await self._read(subject)
            if record is None or all(known[0] != connection for known in record.connections):
                self._let_go(room, member, connection)
                return False
            left = tuple(known for known in record.connections if known[0] != connection)
            if await self._replace(subject, sequence, record, left):
                self._let_go(room, member, connection)
                return not left
        raise Unavailable("Too many instances change the same member's record.")

    async def members(self, room: str) -> dict[str, bytes]:
        """Return who is in a room, each with the details of their first connection."""
        pattern = f"{self._streams.prefix}.presence.{token(room)}.*"
        subjects = await self._streams.subjects(self._streams.members, pattern)
        found: dict[str, bytes] = {}
        for start in range(0, len(subjects), AT_ONCE):
            chunk = subjects[start : start + AT_ONCE]
            for _, record in await asyncio.gather(*(self._read(subject) for subject in chunk)):
                if record is not None and record.connections and record.room == room:
                    found[record.member] = record.connections[0][2]
        return found

    async def stop(self) -> None:
        """Take this instance's members out of every room, and give the lease back."""
        if not self._id:
            return
        held = [(room, member, name) for (room, member), names in self._held.items() for name in names]
        for start in range(0, len(held), AT_ONCE):
            await asyncio.gather(*(self.leave(*one) for one in held[start : start + AT_ONCE]))
        self._id, lease = "", self._id
        stored = await self._streams.last(self._streams.members, self._lease_subject(lease))
        if stored is not None:
            await self._streams.delete(self._streams.members, stored.sequence)

    def _let_go(self, room: str, member: str, connection: str) -> None:
        names = self._held.get((room, member))
        if names is not None:
            names.discard(connection)
            if not names:
                del self._held[room, member]
        if (room, member) not in self._held:
            # On other instances they may be, who change the record now.
            self._places.pop((room, member), None)

    def _subject(self, room: str, member: str) -> str:
        return f"{self._streams.prefix}.presence.{token(room)}.{token(member)}"

    async def _read(self, subject: str) -> tuple[int, Member | None]:
        stored = await self._streams.last(self._streams.members, subject)
        if stored is None:
            return 0, None
        try:
            return stored.sequence, _decode_member(stored.data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.warning("broker", extra=fields(broker="nats", during="reading", unreadable=subject))
            return stored.sequence, None

    async def _replace(self, subject: str, sequence: int, record: Member, left: Connections) -> bool:
        """Write what is left of a record, or remove it; tell whether nobody else was faster."""
        if not left:
            return await self._streams.delete(self._streams.members, sequence)
        try:
            stored = await self._streams.append(
                subject, encode(Member(VERSION, record.room, record.member, left)), sequence
            )
        except WrongSequence:
            return False
        if (record.room, record.member) in self._held:
            self._places[record.room, record.member] = (stored, left)
        return True
