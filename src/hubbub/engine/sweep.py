"""Heartbeats and time-outs of all connections, on one timer."""

import asyncio
from collections.abc import Callable, Iterable

from ..observe.log import fields, logger
from ..protocol.codes import CloseCode
from ..protocol.envelope import Envelope
from ..settings import Settings
from .connection import Connection

PING = Envelope("$ping")

SHORTEST = 0.05
"""Seconds between two looks at the least, however small the burst that a client may send at once."""


class Sweep:
    """Looks at every connection, some times within the shortest of the time-outs.

    A connection only counts what happens on it; the sweep compares the counts with those of its last look,
    so that nothing on the hot path reads a clock.
    """

    def __init__(self, settings: Settings, connections: Callable[[], Iterable[Connection]]) -> None:
        self._settings = settings
        self._connections = connections
        timeouts = [
            settings.ping_interval,
            settings.ping_timeout,
            settings.handshake_timeout,
            settings.close_timeout,
            settings.idle_timeout or settings.ping_interval,
        ]
        # Who keeps to the rate is not to run out of the burst between two looks.
        burst = max(settings.max_message_burst / settings.max_message_rate / 2, SHORTEST)
        self.interval = min(1.0, min(timeouts) / 4, burst)
        """Seconds between two looks: how late a time-out may be noticed."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look, on the running event loop."""
        self._timer = asyncio.get_running_loop().call_later(self.interval, self._tick)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.interval, self._tick)
        now = loop.time()
        for connection in list(self._connections()):
            try:
                self.check(connection, now)
            except Exception:
                # One connection's trouble must not stop the heartbeats of all the others.
                logger.exception("error", extra=fields(connection=connection.id, during="heartbeat"))
                connection.transport.abort()

    def check(self, connection: Connection, now: float) -> None:
        """Do what is due on one connection; `now` is the event loop's time in seconds."""
        settings, watch = self._settings, connection.watch
        if connection.closing:
            watch.closing_since = watch.closing_since or now
            if now - watch.closing_since >= settings.close_timeout:
                connection.transport.abort()
            return
        self._allow(connection, now)
        if not watch.ready:
            watch.opened = watch.opened or now
            if now - watch.opened >= settings.handshake_timeout:
                connection.start_close(CloseCode.IDLE, "the login took too long")
            return

        signs = connection.signs + connection.messages_in
        if signs != watch.signs:
            watch.signs, watch.heard, watch.pinged = signs, now, 0.0
        if connection.messages_in != watch.messages_in:
            watch.messages_in, watch.received = connection.messages_in, now
        wrote = connection.outbox.written != watch.written
        if wrote:
            watch.written, watch.spoke = connection.outbox.written, now

        if not connection.reading and (wrote or not connection.outbox.paused):
            # Its handler is behind, and what the client says meanwhile is left in its socket, pongs too. A
            # client who does not take its answers is the one who is behind.
            watch.heard = watch.received = now
            watch.pinged = 0.0
        if settings.idle_timeout and now - watch.received >= settings.idle_timeout:
            connection.start_close(CloseCode.IDLE, "no message in time")
            return
        if watch.pinged:
            if now - watch.pinged >= settings.ping_timeout:
                connection.start_close(CloseCode.IDLE, "no answer to a ping in time")
                return
        elif now - watch.heard >= settings.ping_interval and connection.transport.pings:
            watch.pinged = now
            connection.transport.ping()
        silent = now - watch.spoke >= settings.ping_interval - self.interval
        if silent and connection.form is not None and not connection.outbox.paused:
            connection.deliver(PING)

    def _allow(self, connection: Connection, now: float) -> None:
        """Let the client send as many messages more as the time that has passed is worth, up to a burst."""
        rate, watch = self._settings.max_message_rate, connection.watch
        most = connection.messages_in + self._settings.max_message_burst
        if connection.allowed >= most or not watch.refilled:
            watch.refilled = now
            return
        earned = int((now - watch.refilled) * rate)
        connection.allowed = min(connection.allowed + earned, most)
        watch.refilled += earned / rate
