"""ASGI events over the native transport, for applications that don't take the connection over."""

import asyncio
from collections import deque
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message

from ..engine.outbox import Chunk
from ..engine.transport import Ending, Transport
from ..protocol.codes import CloseCode

MAX_WAITING = 16
"""Messages that wait for the application; past it the socket is not read."""

CLOSE_TIMEOUT = 10.0
"""Seconds to wait for the client's part of a close."""


class Opening(Transport, Protocol):
    """A transport whose handshake is still open, so that it can be refused."""

    def refuse(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer with an HTTP response instead of a WebSocket."""

    def open(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Finish the opening handshake."""


class Events:
    """The `receive` and `send` of one connection (ASGI specification, WebSocket, version 2.4)."""

    def __init__(self, transport: Opening, max_message: int) -> None:
        self.max_message = max_message
        self._transport = transport
        self._events: deque[Message] = deque([{"type": "websocket.connect"}])
        self._arrived = asyncio.Event()
        self._arrived.set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._state = "opening"
        self._refusal: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._body = b""
        self._deadline: asyncio.TimerHandle | None = None

    # What the application calls

    async def receive(self) -> Message:
        """Return the next event."""
        await self._arrived.wait()
        message = self._events.popleft()
        if not self._events:
            self._arrived.clear()
            self._transport.resume_reading()
        return message

    async def send(self, message: Message) -> None:
        """Do what an event asks for; :exc:`OSError` when the client is gone."""
        await self._writable.wait()
        if self._state == "gone":
            raise OSError("The client is gone.")
        step = getattr(self, f"_{self._state}", None)
        if step is None or not step(message):
            raise RuntimeError(f"{message['type']!r} can't be sent while the WebSocket is {self._state}.")

    def _opening(self, message: Message) -> bool:
        kind = message["type"]
        if kind == "websocket.accept":
            self._state = "open"
            self._transport.open(message.get("subprotocol"), list(message.get("headers", ())))
        elif kind == "websocket.close":
            self._refuse(HTTPStatus.FORBIDDEN, [], b"")
        elif kind == "websocket.http.response.start":
            self._refusal = (message["status"], list(message.get("headers", ())))
            self._state = "refusing"
        else:
            return False
        return True

    def _refusing(self, message: Message) -> bool:
        if message["type"] != "websocket.http.response.body" or self._refusal is None:
            return False
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            self._refuse(*self._refusal, self._body)
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
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def finish(self, failed: bool) -> None:
        """Close what the application left open when it returned, or raised."""
        if self._state in ("opening", "refusing"):
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, [], b"Internal Server Error")
        elif self._state == "open":
            self._close(CloseCode.INTERNAL_ERROR if failed else CloseCode.NORMAL, "")

    # What the transport calls

    def heard_from(self) -> None:
        """Nothing: the application has no part in heartbeats."""

    def received(self, message: str | bytes) -> bool:
        """Queue a message; false when the queue is full."""
        kind = "text" if isinstance(message, str) else "bytes"
        self._put({"type": "websocket.receive", kind: message})
        if len(self._events) < MAX_WAITING:
            return True
        self._transport.pause_reading()
        return False

    def pause_writing(self) -> None:
        """Have `send` wait: the transport's buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._writable.set()

    def failing(self) -> None:
        """Take that the client closes or broke the protocol."""
        self._state = "gone"
        self._limit_close()

    def ended(self, ending: Ending) -> None:
        """Tell the application that the client is gone."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._state = "gone"
        self._writable.set()
        code, reason = ending.received or ending.sent or (CloseCode.ABNORMAL, "")
        self._put({"type": "websocket.disconnect", "code": int(code), "reason": reason})

    def shut_down(self) -> None:
        """Close: the server stops."""
        if self._state == "open":
            self._close(CloseCode.SERVICE_RESTART, "the server restarts")
        elif self._state in ("opening", "refusing"):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, [], b"The server restarts.")

    def _put(self, event: Message) -> None:
        self._events.append(event)
        self._arrived.set()
