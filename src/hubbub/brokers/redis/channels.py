"""The connection over which messages come: sharded Pub/Sub."""

import asyncio
from collections import deque
from typing import NamedTuple, Protocol

from redis.exceptions import ResponseError

from ...errors import Unavailable
from .address import Address, Place
from .line import Line, all_of, packed
from .replies import Reply


class Listener(Protocol):
    """What takes the messages."""

    channel: bytes
    """One that is listened to in any case."""

    def message(self, channel: bytes, data: bytes) -> None:
        """Take what was published on a channel."""

    def let_go(self, channel: bytes) -> None:
        """Take note that the server listens to a channel no more for us: its slot has moved."""


class _Asked(NamedTuple):
    channel: bytes
    future: "asyncio.Future[ResponseError | None] | None"
    at: float


class Channels(Line):
    """A line on which a server sends what is published on channels.

    It is asked for a sign of life twice in each `timeout` seconds; without one, the line is broken.
    """

    def __init__(self, address: Address, place: Place, timeout: float, listener: Listener) -> None:
        super().__init__(address, place)
        self._timeout = timeout
        self.listener = listener
        self._asked: deque[_Asked] = deque()
        self._broken = False

    def subscribe(self, channel: bytes) -> "asyncio.Future[ResponseError | None]":
        """Listen to a channel from when the result is there on; it is an error if the server refuses.

        :exc:`Unavailable` if the line breaks.
        """
        if self._broken:
            raise Unavailable("The connection to Redis was lost.")
        future: asyncio.Future[ResponseError | None] = asyncio.get_running_loop().create_future()
        self._ask(channel, future, b"SSUBSCRIBE", channel)
        return future

    def unsubscribe(self, channel: bytes) -> None:
        """Listen to a channel no more."""
        if not self._broken:
            self._ask(channel, None, b"SUNSUBSCRIBE", channel)

    async def run(self) -> None:
        """Take messages until the line breaks; always ends with an exception."""
        try:
            await all_of(super().run(), self._watch())
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Tell all who wait that they will not hear anything."""
        self._broken = True
        while self._asked:
            future = self._asked.popleft().future
            if future is not None and not future.done():
                future.set_exception(Unavailable("The connection to Redis was lost."))
                # Whoever gave up waiting does not look.
                future.exception()

    def take(self, replies: list[Reply]) -> None:
        """Hand over messages, and answers to who asked."""
        message = self.listener.message
        for reply in replies:
            if isinstance(reply, list) and reply:
                kind = reply[0]
                channel = reply[1] if len(reply) > 1 else None
                if kind == b"smessage" and isinstance(channel, bytes) and isinstance(reply[2], bytes):
                    message(channel, reply[2])
                elif kind == b"sunsubscribe":
                    if self._asked and self._asked[0][:2] == (channel, None):
                        self._asked.popleft()
                    elif isinstance(channel, bytes):
                        self.listener.let_go(channel)
                elif kind in (b"ssubscribe", b"pong"):
                    self._answered(None)
            elif isinstance(reply, ResponseError):
                self._answered(reply)
            elif reply == b"PONG":
                self._answered(None)

    def _answered(self, result: ResponseError | None) -> None:
        future = self._asked.popleft().future
        if future is not None and not future.done():
            future.set_result(result)

    def _ask(
        self, channel: bytes, future: "asyncio.Future[ResponseError | None] | None", *words: bytes
    ) -> None:
        self._asked.append(_Asked(channel, future, asyncio.get_running_loop().time()))
        self.send(packed(words))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._ask(b"", None, b"PING")
            await asyncio.sleep(self._timeout / 2)
            if self._asked and loop.time() - self._asked[0].at > self._timeout:
                raise TimeoutError(f"It gave no sign of life within {self._timeout:g} seconds.")
