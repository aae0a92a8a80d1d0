"""The publisher, in methods that block: for task queues, scripts and frameworks that know no event loop."""

import atexit
import functools
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from .. import publisher as asynchronous
from ..brokers.base import Broker
from ..errors import ConfigurationError
from ..protocol.envelope import Position
from ..protocol.messages import Sendable
from ..publisher import Declarations
from ..settings import Settings
from .loop import TIMEOUT, Loop

Result = TypeVar("Result")


class Publisher:
    """Publishes to rooms and users, as :class:`hubbub.Publisher`; of use from any thread, and after a fork.

    It connects as it is first used, and in a process that was forked anew: it may be made where a module is
    imported, before a task queue starts its workers. Close it, or use it as a context manager, to give the
    connection back before the process ends.

    Raises what :class:`hubbub.Publisher` raises; its methods, what that one's raise, and :exc:`TimeoutError`
    if they have not done their work after `timeout` seconds. Then it may have been published all the same.
    """

    def __init__(
        self,
        broker: str | None = None,
        *,
        rooms: Declarations | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._make = functools.partial(asynchronous.Publisher, broker, rooms=rooms, settings=settings)
        # What can't be is told here, and not where it is first used.
        self._make()
        self._closed = False
        self._connection: tuple[Loop, asynchronous.Publisher] | None = None
        self._forget()
        _OPEN.add(self)

    def _forget(self) -> None:
        """Begin anew, in a new process: the thread is not in it, and the connection is its parent's."""
        # Held on to: taken apart, it might say something on the parent's connection.
        self._parents = self._connection
        self._connection = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._connected(TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back. Nothing can be sent any more."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        _OPEN.discard(self)
        if connection is not None:
            loop, publisher = connection
            try:
                loop.call(lambda: publisher.__aexit__(None, None, None), TIMEOUT)
            finally:
                loop.stop()

    def send(
        self,
        room: str,
        message: Sendable,
        *,
        ephemeral: bool = False,
        key: str | None = None,
        idempotency_key: str | None = None,
        history: int | None = None,
        history_age: float | None = None,
        timeout: float | None = TIMEOUT,
    ) -> Position:
        """Publish to all members of a room, as :meth:`hubbub.Publisher.send`; return the position."""
        loop, publisher = self._connected(timeout)
        return loop.call(
            lambda: publisher.send(
                room,
                message,
                ephemeral=ephemeral,
                key=key,
                idempotency_key=idempotency_key,
                history=history,
                history_age=history_age,
            ),
            timeout,
        )

    def user(
        self,
        user: str,
        message: Sendable,
        *,
        ephemeral: bool = False,
        idempotency_key: str | None = None,
        timeout: float | None = TIMEOUT,
    ) -> Position:
        """Publish to all connections of a user, as :meth:`hubbub.Publisher.user`; return the position."""
        loop, publisher = self._connected(timeout)
        return loop.call(
            lambda: publisher.user(user, message, ephemeral=ephemeral, idempotency_key=idempotency_key),
            timeout,
        )

    def on_broker(
        self, work: Callable[[Broker], Awaitable[Result]], *, timeout: float | None = TIMEOUT
    ) -> Result:
        """Return what an asynchronous function does with the broker, on the publisher's event loop.

        For what is said to the servers, and is no message. Raises what it raises, and :exc:`TimeoutError`.
        """
        loop, publisher = self._connected(timeout)
        return loop.call(lambda: work(publisher.broker), timeout)

    def _connected(self, timeout: float | None) -> tuple[Loop, asynchronous.Publisher]:
        with self._lock:
            if self._closed:
                raise ConfigurationError("The publisher is closed.")
            if self._connection is None:
                loop, publisher = Loop("publisher"), self._make()
                loop.start()
                try:
                    loop.call(publisher.__aenter__, timeout)
                except BaseException:
                    loop.stop()
                    raise
                self._connection = loop, publisher
            return self._connection


_OPEN: "weakref.WeakSet[Publisher]" = weakref.WeakSet()
"""Those that are not closed."""


def _forget_all() -> None:
    for publisher in list(_OPEN):
        publisher._forget()


def _close_all() -> None:
    for publisher in list(_OPEN):
        publisher.close()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
