"""uvicorn's own WebSocket protocol, held to the limits that it lacks: what serves plain ASGI events."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.streams import StreamReader

from ..settings import Settings
from .asgi import Noted
from .native import FRAMES_PER_TURN

NOTED = "hubbub.noted"
"""The scope's extension that is the line's :class:`.asgi.Noted`."""

PONG = 0x80 | Opcode.PONG
"""First byte of a pong's frame."""


class TurnReader(StreamReader):
    """What a client has sent, of which the parser is given so many frames and no more in a turn."""

    frames_left = FRAMES_PER_TURN

    def at_eof(self) -> Generator[None, None, bool]:
        """Wait for a frame, and for a turn to read it in; the parser asks this before each."""
        while not (self.buffer and self.frames_left):
            if self.eof and not self.buffer:
                return True
            yield
        self.frames_left -= 1
        return False


class LimitedProtocol(WebSocketsSansIOProtocol):
    """As uvicorn has it, with bounds on what a client may make it do and keep, and for how long.

    uvicorn bounds the size of a message, of fragments together, and of what is inflated. It keeps each
    fragment as an object, an empty one too, and writes a pong for each ping, whether it is read or not. All
    frames that came together are handled in one turn of the event loop, and nobody counts them. A line that
    it closes stays for as long as the client does not read what was written before.
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
        self._noted: Noted | None = None
        self._control_frames = 0  # of this turn
        self._continuing = False  # whether what is left in the reader is read in the next turn
        # The parser that began with the other reader would go on with it.
        self._reader = self.conn.reader = TurnReader()
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)
        self._cut: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Read so many frames, once the handshake is complete; until then they stay in the socket.

        What `websockets` answers to a head that it does not take is sent, which uvicorn keeps.
        """
        if not self.handshake_complete:
            self._begin(data)
            return
        reader = self._reader
        if self._continuing:
            reader.feed_data(data)  # the loop had this already when reading was paused
            return
        reader.frames_left = FRAMES_PER_TURN
        super().data_received(data)
        if self._control_frames:
            # The messages before them are with the application by then.
            self.loop.call_soon(self._count, self._control_frames)
            self._control_frames = 0
        if not reader.frames_left and reader.buffer and not self.transport.is_closing():
            self._continuing = True
            self.transport.pause_reading()
            self.read_paused = False  # so that `receive` does not resume it
            self.loop.call_soon(self._read_on)

    def _begin(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._early += data
            self.transport.pause_reading()
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def _read_on(self) -> None:
        """Read in another turn what is left, and only then from the socket again."""
        self._continuing = False
        if self.disconnected or self.transport.is_closing():
            return
        self.data_received(b"")
        if not (self._continuing or self.transport.is_closing()):
            self.read_paused = not (self.queue.empty() or self.close_sent)
            if not self.read_paused:
                self.transport.resume_reading()

    def eof_received(self) -> None:
        """Read all that is left before the event loop closes the socket: over TLS they come together."""
        while self._continuing:
            self._continuing = False
            self.data_received(b"")

    def _count(self, control_frames: int) -> None:
        if self._noted is not None and self._noted.listener is not None:
            self._noted.listener.heard_from(control_frames)

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
            self.scope["extensions"][NOTED] = self._noted = Noted(self.opened)  # type: ignore[assignment]

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
        self._control_frames += 1
        if self.writable.is_set():
            super().handle_ping()
        else:
            # Among them is the answer to a close frame that came right behind.
            answers = [answer for answer in self.conn.data_to_send() if answer and answer[0] != PONG]
            self.transport.write(b"".join(answers))

    def handle_pong(self, event: Frame) -> None:
        """Take a pong, whether it was asked for or not."""
        self._control_frames += 1
        super().handle_pong(event)

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
