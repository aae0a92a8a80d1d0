"""An event loop in a thread of its own, on which what blocks has its asynchronous part done."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from typing import TypeVar

from ..errors import ClientError

Result = TypeVar("Result")

TIMEOUT = 10.0
"""Seconds that a method may take if nothing else is said."""


class Loop:
    """An event loop in a thread, for the `user` that the errors name."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._problem: OSError | None = None
        self._handing_over = threading.Lock()
        # A daemon, so that a program which forgets to close its client ends all the same.
        self._thread = threading.Thread(target=self._run, name=f"hubbub {user}", daemon=True)

    def _closed(self) -> ClientError:
        return ClientError(
            f"The {self._user} is closed, or was not entered in this process: use it in a `with` block."
        )

    @property
    def running(self) -> bool:
        """Whether it is there, in this process."""
        # In a child made by fork there is no such thread, and nobody who would answer.
        return self._loop is not None and self._thread.is_alive()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; :exc:`ClientError` if it was not started, or is stopped."""
        if self._loop is None:
            raise self._closed()
        return self._loop

    def start(self) -> None:
        """Start it; :exc:`ClientError` if the system has no means for one more."""
        self._thread.start()
        self._started.wait()
        if self._loop is None:
            raise ClientError(
                f"The {self._user}'s event loop did not start: {self._problem}"
            ) from self._problem

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except OSError as problem:
            if self._started.is_set():
                raise
            self._problem = problem
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await self._stop.wait()

    def stop(self) -> None:
        """Stop the loop and wait for the end of its thread; what is still under way there is cancelled."""
        with self._handing_over:
            # What was handed over before is cancelled with the loop's other tasks; nothing comes after.
            loop, self._loop = self._loop, None
            if loop is not None and self._stop is not None:
                loop.call_soon_threadsafe(self._stop.set)
        if loop is not None:
            self._thread.join()

    def next(self, source: AsyncIterator[Result], timeout: float | None) -> Result:
        """Return what an asynchronous iterator yields next; :exc:`EOFError` at its end."""
        item = self._take(source, timeout)
        if item is None:
            raise EOFError("Nothing comes any more.")
        return item

    def each(self, source: AsyncIterator[Result]) -> Iterator[Result]:
        """Yield what an asynchronous iterator yields, until it ends or the loop does."""
        while self.running:
            item = self._take(source, None)
            if item is None:
                return
            yield item

    def _take(self, source: AsyncIterator[Result], timeout: float | None) -> Result | None:
        return self.call(lambda: anext(source, None), timeout)

    def call(self, function: Callable[[], Awaitable[Result]], timeout: float | None) -> Result:
        """Return what an asynchronous function returns on the loop."""

        async def bounded() -> Result:
            # On the loop, so that nothing is taken there that would come too late here.
            async with asyncio.timeout(timeout):
                return await function()

        if not self.running:
            raise self._closed()
        with self._handing_over:
            loop = self._loop
            if loop is None:
                raise self._closed()
            future = asyncio.run_coroutine_threadsafe(bounded(), loop)
        try:
            return future.result()
        except CancelledError:
            raise ClientError(f"The {self._user} was closed meanwhile.") from None
        except BaseException:
            future.cancel()  # an interrupt of this thread ends it there, too
            raise
