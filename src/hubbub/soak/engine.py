"""The broker of a soak: one that runs already, or a private one that the soak may take away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import SplitResult, urlsplit

from ..brokers import open_broker
from ..brokers.base import Guarantees
from ..errors import ConfigurationError
from ..settings import Settings
from ..testing.faults import FaultProxy
from ..testing.servers import Server

PRIVATE = ("redis", "rabbitmq", "nats")
"""Names of brokers that a soak starts for itself."""
PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "nats": 4222, "tls": 4222}
"""Where brokers are if their URL does not say so, for each scheme that means one server."""


@asynccontextmanager
async def private_engine(name: str) -> AsyncIterator[tuple[Server, str]]:
    """Have a private broker run until the block ends, which its data do not outlive; its URL is told, too.

    Raises :exc:`ConfigurationError` if it is not installed.
    """
    # Only here: a soak on one broker needs nothing of the others.
    server: Server
    if name == "redis":
        from ..testing.servers.redis import RedisServer

        server = RedisServer()
    elif name == "rabbitmq":
        from ..testing.servers.rabbitmq import RabbitServer

        server = RabbitServer()
    else:
        from ..testing.servers.nats import NatsServer

        server = NatsServer()
    async with server:
        yield server, server.url


def guarantees(url: str) -> Guarantees:
    """Return what a broker gives; :exc:`ConfigurationError` if there is none for this URL."""
    return open_broker(Settings(broker=url)).guarantees


def link(url: str) -> FaultProxy:
    """Return a proxy to the broker at a URL, through which one instance can be cut from it.

    Raises :exc:`ConfigurationError` for a broker of several servers: they tell the instance of each other.
    """
    split = urlsplit(url)
    port = PORTS.get(split.scheme)
    if port is None or "," in split.netloc or split.hostname is None:
        raise ConfigurationError(
            "Instances can be cut from a broker only if it is one server: not from a cluster or sentinels."
        )
    return FaultProxy(split.hostname, split.port or port)


def through(proxy: FaultProxy, url: str) -> str:
    """Return a broker's URL by way of a proxy."""
    split = urlsplit(url)
    login, at, _ = split.netloc.rpartition("@")
    place = SplitResult(
        split.scheme, f"{login}{at}127.0.0.1:{proxy.port}", split.path, split.query, split.fragment
    )
    return place.geturl()
