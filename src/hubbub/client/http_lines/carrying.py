"""A line over HTTP: what is the same for all of them, whatever way messages come down."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress

import msgspec

from ...protocol.codecs import JSON, UNREADABLE
from ...protocol.codes import CloseCode
from ..line import LineLost, NotConnected
from .channel import PROBLEMS, Channel
from .posting import LINE, Posting

CLOSES_WITHIN = 5.0
"""Seconds that the server has to take what was sent, and to be told that the line ends."""

EXPLAINS_WITHIN = 2.0
"""Seconds that the server has, when it no longer takes what is sent, to say why the line has ended."""


class _Opened(msgspec.Struct):
    line: str


class _Closing(msgspec.Struct):
    code: int = int(CloseCode.NO_STATUS)
    reason: str = ""


class _Own(msgspec.Struct):
    """A message of the line's own, or any other."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"{}")


_read = msgspec.json.Decoder(_Own).decode
_read_opened = msgspec.json.Decoder(_Opened).decode
_read_closing = msgspec.json.Decoder(_Closing).decode


class HTTPLine(ABC):
    """A line that is open once :meth:`begin` has returned.

    The session reads; nothing else does. So a slow session slows the server down, and the line needs no task
    but the one that posts.
    """

    subprotocol: str | None = JSON.subprotocol

    def __init__(self, name: str, channel: Channel) -> None:
        self.name = name
        self.heard_at = 0.0
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._messages: deque[str] = deque()
        """Messages that have come and were not taken."""
        self._lost: LineLost | None = None
        self._refused: LineLost | None = None
        """How the line ends if the server does not say it better: something could not be sent."""
        self._ended = asyncio.Event()
        self._impatience: asyncio.TimerHandle | None = None
        self._closed = False
        self._token = ""
        self._posting: Posting

    async def begin(self) -> None:
        """Wait until the server names the line.

        Raises :exc:`NotConnected` if it does not, and :data:`PROBLEMS`.
        """
        try:
            while not self._messages:
                await self._more()
            own = _read(self._messages.popleft())
            if own.type != "$line":
                raise NotConnected(f"the server began a line with {own.type}", comes_back=False)
            self._token = _read_opened(own.data).line
        except LineLost as lost:
            raise NotConnected(f"the line ended before it began: {lost}") from None
        except UNREADABLE:
            raise NotConnected("the server can't be understood", comes_back=False) from None
        self._posting = Posting(self._channel, self._token, self._fail)

    @abstractmethod
    async def _more(self) -> None:
        """Wait for more, and have it in `_messages`; :exc:`LineLost` if there is none."""

    @abstractmethod
    def _hang_up(self) -> None:
        """Wait for nothing more: :meth:`_more` ends at once."""

    async def recv(self) -> str | bytes:
        """Return the next message."""
        messages = self._messages
        while not messages:
            if self._lost is not None:
                raise LineLost(self._lost.code, self._lost.reason)
            try:
                await self._more()
            except LineLost as lost:
                self._lose(self._refused or lost)
        message = messages.popleft()
        # Where this is a word of the application's, reading it costs little; and it is not hubbub's.
        if '"$close"' in message and (closing := _closing(message)) is not None:
            self._lose(LineLost(closing.code, closing.reason))
            messages.clear()
            raise LineLost(closing.code, closing.reason)
        return message

    async def send(self, message: str | bytes) -> None:
        """Have a message sent, together with others perhaps; wait while too much waits."""
        if isinstance(message, bytes):
            raise TypeError("Lines over HTTP carry text.")
        if self._refused is None and self._lost is None:
            await self._posting.send(message)
        if self._refused is not None and self._lost is None:
            # Whoever receives is told the server's reason, if it has one.
            await self._ended.wait()
        if self._lost is not None:
            raise LineLost(self._lost.code, self._lost.reason)

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send what waits, and tell the server that the line ends; with 1006 do neither."""
        if self._closed:
            return
        self._closed = True
        well = self._lost is None and self._refused is None and code != CloseCode.ABNORMAL
        try:
            if well:
                with suppress(TimeoutError, NotConnected, *PROBLEMS):
                    async with asyncio.timeout(CLOSES_WITHIN):
                        await self._posting.flush()
                        async with await self._channel.request("DELETE", {LINE: self._token}):
                            pass
        finally:
            self._lose(LineLost(code if well else CloseCode.ABNORMAL, reason))
            try:
                await self._posting.stop()
            finally:
                await self._channel.close()

    def _fail(self, lost: LineLost, answered: bool) -> None:
        """Take that something could not be sent; a server that has answered has a moment to say why."""
        self._refused = lost
        if not answered:
            self._lose(lost)
        elif self._lost is None:
            self._impatience = self._loop.call_later(EXPLAINS_WITHIN, self._lose, lost)

    def _lose(self, lost: LineLost) -> None:
        if self._lost is None:
            self._lost = lost
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        self._hang_up()
        self._ended.set()


def _closing(message: str) -> _Closing | None:
    """Return what a message says of the line's end; None if it is another message."""
    try:
        own = _read(message)
        return _read_closing(own.data) if own.type == "$close" else None
    except UNREADABLE:
        return None  # whoever takes the message says what is wrong with it
