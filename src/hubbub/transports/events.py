"""ASGI events over the native transport, for applications that don't take the connection over."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message

from ..engine.outbox import Chunk
from ..engine.transport import Ending, Transport
from ..protocol.codes import CloseCode
from ..settings import Settings
from .keepalive import Keepalive

MAX_WAITING = 16
"""Messages that wait for the application; past it, or past `max_inbox_bytes`, the socket is not read."""


class Opening(Transport, Protocol):
    """A transport whose handshake is still open, so that it can be refused."""

    def refuse(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with an HTTP response instead of a WebSocket."""

    def open(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Finish the opening handshake; :exc:`ValueError` for what can't be sent in the answer to it."""


class Events:
    """The `receive` and `send` of one connection (ASGI specification, WebSocket, version 2.4).

    `max_message` is in bytes. Of the settings it takes what may wait for the application, and the time that
    the client has for its part of a close.
    """

    # For a connection that the hub takes over it is only the way in, but it stays: hence it holds little.
    __slots__ = (
        "_arrived",
        "_bytes",
        "_deadline",
        "_events",
        "_keepalive",
        "_reading",
        "_refusal",
        "_settings",
        "_state",
        "_transport",
        "_writable",
        "_written",
        "max_message",
        "signs",
    )  # fmt: skip

    def __init__(
        self, transport: Opening, max_message: int, settings: Settings, keepalive: Keepalive | None
    ) -> None:
        self.max_message = max_message
        self.signs = 0
        self._reading = True
        self._transport = transport
        self._settings = settings
        self._keepalive = keepalive
        self._events: list[Message] = [{"type": "websocket.connect"}]
        self._bytes = 0  # of the messages among the events
        self._arrived: asyncio.Future[None] | None = None
        self._writable = True
        self._written: asyncio.Future[None] | None = None
        self._state = "opening"
        self._refusal: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    # What the application calls

    async def receive(self) -> Message:
        """Return the next event."""
        while not self._events:
            if self._arrived is None:
                self._arrived = asyncio.get_running_loop().create_future()
            # Shielded: several may wait for the one future, and one who is cancelled must not end it.
            await asyncio.shield(self._arrived)
        message = self._events.pop(0)
        self._bytes -= len(message.get("text") or message.get("bytes") or b"")
        if not self._events:
            self._reading = True
            self._transport.resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """Do what an event asks for; :exc:`OSError` when the client is gone."""
        while not self._writable and self._state != "gone":
            if self._written is None:
                self._written = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._written)
        if self._state == "gone":
            raise OSError("The client is gone.")
        step = getattr(self, f"_{self._state}", None)
        if step is None or not step(message):
            raise RuntimeError(f"{message['type']!r} can't be sent while the WebSocket is {self._state}.")

    def _opening(self, message: Message) -> bool:
        kind = message["type"]
        if kind == "websocket.accept":
            # Raises for what can't be sent, before anything is done.
            self._transport.open(message.get("subprotocol"), list(message.get("headers", ())))
            self._state = "open"
            if self._keepalive is not None:
                self._keepalive.watch(self)
        elif kind == "websocket.close":
            self._refuse(HTTPStatus.FORBIDDEN, [], b"")
        elif kind == "websocket.http.response.start":
            self._refusal = (message["status"], list(message.get("headers", ())), b"")
            self._state = "refusing"
        else:
            return False
        return True

    def _refusing(self, message: Message) -> bool:
        if message["type"] != "websocket.http.response.body" or self._refusal is None:
            return False
        status, headers, body = self._refusal
        self._refusal = status, headers, body + message.get("body", b"")
        if not message.get("more_body", False):
            self._refuse(*self._refusal)
        return True

    def _open(self, message: Message) -> bool:
        kind = message["type"]
        if kind == "websocket.send":
            text, data = message.get("text"), message.get("bytes")
            chunk: Chunk = (
                self._transport.framing(text.encode(), False)
                if text is not None
                else self._transport.framing(data or b"", True)
            )
            self._transport.write([chunk])
        elif kind == "websocket.close":
            self._close(message.get("code", CloseCode.NORMAL), message.get("reason") or "")
        else:
            return False
        return True

    def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._transport.refuse(status, headers, body)
        self._state = "closed"
        self._limit_close()

    def _close(self, code: int, reason: str) -> None:
        self._transport.close(code, reason)
        self._state = "closed"
        self._limit_close()

    def _limit_close(self) -> None:
        self._leave_alone()
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._settings.close_timeout, self._transport.abort)

    def _leave_alone(self) -> None:
        if self._keepalive is not None:
            self._keepalive.forget(self)

    def finish(self, failed: bool) -> None:
        """Close what the application left open when it returned, or raised."""
        if self._state in ("opening", "refusing"):
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, [], b"Internal Server Error")
        elif self._state == "open":
            self._close(CloseCode.INTERNAL_ERROR if failed else CloseCode.NORMAL, "")

    # What the keepalive calls: the application has no part in it

    def ping(self) -> None:
        """Ask the client for a sign of life."""
        self._transport.ping()

    def listens(self) -> bool:
        """Tell whether an answer would be read, or it is the client who takes nothing."""
        return self._reading or not self._writable

    def silent(self) -> None:
        """Close, with the code of uvicorn's own protocols: no answer came in time."""
        self._close(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self._leave()

    # What the transport calls

    def taken_over(self) -> None:
        """Take that the connection has another listener from now on: the application can send no more."""
        self._leave()
        self._events.clear()
        self._bytes = 0

    def heard_from(self, control_frames: int = 0) -> None:  # noqa: ARG002
        """Count a sign of life."""
        self.signs += 1

    def received(self, message: str | bytes, more: bool = False) -> bool:  # noqa: ARG002
        """Queue a message; false when the queue is full."""
        self.signs += 1
        kind = "text" if isinstance(message, str) else "bytes"
        self._bytes += len(message)
        self._put({"type": "websocket.receive", kind: message})
        if len(self._events) < MAX_WAITING and self._bytes < self._settings.max_inbox_bytes:
            return True
        self._reading = False
        self._transport.pause_reading()
        return False

    def bookmark(self) -> None:
        """Return nothing: the application's WebSocket has no session."""

    def pause_writing(self) -> None:
        """Have `send` wait: the transport's buffer is full."""
        self._writable = False

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._writable = True
        self.signs += 1  # of life: it takes what it is sent
        self._written = _wake(self._written)

    def failing(self) -> None:
        """Take that the client closes or broke the protocol."""
        self._leave()
        self._limit_close()

    def ended(self, ending: Ending) -> None:
        """Tell the application that the client is gone."""
        self._leave_alone()
        if self._deadline is not None:
            self._deadline.cancel()
        self._leave()
        code, reason = ending.received or ending.sent or (CloseCode.ABNORMAL, "")
        self._put({"type": "websocket.disconnect", "code": int(code), "reason": reason})

    def shut_down(self) -> None:
        """Close: the server stops."""
        if self._state == "open":
            self._close(CloseCode.SERVICE_RESTART, "the server restarts")
        elif self._state in ("opening", "refusing"):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, [], b"The server restarts.")
        self._leave()

    def _leave(self) -> None:
        """Let nothing more be sent, with :exc:`OSError`: it is not the application's doing."""
        self._state = "gone"
        self._written = _wake(self._written)

    def _put(self, event: Message) -> None:
        self._events.append(event)
        self._arrived = _wake(self._arrived)


def _wake(waiting: asyncio.Future[None] | None) -> asyncio.Future[None] | None:
    """Wake whoever waits; return what to wait for from now on: nothing."""
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
    return None
