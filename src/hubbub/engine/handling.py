"""Handling a connection's messages, one at a time and in order: as they come in, or in its task."""

import asyncio
import time
from asyncio import _enter_task, _leave_task
from collections.abc import Awaitable, Coroutine
from typing import Protocol

from .begun import DONE, Begun, begin
from .connection import Connection
from .outbox import Outbox
from .transport import Driven

SLICE = 0.004
"""Seconds that a connection's messages may take, one right after the other, before others have their turn.

What is broadcast to 1000 takes a tenth of it, so that some of these still share their writes.
"""


class Answering(Protocol):
    """What handles messages: a session."""

    def answer(self, message: str | bytes) -> Coroutine[object, object, None]:
        """Do what a message asks for."""


class Handling:
    """Has a session answer each of a connection's messages, in the task that :meth:`run` runs in.

    Most handlers never wait. Where nothing but the event loop hands messages over, one that comes in while
    the task waits for it is begun at once, on behalf of the task, which goes on with it only if it has to
    wait: a future and a turn of the event loop less for each message. It is one in each turn, at the most.
    From Python 3.12 on whole tasks can begin so (`asyncio.eager_task_factory`).
    """

    # There is one for each idle connection, so it holds no methods of itself or of others.
    __slots__ = ("_begun", "_connection", "_served_by", "_session")

    def __init__(self, connection: Connection, session: Answering) -> None:
        self._connection = connection
        self._session = session
        self._served_by = connection.transport.served_by
        self._begun: Begun | None = None

    async def run(self) -> None:
        """Handle messages; raises :exc:`ConnectionClosed` once there will be no more."""
        connection, session = self._connection, self._session
        inbox, outbox, driven = connection.inbox, connection.outbox, connection.transport.driven
        served = self._served_by
        # A host's middleware may have begun a task of its own.
        beginning = self if served is not None and served.task is asyncio.current_task() else None
        cancelled: asyncio.CancelledError | None = None
        clock, spent = time.perf_counter, 0.0
        while True:
            message = connection.take() if inbox else None
            if message is None and driven is not None:
                message = await driven.pull()
                if message is None:
                    message = connection.take()
                else:
                    connection.messages_in += 1
                    if connection.messages_in > connection.allowed:
                        connection.sent_too_many()
                        continue
            if message is None:
                arrival = connection.arrival(beginning)
                if driven is not None:
                    driven.busy()
                try:
                    message = await arrival
                except asyncio.CancelledError as problem:
                    if self._begun is None:
                        raise
                    cancelled = problem  # it is for what was begun
                del arrival
                spent = 0.0
            if message is not None:
                began = clock()
                if driven is None:
                    await session.answer(message)
                else:
                    outbox.queued = True  # it is settled below, which saves a callback in each turn
                    rest = begin(session.answer(message))
                    if rest is None:
                        rest = driven.settle(outbox)
                    else:
                        outbox.requeue()
                        rest = _finish(rest, driven, outbox)
                    if rest is not None:
                        driven.busy()
                        await rest
                    del rest
                spent += clock() - began
                del message  # nothing of it is kept while the next one is waited for
            elif self._begun is not None:
                finishing, self._begun, cancelled = self._begun.finish(cancelled), None, None
                await finishing
                del finishing
            if outbox.paused:
                # Whoever does not read its answers is asked for no more questions.
                if driven is not None:
                    driven.busy()
                await outbox.drained()
            elif spent > SLICE:
                spent = 0.0
                await asyncio.sleep(0)

    def begin(self, message: str | bytes) -> bool:
        """Handle a message until that has to wait; false if the task has to go on with it, or to wait."""
        assert self._served_by is not None
        task, context = self._served_by
        loop = task.get_loop()
        steps = self._session.answer(message).__await__()
        # To whoever asks it is the task that runs (Python's documentation, "Extending").
        _enter_task(loop, task)
        try:
            awaited = context.run(next, steps, DONE)
        finally:
            _leave_task(loop, task)
        if awaited is not DONE:
            self._begun = Begun(steps, awaited)
            return False
        outbox = self._connection.outbox
        if not outbox.queued:
            # So the next one of this turn is for the task, and nobody else is held up by more than one.
            outbox.queue()
        return not outbox.paused


async def _finish(answering: Awaitable[None], driven: Driven, outbox: Outbox) -> None:
    await answering
    rest = driven.settle(outbox)
    if rest is not None:
        await rest
