"""Coming and going of connections: one after the other, for as long as it takes."""

import asyncio
import secrets

from ...errors import ConfigurationError, Unavailable
from ...observe.log import fields, logger
from ..outage import Outage
from .address import Address
from .line import Line, Trouble

LONGEST_PAUSE = 2.0
"""Seconds between two attempts to connect, at the most."""


class Connecting:
    """Has a connection to a server, or tries to; inherit, and say in :meth:`_use` what it is for.

    `timeout` is for how many seconds an answer is waited for.
    """

    def __init__(self, address: Address, *, timeout: float) -> None:
        self.available = False
        """Whether the server answers, as far as is known."""
        self._address = address
        self._timeout = timeout
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._why = "The broker is not started."
        self._outage = Outage()
        self._stopping = False

    async def start(self) -> None:
        """Begin; return when it can be used, or when the server did not answer in time."""
        self._ready = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._why = "The broker can't be reached."
        self._task = asyncio.create_task(self._run(), name="hubbub: RabbitMQ")
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self._becomes_unavailable("it did not answer in time")
            # From here on, whatever keeps it from being used is tried again.
            self._is_ready()
        except BaseException:
            await self.stop()
            raise
        finally:
            if self._ready.done():
                # Who waited for it may be gone: then its exception is looked at here.
                self._ready.exception()

    async def stop(self, *, abruptly: bool = False) -> None:
        """End; `abruptly` as a crash would: the server is not told."""
        self._why = "The broker is stopped."
        self.available = False
        self._stopping = True
        # Taken from the task, which would cut it.
        line, self._line = self._line, None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if line is not None:
            await (line.abort() if abruptly else line.close())

    async def send(self, instance: str | None, payload: bytes) -> None:
        """Send a control message; :exc:`Unavailable` if the server does not take it."""
        line = self._usable()
        try:
            async with asyncio.timeout(self._timeout):
                await line.send(instance, payload)
        except Trouble as problem:
            raise Unavailable("The broker can't be reached.") from problem

    def _usable(self) -> Line:
        """Return the connection; :exc:`Unavailable` if it can't be used."""
        if self._line is None or not self.available:
            raise Unavailable(self._why)
        return self._line

    async def _use(self, line: Line) -> str:
        """Use a connection until it is of no use any more; return why. Raises what the connection does."""
        raise NotImplementedError

    async def _run(self) -> None:
        assert self._ready is not None
        pause = 0.0
        while True:
            why = "it did not answer in time"
            try:
                why = await self._open_and_use(why)
            except ConfigurationError as problem:
                why = str(problem)
                if not self._ready.done():
                    self._ready.set_exception(problem)
                    return
            except Exception as problem:
                why = repr(problem)
                logger.exception("error", extra=fields(during="broker", broker=self._address.shown))
            finally:
                if self.available:
                    pause = 0.0
                line, self._line = self._line, None
                self._becomes_unavailable(why)
                if line is not None:
                    await line.abort()
            # Not all instances at once, when the server is back.
            await asyncio.sleep(pause * (0.5 + secrets.randbelow(512) / 1024))
            pause = min(max(pause * 2, 0.05), LONGEST_PAUSE)

    async def _open_and_use(self, why: str) -> str:
        """Use a new connection for as long as it is of use, and return why it is not, if that was told."""
        try:
            async with asyncio.timeout(self._timeout):
                self._line = await Line.open(self._address)
            told = await self._use(self._line)
        except Trouble as problem:
            if self._line is not None:
                self._line.check_rights(problem)
            return str(problem) or why
        self._line.check_rights()
        return told

    def _becomes_available(self) -> None:
        self._why = "The broker can't be reached."
        self.available = True
        self._outage.ends(self._address.shown)

    def _is_ready(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _becomes_unavailable(self, why: str) -> None:
        self.available = False
        if not self._stopping:
            self._outage.begins(self._address.shown, why)
