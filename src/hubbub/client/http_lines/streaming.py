"""A response that goes on: Server-Sent Events, or a line for each message."""

import aiohttp

from ...protocol.codes import CloseCode
from ..line import LineLost
from .carrying import HTTPLine
from .channel import PROBLEMS, Channel, said
from .parsing import Parser, TooLarge


class StreamingLine(HTTPLine):
    """A line whose messages come in one response; whatever comes in it is a sign of life."""

    def __init__(self, name: str, channel: Channel, response: aiohttp.ClientResponse, parser: Parser) -> None:
        super().__init__(name, channel)
        self._response = response
        self._parser = parser

    async def _more(self) -> None:
        try:
            chunk = await self._response.content.readany()
            if not chunk:
                raise LineLost(CloseCode.ABNORMAL, "the response has ended")
            self.heard_at = self._loop.time()
            self._messages += self._parser.feed(chunk)
        except PROBLEMS as problem:
            raise LineLost(CloseCode.ABNORMAL, said(problem)) from None
        except TooLarge:
            raise LineLost(CloseCode.MESSAGE_TOO_BIG, "a message is larger than `max_size`") from None
        except UnicodeDecodeError:
            raise LineLost(CloseCode.INVALID_DATA, "a message is no UTF-8") from None

    def _hang_up(self) -> None:
        self._response.close()
