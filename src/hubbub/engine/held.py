"""What waits for a slow reader in rooms that would rather leave something out than disconnect it."""

from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

Chunk = object
"""A payload in the shape that a transport writes: a frame's bytes, or an ASGI event."""

Slow = Literal["disconnect", "drop", "conflate"]
"""What a room has done to a member that reads too slowly: it is disconnected, it loses the oldest messages,
or it is kept only the newest message of each key."""

OVERHEAD = 200
"""Bytes that keeping a message takes beside its own, so that many small ones are bounded too."""


class HeldMessage(NamedTuple):
    """A room's message in one form: one object for all the slow readers that it waits for."""

    room: str
    slow: Slow
    key: str | None
    """In a room that conflates, a later message with the same key takes its place."""
    chunk: Chunk
    size: int
    gap: Callable[[], tuple[Chunk, int]] | None
    """Makes what a reader is told where this was dropped; None if that is nothing."""

    @property
    def cost(self) -> int:
        """Bytes that it takes to hold it."""
        return self.size + OVERHEAD


class Held:
    """The messages that wait for one reader, each room's in their order; between rooms there is none."""

    __slots__ = ("_conflated", "_droppable", "_lost")

    def __init__(self) -> None:
        self._droppable: deque[HeldMessage] = deque()
        self._conflated: dict[object, HeldMessage] = {}
        self._lost: dict[str, Callable[[], tuple[Chunk, int]]] = {}
        """By room, what its reader has to be told before the next message of it: once, whatever it lost."""

    @property
    def cost(self) -> int:
        """Bytes that all of it takes."""
        return sum(message.cost for message in (*self._droppable, *self._conflated.values()))

    def add(self, message: HeldMessage) -> int:
        """Put a message behind the others; return how many bytes more are held now."""
        if message.slow == "drop":
            self._droppable.append(message)
            return message.cost
        place: object = object() if message.key is None else (message.room, message.key)
        # Behind the others, and not where the older one was: a room's messages stay in their order.
        older = self._conflated.pop(place, None)
        self._conflated[place] = message
        return message.cost - (0 if older is None else older.cost)

    def drop(self, excess: int) -> int:
        """Drop the oldest that may be dropped until `excess` bytes are free; return how many are."""
        freed = 0
        while freed < excess and self._droppable:
            message = self._droppable.popleft()
            freed += message.cost
            if message.gap is not None:
                self._lost[message.room] = message.gap
        return freed

    def take(self, room: str) -> "Held":
        """Take out all that is held of a room."""
        taken = Held()
        taken._droppable = deque(message for message in self._droppable if message.room == room)
        taken._conflated = {at: message for at, message in self._conflated.items() if message.room == room}
        if room in self._lost:
            taken._lost[room] = self._lost.pop(room)
        self._droppable = deque(message for message in self._droppable if message.room != room)
        for at in taken._conflated:
            del self._conflated[at]
        return taken

    def chunks(self) -> list[Chunk]:
        """Return everything to write, with what has to be told before it."""
        chunks: list[Chunk] = []
        for message in self._droppable:
            gap = self._lost.pop(message.room, None)
            if gap is not None:
                chunks.append(gap()[0])
            chunks.append(message.chunk)
        # Of these rooms no message is left.
        chunks += [gap()[0] for gap in self._lost.values()]
        chunks += [message.chunk for message in self._conflated.values()]
        return chunks
