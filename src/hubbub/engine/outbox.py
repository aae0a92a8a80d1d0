"""What waits to be written: one outbox for each connection, one flush for each turn of the event loop."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from ..observe.log import fields, logger
from .held import Chunk as Chunk
from .held import Held, HeldMessage

Framing = Callable[[bytes, bool], Chunk]
"""Gives a payload that shape; the flag says whether the message is binary."""


class Writer(Protocol):
    """The part of a transport that an outbox writes to."""

    def write(self, chunks: list[Chunk]) -> None:
        """Write whole messages, in order, at once."""


class Outbox:
    """Chunks for one connection, in order.

    `limit` bounds the bytes that wait here while the transport takes no more. Past it the oldest are dropped
    of what is held for rooms that say so; `overflowed` is called where that is not enough.
    """

    __slots__ = (
        "_drained", "_held", "chunks", "flusher", "limit", "overflowed", "paused", "queued", "size", "writer",
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
        self._held: Held | None = None
        self._drained: asyncio.Future[None] | None = None

    def append(self, chunk: Chunk, size: int) -> None:
        """Put one chunk of `size` bytes behind the others: what :func:`fan_out` does, for one."""
        self.chunks.append(chunk)
        self.size += size
        if not self.queued:
            self.queue()
        elif self.size > self.limit:
            self.relieve()

    def queue(self) -> None:
        """Have it flushed at the end of this turn of the event loop."""
        self.queued = True
        flusher = self.flusher
        if not flusher.waiting:
            flusher.schedule()
        flusher.waiting.append(self)

    def requeue(self) -> None:
        """Have it flushed as always, since who has set `queued` does not come to flush it in this turn."""
        self.queued = self.paused
        if self.chunks and not self.paused:
            self.queue()

    def relieve(self) -> None:
        """Get below the limit again if that can be. Much in one turn is no slow reader yet."""
        # Only what the transport does not take counts.
        self.flush()
        if self.size > self.limit:
            self.make_room()

    def hold(self, message: HeldMessage) -> None:
        """Keep a room's message, while the transport takes no more, in the way that the room wants.

        It is written after all chunks. So all of such a room's messages have to be held while paused.
        """
        if self._held is None:
            self._held = Held()
        self.size += self._held.add(message)
        if self.size > self.limit:
            self.make_room()

    def make_room(self) -> None:
        """Get below the limit again."""
        if self._held is not None:
            self.size -= self._held.drop(self.size - self.limit)
        if self.size > self.limit:
            self.overflowed()

    def forget(self, room: str) -> None:
        """Drop what is held of a room: its reader is no member any more."""
        if self._held is not None:
            self.size -= self._held.take(room).cost

    def release(self, room: str) -> None:
        """Have what is held of a room wait with all else: its reader joins again, and was told so much."""
        if self._held is not None:
            taken = self._held.take(room)
            self.chunks += taken.chunks()

    def flush(self) -> None:
        """Write what waits, unless the transport takes no more."""
        if not self.paused:
            self.queued = False
            self._write()

    def write_all(self) -> None:
        """Write what waits even where the transport would rather take no more, as before a close."""
        self._release()
        self._write()

    def _write(self) -> None:
        if self.chunks:
            chunks, self.chunks, self.size = self.chunks, [], 0
            self.written += len(chunks)
            self.writer.write(chunks)

    def _release(self) -> None:
        # What is held is held while paused only, so that a flush needn't look for it.
        if self._held is not None:
            self.chunks += self._held.chunks()
            self._held = None

    def pause(self) -> None:
        """Keep chunks from now on: the transport's own buffer is full."""
        self.paused = self.queued = True
        self.flusher.paused.add(self)

    def resume(self) -> None:
        """Write again: the transport's buffer has room."""
        self.paused = False
        self.flusher.paused.discard(self)
        self._release()
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

    def clear(self) -> None:
        """Drop what waits."""
        self.chunks.clear()
        self._held = None
        self.size = 0

    def close(self) -> None:
        """Drop what waits and take nothing more."""
        self.clear()
        self.writer = _NOWHERE
        self.overflowed = _nothing  # it is whoever has the outbox: both are to go without a collection
        self.resume()


def _nothing() -> None:
    pass


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
        self.paused: set[Outbox] = set()
        """Those whose transport takes no more for now: nobody, mostly."""

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
        outbox.relieve()
