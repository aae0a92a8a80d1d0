"""Coroutines that have begun before anybody awaits them, since most never wait."""

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Final

DONE: Final = object()
"""What ``next`` is to give where a coroutine has come to its end: cheaper than its exception."""


class Begun:
    """A coroutine that has begun, perhaps outside of its task, and what it waits for."""

    __slots__ = ("_awaited", "_steps")

    def __init__(self, steps: Generator[object, None, None], awaited: object) -> None:
        self._steps = steps
        self._awaited = awaited
        if asyncio.isfuture(awaited):
            # A task unsets it as it takes the future; until it does, nobody else could await that.
            awaited._asyncio_future_blocking = False

    @types.coroutine
    def finish(self, cancelled: asyncio.CancelledError | None = None) -> Generator[object, None, None]:
        """Run it to its end in the caller's task, which was `cancelled` before it came to that, if it was.

        Python lets nobody await a coroutine that waits already, so it is taken on step by step, as a task is.
        """
        steps, awaited = self._steps, self._awaited
        problem: BaseException | None = cancelled
        thrown: BaseException | None = None
        # Nothing is kept for as long as the coroutine runs, nor by a traceback that leads back to here.
        del self._steps, self._awaited, cancelled
        try:
            if problem is not None and asyncio.isfuture(awaited) and awaited.cancel(*problem.args[:1]):
                problem = None  # it will be raised by what is awaited
            while True:
                if problem is None:
                    if asyncio.isfuture(awaited):
                        awaited._asyncio_future_blocking = True
                    try:
                        yield awaited
                    except BaseException as raised:
                        problem = raised
                thrown, problem = problem, None
                awaited = steps.send(None) if thrown is None else steps.throw(thrown)
        except StopIteration:
            pass
        finally:
            problem = thrown = awaited = None


def begin(coroutine: Coroutine[object, object, None]) -> Awaitable[None] | None:
    """Run a coroutine, in its own task, until it waits; return what goes on with it, None if it is done."""
    steps = coroutine.__await__()
    awaited = next(steps, DONE)
    return None if awaited is DONE else Begun(steps, awaited).finish()
