"""Hosts that are no ASGI servers: their requests as ASGI scopes, and what `receive` and `send` share.

So every line that a hub speaks over ASGI works in them (ASGI specification, HTTP and WebSocket, version 2.5).
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from http import HTTPStatus
from typing import Literal
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from starlette.types import Message, Scope

from ..app import Hubbub
from ..transports.keepalive import Keepalive
from ..transports.streamed import STREAMED

Headers = list[tuple[bytes, bytes]]

MOST_WAITING = 16
"""Events that wait for the application; past it the client is not read."""


def scope_of(
    kind: Literal["http", "websocket"],
    *,
    method: str,
    target: str,
    headers: Headers,
    secure: bool,
    client: tuple[str, int] | None,
    root_path: str = "",
) -> Scope:
    """Return the scope of a request; `target` is its path and query as they were sent."""
    raw_path, _, query = target.partition("?")
    scheme = "http" if kind == "http" else "ws"
    scope: Scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": scheme + "s" * secure,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": root_path,
        "headers": headers,
        "client": client,
        "server": None,
        "extensions": {},
    }
    if kind == "http":
        return {**scope, "method": method.upper()}
    offered = [value for name, value in headers if name == b"sec-websocket-protocol"]
    subprotocols = [name.strip() for name in b",".join(offered).decode("latin-1").split(",") if name.strip()]
    return {**scope, "subprotocols": subprotocols, "extensions": {"websocket.http.response": {}}}


def phrase(status: int) -> str:
    """Return what a status is called; hosts ask for it where they don't know one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class Arrivals:
    """Events on their way to the application: one task puts them, one takes them, and the end is the last."""

    def __init__(self) -> None:
        self._events: deque[Message] = deque()
        self._end: Message | None = None
        self._changed = asyncio.Event()

    async def put(self, event: Message) -> None:
        """Add an event; wait while there are too many. After the end it is dropped."""
        while len(self._events) >= MOST_WAITING and self._end is None:
            self._changed.clear()
            await self._changed.wait()
        if self._end is None:
            self._events.append(event)
            self._changed.set()

    def end(self, event: Message) -> None:
        """Let nothing follow but this."""
        if self._end is None:
            self._end = event
            self._changed.set()

    async def take(self) -> Message:
        """Return the next event; at the end the last one, however often."""
        while not self._events:
            if self._end is not None:
                return self._end
            self._changed.clear()
            await self._changed.wait()
        self._changed.set()
        return self._events.popleft()


class HTTPExchange(ABC):
    """A request and its response: `send` as ASGI has it, and what the host has to do for it.

    It is also the request's connection, as :class:`..transports.streamed.Streamed` has it.
    """

    def __init__(self) -> None:
        self.begun = False
        self.finished = False

    @property
    def extensions(self) -> dict[str, object]:
        """What the request's scope offers."""
        return {STREAMED: {"connection": self}}

    async def send(self, message: Message) -> None:
        """Do what an event asks for; :exc:`OSError` if the client is gone."""
        kind = message["type"]
        if kind == "http.response.start" and not self.begun:
            self.begun = True
            await self.respond(message["status"], list(message.get("headers", ())))
        elif kind == "http.response.body" and self.begun and not self.finished:
            self.finished = not message.get("more_body", False)
            await self.write(bytes(message.get("body", b"")), last=self.finished)
        else:
            raise RuntimeError(f"{kind!r} can't be sent now.")

    def leave(self) -> None:
        """Cut an answer that the application did not finish."""
        if self.begun and not self.finished:
            self.cut()

    @abstractmethod
    async def respond(self, status: int, headers: Headers) -> None:
        """Begin the response."""

    @abstractmethod
    async def write(self, data: bytes, *, last: bool) -> None:
        """Send a part of its body; wait while the client does not read."""

    @abstractmethod
    def cut(self) -> None:
        """End the connection at once."""

    @abstractmethod
    def die_after(self, seconds: float) -> None:
        """Have the connection end when what was sent is not acknowledged for so long."""


_KEEPALIVES: WeakKeyDictionary[Hubbub, Keepalive] = WeakKeyDictionary()


def keepalive_of(hub: Hubbub) -> Keepalive:
    """Return what looks after the WebSockets of a hub: hosts keep to its settings for pings in part only."""
    keepalive = _KEEPALIVES.get(hub)
    if keepalive is None:
        settings = hub.settings
        keepalive = _KEEPALIVES[hub] = Keepalive(settings.ping_interval, settings.ping_timeout)
    return keepalive


class WebSocketExchange(ABC):
    """A WebSocket from its handshake on: `send` as ASGI has it, and what the host has to do for it.

    It is pinged by :func:`keepalive_of` the hub.
    """

    def __init__(self) -> None:
        self.signs = 0
        """How often something was heard of the client."""
        self._writing = 0
        self._seen_writing = False  # whether a message was being sent when that was last looked at
        self._state: Literal["connecting", "refusing", "open", "closed"] = "connecting"
        self._refusal: tuple[int, Headers] = (HTTPStatus.FORBIDDEN, [])
        self._body = b""

    @property
    def open(self) -> bool:
        """Whether it was accepted and not closed from here."""
        return self._state == "open"

    async def send(self, message: Message) -> None:
        """Do what an event asks for; :exc:`OSError` if the client is gone."""
        kind = message["type"]
        if kind == "websocket.send" and self._state == "open":
            text = message.get("text")
            await self._write(message.get("bytes") or b"" if text is None else text)
        elif kind == "websocket.close" and self._state == "open":
            self._state = "closed"
            await self.close(int(message.get("code") or 1000), message.get("reason") or "")
        elif kind == "websocket.accept" and self._state == "connecting":
            self._state = "open"
            await self.accept(message.get("subprotocol"), list(message.get("headers", ())))
        elif kind == "websocket.close" and self._state == "connecting":
            await self._refuse()
        elif kind == "websocket.http.response.start" and self._state == "connecting":
            self._state = "refusing"
            self._refusal = message["status"], list(message.get("headers", ()))
        elif kind == "websocket.http.response.body" and self._state == "refusing":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._refuse()
        else:
            raise RuntimeError(f"{kind!r} can't be sent while the WebSocket is {self._state}.")

    async def _write(self, message: str | bytes) -> None:
        self._writing += 1
        try:
            await self.write(message)
        finally:
            self._writing -= 1
        if self._seen_writing:
            self._seen_writing = False
            self.signs += 1  # of life: it took what was waiting for it

    def listens(self) -> bool:
        """Tell whether an answer to a ping would be read, or it is the client who takes nothing."""
        self._seen_writing = self._writing > 0
        return self.reading or self._seen_writing

    async def _refuse(self) -> None:
        self._state = "closed"
        await self.refuse(*self._refusal, self._body)

    @property
    @abstractmethod
    def reading(self) -> bool:
        """Whether an answer to a ping would be read."""

    @abstractmethod
    def ping(self) -> None:
        """Ask the client for a sign of life."""

    @abstractmethod
    def silent(self) -> None:
        """Cut the line: no sign of life came in time."""

    @abstractmethod
    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Finish the handshake."""

    @abstractmethod
    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the handshake with a response."""

    @abstractmethod
    async def write(self, message: str | bytes) -> None:
        """Send a message; wait while the client does not read."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Close."""


def gone(code: int | None, reason: str | None) -> Message:
    """Return the event of a WebSocket's end; without a code it is that of a lost line."""
    return {"type": "websocket.disconnect", "code": code or 1006, "reason": reason or ""}


def texts_of(headers: Headers, *, without: bytes = b"") -> list[tuple[str, str]]:
    """Return headers as text, but for those of a name that the host sees to itself."""
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name.lower() != without
    ]
