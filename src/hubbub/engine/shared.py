"""Requests that all who need what they bring share."""

import asyncio
from collections.abc import Callable, Coroutine

from ..errors import Unavailable


class SharedRequest:
    """A request, to the broker mostly, that is made once at a time for all who wait for it.

    `ask` makes it, in a task of that `name`, and keeps what it brings.
    """

    def __init__(self, ask: Callable[[], Coroutine[object, object, None]], name: str) -> None:
        self._ask = ask
        self._name = name
        self._asking: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether it is being made."""
        return self._asking is not None

    async def made(self) -> None:
        """Make the request, or wait until it is made.

        Raises what it raises, and :exc:`Unavailable` if it was stopped.
        """
        asking = self._asking
        if asking is None:
            asking = self._asking = asyncio.create_task(self._ask(), name=self._name)
            asking.add_done_callback(self._done)
        # A task's cancellation is not that of the one who waits for it.
        await asyncio.wait((asking,))
        if asking.cancelled():
            raise Unavailable("The hub stops.")
        problem = asking.exception()
        if problem is not None:
            raise problem.with_traceback(None)

    def _done(self, asking: asyncio.Task[None]) -> None:
        if self._asking is asking:
            self._asking = None
        if not asking.cancelled():
            asking.exception()  # whoever waits has it; if nobody does any more, the next one asks anew

    async def stop(self) -> None:
        """Ask no more; whoever waits is told so."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait((asking,))
