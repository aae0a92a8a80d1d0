"""What has arrived and waits to be yielded: for each room a bounded queue, and all of them in one order.

An event is yielded once, by the iteration that asks first: over its room, or over everything.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count

from ..protocol.envelope import Position
from .events import Event


class _Bell:
    """Wakes those who have nothing to take; `waiting` counts all who need the line to be read."""

    __slots__ = ("_all", "_sleepers")

    def __init__(self, arrivals: "Arrivals") -> None:
        self._all = arrivals
        self._sleepers: list[asyncio.Future[None]] = []

    async def rung(self) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        self._all.waiting += 1
        self._all.on_wait()
        try:
            await sleeper
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                self._all.waiting -= 1

    def ring(self) -> None:
        if self._sleepers:
            # Who is woken counts no more, even before it runs.
            self._all.waiting -= len(self._sleepers)
            for sleeper in self._sleepers:
                if not sleeper.done():
                    sleeper.set_result(None)
            self._sleepers.clear()


class Queue:
    """The events of one room, or of none. `position` is where iteration has come to."""

    __slots__ = ("_all", "_bell", "_ended", "_failure", "_numbers", "_read", "behind", "position")

    def __init__(self, arrivals: "Arrivals") -> None:
        self._all = arrivals
        self._numbers: deque[int] = deque()
        self._bell = _Bell(arrivals)
        self._read = False
        self._ended = False
        self._failure: Exception | None = None
        self.position: Position | None = None
        self.behind = False
        """Whether something was dropped since the queue was full, and has to be fetched again."""

    @property
    def full(self) -> bool:
        """Whether as many events wait as may."""
        return len(self._numbers) >= self._all.limit

    @property
    def overfull(self) -> bool:
        """Whether twice as many events wait as should."""
        return len(self._numbers) >= 2 * self._all.limit

    @property
    def low(self) -> bool:
        """Whether there is room for a good part of what may wait."""
        return 2 * len(self._numbers) <= self._all.limit

    @property
    def read(self) -> bool:
        """Whether anybody has ever iterated over it: what nobody reads need not be waited for."""
        return self._read or self._all.read

    def put(self, event: Event, position: Position | None) -> None:
        """Add an event; `position` is the room's after it, if it moves that."""
        if not self._ended:
            self._numbers.append(self._all.add(self, event, position))
            self._bell.ring()

    def end(self, failure: Exception | None = None, *, discard: bool = False) -> None:
        """Have iteration end after what waits, or with `discard` at once; with `failure` it raises that."""
        if self._ended:
            return
        self._ended, self._failure = True, failure
        if discard:
            self._all.discard(self._numbers)
            self._numbers.clear()
        self._bell.ring()

    async def take(self) -> Event:
        """Return the next event; :exc:`StopAsyncIteration` or the failure after the end."""
        self._read = True
        while not self._numbers:
            if self._ended:
                raise StopAsyncIteration if self._failure is None else self._failure.with_traceback(None)
            await self._bell.rung()
        event, position = self._all.remove(self._numbers[0])
        self.passed(position)
        return event

    def passed(self, position: Position | None) -> None:
        """Note that the first event was taken."""
        self._numbers.popleft()
        if position is not None:
            self.position = position
        self._all.on_taken(self)


class Arrivals:
    """All queues; each holds `limit` events at the most.

    `on_taken` is called with a queue when an event of it was taken, `on_wait` when an iteration begins to
    wait for the next event.
    """

    def __init__(self, limit: int, on_taken: Callable[[Queue], None], on_wait: Callable[[], None]) -> None:
        self.limit = limit
        self.read = False
        """Whether anybody has ever iterated over everything."""
        self.waiting = 0
        """How many iterations wait for an event."""
        self.on_taken = on_taken
        self.on_wait = on_wait
        self._numbers = count()
        self._events: OrderedDict[int, tuple[Queue, Event, Position | None]] = OrderedDict()
        self._bell = _Bell(self)
        self._ended = False
        self._failure: Exception | None = None

    def add(self, queue: Queue, event: Event, position: Position | None) -> int:
        """Keep an event; return its number."""
        number = next(self._numbers)
        self._events[number] = (queue, event, position)
        self._bell.ring()
        return number

    def remove(self, number: int) -> tuple[Event, Position | None]:
        """Take an event out by its number."""
        _, event, position = self._events.pop(number)
        return event, position

    def discard(self, numbers: "deque[int]") -> None:
        """Drop events by their numbers."""
        for number in numbers:
            del self._events[number]

    async def take(self) -> Event:
        """Return the event that arrived first; :exc:`StopAsyncIteration` or the failure after the end."""
        self.read = True
        while not self._events:
            if self._ended:
                raise StopAsyncIteration if self._failure is None else self._failure.with_traceback(None)
            await self._bell.rung()
        _, (queue, event, position) = self._events.popitem(last=False)
        queue.passed(position)
        return event

    def end(self, failure: Exception | None) -> None:
        """Have iteration over everything end after what waits."""
        self._ended, self._failure = True, failure
        self._bell.ring()
