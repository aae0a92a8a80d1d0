"""Behind `receive` and `send`: what all transports through ASGI events share, whatever they carry."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Generator, Iterable
from typing import Protocol

from starlette.types import Message, Receive, Send

from ..engine.outbox import Chunk, Outbox
from ..engine.transport import Ending, Listener
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


class _Nothing:
    """What is done as soon as it is awaited."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_NOTHING = _Nothing()


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
    """The writing half of a client's line behind `receive` and `send`.

    What there is to write, and :meth:`settle` does not, is written by a task that lines share. A transport
    says what its events look like, and how it takes in what comes.
    """

    pings = False
    served_by = None

    def __init__(self, receive: Receive, send: Send, writers: Writers) -> None:
        self._receive = receive
        self._send = send
        self._writers = writers
        self._listener: Listener | None = None
        self._waiting: list[Chunk] = []
        self._settling = False
        self._writing = False
        """Whether a task writes, or is to."""
        self._paused = False
        self._close: tuple[int, str] | None = None
        self._task: asyncio.Task[object] | None = None
        """The session's, known from :meth:`accept` on: to ask for it each time is dear."""
        self._writer: asyncio.Task[object] | None = None

    # What a transport says

    def _events(self, chunks: list[Chunk]) -> Iterable[Message]:
        """Return the events that send whole messages, in order."""
        raise NotImplementedError

    async def _send_close(self, code: int, reason: str) -> None:
        """Send the last that is sent."""
        raise NotImplementedError

    def _tasks(self) -> tuple[asyncio.Task[object] | None, ...]:
        """Return the tasks that have to go when the line ends."""
        return (self._writer,)

    # What the engine calls

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

    def settle(self, outbox: Outbox) -> Awaitable[None]:
        """Write what waits in an outbox in the session's task, which saves a task for each answer."""
        if self._writing:
            return _NOTHING
        self._settling = True
        outbox.flush()
        self._settling = False
        if not self._waiting:
            return _NOTHING
        self._writing = True
        return self.write_waiting(self._task)

    async def write_waiting(self, task: asyncio.Task[object] | None) -> None:
        """Write what waits in `task`, the caller's."""
        self._writer = task
        try:
            while self._waiting:
                chunks, self._waiting = self._waiting, []
                for event in self._events(chunks):
                    await self._send(event)
                if self._paused and not self._waiting and self._listener is not None:
                    self._paused = False
                    self._listener.resume_writing()
            if self._close is not None and self._listener is not None:
                await self._leave(self._listener, *self._close)
        except asyncio.CancelledError:
            if self._listener is not None:
                # A message is lost, so nothing may follow it.
                self._end(Ending(sent=self._close))
                if task is None or task.cancelling():
                    raise
            elif task is None or task.uncancel():
                # Otherwise the line was ended from here; the caller has yet to leave.
                raise
        except GONE:
            self._end(Ending(sent=self._close))
        except Exception:
            logger.exception("error", extra=fields(during="sending to the ASGI server"))
            self._end(Ending(sent=self._close))
        finally:
            self._writer = None
            self._writing = False

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
