"""Control messages that come in parts, since a broker does not carry them whole."""

import asyncio
from collections import OrderedDict

import msgspec

PIECE = 500 * 1024
"""Bytes of a message that one part carries: wrapped, it is less than a control message may have."""

MAX_PARTS = 32
"""Parts of one message: 16 MB."""

MAX_JOINING = 64 * 2**20
"""Bytes of messages of which parts are missing; past it the oldest of them are dropped."""

MAX_WAIT = 10.0
"""Seconds after which a message is dropped that has not come whole."""


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """One of the `count` parts of a message: the one of this number, counted from 0."""

    message: str
    number: int
    count: int
    piece: bytes


class _Message:
    """The parts of one message that have come."""

    __slots__ = ("count", "pieces", "since", "size")

    def __init__(self, count: int, since: float) -> None:
        self.count = count
        self.since = since
        self.pieces: dict[int, bytes] = {}
        self.size = 0


class Joining:
    """Puts messages together again, whichever order their parts come in.

    A part that is lost has its whole message lost, which a control message may always be.
    """

    def __init__(self) -> None:
        self._messages: OrderedDict[str, _Message] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, part: Part) -> bytes | None:
        """Take a part; return the message if it was the last that was missing.

        Raises :exc:`ValueError` for one that can't be.
        """
        if not (0 <= part.number < part.count <= MAX_PARTS and 0 < len(part.piece) <= PIECE):
            raise ValueError("no part of a message")
        self.expire()
        message = self._messages.get(part.message)
        if message is None:
            now = asyncio.get_running_loop().time()
            message = self._messages[part.message] = _Message(part.count, now)
        if message.count != part.count or part.number in message.pieces:
            raise ValueError("a part that does not fit the others")
        message.pieces[part.number] = part.piece
        message.size += len(part.piece)
        self._size += len(part.piece)
        if len(message.pieces) == message.count:
            self._drop(part.message)
            return b"".join(message.pieces[number] for number in range(message.count))
        while self._size > MAX_JOINING:
            self._drop(next(iter(self._messages)))
        return None

    def expire(self) -> None:
        """Drop the messages whose time is over."""
        if self._messages:
            oldest = asyncio.get_running_loop().time() - MAX_WAIT
            while self._messages and next(iter(self._messages.values())).since < oldest:
                self._drop(next(iter(self._messages)))

    def _drop(self, name: str) -> None:
        self._size -= self._messages.pop(name).size
