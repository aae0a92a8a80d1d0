"""Presence: who is in a room, on any instance."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import NamedTuple

from ..brokers.base import Broker
from ..errors import Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import pack
from ..protocol.envelope import Member
from .announcements import JOINED, LEFT, Announcements, Change, read_member
from .connection import Connection

GROUP = 64
"""Calls that are made to the broker at the same time."""

MAX_OWED = 100_000
"""Leaves remembered while the broker is away. Who leaves after these is shown until the instance stops."""

FLUSHED_WITHIN = 2.0
"""Seconds within which a stopping instance announces what waits."""


class Shown(NamedTuple):
    """A connection that a room's presence shows; `still` tells whether it does yet."""

    room: str
    member: Member
    connection: Connection
    still: Callable[[], bool]


class Presence:
    """Notes comings and goings at the broker, and has them announced to the room.

    A user counts once, however many connections they have. `shown` returns all connections of this
    instance that are shown, room by room.
    """

    def __init__(
        self, broker: Broker, subscribed: Callable[[str], bool], shown: Callable[[], Iterable[Shown]]
    ) -> None:
        self._broker = broker
        self._shown = shown
        self._announcements = Announcements(broker, subscribed)
        self.heard = self._announcements.heard
        self._owed: dict[tuple[str, str, str], Member] = {}
        """Those whose leaving could not be told to the broker, by room, user and connection."""
        self._late: dict[tuple[str, str, str], asyncio.Future[None]] = {}
        """Those whose leaving it is being told late; done once that is over."""
        self._forgotten = False
        """Whether the broker has lost this instance's members."""
        self._tasks: list[asyncio.Task[None]] = []
        self._due = asyncio.Event()

    def start(self) -> None:
        """Announce, and make up for what the broker could not be told, from now on."""
        self._tasks = [
            asyncio.create_task(self._announcements.run(), name="hubbub: presence announcements"),
            asyncio.create_task(self._make_up(), name="hubbub: presence repair"),
        ]

    async def stop(self) -> None:
        """Announce what waits, if the broker can be reached."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.error("error", exc_info=outcome, extra=fields(during="presence"))
        try:
            async with asyncio.timeout(FLUSHED_WITHIN):
                await self._announcements.flush()
        except TimeoutError:
            logger.warning("presence", extra=fields(announcing="fails", during="stop"))

    async def enter(self, room: str, member: Member, connection: Connection) -> None:
        """Note that a connection is in the room; announce the user if it is their first."""
        if await self._enter(room, member, connection):
            await self._announcements.tell(room, Change(JOINED, member, connection.session))

    async def _enter(self, room: str, member: Member, connection: Connection) -> bool:
        key = (room, member.user, connection.id)
        self._owed.pop(key, None)
        if key in self._late:
            # A broker may do what comes at the same time in any order, and this has to come after.
            await asyncio.wait((self._late[key],))
            self._owed.pop(key, None)
        return await self._broker.enter(room, member.user, connection.id, pack(member))

    async def leave(self, room: str, member: Member, connection: Connection) -> None:
        """Note that a connection left; announce it if it was the user's last.

        What the broker can't be told now it is told after the next renewal.
        """
        await self._leave(room, member, connection.id, connection.session)

    async def _leave(self, room: str, member: Member, connection: str, session: str | None) -> None:
        try:
            last = await self._broker.leave(room, member.user, connection)
        except BaseException:
            self._owe(room, member, connection)
            raise
        if last:
            await self._announcements.tell(room, Change(LEFT, member, session))

    def _owe(self, room: str, member: Member, connection: str) -> None:
        if len(self._owed) < MAX_OWED:
            self._owed[room, member.user, connection] = member
            if len(self._owed) == MAX_OWED:
                logger.warning("presence", extra=fields(owed=MAX_OWED, more="are forgotten"))

    async def members(self, room: str) -> list[Member]:
        """Return who is in the room; whose details can't be read is left out."""
        found = await self._broker.members(room)
        members = (read_member(room, user, details) for user, details in found.items())
        return [member for member in members if member is not None]

    async def renew(self) -> bool:
        """Keep the members of this instance; have the end of those announced whose instance is gone.

        Returns whether the broker has lost this instance's members, and perhaps all that it knew.
        """
        renewal = await self._broker.renew()
        for departure in renewal.departures:
            member = read_member(departure.room, departure.member, departure.details)
            if member is not None:
                self._announcements.gather(departure.room, Change(LEFT, member))
        if renewal.forgotten:
            self._forgotten = True
        if self._owed or self._forgotten:
            self._due.set()
        return renewal.forgotten

    async def _make_up(self) -> None:
        # Not in the task that renews: with many members it may take longer than the lease.
        told = False
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.make_up()
                told = False
            except Unavailable as problem:
                # Each renewal tries again.
                if not told:
                    logger.warning("presence", extra=fields(during="repair", problem=str(problem)))
                told = True
            except Exception:
                logger.exception("error", extra=fields(during="presence repair"))

    async def make_up(self) -> None:
        """Tell the broker who left while it was away, and who is here that it has lost."""
        owed = dict(self._owed)
        await _in_groups(self._leave_late(*key, member) for key, member in owed.items())
        if self._forgotten:
            self._forgotten = False
            try:
                count = await _in_groups(self._enter_again(shown) for shown in list(self._shown()))
            except BaseException:
                self._forgotten = True
                raise
            logger.info("presence", extra=fields(entered_again=count))

    async def _leave_late(self, room: str, user: str, connection: str, member: Member) -> None:
        # Who has come again meanwhile owes nothing any more.
        key = (room, user, connection)
        if self._owed.pop(key, None) is not None:
            over = self._late[key] = asyncio.get_running_loop().create_future()
            try:
                await self._leave(room, member, connection, None)
            finally:
                del self._late[key]
                over.set_result(None)

    async def _enter_again(self, shown: Shown) -> None:
        if not shown.still():
            return
        try:
            if await self._enter(shown.room, shown.member, shown.connection):
                # Whatever becomes of it: another time it would not be their first connection any more.
                change = Change(JOINED, shown.member, shown.connection.session)
                self._announcements.gather(shown.room, change)
        finally:
            if not shown.still():
                # It left while it was being entered, perhaps also where that failed.
                await self.leave(shown.room, shown.member, shown.connection)


async def _in_groups(calls: Iterable[Awaitable[None]]) -> int:
    """Wait for calls, some at a time; return how many, or raise the first problem once its group is done."""
    count = 0
    remaining = iter(calls)
    while group := list(islice(remaining, GROUP)):
        outcomes = await asyncio.gather(*group, return_exceptions=True)
        count += len(outcomes)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
    return count
