"""WebSockets on uvicorn without an ASGI event for each message: a protocol class for its ``ws=`` setting.

The ASGI application runs as under any server, so that the host's routing, middleware and login apply.
``scope["extensions"]["hubbub"]`` is the connection's :class:`WebSocketProtocol`; an endpoint that knows it
calls :meth:`WebSocketProtocol.accept` and has the socket to itself from then on. All other applications
go on with ASGI events.
"""

import asyncio
import logging
from collections.abc import Sequence
from http.client import responses
from typing import cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from websockets.frames import Close, Frame, Opcode

from ..engine.outbox import Chunk
from ..engine.transport import Ending, Listener
from ..protocol import frames
from ..protocol.frames import Assembler, read_messages
from .events import Events
from .handshake import Handshake, read_handshake, refusal

EXTENSION = "hubbub"
"""Name of the entry in ``scope["extensions"]``."""

logger = logging.getLogger("hubbub.native")


def frame(payload: bytes, binary: bool) -> Chunk:
    """Return the frame that sends a message; one frame serves many connections."""
    return frames.frame(frames.BINARY if binary else frames.TEXT, payload)


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection, from the HTTP upgrade to the end of its socket."""

    __slots__ = (
        "_assembler", "_backlog", "_config", "_discarding", "_handshake", "_listener", "_open", "_reading",
        "_received", "_received_first", "_sent", "_server_state", "_socket", "_state", "_writable",
    )  # fmt: skip

    framing = staticmethod(frame)
    pings = True

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self._config = config
        self._server_state = server_state
        self._state = app_state
        self._socket: asyncio.Transport
        self._handshake: Handshake | None = None
        self._listener: Listener | None = None
        self._assembler: Assembler | None = None
        self._backlog = b""
        self._reading = True
        self._open = False
        self._writable = True
        self._discarding = False
        self._received: tuple[int, str] | None = None
        self._sent: tuple[int, str] | None = None
        self._received_first = False

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket over from the HTTP protocol."""
        # uvloop's transports do not derive from asyncio's.
        self._socket = cast(asyncio.Transport, transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Read the handshake first, then frames."""
        if self._open:
            self._read(data)
        elif self._handshake is None:
            self._begin(data)
        else:
            # The client did not wait for the answer to its handshake. What was read of it already is kept,
            # the rest stays in its socket.
            self._backlog += data
            self.pause_reading()

    def pause_writing(self) -> None:
        """Pass on that the socket's buffer is full."""
        self._writable = False
        if self._listener is not None:
            self._listener.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the socket takes more."""
        self._writable = True
        if self._listener is not None:
            self._listener.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the listener how it ended."""
        self._open = False
        self._server_state.connections.discard(self)
        self._assembler = None
        self._backlog = b""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.ended(Ending(self._received, self._sent, self._received_first))

    def shutdown(self) -> None:
        """Leave: called by uvicorn when the server stops."""
        if self._listener is not None:
            self._listener.shut_down()
        else:
            self._socket.close()

    # The opening handshake

    def _begin(self, data: bytes) -> None:
        handshake = read_handshake(data)
        if isinstance(handshake, bytes):
            self._socket.write(handshake)
            self._socket.close()
            return
        self._handshake = handshake
        config, root_path = self._config, self._config.root_path
        self._listener = events = Events(self, config.ws_max_size)
        scope: dict[str, object] = {
            "type": "websocket",
            "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self._socket) else "ws",
            "server": get_local_addr(self._socket),
            "client": get_remote_addr(self._socket),
            "root_path": root_path,
            "path": root_path + handshake.path,
            "raw_path": (root_path + handshake.raw_path).encode("latin-1"),
            "query_string": handshake.query,
            "headers": handshake.headers,
            "subprotocols": handshake.subprotocols,
            "state": self._state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: self},
        }
        task = asyncio.get_running_loop().create_task(self._run(scope, events))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    async def _run(self, scope: dict[str, object], events: Events) -> None:
        failed = False
        try:
            await self._config.loaded_app(scope, events.receive, events.send)
        except OSError as gone:
            # Raised by `send` when the client is gone, if the application lets it pass.
            logger.debug("connection lost: %s", gone)
        except Exception:
            failed = True
            logger.exception("error in the ASGI application")
        finally:
            if self._listener is events:
                events.finish(failed)

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:
        """Finish the handshake and hand the connection over to `listener`."""
        if self._listener is None:
            listener.ended(Ending())
            return
        self._listener = listener
        self.open(subprotocol, ())

    def open(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Finish the handshake; what the client may have sent already is read."""
        assert self._handshake is not None
        every = [*self._server_state.default_headers, *headers]
        self._socket.write(self._handshake.response(subprotocol, every))
        self._open = True
        self.resume_reading()

    def refuse(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with an HTTP response and close."""
        every = [*self._server_state.default_headers, *headers]
        self._socket.write(refusal(status, responses.get(status, ""), every, body))
        self._socket.close()

    # Frames in

    def _read(self, data: bytes) -> None:
        if self._backlog:
            data, self._backlog = self._backlog + data, b""
        position, end = 0, len(data)
        listener = self._listener
        while position < end and listener is not None and not self._discarding:
            if not self._reading:
                self._backlog = data[position:]
                return
            if self._assembler is None and self._sent is None:
                position = read_messages(data, position, listener.max_message, listener.received)
                if position == end or not self._reading:
                    continue
            position = self._assemble(data, position, listener)

    def _assemble(self, data: bytes, position: int, listener: Listener) -> int:
        assembler = self._assembler or Assembler(listener.max_message, logger)
        self._assembler = assembler
        position = assembler.receive(data, position, listener.received if self._sent is None else _ignore)
        listener.heard_from()
        if assembler.closed or assembler.failed:
            self._finish(assembler, listener)
        elif assembler.output:
            # Whoever does not read gets no pongs on top (RFC 6455 section 5.5.3 lets them be left out).
            if self._sent is None and self._writable:
                self._socket.write(b"".join(assembler.output))
            assembler.output.clear()
        if assembler.idle:
            self._assembler = None
        return position

    def _finish(self, assembler: Assembler, listener: Listener) -> None:
        """Answer a close frame, or a client that broke the protocol; nothing that follows is read."""
        self._discarding = True
        if assembler.closed:
            self._received = assembler.close
        if self._sent is None:
            self._sent = assembler.close
            self._received_first = assembler.closed
            listener.failing()
            self._socket.write(b"".join(assembler.output))
        if assembler.closed:
            self._socket.close()
        elif self._socket.can_write_eof():
            # Closing the socket now would reset it, and the client might never read why. Its end follows
            # from the client's, or from the close time-out.
            self._socket.write_eof()

    # What the engine asks

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole frames in one go."""
        if self._open and self._sent is None:
            self._socket.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))  # type: ignore[arg-type]

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the socket is closed when the client's arrives."""
        if not self._open:
            self._socket.close()
        elif self._sent is None:
            # Raises for a code or a reason that can't be sent, before anything is done.
            payload = Close(code, reason).serialize()
            Frame(Opcode.CLOSE, payload).check()
            self._sent = (code, reason)
            self._socket.write(frames.frame(frames.CLOSE, payload))
            # Past the messages that are still on their way there is the client's close frame.
            self.resume_reading()

    def abort(self) -> None:
        """Cut the line."""
        self._socket.abort()

    def ping(self) -> None:
        """Send a ping frame."""
        if self._open and self._sent is None:
            self._socket.write(_PING)

    def pause_reading(self) -> None:
        """Leave what the client sends in its socket."""
        if self._reading and not self._discarding:
            self._reading = False
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again, first what was left over; nothing until the handshake is finished."""
        if self._open and not self._reading:
            self._reading = True
            if not self._socket.is_closing():
                self._socket.resume_reading()
            if self._backlog:
                self._read(b"")


_PING = frames.frame(frames.PING, b"")


def _ignore(message: str | bytes) -> bool:  # noqa: ARG001
    """Drop a message that came after the close."""
    return True
