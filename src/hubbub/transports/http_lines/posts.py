"""What the client of an HTTP line says in POSTs: taken in order, each once, no faster than its session is."""

import asyncio
from collections.abc import Callable

from ...engine.lines import TAKEN, UNKNOWN, LineAnswer, failed

PATIENCE = 5.0
"""Seconds for which a POST waits for a session that is behind."""

MOST_WAITING = 16
"""POSTs to one line that are handled or wait at once."""

BEHIND = failed(
    503, "unavailable", "The session is behind with what came before; send it again in a moment.", retry=True
)
HOLE = failed(409, "sequence", "POSTs are missing before this one: send them first, in order.")


class Posts:
    """Hands a client's messages to a session: `deliver` takes one, and lets it be if the line is over.

    One POST is taken after the other. A number names a POST, from 1 on: what came already is not taken again,
    and of a POST that was taken in part, when it comes again, the rest is.
    """

    def __init__(self, deliver: Callable[[str], None]) -> None:
        """Begin paused."""
        self._deliver = deliver
        self._taken = 0
        self._partly = 0
        """Messages taken of the POST after the last one that was taken whole."""
        self._count = 0
        self._turn: asyncio.Lock | None = None
        self._paused = True
        self._ended = False
        self._room: asyncio.Future[None] | None = None

    def pause(self) -> None:
        """Take nothing for now."""
        self._paused = True

    def resume(self) -> None:
        """Take again."""
        self._paused = False
        self._tell()

    def end(self) -> None:
        """Take nothing more: the line is over, or is about to be."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    async def take(self, messages: list[str], sequence: int | None) -> LineAnswer:
        """Take the messages of a POST, and return the answer to it."""
        if self._count >= MOST_WAITING:
            return BEHIND
        # Only those that are posted to need one.
        turn = self._turn = self._turn or asyncio.Lock()
        self._count += 1
        try:
            async with asyncio.timeout(PATIENCE), turn:
                return await self._take(messages, sequence)
        except TimeoutError:
            return UNKNOWN if self._ended else BEHIND
        finally:
            self._count -= 1

    async def _take(self, messages: list[str], sequence: int | None) -> LineAnswer:
        first = 0
        if sequence is not None and not self._ended:
            if sequence <= self._taken:
                return TAKEN
            if sequence > self._taken + 1:
                return HOLE
            first = self._partly
        for message in messages[first:]:
            while self._paused and not self._ended:
                self._room = self._room or asyncio.get_running_loop().create_future()
                await asyncio.shield(self._room)
            if self._ended:
                break
            self._deliver(message)
            if sequence is not None:
                self._partly += 1
        if self._ended:
            # One too many may have ended it. Whatever was not answered, the client says again.
            return UNKNOWN
        if sequence is not None:
            self._taken, self._partly = sequence, 0
        return TAKEN
