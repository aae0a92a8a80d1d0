"""Long polling: each response has the messages that there were, and the next request acknowledges them."""

import asyncio

import aiohttp
import msgspec

from ...protocol.codecs import UNREADABLE
from ...protocol.codes import CloseCode
from ..handshake import seconds_of
from ..line import LineLost, NotConnected
from .carrying import HTTPLine
from .channel import PROBLEMS, Channel, said
from .posting import LINE

RECEIVED = "Hubbub-Received"
ACCEPT = "application/json"

AGAIN = frozenset({204, 503})
"""Statuses of a poll that is made again: another has followed it, or the line can't be reached for now."""

AGAIN_AFTER = 0.5
"""Seconds between two polls that are answered so, but for the first, if the server does not say."""

MOST_AFTER = 5.0
"""Seconds that the server can have the next poll wait."""

AWAY_FOR = 60.0
"""Seconds for which polls may be answered so. Who watches for silence mostly gives the line up sooner."""

MORE_THAN_ONE = 4 * 2**20
"""Bytes of other messages that may come together with a largest one."""


class _Answer(msgspec.Struct):
    received: int
    messages: list[msgspec.Raw] = []


_read = msgspec.json.Decoder(_Answer).decode


class PollingLine(HTTPLine):
    """A line whose messages are polled for; `max_size` is the most bytes of one, None is without a limit.

    A poll is made when a message is wanted and none is there. One that is cancelled has acknowledged nothing
    new, and what it would have brought comes with the next one.
    """

    def __init__(
        self, name: str, channel: Channel, response: aiohttp.ClientResponse, max_size: int | None
    ) -> None:
        super().__init__(name, channel)
        self._max_size = max_size
        self._first: aiohttp.ClientResponse | None = response
        self._received = 0
        self._poll: asyncio.Timeout | None = None
        """What ends the poll that is under way."""

    async def _more(self) -> None:
        try:
            async with asyncio.timeout(None) as self._poll:
                body = await self._answer()
        except NotConnected as problem:
            raise LineLost(CloseCode.ABNORMAL, problem.reason) from None
        except PROBLEMS as problem:
            raise LineLost(CloseCode.ABNORMAL, f"a poll failed: {said(problem)}") from None
        finally:
            self._poll = None
        self.heard_at = self._loop.time()
        try:
            answer = _read(body)
            messages = [bytes(message).decode() for message in answer.messages]
        except UNREADABLE:
            raise LineLost(CloseCode.PROTOCOL_ERROR, "a poll's answer can't be understood") from None
        if self._max_size is not None and any(len(message) > self._max_size for message in messages):
            raise LineLost(CloseCode.MESSAGE_TOO_BIG, "a message is larger than `max_size`")
        self._received = answer.received
        self._messages += messages

    def _hang_up(self) -> None:
        if self._poll is not None:
            self._poll.reschedule(self._loop.time())

    async def _answer(self) -> bytes:
        headers = {"Accept": ACCEPT, LINE: self._token, RECEIVED: str(self._received)}
        until = self._loop.time() + AWAY_FOR
        pause = 0.0
        while True:
            first, self._first = self._first, None
            async with first or await self._channel.request("GET", headers) as response:
                if response.status == 200:
                    return await self._body(response)
                status, after = response.status, seconds_of(response.headers.get("Retry-After", ""))
            if status not in AGAIN or self._loop.time() >= until:
                raise LineLost(CloseCode.ABNORMAL, f"a poll was answered with HTTP {status}")
            # At once the first time: a poll that was cancelled has come behind this one, and taken its place.
            await asyncio.sleep(min(after, MOST_AFTER) or pause)
            pause = AGAIN_AFTER

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        chunks: list[bytes] = []
        room = None if self._max_size is None else self._max_size + MORE_THAN_ONE
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            if room is not None:
                room -= len(chunk)
                if room < 0:
                    raise LineLost(CloseCode.MESSAGE_TOO_BIG, "a poll's answer is too large")
        return b"".join(chunks)
