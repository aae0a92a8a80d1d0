"""Behind `receive` and `send`: what all transports through ASGI events share, whatever they carry."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from types import CoroutineType
from typing import Protocol

from starlette.types import Message, Receive, Send

from ..engine.begun import begin
from ..engine.outbox import Chunk, Outbox
from ..engine.transport import Driven, Ending, Listener
from ..observe.log import fields, logger

GONE = (OSError, RuntimeError)
"""How servers say that the client is gone: OSError since ASGI 2.4, RuntimeError before."""


class Readers:
    """Sees to it that a line is heard while its session is busy, by a task of its own meanwhile.

    A session that is done with a message in the turn in which it came, as most are, receives the next one by
    itself. It is looked once for each turn of the event loop whether any is not.
    """

    def __init__(self) -> None:
        self._busy: list[Read] = []

    def add(self, transport: "Read") -> None:
        """Look at a transport in the next turn: its session has something to do."""
        if not self._busy:
            asyncio.get_running_loop().call_soon(self._look)
        self._busy.append(transport)

    def _look(self) -> None:
        busy, self._busy = self._busy, []
        for transport in busy:
            transport.read_on()


class Read(Protocol):
    """A transport that may have to read in a task."""

    def read_on(self) -> None:
        """Read in a task, if the session does not."""


class Writers:
    """Writes to the lines that have something to be written: one task for all of them, while none is slow.

    A task for each line would be most of what a broadcast costs. Where a server takes its time with one line,
    another task goes on with those behind it in the next turn of the event loop.
    """

    def __init__(self) -> None:
        self._waiting: deque[OverASGI] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._slow: set[asyncio.Task[None]] = set()

    def add(self, transport: "OverASGI") -> None:
        """Write to a line as soon as it is its turn."""
        self._waiting.append(transport)
        if self._writer is None:
            self._start()

    def _start(self) -> None:
        self._writer = asyncio.create_task(self._write(), name="hubbub: write")
        self._writer.add_done_callback(self._slow.discard)
        # It comes right behind the task's first step.
        asyncio.get_running_loop().call_soon(self._look, self._writer)

    def _look(self, writer: asyncio.Task[None]) -> None:
        if self._writer is writer:
            self._writer = None
            if not writer.done():
                self._slow.add(writer)
            if self._waiting:
                self._start()

    async def _write(self) -> None:
        task = asyncio.current_task()
        while self._waiting:
            await self._waiting.popleft().write_waiting(task)


class OverASGI:
    """A client's line behind `receive` and `send`.

    What there is to write, and :meth:`settle` does not, is written by a task that lines share. A transport
    says what its events look like, and how it takes in what comes.
    """

    pings = False
    served_by = None

    def __init__(self, receive: Receive, send: Send, readers: Readers, writers: Writers) -> None:
        self._receive = receive
        self._send = send
        self._readers, self._writers = readers, writers
        self._listener: Listener | None = None
        self._waiting: list[Chunk] = []
        self._settling = False
        self._writing = False
        """Whether a task writes, or is to."""
        self._paused = False
        self._close: tuple[int, str] | None = None
        self._task: asyncio.Task[object] | None = None
        """The session's, known from :meth:`accept` on: to ask for it each time is dear."""
        self._puller: asyncio.Task[object] | None = None
        """The same while it waits in :meth:`pull`."""
        self._reader: asyncio.Task[None] | None = None
        """Who receives in its place."""
        self._writer: asyncio.Task[object] | None = None

    # What a transport says

    async def pull(self) -> str | bytes | None:
        """Receive a message in the session's task (:meth:`.engine.transport.Driven.pull`)."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Have a task receive if the session does not."""
        raise NotImplementedError

    def _events(self, chunks: list[Chunk]) -> Sequence[Message]:
        """Return the events that send whole messages, in order."""
        raise NotImplementedError

    async def _send_close(self, code: int, reason: str) -> None:
        """Send the last that is sent."""
        raise NotImplementedError

    def _tasks(self) -> tuple[asyncio.Task[object] | None, ...]:
        """Return the tasks that have to go when the line ends."""
        return self._puller, self._reader, self._writer

    # What the engine calls

    @property
    def pulling(self) -> bool:
        """Whether the session waits in :meth:`pull`."""
        return self._puller is not None

    def busy(self) -> None:
        """Have a task receive if the session is busy for longer than this turn of the event loop."""
        if self._reader is None:
            self._readers.add(self)

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order; until they are written, no more are wanted."""
        if self._close is not None:
            # What waited when the close began still goes out; nothing may follow it.
            return
        self._waiting += chunks
        if self._settling:
            return
        if not self._writing:
            self._writing = True
            self._writers.add(self)
        elif self._listener is not None:
            self._paused = True
            self._listener.pause_writing()

    @property
    def driven(self) -> Driven:
        """Itself: the session's task receives and sends."""
        return self

    def settle(self, outbox: Outbox) -> Awaitable[None] | None:
        """Write what waits in an outbox in the session's task, which saves a task for each answer."""
        if self._writing:
            # Who writes may be done within this turn: the line is not slow yet.
            outbox.requeue()
            return None
        self._settling = True
        outbox.flush()
        self._settling = False
        if not self._waiting:
            return None
        self._writing = True
        events = self._events(self._waiting)
        if len(events) > 1:
            return begin(self.write_waiting(self._task))
        self._waiting = []
        try:
            sending = self._send(events[0])
            if not isinstance(sending, CoroutineType):  # Granian's can't be begun with, only awaited
                return self.write_waiting(self._task, sending)
            # As nearly always: a coroutine of its own around the server's would be the dearest part of it.
            rest = begin(sending)
        except BaseException as problem:
            self._writing = False
            if not self._ended_by(problem, self._task):
                raise
            return None
        if rest is not None or self._waiting or self._close is not None:
            return self.write_waiting(self._task, rest)
        self._writing = False
        return None

    async def write_waiting(
        self, task: asyncio.Task[object] | None, begun: Awaitable[None] | None = None
    ) -> None:
        """Write what waits in `task`, the caller's, behind what has `begun`."""
        self._writer = task
        try:
            if begun is not None:
                await begun
            while self._waiting:
                chunks, self._waiting = self._waiting, []
                for event in self._events(chunks):
                    await self._send(event)
                if self._paused and not self._waiting and self._listener is not None:
                    self._paused = False
                    self._listener.resume_writing()
            if self._close is not None and self._listener is not None:
                await self._leave(self._listener, *self._close)
        except BaseException as problem:
            if not self._ended_by(problem, task):
                raise
        finally:
            self._writer = None
            self._writing = False

    def _ended_by(self, problem: BaseException, task: asyncio.Task[object] | None) -> bool:
        """End the line by what came of sending in `task`; false if that has to be raised."""
        if isinstance(problem, asyncio.CancelledError):
            if self._listener is not None:
                # A message is lost, so nothing may follow it.
                self._end(Ending(sent=self._close))
                return task is not None and not task.cancelling()
            # Otherwise the line was ended from here; the caller has yet to leave.
            return task is not None and not task.uncancel()
        if not isinstance(problem, Exception):
            return False
        if not isinstance(problem, GONE):
            logger.exception("error", extra=fields(during="sending to the ASGI server"))
        self._end(Ending(sent=self._close))
        return True

    async def _leave(self, listener: Listener, code: int, reason: str) -> None:  # noqa: ARG002
        """Send the last that is sent, and end."""
        await self._send_close(code, reason)
        self._end(Ending(sent=self._close, received=self._close))

    def close(self, code: int, reason: str) -> None:
        """Close after what was written; ASGI does not tell the client's part of it."""
        self._close = (code, reason)
        if not self._writing:
            self._writing = True
            self._writers.add(self)

    def abort(self) -> None:
        """End the line at once: the server cuts it when the application returns."""
        self._end(Ending(sent=self._close))

    def ping(self) -> None:
        """Do nothing: see :attr:`pings`."""

    def _end(self, ending: Ending) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._waiting.clear()
        current = asyncio.current_task()
        for task in self._tasks():
            if task is not None and task is not current:
                task.cancel()
        listener.ended(ending)
