"""Where a process's part in the layer lives: on the hub's event loop, or on one in a thread of its own."""

import asyncio
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

from ...sync.loop import Loop
from .mailboxes import Mailboxes
from .station import Station

Result = TypeVar("Result")

Place = Callable[[], "asyncio.AbstractEventLoop | None"]
"""Says on which event loop the station has to be; None is for one of its own."""


class Home:
    """Mailboxes of this process, and its :class:`Station`, which is made when it is first needed.

    Django calls the layer from any thread, on event loops that may live for one call only; the connection to
    the broker has to outlive them. `make` is called on the station's loop.
    """

    def __init__(self, place: Place, make: "Callable[[Home], Station]") -> None:
        self.process = secrets.token_hex(6)
        """What this process is called in the names of its channels."""
        self.pid = os.getpid()
        self.mailboxes = Mailboxes()
        self._place = place
        self._make = make
        self._lock = threading.Lock()
        self._starting: Future[Station] | None = None
        self._thread: Loop | None = None

    @property
    def started(self) -> bool:
        """Whether the station is there."""
        starting = self._starting
        return starting is not None and starting.done() and _is_there(starting)

    async def run(self, work: Callable[[Station], Awaitable[Result]]) -> Result:
        """Return what an asynchronous function does with the station, on the station's loop."""
        starting = self._begin()
        # Others wait for it too, so that one's cancellation must not reach it.
        station = (
            starting.result() if starting.done() else await asyncio.shield(asyncio.wrap_future(starting))
        )
        if asyncio.get_running_loop() is station.loop:
            return await work(station)

        async def there() -> Result:
            return await work(station)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), station.loop))

    def _begin(self) -> "Future[Station]":
        with self._lock:
            starting = self._starting
            if starting is None or (starting.done() and not _is_there(starting)):
                starting = self._starting = asyncio.run_coroutine_threadsafe(self._start(), self._loop())
            return starting

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = self._place()
        if loop is not None:
            return loop
        if self._thread is None:
            self._thread = Loop("channel layer")
            self._thread.start()
        return self._thread.loop

    async def _start(self) -> Station:
        station = self._make(self)
        await station.start()
        return station

    async def close(self) -> None:
        """Give the connection back; what is used after that begins anew."""
        closing = self._end()
        if closing is not None:
            await asyncio.wrap_future(closing)
        self._end_thread()

    def close_blocking(self) -> None:
        """Do the same where no event loop runs."""
        closing = self._end()
        if closing is not None:
            closing.result(10)
        self._end_thread()

    def _end(self) -> "Future[None] | None":
        with self._lock:
            starting, self._starting = self._starting, None
        if starting is None:
            return None
        if not starting.done():
            starting.cancel()
            return None
        if not _is_there(starting):
            return None
        station = starting.result()
        stopping: Coroutine[object, object, None] = station.stop()
        return asyncio.run_coroutine_threadsafe(stopping, station.loop)

    def _end_thread(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()


def _is_there(started: "Future[Station]") -> bool:
    """Tell whether a station was started, and its event loop runs: the server's may have ended."""
    return not started.cancelled() and started.exception() is None and started.result().loop.is_running()
