"""Handling a connection's messages, one at a time and in order: as they come in, or in its task."""

import asyncio
import types
from asyncio import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from typing import Protocol

from .connection import Connection


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
        self._begun: _Begun | None = None

    async def run(self) -> None:
        """Handle messages; raises :exc:`ConnectionClosed` once there will be no more."""
        connection, session = self._connection, self._session
        outbox, transport = connection.outbox, connection.transport
        settle, pull = transport.settle, transport.pull
        served = self._served_by
        # A host's middleware may have begun a task of its own.
        beginning = self if served is not None and served.task is asyncio.current_task() else None
        cancelled: asyncio.CancelledError | None = None
        while True:
            message = connection.take()
            if message is None:
                if pull is not None and await pull():
                    continue
                try:
                    message = await connection.arrival(beginning)
                except asyncio.CancelledError as problem:
                    if self._begun is None:
                        raise
                    cancelled = problem  # it is for what was begun
            if message is not None:
                await session.answer(message)
                del message  # nothing of it is kept while the next one is waited for
            elif self._begun is not None:
                finishing, self._begun, cancelled = self._begun.finish(cancelled), None, None
                await finishing
                del finishing
            if settle is not None and outbox.queued:
                await settle(outbox)
            if outbox.paused:
                # Whoever does not read its answers is asked for no more questions.
                await outbox.drained()

    def begin(self, message: str | bytes) -> bool:
        """Handle a message until that has to wait; false if the task has to go on with it, or to wait."""
        assert self._served_by is not None
        task, context = self._served_by
        loop = task.get_loop()
        answering = self._session.answer(message)
        # To whoever asks it is the task that runs (Python's documentation, "Extending").
        _enter_task(loop, task)
        try:
            awaited = context.run(answering.send, None)
        except StopIteration:
            outbox = self._connection.outbox
            if not outbox.queued:
                # So the next one of this turn is for the task, and nobody else is held up by more than one.
                outbox.queue()
            return not outbox.paused
        finally:
            _leave_task(loop, task)
        self._begun = _Begun(answering, awaited)
        return False


class _Begun:
    """A coroutine that has begun outside of its task, and what it waits for."""

    __slots__ = ("_awaited", "_coroutine")

    def __init__(self, coroutine: Coroutine[object, object, None], awaited: object) -> None:
        self._coroutine = coroutine
        self._awaited = awaited
        if asyncio.isfuture(awaited):
            # A task unsets it as it takes the future; until it does, nobody else could await that.
            awaited._asyncio_future_blocking = False

    @types.coroutine
    def finish(self, cancelled: asyncio.CancelledError | None) -> Generator[object, None, None]:
        """Run it to its end in the caller's task, which was `cancelled` before it came to that, if it was.

        Python lets nobody await a coroutine that waits already, so it is taken on step by step, as a task is.
        """
        coroutine, awaited = self._coroutine, self._awaited
        problem: BaseException | None = cancelled
        thrown: BaseException | None = None
        # Nothing is kept for as long as the coroutine runs, nor by a traceback that leads back to here.
        del self._coroutine, self._awaited, cancelled
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
                awaited = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
        except StopIteration:
            pass
        finally:
            problem = thrown = awaited = None
