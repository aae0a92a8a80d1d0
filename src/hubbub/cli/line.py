"""A line that is no WebSocket, for those who know WebSockets: the same methods and the same end."""

import asyncio
from collections.abc import Awaitable
from itertools import count
from typing import NoReturn

import msgspec
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close

from ..client.line import Line, LineLost
from ..protocol.codes import CloseCode


class _Pong(msgspec.Struct):
    type: str
    id: int | str | None = None


_read = msgspec.json.Decoder(_Pong).decode


class LineConnection:
    """A line to a hubbub. A ping is the protocol's, and so is the pong, which nobody else receives.

    Closing may take `close_timeout` seconds.
    """

    def __init__(self, line: Line, close_timeout: float | None) -> None:
        self.close_timeout = close_timeout
        self.subprotocol = line.subprotocol
        self._line = line
        self._closed: ConnectionClosed | None = None
        self._closing: Close | None = None
        self._names = (f"hubbub connect {number}" for number in count(1))
        self._pings: dict[str, tuple[float, asyncio.Future[float]]] = {}

    @property
    def closed(self) -> ConnectionClosed:
        """How it ended."""
        assert self._closed is not None
        return self._closed

    async def send(self, message: str | bytes) -> None:
        """Send a message; :exc:`TypeError` for bytes, which these lines don't carry."""
        if isinstance(message, bytes):
            raise TypeError(f"A line of the kind {self._line.name}:// carries text only.")
        try:
            await self._line.send(message)
        except LineLost as lost:
            self._end(lost)
        except ValueError:
            raise TypeError(
                f"A line of the kind {self._line.name}:// carries envelopes only, such as "
                '{"type": "say", "data": {"text": "hi"}}.'
            ) from None

    async def recv(self) -> str | bytes:
        """Return the next message."""
        while True:
            try:
                message = await self._line.recv()
            except LineLost as lost:
                self._end(lost)
            if not (self._pings and isinstance(message, str) and self._is_pong(message)):
                return message

    async def ping(self) -> Awaitable[float]:
        """Send a ping; what is returned gives the seconds until the pong comes."""
        loop = asyncio.get_running_loop()
        name = next(self._names)
        pong: asyncio.Future[float] = loop.create_future()
        self._pings[name] = loop.time(), pong
        await self.send(msgspec.json.encode({"type": "$ping", "id": name}).decode())
        return pong

    def _is_pong(self, message: str) -> bool:
        try:
            answer = _read(message)
        except msgspec.DecodeError:
            return False
        waiting = self._pings.pop(str(answer.id), None) if answer.type == "$pong" else None
        if waiting is None:
            return False
        since, pong = waiting
        if not pong.done():
            pong.set_result(asyncio.get_running_loop().time() - since)
        return True

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the line, or let go of it once `close_timeout` is over."""
        if self._closing is not None:
            return
        self._closing = Close(code, reason)
        answered = True
        try:
            async with asyncio.timeout(self.close_timeout):
                await self._line.close(code, reason)
        except TimeoutError:
            answered = False
            await self._line.close(CloseCode.ABNORMAL)
        finally:
            if self._closed is None:
                closing = self._closing
                received, order = (closing, False) if answered else (None, None)
                self._closed = ConnectionClosedError(received, closing, order)
            for _, pong in self._pings.values():
                pong.cancel()

    def _end(self, lost: LineLost) -> NoReturn:
        if self._closed is None:
            if self._closing is not None:
                # Whatever it says of its end, it was asked for it.
                raise ConnectionClosedError(None, self._closing, None) from lost
            received = None if lost.code == CloseCode.ABNORMAL else Close(lost.code, lost.reason)
            self._closed = ConnectionClosedError(received, None, None)
        raise self._closed from lost
