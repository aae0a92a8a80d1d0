"""Django Channels on uvicorn, with the layer in memory: one process, as for the others.

Across instances it has a layer of channels_redis.
"""

import sys

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

from benchmarks import asgi
from benchmarks.by_path import ECHO, FANOUT, JOINED
from benchmarks.peers import Across, Held, Line, Peer

IN_MEMORY: dict[str, object] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
QUEUES = "channels_redis.core.RedisChannelLayer"
"""Its default, which is slower at this: the peer `queues` has it."""

peer = Peer(
    name="channels",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=ECHO,
    fanout=FANOUT,  # but no rooms: its layer in memory looks through all channels for each message received
    across=Across(
        lambda port, url: [sys.executable, "-m", __name__, str(port), "plain", PUBSUB, url], FANOUT
    ),
    held=Held(Line("/enter"), lambda number: b"%d" % number, JOINED),
    packages=("channels", "channels_redis", "redis", "django", "uvicorn", "uvloop", "websockets"),
)


class Echoer(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data, bytes_data)


class Subscriber(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.group = f"room.{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send(JOINED.decode())

    async def disconnect(self, code: int) -> None:  # noqa: ARG002  # what a consumer is given
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def say(self, event: dict[str, str]) -> None:
        await self.send(event["text"])


class Publisher(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.group = f"room.{self.scope['url_route']['kwargs']['room']}"
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:  # noqa: ARG002
        await self.channel_layer.group_send(self.group, {"type": "say", "text": text_data})


class Enterer(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:  # noqa: ARG002
        await self.channel_layer.group_add(f"room.{text_data}", self.channel_name)
        await self.send(JOINED.decode())

    async def say(self, event: dict[str, str]) -> None:
        await self.send(event["text"])


def main(port: int, *, compression: bool, layer: dict[str, object]) -> None:
    settings.configure(
        CHANNEL_LAYERS={"default": layer},
        LOGGING_CONFIG=None,
    )
    django.setup()
    routes = [
        path("echo", Echoer.as_asgi()),
        path("subscribe/<room>", Subscriber.as_asgi()),
        path("publish/<room>", Publisher.as_asgi()),
        path("enter", Enterer.as_asgi()),
    ]
    asgi.serve(ProtocolTypeRouter({"websocket": URLRouter(routes)}), port, compression=compression)


if __name__ == "__main__":
    port, compression, *shared = sys.argv[1:]
    main(
        int(port),
        compression=compression == "deflate",
        layer={"BACKEND": shared[0], "CONFIG": {"hosts": [{"address": shared[1], "socket_timeout": None}]}}
        if shared
        else IN_MEMORY,
    )
