"""WebSockets through plain ASGI events, under any server (ASGI specification, WebSocket, version 2.4)."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from starlette.types import Message, Receive, Send

from ..engine.outbox import Chunk
from ..engine.transport import Ending, Listener
from ..observe.log import fields, logger
from ..protocol.codes import CloseCode
from .over_asgi import GONE, OverASGI, Readers, Writers


def event(payload: bytes, binary: bool) -> Chunk:
    """Return the ASGI event that sends a message; one event serves many connections."""
    if binary:
        return {"type": "websocket.send", "bytes": payload}
    return {"type": "websocket.send", "text": payload.decode()}


AT_ONCE = 64
"""Messages of one connection that are received in a row before others get their turn."""


class Beneath(Protocol):
    """What a server lets be done to a line beside ASGI's events."""

    def cut(self) -> None:
        """End the line at once."""

    def pause_reading(self) -> None:
        """Leave what the client sends in its socket."""

    def resume_reading(self) -> None:
        """Read again."""


class Noted:
    """What hubbub's own server and the hub tell each other of a line, since ASGI has no events for it."""

    __slots__ = ("listener", "opened")

    def __init__(self, opened: float) -> None:
        self.opened = opened
        """Since when the client has been connecting, in the event loop's time; 0 if that is not known."""
        self.listener: Listener | None = None
        """Who is told of control frames."""


class ASGITransport(OverASGI):
    """A client's WebSocket behind `receive` and `send`, and what is `beneath` them if that is known.

    Its session receives by :meth:`pull` until it is busy for longer than a turn of the event loop; from then
    on one task reads. Pings are the server's own affair here: ASGI has no event for them. Where hubbub's
    own server has `noted` the line, it tells the listener how many there were.
    """

    framing = staticmethod(event)

    def __init__(
        self,
        receive: Receive,
        send: Send,
        readers: Readers,
        writers: Writers,
        beneath: Beneath | None = None,
        noted: Noted | None = None,
    ) -> None:
        super().__init__(receive, send, readers, writers)
        self._beneath = beneath
        self._noted = noted
        self._left = False
        """Whether the close was begun with: only what waits for its end receives."""
        self._pulled = 0
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:
        """Finish the opening handshake; from now on `listener` is told what comes in."""
        self._listener = listener
        if self._noted is not None:
            self._noted.listener = listener
        self._task = asyncio.current_task()
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
        if listener is not None and self._puller is None and self._reader is None and not self._left:
            self._reader = asyncio.create_task(self._read(listener), name="hubbub: read")

    async def pull(self) -> str | bytes | None:
        """Receive a message in the caller's task; None if there is a task for that, or the line is gone."""
        listener = self._listener
        if self._reader is not None or listener is None or self._left or not self._may_read.is_set():
            return None
        self._pulled += 1
        task = self._puller = self._task
        try:
            if self._pulled % AT_ONCE == 0:
                await asyncio.sleep(0)
            event = await self._receive()
        except asyncio.CancelledError:
            # The line was closed or ended from here; the caller has yet to leave.
            if not self._leaving() or task is None or task.uncancel():
                raise
            return None
        except Exception:
            self._not_received()
            return None
        finally:
            self._puller = None
        text: str | None = event.get("text")
        if text is not None and len(text) * 4 <= listener.max_message and self._close is None:
            return text  # as nearly always
        return self._message(listener, event)

    def _events(self, chunks: list[Chunk]) -> Sequence[Message]:
        return chunks  # type: ignore[return-value]  # as `event` made them

    async def _send_close(self, code: int, reason: str) -> None:
        # A plain number: Daphne takes no other.
        await self._send({"type": "websocket.close", "code": int(code), "reason": reason})

    def _leaving(self) -> bool:
        return self._left or self._listener is None

    async def _leave(self, listener: Listener, code: int, reason: str) -> None:
        """Close; the end follows from what is received.

        Nobody may be receiving as it begins: Granian before 2.8.9 would not close before the client's next
        message. What the client still sends has to be taken: Hypercorn reads its close only behind that.
        """
        if self._left:
            return
        self._left = True
        reading, self._reader = self._puller or self._reader, None
        if reading is not None and reading is not asyncio.current_task():
            reading.cancel()
            await asyncio.sleep(0)
        self._may_read.set()
        # It begins behind the first step of what sends.
        self._reader = asyncio.create_task(self._read(listener), name="hubbub: read")
        await self._send_close(code, reason)

    def close(self, code: int, reason: str) -> None:
        """Close after what was written; ASGI does not tell the client's part of it."""
        self._may_read.set()
        super().close(code, reason)

    def abort(self) -> None:
        """End the line at once: most servers cut it when the application returns."""
        if self._beneath is not None:
            self._beneath.cut()
        super().abort()

    def pause_reading(self) -> None:
        """Receive nothing more, so that the server's queue and then the client's line fill up."""
        self._may_read.clear()
        if self._beneath is not None:
            self._beneath.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        self._may_read.set()
        if self._beneath is not None:
            self._beneath.resume_reading()

    async def _read(self, listener: Listener) -> None:
        try:
            while True:
                if not self._may_read.is_set():
                    await self._may_read.wait()
                message = self._message(listener, await self._receive())
                if message is not None:
                    listener.received(message)
                if self._listener is None:
                    return
        except asyncio.CancelledError:
            if self._reader is asyncio.current_task():
                self._end(Ending(sent=self._close))
            raise
        except Exception:
            self._not_received()

    def _end(self, ending: Ending) -> None:
        if self._noted is not None:
            self._noted.listener = None  # its scope refers to what is noted
        super()._end(ending)

    def _not_received(self) -> None:
        logger.exception("error", extra=fields(during="receiving from the ASGI server"))
        self._end(Ending(sent=self._close))

    def _message(self, listener: Listener, event: Message) -> str | bytes | None:
        """Return the message that an event brings; None if it brings another, or nothing counts any more."""
        if event["type"] == "websocket.disconnect":
            self._end(_ending(event, self._close))
            return None
        if self._close is not None:
            return None
        text = event.get("text")
        data: str | bytes = event.get("bytes") or b"" if text is None else text
        # Bytes of a text are at least its characters; only where these may be too many is it encoded.
        size = len(data)
        if isinstance(data, str) and size <= listener.max_message < size * 4:
            size = len(data.encode())
        if size > listener.max_message:
            listener.failing()
            self.close(CloseCode.MESSAGE_TOO_BIG, f"over the size limit of {listener.max_message} bytes")
            return None
        return data


def _ending(message: Message, sent: tuple[int, str] | None) -> Ending:
    code, reason = int(message.get("code") or CloseCode.NO_STATUS), str(message.get("reason") or "")
    if code == CloseCode.ABNORMAL:
        return Ending(sent=sent)
    if sent is not None:
        return Ending(sent=sent, received=(code, reason))
    return Ending(received=(code, reason), sent=(code, reason), received_first=True)
