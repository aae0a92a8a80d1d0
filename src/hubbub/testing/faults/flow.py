"""The bytes of one direction of a connection, and the faults on them."""

import asyncio
import random
from collections import deque
from contextlib import suppress
from typing import Protocol, TypeAlias, TypeVar

from .end import End, Mark
from .fault import FOREVER, CloseAfter, Cut, Delay, Direction, Reset, Split, Stall, Throttle

HELD = 256 * 2**10
"""Bytes of one direction from which on no more is read until some have been forwarded."""
FORGOTTEN = 60.0
"""Seconds for which a half-open line is kept whose client or server has closed: as long as Linux keeps it."""
AT_ONCE = 0.02
"""What a throttle lets pass at once, in seconds of its rate."""
TURNS = 2
"""Turns of the event loop between two pieces: one to write, one in which who shares the loop reads."""

Lasting: TypeAlias = Stall | Delay | Throttle | Split | CloseAfter
"""What a flow is under for a while."""
Kind = TypeVar("Kind", bound=Lasting)


class Carrier(Protocol):
    """The connection that a flow belongs to."""

    number: int

    def count(self, direction: Direction, size: int) -> None:
        """Take note of bytes that were passed on."""

    def ended(self, direction: Direction) -> None:
        """Take note that the end of a stream was passed on."""

    def end(self, fault: Cut | Reset) -> None:
        """End the connection."""

    def flow_ended(self, task: asyncio.Task[None]) -> None:
        """Take note that a flow's task is over."""


class Flow:
    """The bytes of one direction, from one end to the other.

    While no fault is on it they are passed on where they arrive, else by a task that ends when none are left.
    """

    def __init__(self, connection: Carrier, source: End, sink: End, direction: Direction) -> None:
        self.forwarded = 0
        """Bytes that were passed on."""
        self.swallows = False
        """Whether nothing is passed on any more."""
        self._connection = connection
        self._source = source
        self._sink = sink
        source.outgoing = sink.incoming = self
        self._direction = direction
        self._random = random.Random(f"{connection.number} {direction}")  # noqa: S311  # the same every time
        self._faults: dict[type[object], tuple[Lasting, float]] = {}
        """Each with the time of the event loop at which it is over."""
        self._closes_at = 0
        self._not_before = 0.0
        """When the next piece may go, for a throttle or a pause."""
        self._held: deque[tuple[float, bytes | Mark]] = deque()
        """What waits, each with the time from which on it may go."""
        self._size = 0
        self._last = 0.0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def feed(self, data: bytes | Mark) -> None:
        """Take what has come from the source."""
        if self.swallows:
            if data is Mark.END:
                self._source.forget_in(FORGOTTEN)
            return
        if not (self._held or self._faults or self._sink.full) and self._sink.made:
            self._pass_on(data)
            self._source.read(not self._sink.full)
            return
        now = asyncio.get_running_loop().time()
        delay = self._fault(Delay, now)
        if delay is not None:
            now += max(0.0, delay.seconds + self._random.uniform(-delay.jitter, delay.jitter))
        self._last = max(self._last, now)  # never before what came before
        self._held.append((self._last, data))
        if isinstance(data, bytes):
            self._size += len(data)
        if self._size >= HELD:
            self._source.read(False)
        if self._task is None:
            self._task = asyncio.create_task(self._forward(), name="hubbub: a flow with faults")
            self._task.add_done_callback(self._connection.flow_ended)

    def apply(self, fault: Lasting) -> None:
        """Put a fault on it, in place of one of the same kind."""
        now = asyncio.get_running_loop().time()
        lasting = fault.seconds if isinstance(fault, Stall) else getattr(fault, "lasting", FOREVER)
        self._faults[type(fault)] = fault, now + lasting
        if isinstance(fault, CloseAfter):
            self._closes_at = self.forwarded + fault.size
        self.go_on()

    def clear(self) -> None:
        """Take the faults off it."""
        self._faults.clear()
        self._held = deque((0.0, data) for _, data in self._held)
        self._not_before = self._last = 0.0
        self.go_on()

    def swallow(self) -> None:
        """Pass nothing on any more."""
        self.swallows = True
        self._held.clear()
        self._size = 0
        self._source.read(True)
        self.go_on()

    def go_on(self) -> None:
        """Look again at what has to be waited for."""
        self._changed.set()
        if self._task is None and not self._sink.full:
            self._source.read(True)

    async def stop(self) -> None:
        """Have its task end."""
        self.swallow()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _fault(self, kind: type[Kind], now: float) -> Kind | None:
        if kind not in self._faults:
            return None
        fault, until = self._faults[kind]
        if until <= now:
            del self._faults[kind]
            return None
        assert isinstance(fault, kind)
        return fault

    def _pass_on(self, data: bytes | memoryview | Mark) -> None:
        if data is Mark.END:
            self._sink.finish()
            self._connection.ended(self._direction)
        elif data is Mark.LOST:
            self._connection.end(Reset())
        elif self._sink.writable:
            self._sink.write(data)
            self.forwarded += len(data)
            self._connection.count(self._direction, len(data))

    async def _forward(self) -> None:
        while self._held:
            _, data = self._held[0]
            if isinstance(data, bytes):
                await self._forward_pieces(memoryview(data))
            elif await self._may_go():
                self._pass_on(data)
            if self._held:  # else it was swallowed meanwhile
                self._held.popleft()
                self._size -= len(data) if isinstance(data, bytes) else 0
                self._source.read(self._size < HELD)
        self._task = None

    async def _forward_pieces(self, data: memoryview) -> None:
        loop = asyncio.get_running_loop()
        while data and await self._may_go():
            now = loop.time()
            split, throttle = self._fault(Split, now), self._fault(Throttle, now)
            closing = self._fault(CloseAfter, now)
            size = len(data)
            if split is not None:
                size = min(size, split.size)
            if throttle is not None:
                size = min(size, max(1, int(throttle.rate * AT_ONCE)))
                # Who wakes late may catch up, but not on a time in which nothing came.
                self._not_before = max(self._not_before, now - AT_ONCE) + size / throttle.rate
            if closing is not None:
                size = min(size, self._closes_at - self.forwarded)
            self._pass_on(data[:size])
            data = data[size:]
            if closing is not None and self.forwarded == self._closes_at:
                self._connection.end(Reset() if closing.reset else Cut())
            elif split is not None:
                self._not_before = max(self._not_before, now + split.pause)
                for _ in range(TURNS):
                    await asyncio.sleep(0)

    async def _may_go(self) -> bool:
        """Wait until the first of what is held may go; return whether it is to go at all."""
        loop = asyncio.get_running_loop()
        while not self.swallows:
            self._changed.clear()
            now = loop.time()
            stall = self._faults[Stall][1] if self._fault(Stall, now) else 0.0
            until = max(self._held[0][0], self._not_before, stall)
            if self._sink.full or not (self._sink.made or self._sink.lost.is_set()) or until == FOREVER:
                await self._changed.wait()
            elif until > now:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._changed.wait()
            else:
                return True
        return False
