import secrets

from hubbub.brokers.nats import NatsBroker, read
from hubbub.testing.brokers import Inbox, Instance


class NatsEngine:
    """Instances on one server; a prefix keeps tests apart. Time is the driver's, and can be moved."""

    window = 20.0
    lease = 10.0

    def __init__(self, server, *, timeout=5.0, clock=True, url=None, **query):
        self.server = server
        self.now = 1_000_000.0
        self.timeout = timeout
        self.prefix = f"test{secrets.token_hex(5)}"
        self.instances = []
        self.moves = clock
        self.query = {"max_bytes": 2**24, **query}
        self.url = url

    def make(self, **other):
        url = self.url or self.server.broker(**{"prefix": self.prefix, **self.query})
        settings = {"timeout": self.timeout, "window": self.window, "lease": self.lease, **other}
        return NatsBroker(read(url), clock=(lambda: self.now) if self.moves else None, **settings)

    async def open(self, **other):
        broker, inbox = self.make(**other), Inbox()
        await broker.start(inbox)
        self.instances.append(Instance(broker.instance, broker, inbox))
        return self.instances[-1]

    async def crash(self, instance):
        self.instances.remove(instance)
        broker = instance.broker
        broker._watch.cancel()
        await broker._log.stop()
        await broker._line.close()
        broker._started = False

    async def pass_time(self, seconds):
        self.now += seconds

    async def close(self):
        for instance in self.instances:
            await instance.broker.stop()
