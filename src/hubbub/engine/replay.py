"""Replays: a member catches up with what it missed, until the live feed takes over."""

import asyncio
from typing import TYPE_CHECKING

from ..brokers.base import Entry
from ..errors import Unavailable
from ..protocol.envelope import Failure, Position
from .connection import Connection
from .hub import Hub
from .subscriptions import chunk_of, gap, publication_of

if TYPE_CHECKING:
    from .membership import Membership

REPLAY_PAGE = 100
"""Messages asked of the broker at once in a replay."""


class Replay:
    """What a member is sent between its last position and the live messages."""

    def __init__(
        self, hub: Hub, connection: Connection, membership: "Membership", since: Position | None
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._membership = membership
        self._subscription = membership.subscription
        self.begins = since or membership.subscription.position
        """The position after which the member is sent every message."""
        membership.reached = self.begins

    async def run(self) -> None:
        """Send what was missed, in order; then the live feed takes over without gap or repeat.

        What arrives meanwhile is read from history like all the rest: at the moment at which nothing
        between the last message sent and the feed's own position is left, and only then, the connection
        becomes one of those who get the feed.
        """
        connection, subscription = self._connection, self._subscription
        at = self.begins
        while not self.ended:
            if at == subscription.position:
                subscription.add(connection)
                self._membership.reached = None
                break
            feed = subscription.position
            reached = await self._page(at)
            if reached == at and feed == subscription.position:
                # History is ahead of the feed, which must not bring again what was read from there.
                await self._until_feed_moves()
            at = self._membership.reached = reached
            if at != subscription.position:
                await asyncio.sleep(0)  # others have their turns in a long replay

    @property
    def ended(self) -> bool:
        """Whether there is nobody in the room any more to send it to."""
        return self._connection.closing or self._membership.ended is not None

    @property
    def refusal(self) -> Failure | None:
        """Why its member was taken out of the room meanwhile, if that was so."""
        return self._membership.ended

    async def _until_feed_moves(self) -> None:
        # Asked for at once, before another task can run and the feed with it.
        moved = self._subscription.moved()
        closed = asyncio.ensure_future(self._connection.wait_closed())
        patience = self._hub.settings.broker_timeout
        try:
            done, _ = await asyncio.wait(
                (moved, closed), timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            closed.cancel()
        if not done:
            # The engine is in trouble: it can tell history, and not bring what is in it.
            raise Unavailable(f"The broker did not bring what was published within {patience:g} s.")

    async def _page(self, at: Position) -> Position:
        connection, room = self._connection, self._subscription.name
        page = await self._hub.running.broker.history(room, at, REPLAY_PAGE)
        # History may be ahead of the feed; the feed will bring the rest.
        feed = self._subscription.position
        entries = [
            entry for entry in page.entries if entry.offset is not None and entry.offset <= feed.offset
        ]
        begins = Position(page.position.epoch, page.position.offset - len(page.entries))
        if not page.complete and not self.ended:
            self._membership.reached = begins
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
        chunk = None
        if not self.ended and connection.form is not None and publication.exclude != connection.session:
            chunk = chunk_of(self._subscription.name, epoch, entry, publication, connection.form)
        # Where much waits, it is written at once, and what takes the session up behind it with it.
        self._membership.reached = Position(epoch, entry.offset or 0)
        if chunk is not None:
            connection.outbox.append(*chunk)
