"""Publishers that don't give up, and what a subscriber must have got of it."""

import asyncio
from contextlib import asynccontextmanager

from hubbub import Unavailable
from hubbub.brokers.base import Broker, Retention
from hubbub.brokers.redis import RedisBroker
from hubbub.testing.brokers import Inbox

KEEP = Retention(100_000, 3600.0)


async def publish_until_done(broker: Broker, room: str, payload: bytes, *, key: str | None = None):
    """Publish, and again with the same key until it is acknowledged; return the position."""
    while True:
        try:
            return await broker.publish(room, payload, sender=None, key=key or payload.decode(), keep=KEEP)
        except Unavailable:
            await asyncio.sleep(0.02)


class Traffic:
    """Publishers, each of which has one message after the other acknowledged."""

    def __init__(self, broker: Broker, rooms: list[str], publishers: int = 5) -> None:
        self.acknowledged: dict[str, dict[bytes, int]] = {room: {} for room in rooms}
        """Of each room, the payloads and the offsets that were told."""
        self._broker = broker
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._publish(rooms[number % len(rooms)], number))
            for number in range(publishers)
        ]

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def _publish(self, room: str, publisher: int) -> None:
        number = 0
        while not self._stopping:
            payload = b"%d/%d" % (publisher, number)
            position = await publish_until_done(self._broker, room, payload)
            self.acknowledged[room][payload] = position.offset
            number += 1
            await asyncio.sleep(0.001)

    async def more(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        wanted = self.count + count
        async with asyncio.timeout(20):
            while self.count < wanted:  # noqa: ASYNC110  # counts have no event
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)

    async def arrived(self, inbox: Inbox) -> None:
        """See that all that was acknowledged arrives, once, in order, and nothing was lost."""
        for room, acknowledged in self.acknowledged.items():
            last = max(acknowledged.values())
            entries = await inbox.entries(room, last)
            offsets = [entry.offset for entry in entries]
            assert offsets == list(range(1, len(offsets) + 1))
            payloads = [entry.payload for entry in entries]
            assert len(set(payloads)) == len(payloads)
            for payload, offset in acknowledged.items():
                assert payloads[offset - 1] == payload
        assert inbox.losses == []


@asynccontextmanager
async def started(*brokers: RedisBroker):
    """Start brokers, each with an inbox; stop them in the end."""
    inboxes = [Inbox() for _ in brokers]
    try:
        for broker, inbox in zip(brokers, inboxes, strict=True):
            await broker.start(inbox)
        yield inboxes
    finally:
        for broker in brokers:
            await broker.stop()


async def until(true) -> None:
    """Look again and again whether it is true."""
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110  # what is looked at has no event
            await asyncio.sleep(0.01)


async def again(ask):
    """Ask until there is an answer."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(0.02)
