"""What Daphne does not pass on between an ASGI application and its connections, done to these themselves.

Daphne 4 refuses WebSockets with 403 only, sends no close reason and of the codes below 3000 only 1000, writes
without end for a client that does not read, reads without end for an application that does not receive, and
leaves the connection open when the application returns. Its protocol objects, which its `send` is bound to,
can do better.
"""

import asyncio
import functools
import socket
import sys
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Protocol, cast

from starlette.types import Message, Scope, Send

from ..observe.log import logger
from .streamed import STREAMED, die_after

WEBSOCKETS, REQUESTS = "daphne.ws_protocol", "daphne.http_protocol"
"""Where the classes of the protocol objects are defined."""

STATE_OPEN = 3
"""Of Autobahn's WebSocketProtocol: the handshake is done, and no close frame was sent."""

LONGEST_REASON = 123
"""Bytes that a close frame has room for (RFC 6455 section 5.5)."""


CLOSES_WITHIN = 10.0
"""Seconds that the client has for its part of a close.

Autobahn's one is too short for who reads slowly: it loses what it has not read, the reason of the close too.
"""


class Transport(Protocol):
    """Twisted's ITCPTransport and IPushProducer, as far as they are used here."""

    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: D102, N802
    def unregisterProducer(self) -> None: ...  # noqa: D102, N802
    def pauseProducing(self) -> None: ...  # noqa: D102, N802
    def resumeProducing(self) -> None: ...  # noqa: D102, N802
    def abortConnection(self) -> None: ...  # noqa: D102, N802
    def getHandle(self) -> socket.socket: ...  # noqa: D102, N802


class Deferred(Protocol):
    """Twisted's Deferred, as far as it is used here."""

    def errback(self, problem: BaseException) -> None: ...  # noqa: D102


class Server(Protocol):
    """daphne.server.Server, as far as it is used here."""

    def protocol_disconnected(self, protocol: object) -> None: ...  # noqa: D102


class WebSocket(Protocol):
    """daphne.ws_protocol.WebSocketProtocol, as far as it is used here."""

    state: int
    transport: Transport
    server: Server
    closeHandshakeTimeout: float  # noqa: N815
    handshake_deferred: Deferred

    def sendCloseFrame(self, code: int, reasonUtf8: bytes) -> None: ...  # noqa: D102, N802, N803


class Channel(Protocol):
    """twisted.web.http.HTTPChannel, as far as it is used here."""

    transport: Transport


class Request(Protocol):
    """daphne.http_protocol.WebRequest, as far as it is used here."""

    channel: Channel | None
    finished: int

    def registerProducer(self, producer: object, streaming: bool) -> None: ...  # noqa: D102, N802
    def unregisterProducer(self) -> None: ...  # noqa: D102, N802


class Pushing:
    """What Twisted tells whoever writes to a connection (IPushProducer)."""

    def __init__(self) -> None:
        self.writable = asyncio.Event()
        """Whether the transport's buffer has room."""
        self.writable.set()

    def pauseProducing(self) -> None:  # noqa: N802
        """Write no more: the transport's buffer is full."""
        self.writable.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        """Write again."""
        self.writable.set()

    def stopProducing(self) -> None:  # noqa: N802
        """Take that the connection is gone."""
        self.writable.set()


class DaphneResponse(Pushing):
    """The `send` of one HTTP request under Daphne, and its connection while the answer goes on.

    The connection's part is what :class:`.streamed.Streamed` asks for.
    """

    def __init__(self, request: Request, send: Send) -> None:
        super().__init__()
        self._request = request
        self._send = send
        self._begun = False

    async def __call__(self, message: Message) -> None:
        """Do what an event asks for; wait while the client does not read."""
        request = self._request
        if request.channel is None:
            raise ConnectionResetError("The client is gone.")
        if self._begun and not message.get("more_body", False):
            request.unregisterProducer()
        await self._send(message)
        if message["type"] == "http.response.start":
            self._begun = True
            request.registerProducer(self, True)
        elif not self.writable.is_set():
            await self.writable.wait()

    def cut(self) -> None:
        """End the connection at once, if its answer has not ended."""
        if self._request.channel is not None and not self._request.finished:
            self._request.channel.transport.abortConnection()

    def die_after(self, seconds: float) -> None:
        """Have the connection end when what was sent is not acknowledged for so long."""
        if self._request.channel is not None:
            die_after(self._request.channel.transport.getHandle(), seconds)

    async def carry(self, answering: Awaitable[None]) -> None:
        """Have the application answer; the connection does not outlive that."""
        try:
            await answering
        finally:
            if self._begun:
                self.cut()


class DaphneLine(Pushing):
    """The `send` of one WebSocket under Daphne, and what ASGI has no events for."""

    def __init__(self, websocket: WebSocket, send: Send) -> None:
        super().__init__()
        self._websocket = websocket
        self._send = send
        self._status = 0
        self._reading = True

    async def __call__(self, message: Message) -> None:
        """Do what an event asks for; wait while the client does not read."""
        kind = message["type"]
        if kind == "websocket.http.response.start":
            self._status = message["status"]
        elif kind == "websocket.http.response.body":
            if not message.get("more_body", False):
                self._refuse(self._status)
        elif kind == "websocket.close" and self._websocket.state == STATE_OPEN:
            reason = (message.get("reason") or "").encode()[:LONGEST_REASON].decode(errors="ignore")
            self.resume_reading()
            self._websocket.closeHandshakeTimeout = CLOSES_WITHIN
            self._websocket.sendCloseFrame(message.get("code", 1000), reason.encode())
        else:
            await self._send(message)
            if kind == "websocket.accept":
                # The producer so far is that of the HTTP connection which this was.
                self._websocket.transport.unregisterProducer()
                self._websocket.transport.registerProducer(self, True)
            elif not self.writable.is_set():
                await self.writable.wait()

    def _refuse(self, status: int) -> None:
        """Answer the handshake with a status; Autobahn's answer has no body and no headers."""
        from autobahn.websocket.types import ConnectionDeny  # Daphne stands on it

        websocket = self._websocket
        handshake = websocket.handshake_deferred
        del websocket.handshake_deferred
        denial: type[Exception] = ConnectionDeny
        handshake.errback(denial(status, HTTPStatus(status).phrase))
        websocket.server.protocol_disconnected(websocket)

    def cut(self) -> None:
        """End the line at once."""
        self._websocket.transport.abortConnection()

    def pause_reading(self) -> None:
        """Leave what the client sends in its socket."""
        if self._reading:
            self._reading = False
            self._websocket.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._reading:
            self._reading = True
            self._websocket.transport.resumeProducing()


def under_daphne(scope: Scope, send: Send) -> DaphneLine | None:
    """Return a WebSocket's line if Daphne serves it; None if it does not, or is not to be recognised.

    With the line, the `scope` says that refusals are possible.
    """
    protocol = _protocol(scope, send, WEBSOCKETS)
    if protocol is None:
        return None
    scope["extensions"] = {"websocket.http.response": {}}
    return DaphneLine(cast(WebSocket, protocol), send)


def response_under_daphne(scope: Scope, send: Send) -> DaphneResponse | None:
    """Return the response to a request if Daphne serves it; the `scope` offers its connection then."""
    protocol = _protocol(scope, send, REQUESTS)
    if protocol is None:
        return None
    response = DaphneResponse(cast(Request, protocol), send)
    scope["extensions"] = {STREAMED: {"connection": response}}
    return response


def _protocol(scope: Scope, send: Send, module: str) -> object | None:
    if "extensions" in scope:
        return None
    # Channels' SessionMiddleware has put its own in between, and keeps what it was given.
    inner = getattr(getattr(send, "__self__", None), "real_send", send)
    arguments = inner.args if isinstance(inner, functools.partial) else ()
    for found in arguments[:1]:
        if type(found).__module__ == module and all(hasattr(found, name) for name in _USED[module]):
            return cast(object, found)
    if "daphne.server" in sys.modules:
        _warn()
    return None


_USED = {
    WEBSOCKETS: (
        *("state", "transport", "server", "handshake_deferred"),
        *("closeHandshakeTimeout", "sendCloseFrame"),
    ),
    REQUESTS: ("channel", "finished", "registerProducer", "unregisterProducer"),
}
"""What Daphne's protocol objects are asked for, which it does not promise to leave as it is."""


@functools.cache
def _warn() -> None:
    """Say once that it is not as above."""
    logger.warning(
        "a connection of Daphne's is not recognised: its version is another, or middleware has put its own "
        "`send` in between; refusals are 403, close codes are lost, and slow clients are not noticed"
    )
