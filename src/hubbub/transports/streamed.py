"""Answers that go on for long, under hubbub's own server: what uvicorn does not do for them."""

import asyncio
import socket
from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

STREAMED = "hubbub.streamed"
"""The scope's extension that offers an application a :class:`Streamed`, as ``connection``."""


class Streamed(Protocol):
    """The connection of a request whose answer goes on for long.

    Where there is one, a `receive` that is cancelled loses nothing.
    """

    def cut(self) -> None:
        """End it at once, whether its client reads or not."""

    def die_after(self, seconds: float) -> None:
        """Have it end when what was sent is not acknowledged for so long (RFC 5482), where there is such."""


def streamed(scope: Scope) -> Streamed | None:
    """Return the connection of a request, if its server offers it."""
    offered: Streamed | None = (scope.get("extensions") or {}).get(STREAMED, {}).get("connection")
    return offered


LONGEST = 2**31 - 1
"""Milliseconds that the kernel takes at the most."""


def die_after(connection: socket.socket | None, seconds: float) -> None:
    """Have a TCP connection end when what was sent on it is not acknowledged for some seconds."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connection is not None and connection.family != socket.AF_UNIX:
        with suppress(OSError):  # it was lost meanwhile, which whoever answers on it is told
            connection.setsockopt(socket.IPPROTO_TCP, option, int(min(seconds * 1000, LONGEST)))


class Answered:
    """An application that answers one request, without what uvicorn lets get out of hand."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle
        self._send: Send = cycle.send  # type: ignore[assignment]  # uvicorn's types name each event
        if cycle.scope["http_version"] == "1.0":
            self._send = Unframed(cycle)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # noqa: ARG002
        """Return what serves the request."""
        return self._app(scope, receive, self._send_or_yield)

    def _send_or_yield(self, message: Message) -> Awaitable[None]:
        # Where nobody is there any more, uvicorn's does nothing and waits for nothing: an answer that is made
        # without waiting either would go on for ever, and no task would be told, nor cancelled.
        return asyncio.sleep(0) if self._cycle.disconnected else self._send(message)


class Unframed:
    """Sends an answer without length to a client of HTTP/1.0: its end is the connection's.

    Such a client knows no chunks, and must not be sent any (RFC 9112 section 6.1); uvicorn sends them.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send: Send = cycle.send  # type: ignore[assignment]  # uvicorn's types name each event
        self._measured = True

    async def __call__(self, message: Message) -> None:
        """Send an event."""
        cycle = self._cycle
        if message["type"] == "http.response.start":
            self._measured = any(name.lower() == b"content-length" for name, _ in message["headers"])
            if not self._measured:
                cycle.chunked_encoding = cycle.keep_alive = False
        elif not self._measured:
            # It takes off what is sent, and wants nothing to be left in the end.
            cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)
