"""uvicorn's HTTP protocol with a limit on the time that a client may take to ask for something."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Silent(Protocol):
    """A connection from which no whole request has come yet."""

    def expire(self) -> None:
        """Close it: its time is over."""


@dataclass
class Handshakes:
    """Connections from which no whole request head has come yet, each with its deadline.

    `timeout` is in seconds from accept. Deadlines are in the order of the dictionary, since all have the
    same time.
    """

    timeout: float
    waiting: dict[Silent, float] = field(default_factory=dict)

    def expire(self, now: float) -> None:
        """Close those whose time is over; `now` is the event loop's time in seconds."""
        for connection, deadline in list(self.waiting.items()):
            if deadline > now:
                break
            del self.waiting[connection]
            connection.expire()


class HTTPState(ServerState):
    """What uvicorn's connections share, and their handshakes."""

    def __init__(self, handshakes: Handshakes) -> None:
        super().__init__()
        self.handshakes = handshakes


class HTTPProtocol(HttpToolsProtocol):
    """An HTTP connection that has to send its first request in time."""

    def __init__(
        self,
        config: Config,
        server_state: HTTPState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._handshakes = server_state.handshakes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client its deadline."""
        super().connection_made(transport)
        self._handshakes.waiting[self] = self.loop.time() + self._handshakes.timeout

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._handshakes.waiting.pop(self, None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Give a request that follows on the same connection its own deadline."""
        self._handshakes.waiting.setdefault(self, self.loop.time() + self._handshakes.timeout)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Forget the deadline: the request's head is whole."""
        self._handshakes.waiting.pop(self, None)
        super().on_headers_complete()

    def expire(self) -> None:
        """Answer 408 (RFC 9110 section 15.5.9) and close."""
        self.transport.write(_TOO_LATE)
        self.transport.close()
