"""Engine.IO over a WebSocket: each packet is a message (Engine.IO protocol, "WebSocket")."""

import asyncio
from collections.abc import Coroutine

from ...engine.transport import Ending, Transport
from ...protocol.bookmarks import Bookmark
from .listener import Reason
from .packets import MalformedPacket, Packet, read_packet
from .schedule import Schedule
from .socket import EngineSocket

PROBE_SIZE = 125
"""Bytes that a message may have before the client has changed over: a probe, or what ends it."""


class WebSocketLine:
    """A WebSocket of a session: its transport, or one that the client wants to change over to."""

    __slots__ = (
        "_busy", "_schedule", "_waiting", "_work", "close_timeout", "closing", "max_message", "over",
        "paused", "probed", "session", "transport",
    )  # fmt: skip

    def __init__(self, transport: Transport, schedule: Schedule, close_timeout: float) -> None:
        self.transport = transport
        self.session: EngineSocket | None = None
        self.max_message = PROBE_SIZE
        """Size in bytes of the largest message to let in."""
        self.probed = False
        """Whether the client has made its probe; it has not changed over yet."""
        self.paused = False
        self.over = False
        self.closing = False
        self.close_timeout = close_timeout
        self._schedule = schedule
        self._busy = False
        self._work: Coroutine[object, object, None] | None = None
        self._waiting: asyncio.Future[None] | None = None

    async def serve(self) -> None:
        """Do the session's work, if it has any, until the WebSocket is gone."""
        try:
            while not self.over or self._work is not None:
                work, self._work = self._work, None
                if work is not None:
                    self._busy = True
                    await work
                    self._busy = False
                    continue
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
                self._waiting = None
        finally:
            self._waiting = None
            if self._work is not None:
                self._work.close()
            if not self.over:
                self.transport.abort()

    def run(self, work: Coroutine[object, object, None]) -> bool:
        """Have the task of the WebSocket do some work; false if it has some already, or is over."""
        if self._busy or self._work is not None or self.over:
            return False
        self._work = work
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        return True

    def become_transport(self, max_message: int) -> None:
        """Carry the session from now on."""
        self.probed = False
        self.max_message = max_message

    def write(self, packets: list[Packet]) -> None:
        """Write packets, each as a message."""
        session = self.session
        if session is not None and not self.over:
            transport, dialect = self.transport, session.dialect
            framing = transport.framing
            transport.write([packet.frame(framing, dialect) for packet in packets])

    def close(self, code: int = 1000) -> None:
        """Close after what was written; if the client takes no part in it in time, the line is cut."""
        if not self.closing and not self.over:
            self.closing = True
            self._schedule.set(self, asyncio.get_running_loop().time() + self.close_timeout)
            self.transport.close(code, "")

    def abort(self) -> None:
        """Cut the line."""
        if not self.over:
            self.transport.abort()

    def due(self, now: float) -> None:  # noqa: ARG002
        """Cut the line: the client took no part in the close."""
        self._schedule.drop(self)
        self.abort()

    # What the WebSocket's transport tells

    def received(self, message: str | bytes, more: bool = False) -> bool:  # noqa: ARG002
        """Take a message, which is a packet; false if no more may come now."""
        session = self.session
        if session is None or self.closing:
            return True
        if not session.carried_by(self):
            return session.probed(self, message)
        try:
            kind, data = read_packet(message, session.dialect)
        except MalformedPacket:
            session.failed(Reason.PARSE_ERROR)
            return False
        return session.take(kind, data)

    def heard_from(self, control_frames: int = 0) -> None:
        """Count control frames, which are no packets."""
        session = self.session
        if session is not None and session.carried_by(self) and not session.closed:
            session.listener.heard_from(control_frames)

    def bookmark(self) -> Bookmark | None:
        """Return None: a session has its place in what is written, not its WebSocket."""
        return None

    def pause_writing(self) -> None:
        """Pass on that the socket's buffer is full."""
        self.paused = True
        if self.session is not None and self.session.carried_by(self):
            self.session.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the socket takes more."""
        self.paused = False
        if self.session is not None and self.session.carried_by(self):
            self.session.resume_writing()

    def failing(self) -> None:
        """Do nothing: :meth:`ended` follows."""

    def ended(self, ending: Ending) -> None:  # noqa: ARG002
        """Take that the WebSocket is gone."""
        self.over = True
        self._schedule.drop(self)
        session, self.session = self.session, None
        if session is not None:
            session.lost(self)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def shut_down(self) -> None:
        """Leave: the server stops."""
        if self.session is not None and self.session.carried_by(self) and not self.session.closed:
            self.session.listener.shut_down()
        else:
            self.close(1001)
