"""Announcements: ``$joined`` and ``$left``, gathered so that a large room is not flooded with them."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ..brokers.base import Broker, Entry
from ..errors import Unavailable
from ..observe.log import fields, logger
from ..protocol.codecs import UNREADABLE, pack
from ..protocol.envelope import Member, Publication

JOINED = "$joined"
LEFT = "$left"

INTERVAL = 0.1
"""Seconds between two announcements of this instance in one room."""

MOST = 1000
"""Comings and goings of one room that wait for its next announcement; with so many it is due at once."""

LIST_MEMBERS = 250
LIST_BYTES = 65_536
"""What one message may list; more goes into several."""

GROUP = 64
"""Rooms that are announced to at the same time."""

RETRY = 1.0
"""Seconds to wait after the broker could not be reached."""

_unpack_member = msgspec.msgpack.Decoder(Member).decode
_unpack_members = msgspec.msgpack.Decoder(list[Member]).decode


class Change(NamedTuple):
    """Somebody has come or gone; `session` is that of the connection it was, where it is known."""

    kind: str
    member: Member
    session: str | None = None


class _Round:
    """A room to which something was announced not long ago."""

    __slots__ = ("announcing", "changes", "doubtful", "due", "told")

    def __init__(self, due: float) -> None:
        self.due = due
        self.announcing = False
        self.changes: dict[str, Change] = {}
        """What has to be announced, by user."""
        self.doubtful: dict[str, str | None] = {}
        """Users of whom other instances say something else, or may, and what members heard last if known."""
        self.told: Sequence[Change] = ()
        """What was announced last."""


class Announcements:
    """Tells rooms who has come and gone.

    The first change in a room is announced at once. Further ones wait until :data:`INTERVAL` has passed, and
    then go as one list; of who came and went meanwhile nothing is said. What waits may be outdated by
    what another instance announced. That is seen where this one is subscribed to the room, as `subscribed`
    tells; else it may be. In doubt the broker is asked who is there, and what it says is announced.
    """

    def __init__(self, broker: Broker, subscribed: Callable[[str], bool]) -> None:
        self._broker = broker
        self._subscribed = subscribed
        # Asking for the running loop is dear, and it would be done for each who comes or goes.
        self._loop = asyncio.get_running_loop()
        self._rounds: OrderedDict[str, _Round] = OrderedDict()
        """By room, in the order in which they are due."""
        self._woken = asyncio.Event()
        self._away = False

    async def tell(self, room: str, change: Change) -> None:
        """Announce a change, now or with the next ones.

        Raises what publishing raises, only where somebody came; that somebody went is told later then.
        """
        if room in self._rounds:
            self.gather(room, change)
            return
        at_once = self._rounds[room] = _Round(self._loop.time() + INTERVAL)
        at_once.told = (change,)
        at_once.announcing = True
        self._woken.set()
        try:
            await self._publish(room, change.kind, [change])
        except BaseException as problem:
            if change.kind == LEFT:
                self.gather(room, change)
                if isinstance(problem, Unavailable):
                    return
            raise
        finally:
            at_once.announcing = False

    def gather(self, room: str, change: Change) -> None:
        """Announce a change with the next ones."""
        waiting = self._rounds.get(room)
        if waiting is None:
            # Nothing was announced just now: it is due.
            waiting = self._rounds[room] = _Round(0.0)
            self._rounds.move_to_end(room, last=False)
        user = change.member.user
        earlier = waiting.changes.pop(user, None)
        if not self._subscribed(room):
            waiting.doubtful[user] = None
        if earlier is None or earlier.kind == change.kind or user in waiting.doubtful:
            waiting.changes[user] = change
        if len(waiting.changes) >= MOST:
            waiting.due = 0.0
            self._rounds.move_to_end(room, last=False)
        self._woken.set()

    def heard(self, room: str, entry: Entry, publication: Publication) -> None:
        """Take note of what is announced to a room, by any instance."""
        near, kind = self._rounds.get(room), publication.type
        if near is None or kind not in (JOINED, LEFT):
            return
        own = entry.sender == self._broker.instance
        if own and not near.doubtful:
            return  # as it is with nearly all that is heard
        try:
            members = _unpack_members(publication.data)
        except UNREADABLE:
            return  # the members are told of it where it is delivered to them
        told = {change.member.user: change for change in near.told}
        for user in (member.user for member in members):
            change = near.changes.get(user) or told.get(user)
            if own:
                if user in near.doubtful:
                    near.doubtful[user] = kind
            elif change is not None and change.kind != kind:
                near.changes[user] = change
                near.doubtful[user] = kind

    async def run(self) -> None:
        """Announce what is due, for ever."""
        while True:
            await self._until_due()
            try:
                well = await self._announce(self._loop.time())
            except Exception:
                # Nobody would be told of anyone any more.
                logger.exception("error", extra=fields(during="announcing presence"))
                well = False
            if not well:
                await asyncio.sleep(RETRY)

    async def _until_due(self) -> None:
        """Wait until something is due, or has changed."""
        self._woken.clear()
        if not self._rounds:
            await self._woken.wait()
        due = next(iter(self._rounds.values())).due
        if due > self._loop.time():
            timer = self._loop.call_at(due, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()

    async def flush(self) -> bool:
        """Announce all that waits; false if that failed."""
        while any(waiting.changes for waiting in self._rounds.values()):
            if not await self._announce(float("inf")):
                return False
        return True

    async def _announce(self, now: float) -> bool:
        """Announce in the rooms that are due, or in the first ones of them; false if the broker is away."""
        group = []
        for room, waiting in list(_first_due(self._rounds, now)):
            if waiting.changes and not waiting.announcing:
                group.append(self._announce_to(room, waiting))
            elif not waiting.announcing:
                del self._rounds[room]
                continue
            # Also after this announcement the next one has to wait.
            waiting.due = self._loop.time() + INTERVAL
            self._rounds.move_to_end(room)
        if not group:
            await asyncio.sleep(0.01)  # for what is being announced already
        outcomes = await asyncio.gather(*group, return_exceptions=True)
        away = False
        for outcome in outcomes:
            if isinstance(outcome, Unavailable):
                away = True
            elif isinstance(outcome, BaseException):
                logger.error("error", exc_info=outcome, extra=fields(during="announcing presence"))
        if away and not self._away:
            logger.warning("presence", extra=fields(announcing="fails", rooms=len(self._rounds)))
        self._away = away
        return not away

    async def _announce_to(self, room: str, waiting: _Round) -> None:
        changes, doubtful = waiting.changes, waiting.doubtful
        waiting.changes, waiting.doubtful = {}, {}
        waiting.announcing = True
        try:
            if not self._subscribed(room):
                doubtful = dict.fromkeys(changes)
            told = await self._verified(room, changes, doubtful) if doubtful else changes
            waiting.told = list(told.values())
            for kind in (LEFT, JOINED):
                for some in _lists([change for change in waiting.told if change.kind == kind]):
                    await self._publish(room, kind, some)
        except (Unavailable, asyncio.CancelledError):
            # Perhaps some were told, and who was told what is the question then.
            waiting.changes = {**changes, **waiting.changes}
            waiting.doubtful = {**dict.fromkeys(changes), **waiting.doubtful}
            raise
        finally:
            waiting.announcing = False

    async def _verified(
        self, room: str, changes: dict[str, Change], doubtful: dict[str, str | None]
    ) -> dict[str, Change]:
        """Return the changes as the broker has it: who is there has come, who is not has gone."""
        there = await self._broker.members(room)
        verified = {}
        for user, change in changes.items():
            if user not in doubtful:
                verified[user] = change
                continue
            member = read_member(room, user, there[user]) if user in there else change.member
            kind = JOINED if user in there else LEFT
            if member is not None and doubtful[user] != kind:
                verified[user] = Change(kind, member, change.session)
        return verified

    async def _publish(self, room: str, kind: str, changes: list[Change]) -> None:
        # Whoever comes alone is not told of it.
        session = changes[0].session if len(changes) == 1 else None
        data = msgspec.Raw(pack([change.member for change in changes]))
        payload = pack(Publication(kind, data, None, session))
        await self._broker.publish(room, payload, sender=self._broker.instance, key=None, keep=None)


def read_member(room: str, user: str, details: bytes) -> Member | None:
    """Return a member's details as the broker has them; None, and a line in the log, if they are none."""
    try:
        return _unpack_member(details)
    except UNREADABLE:
        logger.warning("error", extra=fields(during="reading a member", room=room, user=user))
        return None


def _first_due(rounds: "OrderedDict[str, _Round]", now: float) -> Iterator[tuple[str, _Round]]:
    announced = 0
    for room, waiting in rounds.items():
        if waiting.due > now or announced == GROUP:
            return
        announced += bool(waiting.changes)
        yield room, waiting


def _lists(changes: list[Change]) -> Iterator[list[Change]]:
    some: list[Change] = []
    size = 0
    for change in changes:
        size += len(pack(change.member))
        if some and (len(some) == LIST_MEMBERS or size > LIST_BYTES):
            yield some
            some, size = [], len(pack(change.member))
        some.append(change)
    if some:
        yield some
