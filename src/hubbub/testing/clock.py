"""A clock under test control: time stands still, and moves when the test says so."""

import asyncio
import time
from asyncio import SelectorEventLoop
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from selectors import BaseSelector, SelectorKey
from typing import Self

import anyio.to_thread

from ..errors import ConfigurationError

SETTLES_WITHIN = 10.0
"""Real seconds in which what has become due has to come to rest."""

THREADS_WITHIN = 1.0
"""Real seconds for which an advance waits for handlers that run in threads."""

RESOLUTION = 1e-9
"""Seconds by which sums of times may differ; asyncio's loops run timers that much too early."""

Events = list[tuple[SelectorKey, int]]


class Clock:
    """The time of an event loop, in the hands of a test.

    From :meth:`freeze` on the loop's time stands still, and with it all that is measured by it: time-outs and
    `asyncio.sleep`, and in hubbub heartbeats, leases, back-off, the age of history in ``memory://``, the
    deduplication window and the life of session tokens. :meth:`advance` lets it pass, in an instant.

    It moves neither `time.time` and `time.monotonic`, nor other processes, nor what ``sqlite://`` has on
    disk. It needs asyncio's own event loop.
    """

    def __init__(self) -> None:
        self._loop: SelectorEventLoop | None = None
        self._now = 0.0
        self._until = 0.0
        self._select: Callable[[float | None], Events]
        self._arrival: asyncio.Future[None] | None = None
        self._settled_by = 0.0
        self._threads_until = 0.0
        self._threads: Callable[[], int] = int
        self._alarms: set[_Alarm] = set()

    # What a test does

    def freeze(self) -> None:
        """Have the running loop's time stand still; nothing if it does already.

        Raises :exc:`ConfigurationError` where the loop is another one than asyncio's (uvloop's).
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if not isinstance(loop, SelectorEventLoop):
            raise ConfigurationError(
                "A test clock moves the time of asyncio's own event loop, and this is "
                f"{type(loop).__module__}'s. Run the tests without it."
            )
        if Clock.of(loop) is not None:
            raise RuntimeError("This event loop has a test clock already; use that one.")
        self.release()
        self._loop = loop
        self._now = loop.time()
        # What a loop calls when it has nothing left to run: here, and only here, time may pass.
        self._selector: BaseSelector = loop._selector  # type: ignore[attr-defined]
        self._select = self._selector.select
        self._selector.select = self._pass
        loop.time = self.time  # type: ignore[method-assign]

    def release(self) -> None:
        """Let the loop's time run by itself again, on from where it is; nothing if it does already."""
        if self._loop is None:
            return
        if self._arrival is not None and not self._arrival.done() and not self._loop.is_closed():
            raise RuntimeError("The clock is being advanced; await that first.")
        loop, self._loop = self._loop, None
        del self._selector.select
        ahead = self._now - time.monotonic()
        if ahead > 0:
            # Time never goes back: what is still set for later would come that much too late.
            loop.time = lambda: time.monotonic() + ahead  # type: ignore[method-assign]
        else:
            del loop.time

    def time(self) -> float:
        """Return the loop's time in seconds; what it counts from has no meaning."""
        return self._now

    async def advance(self, seconds: float) -> None:
        """Let time pass; return when everything that became due has run.

        Time goes from one timer to the next: each finds the time it was set for, and what it sets for
        within these seconds comes in its turn. Handlers that run in threads are waited for, for a second at
        the most.

        Raises :exc:`TimeoutError` if what became due runs on and on without letting time pass.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"Time goes forward, by a number of seconds, not by {seconds}.")
        self.freeze()
        assert self._loop is not None
        if self._arrival is not None:
            raise RuntimeError("The clock is being advanced already; await that first.")
        limiter = anyio.to_thread.current_default_thread_limiter()
        self._threads = lambda: limiter.borrowed_tokens
        self._threads_until = time.monotonic() + THREADS_WITHIN
        self._settled_by = time.monotonic() + SETTLES_WITHIN
        self._until = self._now + seconds
        self._arrival = self._loop.create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let time run by itself while the body does."""
        self.release()
        try:
            yield
        finally:
            self.freeze()

    def __enter__(self) -> Self:
        self.freeze()
        return self

    def __exit__(self, *problem: object) -> None:
        self.release()

    # What the event loop asks

    def _pass(self, timeout: float | None = None) -> Events:
        """Wait for events, as the loop's selector does; where there are none, let time pass instead."""
        events = self._select(0)
        self._sound(time.monotonic())
        idle = not events and (timeout is None or timeout > 0)
        if self._arrival is None or self._arrival.done():
            return self._wait(None) if idle else events
        if not idle:
            if time.monotonic() > self._settled_by:
                self._arrival.set_exception(
                    TimeoutError(
                        f"Something runs on and on at one moment: no rest within {SETTLES_WITHIN:g} s."
                    )
                )
            return events
        if self._threads() and time.monotonic() < self._threads_until:
            return self._wait(self._threads_until)
        self._settled_by = time.monotonic() + SETTLES_WITHIN
        due = self._until if timeout is None else self._now + timeout
        self._now = min(due, self._until)
        if timeout is None or due > self._until + RESOLUTION:
            self._arrival.set_result(None)
        return events

    def _wait(self, until: float | None) -> Events:
        """Wait for events of the real world, up to a real moment."""
        moments = [alarm.moment for alarm in self._alarms] + ([] if until is None else [until])
        events = self._select(max(0.0, min(moments) - time.monotonic()) if moments else None)
        self._sound(time.monotonic())
        return events

    # Real time

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "Clock | None":
        """Return the clock that has a loop's time in hand, if one has."""
        clock = getattr(loop.time, "__self__", None)
        return clock if isinstance(clock, Clock) else None

    def after_real(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after so many seconds of real time; return what prevents it."""
        alarm = _Alarm(time.monotonic() + seconds, callback)
        self._alarms.add(alarm)
        return lambda: self._alarms.discard(alarm)

    def _sound(self, now: float) -> None:
        assert self._loop is not None
        for alarm in [alarm for alarm in self._alarms if alarm.moment <= now]:
            self._alarms.remove(alarm)
            self._loop.call_soon(alarm.callback)


@dataclass(frozen=True, eq=False)
class _Alarm:
    moment: float
    callback: Callable[[], None]


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise :exc:`TimeoutError` if the body takes longer, in real time also where a clock stands still."""
    loop = asyncio.get_running_loop()
    clock = Clock.of(loop)
    async with asyncio.timeout(seconds if clock is None else None) as limit:
        cancel = clock.after_real(seconds, lambda: limit.reschedule(loop.time())) if clock else None
        try:
            yield
        finally:
            if cancel is not None:
                cancel()
