"""Messages of a response that goes on: bytes as they arrive, in pieces of any size, become texts."""

from typing import Protocol


class TooLarge(Exception):
    """A message is larger than may be."""


class Parser(Protocol):
    """Cuts a stream into messages."""

    def feed(self, chunk: bytes) -> list[str]:
        """Return the messages that a piece completes.

        Raises :exc:`TooLarge`, and :exc:`UnicodeDecodeError` for what is no UTF-8. Then it is of no use.
        """


class Lines:
    """Messages that are lines, as ``application/x-ndjson`` has them; empty lines are none.

    A line may have `limit` bytes; None is without a limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        """The pieces of a line whose end has not come."""
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Return the messages that a piece completes."""
        return [line.decode() for line in self.lines(chunk) if line and not line.isspace()]

    def lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that a piece completes, without their ends."""
        lines = chunk.split(b"\n")
        self._rest.append(lines[0])
        self._size += len(lines[0])
        self._check(self._size)
        if len(lines) == 1:
            return []
        lines[0] = b"".join(self._rest)
        last = lines.pop()
        self._rest = [last]
        self._size = len(last)
        for line in lines:
            self._check(len(line))
        self._check(self._size)
        return lines

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise TooLarge


FIELD = len(b"data: ")
"""Bytes of a line of an event stream that are not the message's."""


class EventStream:
    """Messages that are the data of events (WHATWG HTML section 9.2.6).

    All that is of use here are data and the ends of events: what a browser keeps of ids and times to come
    back, hubbub's session knows better. The data of one event may have `limit` bytes; None is for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lines = Lines(None if limit is None else limit + FIELD)
        self._data: list[bytes] = []
        self._size = 0
        self._first = True
        self._ended_with_return = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the messages that a piece completes."""
        messages: list[str] = []
        for line in self._lines.lines(self._with_line_feeds(chunk)):
            if self._first:
                self._first = False
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line:
                if self._data:
                    messages.append(b"\n".join(self._data).decode())
                    self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                self._take(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line == b"data":
                self._take(b"")
        return messages

    def _take(self, data: bytes) -> None:
        self._size += len(data) + 1
        if self._limit is not None and self._size - 1 > self._limit:
            raise TooLarge
        self._data.append(data)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """Return a piece in which each line ends with a line feed: return and line feed are one end."""
        if not chunk:
            return chunk
        ended_with_return, self._ended_with_return = self._ended_with_return, chunk.endswith(b"\r")
        if ended_with_return:
            chunk = chunk.removeprefix(b"\n")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk
