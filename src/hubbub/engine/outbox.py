"""What waits to be written: one outbox for each connection, one flush for each turn of the event loop."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from ..observe.log import fields, logger

Chunk = object
"""A payload in the shape that a transport writes: a frame's bytes, or an ASGI event."""

Framing = Callable[[bytes, bool], Chunk]
"""Gives a payload that shape; the flag says whether the message is binary."""


class Writer(Protocol):
    """The part of a transport that an outbox writes to."""

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order, at once."""


class Outbox:
    """Chunks for one connection, in order.

    `limit` bounds the bytes that wait here while the transport takes no more. `overflowed` is called when
    a chunk goes past it.
    """

    __slots__ = (
        "_drained", "chunks", "flusher", "limit", "overflowed", "paused", "queued", "size", "writer",
        "written",
    )  # fmt: skip

    def __init__(
        self, writer: Writer, flusher: "Flusher", limit: int, overflowed: Callable[[], None]
    ) -> None:
        self.writer = writer
        self.flusher = flusher
        self.limit = limit
        self.overflowed = overflowed
        self.chunks: list[Chunk] = []
        self.size = 0
        self.queued = False
        """Whether the flusher knows that something waits here. Stays set while paused."""
        self.paused = False
        """Whether the transport takes no more for now."""
        self.written = 0
        """Messages handed to the transport."""
        self._drained: asyncio.Future[None] | None = None

    def append(self, chunk: Chunk, size: int) -> None:
        """Put one chunk of `size` bytes behind the others."""
        fan_out((self,), chunk, size)

    def flush(self) -> None:
        """Write what waits, unless the transport takes no more."""
        if not self.paused:
            self.queued = False
            self.write_all()

    def write_all(self) -> None:
        """Write what waits even where the transport would rather take no more, as before a close."""
        if self.chunks:
            chunks, self.chunks, self.size = self.chunks, [], 0
            self.written += len(chunks)
            self.writer.write(chunks)

    def pause(self) -> None:
        """Keep chunks from now on: the transport's own buffer is full."""
        self.paused = self.queued = True

    def resume(self) -> None:
        """Write again: the transport's buffer has room."""
        self.paused = False
        self.flush()
        if not self.paused and self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    async def drained(self) -> None:
        """Wait until the transport takes more, or the outbox is closed."""
        while self.paused:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            # Shielded: several may wait for the one future, and one who is cancelled must not end it.
            await asyncio.shield(self._drained)

    def close(self) -> None:
        """Drop what waits and take nothing more."""
        self.chunks.clear()
        self.size = 0
        self.writer = _NOWHERE
        self.resume()


class _Nowhere:
    def write(self, chunks: list[Chunk]) -> None:
        pass


_NOWHERE = _Nowhere()


class Flusher:
    """Writes, once for each turn of the event loop, everything that was appended in it."""

    def __init__(self) -> None:
        self.waiting: list[Outbox] = []
        self.turn = 0
        """Counts the turns of the event loop in which something was written."""

    def schedule(self) -> None:
        """Have :meth:`flush` run in the next turn."""
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what every waiting outbox holds."""
        self.turn += 1
        waiting, self.waiting = self.waiting, []
        for outbox in waiting:
            try:
                outbox.flush()
            except Exception:
                # Those behind it must get theirs; this one can't be trusted with more.
                logger.exception("error", extra=fields(during="writing"))
                asyncio.get_running_loop().call_soon(outbox.overflowed)


def fan_out(outboxes: Iterable[Outbox], chunk: Chunk, size: int) -> None:
    """Append one chunk of `size` bytes to many outboxes: the innermost loop of a broadcast."""
    overflowing: list[Outbox] | None = None
    for outbox in outboxes:
        outbox.chunks.append(chunk)
        outbox.size += size
        if outbox.queued:
            if outbox.size > outbox.limit:
                overflowing = overflowing or []
                overflowing.append(outbox)
        else:
            outbox.queued = True
            flusher = outbox.flusher
            if not flusher.waiting:
                flusher.schedule()
            flusher.waiting.append(outbox)
    for outbox in overflowing or ():
        # Much in one turn is no slow reader yet: only what the transport does not take counts.
        outbox.flush()
        if outbox.size > outbox.limit:
            outbox.overflowed()
