"""The rooms that a client is in: what arrives for each, in order, once, and within bounds."""

import asyncio
from collections.abc import Callable

from ..errors import RequestFailed
from ..protocol.envelope import Member, Position
from .arrivals import Arrivals, Queue
from .events import Event, Gap, Joined, Left, Received, Refused
from .wire import Arrived, Tongue

_COMINGS: dict[str, Callable[[str, Member], Joined | Left]] = {"$joined": Joined, "$left": Left}


class Membership(Queue):
    """One room, and what of it waits to be yielded.

    `received` is the position of the last message that was taken from the line, which a resume goes on
    from; `position`, where iteration has come to, is at that or before it.
    """

    __slots__ = ("kicked", "name", "received", "returning")

    def __init__(self, arrivals: Arrivals, name: str, position: Position) -> None:
        super().__init__(arrivals)
        self.name = name
        self.received = self.position = position
        self.returning = False
        """Whether the client is joining it again, or waits to do so."""
        self.kicked = False
        """Whether the server has taken the client out of it."""

    @property
    def resumes_from(self) -> Position | None:
        """The position to resume from; None if nothing more can wait, so that a replay would be in vain."""
        return None if self.behind and not self.low else self.received

    def joined(self, position: Position) -> None:
        """Note that from `position` on everything arrives."""
        self.received = position
        self.behind = self.returning = False


class Rooms:
    """The rooms, by name; `limit` events of each can wait.

    Where a queue that somebody iterates over is full, reading stops, so that the server finds the client
    slow and does what the room says. But nobody must wait for what can't be read. While an answer is awaited,
    as `needed` says, or another iteration waits for an event, twice as many are taken in. Past that, or when
    the patience is over, or where nobody iterates, the room falls behind: it drops what arrives, and once
    half of what waited was consumed, it is joined again where it fell behind. `catch_up` is called for that.
    """

    def __init__(
        self, limit: int, needed: Callable[[], bool], catch_up: Callable[[Membership], None]
    ) -> None:
        self.by_name: dict[str, Membership] = {}
        self.inbox: Membership | None = None
        """The inbox of the user who is logged in."""
        self.arrivals = Arrivals(limit, self._taken, self.stir)
        self._nameless = Queue(self.arrivals)
        self._needed = needed
        self._catch_up = catch_up
        self._stirred = asyncio.Event()

    def enter(self, name: str, position: Position) -> Membership:
        """Return the membership in a room; it is new, from `position` on, if there was none."""
        membership = self.by_name.get(name)
        if membership is None:
            membership = self.by_name[name] = Membership(self.arrivals, name, position)
        return membership

    def leave(self, membership: Membership) -> None:
        """Forget a room, and what of it waits."""
        if self.by_name.get(membership.name) is membership:
            del self.by_name[membership.name]
        membership.end(discard=True)
        self.stir()

    def refuse(self, membership: Membership, error: RequestFailed) -> None:
        """Forget a room that the client may not be in any more, and have iteration tell that."""
        if self.by_name.get(membership.name) is membership:
            del self.by_name[membership.name]
            if self.inbox is membership:
                self.inbox = None
            membership.put(Refused(membership.name, error), None)
            membership.end(error)

    def end(self, failure: Exception | None) -> None:
        """Have every iteration end after what waits, with `failure` if that is not None."""
        for queue in (*self.by_name.values(), self._nameless):
            queue.end(failure)
        self.arrivals.end(failure)
        self.stir()

    def stir(self) -> None:
        """Have reading look again whether it has to wait: something has changed."""
        self._stirred.set()

    async def take_in(self, arrived: Arrived, tongue: Tongue, patience: float | None) -> None:
        """Take in a message of the application, or what the protocol says of a room; drop what was seen.

        Where it can't be put, waits for `patience` seconds at the most, or for ever if that is None.
        """
        if arrived.room is None:
            if not arrived.type.startswith("$"):
                await self._put(self._nameless, _received(arrived, tongue), None, patience)
            return
        membership = self.by_name.get(arrived.room)
        if membership is None:
            if arrived.type == "$join":
                self.enter(arrived.room, tongue.data(arrived, Position))
            return
        if arrived.type == "$leave":
            membership.kicked = True
            del self.by_name[membership.name]
            membership.end()
            self.stir()
            return
        if arrived.type == "$kicked":
            membership.kicked = True
            self.refuse(membership, tongue.failure(arrived))
            return
        if membership.behind:
            return
        if arrived.type in _COMINGS:
            for member in tongue.data(arrived, list[Member]):
                await self._put(membership, _COMINGS[arrived.type](membership.name, member), None, patience)
            return
        event, position = _event(arrived, membership, tongue)
        if (
            event is not None
            and await self._put(membership, event, position, patience)
            and position is not None
        ):
            membership.received = position

    async def take_plain(self, message: str | bytes) -> None:
        """Take in a message of a server that is no hubbub; wait until it can be put."""
        await self._put(self._nameless, message, None, None)

    async def _put(
        self, queue: Queue, event: Event, position: Position | None, patience: float | None
    ) -> bool:
        if queue.behind:
            return False
        if queue.full and not (queue.read and await self._may_be_put(queue, patience)):
            queue.behind = True
            return False
        queue.put(event, position)
        return True

    async def _may_be_put(self, queue: Queue, patience: float | None) -> bool:
        try:
            async with asyncio.timeout(patience):
                while queue.full:
                    if self.arrivals.waiting or self._needed():
                        await asyncio.sleep(0)  # so that who takes what is there gets a turn
                        return not queue.overfull
                    self._stirred.clear()
                    await self._stirred.wait()
        except TimeoutError:
            return False
        return True

    def _taken(self, queue: Queue) -> None:
        self.stir()
        if not (queue.behind and queue.low):
            return
        if isinstance(queue, Membership):
            if not queue.returning:
                self._catch_up(queue)
        else:
            queue.behind = False
            queue.put(Gap(None, None), None)


def _received(arrived: Arrived, tongue: Tongue) -> Received:
    return Received(arrived.room, tongue.message(arrived), arrived.type, arrived.sender, arrived.offset)


def _event(arrived: Arrived, membership: Membership, tongue: Tongue) -> tuple[Event | None, Position | None]:
    kind, name, at = arrived.type, membership.name, membership.received
    if not kind.startswith("$"):
        offset = arrived.offset
        if offset is None:
            return _received(arrived, tongue), None
        if offset <= at.offset:
            return None, None
        return _received(arrived, tongue), Position(at.epoch, offset)
    if kind == "$gap":
        position = tongue.data(arrived, Position)
        return Gap(name, position), position
    return None, None
