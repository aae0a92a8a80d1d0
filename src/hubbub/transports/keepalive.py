"""Pings for connections that have no heartbeat of their own, all of them on one timer."""

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

from uvicorn.config import Config


class Pinged(Protocol):
    """A connection to be kept alive."""

    signs: int
    """How often something was heard of the client."""

    def listens(self) -> bool:
        """Tell whether an answer would be read, or it is the client who takes nothing."""

    def ping(self) -> None:
        """Ask the client for a sign of life."""

    def silent(self) -> None:
        """Take that none came in time."""


class _Watch:
    __slots__ = ("pinged", "signs", "since")

    def __init__(self, signs: int, now: float) -> None:
        self.signs = signs
        self.since = now
        self.pinged = False


class Keepalive:
    """Looks at its connections some times within `interval` and `timeout`, both in seconds.

    There is a timer only while there are connections, and none for each. Silence of `interval` is answered
    with a ping, silence of `timeout` after it with :meth:`Pinged.silent`.
    """

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._pause = min(1.0, min(interval, timeout) / 4)
        self._watched: dict[Pinged, _Watch] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Pinged) -> None:
        """Begin to look at a connection, on the running event loop."""
        loop = asyncio.get_running_loop()
        self._watched[connection] = _Watch(connection.signs, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(self._pause, self._look)

    def forget(self, connection: Pinged) -> None:
        """Look at it no more."""
        self._watched.pop(connection, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pause, self._look)
        self.check(loop.time())

    def check(self, now: float) -> None:
        """Do what is due; `now` is the event loop's time in seconds."""
        for connection, watch in list(self._watched.items()):
            if connection.signs != watch.signs or not connection.listens():
                watch.signs, watch.since, watch.pinged = connection.signs, now, False
            elif watch.pinged:
                if now - watch.since >= self._timeout:
                    self.forget(connection)
                    connection.silent()
            elif now - watch.since >= self._interval:
                watch.since, watch.pinged = now, True
                connection.ping()


_OF_SERVERS: "WeakKeyDictionary[Config, Keepalive]" = WeakKeyDictionary()


def keepalive_of(config: Config) -> Keepalive | None:
    """Return the one of a server; None where it is set to send no pings."""
    if not config.ws_ping_interval:
        return None
    keepalive = _OF_SERVERS.get(config)
    if keepalive is None:
        interval = config.ws_ping_interval
        keepalive = Keepalive(interval, config.ws_ping_timeout or float("inf"))
        _OF_SERVERS[config] = keepalive
    return keepalive
