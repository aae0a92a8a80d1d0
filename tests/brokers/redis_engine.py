"""The broker on Redis, as the conformance suite wants it."""

import asyncio
import secrets

from hubbub import Settings
from hubbub.brokers.base import Retention
from hubbub.brokers.redis import RedisBroker, open_broker
from hubbub.protocol.envelope import Position
from hubbub.testing.brokers import BrokerConformance, Engine, Inbox, Instance


class HastyBroker(RedisBroker):
    """A broker for which a second of a message's age is shorter."""

    second = 1.0

    async def publish(
        self, room: str, payload: bytes, *, sender: str | None, key: str | None, keep: Retention | None
    ) -> Position:
        if keep is not None:
            keep = Retention(keep.count, keep.age * self.second)
        return await super().publish(room, payload, sender=sender, key=key, keep=keep)


def opened(url: str, *, timeout: float = 5.0, window: float = 300.0, lease: float = 10.0) -> RedisBroker:
    return open_broker(Settings(broker=url, broker_timeout=timeout, deduplication_window=window, lease=lease))


async def crash(broker: RedisBroker) -> None:
    """End a broker as a kill of its process does: nobody is told."""
    rooms, publisher, servers = broker._rooms, broker._publisher, broker._servers
    if rooms is not None:
        await rooms.stop()
    await publisher.stop()
    await servers.stop()


class RedisEngine:
    """Instances on a running Redis, with a prefix of their own; a second lasts `second` seconds."""

    window = 10.0
    lease = 10.0

    def __init__(self, url: str, second: float = 0.1) -> None:
        self.url = f"{url}{'&' if '?' in url else '?'}prefix={secrets.token_hex(6)}"
        self.second = second
        self.instances: list[Instance] = []

    async def open(self) -> Instance:
        broker = opened(self.url, window=self.window * self.second, lease=self.lease * self.second)
        broker.__class__ = type("Hasty", (HastyBroker,), {"second": self.second})
        inbox = Inbox()
        await broker.start(inbox)
        instance = Instance(broker.instance, broker, inbox)
        self.instances.append(instance)
        return instance

    async def crash(self, instance: Instance) -> None:
        self.instances.remove(instance)
        await crash(instance.broker)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.second)

    async def close(self) -> None:
        for instance in self.instances:
            await instance.broker.stop()


class RedisConformance(BrokerConformance):
    """The contract on the Redis at `url`, where time really passes; inherit, and say where that is."""

    url: str

    def make_engine(self) -> RedisEngine:
        return RedisEngine(self.url)

    async def test_messages_older_than_their_age_are_gone(self, engine: Engine, one: Instance) -> None:
        """As in the suite, with shorter seconds: it takes 180 of them."""
        engine.second = type(one.broker).second = 0.02
        await super().test_messages_older_than_their_age_are_gone(engine, one)

    async def test_no_position_is_given_twice_when_all_instances_were_killed(
        self, engine: Engine, durable: Engine
    ) -> None:
        """As in the suite, with shorter seconds: it takes an hour of them."""
        engine.second = 0.001
        await super().test_no_position_is_given_twice_when_all_instances_were_killed(durable)
