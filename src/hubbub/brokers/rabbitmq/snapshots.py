"""Snapshots of the state, appended to the log itself: so it can be read without its beginning."""

import asyncio
import secrets
from collections.abc import Callable

from ...observe.log import fields, logger
from . import snapshot
from .address import Address
from .line import Line, Trouble
from .records import Part, encode
from .replica import Replica

SHARE = 8
"""A snapshot should be no larger than this part of the log, which has to hold two and what comes between."""


class Snapshots:
    """Writes snapshots, one at a time, each in a task of its own."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        self._name = ""
        self._whole = asyncio.Event()

    def write(self, line: Line, replica: Replica) -> None:
        """Begin to append what a replica comes to now, if none is being written."""
        if self._task is not None and not self._task.done():
            return
        assert replica.state is not None
        self._name = secrets.token_hex(8)
        self._whole.clear()
        self._task = asyncio.create_task(
            self._write(line, replica.offset, snapshot.capture(replica.state)),
            name="hubbub: RabbitMQ snapshot",
        )

    def read(self, part: Part) -> None:
        """Take note of a part that was read."""
        if part.last and part.snapshot == self._name:
            self._whole.set()

    async def stop(self) -> None:
        """Give up what is being written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _write(self, line: Line, offset: int, captured: list[Callable[[], bytes]]) -> None:
        size = 0
        try:
            for number, (piece, last) in enumerate(snapshot.pieces(captured)):
                size += len(piece)
                await line.append(encode(Part(self._name, offset, number, last, piece)), wait=True)
                await asyncio.sleep(0)
            async with asyncio.timeout(self._timeout):
                await self._whole.wait()
            await line.point(offset)
        except Trouble as problem:
            # The next one is due when the log has grown as much again.
            because = str(problem) or "it did not answer in time"
            shown = self._address.shown
            logger.warning("broker snapshot failed", extra=fields(broker=shown, because=because))
        except Exception:
            logger.exception("error", extra=fields(during="snapshot", broker=self._address.shown))
        if size > self._address.log_bytes // SHARE:
            logger.warning(
                "broker log small",
                extra=fields(broker=self._address.shown, log_bytes=self._address.log_bytes, snapshot=size),
            )
