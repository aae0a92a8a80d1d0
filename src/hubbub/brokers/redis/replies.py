"""Redis's answers, read many at a time: redis-py reads one after the other, which takes much longer."""

from asyncio import StreamReader
from collections import deque

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ResponseError

Reply = bytes | int | None | ResponseError | list["Reply"]

AT_ONCE = 256 * 1024
"""Bytes that are read at once."""


class Replies:
    """A reader as redis-py takes it (its `parser_class`), for RESP 2.

    An error is returned as the exception that it is, not raised.
    """

    def __init__(self) -> None:
        self._stream: StreamReader | None = None
        self._buffer = b""
        self._ready: deque[Reply] = deque()

    def on_connect(self, connection: AbstractConnection) -> None:
        """Read what comes over a connection that was just made."""
        self._stream = connection._reader
        self._buffer = b""
        self._ready.clear()

    def on_disconnect(self) -> None:
        """Let go of it."""
        self._stream = None

    async def can_read_destructive(self) -> bool:
        """Tell whether there is anything."""
        return bool(self._ready or self._buffer)

    can_read = can_read_destructive

    async def read_response(self, disable_decoding: bool = False) -> Reply:  # noqa: ARG002
        """Return the next answer, as redis-py asks for it."""
        while not self._ready:
            self._ready.extend(await self._more())
        return self._ready.popleft()

    async def read_all(self) -> list[Reply]:
        """Return the answers that are there: at least one."""
        replies = list(self._ready)
        self._ready.clear()
        while not replies:
            replies = await self._more()
        return replies

    async def _more(self) -> list[Reply]:
        stream = self._stream
        data = b"" if stream is None else await stream.read(AT_ONCE)
        if not data:
            raise Disconnected("The server closed the connection.")
        buffer = self._buffer + data if self._buffer else data
        at, replies = 0, []
        while at < len(buffer):
            reply, end = _parsed(buffer, at)
            if end < 0:
                break
            replies.append(reply)
            at = end
        self._buffer = buffer[at:]
        return replies


def _parsed(buffer: bytes, at: int) -> tuple[Reply, int]:
    """Return the answer that begins at a place, and where it ends; -1 if it is not all there."""
    end = buffer.find(b"\r\n", at)
    if end < 0:
        return None, -1
    kind, line, after = buffer[at], buffer[at + 1 : end], end + 2
    if kind == 36:  # $
        size = int(line)
        if size < 0:
            return None, after
        stop = after + size
        return (buffer[after:stop], stop + 2) if len(buffer) >= stop + 2 else (None, -1)
    if kind == 42:  # *
        items: list[Reply] = []
        for _ in range(int(line)):
            item, after = _parsed(buffer, after)
            if after < 0:
                return None, -1
            items.append(item)
        return items, after
    if kind == 58:  # :
        return int(line), after
    if kind == 43:  # +
        return line, after
    if kind == 45:  # -
        return ResponseError(line.decode(errors="replace")), after
    raise Disconnected("The server does not speak Redis's protocol.")
