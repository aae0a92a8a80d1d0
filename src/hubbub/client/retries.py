"""Sending again what a server in trouble could not carry out: when, and for how long."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from ..errors import RequestFailed
from .backoff import Waits
from .outbox import Outbox, Request

SHORTEST = 0.1
"""Seconds after which at the earliest something is sent again."""


class Retries:
    """Looks at the answers on a session's lines: while the server is in trouble, the outbox has to wait.

    `backoff` begins a series of waits. Where it ends it begins anew: a server that is there is asked for
    longer than one that is not, until it would no longer know a request again. What fails while the rest
    succeeds, as a broker may be away with some of the rooms, is sent again each :data:`SHORTEST`.
    """

    def __init__(self, outbox: Outbox, backoff: Waits) -> None:
        self._outbox = outbox
        self._backoff = backoff
        self._waits: Iterator[float] | None = None
        """None if all is well."""
        self._pausing = False
        self._succeeded = asyncio.Event()
        """Set by what succeeds in a pause."""

    def answered(
        self, request: Request | None, failure: RequestFailed | None, tasks: asyncio.TaskGroup | None
    ) -> bool:
        """Take an answer in; true if its request is sent again, so that nobody is to be told of a failure.

        `request` is None if nobody waits for the answer any more, which tells how the server is all the
        same; `tasks` are those of the line, None if it is about to end.
        """
        if request is not None and not request.once:
            return False
        if failure is None or not failure.retry:
            self._waits = None
            self._succeeded.set()
            # Not at once what has failed just now: it would go to and fro as fast as the line carries it.
            self._outbox.go_on(with_failed=not self._pausing)
            return False
        if not self._pause(tasks) or request is None:
            return False
        self._outbox.postpone(request, failure)
        return True

    def lost(self) -> None:
        """Take that the line is lost; on the next one everything is sent again."""
        self._waits = None
        self._pausing = False

    def _pause(self, tasks: asyncio.TaskGroup | None) -> bool:
        if not self._outbox.window:
            return False
        self._outbox.hold()
        if tasks is None or self._pausing:
            return True
        wait = None if self._waits is None else next(self._waits, None)
        if wait is None:
            self._waits = self._backoff()
            wait = next(self._waits, None)
        if wait is None:
            self._outbox.go_on()
            return False
        self._pausing = True
        self._succeeded.clear()
        tasks.create_task(self._after(max(wait, SHORTEST)))
        return True

    async def _after(self, wait: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._succeeded.wait()
                await asyncio.sleep(SHORTEST)
        self._pausing = False
        self._outbox.probe()
