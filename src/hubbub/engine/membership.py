"""Memberships: a connection joins rooms and leaves them, by itself or not."""

import asyncio
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import NamedTuple

from ..errors import Denied, InvalidMessage, Unavailable
from ..observe.log import fields, logger
from ..protocol.bookmarks import Bookmark
from ..protocol.codes import ErrorCode
from ..protocol.envelope import Envelope, Failure, Inbox, Member, Position
from ..protocol.publications import inbox_of
from .connection import Connection
from .hub import Hub
from .presence import Shown
from .replay import Replay
from .room import Room, Rooms
from .subscriptions import Subscription


class Membership:
    """One connection in one room."""

    __slots__ = ("begins", "ended", "member", "reached", "room", "rooms", "subscription", "values")

    def __init__(self, rooms: Rooms, room: Room, values: tuple[str, ...], subscription: Subscription) -> None:
        self.rooms = rooms
        self.room = room
        self.values = values
        self.subscription = subscription
        self.member: Member | None = None
        """As whom the room's presence shows the connection, if it does."""
        self.ended: Failure | None = None
        """Why the connection was taken out of the room, if it was."""
        self.reached: Position | None = None
        """How far a replay has come; None where the feed is what brings the room's messages."""
        self.begins: Position | None = None
        """After which position its messages came, where the server put the client in and not the client."""


LEFT = Failure(ErrorCode.NOT_JOINED, "The server has taken the client out of the room.", retry=False)

_HOOKS: ContextVar[tuple[object, ...]] = ContextVar("hubbub hooks", default=())
"""The changes of memberships whose hooks the current task is in, or was started by."""

TICKET_LIFE = 0.05
"""The part of a session token's life after which bookmarks get a new one."""


class _Ticket(NamedTuple):
    token: str
    of: tuple[str, int, str | None]
    """The session, the turn and the user that it is of."""
    until: float


class Memberships:
    """The rooms a connection is in. `declared` are the rooms that clients may join."""

    __slots__ = (
        "_by_name", "_changing", "_connection", "_declared", "_entering", "_hub", "_inboxes", "_kicked",
        "_refusal", "_ticket",
    )  # fmt: skip

    def __init__(self, hub: Hub, connection: Connection, declared: Sequence[Rooms], inboxes: Rooms) -> None:
        self._hub = hub
        self._connection = connection
        self._declared = declared
        self._inboxes = inboxes
        self._by_name: dict[str, Membership] = {}
        self._changing: list[asyncio.Future[None]] | None = None
        """Who waits until the change that is under way is over; None if there is none."""
        self._entering: str | None = None
        """The room that is being joined."""
        self._refusal: Failure | None = None
        """Why it may not be joined after all."""
        self._kicked: list[Membership] | None = None
        """What has ended and was not given back yet."""
        self._ticket: _Ticket | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to give back, or may be when what is under way is over."""
        return bool(self._by_name or self._kicked or self._changing is not None)

    @property
    def names(self) -> list[str]:
        """The rooms that the connection is in, but for the inbox."""
        return [name for name, membership in self._by_name.items() if membership.rooms is not self._inboxes]

    def shown(self) -> Iterator[Shown]:
        """Yield the connection as the presence of each of its rooms shows it."""
        for name, membership in self._by_name.items():
            member = membership.member
            if member is not None:
                yield Shown(name, member, self._connection, functools.partial(_shows, membership, member))

    @property
    def joined(self) -> bool:
        """Whether the client has joined any room; its user's inbox is none, nor are :attr:`put`."""
        return any(
            membership.rooms is not self._inboxes and membership.begins is None
            for membership in self._by_name.values()
        )

    @property
    def put(self) -> dict[str, Position]:
        """The rooms that the server put the client in, and the position after which their messages came."""
        return {
            name: membership.begins
            for name, membership in self._by_name.items()
            if membership.begins is not None
        }

    def bookmark(self) -> Bookmark:
        """Return what takes the session up right after all that was delivered in each room."""
        rooms = {
            name: membership.reached or membership.subscription.position
            for name, membership in self._by_name.items()
        }
        return Bookmark(self._token(), rooms)

    def _token(self) -> str:
        """Return the session's token: the last one again, as long as it has most of its life before it."""
        connection, now = self._connection, asyncio.get_running_loop().time()
        of = connection.session, connection.turn, connection.user
        ticket = self._ticket
        if ticket is None or ticket.of != of or now >= ticket.until:
            # Signing one is dearer than all else in a bookmark, which there is for each write to a line.
            until = now + self._hub.settings.session_lifetime * TICKET_LIFE
            ticket = self._ticket = _Ticket(self._hub.sessions.token(connection), of, until)
        return ticket.token

    def of(self, name: str) -> Membership:
        """Return the membership in a room; :exc:`InvalidMessage` if the connection has not joined it."""
        membership = self._by_name.get(name)
        if membership is None:
            raise InvalidMessage(
                f"Join {name!r} first.", [("$.room", "Not joined")], code=ErrorCode.NOT_JOINED
            )
        return membership

    async def join(self, name: str, since: Position | None) -> Replay:
        """Join a room; the replay that is returned brings what came after `since`.

        Joining again is no error: it replays again. Raises :exc:`Denied` if the application refuses,
        :exc:`InvalidMessage` if there is no such room or the connection is in too many.
        """
        await self._begin_change()
        try:
            known = self._by_name.get(name)
            if known is not None:
                self._connection.outbox.release(name)
                known.subscription.remove(self._connection)
                return Replay(self._hub, self._connection, known, since)
            return Replay(self._hub, self._connection, await self._join(name), since)
        finally:
            self._end_change()

    async def put_in(self, name: str) -> Room | None:
        """Put the client into a room, as :meth:`join` does, and tell it; return the room.

        Where the client is in it already, nothing happens. None if the connection is closing.
        """
        await self._begin_own_change()
        connection = self._connection
        try:
            membership = self._by_name.get(name)
            if membership is not None:
                return membership.room
            if connection.lost:
                return None
            membership = await self._join(name)
            if connection.closing:
                return None  # it is left with all the others
            position = membership.begins = membership.subscription.position
            connection.deliver(Envelope("$join", room=name, data=position))
            membership.subscription.add(connection)
            return membership.room
        finally:
            self._end_change()

    async def _join(self, name: str) -> Membership:
        limit = self._hub.settings.max_rooms
        if len(self._by_name) >= limit:
            raise InvalidMessage(
                f"A connection may be in {limit} rooms; leave one first.", code=ErrorCode.TOO_MANY_ROOMS
            )
        rooms, values = self._find(name)
        self._entering, self._refusal = name, None
        try:
            return await self._be_let_in(rooms, Room(self._hub, rooms, name, self._connection), values)
        finally:
            self._entering = None

    async def _be_let_in(self, rooms: Rooms, room: Room, values: tuple[str, ...]) -> Membership:
        connection = self._connection
        if rooms.bans:
            # Whoever is banned after this look is kicked after it, and that is seen below.
            reason = await self._hub.running.bans.of(room.name, connection.name)
            if reason is not None:
                raise InvalidMessage(reason, code=ErrorCode.BANNED)
        if rooms.join_hook is not None:
            with self._in_hook():
                await rooms.join_hook(connection, room, None, *values)
        try:
            membership = await self._enter(rooms, room, values)
        except BaseException:
            # Undo what the join hook did. The client is told of this problem, not of one with that.
            with self._logged(room):
                await self._call_leave_hook(rooms, room, values)
            raise
        logger.info("join", extra=fields(connection=connection.id, user=connection.user, room=room.name))
        if self._refusal is not None:
            with self._logged(room):
                await self._give_back(self._by_name.pop(room.name))
            raise InvalidMessage(self._refusal.message, code=self._refusal.code)
        return membership

    async def join_inbox(self) -> Inbox | None:
        """Join the inbox of the connection's user, if there is one; return where its messages start."""
        connection = self._connection
        if connection.user is None:
            return None
        name = inbox_of(connection.user)
        room = Room(self._hub, self._inboxes, name, connection)
        membership = await self._enter(self._inboxes, room, ())
        membership.subscription.add(connection)
        position = membership.subscription.position
        return Inbox(name, position.epoch, position.offset)

    async def _enter(self, rooms: Rooms, room: Room, values: tuple[str, ...]) -> Membership:
        subscriptions = self._hub.running.subscriptions
        subscription = await subscriptions.subscribe(room.name, rooms.slow)
        membership = Membership(rooms, room, values, subscription)
        try:
            if rooms.presence:
                await self._appear(membership)
        except BaseException:
            await subscriptions.release(subscription)
            raise
        self._by_name[room.name] = membership
        return membership

    async def _appear(self, membership: Membership) -> None:
        member = membership.member = Member(self._connection.name, self._connection.info)
        try:
            await self._hub.running.presence.enter(membership.room.name, member, self._connection)
        except BaseException:
            # Who was told that it failed must not be shown there.
            await self._disappear(membership)
            raise

    async def _disappear(self, membership: Membership) -> None:
        if membership.member is not None and self._hub.runs:
            member, membership.member = membership.member, None
            with suppress(Unavailable):  # presence makes up for it
                await self._hub.running.presence.leave(membership.room.name, member, self._connection)

    async def rename(self) -> None:
        """Show the connection in its rooms as who it is now; it leaves those that this one is banned from."""
        name = self._connection.name
        await self._begin_change()
        try:
            for membership in list(self._by_name.values()):
                if membership.ended is not None:
                    continue
                if membership.rooms.bans:
                    reason = await self._hub.running.bans.of(membership.room.name, name)
                    if reason is not None:
                        self._take_out(membership, Failure(ErrorCode.BANNED, reason, retry=False))
                shown = membership.member
                if membership.rooms.presence and (shown is None or shown.user != name):
                    await self._disappear(membership)
                    if membership.ended is None:
                        await self._appear(membership)
            await self._give_back_kicked()
        finally:
            self._end_change()

    async def leave(self, name: str) -> None:
        """Leave a room; :exc:`InvalidMessage` if the connection is not in it."""
        await self._begin_change()
        try:
            await self._leave(name)
        finally:
            self._end_change()

    async def take_out(self, name: str) -> None:
        """Take the client out of a room, as :meth:`leave` does, and tell it."""
        await self._begin_own_change()
        try:
            await self._leave(name, Envelope("$leave", room=name))
        finally:
            self._end_change()

    async def _leave(self, name: str, told: Envelope | None = None) -> None:
        membership = self.of(name)
        if membership.rooms is self._inboxes:
            raise Denied("An inbox can't be left.")
        del self._by_name[name]
        self._stop(membership, LEFT)
        if told is not None:
            self._connection.deliver(told)
        await self._give_back(membership)

    def _stop(self, membership: Membership, why: Failure) -> None:
        """Have nothing of a room arrive from now on."""
        subscription = membership.subscription
        membership.ended = why
        subscription.remove(self._connection)
        # A replay that waits for the feed, which may come no further, has to see that it is over.
        subscription.advance(subscription.epoch, subscription.offset)

    def kick(self, name: str, failure: Failure) -> bool:
        """Take the connection out of a room, and tell its client why; false if it is not there.

        Nothing of the room arrives from now on. The rest, the leave hook too, is for :meth:`give_back`. A
        join that is under way will be refused.
        """
        if self._entering == name and name not in self._by_name:
            self._refusal = failure
            return True
        membership = self._by_name.get(name)
        if membership is None:
            return False
        self._take_out(membership, failure)
        return True

    def _take_out(self, membership: Membership, failure: Failure) -> None:
        connection = self._connection
        del self._by_name[membership.room.name]
        self._end(membership)
        self._stop(membership, failure)
        connection.deliver(Envelope("$kicked", room=membership.room.name, data=failure))
        logger.info(
            "kick",
            extra=fields(
                connection=connection.id,
                user=connection.user,
                room=membership.room.name,
                code=failure.code,
                reason=failure.message,
            ),
        )

    async def give_back(self) -> None:
        """Leave the rooms that the connection was taken out of. What goes wrong is logged."""
        await self._begin_change()
        self._end_change()

    def detach(self) -> None:
        """Have no room deliver to the connection any more: its line is gone."""
        for membership in self._by_name.values():
            membership.subscription.remove(self._connection)

    async def leave_all(self) -> None:
        """Leave every room. What goes wrong in one is logged and does not keep the others."""
        self.detach()
        if self._entering is not None:
            # Another task puts the client in: it came too late.
            self._refusal = LEFT
        for membership in self._by_name.values():
            self._end(membership)
        self._by_name.clear()
        await self.give_back()

    def _end(self, membership: Membership) -> None:
        if self._kicked is None:
            self._kicked = []
        self._kicked.append(membership)

    async def _begin_change(self) -> None:
        """Wait until no other change is under way, and give back what was taken out of the memberships.

        The session's task makes most changes, whoever kicks the others. It is no lock of asyncio's, as each
        idle connection would hold one.
        """
        while self._changing is not None:
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changing.append(over)
            await over
        self._changing = []
        if self._kicked:
            try:
                await self._give_back_kicked()
            except BaseException:
                self._end_change()
                raise

    async def _begin_own_change(self) -> None:
        """Begin a change as the application asks; :exc:`RuntimeError` where it would wait for itself."""
        if self._changing is not None and any(change is self._changing for change in _HOOKS.get()):
            raise RuntimeError(
                "A hook of a room can't have its own connection join or leave another: the hook is part of a "
                "join or leave, and one has to be over before the next. Do it in the handler, or before."
            )
        await self._begin_change()

    @contextmanager
    def _in_hook(self) -> Iterator[None]:
        reset = _HOOKS.set((*_HOOKS.get(), self._changing))
        try:
            yield
        finally:
            _HOOKS.reset(reset)

    def _end_change(self) -> None:
        waiting, self._changing = self._changing or (), None
        for over in waiting:
            if not over.done():
                over.set_result(None)

    async def _give_back_kicked(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        while self._kicked:
            membership = self._kicked.pop(0)
            try:
                with self._logged(membership.room):
                    await self._give_back(membership)
            except asyncio.CancelledError as problem:
                cancelled = problem  # one hook took too long; the other rooms are left all the same
        self._kicked = None
        if cancelled is not None:
            raise cancelled

    @contextmanager
    def _logged(self, room: Room) -> Iterator[None]:
        try:
            yield
        except Unavailable as problem:
            logger.warning(
                "error",
                extra=fields(
                    connection=self._connection.id, during="leave", room=room.name, reason=str(problem)
                ),
            )
        except Exception:
            logger.exception(
                "error", extra=fields(connection=self._connection.id, during="leave", room=room.name)
            )

    async def _give_back(self, membership: Membership) -> None:
        connection, room = self._connection, membership.room
        try:
            if self._hub.runs:
                # If not, this one is late, and the broker was left with all that there was.
                try:
                    await self._hub.running.subscriptions.release(membership.subscription)
                finally:
                    await self._disappear(membership)
        finally:
            if membership.rooms is not self._inboxes:
                logger.info(
                    "leave", extra=fields(connection=connection.id, user=connection.user, room=room.name)
                )
                await self._call_leave_hook(membership.rooms, room, membership.values)

    async def _call_leave_hook(self, rooms: Rooms, room: Room, values: tuple[str, ...]) -> None:
        if rooms.leave_hook is not None:
            with self._in_hook():
                await rooms.leave_hook(self._connection, room, None, *values)

    def _find(self, name: str) -> tuple[Rooms, tuple[str, ...]]:
        for rooms in self._declared:
            # Names that start with $ are the protocol's own: {kind}/{name} opens no user's inbox.
            values = None if name.startswith("$") else rooms.match(name)
            if values is not None:
                return rooms, values
        raise InvalidMessage(
            f"There is no room {name!r}.", [("$.room", "Unknown")], code=ErrorCode.UNKNOWN_ROOM
        )


def _shows(membership: Membership, member: Member) -> bool:
    return membership.member is member
