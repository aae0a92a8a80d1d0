"""Counting the messages in what comes in, as cheaply as can be."""

from collections.abc import Callable

from .connection import BUFFER, RECORD, Connection
from .frames import BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT, Closed, extent, masked

FULL = BUFFER - RECORD
"""Bytes past which more may have come than the buffer held."""


class Messages:
    """Counts the messages that one connection receives, and answers its pings.

    With `compressed` all of them must be. `notice` is told the payload of each frame of a message.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        compressed: bool = False,
        notice: Callable[[bytes], None] | None = None,
    ) -> None:
        self._receive = connection.receiver()
        self._push = connection.push
        self._first = FIN | (RSV1 if compressed else 0)
        self._compressed = compressed
        self._notice = notice
        self._rest = b""

    def feed(self, data: memoryview) -> int:
        """Take in what came; return how many messages are now complete.

        Where `data` fills the buffer, what is left in the socket is received as well, since `epoll` may tell
        of it only once (EPOLLET). Raises :exc:`Closed` if the server closes,
        :exc:`ValueError` for what it may not send.
        """
        received = len(data)
        if (
            not self._rest
            and self._notice is None
            and received >= 4
            and data[0] & 0xFC == self._first
            and received == (data[1] + 2 if data[1] < 126 else (data[2] << 8 | data[3]) + 4)
            and data[1] < 127
        ):
            return 1  # one whole message, which is what comes nearly always; it doesn't fill the buffer
        count = self._take(data)
        while len(data) > FULL:
            data = self._more()
            count += self._take(data)
        return count

    def _more(self) -> memoryview:
        """Return what else has come."""
        buffer = bytearray(BUFFER)
        try:
            received = self._receive(buffer)
        except BlockingIOError:
            return memoryview(b"")
        if not received:
            raise Closed
        return memoryview(buffer)[:received]

    def _take(self, data: memoryview) -> int:
        """Take in a piece; return how many messages it completes."""
        whole: bytes | memoryview = self._rest + data if self._rest else data
        count = position = 0
        while (found := extent(whole, position)) is not None and found[1] <= len(whole):
            count += self._frame(whole[position], whole[found[0] : found[1]])
            position = found[1]
        self._rest = bytes(whole[position:])
        return count

    def _frame(self, first: int, payload: bytes | memoryview) -> int:
        """Take in a frame; return 1 if a message ends with it, else 0."""
        opcode = first & 0x0F
        if opcode == CLOSE:
            raise Closed.by(bytes(payload))
        if opcode == PING:
            self._push(masked(bytes(payload), PONG))
        if opcode >= CLOSE:
            return 0
        if self._compressed and opcode and not first & RSV1:
            raise ValueError("The server sent a message that is not compressed.")
        if self._notice is not None:
            self._notice(bytes(payload))
        return first >> 7


class SharedStream:
    """Finds the messages in a stream that many connections receive alike, byte for byte.

    Whichever connection is ahead feeds what it has received beyond `seen`, so every byte is looked at once,
    however many connections there are; a position in the stream tells how many messages come before it.
    """

    def __init__(self, *, compressed: bool = False) -> None:
        self.seen = 0
        self.ends: list[int] = []
        """Positions in the stream at which a message ends, ascending."""
        self._rest = bytearray()
        marks = FIN | (RSV1 if compressed else 0)
        self._expected = marks | TEXT, marks | BINARY

    def feed(self, data: memoryview) -> None:
        """Take in what comes next in the stream.

        Raises :exc:`ValueError` for anything but whole data messages: no peer of a benchmark sends more.
        """
        rest = self._rest
        rest += data
        self.seen += len(data)
        while (found := extent(rest)) is not None and found[1] <= len(rest):
            if rest[0] not in self._expected:
                raise ValueError(f"Expected one whole data frame, but the server sent {bytes(rest[:64])!r}.")
            del rest[: found[1]]
            self.ends.append(self.seen - len(rest))
