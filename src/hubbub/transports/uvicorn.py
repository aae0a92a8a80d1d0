"""uvicorn's own WebSocket protocol, held to the limits that it lacks: what serves plain ASGI events."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request

from ..settings import Settings

OPENED = "hubbub.opened"
"""The scope's extension that says since when its client has been connecting, in the event loop's time."""

PONG = 0x80 | Opcode.PONG
"""First byte of a pong's frame."""


class LimitedProtocol(WebSocketsSansIOProtocol):
    """As uvicorn has it, with bounds on what a client may make it keep, and for how long.

    uvicorn bounds the size of a message, of fragments together, and of what is inflated. It keeps each
    fragment as an object, an empty one too, and writes a pong for each ping, whether it is read or not. A
    line that it closes stays for as long as the client does not read what was written before.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,
        *,
        settings: Settings,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.close_timeout = settings.close_timeout
        self._max_fragments = settings.max_fragments
        self.opened = 0.0
        """Since when the client has been connecting, in the event loop's time; 0 if that is not known."""
        self._early = b""  # what the client sent before the answer to its handshake
        self._cut: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Read, frames only once the handshake is complete; until then they stay in the socket.

        What `websockets` answers to a head that it does not take is sent, which uvicorn keeps.
        """
        if self.handshake_complete:
            super().data_received(data)
        elif self.handshake_initiated:
            self._early += data
            self.transport.pause_reading()
        else:
            super().data_received(data)
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self.transport.write(b"".join(self.conn.data_to_send()))
                self.transport.close()

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """Do what an event asks for; with the handshake complete, read what came early."""
        if self.handshake_complete and not self._early:
            return super().send(message)
        return self._answer(message)

    async def _answer(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.close_sent:
            # A response in the place of a WebSocket completes it too: otherwise that is logged as an error.
            self.handshake_complete = True
        elif self._early and self.handshake_complete:
            early, self._early = self._early, b""
            self.transport.resume_reading()
            self.data_received(early)

    def handle_connect(self, event: Request) -> None:
        """Have the application serve the connection, and tell it since when that has been coming."""
        super().handle_connect(event)
        if not self.handshake_complete:
            # The application's task begins in the next turn.
            self.scope["extensions"][OPENED] = {"since": self.opened}

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment to its message."""
        if self.close_sent:
            self.frames.clear()
        elif len(self.frames) < self._max_fragments:
            super().handle_cont(event)
        else:
            self.frames.clear()
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"over the limit of {self._max_fragments} fragments")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Answer a ping, if the client reads what is written (RFC 6455 section 5.5.3 lets it be left out)."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            # Among them is the answer to a close frame that came right behind.
            answers = [answer for answer in self.conn.data_to_send() if answer and answer[0] != PONG]
            self.transport.write(b"".join(answers))

    # Where the line is closed

    def handle_close(self, event: Frame) -> None:
        """Answer a close frame, and close."""
        super().handle_close(event)
        self._cut_off()

    def handle_parser_exception(self) -> None:
        """Close: the client broke the protocol."""
        super().handle_parser_exception()
        self._cut_off()

    def keepalive_timeout(self) -> None:
        """Close: the client did not answer a ping."""
        super().keepalive_timeout()
        self._cut_off()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Close what the application left open."""
        super().on_task_complete(task)
        self._cut_off()

    def shutdown(self) -> None:
        """Close: the server stops."""
        super().shutdown()
        self._cut_off()

    def _cut_off(self) -> None:
        """End the line in time: `close` waits until all that was written is read, which may be never."""
        if self._cut is None and not self.disconnected:
            self._cut = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time-out."""
        if self._cut is not None:
            self._cut.cancel()
        self._early = b""
        super().connection_lost(exc)
