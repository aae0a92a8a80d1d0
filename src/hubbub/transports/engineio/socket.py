"""An Engine.IO session: packets in order, whichever transport carries them, and its heartbeat."""

import asyncio
import secrets
from collections.abc import Coroutine
from enum import Enum
from typing import TYPE_CHECKING

from starlette.types import Scope

from .listener import NOBODY, EngineListener, Reason
from .packets import CLOSE, NOOP, PING, Dialect, Kind, MalformedPacket, Packet, read_packet

if TYPE_CHECKING:
    from .application import EngineIO
    from .polling import Poll
    from .websocket import WebSocketLine

HIGH_WATER = 65_536
"""Bytes that may wait for a client's next poll until the listener is told to pause."""

FEW, MANY = 16, 10_000
"""Packets in the answer to one poll. The client of python-engineio takes 16, and who knows which else."""

NOOP_EVERY = 0.1
"""Seconds after which a poll is ended while a client changes its transport; the first is ended at once."""

NEVER = float("inf")


class _State(Enum):
    OPEN = "open"
    CLOSING = "what waits is still to be written"
    CLOSED = "closed"


class EngineSocket:
    """A client's session.

    It is told to its `listener` what comes in. What is written goes out in order: with a WebSocket at once,
    to a client that polls with its next poll, together with all that was written in the same turn of the
    event loop. While the client changes over, nothing is lost, doubled or put in another order.
    """

    __slots__ = (
        "_at_once", "_close_by", "_connect_by", "_engine", "_max_message", "_noop_at", "_noop_owed",
        "_paused", "_ping_at", "_probe", "_reading", "_silent_at", "_size", "_state", "_upgrade_by",
        "_waiting", "_websocket", "dialect", "id", "listener", "opened", "poll", "post", "reason", "scope",
    )  # fmt: skip

    def __init__(
        self,
        engine: "EngineIO",
        scope: Scope,
        dialect: Dialect,
        websocket: "WebSocketLine | None" = None,
    ) -> None:
        self.id = secrets.token_urlsafe(15)
        """The session's id; who knows it can speak for the client, so it must not be logged."""
        self.scope = scope
        """ASGI scope of the request that opened the session."""
        self.dialect = dialect
        self.listener: EngineListener = NOBODY
        self.poll: Poll | None = None
        """The client's request that waits for packets, if it polls and there is one."""
        self.post: asyncio.Future[None] | None = None
        """There while a request of the client's brings packets; done when it may go on, or all is over."""
        self._engine = engine
        self._websocket = websocket
        self._probe: WebSocketLine | None = None
        self._waiting: list[Packet] = []
        self._size = 0
        self._state = _State.OPEN
        self._reading = True
        self._paused = False
        self._noop_owed = False
        self._at_once = MANY if _takes_many(scope) else FEW
        self._max_message = engine.settings.max_message_before_login
        self.reason: Reason | None = None
        """Why the session ended, once it has."""
        self.opened = now = engine.now()
        """When the session was opened, by the event loop's time in seconds."""
        self._connect_by = now + engine.settings.handshake_timeout
        self._upgrade_by = self._close_by = self._noop_at = NEVER
        self._ping_at = self._silent_at = NEVER
        if dialect.version == 4:
            self._ping_at = now + engine.settings.ping_interval
        else:
            self._silent_at = now + engine.patience
        self._rearm()

    def listen(self, listener: EngineListener) -> None:
        """Tell `listener` what happens from now on, and what happened while the session was opened."""
        self.listener = listener
        if self.reason is not None:
            listener.ended(self.reason)
        elif self._paused:
            listener.pause_writing()

    # What the application asks

    @property
    def transport(self) -> str:
        """Name of the transport: ``polling`` or ``websocket``."""
        return "polling" if self._websocket is None else "websocket"

    @property
    def closed(self) -> bool:
        """Whether the session has ended."""
        return self._state is _State.CLOSED

    @property
    def max_message(self) -> int:
        """Size in bytes of the largest message to let in; of a client that polls, of all in one request."""
        return self._max_message

    @max_message.setter
    def max_message(self, size: int) -> None:
        self._max_message = size
        if self._websocket is not None:
            self._websocket.max_message = size

    def keep(self) -> None:
        """Somebody has use of the session: it is not one of those that have to get on in time."""
        self._connect_by = NEVER
        self._engine.pending.pop(self, None)

    def release(self) -> None:
        """Nobody has use of it for now: it ends if that stays so for the time of a login."""
        if self._state is _State.OPEN:
            self._connect_by = self._engine.now() + self._engine.settings.handshake_timeout
            self._engine.pending[self] = None
            self._rearm()

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what serves the client: in the task of its WebSocket if that is idle, else in one of its own.

        It has to return when the session has ended.
        """
        if self._websocket is None or not self._websocket.run(work):
            self._engine.run(work)

    def send(self, *messages: str | bytes) -> None:
        """Send messages. Raises :exc:`ValueError` for a text with a record separator, U+001E, in it."""
        self.write([_message(message) for message in messages])

    def write(self, packets: list[Packet]) -> None:
        """Write packets in order; nothing once the session is closing."""
        if self._state is not _State.OPEN:
            return
        websocket = self._websocket
        if websocket is not None:
            websocket.write(packets)
            return
        self._waiting += packets
        self._size += sum(map(len, packets))
        if self.poll is not None:
            self.poll.wake()
        if self._size >= HIGH_WATER and not self._paused:
            self.pause_writing()

    def close(self) -> None:
        """Close after what was written: the client's next poll, or its WebSocket, brings it and the close."""
        if self._state is not _State.OPEN:
            return
        self._state = _State.CLOSING
        if self._websocket is not None:
            self._websocket.close()
        else:
            self._close_by = self._engine.now() + self._engine.settings.close_timeout
            self._rearm()
            if self.poll is not None:
                self._close_poll(self.poll)

    def abort(self) -> None:
        """End the session at once."""
        websocket = self._websocket
        if websocket is not None:
            websocket.closing = True  # without a close frame, which would say that all is well
        self._end(Reason.CLOSED)
        if websocket is not None:
            websocket.abort()

    def expire(self) -> None:
        """End the session if it is closing, or nobody has use of it so far."""
        if self._state is _State.CLOSING:
            self._end(Reason.CLOSED)
        elif self._connect_by < NEVER:
            self._end(Reason.CONNECT_TIMEOUT)

    def pause_reading(self) -> None:
        """Take in nothing more, so that the client's line fills up."""
        self._reading = False
        if self._websocket is not None:
            self._websocket.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take in again."""
        self._reading = True
        if self._websocket is not None:
            self._websocket.transport.resume_reading()
        elif self.post is not None and not self.post.done():
            self.post.set_result(None)

    # What the transports tell

    def carried_by(self, line: "WebSocketLine") -> bool:
        """Return whether that WebSocket is the session's transport."""
        return self._websocket is line

    @property
    def reading(self) -> bool:
        """Whether packets may be taken in."""
        return self._reading and self._state is not _State.CLOSED

    def opening(self) -> Packet:
        """Return the first packet to the client."""
        return self._engine.opening(self, upgrades=self._websocket is None)

    def take(self, kind: Kind, data: str | bytes) -> bool:
        """Take a packet; false if no more may come now."""
        if self._state is not _State.OPEN:
            return self._state is _State.CLOSING
        modern = self.dialect.version == 4
        if not modern or self._ping_at == NEVER:
            # Any packet is a sign of life. Before a ping the silence does not count, so no clock is read.
            self._silent_at = self._engine.now() + self._engine.patience
        if kind is Kind.MESSAGE:
            return self.listener.received(data)
        self.listener.heard_from(1)
        if self.closed:
            return False
        if kind is (Kind.PING if modern else Kind.PONG):
            # The heartbeat goes the other way in this version.
            self._end(Reason.TRANSPORT_ERROR)
        elif kind is Kind.PING and not self._paused:
            # Whoever does not read what there is gets no answers on top.
            try:
                pong = Packet(data.encode() if isinstance(data, str) else data, kind=Kind.PONG)
            except ValueError:
                self._end(Reason.PARSE_ERROR)
            else:
                self.write([pong])
        elif kind is Kind.PONG:
            self._ping_at = self._engine.now() + self._engine.settings.ping_interval
            self._rearm()
        elif kind is Kind.CLOSE:
            self._end(Reason.CLIENT_CLOSED, NOOP)
        return self._reading and self._state is _State.OPEN

    def failed(self, reason: Reason) -> None:
        """End the session: the client broke a rule, or its request broke off."""
        self._end(reason)

    def begin_poll(self, poll: "Poll") -> bool:
        """Take a client's request for packets, to be woken when there are some.

        False if there is one already: the session is over then.
        """
        if self.poll is not None:
            self._end(Reason.TRANSPORT_ERROR)
            return False
        self.poll = poll
        if self._state is _State.CLOSING:
            self._close_poll(poll)
        elif self._waiting:
            poll.wake()
        elif self._noop_owed:
            self._end_poll()
        elif self._probe is not None and self._probe.probed:
            self._noop_at = self._engine.now() + NOOP_EVERY
            self._rearm()
        return True

    def give_up_poll(self, poll: "Poll") -> None:
        """End a request for packets that is to wait no longer; nothing if it does not wait."""
        if self.poll is poll:
            self._end_poll()

    def take_waiting(self) -> list[Packet]:
        """Return as much of what waits as the client takes at once, for the poll, which is over with that."""
        self.poll = None
        self._noop_at = NEVER
        packets, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
        self._size = sum(map(len, self._waiting))
        if self._paused and self._size < HIGH_WATER:
            self.resume_writing()
        return packets

    def begin_probe(self, line: "WebSocketLine") -> bool:
        """Take a WebSocket that the client wants to change over to; false if it can't now."""
        if self._websocket is not None or self._probe is not None or self._state is _State.CLOSED:
            return False
        self._probe = line
        self._upgrade_by = self._engine.now() + self._engine.settings.handshake_timeout
        self._rearm()
        return True

    def probed(self, line: "WebSocketLine", message: str | bytes) -> bool:
        """Take a packet from a WebSocket that is no transport yet; false if no more may come now."""
        try:
            kind, data = read_packet(message, self.dialect)
        except MalformedPacket:
            kind, data = Kind.NOOP, ""
        if kind is Kind.PING and data == "probe" and not line.probed:
            line.probed = True
            line.write([PROBED])
            self._noop_owed = True
            if self.poll is not None and not self._waiting:
                self._end_poll()
        elif kind is Kind.UPGRADE and self.post is None:
            self._upgrade(line)
            return self._reading
        else:
            # It does not know the protocol, or has sent on while a request of its own was not answered yet.
            self._give_up_probe()
            line.close()
        return True

    def lost(self, line: "WebSocketLine") -> None:
        """Take that a WebSocket is gone."""
        if line is self._probe:
            self._give_up_probe()
        elif line is self._websocket:
            self._end(Reason.CLOSED if self._state is _State.CLOSING else Reason.CLIENT_CLOSED)

    def pause_writing(self) -> None:
        """Have the listener write nothing for now."""
        if self._state is _State.OPEN and not self._paused:
            self._paused = True
            self.listener.pause_writing()

    def resume_writing(self) -> None:
        """Have the listener write again."""
        self._paused = False
        if self._state is _State.OPEN:
            self.listener.resume_writing()

    def due(self, now: float) -> None:
        """Do what is due."""
        settings = self._engine.settings
        if self._connect_by <= now:
            self._end(Reason.CONNECT_TIMEOUT)
        elif self._close_by <= now:
            self._end(Reason.CLOSED)
        elif self._silent_at <= now and self._reading:
            self._end(Reason.PING_TIMEOUT)
        if self._state is _State.CLOSED:
            return
        if self._silent_at <= now:
            # What the client says meanwhile is not read, its answer to the ping neither.
            self._silent_at = now + settings.ping_timeout
        if self._ping_at <= now:
            # A little late is no reason to let the client wait longer for the end.
            since = self._ping_at if now - self._ping_at < settings.ping_timeout / 10 else now
            self._ping_at = NEVER
            self._silent_at = since + settings.ping_timeout
            self.write([PING])
        if self._noop_at <= now:
            self._end_poll()
        if self._upgrade_by <= now and self._probe is not None:
            probe = self._probe
            self._give_up_probe()
            probe.close()
        self._rearm()

    # What follows

    def _rearm(self) -> None:
        silent_at = NEVER if self._ping_at < NEVER else self._silent_at
        times = (self._connect_by, self._close_by, self._noop_at, self._upgrade_by, self._ping_at, silent_at)
        self._engine.schedule.set(self, min(times))

    def _close_poll(self, poll: "Poll") -> None:
        if len(self._waiting) < self._at_once:
            self._end(Reason.CLOSED)
        else:
            poll.wake()  # the next one brings the close

    def _end_poll(self) -> None:
        poll, self.poll = self.poll, None
        self._noop_at = NEVER
        self._noop_owed = False
        if poll is not None:
            poll.answer([NOOP])

    def _give_up_probe(self) -> None:
        self._probe = None
        self._noop_owed = False
        self._upgrade_by = self._noop_at = NEVER

    def _upgrade(self, line: "WebSocketLine") -> None:
        self._give_up_probe()
        # A client that keeps to the protocol waited for the end of its poll. What waits goes the new way.
        self._end_poll()
        self._websocket = line
        line.become_transport(self._max_message)
        if not self._reading:
            line.transport.pause_reading()
        packets, self._waiting, self._size = self._waiting, [], 0
        if packets:
            line.write(packets)
        if self._state is _State.CLOSING:
            self._close_by = NEVER
            line.close()
        elif self._paused and not line.paused:
            self.resume_writing()

    def _end(self, reason: Reason, last: Packet = CLOSE) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self.reason = reason
        self._engine.forget(self)
        poll, self.poll = self.poll, None
        if poll is not None:
            poll.answer([*self._waiting[: self._at_once - 1], last])
        self._waiting = []
        if self.post is not None and not self.post.done():
            self.post.set_result(None)
        for line in (self._probe, self._websocket):
            if line is not None:
                line.close()
        self._probe = None
        self.listener.ended(reason)


PROBED = Packet(b"probe", kind=Kind.PONG)


def _takes_many(scope: Scope) -> bool:
    """Return whether a client is one that takes any number of packets: a browser, or engine.io-client."""
    agents = [value for name, value in scope["headers"] if name == b"user-agent"]
    return bool(agents) and agents[0].startswith((b"Mozilla/", b"node-XMLHttpRequest"))


def _message(message: str | bytes) -> Packet:
    return Packet(message.encode()) if isinstance(message, str) else Packet(message, True)
