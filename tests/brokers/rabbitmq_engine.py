"""RabbitMQ, as the conformance suite wants it: one private server for all tests, a prefix for each."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from hubbub.brokers.rabbitmq import RabbitBroker
from hubbub.brokers.rabbitmq.address import parse
from hubbub.testing.brokers import Inbox, Instance


@dataclass
class Clock:
    """What time it is for every instance: the real time, and what a test let pass."""

    passed: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.passed


class RabbitEngine:
    """A log of its own on a server, and the hand on its instances' clock."""

    window = 20.5
    lease = 10.0

    def __init__(self, url: Callable[..., str], *, timeout: float = 10.0, **query: object) -> None:
        self.prefix = f"test-{secrets.token_hex(6)}"
        self.url = url
        self.query = query
        self.timeout = timeout
        self.clock = Clock()
        self.instances: list[Instance] = []

    def make_broker(self, **query: object) -> RabbitBroker:
        name = secrets.token_hex(6)
        url = self.url(**{"prefix": self.prefix, **self.query, **query})
        return RabbitBroker(
            parse(url, heartbeat=10, name=name),
            instance=name,
            window=self.window,
            lease=self.lease,
            timeout=self.timeout,
            clock=self.clock,
        )

    async def open(self, **query: object) -> Instance:
        broker, inbox = self.make_broker(**query), Inbox()
        instance = Instance(broker.instance, broker, inbox)
        self.instances.append(instance)
        await broker.start(inbox)
        return instance

    async def crash(self, instance: Instance) -> None:
        self.instances.remove(instance)
        await instance.broker.abandon()

    async def pass_time(self, seconds: float) -> None:
        # All that was said before is heard before.
        for instance in self.instances:
            if instance.broker.available:
                await instance.broker.instances()
        self.clock.passed += seconds

    async def close(self) -> None:
        for instance in self.instances:
            await instance.broker.stop()
