"""Publishes: all that come in one turn of the event loop and lie on one server are one step there."""

import asyncio
from typing import NamedTuple

from redis.exceptions import ResponseError

from ...errors import Unavailable
from ...observe.log import fields, logger
from ...protocol.envelope import Position
from ..base import Retention
from .messages import body_of
from .names import RoomNames
from .replies import Reply
from .scripts import PUBLISH
from .servers import Servers

TOGETHER = 64
"""Messages that are published in one step, at most: Redis does nothing else meanwhile."""
BYTES_TOGETHER = 1024 * 1024
AT_ONCE = 4
"""Steps that are under way at once, at most."""
WAITING, BYTES_WAITING = 10_000, 64 * 1024 * 1024
"""Messages that may wait or be under way, and bytes of them, before further ones are refused."""
MOST_COUNT, MOST_AGE = 10**9, 10**12
"""Larger retentions say no more: messages, and milliseconds."""


class _Message(NamedTuple):
    keys: tuple[bytes, bytes, bytes]
    arguments: tuple[bytes, bytes, bytes]
    published: "asyncio.Future[Position]"


class Publisher:
    """Publishes to all rooms; to those of one slot, or without a cluster to all, in order."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._lanes: dict[int, _Lane] = {}
        self.waiting = 0
        self.bytes = 0

    def publish(
        self, room: RoomNames, payload: bytes, sender: str | None, key: str | None, keep: Retention | None
    ) -> "asyncio.Future[Position]":
        """Have a message published (see :meth:`hubbub.brokers.base.Broker.publish`)."""
        slot = room.slot if self._servers.is_cluster else 0
        # Fails at once where that is known.
        self._servers.of(slot).commands  # noqa: B018
        body = body_of(payload, sender)
        if self.waiting >= WAITING or (self.waiting and self.bytes + len(body) > BYTES_WAITING):
            raise Unavailable("Too many messages wait for Redis.")
        count = age = b""
        if keep is not None:
            count = b"%d" % max(0, min(keep.count, MOST_COUNT))
            age = b"%d" % max(0, min(keep.age * 1000, MOST_AGE))
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        seen = room.head if key is None else room.seen(key)
        lane = self._lanes.get(slot)
        if lane is None:
            lane = self._lanes[slot] = _Lane(self, self._servers, slot)
        self.waiting += 1
        self.bytes += len(body)
        lane.add(_Message((room.head, room.log, seen), (body, count, age), future))
        return future

    async def stop(self) -> None:
        """Give up what is under way."""
        await asyncio.gather(*(lane.stop() for lane in list(self._lanes.values())))

    def took(self, messages: list["_Message"]) -> None:
        """Take note that messages wait no more."""
        self.waiting -= len(messages)
        self.bytes -= sum(len(message.arguments[0]) for message in messages)

    def forget(self, slot: int) -> None:
        """Take note that nothing waits for a slot."""
        self._lanes.pop(slot, None)


class _Lane:
    """What is published to one slot."""

    __slots__ = ("_publisher", "_scheduled", "_servers", "_slot", "_steps", "_waiting")

    def __init__(self, publisher: Publisher, servers: Servers, slot: int) -> None:
        self._publisher = publisher
        self._servers = servers
        self._slot = slot
        self._waiting: list[_Message] = []
        self._steps: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def add(self, message: _Message) -> None:
        self._waiting.append(message)
        if not self._scheduled and len(self._steps) < AT_ONCE:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._go)

    async def stop(self) -> None:
        steps = list(self._steps)
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        self._publisher.forget(self._slot)
        self._fail(self._waiting, "The broker is stopped.")
        self._publisher.took(self._waiting)
        self._waiting.clear()

    def _go(self) -> None:
        """Begin as many steps as there may be."""
        self._scheduled = False
        while self._waiting and len(self._steps) < AT_ONCE:
            size = count = 0
            for message in self._waiting:
                size += len(message.arguments[0])
                if count == TOGETHER or (count and size > BYTES_TOGETHER):
                    break
                count += 1
            together = self._waiting[:count]
            del self._waiting[:count]
            step = asyncio.create_task(self._publish(together), name="hubbub: publishing")
            self._steps.add(step)
            step.add_done_callback(self._ended)
        if not self._waiting and not self._steps:
            self._publisher.forget(self._slot)

    def _ended(self, step: "asyncio.Task[None]") -> None:
        self._steps.discard(step)
        if not step.cancelled():
            if (problem := step.exception()) is not None:
                logger.error("error", extra=fields(during="publishing"), exc_info=problem)
            self._go()

    async def _publish(self, messages: list[_Message]) -> None:
        try:
            await self._publish_all(messages)
        finally:
            self._publisher.took(messages)

    async def _publish_all(self, messages: list[_Message]) -> None:
        messages = [message for message in messages if not message.published.done()]
        if not messages:
            return
        keys: list[bytes] = []
        arguments: list[bytes] = []
        for message in messages:
            keys += message.keys
            arguments += message.arguments
        answers: list[Reply]
        try:
            reply = await self._servers.room_step(self._slot, PUBLISH, keys, arguments)
            answers = reply if isinstance(reply, list) else []
            if len(answers) != len(messages):
                raise Unavailable("Redis gave no answer that can be read.")
        except Unavailable as problem:
            self._fail(messages, str(problem))
            return
        except BaseException:
            # What it was is seen by who asked for the step to be ended, or by the log.
            self._fail(messages, "The broker is stopped.")
            raise
        for message, answer in zip(messages, answers, strict=True):
            if message.published.done():
                continue
            try:
                message.published.set_result(position_of(answer))
            except ValueError:
                said = str(answer)[:100] if isinstance(answer, ResponseError) else "its answer is unreadable"
                if said.startswith(("STALE ", "READONLY ")):
                    self._servers.look(self._slot)
                self._fail([message], f"Redis could not do it: {said}")

    def _fail(self, messages: list[_Message], why: str) -> None:
        for message in messages:
            if not message.published.done():
                message.published.set_exception(Unavailable(why))
                # Whoever gave up waiting does not look.
                message.published.exception()


def position_of(answer: Reply) -> Position:
    """Return the position that a step answers with; `ValueError` if it does not."""
    if not isinstance(answer, bytes):
        raise ValueError("no position")
    epoch, offset = answer.split(b" ")
    return Position(epoch.decode("ascii"), int(offset))


def positions_of(reply: Reply, count: int) -> list[Position | None]:
    """Return the positions that a step answers with for several rooms, None where it does not."""
    if not isinstance(reply, list) or len(reply) != count:
        return [None] * count
    return [position_of(answer) for answer in reply]
