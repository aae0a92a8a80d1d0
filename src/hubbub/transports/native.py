"""WebSockets on uvicorn without an ASGI event for each message: the protocol class for its ``ws=`` setting.

The ASGI application runs as under any server, so that the host's routing, middleware and login apply.
``scope["extensions"]["hubbub"]`` is the connection's :class:`WebSocketProtocol`; an endpoint that knows it
calls :meth:`WebSocketProtocol.accept` and has the socket to itself from then on. All other applications
go on with ASGI events.
"""

import asyncio
import contextvars
import functools
import logging
from collections.abc import Sequence
from http.client import responses
from typing import cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState
from websockets.frames import Close, Frame, Opcode

from ..engine.outbox import Chunk, Framing
from ..engine.transport import Ending, Listener, Served
from ..protocol import frames
from ..protocol.frames import Assembler, Deliver, read_messages
from ..settings import Settings
from .events import Events
from .framing import compressed, frame
from .handshake import Handshake, Head, judged, read_handshake, read_head, refusal
from .keepalive import keepalive_of

EXTENSION = "hubbub"
"""Name of the entry in ``scope["extensions"]``."""

FRAMES_PER_TURN = 64
"""Frames other than plain messages that a connection may have read before others get their turn."""

QUIET = 0.1
"""Seconds in which nothing comes before a line over TLS is closed from this side."""

logger = logging.getLogger("hubbub.native")


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection, from the HTTP upgrade to the end of its socket."""

    __slots__ = (
        "_assembler", "_backlog", "_compression", "_config", "_continuing", "_cut", "_discarding", "_ended",
        "_handshake", "_listener", "_offset", "_open", "_quiet", "_reading", "_received", "_received_first",
        "_response", "_sent", "_server_state", "_settings", "_socket", "_state", "_writable", "framing",
        "opened", "served_by",
    )  # fmt: skip

    pings = True
    driven = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        *,
        settings: Settings,
    ) -> None:
        self._config = config
        self._settings = settings
        self._server_state = server_state
        self._state = app_state
        self._socket: asyncio.Transport
        self.opened = 0.0
        """Since when the client has been connecting, in the event loop's time; 0 if that is not known."""
        self._handshake: Handshake | None = None
        self._response = b""  # the answer to the handshake, until it is sent
        self._listener: Listener | None = None
        self._assembler: Assembler | None = None
        self._compression = False
        self.framing: Framing = frame
        self.served_by: Served | None = None
        self._backlog = b""  # what was received and is still to be read, from this offset on
        self._offset = 0
        self._reading = True  # whether the listener takes messages
        self._continuing = False  # whether the backlog is read in the next turn
        self._cut: asyncio.TimerHandle | None = None  # ends a line that both sides have closed
        self._open = False
        self._writable = True
        self._discarding = False
        self._quiet = False  # whether nothing came since the last look, where it would be discarded
        self._ended = False  # whether the client sends nothing more
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
        if self._open and not self._backlog:
            position, listener = 0, self._listener
            if self._assembler is None and self._reading and self._sent is None and listener is not None:
                # Plain messages and nothing else, as nearly always.
                position = read_messages(data, 0, listener.max_message, listener.received, self._compression)
                if position == len(data):
                    return
            self._read(data, position)
        elif self._discarding:
            self._quiet = False  # it was refused, and has yet to read so
        elif self._listener is None:
            self._begin_after(data)
        else:
            # The client did not wait for the answer to its handshake, or the loop had this already when
            # reading was paused. It is kept, the rest stays in the socket.
            self._backlog = self._backlog[self._offset :] + data
            self._offset = 0
            if not self._open:
                self._socket.pause_reading()

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

    def eof_received(self) -> None:
        """Read what there is to read, and say what there is to say, before the event loop closes the socket.

        Over TLS it comes together with what was sent before it, whether reading is paused or not: an inbox
        then takes more than it may hold, once, and no more than the event loop's TLS had in hand.
        """
        self._ended = True
        self._respond()
        while self._open and self._backlog:
            self._reading = True
            self._read_backlog()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the listener how it ended."""
        self._open = False
        self._server_state.connections.discard(self)
        self._assembler = None
        self._backlog = self._response = b""
        if self._cut is not None:
            self._cut.cancel()
        self._tell_end()

    def shutdown(self) -> None:
        """Leave: called by uvicorn when the server stops."""
        if self._discarding:
            # It was told all that there is. Once that is on its way, its end is not waited for.
            if self._socket.get_write_buffer_size():
                self._socket.close()
            else:
                self._socket.abort()
        elif self._listener is not None:
            self._listener.shut_down()
        else:
            self._socket.close()

    # The opening handshake

    def _begin_after(self, data: bytes) -> None:
        """Begin after another HTTP protocol than hubbub's, which has judged less than that would."""
        socket = self._socket
        # Only then it is told to hand the socket over.
        request = getattr(socket.get_protocol(), "scope", None) or {}
        head = judged(read_head(data, request.get("http_version")), self._settings)
        if isinstance(head, bytes):
            self._turn_away(head)
        else:
            self.begin(head, get_local_addr(socket), get_remote_addr(socket), is_ssl(socket))

    def begin(
        self,
        head: Head,
        server: tuple[str, int | None] | None,
        client: tuple[str, int] | None,
        secure: bool,
    ) -> None:
        """Run the application for a request: `server` and `client` are the addresses, and `secure` is TLS."""
        handshake = read_handshake(head, self._settings.compression)
        if isinstance(handshake, bytes):
            self._turn_away(handshake)
            return
        self._handshake = handshake
        if handshake.window_bits is not None:
            self._compression = True
            self.framing = compressed(handshake.window_bits, self._settings.compression_threshold)
        config, root_path = self._config, self._config.root_path
        events = Events(self, config.ws_max_size, self._settings, keepalive_of(config))
        self._listener = events
        scope: dict[str, object] = {
            "type": "websocket",
            "asgi": _asgi(config.asgi_version),
            "http_version": "1.1",
            "scheme": "wss" if secure else "ws",
            "server": _shared(server),
            "client": client,
            "root_path": root_path,
            "path": root_path + handshake.path,
            "raw_path": (root_path + handshake.raw_path).encode("latin-1"),
            "query_string": handshake.query,
            "headers": handshake.headers,
            "subprotocols": handshake.subprotocols,
            "state": self._state.copy(),
            "extensions": {"websocket.http.response": _NO_OPTIONS, EXTENSION: self},
        }
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        task = loop.create_task(self._run(scope, events), name=_TASK, context=context)
        self._server_state.tasks.add(task)
        self.served_by = Served(task, context)

    def _turn_away(self, response: bytes) -> None:
        self._socket.write(response)
        self._half_close()
        self._cut_off()

    async def _run(self, scope: dict[str, object], events: Events) -> None:
        task = asyncio.current_task()
        failed = True
        try:
            await self._config.loaded_app(scope, events.receive, events.send)
            failed = False
        except OSError as gone:
            # Raised by `send` when the client is gone, if the application lets it pass.
            failed = False
            logger.debug("connection lost: %s", gone)
        except BaseException as problem:
            # A cancellation that nobody asked this task for is one of the application's own, gone astray.
            if isinstance(problem, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            logger.exception("error in the ASGI application")
        finally:
            self._server_state.tasks.discard(task)
            self.served_by = None  # in its context there may be the scope, and in that this object
            if self._listener is events:
                events.finish(failed)

    async def accept(self, listener: Listener, subprotocol: str | None) -> None:
        """Finish the handshake and hand the connection over to `listener`."""
        if self._listener is None or self._discarding:
            listener.ended(Ending())  # it left, or the server stops and has refused it
            return
        if isinstance(self._listener, Events):
            self._listener.taken_over()
        self._listener = listener
        self.open(subprotocol, ())

    def open(self, subprotocol: str | None, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Finish the handshake, in this turn of the event loop; then what the client sent already is read."""
        assert self._handshake is not None
        self._response = self._handshake.response(subprotocol, headers, self._server_state.default_headers)
        self._handshake = None
        self.opened = 0.0
        # A welcome mostly follows in the same turn: one write for both wakes the client once.
        asyncio.get_running_loop().call_soon(self._respond)

    def _respond(self, chunks: Sequence[Chunk] = ()) -> None:
        """Send the answer to the handshake, unless that is done, and the first messages right behind it."""
        response, self._response = self._response, b""
        if response:
            self._open = True
            self._socket.write(b"".join((response, *chunks)))  # type: ignore[arg-type]
            if self._backlog and self._reading:
                self._continue()

    def refuse(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the handshake with an HTTP response and close."""
        own = self._server_state.default_headers
        self._socket.write(refusal(status, responses.get(status, ""), headers, body, own))
        if self._backlog or not self._reading:
            self._backlog, self._reading = b"", True
            self._socket.resume_reading()
        self._half_close()

    # Frames in

    def _read(self, data: bytes, position: int) -> None:
        end, listener = len(data), self._listener
        self._quiet = False
        frames_left = FRAMES_PER_TURN
        pongs: list[bytes] = []
        while position < end and listener is not None and not self._discarding:
            if not self._reading or not frames_left:
                if self._reading:
                    self._backlog, self._offset = data, position
                    self._continue()
                else:
                    self._backlog = data[position:]
                break
            frames_left -= 1
            deliver = listener.received if self._sent is None else _ignore
            if self._assembler is None:
                position = read_messages(data, position, listener.max_message, deliver, self._compression)
                if position == end or not self._reading:
                    continue
            position = self._assemble(data, position, listener, deliver, pongs)
        # Whoever does not read gets no pongs on top (RFC 6455 section 5.5.3 lets them be left out). None
        # come behind the server's close frame, where a client discards what there is (section 1.4).
        if pongs and self._sent is None and self._writable:
            self._socket.write(b"".join(pongs))
        if self._discarding and listener is not None and self._assembler is not None:
            self._finish(self._assembler, listener, last=position == end)

    def _assemble(
        self, data: bytes, position: int, listener: Listener, deliver: Deliver, pongs: list[bytes]
    ) -> int:
        assembler = self._assembler
        if assembler is None:
            self._assembler = assembler = Assembler(self._settings.max_fragments, self._compression)
        position = assembler.receive(data, position, listener.max_message, deliver)
        if assembler.signs:
            listener.heard_from(assembler.control_frames)
            assembler.signs = assembler.control_frames = 0
        if assembler.closed or assembler.failed:
            self._discarding = True
        else:
            if assembler.answers:
                pongs += assembler.answers
                assembler.answers.clear()
            if assembler.idle:
                self._assembler = None
        return position

    def _finish(self, assembler: Assembler, listener: Listener, *, last: bool) -> None:
        """Answer a close frame, or a client that broke the protocol; nothing that follows is read.

        `last` tells whether nothing did follow.
        """
        self._assembler = None
        if assembler.closed:
            self._received = assembler.ending
        if self._sent is None:
            self._sent = assembler.ending
            self._received_first = assembler.closed
            listener.failing()
            self._socket.write(b"".join(assembler.answers))
        if assembler.closed and last and not self._socket.can_write_eof():
            self._socket.close()  # as the client waits for (RFC 6455 section 7.1.1)
            return
        self._half_close()
        if assembler.closed:
            self._cut_off()
            self._tell_end()

    def _half_close(self) -> None:
        """Send no more and read no more; the end follows from the client's.

        Closing the socket would reset it if there is something unread, and the client might never read what
        was sent last (RFC 6455 section 7.1.1). TLS has no half of a line to close: it is closed as a whole,
        once nothing comes that asyncio would reset it for.
        """
        self._discarding = True
        if self._socket.can_write_eof():
            self._socket.write_eof()
        else:
            self._close_when_quiet()

    def _close_when_quiet(self) -> None:
        if self._socket.is_closing():
            return
        if self._quiet:
            self._socket.close()
        else:
            self._quiet = True
            asyncio.get_running_loop().call_later(QUIET, self._close_when_quiet)

    def _cut_off(self) -> None:
        """End the line if the client does not in time."""
        self._cut = asyncio.get_running_loop().call_later(self._settings.close_timeout, self._socket.abort)

    def _tell_end(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.ended(Ending(self._received, self._sent, self._received_first))

    def _continue(self) -> None:
        """Read the backlog in the next turn, and only then from the socket again."""
        if not self._continuing and not self._ended:
            self._continuing = True
            if not self._socket.is_closing():
                self._socket.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_backlog)

    def _read_backlog(self) -> None:
        self._continuing = False
        if self._reading:
            data, position = self._backlog, self._offset
            self._backlog, self._offset = b"", 0
            self._read(data, position)
        if self._reading and not self._backlog and not self._socket.is_closing():
            self._socket.resume_reading()

    # What the engine asks

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole frames in one go."""
        if self._open and self._sent is None:
            self._socket.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))  # type: ignore[arg-type]
        elif self._response:
            self._respond(chunks)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the socket is closed when the client's arrives."""
        self._respond()
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
        if self._reading and not self._discarding and not self._ended:
            self._reading = False
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again, first what was left over; nothing until the handshake is finished."""
        if not self._reading:
            self._reading = True
            if self._backlog:
                if self._open:
                    self._continue()
            elif not self._socket.is_closing():
                self._socket.resume_reading()


_PING = frames.frame(frames.PING, b"")

# What the scopes of all connections have alike is one object for all of them.

_TASK = "hubbub: connection"
_NO_OPTIONS: dict[str, object] = {}


@functools.cache
def _asgi(version: str) -> dict[str, str]:
    return {"version": version, "spec_version": "2.4"}


@functools.lru_cache(maxsize=16)
def _shared(address: tuple[str, int | None] | None) -> tuple[str, int | None] | None:
    return address


def _ignore(message: str | bytes, more: bool) -> bool:  # noqa: ARG001
    """Drop a message that came after the close. One at a time, so that the turn's end is not missed."""
    return False
