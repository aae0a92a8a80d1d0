"""WebSockets through plain ASGI events, under any server (ASGI specification, WebSocket, version 2.4)."""

import asyncio
from collections import deque

from starlette.types import Message, Receive, Send

from ..engine.outbox import Chunk, Outbox
from ..engine.transport import Ending, Listener
from ..observe.log import fields, logger
from ..protocol.codes import CloseCode

GONE = (OSError, RuntimeError)
"""How servers say that the client is gone: OSError since ASGI 2.4, RuntimeError before."""


def event(payload: bytes, binary: bool) -> Chunk:
    """Return the ASGI event that sends a message; one event serves many connections."""
    if binary:
        return {"type": "websocket.send", "bytes": payload}
    return {"type": "websocket.send", "text": payload.decode()}


AT_ONCE = 64
"""Messages of one connection that are received in a row before others get their turn."""


class Readers:
    """Sees to it that a line is read while its session is busy, by a task of its own from then on.

    A session that is done with a message in the turn in which it came, as most are, receives the next one by
    itself. It is looked once for each turn of the event loop whether any is not.
    """

    def __init__(self) -> None:
        self._busy: list[ASGITransport] = []

    def add(self, transport: "ASGITransport") -> None:
        """Look at a transport in the next turn: its session has something to do."""
        if not self._busy:
            asyncio.get_running_loop().call_soon(self._look)
        self._busy.append(transport)

    def _look(self) -> None:
        busy, self._busy = self._busy, []
        for transport in busy:
            transport.read_on()


class Writers:
    """Writes to the lines that have something to be written: one task for all of them, while none is slow.

    A task for each line would be most of what a broadcast costs. Where a server takes its time with one line,
    another task goes on with those behind it in the next turn of the event loop.
    """

    def __init__(self) -> None:
        self._waiting: deque[ASGITransport] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._slow: set[asyncio.Task[None]] = set()

    def add(self, transport: "ASGITransport") -> None:
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
        while self._waiting:
            await self._waiting.popleft().write_waiting()


class ASGITransport:
    """A client's line behind `receive` and `send`.

    Its session receives by :meth:`pull` until it is busy for longer than a turn of the event loop; from then
    on one task reads. What there is to write, and :meth:`settle` does not, is written by a task that lines
    share. Pings are the server's own affair here: ASGI has no event for them.
    """

    framing = staticmethod(event)
    pings = False

    def __init__(self, receive: Receive, send: Send, readers: Readers, writers: Writers) -> None:
        self._receive = receive
        self._send = send
        self._readers = readers
        self._writers = writers
        self._puller: asyncio.Task[object] | None = None
        self._pulled = 0
        self._listener: Listener | None = None
        self._waiting: list[Chunk] = []
        self._settling = False
        self._writing = False
        """Whether a task writes, or is to."""
        self._paused = False
        self._close: tuple[int, str] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[object] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:
        """Finish the opening handshake; from now on `listener` is told what comes in."""
        self._listener = listener
        opening = await self._receive()
        try:
            if opening["type"] == "websocket.connect":
                await self._send({"type": "websocket.accept", "subprotocol": subprotocol})
        except GONE:
            opening = {"type": "websocket.disconnect"}
        if opening["type"] != "websocket.connect":
            self._end(Ending())
            return
        self._readers.add(self)

    def read_on(self) -> None:
        """Read in a task, if the session does not."""
        listener = self._listener
        if listener is not None and self._puller is None and self._reader is None:
            self._reader = asyncio.create_task(self._read(listener), name="hubbub: read")

    @property
    def pulling(self) -> bool:
        """Whether the session waits in :meth:`pull`."""
        return self._puller is not None

    async def pull(self) -> bool:
        """Receive a message in the caller's task; false if there is a task for that, or the line is gone."""
        listener = self._listener
        if self._reader is not None or listener is None or not self._may_read.is_set():
            return False
        self._pulled += 1
        task = self._puller = asyncio.current_task()
        try:
            if self._pulled % AT_ONCE == 0:
                await asyncio.sleep(0)
            message = await self._receive()
        except asyncio.CancelledError:
            # The line was ended from here; the caller has yet to leave.
            if self._listener is not None or task is None or task.uncancel():
                raise
            return False
        except Exception:
            self._not_received()
            return False
        finally:
            self._puller = None
        self._take(listener, message)
        self._readers.add(self)
        return True

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

    async def settle(self, outbox: Outbox) -> None:
        """Write what waits in an outbox in the caller's task, which saves a task for each answer."""
        if self._writing:
            return
        self._settling = True
        outbox.flush()
        self._settling = False
        if self._waiting:
            self._writing = True
            await self.write_waiting()

    async def write_waiting(self) -> None:
        """Write what waits in the caller's task."""
        task = self._writer = asyncio.current_task()
        try:
            while self._waiting:
                chunks, self._waiting = self._waiting, []
                for chunk in chunks:
                    assert isinstance(chunk, dict)
                    await self._send(chunk)
                if self._paused and not self._waiting and self._listener is not None:
                    self._paused = False
                    self._listener.resume_writing()
            if self._close is not None and self._listener is not None:
                code, reason = self._close
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                self._end(Ending(sent=self._close, received=self._close))
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

    def close(self, code: int, reason: str) -> None:
        """Close after what was written; ASGI does not tell the client's part of it."""
        self._close = (code, reason)
        self._may_read.set()
        if not self._writing:
            self._writing = True
            self._writers.add(self)

    def abort(self) -> None:
        """End the line at once: the server cuts it when the application returns."""
        self._end(Ending(sent=self._close))

    def ping(self) -> None:
        """Do nothing: see :attr:`pings`."""

    def pause_reading(self) -> None:
        """Receive nothing more, so that the server's queue and then the client's line fill up."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Receive again."""
        self._may_read.set()

    async def _read(self, listener: Listener) -> None:
        try:
            while True:
                if not self._may_read.is_set():
                    await self._may_read.wait()
                self._take(listener, await self._receive())
                if self._listener is None:
                    return
        except asyncio.CancelledError:
            self._end(Ending(sent=self._close))
            raise
        except Exception:
            self._not_received()

    def _not_received(self) -> None:
        logger.exception("error", extra=fields(during="receiving from the ASGI server"))
        self._end(Ending(sent=self._close))

    def _take(self, listener: Listener, message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            self._end(_ending(message, self._close))
            return
        if self._close is not None:
            return
        text = message.get("text")
        data: str | bytes = message.get("bytes") or b"" if text is None else text
        # Bytes of a text are at least its characters; only where these may be too many is it encoded.
        size = len(data)
        if isinstance(data, str) and size <= listener.max_message < size * 4:
            size = len(data.encode())
        if size > listener.max_message:
            listener.failing()
            self.close(CloseCode.MESSAGE_TOO_BIG, f"over the size limit of {listener.max_message} bytes")
        else:
            listener.received(data)

    def _end(self, ending: Ending) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._waiting.clear()
        current = asyncio.current_task()
        for task in (self._puller, self._reader, self._writer):
            if task is not None and task is not current:
                task.cancel()
        listener.ended(ending)


def _ending(message: Message, sent: tuple[int, str] | None) -> Ending:
    code, reason = int(message.get("code") or CloseCode.NO_STATUS), str(message.get("reason") or "")
    if code == CloseCode.ABNORMAL:
        return Ending(sent=sent)
    if sent is not None:
        return Ending(sent=sent, received=(code, reason))
    return Ending(received=(code, reason), sent=(code, reason), received_first=True)
