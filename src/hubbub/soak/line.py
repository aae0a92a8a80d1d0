"""A line for clients in great numbers: a WebSocket with just what a hubbub server needs of one.

With it, thousands of clients in one process cost less than the server that they come back to.
"""

import asyncio
import base64
import os
from collections import deque
from typing import cast

from ..client.line import Dial, LineLost, NotConnected
from ..load.connection import handshake
from ..load.frames import CLOSE, PING, PONG, TEXT, Closed, accept, extent, masked
from ..load.line import Target
from ..protocol.codecs import JSON

CLOSES_WITHIN = 5.0
"""Seconds that the server has to answer the closing handshake."""


def dialling(port: int, *, open_timeout: float) -> Dial:
    """Return what opens lines to a port of this machine, without TLS and compression."""
    target = Target("127.0.0.1", port, subprotocol=JSON.subprotocol)

    async def dial(token: str | None) -> LightLine:  # noqa: ARG001  # in a soak nobody logs in
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(open_timeout):
                _, line = await loop.create_connection(LightLine, target.host, target.port)
                try:
                    await line.upgrade(target)
                except BaseException:
                    await line.close(1006)
                    raise
        except (OSError, LineLost) as problem:
            raise NotConnected(str(problem) or type(problem).__name__) from problem
        return line

    return dial


class LightLine(asyncio.Protocol):
    """A WebSocket that carries whole text messages."""

    name = "ws"
    heard_at = 0.0

    def __init__(self) -> None:
        self.subprotocol: str | None = None
        self._transport: asyncio.Transport
        self._unread = bytearray()
        self._key = base64.b64encode(os.urandom(16))
        self._upgraded = False
        self._closing = False
        self._messages: deque[str] = deque()
        self._lost: LineLost | None = None
        self._moved = asyncio.Event()
        self._gone = asyncio.Event()

    async def upgrade(self, target: Target) -> None:
        """Do the opening handshake; :exc:`LineLost` if the server refuses it."""
        self._transport.write(handshake(target, "/", self._key))
        while not self._upgraded:
            await self._until_moved()
        self.subprotocol = JSON.subprotocol

    async def send(self, message: str | bytes) -> None:
        """Send a text message. What a slow reader leaves is kept; these clients say little."""
        if self._lost is not None:
            raise self._lost
        self._transport.write(masked(message if isinstance(message, bytes) else message.encode()))

    async def recv(self) -> str | bytes:
        """Return the next message; :exc:`LineLost` if there will be none."""
        while not self._messages:
            await self._until_moved()
        return self._messages.popleft()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a code; 1006 lets go without a handshake."""
        if code != 1006 and self._lost is None:
            self._closing = True
            self._transport.write(masked(code.to_bytes(2, "big") + reason.encode(), CLOSE))
            try:
                async with asyncio.timeout(CLOSES_WITHIN):
                    await self._gone.wait()
            except TimeoutError:
                pass  # it is closed in any case
        self._transport.abort()
        await self._gone.wait()

    async def _until_moved(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._moved.clear()
        await self._moved.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)  # uvloop's only looks like one

    def connection_lost(self, problem: Exception | None) -> None:  # noqa: ARG002, D102
        self._end(LineLost())
        self._gone.set()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._unread += data
        if not self._upgraded and not self._upgrades():
            return
        start = 0
        while (found := extent(self._unread, start)) is not None and found[1] <= len(self._unread):
            first, payload = self._unread[start], bytes(self._unread[found[0] : found[1]])
            start = found[1]
            match first & 0x0F:
                case opcode if opcode == TEXT:
                    self._messages.append(payload.decode())
                case opcode if opcode == PING:
                    self._transport.write(masked(payload, PONG))
                case opcode if opcode == CLOSE:
                    closed = Closed.by(payload)
                    self._end(LineLost(closed.code, closed.reason))
                    if not self._closing:
                        self._transport.write(masked(payload, CLOSE))
                    self._transport.close()
        del self._unread[:start]
        self._moved.set()

    def _upgrades(self) -> bool:
        head, end, _ = self._unread.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101 ") or accept(self._key) not in head:
            self._end(LineLost(1006, head.partition(b"\r\n")[0].decode(errors="replace")))
            self._transport.abort()
            return False
        del self._unread[: len(head) + len(end)]
        self._upgraded = True
        return True

    def _end(self, lost: LineLost) -> None:
        if self._lost is None:
            self._lost = lost
        self._moved.set()
