"""WebSockets through plain ASGI events, under any server (ASGI specification, WebSocket, version 2.4)."""

import asyncio

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


class ASGITransport:
    """A client's line behind `receive` and `send`.

    One task reads. A second one lives only while there is something to write that :meth:`settle` does not.
    Pings are the server's own affair here: ASGI has no event for them.
    """

    framing = staticmethod(event)
    pings = False

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._listener: Listener | None = None
        self._waiting: list[Chunk] = []
        self._settling = False
        self._paused = False
        self._close: tuple[int, str] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
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
        self._reader = asyncio.create_task(self._read(listener), name="hubbub: read")

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order; until they are written, no more are wanted."""
        if self._close is not None:
            # What waited when the close began still goes out; nothing may follow it.
            return
        self._waiting += chunks
        if self._settling:
            return
        if self._writer is None:
            self._start_writer()
        elif self._listener is not None:
            self._paused = True
            self._listener.pause_writing()

    async def settle(self, outbox: Outbox) -> None:
        """Write what waits in an outbox in the caller's task, which saves a task for each answer."""
        if self._writer is not None:
            return
        self._settling = True
        outbox.flush()
        self._settling = False
        if not self._waiting:
            return
        task = self._writer = asyncio.current_task()
        try:
            await self._write()
        except asyncio.CancelledError:
            # The line is gone, and with it what the server would not take; the caller has yet to leave.
            if self._listener is not None or task is None or task.uncancel():
                raise

    def close(self, code: int, reason: str) -> None:
        """Close after what was written; ASGI does not tell the client's part of it."""
        self._close = (code, reason)
        self._may_read.set()
        if self._writer is None:
            self._start_writer()

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

    def _start_writer(self) -> None:
        self._writer = asyncio.create_task(self._write(), name="hubbub: write")

    async def _write(self) -> None:
        try:
            while self._waiting:
                chunks, self._waiting = self._waiting, []
                for chunk in chunks:
                    assert isinstance(chunk, dict)
                    await self._send(chunk)
                if self._paused and not self._waiting and self._listener is not None:
                    self._paused = False
                    self._listener.resume_writing()
            if self._close is not None:
                code, reason = self._close
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                self._end(Ending(sent=self._close, received=self._close))
        except GONE:
            self._end(Ending(sent=self._close))
        except Exception:
            logger.exception("error", extra=fields(during="sending to the ASGI server"))
            self._end(Ending(sent=self._close))
        finally:
            self._writer = None

    async def _read(self, listener: Listener) -> None:
        try:
            while True:
                if not self._may_read.is_set():
                    await self._may_read.wait()
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    self._end(_ending(message, self._close))
                    return
                if self._close is None:
                    self._take(listener, message)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("error", extra=fields(during="receiving from the ASGI server"))
            self._end(Ending(sent=self._close))

    def _take(self, listener: Listener, message: Message) -> None:
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
        for task in (self._reader, self._writer):
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
