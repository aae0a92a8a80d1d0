"""Noticing that a line has gone silent."""

import asyncio
from collections.abc import Callable
from types import TracebackType


class Silence:
    """Raises :exc:`TimeoutError` in its block when nothing was heard for `limit` seconds; None: never.

    A message costs no timer, only an assignment to `heard`: the one timer looks at that when it is due. So it
    does at what `other` returns: when there was a sign of life that is no message.
    """

    def __init__(self, limit: float | None, other: Callable[[], float] = float) -> None:
        self._limit = limit
        self._other = other
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        """When something was heard last, by the loop's clock."""
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Return the time by the loop's clock."""
        return self._loop.time()

    async def __aenter__(self) -> "Silence":
        await self._timeout.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, problem, trace)

    def _look(self) -> None:
        if self._limit is None:
            return
        due = max(self.heard, self._other()) + self._limit
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._look)
        else:
            self._timer = None
            self._timeout.reschedule(due)
