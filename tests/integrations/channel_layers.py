"""Channel layers to be held against the specification: hubbub's on each broker, and Channels' own."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.layers import BaseChannelLayer, InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer

from hubbub.integrations.channels import HubbubChannelLayer
from hubbub.testing.servers.nats import NatsServer
from hubbub.testing.servers.rabbitmq import RabbitServer
from hubbub.testing.servers.redis import RedisServer

Make = Callable[..., BaseChannelLayer]
"""Makes one process's layer; several share what processes can share."""


@dataclass
class Kind:
    """What a layer is like beyond what the specification asks of all."""

    name: str
    shared: bool = False
    """Whether several processes can take part."""
    virtual: bool = True
    """Whether all channels with the same non-local part share their capacity and their receiver."""
    times: bool = True
    """Whether its times can be moved."""
    once: bool = True
    """Whether what one process received can't come to another again."""
    types: bool = True
    """Whether it refuses what no message may have."""


KINDS = {
    "memory": Kind("memory"),
    "sqlite": Kind("sqlite"),
    "redis": Kind("redis", shared=True),
    "nats": Kind("nats", shared=True),
    "rabbitmq": Kind("rabbitmq", shared=True),
    "Channels in memory": Kind("Channels in memory", virtual=False, types=False),
    "channels_redis": Kind(
        "channels_redis", shared=True, virtual=False, times=False, once=False, types=False
    ),
}


class Layers:
    """Makes layers of a kind, and closes them."""

    def __init__(self, kind: Kind, make: Make, end: Callable[[Any], Awaitable[None]]) -> None:
        self.kind = kind
        self._make = make
        self._end = end
        self._made: list[BaseChannelLayer] = []

    def __call__(self, **options: Any) -> BaseChannelLayer:
        layer = self._make(**{"capacity": 3, **options})
        self._made.append(layer)
        return layer

    async def end(self) -> None:
        for layer in self._made:
            await self._end(layer)


async def _close(layer: Any) -> None:
    await layer.close()


async def _close_pools(layer: Any) -> None:
    await layer.close_pools()


async def _nothing(layer: Any) -> None:
    pass


@asynccontextmanager
async def layers_of(name: str, directory: Path) -> AsyncIterator[Layers]:
    """Yield what makes layers of a kind, with a server of its own."""
    kind = KINDS[name]
    async with AsyncExitStack() as stack:
        if name == "Channels in memory":
            layers = Layers(kind, InMemoryChannelLayer, _nothing)
        elif name == "channels_redis":
            redis = await stack.enter_async_context(RedisServer())
            layers = Layers(kind, lambda **options: RedisChannelLayer([redis.url], **options), _close_pools)
        else:
            url = {"memory": "memory://", "sqlite": f"sqlite:////{directory / 'rooms.db'}"}.get(name)
            if url is None:
                server: Any = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}[name]
                url = (await stack.enter_async_context(server())).url
            layers = Layers(kind, lambda **options: HubbubChannelLayer(url, **options), _close)
        try:
            yield layers
        finally:
            await layers.end()


class Later:
    """Stands for the module `time` where a layer asks for the time, which a test can move."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.offset
