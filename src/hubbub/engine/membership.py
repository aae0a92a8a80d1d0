"""Memberships: a connection joins rooms, catches up with what it missed, and leaves."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..brokers.base import Entry
from ..errors import Denied, InvalidMessage
from ..observe.log import fields, logger
from ..protocol.codes import ErrorCode
from ..protocol.envelope import Inbox, Member, Position
from .connection import Connection
from .hub import Hub
from .room import Room, Rooms
from .subscriptions import Subscription, chunk_of, gap, publication_of

REPLAY_PAGE = 100
"""Messages asked of the broker at once in a replay."""


def inbox_of(user: str) -> str:
    """Return the name of the room in which messages to a user arrive."""
    return f"$user/{user}"


class Membership:
    """One connection in one room."""

    __slots__ = ("member", "room", "rooms", "subscription", "values")

    def __init__(self, rooms: Rooms, room: Room, values: tuple[str, ...], subscription: Subscription) -> None:
        self.rooms = rooms
        self.room = room
        self.values = values
        self.subscription = subscription
        self.member: Member | None = None
        """As whom the room's presence shows the connection, if it does."""


class Replay:
    """What a member is sent between its last position and the live messages."""

    def __init__(
        self, hub: Hub, connection: Connection, subscription: Subscription, since: Position | None
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._subscription = subscription
        self.begins = since or subscription.position
        """The position after which the member is sent every message."""

    async def run(self) -> None:
        """Send what was missed, in order; then the live feed takes over without gap or repeat.

        What arrives meanwhile is read from history like all the rest: at the moment at which nothing
        between the last message sent and the feed's own position is left, and only then, the connection
        becomes one of those who get the feed.
        """
        connection, subscription = self._connection, self._subscription
        at = self.begins
        while not connection.closing:
            if at == subscription.position:
                subscription.add(connection)
                break
            feed = subscription.position
            reached = await self._page(at)
            if reached == at and feed == subscription.position:
                # History is ahead of the feed, which must not bring again what was read from there.
                await self._until_feed_moves()
            at = reached

    async def _until_feed_moves(self) -> None:
        # Asked for at once, before another task can run and the feed with it.
        moved = self._subscription.moved()
        closed = asyncio.ensure_future(self._connection.wait_closed())
        try:
            await asyncio.wait((moved, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()

    async def _page(self, at: Position) -> Position:
        connection, room = self._connection, self._subscription.name
        page = await self._hub.running.broker.history(room, at, REPLAY_PAGE)
        # History may be ahead of the feed; the feed will bring the rest.
        feed = self._subscription.position
        entries = [
            entry for entry in page.entries if entry.offset is not None and entry.offset <= feed.offset
        ]
        begins = Position(page.position.epoch, page.position.offset - len(page.entries))
        if not page.complete:
            connection.deliver(gap(room, begins))
        for entry in entries:
            self._deliver(entry, page.position.epoch)
            # A page may be more than an outbox holds.
            await connection.outbox.drained()
        if entries:
            return Position(page.position.epoch, entries[-1].offset or 0)
        return begins

    def _deliver(self, entry: Entry, epoch: str) -> None:
        connection = self._connection
        publication = publication_of(entry)
        if connection.closing or connection.form is None or publication.exclude == connection.session:
            return
        chunk = chunk_of(self._subscription.name, epoch, entry, publication, connection.form)
        if chunk is not None:
            connection.outbox.append(*chunk)


class Memberships:
    """The rooms a connection is in. `declared` are the rooms that clients may join."""

    __slots__ = ("_by_name", "_connection", "_declared", "_hub", "_inboxes")

    def __init__(self, hub: Hub, connection: Connection, declared: Sequence[Rooms], inboxes: Rooms) -> None:
        self._hub = hub
        self._connection = connection
        self._declared = declared
        self._inboxes = inboxes
        self._by_name: dict[str, Membership] = {}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    @property
    def joined(self) -> bool:
        """Whether the connection is in any room but the inbox of its user."""
        return any(membership.rooms is not self._inboxes for membership in self._by_name.values())

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
        connection = self._connection
        known = self._by_name.get(name)
        if known is not None:
            connection.outbox.release(name)
            known.subscription.remove(connection)
            return Replay(self._hub, connection, known.subscription, since)
        limit = self._hub.settings.max_rooms
        if len(self._by_name) >= limit:
            raise InvalidMessage(
                f"A connection may be in {limit} rooms; leave one first.", code=ErrorCode.TOO_MANY_ROOMS
            )
        rooms, values = self._find(name)
        room = Room(self._hub, rooms, name, connection)
        if rooms.join_hook is not None:
            await rooms.join_hook(connection, room, None, *values)
        try:
            membership = await self._enter(rooms, room, values)
        except BaseException:
            # Undo what the join hook did. The client is told of this problem, not of one with that.
            with self._logged(room):
                await self._call_leave_hook(rooms, room, values)
            raise
        logger.info("join", extra=fields(connection=connection.id, user=connection.user, room=name))
        return Replay(self._hub, connection, membership.subscription, since)

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
        if membership.member is not None:
            member, membership.member = membership.member, None
            await self._hub.running.presence.leave(membership.room.name, member, self._connection)

    async def rename(self) -> None:
        """Show the connection in its rooms as who it is now."""
        for membership in list(self._by_name.values()):
            shown = membership.member
            if membership.rooms.presence and (shown is None or shown.user != self._connection.name):
                await self._disappear(membership)
                await self._appear(membership)

    async def leave(self, name: str) -> None:
        """Leave a room; :exc:`InvalidMessage` if the connection is not in it."""
        membership = self.of(name)
        if membership.rooms is self._inboxes:
            raise Denied("An inbox can't be left.")
        membership.subscription.remove(self._connection)
        await self._give_back(membership)

    def detach(self) -> None:
        """Have no room deliver to the connection any more: its line is gone."""
        for membership in self._by_name.values():
            membership.subscription.remove(self._connection)

    async def leave_all(self) -> None:
        """Leave every room. What goes wrong in one is logged and does not keep the others."""
        self.detach()
        cancelled: asyncio.CancelledError | None = None
        for membership in list(self._by_name.values()):
            try:
                with self._logged(membership.room):
                    await self._give_back(membership)
            except asyncio.CancelledError as problem:
                cancelled = problem  # one hook took too long; the other rooms are left all the same
        if cancelled is not None:
            raise cancelled

    @contextmanager
    def _logged(self, room: Room) -> Iterator[None]:
        try:
            yield
        except Exception:
            logger.exception(
                "error", extra=fields(connection=self._connection.id, during="leave", room=room.name)
            )

    async def _give_back(self, membership: Membership) -> None:
        connection, room = self._connection, membership.room
        del self._by_name[room.name]
        hub = self._hub.running
        try:
            try:
                await hub.subscriptions.release(membership.subscription)
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
