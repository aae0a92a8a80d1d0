"""When which session has to be looked at next: one timer for all of them."""

import asyncio
import heapq
from itertools import count
from typing import Protocol

from ...observe.log import fields, logger

GRAIN = 0.002
"""Seconds by which a look may be late, so that many that are due at nearly one time are one turn's work."""


class Timed(Protocol):
    """What has something to do at a time."""

    def due(self, now: float) -> None:
        """Do what is due at `now`, the event loop's time in seconds; set the next time, if there is one."""


class Schedule:
    """The next time of each item. It holds no timer while there is no item."""

    def __init__(self) -> None:
        self._times: dict[Timed, tuple[float, float]] = {}
        """When to look at each item, and the time in the heap that counts for it, which may be earlier."""
        self._heap: list[tuple[float, int, Timed]] = []
        self._serial = count()
        self._timer: asyncio.TimerHandle | None = None
        self._at = float("inf")

    def __len__(self) -> int:
        return len(self._times)

    def set(self, item: Timed, time: float) -> None:
        """Look at an item at that time, and not at the one that was set before."""
        _, pushed = self._times.get(item, (0.0, float("inf")))
        self._times[item] = (time, min(time, pushed))
        if time < pushed:
            self._push(time, item)

    def drop(self, item: Timed) -> None:
        """Look at an item no more."""
        if self._times.pop(item, None) is not None and not self._times:
            self._heap.clear()
            self._arm()

    def look(self, item: Timed) -> None:
        """Do at once what is due for an item, however late the timer is."""
        time, _ = self._times.get(item, (float("inf"), 0.0))
        now = asyncio.get_running_loop().time()
        if time <= now:
            item.due(now)

    def _push(self, time: float, item: Timed) -> None:
        heap = self._heap
        heapq.heappush(heap, (time, next(self._serial), item))
        if len(heap) > 2 * len(self._times) + 64:
            # Most of it counts no more, and keeps items that are gone.
            heap[:] = [entry for entry in heap if self._counts(entry[0], entry[2])]
            heapq.heapify(heap)
        if time < self._at:
            self._arm()

    def _counts(self, time: float, item: Timed) -> bool:
        return item in self._times and self._times[item][1] == time

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = self._heap[0][0] if self._heap else float("inf")
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._at + GRAIN, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._at = float("-inf")  # it is armed once, in the end
        now = asyncio.get_running_loop().time()
        heap, times = self._heap, self._times
        while heap and heap[0][0] <= now:
            pushed, _, item = heapq.heappop(heap)
            if not self._counts(pushed, item):
                continue
            time = times[item][0]
            del times[item]
            if time > now:
                self.set(item, time)
                continue
            try:
                item.due(now)
            except Exception:
                # One item's trouble must not stop the others' heartbeats.
                logger.exception("error", extra=fields(during="Engine.IO heartbeat"))
        self._arm()
