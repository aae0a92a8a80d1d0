"""A tap on a client's lines: the last of what they carried, and a way to keep the client from dialling."""

import asyncio
from collections import deque

import msgspec

from ..client.line import Dial, Line, LineLost, NotConnected
from .line import InProcessLine

LINES = 20
"""Lines that are kept, the last ones."""

WIDTH = 300
"""Characters of a message that are kept, the first ones."""


class Tap:
    """Dials as `dial` does, while it is reachable, and listens in."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._line: Line | None = None
        self.lines: deque[str] = deque(maxlen=LINES)
        """What was on the wire: ``→`` from the client, ``←`` from the server."""
        self.reachable = asyncio.Event()
        """Whether dialling comes to something; else it waits."""
        self.reachable.set()
        self.refusing = False
        """Whether dialling fails at once."""

    @property
    def line(self) -> InProcessLine:
        """The line of the moment; :exc:`RuntimeError` if it is no in-process one."""
        if not isinstance(self._line, InProcessLine):
            raise RuntimeError("There is no in-process line: over a socket, use a fault proxy.")
        return self._line

    async def dial(self, token: str | None) -> Line:
        """Open a line."""
        await self.reachable.wait()
        try:
            if self.refusing:
                raise NotConnected("the test lets nobody connect")
            self._line = await self._dial(token)
        except NotConnected as problem:
            self.lines.append(f"not connected: {problem}")
            raise
        self.lines.append("connected")
        return _Tapped(self._line, self.lines)


class _Tapped:
    def __init__(self, line: Line, lines: "deque[str]") -> None:
        self._line = line
        self._lines = lines
        self.subprotocol = line.subprotocol
        self.name = line.name

    @property
    def heard_at(self) -> float:
        return self._line.heard_at

    async def send(self, message: str | bytes) -> None:
        self._lines.append(f"→ {_readable(message)}")
        await self._line.send(message)

    async def recv(self) -> str | bytes:
        try:
            message = await self._line.recv()
        except LineLost as lost:
            self._lines.append(f"lost: {lost}")
            raise
        self._lines.append(f"← {_readable(message)}")
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._line.close(code, reason)


def _readable(message: str | bytes) -> str:
    if isinstance(message, bytes):
        try:
            message = repr(msgspec.msgpack.decode(message))
        except msgspec.DecodeError:
            message = repr(message)
    return message if len(message) <= WIDTH else f"{message[:WIDTH]}..."
